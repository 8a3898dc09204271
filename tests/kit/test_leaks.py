"""The leak test itself: it is red for a pool that leaks, green for one that does not, and never green for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from rlskit import SigningKey, check_connection, guard, installer, keyring, scrub
from rlskit.errors import BypassingRoleError
from rlskit.sqlalchemy import guard as guard_engine
from rlskit.testing import leaks as leaks_module
from rlskit.testing.leaks import assert_no_leak, assert_no_leak_async
from tests.support import Database, Server, fresh_database

SETTINGS = [
    *(f"the setting rlskit.{name}" for name in ("sub", "username", "claims", "actor", "token", "moving_to")),
    "the role",
    *("the setting search_path", "the setting row_security"),
]
OBJECTS = [
    *("a temporary table", "a prepared statement", "an advisory lock", "a channel that is listened to"),
    "a cursor WITH HOLD",
]
END, ERROR, CANCELLED = "at the end of a block", "after an error", "when cancelled"
POOL, ENGINE = "ConnectionPool(…, reset=rlskit.scrub)", "rlskit.sqlalchemy.guard(engine, scrub=True)"
Pool = ConnectionPool[Connection[Any]]


@pytest.fixture(scope="module")
def bare(server: Server) -> Iterator[Database]:
    """Without any table; the runtime alone."""
    with fresh_database(server, "leaks") as made:
        with made.connect_as_owner() as conn:
            installer.install(conn)
        yield made


def pool_of(database: Database, size: int = 1, **options: Any) -> Pool:
    return ConnectionPool(database.app_dsn, min_size=size, max_size=size, timeout=20, open=True, **options)


def url(database: Database) -> URL:
    return URL.create("postgresql+psycopg", query=conninfo_to_dict(database.app_dsn))  # type: ignore[arg-type]


def leaks(found: pytest.ExceptionInfo[AssertionError]) -> tuple[dict[str, list[str]], str]:
    """What leaked and when, and the way out."""
    heading, *lines, way_out = str(found.value).splitlines()
    assert heading == "the next user of a connection finds what the one before left on it"
    listed = [line.strip().partition(": ") for line in lines]
    return {what: when.split(", ") for what, _, when in listed}, way_out.removeprefix("way out: ")


# --- psycopg's pools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_a_pool_that_resets_its_connections_does_not_leak(size: int, bare: Database) -> None:
    with pool_of(bare, size, configure=guard, reset=scrub) as pool:
        assert_no_leak(pool)


@pytest.mark.parametrize("size", [1, 3])
def test_a_pool_that_does_not_leaks_everything(size: int, bare: Database) -> None:
    with pool_of(bare, size) as pool:
        with pytest.raises(AssertionError) as caught:
            assert_no_leak(pool)

        assert leaks(caught) == ({what: [END, ERROR, CANCELLED] for what in SETTINGS + OBJECTS}, POOL)
        for _ in range(size):
            with pool.connection() as conn:
                left = "select current_setting('rlskit.sub', true), current_setting('search_path'), to_regclass('rlskit_leak')"
                assert conn.execute(left).fetchone() in ((None, '"$user", public', None), ("", '"$user", public', None))


def test_a_pool_that_only_checks_leaks_what_it_does_not_check(bare: Database) -> None:
    """It throws away what somebody left himself on. A temporary table it does not see, nor a role that is the login itself."""
    with pool_of(bare, check=check_connection) as pool, pytest.raises(AssertionError) as caught:
        assert_no_leak(pool)

    assert leaks(caught) == ({what: [END] for what in ["the setting rlskit.moving_to", "the role", *OBJECTS]}, POOL)


RESETS: dict[str, tuple[str, list[str]]] = {
    "settings": ("reset all; reset role", OBJECTS),
    "temporary tables": ("discard temp", [each for each in SETTINGS + OBJECTS if each != "a temporary table"]),
    "nobody's identity": (
        "reset rlskit.sub; reset rlskit.username; reset rlskit.claims",
        [each for each in SETTINGS + OBJECTS if each not in SETTINGS[:3]],
    ),
}


@pytest.mark.parametrize("what", RESETS)
def test_a_reset_of_ones_own_is_held_to_all_of_it(what: str, bare: Database) -> None:
    statement, expected = RESETS[what]

    def reset(conn: Connection[Any]) -> None:
        conn.execute(statement.encode())
        conn.commit()

    with pool_of(bare, reset=reset) as pool, pytest.raises(AssertionError) as caught:
        assert_no_leak(pool)

    assert sorted(leaks(caught)[0]) == sorted(expected)


def test_a_setting_that_the_pool_makes_itself_is_no_leak(bare: Database) -> None:
    def configure(conn: Connection[Any]) -> None:
        conn.execute("set search_path = app")
        conn.commit()

    def reset(conn: Connection[Any]) -> None:
        scrub(conn)
        configure(conn)

    with pool_of(bare, configure=configure, reset=reset) as pool:
        assert_no_leak(pool)


def test_asynchronous_pools_are_tested_with_cancelled_tasks(bare: Database) -> None:
    async def scenario(**options: Any) -> None:
        async with AsyncConnectionPool(bare.app_dsn, min_size=2, max_size=2, timeout=20, open=False, **options) as pool:
            await assert_no_leak_async(pool)

    asyncio.run(asyncio.wait_for(scenario(reset=scrub), 60))
    with pytest.raises(AssertionError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert leaks(caught) == ({what: [END, ERROR, CANCELLED] for what in SETTINGS + OBJECTS}, POOL)


def test_a_pool_with_a_key_is_asked_with_it(server: Server) -> None:
    with fresh_database(server, "signedleaks") as made:
        made.apply(mode="signed")
        key = SigningKey.generate()
        with made.connect_as_owner() as conn:
            keyring.add(conn, key)
        with pool_of(made, 2, reset=scrub) as pool:
            guard(pool, key=key)
            assert_no_leak(pool)


# --- SQLAlchemy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [lambda engine: engine, sessionmaker], ids=["engine", "sessionmaker"])
def test_an_engine_leaks_unless_it_is_guarded_and_scrubs(wrapped: Callable[[Any], Any], bare: Database) -> None:
    engine = create_engine(url(bare))
    for guarded in (False, True):
        if guarded:
            guard_engine(engine)
        with pytest.raises(AssertionError) as caught:
            assert_no_leak(wrapped(engine))
        assert leaks(caught) == ({what: [END, ERROR, CANCELLED] for what in SETTINGS + OBJECTS}, ENGINE)

    guard_engine(engine, scrub=True)
    assert_no_leak(wrapped(engine))
    engine.dispose()


@pytest.mark.parametrize("wrapped", [lambda engine: engine, async_sessionmaker], ids=["engine", "sessionmaker"])
def test_so_does_an_asynchronous_one(wrapped: Callable[[Any], Any], bare: Database) -> None:
    async def scenario(**options: Any) -> None:
        engine = create_async_engine(url(bare))
        guard_engine(engine, **options)
        try:
            await assert_no_leak_async(wrapped(engine))
        finally:
            await engine.dispose()

    asyncio.run(asyncio.wait_for(scenario(scrub=True), 60))
    with pytest.raises(AssertionError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert leaks(caught)[0].keys() == {*SETTINGS, *OBJECTS}


# --- of one's own making ---------------------------------------------------------------------------------------------


def test_what_is_made_by_hand_is_held_to_the_same(bare: Database) -> None:
    """Whoever scrubs only where all went well leaks where it did not."""
    with psycopg.connect(bare.app_dsn) as only:

        @contextmanager
        def careless() -> Iterator[Connection[Any]]:
            yield only
            only.rollback()
            scrub(only)

        @contextmanager
        def careful() -> Iterator[Connection[Any]]:
            try:
                yield only
            finally:
                only.rollback()
                scrub(only)

        with pytest.raises(AssertionError) as caught:
            assert_no_leak(careless)
        assert_no_leak(careful)

    expected = {what: [ERROR, CANCELLED] for what in ["an open transaction", *SETTINGS, *OBJECTS]}
    assert leaks(caught) == (expected, "call rlskit.scrub(conn) before a connection is lent again")


def test_so_is_what_is_asynchronous(bare: Database) -> None:
    async def scenario() -> None:
        async with await AsyncConnection.connect(bare.app_dsn) as only:

            @asynccontextmanager
            async def careless() -> AsyncIterator[AsyncConnection[Any]]:
                yield only
                await only.rollback()
                await scrub(only)

            await assert_no_leak_async(careless)

    with pytest.raises(AssertionError) as caught:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    assert {what: when for what, when in leaks(caught)[0].items() if what != "an open transaction"} == {
        what: [ERROR, CANCELLED] for what in SETTINGS + OBJECTS
    }


# --- never green for nothing -----------------------------------------------------------------------------------------


def test_connections_that_never_come_back_prove_nothing(bare: Database) -> None:
    for source in (lambda: psycopg.connect(bare.app_dsn), create_engine(url(bare), poolclass=NullPool)):
        with pytest.raises(AssertionError, match="no connection was lent twice"):
            assert_no_leak(source)


def test_connections_that_are_kept_back_prove_nothing(bare: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks_module, "_TAKES", 25)
    kept = []

    @contextmanager
    def hoarding() -> Iterator[Connection[Any]]:
        if len(kept) < 2:
            kept.append(psycopg.connect(bare.app_dsn))
        yield kept[-1]

    with pytest.raises(AssertionError, match="the same connection did not come back"):
        assert_no_leak(hoarding)
    for conn in kept:
        conn.close()


@pytest.mark.parametrize(("login", "message"), [("superuser_dsn", "is a superuser"), ("owner_dsn", "owns the schema")])
def test_a_login_that_no_rule_binds_is_red(login: str, message: str, bare: Database) -> None:
    with (
        ConnectionPool(getattr(bare, login), min_size=1, max_size=1, reset=scrub, timeout=20) as pool,
        pytest.raises(BypassingRoleError, match=message),
    ):
        assert_no_leak(pool)


def test_what_lends_nothing_is_refused(bare: Database) -> None:
    async def awaited(source: Any) -> None:
        await assert_no_leak_async(source)

    asynchronous: Any = create_async_engine(url(bare), poolclass=NullPool)
    with psycopg.connect(bare.app_dsn) as conn:
        for source, message in (
            (conn, "a connection is lent to nobody"),
            (3, "`int` is neither a pool, an engine nor a callable"),
            (object, "`object` is no block that lends a connection"),
            (asynchronous, "await assert_no_leak_async"),
            (sessionmaker(), "`Session` is no connection of psycopg"),
        ):
            with pytest.raises(TypeError, match=message):
                assert_no_leak(source)
    with pool_of(bare) as pool, pytest.raises(TypeError, match="without await"):
        asyncio.run(awaited(pool))


def test_what_the_login_may_not_do_is_not_tried(bare: Database) -> None:
    with bare.connect(autocommit=True) as admin:
        admin.execute(f"revoke temporary on database {bare.name} from public")
    try:
        with pool_of(bare) as pool, pytest.raises(AssertionError) as caught:
            assert_no_leak(pool)
    finally:
        with bare.connect(autocommit=True) as admin:
            admin.execute(f"grant temporary on database {bare.name} to public")

    assert leaks(caught)[0].keys() == {*SETTINGS, *OBJECTS} - {"a temporary table"}
