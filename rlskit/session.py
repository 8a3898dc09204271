"""Who is asking, for one transaction: as_user and as_nobody, and bypass for those whom no rule is to bind."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar, overload

import psycopg
from psycopg import AsyncConnection, Connection

from rlskit import gatekeeper
from rlskit.blocks import Block
from rlskit.connections import AsyncPool, Pool
from rlskit.errors import BypassError, MissingIdentityError
from rlskit.identity import Identity
from rlskit.prelude import Asker, Login

Row = TypeVar("Row")
Source_co = TypeVar("Source_co", covariant=True)

_LONGEST = 2_147_483  # seconds, as many milliseconds as PostgreSQL can count

_log = logging.getLogger("rlskit.bypass")
# The block, and not only that there is one: a task that outlives it, and an end in another context, do not see the change.
_bypassing: ContextVar[bypass[Any] | None] = ContextVar("rlskit_bypassing", default=None)


class as_user(Block[Source_co]):
    """``with as_user(conn, identity) as conn``: one transaction in which ``identity`` asks; committed at the end.

    The first argument is an idle psycopg connection, autocommit or not, or a pool that lends one; ``async with`` takes an AsyncConnection or
    an AsyncConnectionPool. Isolation level, read-only and deferrable of the connection hold. An error rolls back and goes on its way; what the
    database refused is raised by its name, from the driver's exception: RowDenied, ColumnDenied or TableDenied. Inside, ``denial`` tells it.
    ``role`` is taken on for the transaction, where the login has it. ``actor`` is who really acts, where the application acts as ``identity``
    for somebody else: ``rlskit.actor()`` gives him to the database's own logs, and no rule looks at him. Inside, the same again is a savepoint.

    ``pipeline=True`` sends the whole transaction in one flight, as psycopg's ``pipeline`` does: fetch what its statements found after the block.

    Raises MissingIdentityError for None, TransactionInProgressError for a connection that is not idle and for a transaction that was
    ended inside, IdentityConflictError for another identity inside, SigningKeyError where the database does not take the identity, OpenCursorError
    for a cursor WITH HOLD that is still open (it is closed), and what ``guard`` raises.
    """

    def __init__(
        self,
        source: Source_co,
        identity: Identity,
        *,
        role: str | None = None,
        actor: Identity | None = None,
        pipeline: bool = False,
    ) -> None:
        if not isinstance(identity, Identity):
            raise MissingIdentityError(
                "`as_user` needs an Identity",
                hint="for a guest write as_nobody(conn): nobody sees no rows, and gets no error",
            )
        super().__init__(source, Asker(identity, actor, role), pipeline=pipeline)


class as_nobody(Block[Source_co]):
    """``with as_nobody(conn) as conn``: one transaction in which nobody asks: no rows, and no error for reading.

    Takes and raises what ``as_user`` does.
    """

    def __init__(self, source: Source_co, *, role: str | None = None, pipeline: bool = False) -> None:
        super().__init__(source, Asker(None, role=role), pipeline=pipeline)


class bypass(Block[Source_co]):
    """``with bypass(support_conn, reason="ticket 123", actor=carol) as conn``: one transaction that no rule binds; committed at the end.

    For support and for jobs, on a connection or a pool whose login has BYPASSRLS, or takes on a ``role`` that has it: never the application's own.
    ``reason`` says in words why, ``actor`` who does it; both stand in the log, and ``rlskit.actor()`` gives the actor to the database's own, but where
    identities have to be signed: nobody signs for a bypass.
    ``timeout`` (seconds) limits each statement and each pause inside, and the whole: what takes longer is rolled back.

    Its beginning and its end are logged as ``rlskit.bypass``, at the level WARNING, with the attribute ``rlskit`` on the record: a mapping with event,
    reason, actor, login, role, database, and at the end outcome and seconds.

    Raises BypassError for an empty reason, for a block inside another, for a superuser, for a login that row security binds, and for what took too
    long; IdentityConflictError where somebody asks on the connection; TransactionInProgressError as ``as_user`` does.
    """

    def __init__(
        self,
        source: Source_co,
        *,
        reason: str,
        actor: Identity | None = None,
        role: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        if not isinstance(reason, str) or not reason.strip():
            raise BypassError("a bypass needs a reason", hint='say why in words: reason="ticket 123"')
        if not 0 < timeout <= _LONGEST:
            raise BypassError(
                "a bypass needs a time limit", hint="timeout is in seconds, more than 0, and not for ever"
            )
        limits = ("statement_timeout", "idle_in_transaction_session_timeout")
        also = tuple((name, str(max(1, round(timeout * 1000)))) for name in limits)
        super().__init__(source, Asker(None, actor, role, also))
        self._reason, self._timeout = reason, timeout
        self._began = 0.0
        self._about: dict[str, object] = {}

    @overload
    def __enter__(self: bypass[Connection[Row]]) -> Connection[Row]: ...
    @overload
    def __enter__(self: bypass[Pool[Connection[Row]]]) -> Connection[Row]: ...
    def __enter__(self) -> Any:
        self._check_alone()
        conn: Any = super().__enter__()  # type: ignore[misc]
        try:
            self._start()
        except BaseException as error:  # of whoever listens to the log
            super().__exit__(type(error), error, error.__traceback__)
            raise
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        late = self._late(error)
        with self._told(late, error):
            super().__exit__(*((type(late), late, None) if late else (kind, error, trace)))

    @overload
    async def __aenter__(self: bypass[AsyncConnection[Row]]) -> AsyncConnection[Row]: ...
    @overload
    async def __aenter__(self: bypass[AsyncPool[AsyncConnection[Row]]]) -> AsyncConnection[Row]: ...
    async def __aenter__(self) -> Any:
        self._check_alone()
        conn: Any = await super().__aenter__()  # type: ignore[misc]
        try:
            self._start()
        except BaseException as error:  # as above
            await super().__aexit__(type(error), error, error.__traceback__)
            raise
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        late = self._late(error)
        with self._told(late, error):
            await super().__aexit__(*((type(late), late, None) if late else (kind, error, trace)))

    def _admit(self) -> Generator[Any, Any, Login]:
        login, database = yield from gatekeeper.admit_past_rules(self._conn, self._asker.role)
        self._about = {
            "reason": self._reason,
            "actor": self._asker.acting or None,
            "login": login,
            "role": self._asker.role,
            "database": database,
        }
        return Login()

    def _check_alone(self) -> None:
        outer = _bypassing.get()
        if outer is not None and outer._conn is not None:
            raise BypassError("a bypass inside a bypass", hint="one block does it all, for one reason")

    def _start(self) -> None:
        _bypassing.set(self)
        self._began = monotonic()
        _log.warning("bypass begins: %s", self._reason, extra={"rlskit": {"event": "bypass begins", **self._about}})

    def _late(self, error: BaseException | None) -> BypassError | None:
        if error is not None or monotonic() - self._began <= self._timeout:
            return None
        return BypassError(
            f"the bypass took longer than its {self._timeout:g} seconds, and was rolled back",
            hint="do less in one block, or say timeout=…",
        )

    @contextmanager
    def _told(self, late: BypassError | None, error: BaseException | None) -> Iterator[None]:
        """Log how the block has ended, and raise where it was too late."""
        try:
            yield
        except BaseException as failure:
            # A pause that was too long has ended the session: there was nothing left to roll back.
            lost = late is not None and isinstance(failure, psycopg.Error)
            self._end(late if lost else failure)
            if late is not None and lost:
                raise late from failure
            raise
        self._end(late or error)
        if late is not None:
            raise late

    def _end(self, error: BaseException | None) -> None:
        _bypassing.set(None)
        ended = {
            "event": "bypass ends",
            **self._about,
            "outcome": "committed" if error is None else f"rolled back: {type(error).__name__}",
            "seconds": round(monotonic() - self._began, 3),
        }
        _log.warning("bypass ends, %s: %s", ended["outcome"], self._reason, extra={"rlskit": ended})
