"""The access matrix as parameters of a test: pytest's door to it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlskit.errors import RlskitError
from rlskit.names import QualifiedName
from rlskit.prover.rehearsal import Values
from rlskit.testing.cases import cases
from rlskit.testing.factories import RulesSource, loaded


def rls_matrix(rules: RulesSource, *tables: str | QualifiedName, values: Values | None = None) -> pytest.MarkDecorator:
    """Make a test of each cell of the access matrix, ``todo-update-stranger``: the test takes it as ``cell``, and has the database prove it.

    ::

        @rls_matrix("rlskit.toml")
        def test_access(cell, rlskit_db):
            rlskit_db.prove(cell)

    ``rules`` are those of the database, as ``rlskit.testing.database`` takes them; ``tables`` are those to prove, without them all that have rules.
    ``values`` say what cannot be made up for required columns: table -> column -> text. Without a cell there is an error when tests are collected.
    """
    return pytest.mark.rlskit_matrix.with_args(rules, *tables, values=values)


def parametrize(metafunc: pytest.Metafunc, marks: Sequence[pytest.Mark]) -> None:
    """Give a marked test its cells, by name: the same in every worker, and without a database. Raises CollectError with what is wrong."""
    if len(marks) > 1:
        raise pytest.Collector.CollectError(
            "rls_matrix: it stands here more than once\nhint: name all tables in one, or write a test for each"
        )
    (mark,) = marks
    source, *tables = mark.args
    try:
        found = cases(loaded(source, metafunc.config.rootpath), *tables, values=mark.kwargs["values"])
    except RlskitError as error:
        raise pytest.Collector.CollectError(f"rls_matrix: {error}") from error
    if "cell" not in metafunc.fixturenames:
        raise pytest.Collector.CollectError(
            f"rls_matrix: {metafunc.function.__name__} does not take the cell\nhint: def test_access(cell, rlskit_db): rlskit_db.prove(cell)"
        )
    # A cell is proved in a copy that all of them share: where nobody asks for another one, none is made.
    said = metafunc.definition.get_closest_marker("rlskit") or any(
        (metafunc.config.getoption("rlskit_isolation"), metafunc.config.getini("rlskit_isolation"))
    )
    isolated = () if said else (pytest.mark.rlskit(isolation="transaction"),)
    metafunc.parametrize("cell", [pytest.param(each, marks=isolated, id=str(each)) for each in found])
