"""Nobody ever asks as somebody else: through pools of one and of many, and through PgBouncer in transaction mode, whatever goes wrong.

``RLSKIT_STRESS=100`` performs a hundred times as many transactions, and never the same twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import guard, scrub
from tests.stress import workload
from tests.stress.pgbouncer import bounced
from tests.stress.workload import Plan, Striker, Worker
from tests.support import Database, Server, fresh_database

TRANSACTIONS = 200  # for each way; in random order, but each kind of event has its share
TIMES = int(os.environ.get("RLSKIT_STRESS", "0"))
LIMIT = 120 * max(TIMES, 1)  # seconds; only what hangs takes so long

Shares = Mapping[Worker, Sequence[Plan]]


@dataclass(frozen=True)
class Way:
    """How the transactions reach the server."""

    workers: int
    pool: int = 0  # connections of psycopg's pool; without one every worker has a connection of its own
    bouncer: int = 0  # PgBouncer's connections to the server; without it the server is asked itself
    tasks: bool = False  # asyncio's, instead of threads
    scrubbed: bool = True
    autocommit: bool = False

    @property
    def kinds(self) -> set[str]:
        """What has to happen at least once."""
        return workload.OF_TASKS if self.tasks else workload.OF_THREADS

    @property
    def pooling(self) -> dict[str, Any]:
        """Options of the pool."""
        return {
            "min_size": self.pool,
            "max_size": self.pool,
            "kwargs": self.connecting,
            "configure": guard,
            "reset": scrub if self.scrubbed else None,
            "timeout": 60,
        }

    @property
    def driver(self) -> Any:
        return psycopg.AsyncConnection if self.tasks else psycopg.Connection

    @property
    def connecting(self) -> dict[str, Any]:
        """Options of a connection. PgBouncer knows statements that are prepared only since 1.21."""
        return {"autocommit": self.autocommit} | ({"prepare_threshold": None} if self.bouncer else {})


WAYS = {
    "threads on a pool of one": Way(workers=6, pool=1),
    "threads on a pool of many": Way(workers=8, pool=4, autocommit=True),
    "threads on a pool without scrub": Way(workers=8, pool=3, scrubbed=False),
    "tasks on a pool of one": Way(workers=6, pool=1, tasks=True, autocommit=True),
    "tasks on a pool of many": Way(workers=12, pool=4, tasks=True),
    "tasks on a pool without scrub": Way(workers=8, pool=3, tasks=True, scrubbed=False),
    "threads through PgBouncer with one": Way(workers=6, bouncer=1),
    "threads through PgBouncer with two": Way(workers=8, bouncer=2, autocommit=True),
    "tasks through PgBouncer with two": Way(workers=8, bouncer=2, tasks=True),
    "threads on a pool through PgBouncer": Way(workers=8, pool=4, bouncer=2),
    "tasks on a pool through PgBouncer": Way(workers=12, pool=6, bouncer=2, tasks=True, scrubbed=False),
}


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Database]:
    """One for all ways: what one of them has left is there for the next."""
    with fresh_database(server, "stress") as made:
        workload.furnish(made)
        yield made


@pytest.mark.parametrize("name", WAYS)
def test_nobody_ever_asks_as_somebody_else(
    name: str, stage: Database, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    number = chosen_seed(name)
    try:
        events, wrong = perform(WAYS[name], stage, tmp_path, workload.plans(number, TRANSACTIONS * max(TIMES, 1)))
        for event, times in sorted(events.items()):
            record_property(f"stress {event}", times)
        record_property("stress_transactions", events[workload.TRANSACTIONS])
        assert wrong == []
        assert workload.misplaced(stage) == []
        assert events[workload.TRANSACTIONS] > 0
        assert {event for event in WAYS[name].kinds if not events[event]} == set()
    except BaseException as error:
        error.add_note(f"the same plans again: RLSKIT_STRESS={TIMES} RLSKIT_STRESS_SEED={number}")
        raise


def chosen_seed(name: str) -> int:
    if again := os.environ.get("RLSKIT_STRESS_SEED"):
        return int(again)
    return SystemRandom().getrandbits(32) if TIMES else list(WAYS).index(name)


def perform(way: Way, stage: Database, folder: Path, plans: Sequence[Plan]) -> tuple[Counter[str], list[str]]:
    """What happened, and what should not have."""
    with ExitStack() as stack:
        admin = stack.enter_context(stage.connect(autocommit=True))
        dsn = stack.enter_context(bounced(stage, folder, way.bouncer)) if way.bouncer else stage.app_dsn
        shares = {
            Worker(number, way.tasks, Striker(admin, stage.app)): plans[number :: way.workers]
            for number in range(way.workers)
        }
        if way.tasks:
            asyncio.run(asyncio.wait_for(in_tasks(way, dsn, shares), LIMIT))
        else:
            in_threads(way, dsn, shares)
    return sum((worker.events for worker in shares), Counter()), [each for worker in shares for each in worker.wrong]


async def in_tasks(way: Way, dsn: str, shares: Shares) -> None:
    async with AsyncExitStack() as stack:
        pool: AsyncConnectionPool[Any] | None = None
        if way.pool:
            pool = await stack.enter_async_context(AsyncConnectionPool(dsn, open=False, **way.pooling))
        async with asyncio.TaskGroup() as group:
            for worker, share in shares.items():
                group.create_task(work(way, dsn, pool, worker, share))
        await look_around(next(iter(shares)), pool)


def in_threads(way: Way, dsn: str, shares: Shares) -> None:
    raised: list[BaseException] = []

    def run(pool: Any, worker: Worker, share: Sequence[Plan]) -> None:
        try:
            workload.in_thread(work(way, dsn, pool, worker, share))
        except BaseException as error:
            raised.append(error)

    with ConnectionPool(dsn, **way.pooling) if way.pool else nullcontext() as pool:
        threads = [threading.Thread(target=run, args=(pool, *each), daemon=True) for each in shares.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        if raised:
            raise BaseExceptionGroup("of the threads", raised)
        workload.in_thread(look_around(next(iter(shares)), pool))


async def work(way: Way, dsn: str, pool: Any, worker: Worker, share: Sequence[Plan]) -> None:
    """A worker's share, on the pool or on a connection of his own, which is made anew where it is gone."""
    conn: Any = None

    async def source() -> Any:
        nonlocal conn
        if pool is not None:
            return pool
        if conn is None or conn.closed:
            conn = await workload.settled(way.driver.connect(dsn, **way.connecting))
        return conn

    try:
        for plan in share:
            await worker.perform(source, plan)
    finally:
        if conn is not None:
            await workload.settled(conn.close())


async def look_around(worker: Worker, pool: Any) -> None:
    """All connections of the pool, where there is one, at once: none is missing, and none remembers anybody."""
    if pool is None:
        return
    await workload.settled(pool.check())  # one may have been killed while nobody used it
    async with AsyncExitStack() as stack:
        for _ in range(pool.max_size):
            conn = await stack.enter_async_context(worker.entered(pool.connection()))
            await worker.see_nothing("afterwards", conn)
            await workload.settled(conn.rollback())
