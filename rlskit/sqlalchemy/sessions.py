"""Who asks through a session or a connection: said once, and heard by each of its transactions."""

from __future__ import annotations

from typing import Any, TypeAlias
from weakref import WeakSet

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from rlskit.errors import IdentityConflictError, MissingIdentityError, TransactionInProgressError
from rlskit.identity import Identity
from rlskit.prelude import Asker
from rlskit.sqlalchemy.transactions import KEY, current, has_asked, introduce, missing
from rlskit.sqlalchemy.watch import watch_over, watched

AnySession: TypeAlias = (
    Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any] | Connection | AsyncConnection
)

_unasked: WeakSet[SessionTransaction] = WeakSet()  # begun for nobody in particular


def set_identity(
    session: AnySession, identity: Identity, *, actor: Identity | None = None, role: str | None = None
) -> None:
    """Say who asks through this session, or this connection: in every transaction of it, from the first one on. No database is asked.

    ``actor`` and ``role`` are those of ``rlskit.as_user``. Raises MissingIdentityError for None; IdentityConflictError where somebody else asks through it
    already, because the identity map would serve his rows: make a new session; TransactionInProgressError where it has begun to ask as nobody.
    """
    if not isinstance(identity, Identity):
        raise MissingIdentityError(
            "`set_identity` needs an Identity",
            hint="for a guest say set_nobody(session): no rows, and no error for reading",
        )
    _set(session, Asker(identity, actor, role))


def set_nobody(session: AnySession, *, role: str | None = None) -> None:
    """Say that nobody asks through this session or connection: a guest, who sees no rows and gets no error for reading. Raises what ``set_identity`` does."""
    _set(session, Asker(None, role=role))


def _set(target: AnySession, asker: Asker) -> None:
    if isinstance(target, scoped_session | async_scoped_session):
        target = target.registry()
    if isinstance(target, AsyncSession):
        target = target.sync_session
    if isinstance(target, AsyncConnection):
        if target.sync_connection is None:
            raise MissingIdentityError(
                "the AsyncConnection is not open yet", hint="async with engine.connect() as connection: …"
            )
        target = target.sync_connection
    if isinstance(target, Session):
        before, begun = target.info.get(KEY), target.get_transaction() in _unasked
    elif isinstance(target, Connection):
        before, begun = target.get_execution_options().get(KEY), has_asked(target)
    else:
        raise MissingIdentityError(
            f"`{type(target).__name__}` is neither a session nor a connection of SQLAlchemy",
            hint="for psycopg's own write as_user(conn, identity)",
        )
    if before == asker:
        return
    if before is not None:
        raise IdentityConflictError(
            "somebody else asks through this session already",
            hint="make a new session, or connection, for each identity",
        )
    if begun:
        raise TransactionInProgressError(
            "a transaction has begun already, and nobody asked in it",
            hint="say who asks first: right after the session or the connection was made",
        )
    if isinstance(target, Session):
        target.info[KEY] = asker
    else:
        watched(target.engine)
        target.execution_options(**{KEY: asker})


@event.listens_for(Session, "after_begin", insert=True)  # before those of the application, which may ask something
def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """At the beginning of every transaction of every session, whatever ended the one before; and of every savepoint."""
    asker = session.info.get(KEY)
    if asker is not None:
        if not transaction.nested:
            introduce(connection, asker, watched(connection.engine).terms)
        return
    _unasked.add(session.get_transaction() or transaction)
    watch = watch_over(connection)
    if watch is not None and watch.require_identity and current(connection) is None:
        raise missing()
