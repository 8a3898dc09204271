"""How ``sql``, ``plan``, ``apply`` and ``check`` grow with the number of tables: time, round trips, memory."""

from __future__ import annotations

import tracemalloc
from functools import cache, partial
from statistics import median

import psycopg
from psycopg.sql import SQL, Identifier

import rlskit
from benchmarks.database import APP, fresh_database
from benchmarks.measure import report, round_trips, timed
from rlskit import Rules, TableRules, allow
from rlskit.planner import compare
from rlskit.server import Running

SIZES = (100, 300, 1000)
TIMES = 3


def run(server: Running) -> None:
    report(
        f"tables: rules for many tables, in seconds (PostgreSQL {server.version})",
        "Each table: a serial, five text columns, one owner or a list of editors, one protected column. "
        f"sql: median of {TIMES}, its peak by tracemalloc; the others once, with round trips by libpq's trace.",
        ["tables", "sql", "plan", "apply", "check", "plan's round trips", "check's", "memory of sql", "per table"],
        [_row(server, size) for size in SIZES],
    )


def _row(server: Running, size: int) -> list[str]:
    rules = _rules(size)
    sql, memory = _without_server(size)
    with fresh_database(server, f"tables_{size}") as dsn, psycopg.connect(dsn) as conn:
        for table in rules.tables:
            columns = SQL("id serial primary key, a text, b text, c text, d text, e text")
            conn.execute(SQL("create table {} ({})").format(Identifier(table.name.name), columns))
        conn.commit()
        planning_trips, (planning, made) = round_trips(conn, partial(timed, partial(rlskit.plan, conn, rules)))
        applying, _ = timed(partial(made.apply, conn))
        checking_trips, (checking, checked) = round_trips(conn, partial(timed, partial(compare, conn, rules)))
        assert checked.conforms
    return [
        str(size),
        f"{sql:.2f}",
        f"{planning:.2f}",
        f"{applying:.1f}",
        f"{checking:.2f}",
        str(planning_trips),
        str(checking_trips),
        f"{memory / 1e6:.1f} MB",
        f"{memory / size / 1e3:.1f} kB",
    ]


def _rules(size: int) -> Rules:
    rules, protected = (allow.owner(), allow.owners_defined_in("editors")), allow.same().to("create", "read", "delete")
    return Rules(*(TableRules(f"t{number:04}", *rules, columns={"e": protected}) for number in range(size)), role=APP)


@cache
def _without_server(size: int) -> tuple[float, int]:
    """Seconds and peak memory of ``sql``, which no server takes part in."""
    rules = _rules(size)
    taken = median(timed(partial(rlskit.sql, rules))[0] for _ in range(TIMES))
    tracemalloc.start()
    rlskit.sql(rules)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken, peak
