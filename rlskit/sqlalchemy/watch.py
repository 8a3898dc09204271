"""What an engine is watched for: logins that row security does not bind, statements for whom nobody spoke, refusals that have a name."""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.engine import AdaptedConnection, ExceptionContext
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.sql.expression import ReleaseSavepointClause, RollbackToSavepointClause, SavepointClause

from rlskit import gatekeeper, janitor
from rlskit.denials import denial
from rlskit.errors import IdentityError, TransactionInProgressError
from rlskit.gatekeeper import Terms
from rlskit.rules import Rules
from rlskit.signing import SigningKey
from rlskit.sqlalchemy.transactions import (
    KEY,
    begin_anew,
    conflict,
    current,
    driver_of,
    forget,
    hears,
    introduce,
    missing,
    of_driver,
    tell,
    unsay,
    wait,
)

Guardable: TypeAlias = Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any]

_DRIVERS = ("psycopg", "psycopg_async")
_SAVEPOINTS = (SavepointClause, RollbackToSavepointClause, ReleaseSavepointClause)

_guarded: WeakKeyDictionary[Dialect, Watch] = WeakKeyDictionary()  # of an engine and of all that share its pool
_guarding = Lock()


def guard(
    target: Guardable,
    *,
    key: SigningKey | str | None = None,
    rules: Rules | None = None,
    require_identity: bool = True,
    allow_bypass: str | None = None,
    scrub: bool = False,
) -> None:
    """Let nobody ask through these connections who has not said who he is, and no login that row security does not bind. Once, at start.

    ``target`` is an engine, or a sessionmaker that is bound to one; async ones too. No database is asked now: each connection is when it is made,
    as ``rlskit.guard`` asks it, and one that was there before when its next transaction begins; ``key``, ``rules`` and ``allow_bypass`` are that
    one's. With ``require_identity`` a statement without an identity raises MissingIdentityError; without it, it asks as nobody. ``scrub`` sends DISCARD ALL
    when a connection goes back to the pool: a round trip more for each transaction, because a session gives its connection back after each.

    Raises IdentityError for another driver than psycopg, and for a sessionmaker that is bound to no engine; SigningKeyError for a key that is none.
    """
    terms = gatekeeper.checked_terms(key, rules, allow_bypass)
    for watch in [watched(engine) for engine in _engines(target)]:
        watch.terms, watch.require_identity, watch.scrub, watch.judges = terms, require_identity, scrub, True


class Watch:
    """The listeners of one engine, and what they go by. Where nobody called ``guard``, they check its logins and require nothing."""

    def __init__(self, engine: Engine) -> None:
        self.terms, self.require_identity, self.scrub, self.judges = Terms(), False, False, False
        event.listen(engine, "connect", self.connect)
        event.listen(engine, "begin", self.begin)
        event.listen(engine, "begin_twophase", self.begin_twophase)
        event.listen(engine, "before_cursor_execute", self.before_cursor_execute)
        event.listen(engine, "rollback_savepoint", self.rollback_savepoint)
        event.listen(engine, "handle_error", self.handle_error)
        event.listen(engine, "reset", self.reset)

    def connect(self, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        """Judge the login of a new connection."""
        try:
            wait(dbapi_connection, gatekeeper.admit_with_key(of_driver(dbapi_connection), self.terms))
        except BaseException:
            dbapi_connection.close()
            raise

    def begin(self, connection: Connection) -> None:
        """Introduce whoever rides on the connection itself. For a session, ``after_begin`` follows."""
        begin_anew(connection)
        asker = connection.get_execution_options().get(KEY)
        if asker is not None:
            introduce(connection, asker, self.terms)
        else:
            self.judge(connection)

    def begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Its BEGIN is yet to come, and has to be psycopg's own: the first statement finds out who asks."""
        begin_anew(connection)
        self.judge(connection)

    def judge(self, connection: Connection) -> None:
        """Judge the login of a connection that was there before the guard."""
        driver = driver_of(connection)
        if self.judges and gatekeeper.admitted(driver, self.terms) is None:
            tell(connection, gatekeeper.admit_with_key(driver, self.terms))

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        """Let no statement go for whom nobody spoke, or somebody else. A savepoint asks nothing."""
        driver = driver_of(connection)
        said, heard = current(connection), hears(driver)
        savepoint = isinstance(getattr(getattr(context, "compiled", None), "statement", None), _SAVEPOINTS)
        if said is None:
            asker = connection.get_execution_options().get(KEY)
            if asker is not None:
                introduce(connection, asker, self.terms)
            elif heard is not None:
                raise conflict()
            elif self.require_identity and not savepoint:
                raise missing()
            else:
                forget(driver)
        elif heard != said and not savepoint:
            if driver.pgconn.transaction_status == TransactionStatus.IDLE and not driver.autocommit:
                raise TransactionInProgressError(
                    "the transaction was ended past SQLAlchemy, and what follows would have no identity",
                    hint="end it with commit() or rollback() of the session or the connection",
                )
            introduce(connection, said, self.terms)

    def rollback_savepoint(self, connection: Connection, name: str, context: None) -> None:
        """What was said inside the savepoint is unsaid."""
        unsay(connection)

    def handle_error(self, context: ExceptionContext) -> None:
        """Give what the database refused its name, as ``orig``."""
        found = denial(context.original_exception, self.terms.rules)
        if found is not None and context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.orig = found

    def reset(self, dbapi_connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
        """Leave nothing of one user's session to the next."""
        driver = of_driver(dbapi_connection)
        forget(driver)
        if self.scrub and state.asyncio_safe and not state.terminate_only:
            if driver.pgconn.transaction_status != TransactionStatus.IDLE:
                dbapi_connection.rollback()
            if isinstance(dbapi_connection, AdaptedConnection):
                dbapi_connection.run_async(lambda driver: janitor.scrub(driver))
            else:
                janitor.scrub(dbapi_connection)


def watched(engine: Engine) -> Watch:
    """The watch on an engine, which begins now where there was none. Raises IdentityError for another driver than psycopg."""
    while isinstance(engine, OptionEngine):
        engine = engine._proxied  # what an engine hears, all hear that were made of it
    with _guarding:
        found = _guarded.get(engine.dialect)
        if found is None:
            if engine.dialect.name != "postgresql" or engine.dialect.driver not in _DRIVERS:
                raise IdentityError(
                    f"the driver `{engine.dialect.driver}` cannot say who asks",
                    hint="connect with postgresql+psycopg://",
                )
            found = _guarded[engine.dialect] = Watch(engine)
        return found


def watch_over(connection: Connection) -> Watch | None:
    """The watch on the connection's engine, where there is one."""
    return _guarded.get(connection.dialect)


def _engines(target: object) -> list[Engine]:
    if isinstance(target, sessionmaker | async_sessionmaker):
        binds = [target.kw.get("bind"), *(target.kw.get("binds") or {}).values()]
        engines = [engine for each in binds if each is not None for engine in _engines(each)]
        if not engines:
            raise IdentityError(
                "the sessionmaker is bound to no engine",
                hint="guard the engine itself: rlskit.sqlalchemy.guard(engine)",
            )
        return engines
    engine = target.sync_engine if isinstance(target, AsyncEngine) else target
    if not isinstance(engine, Engine):
        raise IdentityError(
            f"`{type(target).__name__}` is neither an engine nor a sessionmaker",
            hint="psycopg's connections and pools are guarded by rlskit.guard",
        )
    return [engine]
