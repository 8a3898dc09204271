"""Whether the next user of a connection finds anything of the one before: a test to be pointed at one's own pool or engine.

It is written once, as a coroutine. Where the connections are synchronous nothing in it waits, and ``_in_one_go`` runs it through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from inspect import isawaitable
from itertools import cycle
from typing import Any, Literal, Protocol, TypeAlias

from psycopg import AsyncConnection, Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from rlskit import gatekeeper, runtime
from rlskit.connections import AnyConnection, AsyncPool, Pool
from rlskit.gatekeeper import Terms
from rlskit.janitor import scrub
from rlskit.session import as_user
from rlskit.testing.expectations import person


class Engine(Protocol):
    """What connects for a block, as SQLAlchemy's ``Engine`` does."""

    def connect(self) -> AbstractContextManager[Any]:
        """Lend one."""


class AsyncEngine(Protocol):
    """The same for ``async with``."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """Lend one."""


# A sessionmaker is a callable too, and stands for its engine.
Source: TypeAlias = Pool[Connection[Any]] | Engine | Callable[[], AbstractContextManager[Any]]
AsyncSource: TypeAlias = AsyncPool[AsyncConnection[Any]] | AsyncEngine | Callable[[], AbstractAsyncContextManager[Any]]


def assert_no_leak(source: Source) -> None:
    """Fail where the next user of a connection finds what the one before left on it.

    ``source`` is an open ``psycopg_pool.ConnectionPool``, an engine or a sessionmaker of SQLAlchemy, or a callable that gives a block which lends a connection
    (psycopg's, or SQLAlchemy's). Connections are taken from it as different people, who leave behind what a session can hold: identities, a role, a
    search_path, a temporary table, a prepared statement, a lock, a cursor; at the end of a block, by an error, by a cancelled statement. What the login may
    not do is not tried. Needs no table; nobody else should be using the source meanwhile. What was found is taken away again.

    Raises AssertionError, which lists what leaked and the way out, and where no connection was lent twice, which would prove nothing; what ``guard`` raises
    for a login that row security does not bind; TypeError for what lends nothing, or only asynchronously.
    """
    __tracebackhide__ = True
    _in_one_go(_Trial(source, asynchronous=False).run())


async def assert_no_leak_async(source: AsyncSource) -> None:
    """``assert_no_leak`` of what is asynchronous; there the task is cancelled, and not the statement. Raises the same."""
    __tracebackhide__ = True
    await _Trial(source, asynchronous=True).run()


# --- what is left, and how -------------------------------------------------------------------------------------------

Ending: TypeAlias = Literal["at the end of a block", "after an error", "when cancelled"]


@dataclass(frozen=True, slots=True)
class _Remains:
    """Something that outlives its transaction: how it is made, and what it is called."""

    statement: str
    words: str


def _setting(name: str, value: str) -> _Remains:
    return _Remains(f"set {name} = '{value}'", f"the setting {name}")


# By the columns of sql/testing/left.sql.
_REMAINS: Mapping[str, _Remains] = {
    "rlskit.sub": _setting("rlskit.sub", "left-behind"),
    "rlskit.username": _setting("rlskit.username", "left-behind"),
    "rlskit.claims": _setting("rlskit.claims", '{"left": "behind"}'),
    "rlskit.actor": _setting("rlskit.actor", "left-behind"),
    "rlskit.token": _setting("rlskit.token", "left-behind"),
    "rlskit.moving_to": _setting("rlskit.moving_to", "left-behind"),
    "role": _Remains("select set_config('role', session_user, false)", "the role"),
    "search_path": _setting("search_path", "rlskit_leak"),
    "row_security": _setting("row_security", "off"),
    "temporary_table": _Remains("create temporary table rlskit_leak ()", "a temporary table"),
    "prepared_statement": _Remains("prepare rlskit_leak as select 1", "a prepared statement"),
    "advisory_lock": _Remains("select pg_advisory_lock_shared(1919709035)", "an advisory lock"),
    "channel": _Remains("listen rlskit_leak", "a channel that is listened to"),
    # At last: nobody may ask while one is open.
    "cursor": _Remains("declare rlskit_leak cursor with hold for select 1", "a cursor WITH HOLD"),
}
_COMPARED = ("role", "search_path")  # with those of a connection on which nothing was left

_FAILS = "select 1 / 0"
_CANCELS_ITSELF = "select pg_cancel_backend(pg_backend_pid()), pg_sleep(60)"
_LASTS = "select pg_sleep(60)"
_TAKES = 200  # more than most pools hold


class _Trial:
    """One test of one source."""

    def __init__(self, source: Any, *, asynchronous: bool) -> None:
        self._lend, self._terms, self._way_out = _read(source)
        self._asynchronous = asynchronous
        self._people = cycle([person("alice"), person("bob"), person("carol")])
        self._clean: Mapping[str, Any] = {}

    async def run(self) -> None:
        """Raises what ``assert_no_leak`` does."""
        __tracebackhide__ = True
        found = await self._found_after((), "at the end of a block")
        if found is None:
            raise AssertionError(
                "no connection was lent twice: nothing could leak from one user to the next, and nothing was proved\n"
                "way out: test the pool or the engine that the application uses"
            )
        leaks: dict[str, list[Ending]] = {what: ["at the end of a block"] for what in found}
        # One by one, or else who looks for one of them would throw the others away with it.
        rounds: list[tuple[tuple[str, ...], Ending]] = [((each,), "at the end of a block") for each in _REMAINS]
        rounds += [(tuple(_REMAINS), "after an error"), (tuple(_REMAINS), "when cancelled")]
        for remains, ending in rounds:
            for what in await self._found_after(remains, ending) or ():
                leaks.setdefault(what, []).append(ending)
        if leaks:
            lines = [f"  {what}: {', '.join(dict.fromkeys(endings))}" for what, endings in leaks.items()]
            heading = "the next user of a connection finds what the one before left on it"
            raise AssertionError("\n".join([heading, *lines, f"way out: {self._way_out}"]))

    async def _found_after(self, remains: Iterable[str], ending: Ending) -> list[str] | None:
        """What the next user finds on the same connection, in words; None where it was thrown away."""
        pid = None
        limit: Any = asyncio.timeout(None) if self._asynchronous else nullcontext()
        try:
            async with limit, self._lent() as conn:
                await self._admit(conn)
                for each in remains:
                    await self._leave(conn, _REMAINS[each])
                pid = (await _look(conn, 0))["pid"]
                if ending == "after an error":
                    await _settled(conn.execute(_FAILS))
                elif ending == "when cancelled" and self._asynchronous:
                    limit.reschedule(asyncio.get_running_loop().time() + 0.02)
                    await _settled(conn.execute(_LASTS))
                elif ending == "when cancelled":
                    await _settled(conn.execute(_CANCELS_ITSELF))
        except Exception:
            if pid is None or ending == "at the end of a block":
                raise
        return await self._found_on(pid)

    async def _found_on(self, pid: int) -> list[str] | None:
        for take in range(_TAKES):
            async with self._lent() as conn:
                found = []
                if conn.pgconn.transaction_status != TransactionStatus.IDLE:
                    found.append("an open transaction")
                    await _settled(conn.rollback())
                now = await _look(conn, pid)
                if now["pid"] == pid:
                    self._clean = self._clean or now
                    found += [remains.words for name, remains in _REMAINS.items() if self._is_left(name, now)]
                    if found:
                        await _settled(scrub(conn))
                    return found
                if not now["is_alive"]:
                    return None
            if take > 20:  # it is still being cleaned, or closed
                await asyncio.sleep(0.01) if self._asynchronous else time.sleep(0.01)
        raise AssertionError(
            f"in {_TAKES} takes the same connection did not come back, though it is open: nothing can be told of it\n"
            "way out: a pool that nobody else uses meanwhile, with fewer connections"
        )

    def _is_left(self, name: str, now: Mapping[str, Any]) -> bool:
        return now[name] is not None and (name not in _COMPARED or now[name] != self._clean[name])

    async def _admit(self, conn: AnyConnection) -> None:
        if isinstance(conn, AsyncConnection):
            async with conn.lock:
                await conn.wait(gatekeeper.admit_with_key(conn, self._terms))
        else:
            with conn.lock:
                conn.wait(gatekeeper.admit_with_key(conn, self._terms))

    async def _leave(self, conn: AnyConnection, remains: _Remains) -> None:
        block: Any = as_user(conn, next(self._people))
        with suppress(InsufficientPrivilege):  # what the login may not do, it cannot leave either
            async with self._entered(block):
                await _settled(conn.execute(remains.statement.encode(), prepare=False))

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[AnyConnection]:
        async with self._entered(self._lend()) as lent:
            yield await _driver_of(lent)

    @asynccontextmanager
    async def _entered(self, block: Any) -> AsyncIterator[Any]:
        if self._asynchronous and hasattr(block, "__aenter__"):
            async with block as value:
                yield value
        elif not self._asynchronous and hasattr(block, "__enter__"):
            with block as value:
                yield value
        elif hasattr(block, "__aenter__"):
            raise TypeError("the source is asynchronous: await assert_no_leak_async(…)")
        elif hasattr(block, "__enter__"):
            raise TypeError("the source is not asynchronous: assert_no_leak(…), without await")
        else:
            raise TypeError(f"`{type(block).__name__}` is no block that lends a connection")


def _read(source: Any) -> tuple[Callable[[], Any], Terms, str]:
    """How it lends, on what terms it was guarded, and how it is kept from leaking. Duck-typed: none of these packages is imported here."""
    source = getattr(source, "kw", {}).get("bind") or source  # a sessionmaker is bound to its engine
    if isinstance(source, Connection | AsyncConnection):
        raise TypeError("a connection is lent to nobody: give the pool, the engine, or what makes connections")
    if hasattr(source, "connection"):
        return source.connection, gatekeeper.terms_of(source) or Terms(), "ConnectionPool(…, reset=rlskit.scrub)"
    if hasattr(source, "connect"):
        return source.connect, Terms(), "rlskit.sqlalchemy.guard(engine, scrub=True)"
    if callable(source):
        return source, Terms(), "call rlskit.scrub(conn) before a connection is lent again"
    raise TypeError(f"`{type(source).__name__}` is neither a pool, an engine nor a callable")


async def _driver_of(lent: Any) -> AnyConnection:
    """Psycopg's own connection below what was lent."""
    if isinstance(lent, Connection | AsyncConnection):
        return lent
    pooled = await lent.get_raw_connection() if hasattr(lent, "get_raw_connection") else None
    driver = getattr(pooled or getattr(lent, "connection", None), "driver_connection", None)
    if isinstance(driver, Connection | AsyncConnection):
        return driver
    raise TypeError(f"`{type(lent).__name__}` is no connection of psycopg, and none of SQLAlchemy over it")


async def _look(conn: AnyConnection, pid: int) -> dict[str, Any]:
    """What ``sql/testing/left.sql`` finds, in a transaction that is rolled back."""
    cursor: Any = conn.cursor(row_factory=dict_row)
    await _settled(cursor.execute(runtime.script("testing/left.sql"), {"pid": pid}, prepare=False))
    row: dict[str, Any] = await _settled(cursor.fetchone())
    await _settled(conn.rollback())
    return row


async def _settled(value: Any) -> Any:
    return await value if isawaitable(value) else value


def _in_one_go(play: Coroutine[Any, Any, None]) -> None:
    __tracebackhide__ = True
    try:
        play.send(None)
    except StopIteration:
        return
    play.close()
    raise AssertionError("something waited where nothing is asynchronous")
