"""Who reaches which rows and columns becomes rules that give exactly that: the compiler, read backwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeVar

from rlskit.compiler import Person
from rlskit.errors import RuleError
from rlskit.facts import TableFacts
from rlskit.rules import Rule, TableRules, allow
from rlskit.vocabulary import OPERATIONS, Operation, Reassign

NAMING: tuple[Operation, ...] = ("create", "read", "update")  # the operations that name columns

People = tuple[Person, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Guard:
    """Columns that only some of those who reach a row may write. ``own`` says that they have rules of their own."""

    operation: Operation
    columns: frozenset[str]
    people: People
    own: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """What a table lets people do: whose rows an operation reaches, in their order, and the columns that it may name in some row."""

    people: Mapping[Operation, People]
    columns: Mapping[Operation, frozenset[str]]
    guards: tuple[Guard, ...] = ()
    reassign: Reassign = "plain"


def derive(facts: TableFacts, reach: Reach, keep: Mapping[str, str]) -> Iterator[TableRules]:
    """Yield rules that may be what gives this reach, those with the fewest column rules first.

    What a table's rules say of columns that all have rules of their own is seen nowhere, so there may be several; the caller has to compile
    them and to compare.
    """
    choices: list[tuple[People, ...]] = []
    for operation in NAMING:
        shared = [each.people for each in reach.guards if each.operation == operation and not each.own]
        people = reach.people.get(operation, ())
        choices.append((shared[0],) if shared else (people, ()) if people else ((),))
    shapes = [
        _Shape(facts, reach, dict(zip(NAMING, each, strict=True)), unseen_are_plain)
        for each in product(*choices)
        for unseen_are_plain in (True, False)
    ]
    for shape in sorted(shapes, key=lambda each: (len(each.ruled), sum(not people for people in each.plain.values()))):
        try:
            columns = {column: shape.rules_of(column) for column in shape.ruled}
            yield TableRules(*shape.table_rules(), columns=columns, reassign=reach.reassign, keep=keep).at(facts.name)
        except (RuleError, _Contradiction):
            continue


class _Contradiction(Exception):
    """Two operations name the same people in orders that no one list has."""


@dataclass(frozen=True)
class _Shape:
    """One way to tell columns with rules of their own from all others; ``plain`` is who may do what to the others.

    ``unseen_are_plain`` takes the columns that no guard would name, generated ones and keys in a new row, for some of the others.
    """

    facts: TableFacts
    reach: Reach
    plain: Mapping[Operation, People]
    unseen_are_plain: bool

    def people(self, operation: Operation, column: str) -> People:
        """Who may do it to the column."""
        if column not in self.reach.columns.get(operation, ()):
            return ()
        guards = [each.people for each in self.reach.guards if each.operation == operation and column in each.columns]
        return guards[0] if guards else self.reach.people.get(operation, ())

    @cached_property
    def ruled(self) -> tuple[str, ...]:
        """The columns that need rules of their own."""
        return tuple(
            column for column in self.facts.columns if any(self._differs(operation, column) for operation in NAMING)
        )

    def _differs(self, operation: Operation, column: str) -> bool:
        guards = [each for each in self.reach.guards if each.operation == operation]
        if any(each.own and column in each.columns for each in guards):
            return True
        if (column in self.reach.columns.get(operation, ())) != bool(self.plain[operation]):
            return True
        about = self.facts.columns[column]
        unseen = self.unseen_are_plain and (about.generated or (about.key and operation == "create"))
        return not unseen and any(not each.own and column not in each.columns for each in guards)

    def table_rules(self) -> list[Rule]:
        """The table's rules, each person once."""
        given = {**self.plain, "delete": self.reach.people.get("delete", ())}
        return _rules(given)

    def rules_of(self, column: str) -> list[Rule]:
        """The rules of one column: the table's with fewer operations where that says it, or else each person's own, or some of both."""
        given = {operation: self.people(operation, column) for operation in NAMING}
        given["delete"] = self.reach.people.get("delete", ())
        shared = [
            operation for operation, people in given.items() if people and people == self.plain.get(operation, people)
        ]
        own = {operation: people for operation, people in given.items() if operation not in shared}
        same = [allow.same().to(shared)] if shared else []
        if not any(own.values()):
            return same
        try:
            return _rules(given)
        except _Contradiction:
            return [*_rules(own), *same]


def _rules(given: Mapping[Operation, People]) -> list[Rule]:
    return [
        Rule(
            "owners" if person.column.many else "owner",
            person.column.name,
            tuple(operation for operation in OPERATIONS if person in given.get(operation, ())),
            person.claim,
            person.spellings,  # type: ignore[arg-type]  # the compiler's are rules' own
        )
        for person in _merged(list(given.values()))
    ]


def _merged(sequences: Sequence[Sequence[T]]) -> list[T]:
    """One list that has each sequence's order, or _Contradiction."""
    left = [list(each) for each in sequences if each]
    merged = []
    while left:
        first = next((each[0] for each in left if all(each[0] not in other[1:] for other in left)), None)
        if first is None:
            raise _Contradiction
        merged.append(first)
        left = [rest for each in left if (rest := [one for one in each if one != first])]
    return merged
