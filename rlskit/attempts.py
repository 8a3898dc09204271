"""One operation on one row, tried and undone: what PostgreSQL does about it, in the words of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import Connection
from psycopg.errors import CheckViolation, InsufficientPrivilege
from psycopg.sql import SQL, Composable, Composed, Identifier
from psycopg.sql import Literal as Value

from rlskit import ddl
from rlskit.names import QualifiedName
from rlskit.vocabulary import Operation

Outcome: TypeAlias = Literal["allowed", "not visible", "refused"]
OUR_CHECKS = "rlskit_"  # what the names of the compiler's checks begin with


@dataclass(frozen=True, slots=True)
class Attempt:
    """``operation`` on the row of ``table`` that ``key`` finds: column names to values, as PostgreSQL writes them or as psycopg takes them.

    ``values`` are what a create names and what an update sets, ``psycopg.sql.DEFAULT`` among them; ``columns`` are what a read shows, none being a matter of the row alone.
    A create has no key: its row is not there yet. ``blind``: the row that ``key`` finds is the one on which the cursor ``rlskit_row`` stands, which
    somebody else has put there (see ``row``), so that the statement itself reads nothing of it. ``of_no_row``: an update or a delete that touches no row,
    whatever is there, and needs the same privilege; where that is not refused it is allowed.
    """

    operation: Operation
    table: QualifiedName
    key: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    blind: bool = False
    of_no_row: bool = False

    @property
    def statement(self) -> Composed:
        """The statement, with its values in it."""
        table, names = ddl.qualified(self.table), SQL(", ").join(map(Identifier, self.values))
        match self.operation:
            case "create" if not self.values:
                return SQL("insert into {} default values").format(table)
            case "create":
                return SQL("insert into {} ({}) values ({})").format(table, names, _values(self.values))
            case "read":
                shown = SQL(", ").join(map(Identifier, self.columns))
                return SQL("select {} from {}{}").format(shown, table, _where(self.key))
            case "update":
                changes = SQL(", ").join(map(_equal, self.values, self.values.values()))
                return SQL("update {} set {}{}").format(table, changes, self._where)
            case "delete":
                return SQL("delete from {}{}").format(table, self._where)

    @property
    def row(self) -> Composed:
        """The query for the cursor of a blind attempt, for whoever bypasses the rules."""
        return SQL("select from {}{} for update").format(ddl.qualified(self.table), _where(self.key))

    @property
    def _where(self) -> Composed:
        if self.of_no_row:
            return SQL(" where false").format()
        return SQL(" where current of rlskit_row").format() if self.blind else _where(self.key)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt; ``rows`` is how many rows it touched or found, ``error`` what the driver raised where it was refused."""

    outcome: Outcome
    rows: int = 0
    error: psycopg.Error | None = field(default=None, compare=False, repr=False)


def make(conn: Connection[Any], attempt: Attempt, *, keep: bool = False) -> Answer:
    """Make the attempt in the transaction of ``conn``, as whoever asks in it; undone at once, unless it is to be kept for the next one.

    Raises what the server raises for anything but an access: a foreign key that leads nowhere, a value of the wrong type.
    """
    try:
        with conn.transaction(force_rollback=not keep):
            rows = conn.execute(attempt.statement).rowcount
    except InsufficientPrivilege as error:
        return Answer("refused", error=error)
    except CheckViolation as error:
        if not (error.diag.constraint_name or "").startswith(OUR_CHECKS):
            raise
        return Answer("refused", error=error)
    return Answer("allowed" if rows or attempt.of_no_row else "not visible", rows)


def _values(values: Mapping[str, Any]) -> Composed:
    return SQL(", ").join(map(_value, values.values()))


def _value(value: Any) -> Composable:
    return value if isinstance(value, Composable) else Value(value)


def _equal(column: str, value: Any) -> Composed:
    return SQL("{} = {}").format(Identifier(column), _value(value))


def _where(key: Mapping[str, Any]) -> Composed:
    terms = SQL(" and ").join(map(_equal, key, key.values()))
    return SQL(" where {}").format(terms) if key else SQL("").format()
