"""Who asks in a transaction of SQLAlchemy's, and what its connection has heard: BEGIN and the identity go in one message, so it costs no round trip."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from psycopg import AsyncConnection as AsyncDriver
from psycopg import Error as DriverError
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, RootTransaction
from sqlalchemy.engine import AdaptedConnection

from rlskit import gatekeeper, prelude
from rlskit.connections import AnyConnection, check_idle
from rlskit.errors import IdentityConflictError, MissingIdentityError
from rlskit.gatekeeper import Terms
from rlskit.prelude import Asker

KEY = "rlskit"  # in Session.info, and among a Connection's execution options

# All forget what is gone. What a transaction is for and what its connection has heard are two things: a pool may give one connection to two
# transactions at once, and a transaction may be ended past SQLAlchemy. No statement goes where they differ.
_asking: WeakKeyDictionary[RootTransaction, Asker] = WeakKeyDictionary()
_begun: WeakKeyDictionary[Connection, Asker] = WeakKeyDictionary()  # until the transaction has an object of its own
_heard: WeakKeyDictionary[AnyConnection, Asker] = WeakKeyDictionary()  # last; what it was counts in a transaction
_inside: WeakSet[RootTransaction] = WeakSet()  # in which it was said inside a savepoint, and goes with it


def introduce(connection: Connection, asker: Asker, terms: Terms) -> None:
    """Say who asks in the transaction that the connection begins, or is in, after its login was judged by these terms."""
    driver = driver_of(connection)
    root, now, known = connection.get_transaction(), current(connection), hears(driver)
    if root is None:
        _begun[connection] = asker
    else:
        _asking[root] = asker  # also when it is refused now: or else the next statement would be asked by somebody else
    if {now, known} - {None, asker}:
        raise conflict()
    if driver.autocommit:
        raise MissingIdentityError(
            "an AUTOCOMMIT connection has no transaction in which somebody could ask",
            hint="leave isolation_level=AUTOCOMMIT to engines that ask for nobody",
        )
    if now == known == asker:
        return
    if root is not None and connection.in_nested_transaction():
        _inside.add(root)
    tell(connection, _beginning(driver, asker, terms))
    _heard[driver] = asker


def tell(connection: Connection, work: prelude.Waiting) -> None:
    """Do it on the driver's connection, which is of no use any more where it fails. An error of the driver's is raised as SQLAlchemy raises them."""
    try:
        wait(connection.connection.dbapi_connection, work)
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


def current(connection: Connection) -> Asker | None:
    """Who asks in the connection's transaction, as far as it was said here."""
    root = connection.get_transaction()
    if root is None:
        return None
    if connection in _begun:
        _asking[root] = _begun.pop(connection)
    return _asking.get(root)


def hears(driver: AnyConnection) -> Asker | None:
    """Who asks in the driver's transaction, whichever connection of SQLAlchemy's began it."""
    return None if driver.pgconn.transaction_status == TransactionStatus.IDLE else _heard.get(driver)


def has_asked(connection: Connection) -> bool:
    """Whether the server knows of a transaction; ``begin`` alone sends nothing."""
    return connection.in_transaction() and driver_of(connection).pgconn.transaction_status != TransactionStatus.IDLE


def begin_anew(connection: Connection) -> None:
    """Forget the transaction before. Where the driver's is open, it is another connection's too."""
    _begun.pop(connection, None)
    driver = driver_of(connection)
    if driver.pgconn.transaction_status == TransactionStatus.IDLE:
        forget(driver)


def unsay(connection: Connection) -> None:
    """A savepoint is rolled back: what was said inside it is unsaid."""
    if connection.get_transaction() in _inside and not connection.invalidated:
        forget(driver_of(connection))


def forget(driver: AnyConnection) -> None:
    """Nobody counts as heard on the driver's connection any more."""
    _heard.pop(driver, None)


def conflict() -> IdentityConflictError:
    """The error for two in one transaction."""
    return IdentityConflictError(
        "somebody else asks in this transaction already",
        hint="end it first, or give each identity a connection of its own",
    )


def missing() -> MissingIdentityError:
    """The error for a statement for whom nobody spoke."""
    return MissingIdentityError(
        "nobody said who is asking",
        hint="rlskit.sqlalchemy.set_identity(session, identity), or set_nobody(session) for a guest; migrations have an engine of their own",
    )


# --- the driver's connection -------------------------------------------------------------------------------


def driver_of(connection: Connection) -> AnyConnection:
    """The driver's own connection, below SQLAlchemy's."""
    return of_driver(connection.connection.dbapi_connection)


def of_driver(dbapi_connection: Any) -> AnyConnection:
    """What psycopg made: itself, or what SQLAlchemy has adapted of it."""
    driver: AnyConnection = (
        dbapi_connection.driver_connection if isinstance(dbapi_connection, AdaptedConnection) else dbapi_connection
    )
    return driver


def wait(dbapi_connection: Any, work: Generator[Any, Any, Any]) -> None:
    """Do what psycopg's ``wait`` does, holding the connection's lock; inside SQLAlchemy's greenlet where it is asynchronous."""
    driver = of_driver(dbapi_connection)
    if isinstance(driver, AsyncDriver):

        async def waited(driver: AsyncDriver[Any]) -> None:
            async with driver.lock:
                await driver.wait(work)

        dbapi_connection.run_async(waited)
    else:
        with driver.lock:
            driver.wait(work)
