"""Sessions of SQLAlchemy in which somebody asks: on connections of their own, or inside the one transaction of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from psycopg.errors import InFailedSqlTransaction
from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from rlskit.gatekeeper import Terms
from rlskit.prelude import Asker
from rlskit.sqlalchemy import guard, set_identity, set_nobody

Maker: TypeAlias = Callable[..., Session]  # a class, or a sessionmaker
AsyncMaker: TypeAlias = Callable[..., AsyncSession]

_URL = "postgresql+psycopg://"


def engine(dsn: str, terms: Terms) -> Engine:
    """An engine that keeps no connection: each block asks on one of its own."""
    made = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    guard(made, key=terms.key, rules=terms.rules)
    return made


def async_engine(dsn: str, terms: Terms) -> AsyncEngine:
    """The same for AsyncSession."""
    made = create_async_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    guard(made, key=terms.key, rules=terms.rules)
    return made


def engine_on(lend: Callable[[], Any], terms: Terms) -> Engine:
    """An engine whose connections are those that ``lend`` gives, and of which it ends none."""
    made = create_engine(_URL, creator=lend, poolclass=NullPool, pool_reset_on_return=None)
    guard(made, key=terms.key, rules=terms.rules)
    return made


def async_engine_on(lend: Callable[[], Awaitable[Any]], terms: Terms) -> AsyncEngine:
    """The same for AsyncSession."""
    made = create_async_engine(_URL, async_creator=lend, poolclass=NullPool, pool_reset_on_return=None)
    guard(made, key=terms.key, rules=terms.rules)
    return made


def sqlalchemy_url(dsn: str) -> str:
    """The URI of libpq's as SQLAlchemy wants it."""
    return _URL + dsn.removeprefix("postgresql://")


# ``binds`` would send some of a sessionmaker's tables to the engine of the application, and not to the test's.


@contextmanager
def session(bind: Engine | Connection, asker: Asker, maker: Maker | None) -> Iterator[Session]:
    """A session in which somebody asks, by the user's sessionmaker where there is one. Commits at the end, and rolls back for an error."""
    with (maker or Session)(bind=bind, binds={}, join_transaction_mode="create_savepoint") as made:
        _say(made, asker)
        yield made
        try:
            made.commit()
        except (DBAPIError, PendingRollbackError) as error:
            if not _was_expected(error):
                raise
            made.rollback()


@asynccontextmanager
async def async_session(
    bind: AsyncEngine | AsyncConnection, asker: Asker, maker: AsyncMaker | None
) -> AsyncIterator[AsyncSession]:
    """The same for AsyncSession."""
    async with (maker or AsyncSession)(bind=bind, binds={}, join_transaction_mode="create_savepoint") as made:
        _say(made, asker)
        yield made
        try:
            await made.commit()
        except (DBAPIError, PendingRollbackError) as error:
            if not _was_expected(error):
                raise
            await made.rollback()


def _was_expected(error: DBAPIError | PendingRollbackError) -> bool:
    """Whether an earlier error, of a statement or of a flush, was caught inside by the test: then there is nothing to commit."""
    return isinstance(error, PendingRollbackError) or isinstance(error.orig, InFailedSqlTransaction)


def _say(made: Session | AsyncSession, asker: Asker) -> None:
    if asker.identity is None:
        set_nobody(made, role=asker.role)
    else:
        set_identity(made, asker.identity, role=asker.role)
