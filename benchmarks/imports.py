"""What ``import rlskit`` adds to ``import psycopg``, and that it brings nothing heavy along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks.measure import Spread, bytecode_cached, differences, interleaved, report

ROUNDS = 15
HEAVY = ("alembic", "pydantic", "rich", "sqlalchemy", "typer")

_TIMED = """\
from time import perf_counter, process_time
wall, cpu = perf_counter(), process_time()
import {modules}
print((perf_counter() - wall) * 1000, (process_time() - cpu) * 1000)
"""
_NAMED = f"import sys, rlskit; print(*sorted(set({HEAVY}) & sys.modules.keys()))"


def run() -> None:
    with bytecode_cached() as environment:

        def printed(code: str) -> list[str]:
            return subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
            ).stdout.split()

        def importing(modules: str) -> Callable[[], tuple[float, float]]:
            def once() -> tuple[float, float]:
                wall, cpu = map(float, printed(_TIMED.format(modules=modules)))
                return wall, cpu

            once()
            return once

        arms = {
            "psycopg": importing("psycopg"),
            "again": importing("psycopg"),
            "rlskit": importing("psycopg, rlskit"),
        }
        results = interleaved(arms, ROUNDS)
        heavy = printed(_NAMED)
    rows = []
    for kind, position in (("elapsed", 0), ("processor", 1)):
        psycopg, again, rlskit = ([each[position] for each in results[name]] for name in arms)
        rows.append(
            [
                kind,
                f"{Spread.of(psycopg).median:.1f}",
                f"{Spread.of(rlskit).median:.1f}",
                f"{differences(rlskit, psycopg):.1f}",
                f"{differences(again, psycopg):+.1f}",
            ]
        )
    report(
        "imports: what `import rlskit` adds to `import psycopg`, in milliseconds",
        f"{ROUNDS} rounds of fresh processes with cached bytecode, interleaved; median, and median (quartiles) of the difference in a round.",
        ["time", "psycopg", "psycopg, rlskit", "rlskit adds", "psycopg twice (noise)"],
        rows,
    )
    print(f"  Of {', '.join(HEAVY)} it imports: {', '.join(heavy) or 'none'}.")
    assert not heavy
