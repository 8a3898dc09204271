"""Who is asking, for SQLAlchemy: an identity rides on a session or a connection, and each of its transactions hears it first.

::

    rlskit.sqlalchemy.guard(engine)                       # once, at start; or a sessionmaker, or what is async
    with Session() as session:
        rlskit.sqlalchemy.set_identity(session, alice)    # once for each session; asks no database
        session.scalars(select(Todo)).all()               # alice's

``after_begin`` sends BEGIN and the identity in one message, where psycopg would send BEGIN alone; so an identity costs no round trip.
"""

from __future__ import annotations

from collections.abc import Generator
from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from psycopg import AsyncConnection as AsyncDriver
from psycopg import Error as DriverError
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect, Engine, RootTransaction, event
from sqlalchemy.engine import AdaptedConnection, ExceptionContext
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.sql.expression import ReleaseSavepointClause, RollbackToSavepointClause, SavepointClause

from rlskit import gatekeeper, janitor, prelude
from rlskit.connections import AnyConnection, check_idle
from rlskit.denials import denial
from rlskit.errors import IdentityConflictError, IdentityError, MissingIdentityError, TransactionInProgressError
from rlskit.gatekeeper import Terms
from rlskit.identity import Identity
from rlskit.prelude import Asker
from rlskit.rules import Rules
from rlskit.signing import SigningKey

AnySession: TypeAlias = (
    Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any] | Connection | AsyncConnection
)
Guardable: TypeAlias = Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any]

_KEY = "rlskit"  # in Session.info, and among a Connection's execution options
_DRIVERS = ("psycopg", "psycopg_async")
_SAVEPOINTS = (SavepointClause, RollbackToSavepointClause, ReleaseSavepointClause)

# All forget what is gone. What a transaction is for and what its connection has heard are two things: a pool may give one connection to two
# transactions at once, and a transaction may be ended past SQLAlchemy. No statement goes where they differ.
_guarded: WeakKeyDictionary[Dialect, _Watch] = WeakKeyDictionary()  # of an engine and of all that share its pool
_guarding = Lock()
_asking: WeakKeyDictionary[RootTransaction, Asker] = WeakKeyDictionary()
_begun: WeakKeyDictionary[Connection, Asker] = WeakKeyDictionary()  # until the transaction has an object of its own
_heard: WeakKeyDictionary[AnyConnection, Asker] = WeakKeyDictionary()  # last; what it was counts in a transaction
_inside: WeakSet[RootTransaction] = WeakSet()  # in which it was said inside a savepoint, and goes with it
_unasked: WeakSet[SessionTransaction] = WeakSet()  # begun for nobody in particular


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
    for watch in [_watched(engine) for engine in _engines(target)]:
        watch.terms, watch.require_identity, watch.scrub, watch.judges = terms, require_identity, scrub, True


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


# --- who is asking -----------------------------------------------------------------------------------------


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
        before, begun = target.info.get(_KEY), target.get_transaction() in _unasked
    elif isinstance(target, Connection):
        before, begun = target.get_execution_options().get(_KEY), _has_asked(target)
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
        target.info[_KEY] = asker
    else:
        _watched(target.engine)
        target.execution_options(**{_KEY: asker})


@event.listens_for(Session, "after_begin", insert=True)  # before those of the application, which may ask something
def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """At the beginning of every transaction of every session, whatever ended the one before; and of every savepoint."""
    asker = session.info.get(_KEY)
    if asker is not None:
        if not transaction.nested:
            _introduce(connection, asker)
        return
    _unasked.add(session.get_transaction() or transaction)
    watch = _guarded.get(connection.dialect)
    if watch is not None and watch.require_identity and _current(connection) is None:
        raise _missing()


def _introduce(connection: Connection, asker: Asker) -> None:
    """Say who asks in the transaction that the connection begins, or is in."""
    watch, driver = _watched(connection.engine), _driver(connection)
    root, current, heard = connection.get_transaction(), _current(connection), _hears(driver)
    if root is None:
        _begun[connection] = asker
    else:
        _asking[root] = asker  # also when it is refused now: or else the next statement would be asked by somebody else
    if {current, heard} - {None, asker}:
        raise _conflict()
    if driver.autocommit:
        raise MissingIdentityError(
            "an AUTOCOMMIT connection has no transaction in which somebody could ask",
            hint="leave isolation_level=AUTOCOMMIT to engines that ask for nobody",
        )
    if current == heard == asker:
        return
    if root is not None and connection.in_nested_transaction():
        _inside.add(root)
    _tell(connection, _beginning(driver, asker, watch.terms))
    _heard[driver] = asker


def _tell(connection: Connection, work: prelude.Waiting) -> None:
    """Do it on the driver's connection, which is of no use any more where it fails. An error of the driver's is raised as SQLAlchemy raises them."""
    try:
        _wait(connection.connection.dbapi_connection, work)
    except BaseException as error:
        try:
            if isinstance(error, DriverError):
                connection._handle_dbapi_exception(error, None, None, None, None)
            raise
        finally:
            connection.invalidate()


def _beginning(driver: AnyConnection, asker: Asker, terms: Terms) -> prelude.Waiting:
    login = yield from gatekeeper.admit(driver, terms)
    if driver.pgconn.transaction_status == TransactionStatus.INTRANS:
        yield from prelude.identify(driver, asker, login)  # of two phases, or of somebody's own making
    else:
        check_idle(driver)
        yield from prelude.begin(driver, asker, login)


def _current(connection: Connection) -> Asker | None:
    """Who asks in the connection's transaction, as far as it was said here."""
    root = connection.get_transaction()
    if root is None:
        return None
    if connection in _begun:
        _asking[root] = _begun.pop(connection)
    return _asking.get(root)


def _hears(driver: AnyConnection) -> Asker | None:
    """Who asks in the driver's transaction, whichever connection of SQLAlchemy's began it."""
    return None if driver.pgconn.transaction_status == TransactionStatus.IDLE else _heard.get(driver)


def _has_asked(connection: Connection) -> bool:
    """Whether the server knows of a transaction; ``begin`` alone sends nothing."""
    return connection.in_transaction() and _driver(connection).pgconn.transaction_status != TransactionStatus.IDLE


def _conflict() -> IdentityConflictError:
    return IdentityConflictError(
        "somebody else asks in this transaction already",
        hint="end it first, or give each identity a connection of its own",
    )


def _missing() -> MissingIdentityError:
    return MissingIdentityError(
        "nobody said who is asking",
        hint="rlskit.sqlalchemy.set_identity(session, identity), or set_nobody(session) for a guest; migrations have an engine of their own",
    )


# --- what an engine is watched for -------------------------------------------------------------------------


class _Watch:
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
            _wait(dbapi_connection, gatekeeper.admit_with_key(_of_driver(dbapi_connection), self.terms))
        except BaseException:
            dbapi_connection.close()
            raise

    def begin(self, connection: Connection) -> None:
        """Introduce whoever rides on the connection itself. For a session, ``after_begin`` follows."""
        self.begin_anew(connection)
        asker = connection.get_execution_options().get(_KEY)
        if asker is not None:
            _introduce(connection, asker)
        else:
            self.judge(connection)

    def begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Its BEGIN is yet to come, and has to be psycopg's own: the first statement finds out who asks."""
        self.begin_anew(connection)
        self.judge(connection)

    def begin_anew(self, connection: Connection) -> None:
        """Forget the transaction before. Where the driver's is open, it is another connection's too."""
        _begun.pop(connection, None)
        driver = _driver(connection)
        if driver.pgconn.transaction_status == TransactionStatus.IDLE:
            _heard.pop(driver, None)

    def judge(self, connection: Connection) -> None:
        """Judge the login of a connection that was there before the guard."""
        driver = _driver(connection)
        if self.judges and gatekeeper.admitted(driver, self.terms) is None:
            _tell(connection, gatekeeper.admit_with_key(driver, self.terms))

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        """Let no statement go for whom nobody spoke, or somebody else. A savepoint asks nothing."""
        driver = _driver(connection)
        said, heard = _current(connection), _hears(driver)
        savepoint = isinstance(getattr(getattr(context, "compiled", None), "statement", None), _SAVEPOINTS)
        if said is None:
            asker = connection.get_execution_options().get(_KEY)
            if asker is not None:
                _introduce(connection, asker)
            elif heard is not None:
                raise _conflict()
            elif self.require_identity and not savepoint:
                raise _missing()
            else:
                _heard.pop(driver, None)
        elif heard != said and not savepoint:
            if driver.pgconn.transaction_status == TransactionStatus.IDLE and not driver.autocommit:
                raise TransactionInProgressError(
                    "the transaction was ended past SQLAlchemy, and what follows would have no identity",
                    hint="end it with commit() or rollback() of the session or the connection",
                )
            _introduce(connection, said)

    def rollback_savepoint(self, connection: Connection, name: str, context: None) -> None:
        """What was said inside the savepoint is unsaid."""
        if connection.get_transaction() in _inside and not connection.invalidated:
            _heard.pop(_driver(connection), None)

    def handle_error(self, context: ExceptionContext) -> None:
        """Give what the database refused its name, as ``orig``."""
        found = denial(context.original_exception, self.terms.rules)
        if found is not None and context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.orig = found

    def reset(self, dbapi_connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
        """Leave nothing of one user's session to the next."""
        driver = _of_driver(dbapi_connection)
        _heard.pop(driver, None)
        if self.scrub and state.asyncio_safe and not state.terminate_only:
            if driver.pgconn.transaction_status != TransactionStatus.IDLE:
                dbapi_connection.rollback()
            if isinstance(dbapi_connection, AdaptedConnection):
                dbapi_connection.run_async(lambda driver: janitor.scrub(driver))
            else:
                janitor.scrub(dbapi_connection)


def _watched(engine: Engine) -> _Watch:
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
            found = _guarded[engine.dialect] = _Watch(engine)
        return found


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


# --- the driver's connection -------------------------------------------------------------------------------


def _driver(connection: Connection) -> AnyConnection:
    return _of_driver(connection.connection.dbapi_connection)


def _of_driver(dbapi_connection: Any) -> AnyConnection:
    """What psycopg made: itself, or what SQLAlchemy has adapted of it."""
    driver: AnyConnection = (
        dbapi_connection.driver_connection if isinstance(dbapi_connection, AdaptedConnection) else dbapi_connection
    )
    return driver


def _wait(dbapi_connection: Any, work: Generator[Any, Any, Any]) -> None:
    """Do what psycopg's ``wait`` does, holding the connection's lock; inside SQLAlchemy's greenlet where it is asynchronous."""
    driver = _of_driver(dbapi_connection)
    if isinstance(driver, AsyncDriver):

        async def waited(driver: AsyncDriver[Any]) -> None:
            async with driver.lock:
                await driver.wait(work)

        dbapi_connection.run_async(waited)
    else:
        with driver.lock:
            driver.wait(work)
