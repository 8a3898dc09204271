"""Alembic: rules beside the models become operations of a revision, and each is a directive of ``op``.

::

    from rlskit.alembic import op                          # in a revision; autogenerate writes the line
    context.configure(connection=…, target_metadata=Base.metadata, rls_rules=rules)   # in env.py

Importing it registers the directives, their text in a revision, and the comparison of ``rls_rules`` with the database. Rules are compared where
``alembic revision --autogenerate`` and ``alembic check`` compare models; a revision is text, and knows nothing of the application's rules.
With ``rls_concurrent_indexes=True`` autogenerate lets the indexes of existing columns be built while others write, before everything else.
"""

import rlskit.alembic.autogenerate
import rlskit.alembic.execution
import rlskit.alembic.rendering  # noqa: F401 - each registers its part
from rlskit.alembic import op

__all__ = ["op"]
