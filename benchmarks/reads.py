"""What reading under rules costs beside the same WHERE, written by hand, by a role that no rule binds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any, LiteralString

import psycopg
from psycopg import Connection
from psycopg.sql import SQL, Composed, Identifier, Literal

import rlskit
from benchmarks.database import APP, FULL, MAIL, ME, SUB, SUPPORT, USERNAME, fill, fresh_database, settle
from benchmarks.measure import Spread, interleaved, one_core, ratios, report
from rlskit import Rule, Rules, TableRules, allow
from rlskit.server import Running

ROUNDS, BATCH, WARM_UP = 40, 15, 10


@dataclass(frozen=True)
class Kind:
    """A table under one kind of rule, and the condition that a careful person would write instead."""

    table: str
    says: str
    rule: Rule
    by_hand: LiteralString
    protected: bool = True

    @property
    def rules(self) -> TableRules:
        assert self.rule.column is not None
        columns = {self.rule.column: allow.same().to("read", "delete")} if self.protected else None
        return TableRules(self.table, self.rule, columns=columns)


KINDS = (
    Kind("given", "owner(), may be given away", allow.owner(), "owner = any (array[{full}, {sub}, {username}])", False),
    Kind("kept", "owner()", allow.owner(), "owner = any (array[{full}, {sub}, {username}])"),
    Kind("exact", 'owner().match("full")', allow.owner().match("full"), "owner = {full}"),
    Kind(
        "paid",
        'owner_defined_in("payer").identity_claim("email")',
        allow.owner_defined_in("payer").identity_claim("email"),
        "payer = {mail}",
    ),
    Kind(
        "shared",
        'owners_defined_in("owners")',
        allow.owners_defined_in("owners"),
        "owners && array[{full}, {sub}, {username}]",
    ),
)

# Under rules the condition is `true`, which the planner folds away.
READS: dict[str, LiteralString] = {
    "one row by primary key": "select id, title from {table} where id = %s and {condition}",
    "count of the own rows": "select count(*) from {table} where {condition}",
    "newest 20 of the own rows": "select id, title from {table} where {condition} order by created_at desc limit 20",
}


def run(server: Running) -> None:
    with fresh_database(server, "reads") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        _prepare(conn)
        with one_core(conn) as cores:
            rows = [_row(conn, kind, read) for kind in KINDS for read in READS]
    report(
        f"reads: a million rows, about a hundred of them one's own, in microseconds (PostgreSQL {server.version})",
        f"One connection, {cores}, the role set outside of the timer; {ROUNDS} rounds of {BATCH} executions, interleaved in random order; "
        "the median of a round, then median (quartiles) of the ratio under rules : by hand; noise: by hand twice.\n"
        "Prepared as psycopg does from the sixth execution, and planned anew each time. The condition by hand has its values written in; both answers were held to be the same rows. "
        "Owner columns are protected, where nothing else is said.",
        ["rule", "read", "by hand", "rules", "prepared", "noise", "planned anew", "noise"],
        rows,
    )


def _prepare(conn: Connection[Any]) -> None:
    conn.execute("set maintenance_work_mem = '512MB'")  # only the indexes' building is faster for it
    for kind in KINDS:
        assert kind.rule.column is not None
        fill(conn, kind.table, kind.rule.column)
        conn.execute(SQL("grant select on {} to {}").format(Identifier(kind.table), Identifier(SUPPORT)))
    rlskit.plan(conn, Rules(*(kind.rules for kind in KINDS), role=APP)).apply(conn)
    settle(conn)
    for name, value in ME.settings().items():
        conn.execute("select set_config(%s, %s, false)", [name, value])


def _row(conn: Connection[Any], kind: Kind, read: str) -> list[str]:
    condition = SQL(kind.by_hand).format(
        full=Literal(FULL), sub=Literal(SUB), username=Literal(USERNAME), mail=Literal(MAIL)
    )
    _as(conn, SUPPORT)
    table = Identifier(kind.table)
    own = [id for (id,) in conn.execute(SQL("select id from {} where {}").format(table, condition))]
    assert 90 < len(own) < 210, f"{len(own)} rows are one's own"
    template = READS[read]
    parameters: list[Sequence[int]] = [[id] for id in own] if "%s" in template else [[]]
    by_hand = SQL(template).format(table=table, condition=condition)
    by_rules = SQL(template).format(table=table, condition=SQL("true"))
    assert _answers(conn, SUPPORT, by_hand, parameters) == _answers(conn, APP, by_rules, parameters)
    cells: list[str] = []
    for prepare in (True, False):
        arm = partial(_arm, conn, parameters=parameters, prepare=prepare)
        arms = {"hand": arm(SUPPORT, by_hand), "again": arm(SUPPORT, by_hand), "rules": arm(APP, by_rules)}
        results = interleaved(arms, ROUNDS)
        if prepare:
            cells += [f"{Spread.of(results[name]).median * 1e6:.0f}" for name in ("hand", "rules")]
        cells += [
            f"{ratios(results['rules'], results['hand']):.2f}",
            f"{ratios(results['again'], results['hand']):.2f}",
        ]
    return [kind.says, read, *cells]


def _as(conn: Connection[Any], role: str) -> None:
    conn.execute(SQL("set role {}").format(Identifier(role)))


def _answers(conn: Connection[Any], role: str, query: Composed, parameters: Sequence[Sequence[int]]) -> list[Any]:
    _as(conn, role)
    answers = [conn.execute(query, each).fetchall() for each in parameters]
    assert all(answers)
    return answers


def _arm(
    conn: Connection[Any], role: str, query: Composed, *, parameters: Sequence[Sequence[int]], prepare: bool
) -> Callable[[], float]:
    """A batch of executions by the role: the median of their seconds."""
    following = cycle(parameters)

    def execute() -> float:
        began = perf_counter()
        conn.execute(query, next(following), prepare=prepare).fetchall()
        return perf_counter() - began

    def batch(size: int = BATCH) -> float:
        _as(conn, role)
        execute()
        return median(execute() for _ in range(size))

    batch(WARM_UP)
    return batch
