"""A pool lends one connection to many users: none of them finds anything of the one before."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import Identity, TableRules, allow, as_nobody, as_user, check_connection, guard, scrub
from rlskit.errors import BypassingRoleError, MissingIdentityError
from tests.support import ALICE, BOB, CAROL, Database, Server, copy_of, fresh_database, full

PEOPLE = (ALICE, BOB, CAROL)
Pool = ConnectionPool[Connection[Any]]


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "pools") as database:
        yield prepared(database)


@pytest.fixture
def todo(original: Database) -> Iterator[Database]:
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    database.execute("create table todo (id serial, content text)")
    database.apply(TableRules("todo", allow.owner()))
    for who in PEOPLE:
        with database.connect_as_app() as conn, as_user(conn, who):
            conn.execute("insert into todo (content) values (%s)", [who.username])
    return database


@pytest.fixture
def pool(todo: Database) -> Iterator[Pool]:
    """One connection for everybody."""
    with ConnectionPool(todo.app_dsn, min_size=1, max_size=1, configure=guard, reset=scrub, timeout=20) as made:
        yield made


def owners(conn: Connection[Any]) -> list[Any]:
    return conn.execute("select owner from todo").fetchall()


def test_a_pool_lends_a_connection_for_the_block(pool: Pool) -> None:
    for who in (*PEOPLE, *PEOPLE):
        with as_user(pool, who) as conn:
            assert owners(conn) == [(full(who),)]
    with as_nobody(pool) as conn:
        assert owners(conn) == []


def test_a_connection_serves_many_blocks(pool: Pool) -> None:
    """Whatever psycopg has prepared in one of them, it has forgotten in the next."""
    for number in range(30):
        with as_user(pool, ALICE) as conn:
            for _ in range(number % 8):
                assert owners(conn) == [(full(ALICE),)]


def test_an_error_goes_its_way_and_the_connection_goes_back(pool: Pool, todo: Database) -> None:
    block = as_user(pool, ALICE)
    with pytest.raises(ZeroDivisionError), block as conn:
        conn.execute("delete from todo")
        raise ZeroDivisionError

    assert len(todo.rows("select * from todo")) == 3
    with block as conn:  # and may be used again
        assert owners(conn) == [(full(ALICE),)]


def test_a_refusal_gives_the_connection_back(pool: Pool) -> None:
    with pytest.raises(psycopg.Error), as_user(pool, ALICE, role="no such role"):
        pass
    with pytest.raises(MissingIdentityError, match="is neither a connection nor a pool"), as_user(3, ALICE):  # type: ignore[call-overload]
        pass

    with as_user(pool, BOB) as conn:
        assert owners(conn) == [(full(BOB),)]


def test_a_login_that_no_rule_binds_gets_into_no_pool(todo: Database) -> None:
    for dsn in (todo.superuser_dsn, todo.owner_dsn):
        with ConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, timeout=20) as unguarded:
            with pytest.raises(BypassingRoleError), as_user(unguarded, ALICE):
                pass
            with unguarded.connection(timeout=5) as conn:  # it came back, and only rlskit refused it
                assert not conn.closed


LEFT_BEHIND = {
    "a temporary table": ("create temporary table todo (owner text)", "select count(*) from pg_temp.todo"),
    "a prepared statement": ("prepare theirs as select owner from todo", "execute theirs"),
    "a cursor with hold": ("declare theirs cursor with hold for select owner from todo", "fetch all from theirs"),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_a_user_leaves_behind_is_gone_with_the_next(what: str, pool: Pool) -> None:
    made, used = LEFT_BEHIND[what]
    with as_user(pool, ALICE) as conn:
        conn.execute(made)  # type: ignore[call-overload]

    with as_user(pool, BOB) as conn, pytest.raises(psycopg.Error), conn.transaction():
        conn.execute(used)  # type: ignore[call-overload]


@pytest.mark.parametrize("setting", ["rlskit.sub", "rlskit.moving_to", "search_path", "role"])
def test_what_a_user_sets_for_the_session_is_gone_with_the_next(setting: str, pool: Pool, todo: Database) -> None:
    value = todo.app if setting == "role" else "theirs"
    with pool.connection() as conn:
        before = conn.execute("select current_setting(%s, true)", [setting]).fetchone()
        conn.execute("select set_config(%s, %s, false)", [setting, value])

    with pool.connection() as conn:
        after = conn.execute("select current_setting(%s, true)", [setting]).fetchone()
    assert after in (before, ("",), (None,))
    assert after != (value,)


def test_a_prepared_statement_that_was_poisoned_is_not_run_for_the_next(pool: Pool) -> None:
    """psycopg prepares what it sends often, under names that can be guessed."""
    query = "select owner from todo"
    with as_user(pool, ALICE) as conn:
        for _ in range(10):
            conn.execute(query)
        conn.execute("deallocate all")
        conn.execute("prepare _pg3_0 as select 'poisoned'")
    with as_user(pool, BOB) as conn:
        for _ in range(10):
            assert conn.execute(query).fetchall() == [(full(BOB),)]


def test_many_threads_on_few_connections_never_share_an_identity(todo: Database) -> None:
    """With errors, savepoints, rollbacks and connections that are cut in between."""
    wrong: list[Any] = []
    done = [0]

    def work(seed: int, pool: Pool) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            who = chance.choice(PEOPLE)
            try:
                with as_user(pool, who) as conn:
                    if (seen := owners(conn)) != [(full(who),)]:
                        wrong.append((who.sub, seen))
                    match chance.randrange(5):
                        case 0:
                            raise KeyError
                        case 1:
                            conn.execute("select 1 / 0")
                        case 2:
                            with conn.transaction(force_rollback=True):
                                conn.execute("update todo set content = 'x'")
                        case 3:
                            conn.pgconn.finish()
                    done[0] += 1
            except (KeyError, psycopg.Error):
                pass

    with ConnectionPool(todo.app_dsn, min_size=2, max_size=2, configure=guard, reset=scrub, timeout=60) as pool:
        threads = [threading.Thread(target=work, args=(seed, pool), daemon=True) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive()
        with as_nobody(pool) as conn:
            assert owners(conn) == []

    assert wrong == []
    assert done[0] > 50
    assert sorted(todo.rows("select content from todo")) == [("alice",), ("bob",), ("carol",)]


def test_many_tasks_on_few_connections_never_share_an_identity(todo: Database) -> None:
    """With errors and with tasks that are cancelled in between."""

    async def work(seed: int, pool: AsyncConnectionPool[Any], wrong: list[Any]) -> int:
        chance = random.Random(seed)
        done = 0
        for _ in range(40):
            who = chance.choice(PEOPLE)
            try:
                async with asyncio.timeout(chance.choice([0.001, 0.003, 20])), as_user(pool, who) as conn:
                    seen = await (await conn.execute("select owner from todo")).fetchall()
                    if seen != [(full(who),)]:
                        wrong.append((who.sub, seen))
                    if chance.random() < 0.2:
                        await conn.execute("select 1 / 0")
                    done += 1
            except (TimeoutError, psycopg.Error):
                pass
        return done

    async def scenario() -> tuple[list[Any], int, list[Any]]:
        wrong: list[Any] = []
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            todo.app_dsn, min_size=2, max_size=2, configure=guard, reset=scrub, timeout=60, open=False
        )
        async with pool:
            done = await asyncio.gather(*(work(seed, pool, wrong) for seed in range(6)))
            async with as_nobody(pool) as conn:
                left = await (await conn.execute("select owner from todo")).fetchall()
        return wrong, sum(done), left

    wrong, done, left = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert (wrong, left) == ([], [])
    assert done > 30


def test_an_async_pool_lends_a_connection_for_the_block(todo: Database) -> None:
    async def ask(pool: AsyncConnectionPool[Any], who: Identity) -> Any:
        async with as_user(pool, who) as conn:
            return await (await conn.execute("select owner from todo")).fetchall()

    async def scenario() -> list[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            todo.app_dsn, min_size=1, max_size=1, configure=guard, reset=scrub, open=False
        )
        async with pool:
            return await asyncio.gather(*(ask(pool, who) for who in PEOPLE))

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == [[(full(who),)] for who in PEOPLE]


LEFT = {
    "an identity": "select set_config('rlskit.sub', 'a1f0', false)",
    "a username": "set rlskit.username = 'alice'",
    "claims": """set rlskit.claims = '{"email": "alice@example.com"}'""",
    "an actor": "set rlskit.actor = 'carol'",
    "a token": "set rlskit.token = 'v1.k.e30=.00'",
    "a search_path": "set search_path = pg_temp, public",
    "row_security": "set row_security = off",
}


@pytest.mark.parametrize("what", LEFT)
def test_a_pool_that_checks_does_not_lend_what_somebody_left_himself_on(what: str, todo: Database) -> None:
    with ConnectionPool(todo.app_dsn, min_size=1, max_size=1, check=check_connection, timeout=20) as pool:
        with pool.connection() as conn:
            spoilt = conn.info.backend_pid
            conn.execute(LEFT[what].encode())
        with pool.connection() as conn:
            assert conn.info.backend_pid != spoilt
            before = conn.info.backend_pid
        with as_user(pool, ALICE) as conn:
            assert conn.info.backend_pid == before, "a clean one is lent again"


def test_a_pool_that_checks_does_not_lend_what_is_dead(todo: Database) -> None:
    async def asked() -> list[Any]:
        async with AsyncConnectionPool(
            todo.app_dsn, min_size=1, max_size=1, check=check_connection, open=False
        ) as pool:
            async with pool.connection() as conn:
                dead = conn.info.backend_pid
            todo.rows("select pg_terminate_backend(%s, 5000)", [dead])
            async with as_user(pool, ALICE) as conn:
                return await (await conn.execute("select owner from todo")).fetchall()

    assert asyncio.run(asked()) == [(full(ALICE),)]


def test_a_pool_is_asked_in_its_own_way(pool: Pool, todo: Database) -> None:
    async def asked() -> None:
        async with as_user(pool, ALICE):  # type: ignore[misc]
            raise AssertionError("it was entered")

    with pytest.raises(TypeError, match="without `async`"):
        asyncio.run(asked())
    with pytest.raises(TypeError, match="`async with`"), as_user(AsyncConnectionPool(todo.app_dsn, open=False), ALICE):
        pass
