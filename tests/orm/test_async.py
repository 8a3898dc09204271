"""The same with AsyncSession and AsyncConnection: decided by the same listeners, and also when a task is cancelled."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker

import rlskit
from rlskit import Identity, RowDenied, Rules, SigningKey, TableRules, allow, keyring
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    MissingIdentityError,
    SigningKeyError,
    TransactionInProgressError,
)
from rlskit.sqlalchemy import guard, set_identity, set_nobody
from tests.orm.model import ASKING, CONTENTS, IDS, TABLES, Todo, async_engine_of, contents, fill, mine
from tests.orm.test_guard import LEFT
from tests.session.test_as_user import round_trips
from tests.support import ALICE, BOB, CAROL, Database, assert_nobody_is_left, full

Scenario = Callable[[AsyncEngine], Awaitable[Any]]


def run(dsn: str, scenario: Scenario, *, guarded: bool = True, **options: Any) -> Any:
    """On an engine with one connection, which is nobody's afterwards."""

    async def running() -> Any:
        engine = async_engine_of(dsn, **options)
        if guarded:
            guard(async_sessionmaker(engine), scrub=True)
        try:
            return await scenario(engine)
        finally:
            await engine.dispose()

    return asyncio.run(asyncio.wait_for(running(), 60))


@asynccontextmanager
async def asked_by(engine: AsyncEngine, who: Identity, **options: Any) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, **options) as session:
        set_identity(session, who)
        yield session


async def sees(asked: Any) -> list[Any]:
    return list((await asked.scalars(CONTENTS)).all())


# --- sessions --------------------------------------------------------------------------------------------------------


async def failed(session: AsyncSession) -> None:
    with pytest.raises(DBAPIError):
        await session.execute(text("select 1 / 0"))
    await session.rollback()


async def savepoint_rolled_back(session: AsyncSession) -> None:
    async with session.begin_nested() as nested:
        session.add(Todo(content="undone"))
        await session.flush()
        await nested.rollback()


async def retried(session: AsyncSession) -> None:
    with pytest.raises(IntegrityError):
        async with session.begin_nested():
            session.add(Todo(content="alice's"))


async def in_a_block(session: AsyncSession) -> None:
    await session.rollback()
    async with session.begin():
        assert await sees(session) == mine(ALICE)


async def invalidated(session: AsyncSession) -> None:
    await (await session.connection()).invalidate()
    await session.rollback()


async def timed_out(session: AsyncSession) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await session.execute(text("select pg_sleep(20)"))
    await session.rollback()


ENDINGS: dict[str, Callable[[AsyncSession], Awaitable[object]]] = {
    "commit": AsyncSession.commit,
    "rollback": AsyncSession.rollback,
    "close": AsyncSession.close,
    "a failed statement": failed,
    "a savepoint rolled back": savepoint_rolled_back,
    "a retry in a savepoint": retried,
    "begin()": in_a_block,
    "an invalid connection": invalidated,
    "a statement that is cancelled": timed_out,
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_identity_survives(how: str, todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, ALICE) as session:
            for _ in range(2):
                assert (await session.scalar(ASKING), await sees(session)) == (ALICE.sub, mine(ALICE))
                await ENDINGS[how](session)
            assert await sees(session) == mine(ALICE)
        async with asked_by(engine, BOB) as session:
            assert (await session.scalar(ASKING), await sees(session)) == (BOB.sub, mine(BOB))

    run(todo.app_dsn, scenario)


def test_a_session_works_as_ever(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, CAROL, expire_on_commit=False) as session:
            row = Todo(content="written")
            session.add_all([row, *(Todo(content=f"{number}") for number in range(5))])
            await session.commit()
            await session.refresh(row)
            assert (row.owner, await row.awaitable_attrs.notes) == (full(CAROL), [])
            stream = await session.stream_scalars(CONTENTS.execution_options(yield_per=2))
            assert len([each async for each in stream]) == 6
            assert await session.run_sync(contents) == ["written", *map(str, range(5))]
            raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
            assert await (await raw.execute("select current_setting('rlskit.sub')")).fetchone() == (CAROL.sub,)
            assert await session.get(Todo, IDS[ALICE]) is None

    run(todo.app_dsn, scenario)
    assert todo.rows("select count(*) from todo where owner = %s", [full(CAROL)]) == [(6,)]


def test_each_task_has_its_scoped_session(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> list[Any]:
        registry = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)

        async def work(who: Identity) -> list[Any]:
            set_identity(registry, who)
            found = []
            for _ in range(5):
                found += await sees(registry)
                await registry.commit()
            await registry.remove()
            with pytest.raises(MissingIdentityError):
                await sees(registry)
            await registry.remove()
            return found

        return await asyncio.gather(*(work(who) for who in (ALICE, BOB)))

    assert run(todo.app_dsn, scenario) == [["alice's"] * 5, ["bob's"] * 5]


def test_another_identity_is_refused(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, ALICE) as session:
            set_identity(session, ALICE)
            for refused in (lambda: set_identity(session, BOB), lambda: set_nobody(session.sync_session)):
                with pytest.raises(IdentityConflictError):
                    refused()
            assert await sees(session) == mine(ALICE)

    run(todo.app_dsn, scenario)


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
def test_two_identities_in_one_outer_transaction_are_refused(mode: Any, todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.begin()
            async with AsyncSession(bind=connection, join_transaction_mode=mode) as alices:
                set_identity(alices, ALICE)
                assert await sees(alices) == mine(ALICE)
                async with AsyncSession(bind=connection, join_transaction_mode=mode) as bobs:
                    set_identity(bobs, BOB)
                    for session in (bobs, alices, bobs):
                        with pytest.raises(IdentityConflictError):
                            await sees(session)

    run(todo.app_dsn, scenario)


def test_a_transaction_without_an_identity_is_refused(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            for _ in range(2):
                with pytest.raises(MissingIdentityError):
                    await sees(session)
            with pytest.raises(TransactionInProgressError):
                set_identity(session, ALICE)
        async with engine.connect() as connection:
            with pytest.raises(MissingIdentityError):
                await sees(connection)
        async with AsyncSession(engine) as session:
            set_nobody(session)
            assert await sees(session) == []

    run(todo.app_dsn, scenario)


# --- connections -----------------------------------------------------------------------------------------------------


def test_an_identity_rides_on_a_connection(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        unopened = engine.connect()
        with pytest.raises(MissingIdentityError, match="is not open yet"):
            set_identity(unopened, ALICE)
        async with unopened as connection:
            set_identity(connection, ALICE)
            assert await sees(connection) == mine(ALICE)
            await connection.commit()
            assert await connection.run_sync(contents) == mine(ALICE)
            with pytest.raises(IdentityConflictError):
                set_identity(connection, BOB)
        async with engine.begin() as connection:
            set_identity(connection, BOB)
            assert await sees(connection) == mine(BOB)

    run(todo.app_dsn, scenario)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "AUTOCOMMIT"])
def test_isolation_holds_and_autocommit_is_refused(level: str, todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine.execution_options(isolation_level=level), ALICE) as session:
            for _ in range(2):
                if level == "AUTOCOMMIT":
                    with pytest.raises(MissingIdentityError, match="AUTOCOMMIT"):
                        await sees(session)
                else:
                    assert await session.scalar(select(func.current_setting("transaction_isolation"))) == "serializable"
                    await session.commit()

    run(todo.app_dsn, scenario)


def test_two_phases_are_rolled_back_with_their_identity(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, ALICE, twophase=True) as session:
            for _ in range(2):
                assert await sees(session) == mine(ALICE)
                await session.rollback()

    run(todo.app_dsn, scenario)


# --- the guard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
def test_a_login_that_no_rule_binds_is_refused(guarded: bool, todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        for _ in range(2):
            async with asked_by(engine, ALICE) as session:
                with pytest.raises(BypassingRoleError):
                    await sees(session)

    for dsn in (todo.superuser_dsn, todo.owner_dsn):
        run(dsn, scenario, guarded=guarded)
    assert_nobody_is_left(todo)


def test_a_key_that_is_retired_and_comes_back(database: Database) -> None:
    key = SigningKey.generate()
    database.execute(*TABLES)
    with database.connect_as_owner() as conn:
        tables = (TableRules("todo", allow.owner()), TableRules("note", allow.owner()))
        rlskit.plan(conn, Rules(*tables, role=database.app, mode="signed")).apply(conn)
        keyring.add(conn, key)
    fill(database)

    async def scenario(engine: AsyncEngine) -> None:
        guard(engine, key=key)
        async with asked_by(engine, ALICE) as session:
            assert await sees(session) == mine(ALICE)
            await session.commit()
            with database.connect_as_owner() as conn:
                keyring.retire(conn, key.kid)
            with pytest.raises(SigningKeyError):
                await sees(session)
            await session.rollback()
            with database.connect_as_owner() as conn:
                keyring.add(conn, key)
            assert await sees(session) == mine(ALICE)

    run(database.app_dsn, scenario, guarded=False)


@pytest.mark.parametrize("what", LEFT)
def test_what_one_user_leaves_behind_does_not_reach_the_next(what: str, todo: Database) -> None:
    left, finds = LEFT[what]

    async def scenario(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            set_identity(connection, ALICE)
            await connection.execute(text(left))
            assert await connection.scalar(text(finds)) is True
            await connection.commit()
        async with asked_by(engine, BOB) as session:
            assert await session.scalar(text(finds)) is not True

    run(todo.app_dsn, scenario)


def test_a_connection_that_was_cut_in_the_pool_is_told_as_sqlalchemy_tells_it(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, ALICE) as session:
            assert await sees(session) == mine(ALICE)
        with todo.connect() as admin:
            admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", [todo.app])
        async with asked_by(engine, BOB) as session:
            with pytest.raises(OperationalError) as caught:
                await sees(session)
            assert caught.value.connection_invalidated
            await session.rollback()
            assert await sees(session) == mine(BOB)

    run(todo.app_dsn, scenario)


def test_what_the_database_refuses_has_its_name_as_orig(todo: Database) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        async with asked_by(engine, BOB) as session:
            session.add(Todo(content="x", owner="alice"))
            with pytest.raises(ProgrammingError) as caught:
                await session.commit()
            assert isinstance(caught.value.orig, RowDenied)
            assert rlskit.denial(caught.value) is caught.value.orig
            await session.rollback()
            assert await sees(session) == mine(BOB)

    run(todo.app_dsn, scenario)


# Before 2.1, SQLAlchemy drops a connection that is cancelled while it is made or given back, guarded or not.
DROPPED = f"{'ignore' if sqlalchemy.__version__ < '2.1' else 'error'}::pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Pytest would keep what the pool logs of a cancellation, and with it the connection and its place in the pool."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# --- several at once, and cancelled ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("unlogged")
@pytest.mark.filterwarnings(DROPPED)
def test_cancelled_at_any_moment_the_next_one_is_its_own(todo: Database) -> None:
    """Also between the message that begins and its answer, and while the connection goes back."""

    async def work(engine: AsyncEngine) -> None:
        async with asked_by(engine, ALICE) as session:
            await sees(session)
            await session.commit()
            await sees(session)

    async def scenario(engine: AsyncEngine) -> int:
        await work(engine)
        cancelled = 0
        for steps in range(0, 60, 3):
            task = asyncio.create_task(work(engine))
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled += task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            del task
            async with asked_by(engine, BOB) as session:
                assert (await session.scalar(ASKING), await sees(session)) == (BOB.sub, mine(BOB)), steps
            async with AsyncSession(engine) as session:
                with pytest.raises(MissingIdentityError):
                    await sees(session)
        return cancelled

    assert run(todo.app_dsn, scenario) > 3


@pytest.mark.usefixtures("unlogged")
@pytest.mark.filterwarnings(DROPPED)
def test_many_tasks_on_one_connection_never_share_an_identity(todo: Database) -> None:
    async def work(seed: int, engine: AsyncEngine, wrong: list[Any]) -> int:
        chance = random.Random(seed)
        done = 0
        for _ in range(15):
            who = chance.choice((ALICE, BOB))
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0.002, 0.01, 20])), asked_by(engine, who) as session:
                    if (seen := await sees(session)) != mine(who):
                        wrong.append((who.sub, seen))
                    if chance.random() < 0.3:
                        await failed(session)
                    else:
                        await session.commit()
                    if (heard := await session.scalar(ASKING)) != who.sub:
                        wrong.append((who.sub, heard))
                    done += 1
        return done

    async def scenario(engine: AsyncEngine) -> tuple[list[Any], int]:
        wrong: list[Any] = []
        done = await asyncio.gather(*(work(seed, engine, wrong) for seed in range(5)))
        return wrong, sum(done)

    wrong, done = run(todo.app_dsn, scenario, pool_timeout=30)
    assert wrong == []
    assert done > 10


def test_an_identity_costs_no_round_trip(todo: Database) -> None:
    async def work(engine: AsyncEngine, who: Identity | None) -> None:
        async with AsyncSession(engine) as session:
            if who:
                set_identity(session, who)
            for _ in range(2):
                await sees(session)
                await session.commit()

    async def counted(engine: AsyncEngine, who: Identity | None) -> list[int]:
        await work(engine, who)
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
        with round_trips(driver) as found:
            await work(engine, who)
        return found

    async def identified(engine: AsyncEngine) -> list[int]:
        guard(engine, scrub=False)
        return await counted(engine, ALICE)

    plain = run(todo.app_dsn, lambda engine: counted(engine, None), guarded=False)
    assert run(todo.app_dsn, identified, guarded=False) == plain == [6]
