"""categories

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22 16:58:41.277829

"""
from typing import Sequence, Union

import sqlalchemy as sa
from rlskit.alembic import op


# revision identifiers, used by Alembic.
revision: str = '0002'
down_revision: Union[str, Sequence[str], None] = '0001'
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None

category = sa.table('category', sa.column('name'))


def upgrade() -> None:
    """Nobody but a migration writes categories, and row security binds its login too: it is lifted for the moment."""
    with op.rls_suspended('category'):
        op.bulk_insert(category, [{'name': 'errand'}, {'name': 'home'}, {'name': 'work'}])


def downgrade() -> None:
    """Todos of these categories stay, without one."""
    with op.rls_suspended('category'):
        op.execute(category.delete())
