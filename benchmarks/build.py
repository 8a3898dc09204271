"""What a table with a million rows feels when rules come to it: how long each phase takes, and how long others wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random
from threading import Event
from time import perf_counter, sleep
from typing import Any, LiteralString

import psycopg
from psycopg import Connection

import rlskit
from benchmarks.database import APP, ROWS, fill, fresh_database, settle
from benchmarks.measure import Span, report
from rlskit import Plan, Rules, TableRules, allow, installer
from rlskit.server import Running

PAUSE = 0.001  # seconds between two statements of the reader, and of the writer
QUIET = 3  # seconds in which they are watched for comparison
RULES = Rules(TableRules("busy", allow.owner(), allow.owners_defined_in("owners")), role=APP)


def run(server: Running) -> None:
    with fresh_database(server, "build") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        fill(conn, "busy", "owner", "owners")
        settle(conn)
        installer.install(conn)
        stop = Event()
        with ThreadPoolExecutor() as pool:
            reader = pool.submit(_statements, dsn, "select title from busy where id = %s", stop)
            writer = pool.submit(_statements, dsn, "update busy set title = title || '.' where id = %s", stop)
            try:
                phases = dict(_apply(conn))
                began = perf_counter()
                sleep(QUIET)
                phases["(nothing is done, for comparison)"] = Span(began, perf_counter())
            finally:
                stop.set()
            reads, writes = reader.result(), writer.result()
    rows = [
        [says, f"{phase.seconds:.3f}", *(f"{_longest(spans, phase) * 1e3:.1f}" for spans in (reads, writes))]
        for says, phase in phases.items()
    ]
    report(
        f"build: rules for a table with a million rows (PostgreSQL {server.version})",
        "Once, while another connection reads and one updates a row by primary key, a millisecond apart: seconds of each phase, "
        f"and the longest statement in it, in milliseconds ({len(reads):,} reads, {len(writes):,} updates in all).",
        ["phase", "seconds", "longest read", "longest update"],
        rows,
    )


def _apply(conn: Connection[Any]) -> Iterator[tuple[str, Span]]:
    began = perf_counter()
    made = rlskit.plan(conn, RULES)
    marks = [perf_counter()]
    yield "plan, which also looks for empty names", Span(began, marks[0])
    made.apply(conn, on_progress=lambda line: marks.append(perf_counter()))
    marks.append(perf_counter())
    for says, (began, ended) in zip([*_phases(made), "verify"], pairwise(marks), strict=True):
        yield says, Span(began, ended)


def _phases(made: Plan) -> Iterator[str]:
    """What each of apply's progress lines stands for."""
    for phase in ("before", "table", "after"):
        steps = [step for step in made.steps if step.phase == phase]
        if phase == "table":
            yield f"one transaction: {len(steps)} steps"
        else:
            yield from (step.says for step in steps)


def _statements(dsn: str, statement: LiteralString, stop: Event) -> list[Span]:
    spans, random = [], Random(0)
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not stop.is_set():
            id, began = random.randint(1, ROWS), perf_counter()
            conn.execute(statement, [id])
            spans.append(Span(began, perf_counter()))
            sleep(PAUSE)
    return spans


def _longest(spans: list[Span], phase: Span) -> float:
    return max((span.seconds for span in spans if span.meets(phase)), default=0.0)
