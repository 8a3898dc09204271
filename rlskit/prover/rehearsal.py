"""Everything that a proof needs, made ready inside one transaction that is rolled back: rows, people, cells, the stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection
from psycopg.errors import InFailedSqlTransaction, InvalidSavepointSpecification
from psycopg.rows import scalar_row, tuple_row

from rlskit import auditor, catalog, compiler, runtime
from rlskit.errors import PlanError, RlskitError, UnfillableError
from rlskit.facts import Database
from rlskit.filler.inserter import Filler
from rlskit.filler.shapes import Shape
from rlskit.names import QualifiedName
from rlskit.prover import people, questions, scenes
from rlskit.prover.cells import Cell, Probe, unprovable
from rlskit.prover.ground import Ground, Stored
from rlskit.prover.proof import Failure, Result
from rlskit.prover.scenes import Naming
from rlskit.prover.stage import Stage, TransactionStage
from rlskit.rules import Rules, TableRules, Unmanaged
from rlskit.words import did_you_mean

_WHOLE_NAME = 60  # more than the characters of anybody whom a proof makes up, as <sub>::<username>

Values: TypeAlias = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Rehearsal:
    """The cells of the tables, and the stage where they are asked.

    ``filler`` made their rows and knows the tables; ``owners`` names who owns each table; ``signed`` says whether identities have to be signed.
    """

    rules: Rules
    cells: tuple[Cell, ...]
    stage: Stage
    filler: Filler
    owners: Mapping[QualifiedName, str]
    signed: bool

    def prove(self, cell: Cell) -> Result:
        """Ask every probe of the cell; the transaction is afterwards as it was."""
        asked = ((probe, _outcome(self.stage, probe)) for probe in cell.probes)
        return Result(cell, tuple(Failure(probe, did) for probe, did in asked if did))


@contextmanager
def rehearse(
    conn: Connection[Any],
    rules: Rules,
    *tables: str | QualifiedName,
    values: Values | None = None,
    seed: int | None = None,
) -> Iterator[Rehearsal]:
    """Open a transaction on ``conn``, which is a superuser's, make everything ready in it, and roll it back at the end.

    ``tables`` are those to prove, without them all that have rules. ``values`` say what cannot be made up for required columns: table -> column ->
    text. ``seed`` makes the same people again. Raises PlanError for a table without rules, and for a connection that may not do that.
    """
    chosen = chosen_tables(rules, tables)
    with conn.transaction(force_rollback=True):
        _check_login(conn)
        with catalog.reading(conn):
            database = catalog.read(conn, compiler.compile(rules).tables, rules.role)
        owners = {name: facts.owner for name, facts in database.tables.items()}
        stage = TransactionStage(conn, rules.role, owners, signed=database.server.signed)
        cells, filler = prepare(conn, rules, chosen, database, values=values, seed=seed)
        yield Rehearsal(rules, cells, stage, filler, owners, database.server.signed)


def prepare(
    conn: Connection[Any],
    rules: Rules,
    tables: Iterable[TableRules],
    database: Database,
    *,
    values: Values | None = None,
    seed: int | None = None,
) -> tuple[tuple[Cell, ...], Filler]:
    """Store the rows of these tables past the rules, in the transaction of ``conn``, and return their cells.

    Raises PlanError for values of a table that is not there.
    """
    _check_values(conn, values or {})
    chance = SystemRandom() if seed is None else Random(seed)  # noqa: S311 - a seed is asked for to get the same again
    filler = Filler(conn, values=values, chance=chance)
    found: list[Cell] = []
    for table in tables:
        try:
            with conn.transaction():
                found += questions.cells(_ground(conn, rules, table, database, filler, chance))
        except (RlskitError, psycopg.DatabaseError) as error:
            found += unprovable(table.name, f"its rows could not be made: {_words(error)}")
    return tuple(found), filler


def chosen_tables(rules: Rules, tables: Iterable[str | QualifiedName] = ()) -> list[TableRules]:
    """The tables that are named, or all but those that the rules leave alone. Raises PlanError for one without rules."""
    named = list(dict.fromkeys(auditor.rules_of(rules, each) for each in tables))
    if alone := [each for each in named if isinstance(each.allow, Unmanaged)]:
        raise PlanError(f"table `{alone[0].name}` is {alone[0].allow}", hint="there is nothing to prove: name another")
    return named or [each for each in rules.tables if not isinstance(each.allow, Unmanaged)]


def _check_values(conn: Connection[Any], values: Values) -> None:
    """Raise PlanError for values of a table that is not there, with its schema or without: they would be for nothing."""
    if not values:
        return
    rows = conn.cursor(row_factory=tuple_row).execute(runtime.script("prover/known_tables.sql").encode()).fetchall()
    known = {name: None for schema, table in rows for name in (table, str(QualifiedName(schema, table)))}
    for each in values:
        if each not in known:
            raise PlanError(f"values are said for `{each}`, and there is no such table", hint=did_you_mean(each, known))


def _check_login(conn: Connection[Any]) -> None:
    """Raise PlanError for anybody but a superuser: nobody else may store rows past the rules and ask as another login."""
    cursor = conn.cursor(row_factory=scalar_row)
    if cursor.execute("select current_setting('is_superuser')").fetchone() != "on":
        raise PlanError(
            f"login `{conn.info.user}` is no superuser",
            hint="a proof stores rows past the rules and asks as ordinary logins that it makes, all in one transaction that is rolled back: "
            "connect as a superuser, to a copy of the database or to one for tests",
        )


def _ground(
    conn: Connection[Any], rules: Rules, table: TableRules, database: Database, filler: Filler, chance: Random
) -> Ground:
    shape = filler.shape(table.name)
    uuids = {each.name for each in shape.columns if each.type == "uuid"}
    short = {each.name for each in shape.columns if each.kind.base.category == "S" and 0 < each.modifier < _WHOLE_NAME}
    named = scenes.namings(table, uuids | short, {each.name for each in shape.columns if each.not_null})
    claims, uuid_claims = scenes.claims_of(table), scenes.uuid_claims_of(table, uuids)
    signed = database.server.signed

    def new_cast() -> people.Cast:
        return people.new_cast(claims, uuid_claims, chance)

    asked = scenes.scenes(table, named, new_cast, uuids=uuid_claims, signed=signed)
    stored = [Stored(each, filler.insert(table.name, each.owners or _marked(filler, shape))) for each in asked]
    casts = [new_cast() for _ in range(sum(len(each.ways) for each in named) or 1)]
    for naming in named:
        if any(naming.column in key.columns for key in shape.foreign_keys):
            _make_parents(filler, table, shape, naming, [*(each.scene.cast for each in stored), *casts])
    ground = Ground(
        rules=table,
        shape=shape,
        named=named,
        stored=stored,
        casts=casts,
        new={},
        uuids=uuid_claims,
        signed=signed,
        owner_may_read=_is_in(conn, database.tables[table.name].owner, rules.role),
        parts=tuple(sorted(name for name, facts in database.tables.items() if table.name in facts.ancestors)),
    )
    if not ground.key(stored[0].row, ground.columns):
        raise PlanError(f"nothing tells one row of `{table.name}` from another", hint="give the table a primary key")
    ground = ground.with_new_row(lambda given: filler.new(table.name, given))
    return replace(ground, told_apart=dict(_told_apart(filler, table, ground)))


def _marked(filler: Filler, shape: Shape) -> dict[str, Any]:
    """What tells a row apart that has neither owners nor a key: a value in its first column of text."""
    texts = [each.name for each in shape.columns if each.writable and each.kind.base.category == "S"]
    return {} if shape.key or not texts else {texts[0]: filler.value(shape.table, texts[0])}


def _told_apart(filler: Filler, table: TableRules, ground: Ground) -> Iterator[tuple[str, Any]]:
    """Values that are no defaults, for the columns with rules of their own and for one without: who sets them may depend on the row."""
    owners = {each.column for each in ground.named}
    free = [each for each in ground.writable if each not in ground.new and each not in owners]
    ruled = dict(table.columns)
    for column in ground.open_to("create", [each for each in free if each in ruled]):
        yield column, filler.value(table.name, column)
    for column in ground.open_to("create", [each for each in free if each not in ruled] if ruled else ()):
        if column not in ground.shape.key:
            with suppress(UnfillableError):
                yield column, filler.value(table.name, column)
                return


def _make_parents(
    filler: Filler, table: TableRules, shape: Shape, naming: Naming, casts: Iterable[people.Cast]
) -> None:
    """The rows that an owner column with a foreign key leads to, for everybody whose name may be written."""
    for cast in casts:
        names = [way.of(cast.owner) for way in naming.ways]
        for name in (*names, *(naming.ways[0].of(each) for each in (cast.co_owner, cast.stranger))):
            filler.new(table.name, {naming.column: naming.holding(name)})


def _is_in(conn: Connection[Any], owner: str, role: str) -> bool:
    """Whether the policies for ``role`` are for the owner of a table too."""
    query = "select pg_has_role(%s, %s, 'usage') and not rolsuper from pg_roles where rolname = %s"
    return bool(conn.cursor(row_factory=scalar_row).execute(query, [owner, role, owner]).fetchone())


# --- what became of a probe, in words ----------------------------------------------------------------------


def _outcome(stage: Stage, probe: Probe) -> str:
    """What PostgreSQL did, where it is not what is expected; nothing where it is."""
    try:
        performed = stage.perform(probe)
    except (InFailedSqlTransaction, InvalidSavepointSpecification) as error:  # there is not even a savepoint any more
        raise PlanError(
            "the transaction of the proof was aborted, and nothing more can be asked in it",
            hint="rlskit check tells what of the rules is not in this database",
        ) from error
    except psycopg.DatabaseError as error:
        return f"failed: {_words(error)}"
    answer = performed.answer
    refusal = f"refused: {_words(answer.error)}" if answer.error is not None else answer.outcome
    if not performed.ready:
        return f"{refusal}, when the row was given away before"
    if answer.outcome != probe.expected:
        return (
            f"{answer.outcome}: {answer.rows} row{'' if answer.rows == 1 else 's'}" if answer.error is None else refusal
        )
    if not performed.kept:
        return "allowed, and the owner is stored otherwise than the rules say"
    if probe.attempt.key and answer.rows > 1:
        return f"allowed, and {answer.rows} rows came of it"
    return ""


def _words(error: Exception) -> str:
    """The error in one line, without its detail, which would quote values."""
    if isinstance(error, RlskitError):
        return f"{error.message}; {error.hint}" if error.hint else error.message
    diag = getattr(error, "diag", None)
    return (diag.message_primary if diag else None) or type(error).__name__
