"""`bypass` is for support and jobs: for a reason, for a limited time, said aloud, and never by the application's own login."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import TableRules, allow, as_nobody, as_user, bypass, guard, scrub
from rlskit.errors import BypassError, BypassingRoleError, IdentityConflictError, TransactionInProgressError
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full

BOTH = [("alice",), ("bob",)]
CONTENTS = "select content from todo order by content"


@dataclass(frozen=True)
class Shop:
    """A database, and those who may see all of it: a login with BYPASSRLS, and one that has it from a role."""

    database: Database

    @property
    def support(self) -> str:
        return f"{self.database.name}_support"

    @property
    def power(self) -> str:
        return f"{self.database.name}_power"

    @property
    def agent(self) -> str:
        return f"{self.database.name}_agent"

    def dsn(self, login: str) -> str:
        return make_conninfo(self.database.superuser_dsn, user=login)

    def connect(self, login: str | None = None) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(login or self.support))


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Shop]:
    with fresh_database(server, "bypass") as database:
        shop = Shop(database)
        database.execute("create table todo (id serial, content text)")
        database.apply(TableRules("todo", allow.owner()))
        with database.connect(autocommit=True) as admin:
            admin.execute(f"create role {shop.support} login bypassrls")
            admin.execute(f"create role {shop.power} bypassrls")
            admin.execute(f"create role {shop.agent} login noinherit in role {shop.power}")
            for role in (shop.support, shop.power):
                admin.execute(f"grant select, insert, update, delete on todo to {role}")
        yield shop
        with database.connect(autocommit=True) as admin:
            for role in (shop.agent, shop.support, shop.power):
                admin.execute(f"drop owned by {role}")
                admin.execute(f"drop role {role}")


@pytest.fixture
def shop(made: Shop) -> Shop:
    with made.database.connect(autocommit=True) as admin:
        admin.execute("truncate todo")
        for who in (ALICE, BOB):
            admin.execute("insert into todo (content, owner) values (%s, %s)", [who.username, full(who)])
    return made


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """What was logged, as the records carry it."""
    caplog.set_level(logging.DEBUG)
    return lambda: [each.rlskit for each in caplog.records if hasattr(each, "rlskit")]


def stored(shop: Shop) -> list[Any]:
    return shop.database.rows(CONTENTS)


# --- it sees everything -----------------------------------------------------------------------------------------------


def by_connection(dsn: str, **options: Any) -> list[Any]:
    with psycopg.connect(dsn) as idle, bypass(idle, reason="ticket 1", **options) as conn:
        return conn.execute(CONTENTS).fetchall()


def by_async_connection(dsn: str, **options: Any) -> list[Any]:
    async def asking() -> list[Any]:
        async with await AsyncConnection.connect(dsn) as idle, bypass(idle, reason="ticket 1", **options) as conn:
            return await (await conn.execute(CONTENTS)).fetchall()

    return asyncio.run(asyncio.wait_for(asking(), 60))


def by_pool(dsn: str, **options: Any) -> list[Any]:
    pool = ConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, open=False)
    with pool, bypass(pool, reason="ticket 1", **options) as conn:
        return conn.execute(CONTENTS).fetchall()


def by_async_pool(dsn: str, **options: Any) -> list[Any]:
    async def asking() -> list[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, open=False)
        async with pool, bypass(pool, reason="ticket 1", **options) as conn:
            return await (await conn.execute(CONTENTS)).fetchall()

    return asyncio.run(asyncio.wait_for(asking(), 60))


WAYS = {"connection": by_connection, "async": by_async_connection, "pool": by_pool, "async pool": by_async_pool}


@pytest.mark.parametrize("way", WAYS)
def test_it_sees_everything(way: str, shop: Shop) -> None:
    assert WAYS[way](shop.dsn(shop.support)) == BOTH
    assert WAYS[way](shop.dsn(shop.agent), role=shop.power) == BOTH


@pytest.mark.parametrize("way", WAYS)
def test_the_applications_login_is_refused(way: str, shop: Shop) -> None:
    with pytest.raises(BypassError) as caught:
        WAYS[way](shop.database.app_dsn)

    assert str(caught.value) == (
        f"login `{shop.database.app}` has no BYPASSRLS, so the rules bind it\n"
        "hint: connect with the login of support, or name its role"
    )


def test_it_is_one_transaction(shop: Shop) -> None:
    with shop.connect() as idle:
        with bypass(idle, reason="ticket 1") as conn:
            conn.execute("update todo set content = upper(content)")
        assert idle.info.transaction_status == TransactionStatus.IDLE
        assert stored(shop) == [("ALICE",), ("BOB",)]
        with pytest.raises(KeyError), bypass(idle, reason="ticket 1") as conn:
            conn.execute("delete from todo")
            raise KeyError
        with pytest.raises(TransactionInProgressError), bypass(idle, reason="ticket 1") as conn:
            conn.commit()
        assert idle.info.transaction_status == TransactionStatus.IDLE
    assert len(stored(shop)) == 2


def test_nobody_asks_in_it_and_the_actor_is_told(shop: Shop) -> None:
    query = "select rlskit.identity(), rlskit.actor()"
    with shop.connect() as idle:
        with bypass(idle, reason="ticket 1", actor=CAROL) as conn:
            assert conn.execute(query).fetchone() == (None, full(CAROL))
        assert idle.execute(query).fetchone() == (None, None)
        idle.rollback()
        with bypass(idle, reason="ticket 1") as conn:
            assert conn.execute(query).fetchone() == (None, None)


def test_its_settings_are_gone_afterwards(shop: Shop) -> None:
    query = "select current_user::text, current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    with shop.connect(shop.agent) as idle:
        before = idle.execute(query).fetchone()
        idle.rollback()
        with bypass(idle, reason="ticket 1", role=shop.power, timeout=7) as conn:
            assert conn.execute(query).fetchone() == (shop.power, "7s", "7s")
        assert idle.execute(query).fetchone() == before


def test_where_identities_are_signed_it_needs_no_key_and_the_log_alone_tells_the_actor(
    shop: Shop, events: Callable[[], list[dict[str, Any]]]
) -> None:
    """Nobody signs for a bypass, so the database has nothing but its word; it takes none there."""
    shop.database.execute("call rlskit.require_signatures(true)")
    try:
        with shop.connect() as idle, bypass(idle, reason="ticket 1", actor=CAROL) as conn:
            assert conn.execute(CONTENTS).fetchall() == BOTH
            assert conn.execute("select rlskit.actor()").fetchone() == (None,)
    finally:
        shop.database.execute("call rlskit.require_signatures(false)")
    assert [event["actor"] for event in events()] == [full(CAROL)] * 2


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", " ", "\t\n", None, 3])
def test_it_needs_a_reason(reason: Any, shop: Shop) -> None:
    with shop.connect() as idle, pytest.raises(BypassError) as caught:
        bypass(idle, reason=reason)
    assert str(caught.value) == 'a bypass needs a reason\nhint: say why in words: reason="ticket 123"'


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 1e12])
def test_it_needs_a_time_limit(timeout: float, shop: Shop) -> None:
    with shop.connect() as idle, pytest.raises(BypassError, match="a bypass needs a time limit"):
        bypass(idle, reason="ticket 1", timeout=timeout)


def test_an_actor_is_an_identity(shop: Shop) -> None:
    with shop.connect() as idle, pytest.raises(ValueError, match="`actor` is no Identity"):
        bypass(idle, reason="ticket 1", actor="carol")  # type: ignore[arg-type]


REFUSED: dict[str, tuple[str, str | None, str]] = {
    "a superuser": ("postgres", None, "login `postgres` is a superuser"),
    "a superuser that takes on a role": ("postgres", "{power}", "login `postgres` is a superuser"),
    "a role that is a superuser": ("{agent}", "postgres", "role `postgres` is a superuser"),
    "a role that is none": ("{support}", "no such role", "there is no role `no such role`"),
    "a role that tries to be more": ("{support}", "x' or 'a'='a", "there is no role `x' or 'a'='a`"),
    "a role that the rules bind": ("{support}", "{app}", "role `{app}` has no BYPASSRLS, so the rules bind it"),
    "a login without its role": ("{agent}", None, "login `{agent}` has no BYPASSRLS, so the rules bind it"),
    "the owner of the tables": ("{owner}", None, "login `{owner}` has no BYPASSRLS, so the rules bind it"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_login_that_is_too_much_or_too_little_is_refused(
    refused: str, shop: Shop, events: Callable[[], list[dict[str, Any]]]
) -> None:
    names = {"support": shop.support, "power": shop.power, "agent": shop.agent}
    names |= {"app": shop.database.app, "owner": shop.database.owner}
    login, role, message = (None if each is None else each.format(**names) for each in REFUSED[refused])
    with shop.connect(login) as idle:
        with pytest.raises(BypassError) as caught, bypass(idle, reason="ticket 1", role=role):
            pass
        assert caught.value.message == message
        assert idle.info.transaction_status == TransactionStatus.IDLE
        with shop.connect() as other, bypass(other, reason="ticket 1"):  # what was refused was never begun
            pass
    assert len(events()) == 2


def test_a_role_that_the_login_may_not_take_on_is_the_databases_to_refuse(shop: Shop) -> None:
    with shop.connect(shop.database.app) as idle:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), bypass(idle, reason="x", role=shop.power):
            pass
        assert idle.info.transaction_status == TransactionStatus.IDLE


def test_a_connection_in_a_transaction_is_refused(shop: Shop) -> None:
    with shop.connect() as busy:
        busy.execute("select 1")
        with pytest.raises(TransactionInProgressError), bypass(busy, reason="ticket 1"):
            pass


# --- nothing inside of it, and it in nothing -------------------------------------------------------------------------


def test_there_is_none_inside_of_another(shop: Shop) -> None:
    with shop.connect() as idle, shop.connect() as other:
        with bypass(idle, reason="ticket 1") as conn:
            for inner in (bypass(idle, reason="ticket 1"), bypass(other, reason="ticket 2")):
                with pytest.raises(BypassError) as caught, inner:
                    pass
                assert str(caught.value) == "a bypass inside a bypass\nhint: one block does it all, for one reason"
            assert conn.execute(CONTENTS).fetchall() == BOTH
        with bypass(other, reason="ticket 2") as conn:
            assert conn.execute(CONTENTS).fetchall() == BOTH


def test_nobody_asks_on_its_connection_and_it_is_not_had_where_somebody_asks(shop: Shop) -> None:
    with shop.connect() as idle:
        with bypass(idle, reason="ticket 1"):
            for inner in (as_user(idle, ALICE), as_nobody(idle), as_user(idle, ALICE, pipeline=True)):
                with pytest.raises(IdentityConflictError), inner:
                    pass
        guard(idle, allow_bypass="a test")
        with as_user(idle, ALICE), pytest.raises(IdentityConflictError), bypass(idle, reason="ticket 1"):
            pass
        assert idle.info.transaction_status == TransactionStatus.IDLE


def test_somebody_may_ask_on_another_connection_meanwhile(shop: Shop) -> None:
    with (
        shop.connect() as idle,
        shop.database.connect_as_app() as app,
        bypass(idle, reason="ticket 1"),
        as_user(app, ALICE) as conn,
    ):
        assert conn.execute(CONTENTS).fetchall() == [("alice",)]


def test_each_task_has_its_own_and_what_is_started_inside_of_one_is_inside(shop: Shop) -> None:
    async def ask(reason: str, wait: asyncio.Event | None = None) -> list[Any]:
        if wait is not None:
            await wait.wait()
        idle = await AsyncConnection.connect(shop.dsn(shop.support))
        async with idle, bypass(idle, reason=reason) as conn:
            return await (await conn.execute(CONTENTS)).fetchall()

    async def scenario() -> None:
        assert await asyncio.gather(ask("ticket 1"), ask("ticket 2")) == [BOTH, BOTH]
        over = asyncio.Event()
        async with await AsyncConnection.connect(shop.dsn(shop.support)) as idle:
            async with bypass(idle, reason="ticket 1"):
                with pytest.raises(BypassError, match="a bypass inside a bypass"):
                    await asyncio.create_task(ask("ticket 2"))
                later = asyncio.create_task(ask("ticket 3", over))
                await asyncio.sleep(0)
            over.set()
            assert await later == BOTH  # what outlives the block is not inside any more

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_it_may_end_in_another_context(shop: Shop) -> None:
    """As where a framework enters and leaves it in different threads."""
    with shop.connect() as idle:
        block: Any = bypass(idle, reason="ticket 1")
        block.__enter__()
        contextvars.copy_context().run(partial(block.__exit__, None, None, None))
        with bypass(idle, reason="ticket 2") as conn:
            assert conn.execute(CONTENTS).fetchall() == BOTH


def test_threads_have_their_own(shop: Shop) -> None:
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.append(by_connection(shop.dsn(shop.support))), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [BOTH] * 3


# --- its time is limited ---------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_cancelled(shop: Shop, events: Callable[[], list[dict[str, Any]]]) -> None:
    with shop.connect() as idle:
        with pytest.raises(psycopg.errors.QueryCanceled), bypass(idle, reason="ticket 1", timeout=0.2) as conn:
            conn.execute("delete from todo")
            conn.execute("select pg_sleep(30)")
        assert idle.info.transaction_status == TransactionStatus.IDLE
    assert len(stored(shop)) == 2
    assert events()[-1]["outcome"] == "rolled back: QueryCanceled"


LATE = "the bypass took longer than its 0.2 seconds, and was rolled back\nhint: do less in one block, or say timeout=…"


def test_a_block_that_takes_too_long_is_rolled_back(shop: Shop, events: Callable[[], list[dict[str, Any]]]) -> None:
    with shop.connect() as idle:
        with pytest.raises(BypassError) as caught, bypass(idle, reason="ticket 1", timeout=0.2) as conn:
            conn.execute("delete from todo")
            for _ in range(3):
                conn.execute("select pg_sleep(0.1)")
        assert str(caught.value) == LATE
        assert idle.info.transaction_status == TransactionStatus.IDLE
        with bypass(idle, reason="ticket 1") as conn:
            assert conn.execute(CONTENTS).fetchall() == BOTH
    assert events()[1]["outcome"] == "rolled back: BypassError"


def test_so_is_one_that_waits_too_long(shop: Shop, events: Callable[[], list[dict[str, Any]]]) -> None:
    """The server has ended the session then: nobody keeps its locks."""
    with shop.connect() as idle:
        with pytest.raises(BypassError) as caught, bypass(idle, reason="ticket 1", timeout=0.2) as conn:
            conn.execute("delete from todo")
            time.sleep(0.5)
        assert str(caught.value) == LATE
        assert idle.closed
    assert len(stored(shop)) == 2
    assert events()[-1]["outcome"] == "rolled back: BypassError"


def test_so_is_an_async_one(shop: Shop) -> None:
    async def scenario(dsn: str) -> None:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, open=False)
        async with pool:
            with pytest.raises(BypassError, match="took longer than its"):
                async with bypass(pool, reason="ticket 1", timeout=0.2) as conn:
                    await conn.execute("delete from todo")
                    for _ in range(3):
                        await conn.execute("select pg_sleep(0.1)")
            with pytest.raises(BypassError, match="took longer than its"):
                async with bypass(pool, reason="ticket 1", timeout=0.2) as conn:
                    await conn.execute("delete from todo")
                    await asyncio.sleep(0.5)
            async with bypass(pool, reason="ticket 1") as conn:
                assert await (await conn.execute(CONTENTS)).fetchall() == BOTH

    asyncio.run(asyncio.wait_for(scenario(shop.dsn(shop.support)), 60))


# --- it is said aloud ------------------------------------------------------------------------------------------------


def test_its_beginning_and_its_end_are_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with shop.connect(shop.agent) as idle, bypass(idle, reason="ticket 1", actor=CAROL, role=shop.power) as conn:
        assert [each.getMessage() for each in caplog.records] == ["bypass begins: ticket 1"]
        conn.execute("select pg_sleep(0.1)")

    begins, ends = caplog.records
    assert {(each.name, each.levelno) for each in (begins, ends)} == {("rlskit.bypass", logging.WARNING)}
    assert ends.getMessage() == "bypass ends, committed: ticket 1"
    about = {
        "reason": "ticket 1",
        "actor": full(CAROL),
        "login": shop.agent,
        "role": shop.power,
        "database": shop.database.name,
    }
    assert begins.rlskit == {"event": "bypass begins", **about}  # type: ignore[attr-defined]
    told = dict(ends.rlskit)  # type: ignore[attr-defined]
    assert 0.1 <= told.pop("seconds") < 30
    assert told == {"event": "bypass ends", **about, "outcome": "committed"}


def test_what_went_wrong_is_logged_by_its_kind_alone(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """An error's message may hold values of a row."""
    caplog.set_level(logging.DEBUG)
    with shop.connect() as idle:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation), bypass(idle, reason="ticket 1") as conn:
            conn.execute("select content::int from todo")
        with pytest.raises(KeyError), bypass(idle, reason="ticket 1") as conn:
            raise KeyError(conn.execute(CONTENTS).fetchall())
        with pytest.raises(psycopg.errors.InsufficientPrivilege), bypass(idle, reason="ticket 1") as conn:
            conn.execute("truncate todo")

    outcomes = [each.rlskit["outcome"] for each in caplog.records if "ends" in each.getMessage()]  # type: ignore[attr-defined]
    assert outcomes == ["rolled back: InvalidTextRepresentation", "rolled back: KeyError", "rolled back: TableDenied"]
    assert not any(value in str(vars(each)) for each in caplog.records for value in ("alice", "bob", full(ALICE)))


@pytest.mark.parametrize("async_", [False, True], ids=["", "async"])
def test_an_interruption_is_logged_too(async_: bool, shop: Shop, events: Callable[[], list[dict[str, Any]]]) -> None:
    async def scenario() -> None:
        idle = await AsyncConnection.connect(shop.dsn(shop.support))
        async with idle, asyncio.timeout(0.2), bypass(idle, reason="ticket 1") as conn:
            await conn.execute("delete from todo")
            await asyncio.sleep(30)

    if async_:
        with pytest.raises(TimeoutError):
            asyncio.run(scenario())
    else:
        with shop.connect() as idle, pytest.raises(KeyboardInterrupt), bypass(idle, reason="ticket 1") as conn:
            conn.execute("delete from todo")
            raise KeyboardInterrupt
    assert events()[-1]["outcome"] == f"rolled back: {'CancelledError' if async_ else 'KeyboardInterrupt'}"
    assert len(stored(shop)) == 2


# --- a login that may see everything, and asks as somebody all the same ---------------------------------------------


@pytest.mark.parametrize("reason", ["", "  "])
def test_the_guard_wants_a_reason_too(reason: str, shop: Shop) -> None:
    with shop.database.connect() as conn, pytest.raises(BypassingRoleError, match="`allow_bypass` is empty"):
        guard(conn, allow_bypass=reason)


def test_with_a_reason_a_superuser_may_ask_and_is_bound_by_nothing(
    shop: Shop, events: Callable[[], list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    with shop.database.connect() as conn:
        with pytest.raises(BypassingRoleError):
            guard(conn)
        guard(conn, allow_bypass="the demo")
        for who in (ALICE, BOB):
            with as_user(conn, who):
                assert conn.execute("select rlskit.identity()").fetchone() == (full(who),)
                assert conn.execute(CONTENTS).fetchall() == BOTH

    assert events() == [{"event": "bypass allowed", "login": "postgres", "reason": "the demo"}]
    assert "login `postgres` is a superuser, so no rule binds it; allowed: the demo" in caplog.text


def test_so_it_may_from_a_pool(shop: Shop, events: Callable[[], list[dict[str, Any]]]) -> None:
    dsn = shop.dsn(shop.support)
    with ConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, timeout=20) as pool:
        with pytest.raises(BypassingRoleError), as_user(pool, ALICE):
            pass
        guard(pool, allow_bypass="a nightly job")
        for _ in range(3):
            with as_user(pool, ALICE) as conn:
                assert conn.execute(CONTENTS).fetchall() == BOTH

    async def scenario() -> list[Any]:
        other: AsyncConnectionPool[Any] = AsyncConnectionPool(dsn, min_size=0, max_size=1, reset=scrub, open=False)
        async with other:
            await guard(other, allow_bypass="a nightly job")
            async with as_user(other, ALICE) as conn:
                return await (await conn.execute(CONTENTS)).fetchall()

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == BOTH
    assert [event["reason"] for event in events()] == ["a nightly job"] * 2


def test_it_lets_nobody_off_anything_else(database: Database) -> None:
    """The schema rlskit has to be there all the same."""
    with database.connect() as conn, pytest.raises(Exception, match="no schema rlskit"):
        guard(conn, allow_bypass="the demo")


def test_a_log_that_fails_leaves_nobody_past_the_rules(shop: Shop) -> None:
    def fails(record: logging.LogRecord) -> bool:
        raise RuntimeError("no log")

    log = logging.getLogger("rlskit.bypass")
    log.addFilter(fails)
    try:
        with psycopg.connect(make_conninfo(shop.database.superuser_dsn, user=shop.support)) as conn:
            with pytest.raises(RuntimeError, match="no log"), bypass(conn, reason="ticket 1"):
                raise AssertionError("it was entered")
            assert conn.info.transaction_status == TransactionStatus.IDLE
            conn.commit()  # which a block would refuse
    finally:
        log.removeFilter(fails)
