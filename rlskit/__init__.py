"""Owner and multi-owner rules, enforced by PostgreSQL itself.

``import rlskit`` needs psycopg alone. The names read best with the package before them: ``rlskit.plan(conn, rules)``.
"""

from rlskit.compiler import compile
from rlskit.identity import Identity
from rlskit.loader import load
from rlskit.planner import Plan, plan
from rlskit.rules import Open, Rule, Rules, TableRules, Unmanaged, allow
from rlskit.scripter import sql
from rlskit.session import as_nobody, as_user, guard

__all__ = [
    "Identity",
    "Open",
    "Plan",
    "Rule",
    "Rules",
    "TableRules",
    "Unmanaged",
    "allow",
    "as_nobody",
    "as_user",
    "compile",
    "guard",
    "load",
    "plan",
    "sql",
]
