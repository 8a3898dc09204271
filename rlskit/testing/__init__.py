"""The kit for tests of one's own: fixtures that cannot be fooled, and what tests say beside them.

::

    def test_bob_sees_nothing_of_alices(rlskit_db, as_user, assert_cannot):
        row = rlskit_db.insert("todo", content="milk", owner=person("alice"))
        assert_cannot("bob", "read", row)
        with as_user("alice") as conn, denied("permission denied", kind="column"):
            conn.execute("update todo set owner = 'bob'")
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rlskit.testing.expectations import denied, not_visible, person
from rlskit.testing.rows import Row, row

if TYPE_CHECKING:
    from rlskit.testing.cases import MatrixCell
    from rlskit.testing.databases import TestDatabase
    from rlskit.testing.factories import asking, database
    from rlskit.testing.keeper import TestServer
    from rlskit.testing.leaks import assert_no_leak, assert_no_leak_async
    from rlskit.testing.matrix import rls_matrix
    from rlskit.testing.places import Asking

__all__ = [
    "Asking",
    "MatrixCell",
    "Row",
    "TestDatabase",
    "TestServer",
    "asking",
    "assert_no_leak",
    "assert_no_leak_async",
    "database",
    "denied",
    "not_visible",
    "person",
    "rls_matrix",
    "row",
]

# pytest, SQLAlchemy and Hypothesis are imported when something asks for them.
_LAZY = {
    "Asking": "places",
    "MatrixCell": "cases",
    "TestDatabase": "databases",
    "TestServer": "keeper",
    "asking": "factories",
    "assert_no_leak": "leaks",
    "assert_no_leak_async": "leaks",
    "database": "factories",
    "rls_matrix": "matrix",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module `rlskit.testing` has no `{name}`")
    globals()[name] = value = getattr(import_module(f"rlskit.testing.{_LAZY[name]}"), name)
    return value
