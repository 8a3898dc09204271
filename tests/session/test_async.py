"""`async with` is decided as `with` is: the same identity, the same refusals, also when a task is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from rlskit import Identity, TableRules, allow, as_nobody, as_user, guard
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    RuntimeVersionError,
    TransactionInProgressError,
)
from tests.session.test_as_user import round_trips
from tests.support import ALICE, BOB, Database, Server, copy_of, fresh_database, full

Scenario = Callable[[AsyncConnection[Any]], Awaitable[Any]]


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "async") as database:
        yield prepared(database)


@pytest.fixture
def todo(original: Database) -> Iterator[Database]:
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    database.execute("create table todo (id serial, content text)")
    database.apply(TableRules("todo", allow.owner()))
    return database


@asynccontextmanager
async def connected(database: Database, **options: Any) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(database.app_dsn, **options) as conn:
        yield conn


def run(database: Database, scenario: Scenario, **options: Any) -> Any:
    """Run it on a connection of the application's, which is idle and nobody's afterwards."""

    async def running() -> Any:
        async with connected(database, **options) as conn:
            result = await scenario(conn)
            if not conn.closed:
                assert conn.info.transaction_status == TransactionStatus.IDLE
                cursor = await conn.execute("select current_setting('rlskit.sub', true), count(*) from todo")
                assert await cursor.fetchone() in [("", 0), (None, 0)]
            return result

    return asyncio.run(asyncio.wait_for(running(), 60))


async def rows(conn: AsyncConnection[Any], query: str) -> list[Any]:
    return await (await conn.execute(query)).fetchall()  # type: ignore[call-overload]


@pytest.mark.parametrize("autocommit", [False, True])
def test_each_sees_their_own_and_nobody_sees_nothing(autocommit: bool, todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> list[Any]:
        async with as_user(app, ALICE) as conn:
            await conn.execute("insert into todo (content) values ('milk')")
        seen = []
        for block in (as_user(app, ALICE), as_user(app, BOB), as_nobody(app)):
            async with block as conn:
                seen.append(await rows(conn, "select content from todo"))
        return seen

    assert run(todo, scenario, autocommit=autocommit) == [[("milk",)], [], []]


def test_an_error_rolls_back_and_goes_its_way(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        with pytest.raises(ZeroDivisionError):
            async with as_user(app, ALICE) as conn:
                await conn.execute("insert into todo (content) values ('milk')")
                raise ZeroDivisionError

    run(todo, scenario)
    assert todo.rows("select count(*) from todo") == [(0,)]


def test_a_task_that_is_cancelled_leaves_no_identity_and_no_row(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        async def work() -> None:
            async with as_user(app, ALICE) as conn:
                await conn.execute("insert into todo (content) values ('milk')")
                await conn.execute("select pg_sleep(30)")

        task = asyncio.create_task(work())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(todo, scenario)
    assert todo.rows("select count(*) from todo") == [(0,)]


def test_cancelled_at_any_moment_the_next_transaction_is_nobodys(todo: Database) -> None:
    """Also between the message that begins and its answer, and while the block ends."""

    async def work(app: AsyncConnection[Any]) -> None:
        async with as_user(app, ALICE) as conn:
            await conn.execute("select 1")
            await conn.execute("select 2")

    async def scenario() -> int:
        async with connected(todo) as first:
            await guard(first)
            await work(first)
        cancelled = 0
        for steps in range(60):
            async with connected(todo) as app:
                await guard(app)
                task = asyncio.create_task(work(app))
                for _ in range(steps):
                    await asyncio.sleep(0)
                cancelled += task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                if not app.closed:
                    assert app.info.transaction_status == TransactionStatus.IDLE, steps
                    assert (await rows(app, "select coalesce(current_setting('rlskit.sub', true), '')")) == [("",)], (
                        steps
                    )
        return cancelled

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) > 3


def test_two_tasks_on_one_connection_never_share_an_identity(todo: Database) -> None:
    async def ask(app: AsyncConnection[Any], who: Identity, seen: list[tuple[str, str]]) -> None:
        for _ in range(50):
            try:
                async with as_user(app, who) as conn:
                    (row,) = await rows(conn, "select current_setting('rlskit.sub')")
                    seen.append((who.sub, row[0]))
            except (IdentityConflictError, TransactionInProgressError, psycopg.Error):
                await asyncio.sleep(0)

    async def scenario() -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []
        async with connected(todo) as app:
            await guard(app)
            await asyncio.gather(*(ask(app, who, seen) for who in (ALICE, BOB)))
        return seen

    seen = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert seen
    assert [pair for pair in seen if pair[0] != pair[1]] == []


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_connection_in_a_transaction_is_refused(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        await guard(app)
        await app.execute("select 1")
        with pytest.raises(TransactionInProgressError, match="already in a transaction"):
            async with as_user(app, ALICE):
                pass
        assert app.info.transaction_status == TransactionStatus.INTRANS
        await app.rollback()

    run(todo, scenario)


def test_another_identity_inside_is_refused_and_the_same_is_a_savepoint(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        async with as_user(app, ALICE) as conn:
            with pytest.raises(IdentityConflictError):
                async with as_user(conn, BOB):
                    pass
            await conn.execute("insert into todo (content) values ('kept')")
            with pytest.raises(ZeroDivisionError):
                async with as_user(conn, ALICE):
                    await conn.execute("insert into todo (content) values ('undone')")
                    raise ZeroDivisionError

    run(todo, scenario)
    assert todo.rows("select content, owner from todo") == [("kept", full(ALICE))]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_transaction_is_not_ended_inside(ending: str, todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        with pytest.raises(TransactionInProgressError, match="cannot be ended inside"):
            async with as_user(app, ALICE) as conn:
                await getattr(conn, ending)()
        with pytest.raises(TransactionInProgressError, match="was ended inside"):
            async with as_user(app, ALICE) as conn:
                await conn.execute(ending)  # type: ignore[call-overload]

    run(todo, scenario)


def test_with_is_for_a_connection_and_async_with_for_an_async_one(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        with pytest.raises(TypeError, match="asked with `async with`"), as_user(app, ALICE):  # type: ignore[misc]
            pass
        with todo.connect_as_app() as conn, pytest.raises(TypeError, match="asked with `with`"):
            async with as_user(conn, ALICE):  # type: ignore[misc]
                pass

    run(todo, scenario)


def test_a_stream_that_is_read_half_way_does_not_hang_the_block(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> None:
        with pytest.raises(TransactionInProgressError, match="still being read"):
            async with as_user(app, ALICE) as conn:
                stream = conn.cursor().stream("select * from generate_series(1, 100000)")
                await anext(stream)
        assert app.closed

    run(todo, scenario)


def test_a_login_that_no_rule_binds_is_refused(todo: Database) -> None:
    async def scenario(dsn: str) -> None:
        async with await AsyncConnection.connect(dsn) as conn:
            with pytest.raises(BypassingRoleError):
                await guard(conn)
            with pytest.raises(BypassingRoleError):
                async with as_user(conn, ALICE):
                    pass
            assert conn.info.transaction_status == TransactionStatus.IDLE

    for dsn in (todo.superuser_dsn, todo.owner_dsn):
        asyncio.run(scenario(dsn))


def test_a_database_without_the_runtime_is_refused(database: Database) -> None:
    async def scenario() -> None:
        async with connected(database) as conn:
            with pytest.raises(RuntimeVersionError):
                await guard(conn)

    asyncio.run(scenario())


def test_isolation_read_only_and_role_hold(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> list[Any]:
        await app.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await app.set_read_only(True)
        async with as_user(app, ALICE, role=todo.app) as conn:
            found = await rows(
                conn,
                "select current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_user",
            )
        await app.set_read_only(False)
        return found

    assert run(todo, scenario) == [("serializable", "on", todo.app)]


def test_the_identity_costs_no_round_trip_of_its_own(todo: Database) -> None:
    async def scenario(app: AsyncConnection[Any]) -> tuple[list[int], list[int]]:
        await guard(app)
        with round_trips(app) as plain:
            async with app.transaction():
                await app.execute("select 1")
        with round_trips(app) as identified:
            async with as_user(app, ALICE) as conn:
                await conn.execute("select 1")
        return plain, identified

    assert run(todo, scenario) == ([3], [3])
