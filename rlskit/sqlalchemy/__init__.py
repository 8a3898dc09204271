"""rlskit for SQLAlchemy: who asks through a session or a connection, and rules beside models.

::

    rlskit.sqlalchemy.guard(engine)                       # once, at start; or a sessionmaker, or what is async
    with Session() as session:
        rlskit.sqlalchemy.set_identity(session, alice)    # once for each session; asks no database
        session.scalars(select(Todo)).all()               # alice's

    class Todo(Base):
        __tablename__ = "todo"
        __rls__ = allow.owner()

    rules = rlskit.sqlalchemy.rules_from(Base, role="app_user")
"""

from rlskit.sqlalchemy.declarations import column_rules
from rlskit.sqlalchemy.models import rules_from
from rlskit.sqlalchemy.privileges import readable_columns, writable_columns
from rlskit.sqlalchemy.sessions import set_identity, set_nobody
from rlskit.sqlalchemy.watch import guard

__all__ = [
    "column_rules",
    "guard",
    "readable_columns",
    "rules_from",
    "set_identity",
    "set_nobody",
    "writable_columns",
]
