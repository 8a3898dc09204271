"""Alembic's ``op`` with the directives of rlskit in it; ``op.pyi`` says their types."""

from __future__ import annotations

from typing import Any

from alembic import op

import rlskit.alembic.directives  # noqa: F401 - which registers them


def __getattr__(name: str) -> Any:
    return getattr(op, name)


def __dir__() -> list[str]:
    return dir(op)
