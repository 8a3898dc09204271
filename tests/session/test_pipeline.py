"""`as_user(…, pipeline=True)` sends a whole transaction in one flight, and is one: of one identity, kept whole, and gone afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import (
    Identity,
    RowDenied,
    SigningKey,
    TableDenied,
    TableRules,
    allow,
    as_nobody,
    as_user,
    guard,
    keyring,
    scrub,
)
from rlskit.errors import BypassingRoleError, IdentityConflictError, TransactionInProgressError
from tests.session.test_as_user import round_trips
from tests.support import ALICE, BOB, Database, Server, fresh_database, full

KEY = SigningKey.generate()
MODES: tuple[Any, ...] = ("plain", "signed")
INSERT = "insert into todo (content) values (%s)"
OWNERS = "select owner from todo"


@pytest.fixture(scope="module", params=MODES)
def made(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    """One database for all of them; in signed mode what begins a transaction travels otherwise."""
    with fresh_database(server, "pipeline") as database:
        database.execute("create table todo (id serial, content text, code int unique deferrable initially deferred)")
        database.apply(TableRules("todo", allow.owner()), mode=request.param)
        with database.connect_as_owner() as conn:
            keyring.add(conn, KEY)
        yield database


@pytest.fixture
def todo(made: Database) -> Database:
    with made.connect(autocommit=True) as admin:
        admin.execute("truncate todo")
    return made


@pytest.fixture
def app(todo: Database) -> Iterator[psycopg.Connection[Any]]:
    """Idle, out of any pipeline, and nobody's afterwards."""
    with todo.connect_as_app() as conn:
        guard(conn, key=KEY)
        yield conn
        assert_nobodys(conn)


def assert_nobodys(conn: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert conn.pgconn.pipeline_status == PipelineStatus.OFF
    assert not {"commit", "rollback"} & vars(conn).keys()
    if isinstance(conn, psycopg.Connection):
        assert conn.execute("select rlskit.identity(), count(*) from todo").fetchone() == (None, 0)
        conn.rollback()


def stored(database: Database) -> list[Any]:
    return [content for (content,) in database.rows("select content from todo order by content")]


def asked(app: psycopg.Connection[Any], who: Identity = ALICE) -> as_user[psycopg.Connection[Any]]:
    return as_user(app, who, pipeline=True)


def test_what_statements_find_is_fetched_after_the_block(app: psycopg.Connection[Any], todo: Database) -> None:
    with asked(app) as conn:
        conn.execute(INSERT, ["milk"])
        hers = conn.execute(OWNERS)
    with asked(app, BOB) as conn:
        his = conn.execute(OWNERS)
    with as_nobody(app, pipeline=True) as conn:
        nobodys = conn.execute(OWNERS)

    assert (hers.fetchall(), his.fetchall(), nobodys.fetchall()) == ([(full(ALICE),)], [], [])
    assert stored(todo) == ["milk"]


def test_it_is_one_flight(app: psycopg.Connection[Any]) -> None:
    with round_trips(app) as counted, asked(app) as conn:
        conn.execute(INSERT, ["milk"])
        conn.execute(OWNERS)

    assert counted == [1]


def test_what_is_fetched_inside_is_there_too(app: psycopg.Connection[Any], todo: Database) -> None:
    with asked(app) as conn:
        conn.execute(INSERT, ["milk"])
        assert conn.execute(OWNERS).fetchall() == [(full(ALICE),)]
        conn.execute(INSERT, ["bread"])
    assert stored(todo) == ["bread", "milk"]


def test_an_empty_block_is_one_too(app: psycopg.Connection[Any]) -> None:
    with asked(app):
        pass


def test_the_next_transaction_knows_nobody(app: psycopg.Connection[Any]) -> None:
    with asked(app) as conn:
        conn.execute(INSERT, ["milk"])

    assert app.execute("select rlskit.identity(), current_setting('rlskit.sub')").fetchone() == (None, "")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(INSERT, ["nobody's"])
    app.rollback()


# --- it is kept whole ---------------------------------------------------------------------------------------------------


def fails(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select 1 / 0")


def fails_and_is_seen(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select 1 / 0").fetchall()


def fails_at_the_end(conn: psycopg.Connection[Any]) -> None:
    for _ in range(2):
        conn.execute("insert into todo (content, code) values ('twice', 1)")


def raises(conn: psycopg.Connection[Any]) -> None:
    raise KeyError


def raises_when_all_is_sent(conn: psycopg.Connection[Any]) -> None:
    conn.execute(OWNERS).fetchall()
    raise KeyError


def commits(conn: psycopg.Connection[Any]) -> None:
    conn.commit()


def rolls_back(conn: psycopg.Connection[Any]) -> None:
    conn.rollback()


FAILURES: dict[Any, type[BaseException]] = {
    fails: psycopg.errors.DivisionByZero,
    fails_and_is_seen: psycopg.errors.DivisionByZero,
    fails_at_the_end: psycopg.errors.UniqueViolation,
    raises: KeyError,
    raises_when_all_is_sent: KeyError,
    commits: TransactionInProgressError,
    rolls_back: TransactionInProgressError,
}


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_failure_rolls_back_and_goes_its_way(failure: Any, autocommit: bool, todo: Database) -> None:
    with todo.connect_as_app(autocommit=autocommit) as app:
        guard(app, key=KEY)
        with pytest.raises(FAILURES[failure]), asked(app) as conn:
            conn.execute(INSERT, ["before"])
            failure(conn)
            conn.execute(INSERT, ["after"])
        assert app.autocommit == autocommit
        assert_nobodys(app)
        with asked(app) as conn:
            conn.execute(INSERT, ["another time"])
        assert app.autocommit == autocommit

    assert stored(todo) == ["another time"]


def test_a_refusal_has_its_name(app: psycopg.Connection[Any], todo: Database) -> None:
    with pytest.raises(RowDenied) as caught, asked(app) as conn:
        conn.execute("insert into todo (owner) values (%s)", [full(BOB)])
    assert caught.value.table == "todo"
    with pytest.raises(RowDenied), asked(app) as conn:
        conn.execute("insert into todo (owner) values (%s) returning owner", [full(BOB)]).fetchall()
    with pytest.raises(TableDenied), asked(app) as conn:
        conn.execute("truncate todo")


def test_an_error_that_is_caught_inside_comes_back_at_the_end(app: psycopg.Connection[Any], todo: Database) -> None:
    """What follows an error in a flight never arrives, the COMMIT neither: nobody is to think that it did."""
    with pytest.raises(TransactionInProgressError, match="nothing of it is stored"), asked(app) as conn:
        conn.execute(INSERT, ["before"])
        with suppress(psycopg.errors.DivisionByZero):
            fails_and_is_seen(conn)

    assert stored(todo) == []


def test_an_error_that_a_savepoint_holds_is_over(app: psycopg.Connection[Any], todo: Database) -> None:
    with asked(app) as conn:
        conn.execute(INSERT, ["before"])
        with suppress(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute(INSERT, ["undone"])
            fails_and_is_seen(conn)
        conn.execute(INSERT, ["after"])

    assert stored(todo) == ["after", "before"]


def test_a_transaction_inside_is_a_savepoint(app: psycopg.Connection[Any], todo: Database) -> None:
    with asked(app) as conn:
        with suppress(KeyError), conn.transaction():
            conn.execute(INSERT, ["undone"])
            raise KeyError
        with conn.transaction():
            conn.execute(INSERT, ["kept"])
        whose = conn.execute(OWNERS)

    assert whose.fetchall() == [(full(ALICE),)]
    assert stored(todo) == ["kept"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("seen", [False, True], ids=["", "and its answer is waited for"])
def test_an_end_of_the_transaction_as_a_statement_is_told(
    ending: str, seen: bool, app: psycopg.Connection[Any]
) -> None:
    with pytest.raises(TransactionInProgressError, match="was ended inside it"), asked(app) as conn:
        conn.execute(INSERT, ["milk"])
        conn.execute(ending)  # type: ignore[call-overload]
        if seen:
            assert conn.execute(OWNERS).fetchall() == []


def test_what_was_prepared_in_vain_is_prepared_again(app: psycopg.Connection[Any]) -> None:
    """psycopg prepares what it sends often; what follows an error in the same flight never arrived."""
    for _ in range(3):
        with suppress(psycopg.errors.DivisionByZero), asked(app) as conn:
            fails(conn)
            for _ in range(10):
                conn.execute("select owner, content from todo")
        for _ in range(3):
            with asked(app) as conn:
                rows = conn.execute("select owner, content from todo")
            assert rows.fetchall() == []
            with as_user(app, ALICE) as conn:
                assert conn.execute("select owner, content from todo").fetchall() == []


def test_hundreds_of_them_in_a_row(app: psycopg.Connection[Any], todo: Database) -> None:
    for number in range(300):
        who = (ALICE, BOB)[number % 2]
        with asked(app, who) as conn:
            conn.execute("insert into todo (code) values (%s)", [number])
            rows = conn.execute("select distinct owner from todo where code <= %s", [number])
        assert rows.fetchall() == [(full(who),)]
        if number % 50 == 7:
            with suppress(psycopg.errors.UniqueViolation), asked(app, who) as conn:
                conn.execute("insert into todo (code) values (%s)", [number])

    assert todo.rows("select count(*) from todo") == [(300,)]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [False, True], ids=["", "when something was sent"])
def test_no_other_block_is_held_inside(sent: bool, app: psycopg.Connection[Any]) -> None:
    with asked(app) as conn:
        if sent:
            conn.execute(OWNERS).fetchall()
        for inner in (as_user(app, ALICE), asked(app)):
            with pytest.raises(TransactionInProgressError, match="a block in a pipeline holds no other one"), inner:
                pass
        for other in (as_user(app, BOB), asked(app, BOB), as_nobody(app), as_user(app, ALICE, actor=BOB)):
            with pytest.raises(IdentityConflictError, match="another identity is at work"), other:
                pass
        rows = conn.execute("select rlskit.identity()")
    assert rows.fetchall() == [(full(ALICE),)]


def test_it_is_not_held_inside_of_another_one(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        with pytest.raises(TransactionInProgressError, match="a block in a pipeline holds no other one"), asked(app):
            pass
        with pytest.raises(IdentityConflictError), asked(app, BOB):
            pass
        assert conn.execute("select rlskit.identity()").fetchone() == (full(ALICE),)


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_connection_in_a_transaction_is_refused_and_left_as_it_is(autocommit: bool, todo: Database) -> None:
    with todo.connect_as_app(autocommit=autocommit) as conn:
        guard(conn, key=KEY)
        conn.execute("begin" if autocommit else "select 1")
        with pytest.raises(TransactionInProgressError, match="already in a transaction"), asked(conn):
            pass
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        assert conn.autocommit == autocommit


@pytest.mark.parametrize("pipeline", [False, True], ids=["", "in a pipeline"])
def test_in_somebody_elses_pipeline_it_is_refused(pipeline: bool, todo: Database) -> None:
    with todo.connect_as_app(autocommit=True) as conn:
        guard(conn, key=KEY)
        with conn.pipeline():
            refused = pytest.raises(TransactionInProgressError, match="is in a pipeline")
            with refused, as_user(conn, ALICE, pipeline=pipeline):
                pass
            one = conn.execute("select 1")
        assert one.fetchone() == (1,)
        assert_nobodys(conn)


def test_a_login_that_no_rule_binds_is_refused(todo: Database) -> None:
    for dsn in (todo.superuser_dsn, todo.owner_dsn):
        with psycopg.connect(dsn) as conn:
            with pytest.raises(BypassingRoleError), asked(conn):
                pass
            assert (conn.info.transaction_status, conn.autocommit) == (TransactionStatus.IDLE, False)


# --- what the connection says holds ----------------------------------------------------------------------------------


def test_isolation_read_only_and_role_hold(app: psycopg.Connection[Any], todo: Database) -> None:
    app.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    app.read_only = True
    app.deferrable = True
    with as_user(app, ALICE, role=todo.app, pipeline=True) as conn:
        rows = conn.execute(
            "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
            " current_setting('transaction_deferrable'), current_setting('role')"
        )
    assert rows.fetchall() == [("serializable", "on", "on", todo.app)]


# --- pools and tasks -------------------------------------------------------------------------------------------------


def test_a_pool_lends_a_connection_for_the_flight(todo: Database) -> None:
    with ConnectionPool(todo.app_dsn, min_size=1, max_size=1, reset=scrub, timeout=20) as pool:
        guard(pool, key=KEY)
        for number in range(20):
            who = (ALICE, BOB)[number % 2]
            with suppress(psycopg.errors.DivisionByZero), as_user(pool, who, pipeline=True) as conn:
                conn.execute(INSERT, ["milk"])
                rows = conn.execute("select distinct owner from todo")
                if number % 3 == 2:
                    conn.execute("select 1 / 0")
            if number % 3 != 2:
                assert rows.fetchall() == [(full(who),)]
        with pool.connection() as conn:
            assert_nobodys(conn)
    assert len(stored(todo)) == 14


def test_it_is_the_same_with_async_with(todo: Database) -> None:
    async def scenario() -> list[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            todo.app_dsn, min_size=1, max_size=1, reset=scrub, timeout=20, open=False
        )
        found = []
        async with pool:
            await guard(pool, key=KEY)
            for who in (ALICE, BOB):
                async with as_user(pool, who, pipeline=True) as conn:
                    await conn.execute(INSERT, ["milk"])
                    rows = await conn.execute(OWNERS)
                found.append(await rows.fetchall())
            with pytest.raises(psycopg.errors.UniqueViolation):
                async with as_user(pool, ALICE, pipeline=True) as conn:
                    for _ in range(2):
                        await conn.execute("insert into todo (code) values (1)")
            with pytest.raises(TransactionInProgressError, match="cannot be ended inside"):
                async with as_user(pool, ALICE, pipeline=True) as conn:
                    await conn.commit()
            with pytest.raises(TransactionInProgressError, match="was ended inside"):
                async with as_user(pool, ALICE, pipeline=True) as conn:
                    await conn.execute("commit")
            async with pool.connection() as conn:
                assert_nobodys(conn)
                assert not conn.autocommit
        return found

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == [[(full(ALICE),)], [(full(BOB),)]]
    assert stored(todo) == ["milk", "milk"]


async def nobody_is_left(conn: AsyncConnection[Any], autocommit: bool) -> None:
    if not conn.closed:
        assert_nobodys(conn)
        assert conn.autocommit == autocommit
        row = await (await conn.execute("select rlskit.identity(), count(*) from todo")).fetchone()
        assert row == (None, 0)


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_task_that_is_cancelled_leaves_no_identity_and_no_row(autocommit: bool, todo: Database) -> None:
    async def scenario() -> None:
        async with await AsyncConnection.connect(todo.app_dsn, autocommit=autocommit) as app:
            await guard(app, key=KEY)

            async def work() -> None:
                async with as_user(app, ALICE, pipeline=True) as conn:
                    await conn.execute(INSERT, ["milk"])
                    await conn.execute("select pg_sleep(30)")

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work(), 0.3)
            await nobody_is_left(app, autocommit)

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert stored(todo) == []


@pytest.mark.parametrize("pipeline", [False, True], ids=["", "in a pipeline"])
def test_cancelled_at_any_moment_the_next_transaction_is_nobodys(pipeline: bool, todo: Database) -> None:
    async def work(app: AsyncConnection[Any]) -> None:
        async with as_user(app, ALICE, pipeline=pipeline) as conn:
            await conn.execute("select 1")
            await conn.execute("select 2")

    async def scenario() -> int:
        cancelled = 0
        for steps in range(40):
            async with await AsyncConnection.connect(todo.app_dsn) as app:
                await guard(app, key=KEY)
                task = asyncio.create_task(work(app))
                for _ in range(steps):
                    await asyncio.sleep(0)
                cancelled += task.cancel()
                # Some releases of psycopg raise a TypeError of their own where they are cancelled in a pipeline.
                with suppress(asyncio.CancelledError, *([TypeError] if pipeline else [])):
                    await task
                await nobody_is_left(app, autocommit=False)
        return cancelled

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) > 3
