"""A connection, or a pool that lends one; and the state that it has to be in before anybody asks on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg.errors import OperationalError
from psycopg.pq import PipelineStatus, TransactionStatus

from rlskit.errors import MissingIdentityError, TransactionInProgressError

AnyConnection: TypeAlias = Connection[Any] | AsyncConnection[Any]

Conn_co = TypeVar("Conn_co", bound=AnyConnection, covariant=True)


class Pool(Protocol[Conn_co]):
    """What lends connections for a block, as ``psycopg_pool.ConnectionPool`` does."""

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Conn_co]:
        """Lend one."""


class AsyncPool(Protocol[Conn_co]):
    """The same for ``async with``, as ``psycopg_pool.AsyncConnectionPool``."""

    def connection(self, timeout: float | None = None) -> AbstractAsyncContextManager[Conn_co]:
        """Lend one."""


def lent(pool: Any) -> Any:
    """The context manager in which a pool lends a connection. Raises MissingIdentityError for what is no pool."""
    try:
        return pool.connection()
    except AttributeError:
        raise MissingIdentityError(
            f"`{type(pool).__name__}` is neither a connection nor a pool",
            hint="pass a psycopg connection or a psycopg_pool pool",
        ) from None


def check_idle(conn: AnyConnection) -> None:
    """Raise TransactionInProgressError unless the connection is outside of any transaction and any pipeline; OperationalError where it is closed."""
    if conn.closed:
        raise OperationalError("the connection is closed")
    if conn.pgconn.transaction_status != TransactionStatus.IDLE:
        raise TransactionInProgressError(
            "the connection is already in a transaction",
            hint="commit or roll back first: the identity has to be the first thing that a transaction hears",
        )
    if conn.pgconn.pipeline_status != PipelineStatus.OFF:
        raise TransactionInProgressError(
            "the connection is in a pipeline", hint="leave that one out: as_user(…, pipeline=True) makes its own"
        )


def is_read_half_way(conn: AnyConnection) -> bool:
    """Whether something is still being read: a stream that is not read to its end holds the lock, and whoever needs it would wait for ever."""
    return not conn.closed and conn.lock.locked()


def check_read(conn: AnyConnection) -> None:
    """Raise TransactionInProgressError while something is still being read."""
    if is_read_half_way(conn):
        raise TransactionInProgressError(
            "something is still being read on the connection, or another thread or task is at work on it",
            hint="read a stream to its end, and take a connection for each thread and task",
        )
