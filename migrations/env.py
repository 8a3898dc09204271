"""Alembic's way to the schema rlskit: one revision for each file of ``sql/upgrade``, counted in ``rlskit.version``.

The application's own ``alembic_version`` stays as it is. The database is said by ``-x url=postgresql://…``, by ``sqlalchemy.url``, or by
a connection in ``config.attributes["connection"]``; ``--sql`` needs none of them. One call of Alembic is one transaction.
"""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url

from rlskit import runtime
from rlskit.alembic.statements import Verbatim


def run(name: str) -> None:
    """Run a file of ``sql/`` in Alembic's transaction, and so without the file's own ``begin`` and ``commit``."""
    context.execute(Verbatim(runtime.inside(runtime.script(name)).removesuffix(";")))


def migrate(connection: Connection | None) -> None:
    """Run the revisions. Each is given ``run``, and the list of files that run when Alembic has written the version down."""
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        version_table="version",
        version_table_schema=runtime.SCHEMA,
    )
    afterwards: list[str] = []
    with context.begin_transaction():
        migration = context.get_context()
        only_looking = migration.opts.get("dont_mutate", False)
        if not only_looking and not migration.get_current_heads():
            # Alembic makes its table before the first file runs.
            context.execute(f"create schema if not exists {runtime.SCHEMA}")
        context.run_migrations(run=run, afterwards=afterwards)
        for name in afterwards:
            run(name)


def url() -> URL:
    """The database, whatever driver its URL names: psycopg is the one that rlskit brings along."""
    said = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option("sqlalchemy.url")
    if not said:
        raise CommandError("which database? say -x url=postgresql://…, or set sqlalchemy.url")
    return make_url(said).set(drivername="postgresql+psycopg")


given: Connection | None = context.config.attributes.get("connection")
if given is not None or context.is_offline_mode():
    migrate(given)
else:
    with create_engine(url(), poolclass=NullPool).connect() as made:
        migrate(made)
