"""What it costs to say who is asking: a transaction with one read, with and without an identity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

import rlskit
from benchmarks.database import APP, FULL, ME, fresh_database
from benchmarks.measure import Spread, interleaved, one_core, ratios, report, round_trips
from rlskit import Rules, TableRules, allow, as_user
from rlskit.server import Running

ROUNDS, BATCH = 80, 20


def run(server: Running) -> None:
    with fresh_database(server, "identity") as dsn:
        with psycopg.connect(dsn) as conn:
            _prepare(conn)
        with psycopg.connect(make_conninfo(dsn, user=APP)) as conn, one_core(conn) as cores:
            rows = _rows(conn)
    report(
        f"identity: a transaction with one read by primary key, in microseconds (PostgreSQL {server.version})",
        f"One connection over a Unix socket, {cores}; {ROUNDS} rounds of {BATCH} transactions, interleaved in random order; "
        "median (quartiles); the ratio is to the first line, round by round; round trips by libpq's trace.",
        ["transaction", "a transaction", "ratio", "round trips"],
        rows,
    )


def _prepare(conn: Connection[Any]) -> None:
    for table in ("plain", "ruled"):
        name = Identifier(table)
        conn.execute(SQL("create table {} (id serial primary key, content text, owner text)").format(name))
        conn.execute(SQL("insert into {} (content, owner) values ('milk', %s)").format(name), [FULL])
    conn.execute(SQL("grant select on plain to {}").format(Identifier(APP)))
    conn.commit()
    rules = Rules(TableRules("ruled", allow.owner(), columns={"owner": allow.same().to("read", "delete")}), role=APP)
    rlskit.plan(conn, rules).apply(conn)


def _rows(conn: Connection[Any]) -> list[list[str]]:
    def plain() -> None:
        with conn.transaction():
            _read(conn, "plain")

    def by_hand() -> None:
        with conn.transaction():
            conn.execute("select set_config('rlskit.sub', %s, true)", [ME.sub])
            _read(conn, "plain")

    def identified(table: str) -> None:
        with as_user(conn, ME):
            _read(conn, table)

    transactions: dict[str, Callable[[], None]] = {
        "conn.transaction()": plain,
        "the same again (noise)": plain,
        "conn.transaction(), and set_config by hand": by_hand,
        "as_user, a table without rules": partial(identified, "plain"),
        "as_user, a table with owner()": partial(identified, "ruled"),
    }
    for transaction in transactions.values():
        _batch(transaction)  # prepared from now on
    results = interleaved({name: partial(_batch, each) for name, each in transactions.items()}, ROUNDS)
    first = results["conn.transaction()"]
    return [
        [
            name,
            f"{Spread.of([each * 1e6 for each in results[name]]):.0f}",
            f"{ratios(results[name], first):.2f}",
            str(round_trips(conn, transaction)[0]),
        ]
        for name, transaction in transactions.items()
    ]


def _read(conn: Connection[Any], table: str) -> None:
    assert conn.execute(SQL("select content from {} where id = %s").format(Identifier(table)), [1]).fetchone()


def _batch(transaction: Callable[[], None]) -> float:
    began = perf_counter()
    for _ in range(BATCH):
        transaction()
    return (perf_counter() - began) / BATCH
