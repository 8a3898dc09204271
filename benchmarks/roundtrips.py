"""How often a transaction waits for the server, counted at the wire; and what that takes when the server is further away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import mean
from time import sleep
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier
from psycopg_pool import ConnectionPool
from sqlalchemy import URL, create_engine, text
from sqlalchemy.orm import Session

import rlskit.sqlalchemy
from benchmarks.database import APP, ME, fresh_database
from benchmarks.measure import AnyConnection, Spread, interleaved, one_core, ratios, report, timed
from benchmarks.wire import Counts, Wire, wire
from rlskit import Identity, SigningKey, as_user, guard, installer, keyring, scrub
from rlskit.server import Running

Pool: TypeAlias = ConnectionPool[Connection[Any]]
Arm: TypeAlias = Callable[[int], None]  # performs so many transactions
Rounds: TypeAlias = list[tuple[Counts, float]]  # what has passed in each, and the seconds of a transaction

READ = "select content from todo where id = %s"
WARM_UP = 10  # transactions, after which psycopg has prepared what it is going to
PAUSE = 0.0001  # seconds


class Distance(NamedTuple):
    """How far away the server is, and how much is measured there."""

    says: str
    rtt: float  # seconds
    rounds: int
    batch: int


NEAR, FAR = Distance("no delay", 0, 40, 10), Distance("1 ms", 0.001, 30, 4)


def run(server: Running) -> None:
    key = SigningKey.generate()
    with fresh_database(server, "roundtrips") as dsn:
        with psycopg.connect(dsn) as conn:
            _prepare(conn, key)
        with wire(make_conninfo(dsn, user=APP)) as line, ExitStack() as stack:
            clients = Clients(line.dsn, stack)
            arms = _arms(clients, key)
            for arm in arms.values():
                arm(WARM_UP)
            with one_core(*clients.conns) as cores:
                near, far = (_measured(line, arms, distance) for distance in (NEAR, FAR))
    report(
        f"roundtrips: a transaction with one read by primary key, in milliseconds (PostgreSQL {server.version})",
        f"Over TCP on loopback, through a proxy that counts, in the client's process, {cores}; each line of the table has a connection of its own; "
        f"no rules. {NEAR.rounds} rounds of {NEAR.batch} transactions with {NEAR.says}, {FAR.rounds} of {FAR.batch} with {FAR.says} added to each round trip, "
        "interleaved in random order; median (quartiles); the ratio is to the first line, round by round.\n"
        f"Round trips and bytes of a transaction, and of what a pool does with its connection afterwards: the mean, counted with {FAR.says}.",
        ["transaction", "round trips", "bytes sent", NEAR.says, "ratio", FAR.says, "ratio"],
        [[name, *_counted(far[name]), *_timed(near, name), *_timed(far, name)] for name in arms],
    )


def _prepare(conn: Connection[Any], key: SigningKey) -> None:
    installer.install(conn)
    keyring.add(conn, key)
    conn.execute("create table todo (id serial primary key, content text)")
    conn.execute("insert into todo (content) values ('milk')")
    conn.execute(SQL("grant select on todo to {}").format(Identifier(APP)))
    conn.commit()


def _measured(line: Wire, arms: Mapping[str, Arm], distance: Distance) -> dict[str, Rounds]:
    def once(arm: Arm) -> tuple[Counts, float]:
        counts, (seconds, _) = line.counted(partial(timed, partial(arm, distance.batch)))
        return counts, seconds / distance.batch

    line.rtt = distance.rtt
    return interleaved({name: partial(once, arm) for name, arm in arms.items()}, distance.rounds)


def _counted(rounds: Rounds) -> list[str]:
    columns = ([counts.round_trips for counts, _ in rounds], [counts.bytes_sent for counts, _ in rounds])
    return [f"{mean(column) / FAR.batch:.4g}" for column in columns]


def _timed(measured: Mapping[str, Rounds], name: str) -> list[str]:
    own, first = ([seconds * 1e3 for _, seconds in measured[each]] for each in (name, next(iter(measured))))
    return [f"{Spread.of(own):.2f}", f"{ratios(own, first):.2f}"]


# --- the lines of the table --------------------------------------------------------------------------------


class Clients:
    """Gives what performs a transaction again and again, on a connection of its own that is closed with the stack."""

    def __init__(self, dsn: str, stack: ExitStack) -> None:
        self._dsn, self._stack = dsn, stack
        self._runner = stack.enter_context(asyncio.Runner())
        self.conns: list[AnyConnection] = []

    def on_a_connection(self, transaction: Callable[[Connection[Any]], None]) -> Arm:
        conn = self._stack.enter_context(psycopg.connect(self._dsn))
        self.conns.append(conn)

        def perform(times: int) -> None:
            for _ in range(times):
                transaction(conn)

        return perform

    def signing(self, key: SigningKey, transaction: Callable[[Connection[Any]], None]) -> Arm:
        arm = self.on_a_connection(transaction)
        conn = self.conns[-1]
        assert isinstance(conn, Connection)
        logging.getLogger("rlskit").setLevel(
            logging.ERROR
        )  # it warns that this database takes others too, as the other lines need it to
        guard(conn, key=key)
        return arm

    def on_a_session(self, identity: Identity | None, **options: Any) -> Arm:
        """A transaction of SQLAlchemy's ORM, on an engine of its own; for an identity, under guard. It gives its connection back each time."""
        place = {name: str(value) for name, value in conninfo_to_dict(self._dsn).items()}
        engine = create_engine(URL.create("postgresql+psycopg", query=place), pool_size=1, max_overflow=0)
        self._stack.callback(engine.dispose)
        if identity is not None:
            rlskit.sqlalchemy.guard(engine, **options)
        with Session(engine) as session:
            if identity is not None:
                rlskit.sqlalchemy.set_identity(session, identity)
            driver = session.connection().connection.driver_connection
            assert isinstance(driver, Connection)
            self.conns.append(driver)
        session = self._stack.enter_context(Session(engine))
        if identity is not None:
            rlskit.sqlalchemy.set_identity(session, identity)

        def perform(times: int) -> None:
            for _ in range(times):
                assert session.execute(text(READ.replace("%s", ":id")), {"id": 1}).fetchone()
                session.commit()

        return perform

    def on_a_pool(self, transaction: Callable[[Pool], None], **options: Any) -> Arm:
        pool: Pool = self._stack.enter_context(
            ConnectionPool(self._dsn, min_size=1, max_size=1, configure=guard, **options)
        )
        with pool.connection() as conn:
            self.conns.append(conn)

        def perform(times: int) -> None:
            for _ in range(times):
                transaction(pool)
            while not pool.get_stats()["pool_available"]:  # a pool resets in a thread of its own
                sleep(PAUSE)

        return perform

    def on_an_async_connection(self, transaction: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> Arm:
        conn = self._runner.run(AsyncConnection.connect(self._dsn))
        self._stack.callback(lambda: self._runner.run(conn.close()))
        self.conns.append(conn)

        async def perform(times: int) -> None:
            for _ in range(times):
                await transaction(conn)

        return lambda times: self._runner.run(perform(times))


def _arms(clients: Clients, key: SigningKey) -> dict[str, Arm]:
    return {
        "conn.transaction()": clients.on_a_connection(_unidentified),
        "the same again (noise)": clients.on_a_connection(_unidentified),
        "conn.transaction(), and set_config by hand": clients.on_a_connection(_by_hand),
        "conn.transaction(), and set_config by hand, thrice": clients.on_a_connection(_by_hand_one_by_one),
        "as_user": clients.on_a_connection(_identified),
        "as_user, signed": clients.signing(key, _identified),
        "as_user, pipeline=True": clients.on_a_connection(_in_one_flight),
        "as_user, pipeline=True, signed": clients.signing(key, _in_one_flight),
        "as_user, from a pool": clients.on_a_pool(_identified),
        "as_user, from a pool with reset=scrub": clients.on_a_pool(_identified, reset=scrub),
        "conn.transaction(), async": clients.on_an_async_connection(_aunidentified),
        "as_user, async": clients.on_an_async_connection(_aidentified),
        "SQLAlchemy's Session": clients.on_a_session(None),
        "SQLAlchemy's Session, guard and set_identity": clients.on_a_session(ME),
        "the same, scrub=True": clients.on_a_session(ME, scrub=True),
    }


def _read(conn: Connection[Any]) -> None:
    assert conn.execute(READ, [1]).fetchone()


def _unidentified(conn: Connection[Any]) -> None:
    with conn.transaction():
        _read(conn)


def _by_hand(conn: Connection[Any]) -> None:
    """The usual way."""
    with conn.transaction():
        conn.execute("select set_config('rlskit.sub', %s, true)", [ME.sub])
        _read(conn)


def _by_hand_one_by_one(conn: Connection[Any]) -> None:
    with conn.transaction():
        for name, value in ME.settings().items():
            conn.execute("select set_config(%s, %s, true)", [name, value])
        _read(conn)


def _identified(source: Any) -> None:
    with as_user(source, ME) as conn:
        _read(conn)


def _in_one_flight(conn: Connection[Any]) -> None:
    with as_user(conn, ME, pipeline=True):
        found = conn.execute(READ, [1])
    assert found.fetchone()


async def _aread(conn: AsyncConnection[Any]) -> None:
    assert await (await conn.execute(READ, [1])).fetchone()


async def _aunidentified(conn: AsyncConnection[Any]) -> None:
    async with conn.transaction():
        await _aread(conn)


async def _aidentified(conn: AsyncConnection[Any]) -> None:
    async with as_user(conn, ME):
        await _aread(conn)
