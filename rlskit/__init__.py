"""Owner and multi-owner rules, enforced by PostgreSQL itself.

``import rlskit`` needs psycopg alone. The names read best with the package before them: ``rlskit.plan(conn, rules)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

try:
    import psycopg  # noqa: F401 - asked for first, for the sake of the hint
except ImportError as error:
    raise ImportError("psycopg found no libpq; pip install 'rlskit[binary]' brings one") from error

from rlskit.denials import ColumnDenied, RowDenied, TableDenied, denial, expect_row
from rlskit.errors import NotVisible
from rlskit.gatekeeper import guard
from rlskit.identity import Identity
from rlskit.janitor import check_connection, scrub
from rlskit.rules import Open, Rule, Rules, TableRules, Unmanaged, allow
from rlskit.session import as_nobody, as_user, bypass
from rlskit.signing import SigningKey

if TYPE_CHECKING:
    from rlskit.compiler import compile
    from rlskit.loader import load
    from rlskit.planner import Plan, plan
    from rlskit.scripter import sql

__all__ = [
    "ColumnDenied",
    "Identity",
    "NotVisible",
    "Open",
    "Plan",
    "RowDenied",
    "Rule",
    "Rules",
    "SigningKey",
    "TableDenied",
    "TableRules",
    "Unmanaged",
    "allow",
    "as_nobody",
    "as_user",
    "bypass",
    "check_connection",
    "compile",
    "denial",
    "expect_row",
    "guard",
    "load",
    "plan",
    "scrub",
    "sql",
]

# An application that only says who is asking never imports what plans and applies.
_PLANNING = {"Plan": "planner", "compile": "compiler", "load": "loader", "plan": "planner", "sql": "scripter"}


def __getattr__(name: str) -> object:
    if name not in _PLANNING:
        raise AttributeError(f"module `rlskit` has no `{name}`")
    globals()[name] = value = getattr(import_module(f"rlskit.{_PLANNING[name]}"), name)
    return value
