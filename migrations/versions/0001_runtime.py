"""What the generated policies, defaults and triggers rest on."""

from __future__ import annotations

from collections.abc import Callable

revision = "0001"
down_revision: str | None = None


def upgrade(run: Callable[[str], None], afterwards: list[str]) -> None:
    run("upgrade/0001_runtime.sql")


def downgrade(run: Callable[[str], None], afterwards: list[str]) -> None:
    """Everything goes, ``rlskit.version`` too, from which Alembic has yet to strike this revision; so it goes after that."""
    afterwards.append("uninstall.sql")
