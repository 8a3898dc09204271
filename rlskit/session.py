"""Tells the database who is asking, for one transaction; and refuses a login that row security does not bind."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from psycopg import Connection, Transaction
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import namedtuple_row
from psycopg.sql import SQL, Composable, Literal

from rlskit import runtime
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    MissingIdentityError,
    RuntimeVersionError,
    TransactionInProgressError,
)
from rlskit.identity import NOBODY, Identity
from rlskit.names import checked_name

Row = TypeVar("Row")

# Both forget a connection when it is gone.
_guarded: WeakSet[Connection[Any]] = WeakSet()
_blocks: WeakKeyDictionary[Connection[Any], _Block[Any]] = WeakKeyDictionary()


class _Block(Generic[Row]):
    """A transaction on a connection in which one identity asks."""

    def __init__(self, conn: Connection[Row], settings: dict[str, str], role: str | None) -> None:
        self._conn = conn
        self._settings = settings | ({"role": checked_name(role, "role")} if role is not None else {})
        self._savepoint: Transaction | None = None
        self._entered = False

    def __enter__(self) -> Connection[Row]:
        if self._entered:
            raise IdentityConflictError("this block is at work already", hint="make a new one for each `with`")
        guard(self._conn)
        outer = _blocks.get(self._conn)
        if outer is not None and self._conn.info.transaction_status == TransactionStatus.INTRANS:
            if outer._settings != self._settings:
                raise IdentityConflictError(
                    "another identity is at work in this transaction",
                    hint="end that block first, or take another connection",
                )
            self._savepoint = Transaction(self._conn)
            self._savepoint.__enter__()
            self._entered = True
            return self._conn
        _begin(self._conn, self._settings)
        self._entered = True
        _blocks[self._conn] = self
        # What follows a commit would have no identity, so the connection refuses one until the block is over.
        self._conn.commit = self._conn.rollback = _refuse_ending  # type: ignore[method-assign]
        return self._conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._entered = False
        if self._savepoint is not None:
            savepoint, self._savepoint = self._savepoint, None
            return savepoint.__exit__(kind, error, trace)
        _blocks.pop(self._conn, None)
        self._conn.__dict__.pop("commit", None)
        self._conn.__dict__.pop("rollback", None)
        if self._conn.closed:
            return None
        if (
            self._conn.lock.locked()
        ):  # a stream that is read half way holds it, and ending the transaction would wait for ever
            self._conn.close()
            raise TransactionInProgressError(
                "the block ended while something was still being read, so the connection was closed",
                hint="read a stream to its end",
            )
        if kind is None and self._conn.info.transaction_status == TransactionStatus.IDLE:
            raise TransactionInProgressError(
                "the block's transaction was ended inside it, and what came after had no identity", hint=_ENDING
            )
        try:
            self._conn.commit() if kind is None else self._conn.rollback()
        except BaseException:
            _send(self._conn, SQL("rollback"))  # no identity outlives its block
            raise
        return None


_ENDING = "leave commit and rollback to the block: it commits at its end, and rolls back on an error"


def _refuse_ending() -> NoReturn:
    raise TransactionInProgressError("the block's transaction cannot be ended inside it", hint=_ENDING)


def _begin(conn: Connection[Any], settings: dict[str, str]) -> None:
    """Open the transaction and write the settings in one message, so that an identity costs no round trip of its own.

    psycopg sends BEGIN by itself and alone; one message of two statements is sent beside it, and it finds the transaction open.
    """
    parts: list[Composable] = [SQL("begin")]
    if conn.isolation_level is not None:
        parts.append(SQL("isolation level " + conn.isolation_level.name.replace("_", " ")))
    if conn.read_only is not None:
        parts.append(SQL("read only" if conn.read_only else "read write"))
    if conn.deferrable is not None:
        parts.append(SQL("deferrable" if conn.deferrable else "not deferrable"))
    calls = [SQL("set_config({}, {}, true)").format(Literal(name), Literal(value)) for name, value in settings.items()]
    message = SQL(" ").join(parts) + SQL("; select ") + SQL(", ").join(calls)
    with conn.lock:
        if conn.pgconn.transaction_status != TransactionStatus.IDLE:
            raise TransactionInProgressError(
                "the connection is already in a transaction",
                hint="commit or roll back first: the identity has to be the first thing that a transaction hears",
            )
        conn.pgconn.send_query(message.as_bytes(conn))
        results = conn.wait(execute(conn.pgconn))
    if results[-1].status != ExecStatus.TUPLES_OK:
        conn.rollback()
        raise error_from_result(results[-1])


def _send(conn: Connection[Any], statement: SQL) -> None:
    if not conn.closed:
        with conn.lock:
            conn.pgconn.send_query(statement.as_bytes(conn))
            conn.wait(execute(conn.pgconn))


class as_user(_Block[Row]):
    """``with as_user(conn, identity) as conn``: one transaction in which ``identity`` asks; committed at the end.

    ``conn`` is an idle psycopg connection, autocommit or not; its isolation level, read-only and deferrable hold. An error rolls back and
    goes on its way. ``role`` is taken on for the transaction, where the login has it. Inside, the same identity again is a savepoint.

    Raises MissingIdentityError for None, TransactionInProgressError for a connection that is not idle and for a transaction that was
    ended inside, IdentityConflictError for another identity inside, and what ``guard`` raises.
    """

    def __init__(self, conn: Connection[Row], identity: Identity, *, role: str | None = None) -> None:
        if not isinstance(identity, Identity):
            raise MissingIdentityError(
                "`as_user` needs an Identity",
                hint="for a guest write as_nobody(conn): nobody sees no rows, and gets no error",
            )
        super().__init__(conn, identity.settings(), role)


class as_nobody(_Block[Row]):
    """``with as_nobody(conn) as conn``: one transaction in which nobody asks: no rows, and no error for reading.

    Takes and raises what ``as_user`` does.
    """

    def __init__(self, conn: Connection[Row], *, role: str | None = None) -> None:
        super().__init__(conn, NOBODY, role)


def guard(conn: Connection[Any]) -> None:
    """Make sure, once for each connection, that row security binds its login. ``conn`` is left as it is: idle when idle.

    Raises BypassingRoleError for a superuser, for BYPASSRLS, for the owner of a managed table, for whoever may become one of them, and where
    ``row_security`` is off; RuntimeVersionError where the schema ``rlskit`` is missing.
    """
    if conn in _guarded:
        return
    with conn.transaction():
        row: Any = conn.cursor(row_factory=namedtuple_row).execute(runtime.script("catalog/login.sql")).fetchone()
    way_out = "connect with an ordinary login: not superuser, no BYPASSRLS, and no owner of a table"
    if row.preset:
        raise BypassingRoleError(
            f"login `{row.login}` comes with an identity of its own",
            hint="reset the settings rlskit.* of the login and of the connection",
        )
    if row.superuser:
        raise BypassingRoleError(
            f"login `{row.login}` is a superuser, or may become one, so no rule binds it", hint=way_out
        )
    if row.bypasses:
        raise BypassingRoleError(
            f"login `{row.login}` has BYPASSRLS, or may take it on, so no rule binds it", hint=way_out
        )
    if row.reads_past is not None:
        raise BypassingRoleError(
            f"login `{row.login}` has {row.reads_past}, which reaches past row security", hint=way_out
        )
    if row.owns is not None:
        raise BypassingRoleError(
            f"login `{row.login}` owns table {row.owns}, or may become its owner, who can lift the rules", hint=way_out
        )
    if row.owns_runtime:
        raise BypassingRoleError(
            f"login `{row.login}` owns the schema rlskit, or may become its owner, who could rewrite who is who",
            hint=way_out,
        )
    if row.row_security != "on":
        raise BypassingRoleError(
            f"login `{row.login}` has row_security = {row.row_security}", hint="reset row_security: it has to be on"
        )
    if not row.has_runtime:
        raise RuntimeVersionError(
            "this database has no schema rlskit that the login may use", hint="rlskit apply, or rlskit install"
        )
    _guarded.add(conn)
