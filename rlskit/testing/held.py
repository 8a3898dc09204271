"""One transaction for a whole test, rolled back at its end: whoever asks in it is a savepoint, and after it the one before asks again.

This switch of identity exists for tests alone: one that says who he is once a transaction is what an application has, and keeps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.errors import InsufficientPrivilege, InvalidSavepointSpecification, NoActiveSqlTransaction
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import TupleRow

from rlskit import connections, gatekeeper, prelude
from rlskit.denials import denial
from rlskit.errors import IdentityConflictError, KitError, TransactionInProgressError
from rlskit.gatekeeper import Terms
from rlskit.prelude import Asker, Login, Waiting

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from rlskit.testing.orm import AsyncMaker, Maker

_NOBODY = Asker(None)
_UNSAID = Asker(
    None, also=(("rlskit.claims", ""),)
)  # as a connection is on which nothing was said yet: SQLAlchemy's is judged then
_NO_ROLE = (("role", "none"),)
_FIRST = b"rlskit_test"  # the savepoint that shows at the end that it is still the same transaction


class _Shared:
    """What both kinds have in common: several stand on one connection to the server, and only the innermost block's may be used."""

    held: Held | None = None
    is_sqlalchemys = False

    def __del__(self, *_: Any) -> None:
        """The connection to the server is not this object's: no warning."""

    def _check_turn(self) -> None:
        if self.held is not None and self.held.turn is not self:
            raise IdentityConflictError(
                "another block of the test's one transaction is at work, or this one is over",
                hint='use the connection of the innermost block; isolation="database" gives each block a connection of its own',
            )

    def _check_may_end(self) -> None:
        if not self.is_sqlalchemys:
            raise TransactionInProgressError(
                "the block's transaction cannot be ended inside it",
                hint="leave commit and rollback to the block: it commits at its end, and rolls back on an error",
            )


class HeldConnection(_Shared, Connection[TupleRow]):
    """A psycopg connection for one block of a test's transaction."""

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, for the innermost block alone. Raises IdentityConflictError for another one."""
        self._check_turn()
        return super().wait(*args, **kwargs)

    def commit(self) -> None:
        """Nothing, for SQLAlchemy; anybody else leaves that to the block."""
        self._check_may_end()

    def rollback(self) -> None:
        """The same."""
        self._check_may_end()

    def close(self) -> None:
        """Nothing: the test's end closes it."""


class HeldAsyncConnection(_Shared, AsyncConnection[TupleRow]):
    """The same for ``async with``."""

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, for the innermost block alone. Raises IdentityConflictError for another one."""
        self._check_turn()
        return await super().wait(*args, **kwargs)

    async def commit(self) -> None:
        """Nothing, for SQLAlchemy; anybody else leaves that to the block."""
        self._check_may_end()

    async def rollback(self) -> None:
        """The same."""
        self._check_may_end()

    async def close(self) -> None:
        """Nothing: the test's end closes it."""


@dataclass(slots=True)
class _Frame:
    """A block that is at work: its connection object, and who asks in it."""

    conn: Any
    asker: Asker
    savepoint: bytes


class Held:
    """The place of a test with isolation="transaction". It connects when somebody asks first, and is sync or async from then on.

    ``is_spoiled`` says at the end whether something of it may have stayed in the database.
    """

    def __init__(self, dsn: str, terms: Terms) -> None:
        self._dsn, self._terms = dsn, terms
        self._base: Any = None
        self._login = Login()
        self._frames: list[_Frame] = []
        self._engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self.is_spoiled = self._is_told = False

    @property
    def turn(self) -> Any:
        """The connection object that may be used now."""
        return self._frames[-1].conn if self._frames else self._base

    # --- with ---

    @contextmanager
    def asking(self, asker: Asker) -> Iterator[Connection[TupleRow]]:
        """See places.Place."""
        with self._block(asker) as frame:
            yield frame.conn

    @contextmanager
    def session(self, asker: Asker, maker: Maker | None) -> Iterator[Session]:
        """See places.Place."""
        from rlskit.testing import orm  # noqa: PLC0415 - the door to SQLAlchemy

        with self._block(_UNSAID, is_sqlalchemys=True) as frame:
            self._engine = self._engine or orm.engine_on(lambda: self.turn, self._terms)
            with self._engine.connect() as connection, connection.begin():  # of which nothing is sent
                frame.asker = asker
                with orm.session(connection, asker, maker) as session:
                    yield session

    @contextmanager
    def _block(self, asker: Asker, *, is_sqlalchemys: bool = False) -> Iterator[_Frame]:
        if self._base is None:
            self._base = HeldConnection.connect(self._dsn)
            gatekeeper.guard(self._base, key=self._terms.key, rules=self._terms.rules)
            with self._base.lock:
                self._base.wait(self._begin())
        frame = self._framed(HeldConnection, asker, is_sqlalchemys)
        try:
            with frame.conn.lock:
                frame.conn.wait(self._enter(frame))
            yield frame
        except BaseException as error:
            self._check_leaving(frame)
            with frame.conn.lock:
                frame.conn.wait(self._leave(frame, failed=True))
            self._name_denial(error)
            raise
        self._check_leaving(frame)
        with frame.conn.lock:
            frame.conn.wait(self._leave(frame, failed=False))

    # --- async with ---

    @asynccontextmanager
    async def asking_async(self, asker: Asker) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """See places.Place."""
        async with self._async_block(asker) as frame:
            yield frame.conn

    @asynccontextmanager
    async def async_session(self, asker: Asker, maker: AsyncMaker | None) -> AsyncIterator[AsyncSession]:
        """See places.Place."""
        from rlskit.testing import orm  # noqa: PLC0415 - the door to SQLAlchemy

        async def lend() -> Any:
            return self.turn

        async with self._async_block(_UNSAID, is_sqlalchemys=True) as frame:
            self._async_engine = self._async_engine or orm.async_engine_on(lend, self._terms)
            async with self._async_engine.connect() as connection, connection.begin():
                frame.asker = asker
                async with orm.async_session(connection, asker, maker) as session:
                    yield session

    @asynccontextmanager
    async def _async_block(self, asker: Asker, *, is_sqlalchemys: bool = False) -> AsyncIterator[_Frame]:
        if self._base is None:
            self._base = await HeldAsyncConnection.connect(self._dsn)
            await gatekeeper.guard(self._base, key=self._terms.key, rules=self._terms.rules)
            async with self._base.lock:
                await self._base.wait(self._begin())
        frame = self._framed(HeldAsyncConnection, asker, is_sqlalchemys)
        try:
            async with frame.conn.lock:
                await frame.conn.wait(self._enter(frame))
            yield frame
        except BaseException as error:
            self._check_leaving(frame)
            async with frame.conn.lock:
                await frame.conn.wait(self._leave(frame, failed=True))
            self._name_denial(error)
            raise
        self._check_leaving(frame)
        async with frame.conn.lock:
            await frame.conn.wait(self._leave(frame, failed=False))

    # --- both ---

    def _framed(self, kind: type[Any], asker: Asker, is_sqlalchemys: bool) -> _Frame:
        """A further object for the same connection to the server, as the innermost."""
        if not isinstance(self._base, kind):
            raise KitError(
                "one transaction is either of `with` or of `async with`, and this test has begun it with the other",
                hint='ask with one of them throughout (assert_can and assert_cannot ask with `with`), or say isolation="database"',
            )
        connections.check_read(self.turn)
        conn = kind(self._base.pgconn)
        conn.held, conn.is_sqlalchemys = self, is_sqlalchemys
        conn._prepared = self._base._prepared  # the server has one set of names for prepared statements
        frame = _Frame(conn, asker, b"%s_%d" % (_FIRST, len(self._frames) + 1))
        self._frames.append(frame)
        return frame

    def _begin(self) -> Waiting:
        login = gatekeeper.admitted(self._base, None)
        assert login is not None
        self._login = login
        yield from prelude.send_simply(self._base, b"begin; savepoint " + _FIRST)

    def _enter(self, frame: _Frame) -> Waiting:
        yield from prelude.send_simply(frame.conn, b"savepoint " + frame.savepoint)
        yield from self._say(frame)

    def _check_leaving(self, frame: _Frame) -> None:
        """Blocks are left from the innermost on, and with nothing half read: what is not, ends the transaction."""
        if frame.conn.closed:
            self._frames.clear()
            raise psycopg.OperationalError("the connection was lost inside the block")
        if self.turn is not frame.conn or connections.is_read_half_way(frame.conn):
            self._frames.clear()
            self._base.pgconn.finish()
            raise TransactionInProgressError(
                "the block ended while an inner one was at work, or something was still being read, so the connection was closed",
                hint='leave inner blocks first and read a stream to its end; tasks beside each other need isolation="database"',
            )

    def _leave(self, frame: _Frame, *, failed: bool) -> Generator[Any, Any, None]:
        given_up = (
            frame.conn.pgconn.transaction_status == TransactionStatus.INERROR
        )  # for an error that the test expected
        undo = b"rollback to savepoint %s; " % frame.savepoint if failed or given_up else b""
        try:
            yield from prelude.send_simply(frame.conn, undo + b"release savepoint " + frame.savepoint)
            if len(self._frames) > 1:
                yield from self._say(replace(self._frames[-2], conn=frame.conn))
            else:
                yield from self._say(replace(frame, asker=_NOBODY))
        except (InvalidSavepointSpecification, NoActiveSqlTransaction):
            self._is_told = True
            raise _ended() from None
        except BaseException:
            self._base.pgconn.finish()  # nobody may go on in the name of whoever asked here
            raise
        finally:
            self._frames.pop()

    def _say(self, frame: _Frame) -> Waiting:
        """Say who asks from now on, and in no role but his."""
        yield from prelude.identify(frame.conn, replace(frame.asker, also=(*frame.asker.also, *_NO_ROLE)), self._login)

    def _name_denial(self, error: BaseException) -> None:
        found = denial(error, self._terms.rules) if isinstance(error, InsufficientPrivilege) else None
        if found is not None and found is not error:
            raise found from error

    def end(self) -> None:
        """Roll back and close, without an event loop. Raises KitError where the transaction was ended inside, unless that was told: what it stored has stayed."""
        if self._base is None:
            return
        pgconn = self._base.pgconn
        status = pgconn.transaction_status
        try:
            if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                answer = pgconn.exec_(b"rollback to savepoint " + _FIRST)
                self.is_spoiled = answer.status != ExecStatus.COMMAND_OK
            else:
                self.is_spoiled = True
        finally:
            pgconn.finish()
        if self.is_spoiled and not self._is_told and status != TransactionStatus.UNKNOWN:
            raise _ended()


def _ended() -> KitError:
    return KitError(
        "the test's transaction was ended inside it, by SQL of its own",
        hint='leave commit and rollback out, or say isolation="database"; the database is made anew for the next test',
    )
