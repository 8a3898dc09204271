"""The line of the benchmarks counts what a client waits for, and takes as long as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import Connection
from psycopg.generators import fetch
from psycopg.pq import ExecStatus

from benchmarks.wire import Counts, wire
from rlskit import as_user, installer
from tests.support import ALICE, Database, Server, fresh_database

Action: TypeAlias = Callable[[Connection[Any]], object]


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[Database]:
    with fresh_database(server, "wire") as made:
        with made.connect() as conn:
            installer.install(conn)
        yield made


def counted(database: Database, action: Action, rtt: float = 0) -> tuple[Counts, float]:
    """What passes when it is done for the second time, and how many seconds it takes."""
    with wire(database.app_dsn, rtt) as line, psycopg.connect(line.dsn, autocommit=True) as conn:
        action(conn)
        began = perf_counter()
        counts, _ = line.counted(lambda: action(conn))
        return counts, perf_counter() - began


def select(conn: Connection[Any]) -> None:
    assert conn.execute("select 1").fetchone() == (1,)


def transaction(conn: Connection[Any]) -> None:
    with conn.transaction():
        select(conn)


def separate_setting(conn: Connection[Any]) -> None:
    with conn.transaction():
        conn.execute("select set_config('rlskit.sub', %s, true)", [ALICE.sub])
        select(conn)


def identified(conn: Connection[Any]) -> None:
    with as_user(conn, ALICE):
        select(conn)


def pipeline(conn: Connection[Any]) -> None:
    with conn.pipeline():
        cursors = [conn.execute("select %s::int", [number]) for number in range(20)]
    assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(20)]


def pipeline_read_half_way(conn: Connection[Any]) -> None:
    with conn.pipeline():
        conn.execute("select 1")
        select(conn)
        conn.execute("select 1")


def pipeline_going_on_after_a_failure(conn: Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.PipelineAborted), conn.pipeline():
        with pytest.raises(psycopg.errors.UndefinedColumn):
            conn.execute("select missing").fetchone()
        conn.execute("select 1")  # is sent, and never answered
    select(conn)


ROUND_TRIPS: dict[Action, int] = {
    select: 1,
    transaction: 3,
    separate_setting: 4,
    identified: 3,
    pipeline: 1,
    pipeline_read_half_way: 2,
    pipeline_going_on_after_a_failure: 3,
}


@pytest.mark.parametrize("rtt", [0, 0.002])
@pytest.mark.parametrize("action", ROUND_TRIPS, ids=lambda action: action.__name__)
def test_a_round_trip_is_that_the_client_waits(action: Action, rtt: float, database: Database) -> None:
    counts, seconds = counted(database, action, rtt)

    assert counts.round_trips == ROUND_TRIPS[action]
    assert seconds >= ROUND_TRIPS[action] * rtt


def test_what_is_sent_before_the_first_answer_is_one_round_trip(database: Database) -> None:
    """However many pieces it comes in, and however many answers end with the server being ready."""

    def one_by_one(conn: Connection[Any]) -> None:
        conn.pgconn.enter_pipeline_mode()
        for _ in range(3):
            conn.pgconn.send_query_params(b"select 1", None)
            conn.pgconn.pipeline_sync()
            conn.pgconn.flush()
        for status in (ExecStatus.TUPLES_OK, None, ExecStatus.PIPELINE_SYNC) * 3:
            result = conn.wait(fetch(conn.pgconn))
            assert (result and result.status) == status
        conn.pgconn.exit_pipeline_mode()

    assert counted(database, one_by_one, 0.2)[0].round_trips == 1


def test_messages_and_bytes_are_counted_each_way(database: Database) -> None:
    counts, _ = counted(database, lambda conn: conn.execute("select 1", prepare=False))

    query = len(b"Q") + 4 + len(b"select 1\0")
    described, row = len(b"T") + 4 + 2 + len(b"?column?\0") + 18, len(b"D") + 4 + 2 + 4 + len(b"1")
    complete, ready = len(b"C") + 4 + len(b"SELECT 1\0"), len(b"Z") + 4 + 1
    assert counts == Counts(1, 1, query, 4, described + row + complete + ready)


def test_the_delay_is_a_distance_and_no_narrow_line(database: Database) -> None:
    """Or else it would be added to each of the pieces in which a long answer comes."""
    length = 2**23

    def long_answer(conn: Connection[Any]) -> None:
        assert conn.execute(f"select length(repeat('a', {length})), repeat('a', {length})").fetchone()

    counts, seconds = counted(database, long_answer, 0.2)

    assert counts.round_trips == 1
    assert counts.bytes_received > length
    assert 0.2 <= seconds < 5


def test_each_connection_is_counted_for_itself(database: Database) -> None:
    with wire(database.app_dsn) as line, psycopg.connect(line.dsn) as one, psycopg.connect(line.dsn) as other:
        assert line.counts.round_trips == 2
        counts, _ = line.counted(lambda: (transaction(one), transaction(other)))

    assert counts.round_trips == 6


def test_who_is_still_connected_at_the_end_is_cut_off(database: Database) -> None:
    with wire(database.app_dsn) as line:
        conn = psycopg.connect(line.dsn)

    with conn, pytest.raises(psycopg.OperationalError):
        select(conn)
