"""How ``sql``, ``plan``, ``apply`` and ``check`` grow with the number of tables: time, round trips, memory."""

from __future__ import annotations

import tracemalloc
from functools import partial

import psycopg
from psycopg.sql import SQL, Identifier

import rlskit
from benchmarks.database import APP, fresh_database
from benchmarks.measure import median_seconds, report, round_trips, seconds
from rlskit import Rules, TableRules, allow
from rlskit.planner import compare
from rlskit.server import Running

SIZES = (100, 300, 1000)
TIMES = 3


def run(server: Running) -> None:
    report(
        f"tables: rules for many tables, in seconds (PostgreSQL {server.version})",
        "Each table: a serial, five text columns, one owner or a list of editors, one protected column. "
        f"Median of {TIMES}, apply once; round trips by libpq's trace; peak of `sql` by tracemalloc.",
        ["tables", "sql", "plan", "apply", "check", "plan's round trips", "check's", "memory of sql", "per table"],
        [_row(server, size) for size in SIZES],
    )


def _row(server: Running, size: int) -> list[str]:
    names = [f"t{number:04}" for number in range(size)]
    rules = Rules(
        *(
            TableRules(
                name,
                allow.owner(),
                allow.owners_defined_in("editors"),
                columns={"e": allow.same().to("create", "read", "delete")},
            )
            for name in names
        ),
        role=APP,
    )
    rlskit.sql(rules)  # what is kept from call to call counts for none of them
    memory = _peak(rules)
    with fresh_database(server, f"tables_{size}") as dsn, psycopg.connect(dsn) as conn:
        for name in names:
            conn.execute(
                SQL("create table {} (id serial primary key, a text, b text, c text, d text, e text)").format(
                    Identifier(name)
                )
            )
        conn.commit()
        plan, check = partial(rlskit.plan, conn, rules), partial(compare, conn, rules)
        planning, planning_trips = median_seconds(plan, TIMES), round_trips(conn, plan)
        made = plan()
        applying = seconds(partial(made.apply, conn))
        assert check().conforms
        checking, checking_trips = median_seconds(check, TIMES), round_trips(conn, check)
    return [
        str(size),
        f"{median_seconds(partial(rlskit.sql, rules), TIMES):.2f}",
        f"{planning:.2f}",
        f"{applying:.1f}",
        f"{checking:.2f}",
        str(planning_trips),
        str(checking_trips),
        f"{memory / 1e6:.1f} MB",
        f"{memory / size / 1e3:.1f} kB",
    ]


def _peak(rules: Rules) -> int:
    tracemalloc.start()
    rlskit.sql(rules)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
