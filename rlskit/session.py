"""Tells the database who is asking, for one transaction; and refuses a login that row security does not bind.

Everything is decided once, for ``with`` and for ``async with``: what differs is only who waits for the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar, overload
from weakref import WeakKeyDictionary, WeakSet

from psycopg import AsyncConnection, AsyncTransaction, Connection, Transaction
from psycopg.errors import InsufficientPrivilege, error_from_result
from psycopg.generators import execute
from psycopg.pq import Escaping, ExecStatus, TransactionStatus
from psycopg.rows import namedtuple_row

from rlskit import runtime
from rlskit.denials import denial
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    InvalidIdentityError,
    MissingIdentityError,
    RuntimeVersionError,
    TransactionInProgressError,
)
from rlskit.identity import NOBODY, Identity
from rlskit.names import checked_name

AnyConnection: TypeAlias = Connection[Any] | AsyncConnection[Any]

Row = TypeVar("Row")
Source_co = TypeVar("Source_co", covariant=True)
Conn_co = TypeVar("Conn_co", bound=AnyConnection, covariant=True)


class Pool(Protocol[Conn_co]):
    """What lends connections for a block, as ``psycopg_pool.ConnectionPool`` does."""

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Conn_co]:
        """Lend one."""


class AsyncPool(Protocol[Conn_co]):
    """The same for ``async with``, as ``psycopg_pool.AsyncConnectionPool``."""

    def connection(self, timeout: float | None = None) -> AbstractAsyncContextManager[Conn_co]:
        """Lend one."""


# Both forget a connection when it is gone.
_guarded: WeakSet[AnyConnection] = WeakSet()
_blocks: WeakKeyDictionary[AnyConnection, _Block[Any]] = WeakKeyDictionary()


class _Block(Generic[Source_co]):
    """A transaction in which one identity asks, on a connection or on one that a pool lends."""

    def __init__(self, source: Source_co, settings: dict[str, str], role: str | None) -> None:
        self._source = source
        self._settings = settings | ({"role": checked_name(role, "role")} if role is not None else {})
        self._lease: Any = None
        self._conn: Any = None
        self._savepoint: Any = None

    # --- with ---

    @overload
    def __enter__(self: _Block[Connection[Row]]) -> Connection[Row]: ...
    @overload
    def __enter__(self: _Block[Pool[Connection[Row]]]) -> Connection[Row]: ...
    def __enter__(self) -> Any:
        self._check_new()
        if isinstance(self._source, AsyncConnection):
            raise TypeError("an AsyncConnection is asked with `async with`")
        self._conn = self._source
        if not isinstance(self._source, Connection):
            self._lease = _leased(self._source)
            self._conn = self._lease.__enter__()
        try:
            _check_read(self._conn)
            guard(self._conn)
            if _is_inside(self._conn, self._settings):
                savepoint = Transaction(self._conn)
                savepoint.__enter__()
                self._savepoint = savepoint
                return self._conn
            with self._conn.lock:
                _check_idle(self._conn)
                try:
                    self._conn.wait(_say(self._conn, _beginning(self._conn, self._settings)))
                    self._open()
                except BaseException:
                    self._close()
                    _undo(self._conn)
                    raise
        except BaseException as error:
            self._give_back(error)
            raise
        return self._conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, savepoint = self._conn, self._savepoint
        try:
            if savepoint is not None:
                self._savepoint = None
                savepoint.__exit__(kind, error, trace)
            else:
                try:
                    self._close()
                    if _is_read_half_way(conn):
                        conn.close()
                        raise _half_way()
                    if _has_to_end(conn, kind):
                        conn.commit() if kind is None else conn.rollback()
                except BaseException:
                    if not conn.closed:
                        with conn.lock:
                            _undo(conn)
                    raise
        except BaseException as failure:
            self._give_back(failure)
            _name_denial(failure)
            raise
        self._give_back(error)
        _name_denial(error)

    def _give_back(self, error: BaseException | None) -> None:
        lease, self._lease, self._conn = self._lease, None, None
        if lease is not None:
            lease.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    # --- async with ---

    @overload
    async def __aenter__(self: _Block[AsyncConnection[Row]]) -> AsyncConnection[Row]: ...
    @overload
    async def __aenter__(self: _Block[AsyncPool[AsyncConnection[Row]]]) -> AsyncConnection[Row]: ...
    async def __aenter__(self) -> Any:
        self._check_new()
        if isinstance(self._source, Connection):
            raise TypeError("a Connection is asked with `with`, without `async`")
        self._conn = self._source
        if not isinstance(self._source, AsyncConnection):
            self._lease = _leased(self._source)
            self._conn = await self._lease.__aenter__()
        try:
            _check_read(self._conn)
            await guard(self._conn)
            if _is_inside(self._conn, self._settings):
                savepoint = AsyncTransaction(self._conn)
                await savepoint.__aenter__()
                self._savepoint = savepoint
                return self._conn
            async with self._conn.lock:
                _check_idle(self._conn)
                try:
                    await self._conn.wait(_say(self._conn, _beginning(self._conn, self._settings)))
                    self._open()
                except BaseException:
                    self._close()
                    await _aundo(self._conn)
                    raise
        except BaseException as error:
            await self._agive_back(error)
            raise
        return self._conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, savepoint = self._conn, self._savepoint
        try:
            if savepoint is not None:
                self._savepoint = None
                await savepoint.__aexit__(kind, error, trace)
            else:
                try:
                    self._close()
                    if _is_read_half_way(conn):
                        await conn.close()
                        raise _half_way()
                    if _has_to_end(conn, kind):
                        await (conn.commit() if kind is None else conn.rollback())
                except BaseException:
                    if not conn.closed:
                        async with conn.lock:
                            await _aundo(conn)
                    raise
        except BaseException as failure:
            await self._agive_back(failure)
            _name_denial(failure)
            raise
        await self._agive_back(error)
        _name_denial(error)

    async def _agive_back(self, error: BaseException | None) -> None:
        lease, self._lease, self._conn = self._lease, None, None
        if lease is not None:
            await lease.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    # --- both ---

    def _check_new(self) -> None:
        if self._conn is not None:
            raise IdentityConflictError("this block is at work already", hint="make a new one for each `with`")

    def _open(self) -> None:
        _blocks[self._conn] = self
        # What follows a commit would have no identity, so the connection refuses one until the block is over.
        self._conn.commit = self._conn.rollback = _refuse_ending

    def _close(self) -> None:
        _blocks.pop(self._conn, None)
        self._conn.__dict__.pop("commit", None)
        self._conn.__dict__.pop("rollback", None)


# --- what is decided, whoever waits ------------------------------------------------------------------------


def _leased(pool: Any) -> Any:
    try:
        return pool.connection()
    except AttributeError:
        raise MissingIdentityError(
            f"`{type(pool).__name__}` is neither a connection nor a pool",
            hint="pass a psycopg connection or a psycopg_pool pool",
        ) from None


def _is_inside(conn: AnyConnection, settings: dict[str, str]) -> bool:
    """Whether a block with the same identity is at work on the connection. Raises IdentityConflictError for another one."""
    outer = _blocks.get(conn)
    if outer is None or conn.info.transaction_status != TransactionStatus.INTRANS:
        return False
    if outer._settings != settings:
        raise IdentityConflictError(
            "another identity is at work in this transaction",
            hint="end that block first, or take another connection",
        )
    return True


def _check_idle(conn: AnyConnection) -> None:
    if conn.pgconn.transaction_status != TransactionStatus.IDLE:
        raise TransactionInProgressError(
            "the connection is already in a transaction",
            hint="commit or roll back first: the identity has to be the first thing that a transaction hears",
        )


def _say(conn: AnyConnection, message: bytes) -> Generator[Any, Any, None]:
    """Send it as it is, beside what psycopg sends by itself. The connection's lock is held."""
    conn.pgconn.send_query(message)
    results = yield from execute(conn.pgconn)
    if results[-1].status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise error_from_result(results[-1], encoding=conn.info.encoding)


def _beginning(conn: AnyConnection, settings: dict[str, str]) -> bytes:
    """The message that opens the transaction and writes the settings: one, so that an identity costs no round trip of its own.

    psycopg sends BEGIN by itself and alone; after this message it finds the transaction open.
    """
    parts = ["begin"]
    if conn.isolation_level is not None:
        parts.append("isolation level " + conn.isolation_level.name.replace("_", " "))
    if conn.read_only is not None:
        parts.append("read only" if conn.read_only else "read write")
    if conn.deferrable is not None:
        parts.append("deferrable" if conn.deferrable else "not deferrable")
    escaping = Escaping(conn.pgconn)
    calls = [
        b"set_config(%s, %s, true)"
        % (escaping.escape_literal(name.encode()), escaping.escape_literal(_encoded(conn, value)))
        for name, value in settings.items()
    ]
    # A cursor WITH HOLD that was opened for somebody else would still give his rows.
    return " ".join(parts).encode() + b"; close all; select " + b", ".join(calls)


def _encoded(conn: AnyConnection, value: str) -> bytes:
    """The value as the connection sends text. libpq would cut it at a NUL, and it would be another name."""
    try:
        encoded = value.encode(conn.info.encoding)
    except UnicodeEncodeError:
        raise InvalidIdentityError(
            f"the identity cannot be said in the connection's encoding {conn.info.encoding}",
            hint="connect with client_encoding=utf8",
        ) from None
    if b"\0" in encoded:
        raise InvalidIdentityError("the identity holds a NUL character", hint="PostgreSQL cannot hold it")
    return encoded


def _has_to_end(conn: AnyConnection, kind: type[BaseException] | None) -> bool:
    """Whether there is a transaction to end. Raises TransactionInProgressError where the block has ended it by itself."""
    if conn.closed:
        return False
    if kind is None and conn.info.transaction_status == TransactionStatus.IDLE:
        raise TransactionInProgressError(
            "the block's transaction was ended inside it, and what came after had no identity", hint=_ENDING
        )
    return True


# No identity outlives its block, whatever went wrong: or else the connection is closed. Its lock is held.


def _undo(conn: Connection[Any]) -> None:
    try:
        conn.wait(_roll_back(conn))
    finally:
        if conn.info.transaction_status != TransactionStatus.IDLE:
            conn.close()


async def _aundo(conn: AsyncConnection[Any]) -> None:
    try:
        await conn.wait(_roll_back(conn))
    finally:
        if conn.info.transaction_status != TransactionStatus.IDLE:
            await conn.close()


def _roll_back(conn: AnyConnection) -> Generator[Any, Any, None]:
    if not conn.closed and conn.pgconn.transaction_status != TransactionStatus.IDLE:
        yield from _say(conn, b"rollback")


def _is_read_half_way(conn: AnyConnection) -> bool:
    """A stream that is not read to its end holds the lock, and ending the transaction would wait for ever."""
    return not conn.closed and conn.lock.locked()


def _check_read(conn: AnyConnection) -> None:
    if _is_read_half_way(conn):
        raise TransactionInProgressError(
            "something is still being read on the connection, or another thread or task is at work on it",
            hint="read a stream to its end, and take a connection for each thread and task",
        )


def _half_way() -> TransactionInProgressError:
    return TransactionInProgressError(
        "the block ended while something was still being read, so the connection was closed",
        hint="read a stream to its end",
    )


def _name_denial(error: BaseException | None) -> None:
    """Raise by its name what the database refused. Anything else, and what has its name already, is left to go its way."""
    found = denial(error) if isinstance(error, InsufficientPrivilege) else None
    if found is not None and found is not error:
        raise found from error


_ENDING = "leave commit and rollback to the block: it commits at its end, and rolls back on an error"


def _refuse_ending() -> NoReturn:
    raise TransactionInProgressError("the block's transaction cannot be ended inside it", hint=_ENDING)


# --- public ------------------------------------------------------------------------------------------------


class as_user(_Block[Source_co]):
    """``with as_user(conn, identity) as conn``: one transaction in which ``identity`` asks; committed at the end.

    The first argument is an idle psycopg connection, autocommit or not, or a pool that lends one; ``async with`` takes an AsyncConnection or
    an AsyncConnectionPool. Isolation level, read-only and deferrable of the connection hold. An error rolls back and goes on its way; what the
    database refused is raised by its name, from the driver's exception: RowDenied, ColumnDenied or TableDenied. Inside, ``denial`` tells it.
    ``role`` is taken on for the transaction, where the login has it. Inside, the same identity again is a savepoint. Cursors WITH HOLD
    that were open are closed.

    Raises MissingIdentityError for None, TransactionInProgressError for a connection that is not idle and for a transaction that was
    ended inside, IdentityConflictError for another identity inside, and what ``guard`` raises.
    """

    def __init__(self, source: Source_co, identity: Identity, *, role: str | None = None) -> None:
        if not isinstance(identity, Identity):
            raise MissingIdentityError(
                "`as_user` needs an Identity",
                hint="for a guest write as_nobody(conn): nobody sees no rows, and gets no error",
            )
        super().__init__(source, identity.settings(), role)


class as_nobody(_Block[Source_co]):
    """``with as_nobody(conn) as conn``: one transaction in which nobody asks: no rows, and no error for reading.

    Takes and raises what ``as_user`` does.
    """

    def __init__(self, source: Source_co, *, role: str | None = None) -> None:
        super().__init__(source, NOBODY, role)


@overload
def guard(conn: Connection[Any]) -> None: ...
@overload
def guard(conn: AsyncConnection[Any]) -> Awaitable[None]: ...
def guard(conn: AnyConnection) -> Awaitable[None] | None:
    """Make sure, once for each connection, that row security binds its login. ``conn`` is left as it is: idle when idle.

    ``ConnectionPool(…, configure=rlskit.guard)`` asks when a connection is made, and ``AsyncConnectionPool`` too; ``as_user`` asks where nobody has.
    For an AsyncConnection it returns an awaitable.

    Raises BypassingRoleError for a superuser, for BYPASSRLS, for the owner of a managed table, for whoever may become one of them, for a login
    that has settings of its own for what rlskit rests on, and where ``row_security`` is off; RuntimeVersionError where the schema ``rlskit`` is missing.
    """
    if isinstance(conn, AsyncConnection):
        return _aguard(conn)
    _guard(conn)
    return None


def _guard(conn: Connection[Any]) -> None:
    if conn not in _guarded:
        with conn.transaction():
            row = conn.cursor(row_factory=namedtuple_row).execute(runtime.script("catalog/login.sql")).fetchone()
        _judge(row)
        _guarded.add(conn)


async def _aguard(conn: AsyncConnection[Any]) -> None:
    if conn not in _guarded:
        async with conn.transaction():
            cursor = await conn.cursor(row_factory=namedtuple_row).execute(runtime.script("catalog/login.sql"))
            row = await cursor.fetchone()
        _judge(row)
        _guarded.add(conn)


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
    _check_idle(conn)
    with conn.lock:
        conn.wait(_say(conn, b"begin"))
    conn.rollback()  # psycopg forgets what it has prepared when it rolls back, and not, in every release, when it discards all
    with conn.lock:
        conn.wait(_say(conn, b"discard all"))


async def _ascrub(conn: AsyncConnection[Any]) -> None:
    _check_idle(conn)
    async with conn.lock:
        await conn.wait(_say(conn, b"begin"))
    await conn.rollback()  # as above
    async with conn.lock:
        await conn.wait(_say(conn, b"discard all"))


def _judge(row: Any) -> None:
    """Raise what ``guard`` raises, by what ``sql/catalog/login.sql`` found."""
    way_out = "connect with an ordinary login: not superuser, no BYPASSRLS, and no owner of a table"
    if row.preset:
        raise BypassingRoleError(
            f"login `{row.login}` comes with an identity of its own",
            hint="reset the settings rlskit.* of the login and of the connection",
        )
    if row.own_setting is not None:
        raise BypassingRoleError(
            f"login `{row.login}` has a setting of its own for {row.own_setting}, which it could have written itself",
            hint=f'alter role "{row.login}" reset {row.own_setting}; set it for the database, or in the connection string',
        )
    if row.superuser:
        raise BypassingRoleError(
            f"login `{row.login}` is a superuser, or may become one, so no rule binds it", hint=way_out
        )
    if row.bypasses:
        raise BypassingRoleError(
            f"login `{row.login}` has BYPASSRLS, or may take it on, so no rule binds it", hint=way_out
        )
    if row.reads_past is not None:
        raise BypassingRoleError(
            f"login `{row.login}` has {row.reads_past}, which reaches past row security", hint=way_out
        )
    if row.owns is not None:
        raise BypassingRoleError(
            f"login `{row.login}` owns table {row.owns}, or may become its owner, who can lift the rules", hint=way_out
        )
    if row.owns_runtime:
        raise BypassingRoleError(
            f"login `{row.login}` owns the schema rlskit, or may become its owner, who could rewrite who is who",
            hint=way_out,
        )
    if row.row_security != "on":
        raise BypassingRoleError(
            f"login `{row.login}` has row_security = {row.row_security}", hint="reset row_security: it has to be on"
        )
    if not row.has_runtime:
        raise RuntimeVersionError(
            "this database has no schema rlskit that the login may use", hint="rlskit apply, or rlskit install"
        )
