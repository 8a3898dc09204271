"""What the application's role may do to the columns of a model, as the compiler has it: which to select, and which to send."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, overload

from sqlalchemy import Column, Table, inspect
from sqlalchemy.orm import InstrumentedAttribute, Mapper

from rlskit import state
from rlskit.compiler import COMMAND_OF, compile
from rlskit.errors import RuleError
from rlskit.rules import Rules, Unmanaged
from rlskit.sqlalchemy.tables import qualified
from rlskit.state import AllBut, AnyOf, Default, Grant, NamesCaller, Policy, StrangerTo, TableObject, Trigger
from rlskit.vocabulary import Operation
from rlskit.words import did_you_mean

_compiled = lru_cache(maxsize=8)(compile)


@dataclass(frozen=True)
class Privileges:
    """The privileges of the application's role on one table, by column and in at least some row."""

    objects: tuple[TableObject, ...]

    def may(self, operation: Operation) -> bool:
        """Whether anybody may do it to any column."""
        return self._grant(operation) is not None

    def columns(self, operation: Operation, names: Iterable[str]) -> frozenset[str]:
        """Which of these columns the operation may name."""
        grant = self._grant(operation)
        return frozenset() if grant is None else _among(names, AllBut() if grant.columns is None else grant.columns)

    def depends_on_row(self, operation: Operation, names: Iterable[str]) -> frozenset[str]:
        """Which of these columns a trigger refuses to some of those who may otherwise do it to the row."""
        guards = [
            each.columns or each.arguments
            for each in self.objects
            if isinstance(each, Trigger) and isinstance(each.when, StrangerTo) and each.event == COMMAND_OF[operation]
        ]
        names = list(names)
        return frozenset[str]().union(*(_among(names, guarded) for guarded in guards))

    @property
    def owners(self) -> dict[str, bool]:
        """The columns that have to be there to name owners, and whether each is a list."""
        return {
            each.name: each.type.endswith("[]")
            for each in self.objects
            if isinstance(each, state.Column) and each.type is not None
        }

    @property
    def filled(self) -> frozenset[str]:
        """The columns whose default names whoever creates a row."""
        return frozenset(each.column for each in self.objects if isinstance(each, Default))

    @property
    def create_without_read(self) -> bool:
        """Whether somebody may create rows that he may not read, so that INSERT … RETURNING would fail."""
        creates, reads = self._policy("create"), self._policy("read")
        if creates is None:
            return False
        if reads is None or not isinstance(reads.using, AnyOf):
            return reads is None
        if not isinstance(creates.with_check, AnyOf):
            return True
        readers = [each for each in reads.using.terms if isinstance(each, NamesCaller)]
        return not all(_reads(each, readers) for each in creates.with_check.terms if isinstance(each, NamesCaller))

    def _grant(self, operation: Operation) -> Grant | None:
        command = COMMAND_OF[operation]
        return next((each for each in self.objects if isinstance(each, Grant) and each.privilege == command), None)

    def _policy(self, operation: Operation) -> Policy | None:
        command = COMMAND_OF[operation]
        return next((each for each in self.objects if isinstance(each, Policy) and each.command == command), None)


def _among(names: Iterable[str], columns: tuple[str, ...] | AllBut) -> frozenset[str]:
    return frozenset(names) - set(columns.columns) if isinstance(columns, AllBut) else frozenset(names) & set(columns)


def _reads(creator: NamesCaller, readers: Iterable[NamesCaller]) -> bool:
    """Whether whoever creates a row as ``creator`` is among its readers, in each way in which the row could name him."""
    person = (creator.column, creator.claim)
    ways = [set(each.spellings or ()) for each in readers if (each.column, each.claim) == person]
    return bool(ways) and set(creator.spellings or ()) <= set[str]().union(*ways)


# --- for statements and for what a request brings ----------------------------------------------------------


@overload
def readable_columns(model: Table, rules: Rules) -> tuple[Column[Any], ...]: ...
@overload
def readable_columns(model: type[Any], rules: Rules) -> tuple[InstrumentedAttribute[Any], ...]: ...
def readable_columns(model: type[Any] | Table, rules: Rules) -> tuple[Any, ...]:
    """Return the attributes of a mapped class that may be read, for ``select(*…)``, in the table's order; of a Table the columns.

    Raises RuleError for what is no mapped class, and for a table that the rules do not name.
    """
    if isinstance(model, Table):
        return tuple(_allowed(model, rules, "read"))
    return tuple(getattr(model, key) for key in _attributes(model, rules, "read"))


def writable_columns(model: type[Any] | Table, rules: Rules, operation: Literal["create", "update"]) -> frozenset[str]:
    """Return the names of the attributes that may be set in a new row, or in a row that is there, by whoever may write such a row at all.

    They are what a request may bring: ``body.keys() & writable_columns(Todo, rules, "update")``; of a Table the names for ``values(…)``.
    Whether this user may write them in this row, the database decides. Raises what ``readable_columns`` does.
    """
    if operation not in ("create", "update"):
        raise RuleError(f"`{operation}` writes no columns", hint='say "create" or "update"', key="operation")
    if isinstance(model, Table):
        return frozenset(each.key for each in _allowed(model, rules, operation))
    return frozenset(_attributes(model, rules, operation))


def _allowed(table: Table, rules: Rules, operation: Operation) -> list[Column[Any]]:
    name = qualified(table, rules.schema)
    said = next((each for each in rules.tables if each.name == name), None)
    if said is None:
        known = [str(each.name) for each in rules.tables]
        raise RuleError(f"the rules do not name table `{name}`", hint=did_you_mean(str(name), known))
    columns = [each for each in table.columns if operation == "read" or not _is_generated(each)]
    if isinstance(said.allow, Unmanaged):
        return columns
    names = Privileges(_compiled(rules).of(name)).columns(operation, [str(each.name) for each in columns])
    return [each for each in columns if str(each.name) in names]


def _attributes(model: type[Any], rules: Rules, operation: Operation) -> list[str]:
    mapper = inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise RuleError(f"`{model!r}` is no mapped class", hint="give a mapped class, or a Table")
    tables = [each for each in mapper.tables if isinstance(each, Table)]
    allowed = {column for table in tables for column in _allowed(table, rules, operation)}
    mapped = {column: attribute for attribute in mapper.column_attrs for column in attribute.columns}
    keys = [
        mapped[column].key
        for table in tables
        for column in table.columns
        if column in mapped and allowed.issuperset(mapped[column].columns)
    ]
    return list(dict.fromkeys(keys))


def _is_generated(column: Column[Any]) -> bool:
    return column.computed is not None or (column.identity is not None and bool(column.identity.always))
