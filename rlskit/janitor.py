"""A connection goes from one user to the next: nothing of the one is left on it, and who lends it can make sure."""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import count
from typing import Any, overload

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor, __version__

from rlskit import prelude, runtime
from rlskit.connections import AnyConnection, check_idle
from rlskit.errors import IdentityConflictError


@overload
def scrub(conn: Connection[Any]) -> None: ...
@overload
def scrub(conn: AsyncConnection[Any]) -> Awaitable[None]: ...
def scrub(conn: AnyConnection) -> Awaitable[None] | None:
    """Leave nothing of one user's session to the next: DISCARD ALL, for ``ConnectionPool(…, reset=rlskit.scrub)``.

    Temporary tables, prepared statements, cursors, advisory locks and settings are gone; what the connection string sets stays. ``conn`` is idle,
    and idle afterwards. For an AsyncConnection it returns an awaitable.
    """
    if isinstance(conn, AsyncConnection):
        return _ascrub(conn)
    _scrub(conn)
    return None


def _scrub(conn: Connection[Any]) -> None:
    check_idle(conn)
    if conn.prepare_threshold is not None and _NOTICES_DISCARD:
        autocommit, conn.autocommit = conn.autocommit, True
        try:
            Cursor(conn).execute(_unlike_any_other())
        finally:
            conn.autocommit = autocommit
        return
    if conn.prepare_threshold is not None:
        with conn.lock:
            conn.wait(prelude.send_simply(conn, b"begin"))
        conn.rollback()
    with conn.lock:
        conn.wait(prelude.send_simply(conn, b"discard all"))


async def _ascrub(conn: AsyncConnection[Any]) -> None:
    check_idle(conn)
    if conn.prepare_threshold is not None and _NOTICES_DISCARD:
        autocommit = conn.autocommit
        await conn.set_autocommit(True)
        try:
            await AsyncCursor(conn).execute(_unlike_any_other())
        finally:
            await conn.set_autocommit(autocommit)
        return
    if conn.prepare_threshold is not None:
        async with conn.lock:
            await conn.wait(prelude.send_simply(conn, b"begin"))
        await conn.rollback()
    async with conn.lock:
        await conn.wait(prelude.send_simply(conn, b"discard all"))


# psycopg has to forget what it has prepared, or else it would ask for what is gone. Since 3.3.6 it notices that in a DISCARD ALL that it sends itself
# and has not seen before; always, when it rolls back.
_NOTICES_DISCARD = tuple(int(part) for part in __version__.split(".")[:3] if part.isdecimal()) >= (3, 3, 6)
_scrubs = count(1)


def _unlike_any_other() -> bytes:
    return f"discard all -- {next(_scrubs)}".encode()


@overload
def check_connection(conn: Connection[Any]) -> None: ...
@overload
def check_connection(conn: AsyncConnection[Any]) -> Awaitable[None]: ...
def check_connection(conn: AnyConnection) -> Awaitable[None] | None:
    """Make sure that a connection is alive and that nobody left himself on it, in one round trip: for ``ConnectionPool(…, check=rlskit.check_connection)``.

    A pool lends another then. ``conn`` is idle, and idle afterwards, or else closed. For an AsyncConnection it returns an awaitable.

    Raises IdentityConflictError where an identity, a role or a search_path was left for the session; psycopg's OperationalError where nothing answers.
    """
    if isinstance(conn, AsyncConnection):
        return _acheck_connection(conn)
    try:
        with conn.lock:
            conn.wait(_check_clean(conn))
    except BaseException:
        conn.close()  # or else the pool would lend it again
        raise
    return None


async def _acheck_connection(conn: AsyncConnection[Any]) -> None:
    try:
        async with conn.lock:
            await conn.wait(_check_clean(conn))
    except BaseException:
        await conn.close()  # as above
        raise


def _check_clean(conn: AnyConnection) -> prelude.Waiting:
    check_idle(conn)
    search_path, found = yield from prelude.ask(conn, runtime.script("catalog/clean.sql"))
    if (found.get_value(0, 0), found.get_value(0, 1)) != (b"t", search_path.get_value(0, 0)):
        raise IdentityConflictError(
            "somebody left an identity, a role or a search_path on the connection",
            hint="whatever wrote it for the session has to write it for the transaction; reset=rlskit.scrub takes it away",
        )
