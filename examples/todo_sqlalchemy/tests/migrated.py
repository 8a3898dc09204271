"""The database as the revisions leave it: tests see the rules that production will have."""

from __future__ import annotations

from pathlib import Path

import alembic.command
from alembic.config import Config


def migrate(dsn):
    """Run by the kit, once, as the owner of the tables."""
    config = Config()  # without alembic.ini, which would set up logging for the command line
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    config.set_main_option(
        "sqlalchemy.url", dsn.replace("postgresql://", "postgresql+psycopg://", 1).replace("%", "%%")
    )
    alembic.command.upgrade(config, "head")
