"""PostgreSQL is held against the reference: random tables, rules and people, statement by statement, transaction by transaction.

``rlskit.reference`` says what becomes of one row. What a whole statement does is put together of it here, as PostgreSQL's manual has
it: privileges first, then row by row, all or nothing. ``RLSKIT_FUZZ=100`` performs a hundred times as much, and never the same twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, singledispatch
from itertools import count
from random import SystemRandom
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg import sql

from rlskit import Identity, Open, Rule, TableRules, allow, as_nobody, as_user, plan, reference
from rlskit.errors import UnsupportedRuleError
from rlskit.names import QualifiedName
from tests.conformance.strategies import (
    COLUMNS,
    DEFAULT,
    OWNERS,
    PASS,
    PROPOSED,
    REMOVE,
    SAME,
    SOURCE,
    Action,
    Clauses,
    Declaration,
    Delete,
    Insert,
    Merge,
    Put,
    Reassign,
    Row,
    Select,
    Set,
    Statement,
    Update,
    Upsert,
    Word,
    a_merge,
    an_insert,
    an_update,
    an_upsert,
    another,
    declarations,
    people,
    removed,
    statements,
    stored_name,
    stored_rows,
)
from tests.support import ALICE, BOB, Database, Server, fresh_database, full

Rows = dict[int, Row]

TYPES = {"id": "int", "price": "int", "editors": "text[]"} | dict.fromkeys(
    ("content", "title", "note", *OWNERS), "text"
)
DEFAULTS: dict[str, Any] = dict.fromkeys(COLUMNS) | {"title": "untitled", "price": 0}


# --- a statement as SQL --------------------------------------------------------------------------------


class Writer:
    """Writes around one table, and gathers the parameters."""

    def __init__(self, table: str, key: str) -> None:
        self.name, self.table = table, sql.Identifier(table)
        self.types = TYPES | ({"id": "uuid"} if key == "uuid" else {})
        self.parameters: list[Any] = []

    def parameter(self, type: str, value: Any) -> sql.Composable:
        if type.startswith("uuid"):
            value = [UUID(int=each) for each in value] if isinstance(value, list) else UUID(int=value)
        self.parameters.append(value)
        return sql.SQL("%s::{}").format(sql.SQL(type))

    def value(self, column: str, value: Any) -> sql.Composable:
        name = sql.Identifier(column)
        match value:
            case Word("default"):
                return sql.SQL("default")
            case Word("same"):
                return sql.SQL("it.{}").format(name)
            case Word("proposed"):
                return sql.SQL("excluded.{}").format(name)
            case Word("source"):
                return sql.SQL("given.{}").format(name)
            case Word("added", name=each):
                return sql.SQL("array_append(it.{}, {})").format(name, self.parameter("text", each))
            case Word("removed", name=each):
                return sql.SQL("array_remove(it.{}, {})").format(name, self.parameter("text", each))
        return self.parameter(self.types[column], value)

    def columns(self, names: Collection[str]) -> sql.Composable:
        return sql.SQL(", ").join(sql.SQL("it.{}").format(sql.Identifier(each)) for each in names)

    def assignments(self, changes: Row) -> sql.Composable:
        pairs = ((sql.Identifier(column), self.value(column, value)) for column, value in changes.items())
        return sql.SQL(", ").join(sql.SQL("{} = {}").format(*pair) for pair in pairs)

    def rows(self, rows: Sequence[Row]) -> sql.Composable:
        if not rows[0]:
            return sql.SQL("default values")
        names = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
        values = (sql.SQL(", ").join(self.value(*each) for each in row.items()) for row in rows)
        return sql.SQL("({}) values {}").format(
            names, sql.SQL(", ").join(sql.SQL("({})").format(each) for each in values)
        )

    def where(self, ids: Sequence[int] | None) -> sql.Composable:
        if ids is None:
            return sql.SQL("")
        return sql.SQL(" where it.id = any ({})").format(self.parameter(self.types["id"] + "[]", list(ids)))

    def returning(self, names: Sequence[str]) -> sql.Composable:
        return sql.SQL(" returning {}").format(self.columns(names)) if names else sql.SQL("")


@singledispatch
def write(statement: Statement, to: Writer) -> sql.Composable:
    raise NotImplementedError(statement)


@write.register
def _(statement: Select, to: Writer) -> sql.Composable:
    shown = to.columns(statement.columns) if statement.columns else sql.SQL("count(*)")
    return sql.SQL("select {} from {} as it{}").format(
        shown, to.table, sql.SQL(" for update" if statement.locks else "")
    )


@write.register
def _(statement: Insert, to: Writer) -> sql.Composable:
    return sql.SQL("insert into {} as it {}{}").format(
        to.table, to.rows(statement.rows), to.returning(statement.returning)
    )


@write.register
def _(statement: Upsert, to: Writer) -> sql.Composable:
    rows, key = to.rows(statement.rows), sql.SQL("(id) " if statement.names_key else "")
    action = sql.SQL("nothing")
    if statement.changes is not None:
        action = sql.SQL("update set {}").format(to.assignments(statement.changes))
    if statement.content is not None:
        action += sql.SQL(" where it.content = {}").format(to.parameter("text", statement.content))
    returning = to.returning(statement.returning)
    return sql.SQL("insert into {} as it {} on conflict {}do {}{}").format(to.table, rows, key, action, returning)


@write.register
def _(statement: Update, to: Writer) -> sql.Composable:
    changes = to.assignments(statement.changes)
    return sql.SQL("update {} as it set {}{}{}").format(
        to.table, changes, to.where(statement.ids), to.returning(statement.returning)
    )


@write.register
def _(statement: Delete, to: Writer) -> sql.Composable:
    return sql.SQL("delete from {} as it{}{}").format(
        to.table, to.where(statement.ids), to.returning(statement.returning)
    )


@write.register
def _(statement: Reassign, to: Writer) -> sql.Composable:
    key = UUID(int=statement.id) if to.types["id"] == "uuid" else statement.id
    to.parameters = [to.name, f'{{"id": "{key}"}}', statement.column, statement.value]
    type = sql.SQL("text[]" if isinstance(statement.value, list) else "text")
    return sql.SQL("select rlskit.reassign(%s, %s, %s, %s::{})").format(type)


@write.register
def _(statement: Merge, to: Writer) -> sql.Composable:
    pairs = ((to.parameter(to.types["id"], key), to.parameter("text", word)) for key, word in statement.source)
    source = sql.SQL(", ").join(sql.SQL("({}, {})").format(*pair) for pair in pairs)
    parts = [
        sql.SQL("merge into {} as it using (values {}) as given (id, word) on it.id = given.id").format(
            to.table, source
        )
    ]
    for when, clauses in (("matched", statement.matched), ("not matched", statement.absent)):
        for word, action in clauses:
            only = sql.SQL("") if word is None else sql.SQL(" and given.word = {}").format(to.parameter("text", word))
            parts.append(sql.SQL(" when {}{} then {}").format(sql.SQL(when), only, _write_action(action, to)))
    return sql.Composed([*parts, to.returning(statement.returning)])


def _write_action(action: Action, to: Writer) -> sql.Composable:
    match action:
        case Set(changes):
            return sql.SQL("update set {}").format(to.assignments(changes))
        case Put(values):
            return sql.SQL("insert {}").format(to.rows([values]))
    return sql.SQL(action)


# --- a statement as the reference has it ---------------------------------------------------------------


class Failure(Exception):
    """The statement fails; ``outcome`` says how."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(f"{outcome}: {why}")
        self.outcome = outcome


@dataclass
class Effect:
    """How many rows a statement touched, the table as it is afterwards, and what was returned."""

    rows: Rows
    count: int = 0
    returned: list[tuple[Any, ...]] = field(default_factory=list)

    def touch(self, row: Row, returning: Sequence[str]) -> None:
        self.count += 1
        self.returned.append(tuple(row[column] for column in returning))

    def put(self, row: Row, returning: Sequence[str]) -> None:
        if row["id"] in self.rows:
            raise Failure("duplicate", "the key is there already")
        self.rows[row["id"]] = row
        self.touch(row, returning)


@dataclass(frozen=True)
class World:
    """Somebody before a table; ``fresh`` are the keys that its default gives next."""

    rules: TableRules
    who: Identity | None
    rows: Rows
    fresh: Iterator[int]

    # Privileges are the same for every row, so that the reference, which is asked for a row, does not tell them apart.

    def given(self, operation: str, column: str | None) -> list[Rule | Open]:
        """The rules that let somebody do it to the column; None stands for those without rules of their own."""
        if isinstance(self.rules.allow, Open):
            return [self.rules.allow] if operation in self.rules.allow.to else []
        assert isinstance(self.rules.allow, tuple)
        table: list[Rule | Open] = [each for each in self.rules.allow if operation in each.operations]
        if column not in dict(self.rules.columns):
            return table
        own = [each for each in dict(self.rules.columns)[column or ""] if operation in each.operations]
        return [rule for each in own for rule in (table if each.strategy == "same" else [each])]

    def permitted(self, operation: str) -> list[str]:
        return [column for column in COLUMNS if self.given(operation, column)]

    def need(self, operation: str, columns: Collection[str]) -> None:
        for column in columns:
            if not self.given(operation, column):
                raise Failure("forbidden", f"nobody may {operation} `{column}`")

    def need_any(self, operation: str) -> None:
        if not self.permitted(operation):
            raise Failure("forbidden", f"nobody may {operation} any column")

    def need_delete(self) -> None:
        if reference.delete(self.rules, None, dict.fromkeys(COLUMNS)).outcome == "refused":
            raise Failure("forbidden", "nobody may delete a row")

    # One row.

    def sees(self, row: Row) -> bool:
        return reference.read(self.rules, self.who, row).allowed

    def visible(self) -> Rows:
        return {key: row for key, row in self.rows.items() if self.sees(row)}

    def may_delete(self, row: Row) -> bool:
        return reference.delete(self.rules, self.who, row).allowed

    def may_lock(self, row: Row) -> bool:
        column = self.permitted("update")[0]
        return (
            self.sees(row)
            and reference.update(self.rules, self.who, row, {column: row[column]}).outcome != "not visible"
        )

    def created(self, values: Row, *, shown: bool) -> Row:
        """The new row; where it is ``shown``, because the statement reads columns, the caller has to be one who may see it."""
        default: object = next(self.fresh) if values.get("id", DEFAULT) is DEFAULT else "whatever the default gives"
        given = {column: self.evaluated(column, value) for column, value in values.items()}
        if values.get("id") is DEFAULT:
            given["id"] = default
        decision = reference.create(self.rules, self.who, given, defaults=DEFAULTS | {"id": default}, key=["id"])
        if decision.row is None:
            raise Failure("refused", decision.why)
        if shown and not self.sees(decision.row):
            raise Failure("refused", "the new row may not be read")
        return decision.row

    def updated(self, row: Row, changes: Row, proposed: Row | None = None, *, reads: bool = True) -> Row | None:
        """The row as it is afterwards; None where the caller does not reach it.

        An UPDATE that reads no column is not held against the SELECT policy, so that ``reassign="explicit"`` does not stop it.
        """
        rules = self.rules if reads or self.rules.reassign != "explicit" else _plain(self.rules)
        new = {column: self.evaluated(column, value, row, proposed) for column, value in changes.items()}
        decision = reference.update(rules, self.who, row, new)
        if decision.outcome == "refused":
            raise Failure("refused", decision.why)
        return decision.row

    def evaluated(self, column: str, value: Any, row: Row | None = None, proposed: Row | None = None) -> Any:
        match value:
            case Word("default"):
                return self.default(column)
            case Word("same"):
                return (row or {})[column]
            case Word("proposed"):
                return (proposed or {})[column]
            case Word("added", name=name):
                return [*((row or {})[column] or []), name]
            case Word("removed", name=name):
                names = (row or {})[column]
                return None if names is None else [each for each in names if each != name]
        return value

    def default(self, column: str) -> Any:
        """In an owner column the caller, as the first rule has it that lets somebody create a row so."""
        for ruled in (None, *dict(self.rules.columns)):
            for each in self.given("create", ruled):
                if isinstance(each, Rule) and each.column == column:
                    name = stored_name(each, self.who)
                    return [name] if each.strategy == "owners" and name is not None else name
        return DEFAULTS[column]


def _plain(rules: TableRules) -> TableRules:
    assert isinstance(rules.allow, tuple)
    return TableRules(*rules.allow, columns=dict(rules.columns))


def reading(changes: Row) -> set[str]:
    return {column for column, value in changes.items() if isinstance(value, Word) and value.reads}


def named(ids: Collection[int] | None) -> set[str]:
    """The column that WHERE reads."""
    return set() if ids is None else {"id"}


@singledispatch
def perform(statement: Statement, world: World) -> Effect:
    """What the statement does. Raises Failure."""
    raise NotImplementedError(statement)


@perform.register
def _(statement: Select, world: World) -> Effect:
    world.need("read", statement.columns)
    world.need_any("read")
    if statement.locks:
        world.need_any("update")
    effect = Effect(world.rows)
    for row in world.visible().values():
        if not statement.locks or world.may_lock(row):
            effect.touch(row, statement.columns)
    if not statement.columns:
        effect.returned = [(effect.count,)]
    return effect


@perform.register
def _(statement: Insert, world: World) -> Effect:
    world.need("create", statement.rows[0])
    world.need_any("create")
    world.need("read", statement.returning)
    effect = Effect(dict(world.rows))
    for values in statement.rows:
        effect.put(world.created(values, shown=bool(statement.returning)), statement.returning)
    return effect


@perform.register
def _(statement: Upsert, world: World) -> Effect:
    changes = statement.changes or {}
    read = {*statement.returning, *reading(changes)}
    read |= {"id"} if statement.names_key else set()
    read |= {"content"} if statement.content is not None else set()
    world.need("create", statement.rows[0])
    world.need_any("create")
    world.need("update", changes)
    world.need("read", read)
    effect = Effect(dict(world.rows))
    for values in statement.rows:
        proposed = world.created(values, shown=bool(read))
        stored = effect.rows.get(proposed["id"])
        if stored is None:
            effect.put(proposed, statement.returning)
        elif statement.changes is not None and statement.content in (None, stored["content"]):
            new = world.updated(stored, changes, proposed)
            if new is None:
                raise Failure("refused", "the row that is there may not be updated")
            effect.rows[new["id"]] = new
            effect.touch(new, statement.returning)
    return effect


@perform.register
def _(statement: Update, world: World) -> Effect:
    read = {*statement.returning, *reading(statement.changes), *named(statement.ids)}
    world.need("update", statement.changes)
    world.need("read", read)
    effect = Effect(dict(world.rows))
    for key, row in world.rows.items():
        if statement.ids is None or key in statement.ids:
            new = world.updated(row, statement.changes, reads=bool(read))
            if new is not None:
                del effect.rows[key]
                effect.put(new, statement.returning)
    return effect


@perform.register
def _(statement: Delete, world: World) -> Effect:
    world.need_delete()
    world.need("read", {*statement.returning, *named(statement.ids)})
    effect = Effect(dict(world.rows))
    for key, row in world.rows.items():
        if (statement.ids is None or key in statement.ids) and world.may_delete(row):
            del effect.rows[key]
            effect.touch(row, statement.returning)
    return effect


@perform.register
def _(statement: Reassign, world: World) -> Effect:
    world.need("read", ["id"])
    world.need_any("update")
    effect = Effect(dict(world.rows))
    row = world.rows.get(statement.id)
    if row is not None and world.may_lock(row):
        world.need("update", [statement.column])
        new = world.updated(row, {statement.column: statement.value}, reads=False)
        assert new is not None
        effect.rows[statement.id] = new
        effect.count = 1
    effect.returned = [(effect.count,)]
    return effect


@perform.register
def _(statement: Merge, world: World) -> Effect:
    actions = [action for _, action in (*statement.matched, *statement.absent)]
    changed = {column: value for each in actions if isinstance(each, Set) for column, value in each.changes.items()}
    for action in actions:
        if isinstance(action, Put):
            world.need("create", action.values)
            world.need_any("create")
        elif isinstance(action, Set):
            world.need("update", action.changes)
            world.need("read", reading(action.changes))
        elif action == REMOVE:
            world.need_delete()
    world.need("read", {"id", *statement.returning})
    effect = Effect(dict(world.rows))
    visible = world.visible()
    failures = set()
    for key, word in statement.source:
        try:
            if key in visible:
                _merge_matched(statement, world, effect, visible[key], _chosen(statement.matched, word), changed)
            else:
                _merge_absent(statement, world, effect, key, _chosen(statement.absent, word))
        except Failure as failure:
            failures.add(failure.outcome)
    if failures:  # which row comes first is the planner's to say
        raise Failure(" or ".join(sorted(failures)), "a row of the source")
    return effect


def _chosen(clauses: Clauses, word: str) -> Action:
    return next((action for condition, action in clauses if condition in (None, word)), PASS)


def _merge_matched(statement: Merge, world: World, effect: Effect, row: Row, action: Action, changed: Row) -> None:
    if isinstance(action, Set):
        # UPDATE OF is about the columns that any of the clauses sets.
        new = world.updated(row, dict.fromkeys(changed, SAME) | dict(action.changes))
        if new is None:
            raise Failure("refused", "the row that is there may not be updated")
        effect.rows[row["id"]] = new
        effect.touch(new, statement.returning)
    elif action == REMOVE:
        if not world.may_delete(row):
            raise Failure("refused", "the row that is there may not be deleted")
        del effect.rows[row["id"]]
        effect.touch(row, statement.returning)


def _merge_absent(statement: Merge, world: World, effect: Effect, key: int, action: Action) -> None:
    if isinstance(action, Put):
        values = {column: key if value is SOURCE else value for column, value in action.values.items()}
        effect.put(world.created(values, shown=bool(statement.returning)), statement.returning)


@singledispatch
def is_about(statement: Statement, key: int) -> bool:
    """Whether the statement asks for the row, be it seen or not."""
    return True


@is_about.register(Update)
@is_about.register(Delete)
def _(statement: Update | Delete, key: int) -> bool:
    return statement.ids is None or key in statement.ids


@is_about.register
def _(statement: Reassign, key: int) -> bool:
    return key == statement.id


@is_about.register
def _(statement: Merge, key: int) -> bool:
    return any(key == each for each, _ in statement.source)


# --- both side by side ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class As:
    """A transaction begins, in which one of the people asks, or with None nobody."""

    who: int | None


# Inside of it a block begins, as psycopg or as rlskit has it. The innermost block ends, and what it did is kept or undone.
SAVEPOINT, NESTED, KEEP, UNDO = "savepoint", "nested", "keep", "undo"
Move = As | Statement | str


class Undone(Exception):
    """Raised inside a block to be rid of what it did."""


class Disagreement(AssertionError):
    """PostgreSQL does not do what the reference says."""


OUTCOMES = {
    "42501": {"forbidden", "refused"},
    "23514": {"refused"},
    "23505": {"duplicate"},
}

KEY_TYPES = {
    "nowhere": "int primary key",
    "serial": "serial primary key",
    "identity": "int generated by default as identity primary key",
    "uuid": "uuid primary key default next_uuid('{sequence}')",
}
FIRST_DEFAULT = 1000  # no statement names it
NEXT_UUID = """
create function next_uuid(sequence regclass) returns uuid language sql security definer set search_path = pg_catalog, pg_temp
return lpad(to_hex(nextval(sequence)), 32, '0')::uuid
"""


class Bench:
    """A database, three connections that are used again and again, and the count of what was performed."""

    def __init__(self, database: Database) -> None:
        self.database, self.major = database, database.server.major
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._numbers = count(1)
        database.execute(NEXT_UUID)
        with ExitStack() as connecting:
            self.admin = connecting.enter_context(closing(database.connect(autocommit=True)))
            self.owner = connecting.enter_context(closing(database.connect_as_owner(autocommit=True)))
            self.app = connecting.enter_context(closing(database.connect_as_app(autocommit=True)))
            self.close = connecting.pop_all().close

    def make(self, declaration: Declaration) -> TableRules:
        """A fresh table, its rules applied. Raises UnsupportedRuleError for rules that do not fit it."""
        name = f"item_{next(self._numbers)}"
        sequence = f"{name}_id_seq"
        added = {rule.column for rule in declaration.owner_rules} if declaration.adds else set()
        types = TYPES | {"id": KEY_TYPES[declaration.key].format(sequence=sequence)}
        defaults = {column: f" default {value!r}" for column, value in DEFAULTS.items() if value is not None}
        columns = [f"{column} {types[column]}{defaults.get(column, '')}" for column in COLUMNS if column not in added]
        if declaration.key == "uuid":
            self.owner.execute(f"create sequence {sequence}")
        self.owner.execute(f"create table {name} ({', '.join(columns)})")
        if declaration.key != "nowhere":
            self.owner.execute(f"alter sequence {sequence} restart with {FIRST_DEFAULT}")
        rules = declaration.rules.at(QualifiedName("public", name))
        try:
            plan(self.owner, self.database.rules(rules)).apply(self.owner)
        except UnsupportedRuleError:
            self.drop(rules)
            raise
        return rules

    def drop(self, rules: TableRules) -> None:
        self.owner.execute(f"drop table {rules.name.name}")
        self.owner.execute(f"drop sequence if exists {rules.name.name}_id_seq")


class Play:
    """One table and what some people do there in turn; PostgreSQL and the reference do it side by side."""

    def __init__(
        self, bench: Bench, declaration: Declaration, people: Sequence[Identity], stored: Sequence[Row] = ()
    ) -> None:
        self.bench, self.major = bench, bench.major
        self.declaration, self.people, self.stored = declaration, people, stored
        self.moves: list[Move] = []
        self.outcomes: list[str] = []
        self.asker: int | None = 0
        self.blocks: list[tuple[ExitStack, Rows]] = []
        self.rows: Rows = {row["id"]: DEFAULTS | dict(row) for row in stored}
        self.rules = bench.make(declaration)
        for row in stored:
            writer = self.writer()
            bench.admin.execute(write(Insert((row,)), writer), writer.parameters)
        self.compare_stored()

    def close(self) -> None:
        while self.blocks:
            self.leave(Undone())
        self.bench.drop(self.rules)

    @property
    def who(self) -> Identity | None:
        return None if self.asker is None else self.people[self.asker]

    @cached_property
    def permitted(self) -> dict[str, list[str]]:
        return {operation: self.world().permitted(operation) for operation in ("create", "read", "update")}

    def visible(self) -> Rows:
        return self.world().visible()

    def world(self) -> World:
        return World(self.rules, self.who, self.rows, self.next_keys())

    def next_keys(self) -> Iterator[int]:
        """A sequence belongs to no transaction, so that another connection can tell what comes next."""
        assert self.declaration.key != "nowhere", "the key has no default"
        sequence = sql.Identifier(f"{self.rules.name.name}_id_seq")
        query = sql.SQL("select last_value + is_called::int from {}").format(sequence)
        (first,) = self.bench.admin.execute(query).fetchone() or ()
        yield from count(first)

    def writer(self) -> Writer:
        return Writer(self.rules.name.name, self.declaration.key)

    # Moves.

    def do(self, move: Move) -> None:
        self.moves.append(move)
        match move:
            case As(who):
                self.asker = who
                self.enter(self.asking())
            case "savepoint":
                self.enter(self.bench.app.transaction())
            case "nested":
                self.enter(self.asking())
            case "keep":
                self.leave()
            case "undo":
                self.leave(Undone())
            case Statement():
                self.perform(move)

    def asking(self) -> AbstractContextManager[Any]:
        return as_nobody(self.bench.app) if self.who is None else as_user(self.bench.app, self.who)

    def enter(self, block: AbstractContextManager[Any]) -> None:
        with ExitStack() as entered:
            entered.enter_context(block)
            self.blocks.append((entered.pop_all(), self.rows))

    def leave(self, error: Exception | None = None) -> None:
        """The innermost block ends; with an error that is raised inside, and that rlskit may raise by another name."""
        block, before = self.blocks.pop()
        if error is None:
            block.close()
        else:
            self.rows = before
            with suppress(type(error), psycopg.errors.InsufficientPrivilege), block:
                raise error
        if not self.blocks:
            self.compare_stored()

    def perform(self, statement: Statement) -> None:
        """A failure ends the innermost block."""
        effect, outcome, why = self.expected(statement)
        self.outcomes.append(outcome)
        self.bench.outcomes[statement.kind, outcome] += 1
        writer = self.writer()
        text = write(statement, writer)
        # The note of an earlier gift lets one's own new row be returned until the transaction ends; here each statement begins without it.
        self.bench.app.execute("select set_config('rlskit.moving_to', '', true)")
        try:
            cursor = self.bench.app.execute(text, writer.parameters)
            returned = cursor.fetchall() if cursor.description else None
        except psycopg.Error as error:
            expected = {*outcome.split(" or ")}
            self.agree(
                bool(expected & OUTCOMES.get(error.sqlstate or "", set())), f"{error}\nand not {outcome} {why}", text
            )
            self.leave(error)
            return
        self.agree(effect is not None, f"{cursor.rowcount} rows\nand not {outcome} {why}", text)
        assert effect is not None
        if returned is None:
            self.agree(cursor.rowcount == effect.count, f"{cursor.rowcount} rows\nand not {effect.count}", text)
        else:
            self.agree_on_rows(returned, effect.returned, text)
        self.rows = effect.rows
        self.compare_shown()

    def expected(self, statement: Statement) -> tuple[Effect | None, str, str]:
        """The effect, or None with the reason; and what to call it."""
        world = self.world()
        try:
            effect = perform(statement, world)
        except Failure as failure:
            return None, failure.outcome, f"({failure})"
        if not effect.count:
            return effect, "not visible" if any(is_about(statement, key) for key in self.rows) else "no such row", ""
        changed = [row for key, row in effect.rows.items() if key in self.rows and row != self.rows[key]]
        return effect, "allowed" if all(map(world.sees, changed)) else "given away", ""

    # Comparisons.

    def compare_shown(self) -> None:
        """What the caller is shown, uncommitted as it is."""
        if columns := self.permitted["read"]:
            query = write(Select(tuple(columns)), self.writer())
            rows = [tuple(row[column] for column in columns) for row in self.visible().values()]
            self.agree_on_rows(self.bench.app.execute(query).fetchall(), rows, query)

    def compare_stored(self) -> None:
        """What is really there, read past row security."""
        query = write(Select(COLUMNS), self.writer())
        rows = [tuple(row[column] for column in COLUMNS) for row in self.rows.values()]
        self.agree_on_rows(self.bench.admin.execute(query).fetchall(), rows, query)

    def agree_on_rows(
        self, found: Sequence[tuple[Any, ...]], expected: Sequence[tuple[Any, ...]], query: sql.Composable
    ) -> None:
        plain = [tuple(value.int if isinstance(value, UUID) else value for value in row) for row in found]
        left, right = Counter(map(repr, plain)), Counter(map(repr, expected))
        self.agree(left == right, f"{[*(left - right).elements()]}\nand not {[*(right - left).elements()]}", query)

    def agree(self, agreed: bool, difference: str, query: sql.Composable) -> None:
        if not agreed:
            raise Disagreement(f"{query.as_string(None)}\n{difference}\n\n{self}")

    def __str__(self) -> str:
        """As Python, to be put down in FOUND_EARLIER."""
        rules = self.declaration.rules
        given = (
            list(map(str, rules.allow))
            if isinstance(rules.allow, tuple)
            else [f'Open(reason="drawn", to={rules.allow.to})']
        )
        given += [f"columns={ {column: list(own) for column, own in rules.columns} }"] if rules.columns else []
        given += [f'reassign="{rules.reassign}"'] if rules.reassign != "plain" else []
        declaration = f'Declaration(TableRules({", ".join(given)}), "{self.declaration.key}", {self.declaration.adds})'
        people = [
            f"Identity(sub={each.sub!r}, username={each.username!r}, claims={dict(each.claims)!r})"
            for each in self.people
        ]
        parts = [declaration, f"[{', '.join(people)}]", list(self.stored), self.moves, self.outcomes]
        return "Scenario(\n    " + ",\n    ".join(map(str, parts)) + ",\n)"


# --- random plays --------------------------------------------------------------------------------------


class Stage(RuleBasedStateMachine):
    """Hypothesis chooses what is done next. Whoever asks goes on asking until another does; after a failure in a new transaction."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.scene: Play | None = None

    @property
    def play(self) -> Play:
        assert self.scene is not None
        return self.scene

    @initialize(declaration=declarations(), people=people(), data=st.data())
    def somebody_declares(self, declaration: Declaration, people: tuple[Identity, ...], data: st.DataObject) -> None:
        stored = data.draw(stored_rows(declaration, people))
        try:
            self.scene = Play(self.bench, declaration, people, stored)
        except UnsupportedRuleError:  # who may name the key depends on the row, and the key's default is never the same
            self.scene = Play(self.bench, replace(declaration, key="nowhere"), people, stored)

    def teardown(self) -> None:
        if self.scene is not None:
            self.scene.close()

    def perform(self, statement: Statement, alone: bool) -> None:
        """``alone``: in a savepoint of its own, so that a failure does not end what is around it."""
        if not self.play.blocks:
            self.play.do(As(self.play.asker))
        depth = len(self.play.blocks)
        if alone:
            self.play.do(SAVEPOINT)
        self.play.do(statement)
        if len(self.play.blocks) > depth:
            self.play.do(KEEP)

    @rule(statement=statements(an_insert), alone=st.booleans())
    def insert(self, statement: Statement, alone: bool) -> None:
        self.perform(statement, alone)

    @rule(statement=statements(an_update), alone=st.booleans())
    def update(self, statement: Statement, alone: bool) -> None:
        self.perform(statement, alone)

    @rule(statement=statements(an_upsert), alone=st.booleans())
    def upsert(self, statement: Statement, alone: bool) -> None:
        self.perform(statement, alone)

    @rule(statement=statements(a_merge), alone=st.booleans())
    def merge(self, statement: Statement, alone: bool) -> None:
        self.perform(statement, alone)

    @rule(statement=statements(another), alone=st.booleans())
    def do_another_thing(self, statement: Statement, alone: bool) -> None:
        self.perform(statement, alone)

    @rule(block=st.sampled_from([SAVEPOINT, NESTED]))
    def begin_a_block(self, block: str) -> None:
        if 0 < len(self.play.blocks) < 4:
            self.play.do(block)

    @rule(how=st.sampled_from([KEEP, UNDO]))
    def end_the_innermost_block(self, how: str) -> None:
        if self.play.blocks:
            self.play.do(how)

    @rule(who=st.sampled_from([0, 1, 2, 3, 0, 1, 2, 3, None]), how=st.sampled_from([KEEP, KEEP, UNDO]))
    def let_another_ask(self, who: int | None, how: str) -> None:
        while self.play.blocks:
            self.play.do(how)
        self.play.asker = None if who is None else who % len(self.play.people)


ROUNDS = 12
# Up to ten examples are all drawn anew; of more Hypothesis would make most by copying parts of one to another place.
SETTINGS = settings(
    max_examples=10,
    stateful_step_count=60,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

# What has to have occurred in a run, and how often at least; or else it would prove nothing. About half of what is usual.
NEEDED = {
    "insert": {"allowed": 200, "refused": 40, "duplicate": 10},
    "update": {"allowed": 100, "given away": 10, "not visible": 60, "refused": 30},
    "upsert": {"allowed": 200, "not visible": 10, "refused": 50, "forbidden": 20},
    "merge": {"allowed": 60, "given away": 2, "not visible": 60, "refused": 20, "forbidden": 20, "duplicate": 20},
    "select": {"allowed": 40, "not visible": 15},
    "delete": {"allowed": 20, "not visible": 10, "forbidden": 15},
    "reassign": {"allowed": 20, "not visible": 20},
}


def rounds(major: int) -> list[int]:
    """The seeds of the rounds."""
    if again := os.environ.get("RLSKIT_FUZZ_SEED"):
        return [int(again)]
    if times := int(os.environ.get("RLSKIT_FUZZ", "0")):
        return [SystemRandom().getrandbits(32) for _ in range(times * ROUNDS)]
    return [ROUNDS * major + number for number in range(ROUNDS)]


def perform_round(bench: Bench, number: int) -> None:
    def stage() -> Stage:
        return Stage(bench)

    try:
        run_state_machine_as_test(seed(number)(stage), settings=SETTINGS)
    except Exception as error:
        error.add_note(f"the same again: RLSKIT_FUZZ_SEED={number}")
        raise


def test_postgresql_does_what_the_reference_says(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    numbers = rounds(database.server.major)
    with closing(Bench(database)) as bench:
        for number in numbers:
            perform_round(bench, number)

    record_property("differential_steps", bench.outcomes.total())
    for (kind, outcome), times in sorted(bench.outcomes.items()):
        record_property(f"differential {kind} {outcome}", times)
    if len(numbers) >= ROUNDS:
        needed = Counter({(kind, outcome): least for kind, each in NEEDED.items() for outcome, least in each.items()})
        assert needed - bench.outcomes == Counter()


# --- plays that are known ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A play with what comes of each statement. A disagreement is printed as one."""

    declaration: Declaration
    people: Sequence[Identity]
    stored: Sequence[Row]
    moves: Sequence[Move]
    outcomes: Sequence[str]

    def perform(self, bench: Bench) -> None:
        with closing(Play(bench, self.declaration, self.people, self.stored)) as play:
            for move in self.moves:
                play.do(move)
            while play.blocks:
                play.do(KEEP)
            assert play.outcomes == list(self.outcomes)


alice, bob = full(ALICE), full(BOB)
OWNED = TableRules(allow.owner())
EDITED = TableRules(allow.owner(), allow.owners_defined_in("editors").to("read", "update"))
SHOWN = TableRules(allow.owner(), allow.owners_defined_in("editors").to("read"))
# Whoever is an editor reads all, and writes neither title nor price.
GUARDED = TableRules(
    allow.owner(),
    allow.owners_defined_in("editors"),
    columns={
        "title": [allow.owner().to("update"), allow.same().to("create", "read", "delete")],
        "price": [allow.owner().to("create"), allow.same().to("read", "update", "delete")],
    },
)
PROTECTED = TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")})
AUTHORED = TableRules(allow.owner(), allow.owner_defined_in("author").to("create"))

FOUND_EARLIER = {
    "an upsert tells of a row that is not seen, and changes nothing": Scenario(
        Declaration(OWNED),
        [ALICE, BOB],
        [{"id": 1, "owner": bob}],
        [
            As(0),
            Upsert(({"id": 1},), {"content": "x"}),
            As(0),
            Upsert(({"id": 1},), None),
            Upsert(({"id": 1},), None, False),
        ],
        ["refused", "not visible", "not visible"],
    ),
    "the condition of an upsert reads the row that is there before it is asked whether the caller may": Scenario(
        Declaration(OWNED),
        [ALICE, BOB],
        [{"id": 1, "owner": bob, "content": "a"}],
        [
            As(0),
            Upsert(({"id": 1},), {"content": "x"}, content="b"),
            Upsert(({"id": 1},), {"content": "x"}, content="a"),
        ],
        ["not visible", "refused"],
    ),
    "an upsert is refused for the row that it proposes, although that is never stored": Scenario(
        Declaration(GUARDED),
        [ALICE, BOB],
        [{"id": 1, "owner": alice}],
        [
            As(0),
            Upsert(({"id": 1, "price": 0, "owner": bob, "editors": [alice]},), {"content": "x"}),
            Upsert(({"id": 1, "price": 5, "owner": bob, "editors": [alice]},), {"content": "x"}),
        ],
        ["allowed", "refused"],
    ),
    "an upsert needs to read what it takes from the row that it proposes": Scenario(
        Declaration(TableRules(allow.owner(), columns={"note": allow.same().to("create", "update", "delete")})),
        [ALICE],
        [{"id": 1, "owner": alice}],
        [
            As(0),
            Upsert(({"id": 1, "note": "x"},), {"note": "y"}),
            Upsert(({"id": 1, "note": "x"},), {"note": PROPOSED}),
        ],
        ["allowed", "forbidden"],
    ),
    "a merge finds a row that is seen and may not be updated, where an update passes it over": Scenario(
        Declaration(SHOWN),
        [ALICE, BOB],
        [{"id": 1, "owner": bob, "editors": [alice]}],
        [As(0), Update({"content": "x"}, (1,)), Merge(((1, "a"),), ((None, Set({"content": "x"})),))],
        ["not visible", "refused"],
    ),
    "a merge does not find a row that is not seen, and its key is taken": Scenario(
        Declaration(OWNED),
        [ALICE, BOB],
        [{"id": 1, "owner": bob}],
        [As(0), Merge(((1, "a"), (2, "a")), ((None, REMOVE),), ((None, Put({"id": SOURCE})),))],
        ["duplicate"],
    ),
    "a merge is guarded for the columns of all its clauses, in every row": Scenario(
        Declaration(GUARDED),
        [ALICE, BOB],
        [{"id": 1, "owner": bob, "editors": [alice]}],
        [
            As(0),
            Merge(((1, "b"),), ((None, Set({"content": "x"})),)),
            Merge(((1, "b"),), (("a", Set({"title": "x"})), (None, Set({"content": "x"})))),
        ],
        ["allowed", "refused"],
    ),
    "privileges are asked for before rows": Scenario(
        Declaration(PROTECTED),
        [ALICE],
        [],
        [As(0), Update({"content": "x"}, (9,)), Update({"owner": bob}, (9,))],
        ["no such row", "forbidden"],
    ),
    "of several rows all are refused for one, and what was done before the savepoint stays": Scenario(
        Declaration(OWNED, "serial", adds=True),
        [ALICE, BOB],
        [],
        [
            As(0),
            Insert(({},)),
            SAVEPOINT,
            Insert(({"owner": alice}, {"owner": bob})),
            NESTED,
            Insert(({},)),
            UNDO,
            KEEP,
        ],
        ["allowed", "refused", "allowed"],
    ),
    "a new row may be made for others, and is not returned then": Scenario(
        Declaration(AUTHORED),
        [ALICE, BOB],
        [],
        [
            As(0),
            Insert(({"id": 1, "author": alice, "owner": bob},)),
            Insert(({"id": 2, "author": alice, "owner": bob},), ("id",)),
        ],
        ["allowed", "refused"],
    ),
    "one leaves the list, and is shown the row as it leaves": Scenario(
        Declaration(EDITED),
        [ALICE, BOB],
        [{"id": 1, "owner": bob, "editors": [alice, bob]}],
        [As(0), Update({"editors": removed(alice)}, (1,), ("id", "editors")), Select(("id",))],
        ["given away", "not visible"],
    ),
    "the last one leaves no row behind": Scenario(
        Declaration(EDITED),
        [ALICE],
        [{"id": 1, "editors": [alice]}],
        [As(0), Update({"editors": removed(alice)}, (1,))],
        ["refused"],
    ),
    "what is given away explicitly only: an UPDATE that reads a column is stopped, one that reads none is not": Scenario(
        Declaration(TableRules(allow.owner(), reassign="explicit")),
        [ALICE, BOB],
        [{"id": 1, "owner": alice}, {"id": 2, "owner": alice}],
        [As(0), SAVEPOINT, Update({"owner": bob}, (1,)), Reassign(1, "owner", bob), Update({"owner": bob})],
        ["refused", "given away", "given away"],
    ),
    "a claim is blank by the same blanks in every locale": Scenario(
        Declaration(TableRules(allow.owner().identity_claim("email"))),
        [Identity(sub="a1f0", claims={"email": "\x1f"}), Identity(sub="a1f0", claims={"email": " \t\x0b"})],
        [],
        [As(0), Insert(({"id": 1},)), KEEP, As(1), Insert(({"id": 2},))],
        ["allowed", "refused"],
    ),
    "a list of lists names nobody": Scenario(
        Declaration(TableRules(allow.owners_defined_in("editors"))),
        [ALICE],
        [],
        [As(0), Insert(({"id": 1, "editors": [[alice]]},))],
        ["refused"],
    ),
}


@pytest.fixture(scope="module")
def bench(server: Server) -> Iterator[Bench]:
    with fresh_database(server, "differential") as database, closing(Bench(database)) as made:
        yield made


@pytest.mark.parametrize("name", FOUND_EARLIER)
def test_found_earlier(name: str, bench: Bench) -> None:
    FOUND_EARLIER[name].perform(bench)
