"""A transaction in which one asker asks, as a block: entered, kept whole, and ended, on a connection or on one that a pool lends.

Everything is decided once, for ``with`` and for ``async with``: what differs is only who waits for the server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, overload
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction, Connection, Cursor, Transaction
from psycopg.errors import (
    InsufficientPrivilege,
    InvalidAuthorizationSpecification,
    InvalidCursorState,
    OperationalError,
    PipelineAborted,
)
from psycopg.pq import PipelineStatus, TransactionStatus

from rlskit import connections, gatekeeper, prelude
from rlskit.connections import AnyConnection, AsyncPool, Pool
from rlskit.denials import denial
from rlskit.errors import IdentityConflictError, TransactionInProgressError
from rlskit.prelude import Asker, Login, Statement, Waiting

Row = TypeVar("Row")
Source_co = TypeVar("Source_co", covariant=True)
AnyCursor: TypeAlias = Cursor[Any] | AsyncCursor[Any]

# Forgets a connection when it is gone.
_at_work: WeakKeyDictionary[AnyConnection, Block[Any]] = WeakKeyDictionary()


class Block(Generic[Source_co]):
    """A transaction of one asker. ``pipeline`` says whether it is sent in one flight, with all its statements."""

    def __init__(self, source: Source_co, asker: Asker, *, pipeline: bool = False) -> None:
        self._source = source
        self._asker = asker
        self._pipelined = pipeline
        self._login = Login()
        self._lease: Any = None
        self._conn: Any = None
        self._when = b""
        self._savepoint: Any = None
        self._pipeline: Any = None

    # --- with ---

    @overload
    def __enter__(self: Block[Connection[Row]]) -> Connection[Row]: ...
    @overload
    def __enter__(self: Block[Pool[Connection[Row]]]) -> Connection[Row]: ...
    def __enter__(self) -> Any:
        self._check_new()
        if isinstance(self._source, AsyncConnection):
            raise TypeError("an AsyncConnection is asked with `async with`")
        lease = None if isinstance(self._source, Connection) else connections.lent(self._source)
        if lease is not None and not hasattr(lease, "__enter__"):
            raise TypeError("an asynchronous pool is asked with `async with`")
        self._conn = self._source if lease is None else lease.__enter__()
        self._lease = lease
        conn = self._conn
        try:
            connections.check_read(conn)
            if self._is_inside():
                savepoint = Transaction(conn)
                try:
                    savepoint.__enter__()
                except BaseException:
                    conn.close()  # its transaction is lost, and psycopg may count a savepoint that was never made, and refuse every commit
                    raise
                self._savepoint = savepoint
            elif self._pipelined:
                self._pipeline = self._piped(conn)
                self._pipeline.__enter__()
            else:
                with conn.lock:
                    connections.check_idle(conn)
                    try:
                        conn.wait(self._begin())
                        self._open()
                    except BaseException:
                        self._close()
                        _undo(conn)
                        raise
        except BaseException as error:
            self._give_back(error)
            raise
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, inner = self._conn, self._savepoint or self._pipeline
        self._savepoint = self._pipeline = None
        try:
            if inner is not None:
                inner.__exit__(kind, error, trace)
            else:
                try:
                    self._close()
                    if connections.is_read_half_way(conn):
                        conn.close()
                        raise _half_way()
                    if _has_to_end(conn, kind):
                        if kind is not None:
                            conn.rollback()
                        else:
                            with conn.lock:
                                conn.wait(self._commit())
                except BaseException:
                    if not conn.closed:
                        with conn.lock:
                            _undo(conn)
                    raise
        except BaseException as failure:
            self._give_back(failure)
            _name_denial(failure, conn)
            raise
        self._give_back(error)
        _name_denial(error, conn)

    @contextmanager
    def _piped(self, conn: Connection[Any]) -> Iterator[None]:
        """The whole transaction in one flight: psycopg adds no BEGIN of its own in autocommit mode, which comes back at the end."""
        connections.check_idle(conn)
        autocommit, conn.autocommit = conn.autocommit, True
        try:
            with conn.lock:
                first = conn.wait(self._begin_in_pipeline())
                self._open()
            with conn.pipeline():
                said = [Cursor(conn).execute(statement.encode(), values, prepare=False) for statement, values in first]
                yield
                self._close()
                ended = Cursor(conn).execute(_WHEN, prepare=False)
                committed = Cursor(conn).execute("commit", prepare=False)
            self._check_ended(said, ended, committed)
        except (InvalidAuthorizationSpecification, InvalidCursorState) as error:
            prelude.name_refusal(error, self._login)
            raise
        except PipelineAborted as error:
            raise _given_up() from error
        finally:
            self._close()
            if not conn.closed:
                with conn.lock:
                    _undo(conn)
            if not conn.closed:
                conn.autocommit = autocommit

    def _give_back(self, error: BaseException | None) -> None:
        lease, self._lease, self._conn = self._lease, None, None
        if lease is not None:
            lease.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    # --- async with ---

    @overload
    async def __aenter__(self: Block[AsyncConnection[Row]]) -> AsyncConnection[Row]: ...
    @overload
    async def __aenter__(self: Block[AsyncPool[AsyncConnection[Row]]]) -> AsyncConnection[Row]: ...
    async def __aenter__(self) -> Any:
        self._check_new()
        if isinstance(self._source, Connection):
            raise TypeError("a Connection is asked with `with`, without `async`")
        lease = None if isinstance(self._source, AsyncConnection) else connections.lent(self._source)
        if lease is not None and not hasattr(lease, "__aenter__"):
            raise TypeError("a pool that is not asynchronous is asked with `with`, without `async`")
        self._conn = self._source if lease is None else await lease.__aenter__()
        self._lease = lease
        conn = self._conn
        try:
            connections.check_read(conn)
            if self._is_inside():
                savepoint = AsyncTransaction(conn)
                try:
                    await savepoint.__aenter__()
                except BaseException:
                    await conn.close()  # as above
                    raise
                self._savepoint = savepoint
            elif self._pipelined:
                self._pipeline = self._apiped(conn)
                await self._pipeline.__aenter__()
            else:
                async with conn.lock:
                    connections.check_idle(conn)
                    try:
                        await conn.wait(self._begin())
                        self._open()
                    except BaseException:
                        self._close()
                        await _aundo(conn)
                        raise
        except BaseException as error:
            await self._agive_back(error)
            raise
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, inner = self._conn, self._savepoint or self._pipeline
        self._savepoint = self._pipeline = None
        try:
            if inner is not None:
                await inner.__aexit__(kind, error, trace)
            else:
                try:
                    self._close()
                    if connections.is_read_half_way(conn):
                        await conn.close()
                        raise _half_way()
                    if _has_to_end(conn, kind):
                        if kind is not None:
                            await conn.rollback()
                        else:
                            async with conn.lock:
                                await conn.wait(self._commit())
                except BaseException:
                    if not conn.closed:
                        async with conn.lock:
                            await _aundo(conn)
                    raise
        except BaseException as failure:
            await self._agive_back(failure)
            _name_denial(failure, conn)
            raise
        await self._agive_back(error)
        _name_denial(error, conn)

    @asynccontextmanager
    async def _apiped(self, conn: AsyncConnection[Any]) -> AsyncIterator[None]:
        connections.check_idle(conn)
        autocommit = conn.autocommit
        await conn.set_autocommit(True)
        try:
            async with conn.lock:
                first = await conn.wait(self._begin_in_pipeline())
                self._open()
            async with conn.pipeline():
                said = [
                    await AsyncCursor(conn).execute(statement.encode(), values, prepare=False)
                    for statement, values in first
                ]
                yield
                self._close()
                ended = await AsyncCursor(conn).execute(_WHEN, prepare=False)
                committed = await AsyncCursor(conn).execute("commit", prepare=False)
            self._check_ended(said, ended, committed)
        except (InvalidAuthorizationSpecification, InvalidCursorState) as error:
            prelude.name_refusal(error, self._login)
            raise
        except PipelineAborted as error:
            raise _given_up() from error
        finally:
            self._close()
            if not conn.closed:
                async with conn.lock:
                    await _aundo(conn)
            if not conn.closed:
                await conn.set_autocommit(autocommit)

    async def _agive_back(self, error: BaseException | None) -> None:
        lease, self._lease, self._conn = self._lease, None, None
        if lease is not None:
            await lease.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    # --- both ---

    def _check_new(self) -> None:
        if self._conn is not None:
            raise IdentityConflictError("this block is at work already", hint="make a new one for each `with`")

    def _is_inside(self) -> bool:
        """Whether a block of the same asker is at work on the connection. Raises IdentityConflictError for another one."""
        outer = _at_work.get(self._conn)
        if outer is None or (self._conn.info.transaction_status == TransactionStatus.IDLE and not outer._pipelined):
            return False
        if outer._asker != self._asker:
            raise IdentityConflictError(
                "another identity is at work in this transaction",
                hint="end that block first, or take another connection",
            )
        if outer._pipelined or self._pipelined:
            raise TransactionInProgressError(
                "a block in a pipeline holds no other one", hint="leave the inner one out: the identity is the same"
            )
        return bool(self._conn.info.transaction_status == TransactionStatus.INTRANS)

    def _begin(self) -> Waiting:
        self._login = yield from self._admit()
        self._when = yield from prelude.begin(self._conn, self._asker, self._login)

    def _commit(self) -> Waiting:
        if not (yield from prelude.commit(self._conn, self._when)):
            raise _ended_inside()

    def _begin_in_pipeline(self) -> Generator[Any, Any, list[Statement]]:
        """What the pipeline begins with. Where the backend has to be known first, the transaction is open already and there is nothing."""
        self._login = yield from self._admit()
        if not prelude.needs_backend(self._asker, self._login):
            return prelude.statements(self._conn, self._asker, self._login)
        self._when = yield from prelude.begin(self._conn, self._asker, self._login)
        return []

    def _check_ended(self, said: Sequence[AnyCursor], ended: AnyCursor, committed: AnyCursor) -> None:
        """Raise TransactionInProgressError unless it was ended in the transaction that it began in, and PostgreSQL has committed that one."""
        if _last_value(ended) != (_last_value(said[-1]) if said else self._when):
            raise _ended_inside()
        if committed.statusmessage == "ROLLBACK":
            raise _given_up()

    def _admit(self) -> Generator[Any, Any, Login]:
        return (yield from gatekeeper.admit(self._conn, gatekeeper.terms_of(self._source)))

    def _open(self) -> None:
        _at_work[self._conn] = self
        # What follows a commit would have no identity, so the connection refuses one until the block is over.
        self._conn.commit = self._conn.rollback = _refuse_ending

    def _close(self) -> None:
        _at_work.pop(self._conn, None)
        self._conn.__dict__.pop("commit", None)
        self._conn.__dict__.pop("rollback", None)


def _has_to_end(conn: AnyConnection, kind: type[BaseException] | None) -> bool:
    """Whether there is a transaction to end. Raises where the block ends as if all were well, and nothing of it could be stored.

    That is TransactionInProgressError where the block has ended the transaction by itself, or has caught the error that PostgreSQL had given it
    up for; OperationalError where the connection is lost.
    """
    if conn.closed:
        if kind is None:
            raise OperationalError("the connection was lost or closed inside the block: nothing of it is stored")
        return False
    if kind is None and conn.info.transaction_status == TransactionStatus.IDLE:
        raise _ended_inside()
    if kind is None and conn.info.transaction_status == TransactionStatus.INERROR:
        raise _given_up()
    return True


def _given_up() -> TransactionInProgressError:
    return TransactionInProgressError(
        "an error was caught inside the block, for which PostgreSQL has given the transaction up: nothing of it is stored",
        hint="let the error leave the block, or put `with conn.transaction():` around what may fail",
    )


_WHEN = f"select {prelude.WHEN}"


def _last_value(cursor: AnyCursor) -> bytes | None:
    result = cursor.pgresult
    assert result is not None
    return result.get_value(0, result.nfields - 1)


# No identity outlives its block, whatever went wrong: or else the connection is closed. Its lock is held.


def _undo(conn: Connection[Any]) -> None:
    try:
        conn.wait(_roll_back(conn))
    finally:
        if not _is_clean(conn):
            conn.close()


async def _aundo(conn: AsyncConnection[Any]) -> None:
    try:
        await conn.wait(_roll_back(conn))
    finally:
        if not _is_clean(conn):
            await conn.close()


def _roll_back(conn: AnyConnection) -> Waiting:
    if not conn.closed and conn.pgconn.transaction_status != TransactionStatus.IDLE:
        yield from prelude.send_simply(conn, b"rollback; close all")  # a cursor WITH HOLD outlives a transaction


def _is_clean(conn: AnyConnection) -> bool:
    return conn.info.transaction_status == TransactionStatus.IDLE and conn.pgconn.pipeline_status == PipelineStatus.OFF


def _ended_inside() -> TransactionInProgressError:
    return TransactionInProgressError(
        "the block's transaction was ended inside it, and what came after had no identity", hint=_ENDING
    )


def _half_way() -> TransactionInProgressError:
    return TransactionInProgressError(
        "the block ended while something was still being read, so the connection was closed",
        hint="read a stream to its end",
    )


def _name_denial(error: BaseException | None, conn: AnyConnection) -> None:
    """Raise by its name what the database refused. Anything else, and what has its name already, is left to go its way."""
    found = denial(error, gatekeeper.rules_of(conn)) if isinstance(error, InsufficientPrivilege) else None
    if found is not None and found is not error:
        raise found from error


_ENDING = "leave commit and rollback to the block: it commits at its end, and rolls back on an error"


def _refuse_ending() -> NoReturn:
    raise TransactionInProgressError("the block's transaction cannot be ended inside it", hint=_ENDING)
