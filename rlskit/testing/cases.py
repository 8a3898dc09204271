"""The access matrix as cases for a test suite: one for each table, operation and kind of person, named by the rules alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from rlskit.errors import KitError
from rlskit.names import QualifiedName
from rlskit.prover import people, scenes
from rlskit.prover.cells import Cell
from rlskit.prover.rehearsal import Values, chosen_tables
from rlskit.rules import Rules, TableRules
from rlskit.vocabulary import OPERATIONS, Operation

_AROUND = "around the rules"
_Frozen: TypeAlias = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One test of the matrix: an operation of one kind of person on one table, "todo-update-stranger". ``rlskit_db.prove`` proves it.

    A kind is what the rules alone can tell: "spoofed" are all who pretend to be somebody else, "owner" is the owner in every spelling. Without an
    ``operation`` it is what the database brings besides: the table's owner, whoever bypasses the rules, partitions by their own names.
    """

    rules: Rules = field(repr=False)
    table: QualifiedName
    operation: Operation | None
    person: str
    values: _Frozen = field(default=(), repr=False)

    def __str__(self) -> str:
        table = self.table.name if self.table.schema == self.rules.schema else str(self.table)
        return "-".join(filter(None, [table, self.operation, self.person]))


def cases(rules: Rules, *tables: str | QualifiedName, values: Values | None = None) -> tuple[MatrixCell, ...]:
    """The cases of these tables, without them of all that have rules. ``values`` say what cannot be made up for a column: table -> column -> text.

    Raises PlanError for a table without rules; KitError where there is no case, and so nothing that a test could prove.
    """
    said = _frozen(values or {})
    found = tuple(
        MatrixCell(rules, table.name, operation, person, said)
        for table in chosen_tables(rules, tables)
        for operation, person in (*_asked(table), (None, _AROUND))
    )
    if not found:
        raise KitError(
            "the rules have no table that anybody could be asked about, so the matrix has no cell",
            hint="name the rules of your application, with a table that they do not leave alone",
        )
    return found


def cells_of(case: MatrixCell, found: Iterable[Cell]) -> tuple[Cell, ...]:
    """Of the cells that a proof has for the case's table those that are the case's. Each is some case's; one that could not be asked at all is every case's."""
    (table,) = chosen_tables(case.rules, [case.table])
    asked = {*_asked(table)}
    if case.operation is None:
        return tuple(each for each in found if each.obstacle or (each.operation, _kind(each.person)) not in asked)
    mine = (case.operation, case.person)
    return tuple(
        each
        for each in found
        if each.operation == case.operation and (each.obstacle or (each.operation, _kind(each.person)) == mine)
    )


def _asked(table: TableRules) -> Iterator[tuple[Operation, str]]:
    """What is asked whatever the database is like; the people of the first row are those who create rows as well."""

    def new_cast() -> people.Cast:
        return people.new_cast(scenes.claims_of(table), (), Random(0))  # noqa: S311 - nobody gets to see them

    rows = list(scenes.scenes(table, scenes.namings(table, (), ()), new_cast))
    for operation in OPERATIONS:
        asked = rows[:1] if operation == "create" else rows
        yield from dict.fromkeys((operation, _kind(person.name)) for row in asked for person in row.people)


def _kind(person: str) -> str:
    """The person without what tells him from others of his kind: `owner by …`, `spoofed: …`."""
    return person.partition(" by ")[0].partition(":")[0]


def _frozen(values: Mapping[str, Mapping[str, str]]) -> _Frozen:
    return tuple((table, tuple(sorted(columns.items()))) for table, columns in sorted(values.items()))
