"""Who asks in a test, as a block: on a connection of its own, which commits at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from rlskit import gatekeeper, session
from rlskit.errors import MissingIdentityError
from rlskit.gatekeeper import Terms
from rlskit.identity import Identity
from rlskit.prelude import Asker
from rlskit.testing.expectations import person

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from rlskit.testing.orm import AsyncMaker, Maker

Who: TypeAlias = Identity | str
Conn: TypeAlias = Connection[TupleRow]
AsyncConn: TypeAlias = AsyncConnection[TupleRow]


def identity_of(who: Who) -> Identity:
    """The identity, or the person of that name. Raises MissingIdentityError for anything else."""
    if isinstance(who, str):
        return person(who)
    if not isinstance(who, Identity):
        raise MissingIdentityError("this is nobody's name, and no Identity", hint="as_nobody() asks for a guest")
    return who


class Place(Protocol):
    """Where somebody can ask: each block of it is one transaction, or looks like one."""

    def asking(self, asker: Asker) -> AbstractContextManager[Conn]:
        """A block on a connection of psycopg's."""

    def asking_async(self, asker: Asker) -> AbstractAsyncContextManager[AsyncConn]:
        """The same for ``async with``."""

    def session(self, asker: Asker, maker: Maker | None) -> AbstractContextManager[Session]:
        """A block in a session of SQLAlchemy's."""

    def async_session(self, asker: Asker, maker: AsyncMaker | None) -> AbstractAsyncContextManager[AsyncSession]:
        """The same for ``async with``."""

    @property
    def is_spoiled(self) -> bool:
        """Whether something of the test may have stayed where it must not."""

    def end(self) -> None:
        """The test is over."""


class Asking:
    """What ``as_user("alice")`` gives: a block on a psycopg connection, for ``with`` or ``async with``; or one in a session, by ``session()``.

    Every block commits at its end, and an error rolls it back, also one that the test expected and caught inside. With isolation="transaction" a commit
    is for the blocks that follow, and nothing of it stays.
    """

    def __init__(self, place: Place, asker: Asker) -> None:
        self._place, self._asker = place, asker
        self._block: AbstractContextManager[Conn] | None = None
        self._async_block: AbstractAsyncContextManager[AsyncConn] | None = None

    def __enter__(self) -> Conn:
        block = self._place.asking(self._asker)
        conn = block.__enter__()
        self._block = block
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        block, self._block = self._block, None
        return block.__exit__(kind, error, trace) if block is not None else None

    async def __aenter__(self) -> AsyncConn:
        block = self._place.asking_async(self._asker)
        conn = await block.__aenter__()
        self._async_block = block
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        block, self._async_block = self._async_block, None
        return await block.__aexit__(kind, error, trace) if block is not None else None

    def session(self, maker: Maker | None = None) -> AbstractContextManager[Session]:
        """A SQLAlchemy session in which he asks: a Session, or what ``maker`` makes (a class, or the application's sessionmaker), bound to the test's database."""
        return self._place.session(self._asker, maker)

    def async_session(self, maker: AsyncMaker | None = None) -> AbstractAsyncContextManager[AsyncSession]:
        """The same for AsyncSession, with ``async with``."""
        return self._place.async_session(self._asker, maker)


class OwnConnections:
    """A place where every block has a connection of its own, of one ordinary login, and commits."""

    is_spoiled = False

    def __init__(self, dsn: str, terms: Terms) -> None:
        self._dsn, self._terms = dsn, terms
        self._engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None

    def connect(self) -> Conn:
        """Connect, guarded. Raises BypassingRoleError for a login that no rule binds, as ``guard`` does."""
        conn = Connection.connect(self._dsn)
        try:
            gatekeeper.guard(conn, key=self._terms.key, rules=self._terms.rules)
        except BaseException:
            conn.close()
            raise
        return conn

    async def connect_async(self) -> AsyncConn:
        """The same for an AsyncConnection."""
        conn = await AsyncConnection.connect(self._dsn)
        try:
            await gatekeeper.guard(conn, key=self._terms.key, rules=self._terms.rules)
        except BaseException:
            await conn.close()
            raise
        return conn

    @contextmanager
    def asking(self, asker: Asker) -> Iterator[Conn]:
        """See Place."""
        with closing(self.connect()) as conn, suppress(_GivenUp), _block(conn, asker):
            yield conn
            _check_given_up(conn)

    @asynccontextmanager
    async def asking_async(self, asker: Asker) -> AsyncIterator[AsyncConn]:
        """See Place."""
        conn = await self.connect_async()
        try:
            with suppress(_GivenUp):
                async with _block(conn, asker):
                    yield conn
                    _check_given_up(conn)
        finally:
            await conn.close()

    def session(self, asker: Asker, maker: Maker | None) -> AbstractContextManager[Session]:
        """See Place."""
        from rlskit.testing import orm  # noqa: PLC0415 - the door to SQLAlchemy

        self._engine = self._engine or orm.engine(self._dsn, self._terms)
        return orm.session(self._engine, asker, maker)

    def async_session(self, asker: Asker, maker: AsyncMaker | None) -> AbstractAsyncContextManager[AsyncSession]:
        """See Place."""
        from rlskit.testing import orm  # noqa: PLC0415 - the door to SQLAlchemy

        self._async_engine = self._async_engine or orm.async_engine(self._dsn, self._terms)
        return orm.async_session(self._async_engine, asker, maker)

    def end(self) -> None:
        """See Place. The engines keep no connection."""


class _GivenUp(Exception):
    """Rolls a block back, and nothing else."""


def _check_given_up(conn: Conn | AsyncConn) -> None:
    """An error that the test expected has ended the transaction: an application is told that nothing of it is stored, a test knows."""
    if conn.info.transaction_status == TransactionStatus.INERROR:
        raise _GivenUp


def _block(conn: Any, asker: Asker) -> Any:
    if asker.identity is None:
        return session.as_nobody(conn, role=asker.role)
    return session.as_user(conn, asker.identity, role=asker.role)
