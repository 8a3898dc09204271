"""One table with its rules, its shape and the rows that were made: the ground that its cells stand on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rlskit import reference
from rlskit.filler.shapes import Shape
from rlskit.identity import Identity
from rlskit.names import QualifiedName
from rlskit.prover.people import Cast
from rlskit.prover.scenes import Naming, Scene
from rlskit.reference import Decision
from rlskit.rules import TableRules
from rlskit.vocabulary import Operation

# Types whose values are found again by the text that PostgreSQL writes of them.
_COMPARABLE = frozenset({"text", "character varying", "uuid", "smallint", "integer", "bigint", "date"})


@dataclass(frozen=True, slots=True)
class Stored:
    """A scene, and the whole row that was stored for it."""

    scene: Scene
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Ground:
    """One table with its rows: all that its cells are made of.

    ``casts`` are people without a row, one for each way into each owner column, and at least one: they create rows. ``new`` is what a new row has to
    name besides its owners, and ``told_apart`` maps columns to a value that is not their default, for those where that matters.
    ``owner_may_read`` says whether the table's owner has the rules' role as well; ``parts`` are the table's partitions and children.
    """

    rules: TableRules
    shape: Shape
    named: tuple[Naming, ...]
    stored: Sequence[Stored]
    casts: Sequence[Cast]
    new: Mapping[str, Any]
    told_apart: Mapping[str, Any] = field(default_factory=dict)
    uuids: frozenset[str] = frozenset()
    signed: bool = False
    owner_may_read: bool = False
    parts: tuple[QualifiedName, ...] = ()

    @property
    def table(self) -> QualifiedName:
        """The table."""
        return self.rules.name

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        return tuple(each.name for each in self.shape.columns)

    @cached_property
    def writable(self) -> tuple[str, ...]:
        """Those that a statement may name to write them."""
        return tuple(each.name for each in self.shape.columns if each.writable)

    def open_to(self, operation: Operation, columns: Iterable[str]) -> tuple[str, ...]:
        """Of these columns those on which somebody has the operation."""
        return tuple(each for each in columns if reference.granted(self.rules, operation, each))

    @cached_property
    def readable(self) -> tuple[str, ...]:
        """The columns that somebody may read."""
        return self.open_to("read", self.columns)

    @cached_property
    def types(self) -> dict[str, str]:
        """The types of the columns, without lengths."""
        return {each.name: each.type for each in self.shape.columns}

    def key(self, row: Mapping[str, Any], among: Collection[str]) -> dict[str, Any]:
        """What finds the row for whoever may read the columns ``among``; nothing where they do not tell it from the others."""
        for columns in filter(None, (self.shape.key, *self.shape.unique)):
            if {*columns} <= {*among} and all(row[each] is not None for each in columns):
                return {each: row[each] for each in columns}
        owners = {each.column for each in self.named}
        found = {
            name: row[name]
            for name in among
            if row[name] is not None and (name in owners or self.types[name] in _COMPARABLE)
        }
        alike = [each for each in self.stored if all(each.row[name] == value for name, value in found.items())]
        return found if found and len(alike) == 1 else {}

    def filled_in(self, creator: Identity) -> frozenset[str]:
        """The owner columns that hold the creator where he leaves them out."""
        row = reference.create(self.rules, creator, {}, defaults=dict.fromkeys(self.columns)).row or {}
        return frozenset(each.column for each in self.named if row.get(each.column) is not None)

    def with_new_row(self, new: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Ground:
        """The same with what ``new`` says that a new row has to name, besides the owner columns that it is given."""
        creator = self.casts[0].owner
        given = {each.column: each.naming(creator) for each in self.named if each.column in self.filled_in(creator)}
        return replace(self, new=new(given))

    def owners_of(self, row: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the owner columns of the row hold."""
        return None if row is None else {each.column: row[each.column] for each in self.named}

    def fits(self, row: Mapping[str, Any] | None) -> bool:
        """Whether the table itself takes the row's owners: a column that has to hold somebody does."""
        return row is None or all(each.nullable or row[each.column] is not None for each in self.named)


def own_name(who: Identity | None, naming: Naming) -> str | None:
    """How the column would hold the caller; None for whoever lacks what it is written with."""
    if who is None:
        return None
    way = naming.ways[0]
    said = (
        who.spellings
        if way.kind == "spelling"
        else {**who.claims, "sub": who.sub, "username": who.username}.get(way.name)
    )
    return way.of(who) if said else None


def malformed(naming: Naming, name: str, ground: Ground) -> tuple[tuple[str, Any], ...]:
    """What is no name, or no list of names; a uuid is always one."""
    if naming.many:
        return (
            ("a list with an empty name", [name, ""]),
            ("a list with a NULL", [name, None]),
            ("a list of lists", [[name, name]]),
        )
    return () if ground.types[naming.column] == "uuid" else (("an empty name", ""),)


def closed(operation: Operation, column: str) -> Decision:
    """What comes of an operation on a column that nobody has."""
    return Decision("refused", f"no rule lets anybody {operation} `{column}`")
