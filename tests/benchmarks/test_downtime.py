"""The readers and writers of the benchmark are at work in each of its phases, on a table that is small."""

from __future__ import annotations

import psycopg

from benchmarks.database import APP
from benchmarks.downtime import felt_in, measure
from benchmarks.measure import Span
from rlskit.stages import STAGES
from tests.support import Server


def test_each_phase_is_felt_by_readers_and_writers(server: Server) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(f"create role {APP} login")
        try:
            phases = measure(server.running, rows=1000, workers=1, quiet=0.1, held=0.4)
        finally:
            conn.execute(f"drop role {APP}")

    assert [phase.says for phase in phases][1:5] == [f"first apply, stage {stage}" for stage in STAGES]
    assert [phase.says for phase in phases if min(phase.reads.transactions, phase.writes.transactions) < 2] == []


def test_a_transaction_counts_in_every_phase_that_it_meets_with_all_of_its_time() -> None:
    spans = [Span(0, 1), Span(1, 9), Span(6, 7), Span(9.5, 10)]

    assert felt_in(Span(5, 8), spans)[::2] == (2, 8)
