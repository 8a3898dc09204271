"""Rows for any table, past the rules: what nobody says is made up, parents first, and PostgreSQL judges each try."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from random import Random, SystemRandom
from typing import Any, LiteralString, TypeAlias

from psycopg import Connection, Error
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from rlskit import ddl
from rlskit.errors import PlanError, UnfillableError, UnknownColumnError
from rlskit.filler import shapes
from rlskit.filler.candidates import MOST
from rlskit.filler.drafts import Draft, Parent, Refusal
from rlskit.filler.shapes import ForeignKey, Shape
from rlskit.names import QualifiedName
from rlskit.words import did_you_mean

TRIES = 600  # of one row

Row: TypeAlias = dict[str, Any]
Promise: TypeAlias = tuple[ForeignKey, Row]
Tried: TypeAlias = tuple[Row, Row, list[Promise]]


class Filler:
    """Stores rows in a transaction that the caller ends, and makes up what a table asks for besides what is said.

    ``conn`` is a privileged connection, that of a superuser or of a role with BYPASSRLS: rows are stored past the rules. ``values`` say what cannot
    be guessed, table -> column -> text; a table is named with its schema, or without where that is enough. A filler knows the rows that it
    has made, and lives no longer than they do. ``chance`` is what it draws its values from. ``made`` is every INSERT in order, with the values that were stored: see ``insertion``.

    Values are texts as PostgreSQL writes them, None for NULL, and lists of str for arrays of texts.
    """

    def __init__(
        self,
        conn: Connection[Any],
        *,
        values: Mapping[str, Mapping[str, str]] | None = None,
        chance: Random | None = None,
    ) -> None:
        self.made: list[tuple[QualifiedName, Row]] = []
        self._conn, self._values = conn, values or {}
        self._shapes: dict[QualifiedName, Shape] = {}
        self._numbers = count((chance or SystemRandom()).randrange(10**8))
        self._known: dict[QualifiedName, dict[str, int]] = defaultdict(dict)
        self._fresh: dict[QualifiedName, set[str]] = defaultdict(set)
        self._shared: dict[tuple[QualifiedName, str], list[Row]] = defaultdict(list)
        self._making: list[QualifiedName] = []

    def shape(self, table: QualifiedName) -> Shape:
        """What the table is like. Raises PlanError for one that is missing, and where row security binds the connection."""
        if table not in self._shapes:
            self._shapes |= shapes.read(self._conn, table)
            self._checked_values()
        return self._shapes[table]

    def insert(self, table: QualifiedName, given: Mapping[str, Any]) -> Row:
        """Store a row with the values ``given``, past the rules and its parents first, and return all its columns as they are stored.

        Raises UnfillableError where no such row is taken, UnknownColumnError for a column that is not there, PlanError outside of a transaction.
        """
        return self._store(table, given)

    def new(self, table: QualifiedName, given: Mapping[str, Any]) -> Row:
        """Return what an INSERT has to name besides ``given``: the columns that are required, with values that are taken. Raises as ``insert``.

        Parents are stored; the row itself is only tried.
        """
        named, _, _ = self._tried(table, given, keep=False)
        return {name: value for name, value in named.items() if name not in given}

    def value(self, table: QualifiedName, column: str) -> Any:
        """A value that the table takes in the column, where it may be left out: not its default, and not NULL. Raises as ``insert``."""
        shape = self.shape(table)
        self._check_columns(shape, [column])
        _, without, _ = self._tried(table, {}, keep=False)
        for place in range(MOST):
            named, stored, _ = self._tried(table, {}, keep=False, asked={column: place})
            if stored[column] not in (None, without[column]):
                return named[column]
        raise _unfillable(shape, Refusal((column,)), "takes no value that is not its default, as far as can be made up")

    # --- one row ---------------------------------------------------------------------------------------------

    def _store(
        self, table: QualifiedName, given: Mapping[str, Any], *, root: bool = False, among: list[Row] | None = None
    ) -> Row:
        """Store a row, and what it promises; ``among`` are the rows that it is to be one of before that."""
        _, stored, promised = self._tried(table, given, keep=True, root=root)
        shape = self.shape(table)
        self.made.append((table, {each.name: stored[each.name] for each in shape.columns if not each.generated}))
        if among is not None:
            among.append(stored)
        for key, values in promised:
            self._keep_promise(shape, stored, key, values)
        return stored

    def _tried(
        self,
        table: QualifiedName,
        given: Mapping[str, Any],
        *,
        keep: bool,
        root: bool = False,
        asked: Mapping[str, int] | None = None,
    ) -> Tried:
        """The columns that are named, the row as it is stored, and the keys that it promises a row for.

        ``root``: the row may point at itself. ``asked`` are columns that are named anyhow, each with the place of the option to begin with.
        """
        self._begin()
        shape = self.shape(table)
        self._check_columns(shape, given)
        fixed = {**self._said(shape), **given}
        asked = asked or {}
        known, fresh = {**self._known[table], **asked}, self._fresh[table]
        draft = Draft(shape, fixed, self._numbers, known=known, fresh=fresh, asked=asked)
        if (column := draft.unknown()) is not None:
            raise _unfillable(shape, Refusal((column,)), "is of a type whose values are not made up")
        for _ in range(TRIES):
            named, promised = self._named(draft, keep=keep, root=root)
            try:
                with self._conn.transaction(force_rollback=not keep):
                    stored = self._stored(shape, named)
            except Error as error:
                if self._conn.closed:
                    raise
                if not draft.moves_on(error):
                    raise _refused(shape, draft.refused, error) from None
                continue
            if not asked:
                self._known[table] |= draft.places
            return named, stored, promised
        raise _unfillable(shape, draft.refused, f"was refused {TRIES} times")

    def _stored(self, shape: Shape, named: Row) -> Row:
        shown = (
            SQL("{}::{} as {}").format(
                Identifier(each.name), SQL("text[]" if each.kind.is_text_array else "text"), Identifier(each.name)
            )
            for each in shape.columns
        )
        returning = SQL(" returning {}").format(SQL(", ").join(shown)) if shape.columns else SQL("")
        cursor = self._conn.cursor(row_factory=dict_row).execute(insertion(shape, named) + returning)
        if cursor.rowcount != 1:
            raise _unfillable(shape, Refusal(), "stores no row: a trigger or a rule of its own leaves it out")
        return (cursor.fetchone() if shape.columns else None) or {}

    def _named(self, draft: Draft, *, keep: bool, root: bool) -> tuple[Row, list[Promise]]:
        """What the INSERT names, parents made; and the keys that it promises a row for."""
        shape, chosen = draft.shape, draft.chosen()
        named = {**draft.fixed, **{name: each for name, each in chosen.items() if not isinstance(each, Parent)}}
        promised = []
        for key in shape.foreign_keys:
            known = {column: named[column] for column in key.columns if column in named}
            parents = [
                each for column in key.columns if isinstance(each := chosen.get(column), Parent) and column not in named
            ]
            if None in known.values() or (not parents and len(known) < len(key.columns)):
                continue  # a column that is NULL, or has a default, and so far nothing is wrong with it
            wanted = dict(zip(key.target_columns, (known.get(each) for each in key.columns), strict=True))
            wanted = {name: value for name, value in wanted.items() if value is not None}
            if key.target == shape.table and (root or key.name in draft.fresh):
                values = self._itself(draft, key, named)
            elif not parents:
                self._see_to(key, wanted)
                continue
            elif keep and self._is_promised(shape, key, wanted):
                values = self._promise(shape, key, wanted)
                promised.append((key, values))
            elif key.name in draft.fresh:
                values = self._parent(key, wanted)
            else:
                values = self._share(key, wanted, parents[0].number)
            for column, target in zip(key.columns, key.target_columns, strict=True):
                named.setdefault(column, values[target])
        return {each.name: named[each.name] for each in shape.columns if each.name in named}, promised

    # --- parents ---------------------------------------------------------------------------------------------

    def _share(self, key: ForeignKey, wanted: Row, number: int) -> Row:
        """The parent of this number, of those that have the values ``wanted``; rows that nobody asked for by themselves."""
        rows = self._shared[_among(key.target, wanted)]
        while len(rows) <= number:
            self._parent(key, wanted, rows)
        return rows[number]

    def _parent(self, key: ForeignKey, wanted: Row, among: list[Row] | None = None) -> Row:
        """A new parent."""
        if self._making.count(key.target) > 1:
            raise UnfillableError(
                f"the foreign keys of `{key.target}` and of the tables that they lead to need each other's rows first",
                hint=f"name a row that is there: {_example(key.target, key.target_columns)}; or make one of the keys deferrable",
            )
        with self._at_work(key.target):
            return self._store(key.target, wanted, root=True, among=among)

    @contextmanager
    def _at_work(self, table: QualifiedName) -> Iterator[None]:
        self._making.append(table)
        try:
            yield
        finally:
            self._making.pop()

    def _see_to(self, key: ForeignKey, wanted: Row) -> None:
        """Make the row that the values name, where it is not there yet."""
        conditions = SQL(" and ").join(
            SQL("{} = {}").format(Identifier(name), Literal(value)) for name, value in wanted.items()
        )
        there = SQL("select exists (select from {} where {}) as there").format(ddl.qualified(key.target), conditions)
        row = self._conn.cursor(row_factory=dict_row).execute(there).fetchone()
        if row is None or not row["there"]:
            self._parent(key, wanted)

    def _itself(self, draft: Draft, key: ForeignKey, named: Row) -> Row:
        """The row's own key, said before the row is stored."""
        for column in key.target_columns:
            if column not in named:
                named[column] = self._key_value(draft, column)
        return {column: named[column] for column in key.target_columns}

    def _is_promised(self, shape: Shape, key: ForeignKey, wanted: Row) -> bool:
        """Whether the parent is stored after its row: it needs such a row itself, and none that is shared is there yet."""
        return (
            key.deferrable
            and key.target != shape.table
            and not self._shared[_among(key.target, wanted)]
            and self._leads(key.target, shape.table)
        )

    def _promise(self, shape: Shape, key: ForeignKey, wanted: Row) -> Row:
        """The key of a row that is stored right after the one that points at it."""
        draft = Draft(self.shape(key.target), wanted, self._numbers, known={}, fresh=set())
        self._set(shape, key, "deferred")
        return {name: wanted[name] if name in wanted else self._key_value(draft, name) for name in key.target_columns}

    def _keep_promise(self, shape: Shape, stored: Row, key: ForeignKey, values: Row) -> None:
        """Store the row that was promised; it points back, where it has to."""
        given = dict(values)
        for back in self.shape(key.target).foreign_keys:
            if back.target == shape.table and not set(back.columns) & given.keys():
                given |= {name: stored[target] for name, target in zip(back.columns, back.target_columns, strict=True)}
        with self._at_work(key.target):
            self._store(key.target, given, among=self._shared[_among(key.target, {})])
        self._set(shape, key, "immediate")

    def _set(self, shape: Shape, key: ForeignKey, when: LiteralString) -> None:
        """Whether the key is looked at when the transaction ends, where it is not anyway."""
        if not key.deferred:
            name = Identifier(shape.table.schema, key.name)
            self._conn.execute(SQL("set constraints {} {}").format(name, SQL(when)))

    def _leads(self, start: QualifiedName, goal: QualifiedName) -> bool:
        """Whether a row of ``start`` needs one of ``goal``, or one that needs one."""
        seen, rest = set(), [start]
        while rest:
            table = rest.pop()
            if table == goal:
                return True
            if table not in seen:
                seen.add(table)
                shape = self.shape(table)
                rest += [each.target for each in shape.foreign_keys if set(each.columns) <= set(shape.required)]
        return False

    def _key_value(self, draft: Draft, name: str) -> Any:
        """A value for a column of a key: what the table itself would give, or one that is made up."""
        column = draft.shape.column(name)
        if column is not None and column.default is not None:
            given = SQL("select ({})::text as value").format(ddl.expression(column.default))
            row = self._conn.cursor(row_factory=dict_row).execute(given).fetchone()
            if row is not None and row["value"] is not None:
                return row["value"]
        return draft.value(name)

    # --- what is refused before anything is stored -------------------------------------------------------------

    def _begin(self) -> None:
        """See to it that a transaction is there, so that what follows are savepoints and nothing is committed here."""
        if self._conn.info.transaction_status != TransactionStatus.IDLE:
            return
        if self._conn.autocommit:
            raise PlanError(
                "rows are filled in outside of a transaction, and each would stay",
                hint="with conn.transaction(): …, or a connection without autocommit",
            )
        self._conn.execute("select")

    def _check_columns(self, shape: Shape, given: Iterable[str]) -> None:
        known = {each.name: each for each in shape.columns}
        for name in given:
            if name not in known:
                raise UnknownColumnError(
                    f"table `{shape.table}` has no column `{name}`", hint=did_you_mean(name, known)
                )
            if known[name].generated:
                raise UnfillableError(
                    f"`{shape.table}.{name}` is generated, so no value can be given", hint="leave it out"
                )

    def _said(self, shape: Shape) -> Mapping[str, str]:
        return {**self._values.get(shape.table.name, {}), **self._values.get(str(shape.table), {})}

    def _checked_values(self) -> None:
        for shape in self._shapes.values():
            self._check_columns(shape, self._said(shape))


def insertion(shape: Shape, values: Mapping[str, Any]) -> Composed:
    """The INSERT of a row with these values, as ``Filler.made`` has them; it names an identity column where they do."""
    table = ddl.qualified(shape.table)
    if not values:
        return SQL("insert into {} default values").format(table)
    overriding = any(each.identity == "a" and each.name in values for each in shape.columns)
    return SQL("insert into {} ({}){} values ({})").format(
        table,
        SQL(", ").join(map(Identifier, values)),
        SQL(" overriding system value" if overriding else ""),
        SQL(", ").join(map(Literal, values.values())),
    )


def _among(table: QualifiedName, wanted: Row) -> tuple[QualifiedName, str]:
    """Under which key the shared rows stand that have these values."""
    return table, repr(sorted(wanted.items()))


# --- errors --------------------------------------------------------------------------------------------------


def _refused(shape: Shape, refusal: Refusal, error: Error) -> UnfillableError:
    if refusal.columns or refusal.constraint:
        return _unfillable(shape, refusal, "finds no value that is taken")
    return _unfillable(
        shape, refusal, f"takes no row that is made up ({type(error).__name__}, SQLSTATE {error.sqlstate})"
    )


def _unfillable(shape: Shape, refusal: Refusal, what: str) -> UnfillableError:
    place = ", ".join(f"`{each}`" for each in refusal.columns)
    by = f" because of `{refusal.constraint}`" if refusal.constraint else ""
    subject = f"{place} of `{shape.table}`" if place else f"`{shape.table}`"
    return UnfillableError(f"{subject} {what}{by}", hint=f"say what it takes: {_example(shape.table, refusal.columns)}")


def _example(table: QualifiedName, columns: Iterable[str]) -> str:
    wanted = ", ".join(f'"{each}" = "…"' for each in columns) or '"column" = "…"'
    return f'"{table}" = {{ {wanted} }} in `values`, or in the file of --values'
