"""What a transaction hears first: BEGIN, and who is asking. One exchange with the server, so that an identity costs no round trip of its own."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from psycopg.errors import InvalidAuthorizationSpecification, InvalidCursorState, error_from_result
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import Escaping, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from rlskit.connections import AnyConnection
from rlskit.errors import InvalidIdentityError, OpenCursorError, SigningKeyError
from rlskit.identity import NOBODY, Identity
from rlskit.names import checked_name
from rlskit.signing import SigningKey

Waiting: TypeAlias = Generator[Any, Any, None]  # for the `wait` of a connection whose lock is held
GIVE_A_KEY = "guard the connection or the pool with a key: rlskit.guard(pool, key=…); rlskit keys add prints one"

# When the transaction began, as a number: it tells one transaction from the next, whatever the time zone and the style of dates.
WHEN = "extract(epoch from pg_catalog.transaction_timestamp())"

Statement: TypeAlias = tuple[str, Sequence[str]]  # with %s for each of the values


@dataclass(frozen=True, slots=True)
class Login:
    """What is known of a connection since it was guarded.

    The key that signs on it, whether the database takes signed identities only, and whether a pooler stands before the server.
    """

    key: SigningKey | None = None
    signed: bool = False
    behind_pooler: bool = False


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks in a transaction: the identity, None for nobody; who really acts; the role that is taken on; further settings, name and value.

    Raises InvalidIdentityError for an actor that is no Identity, RuleError for what is no name of a role.
    """

    identity: Identity | None
    actor: Identity | None = None
    role: str | None = None
    also: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.actor is not None and not isinstance(self.actor, Identity):
            raise InvalidIdentityError("`actor` is no Identity", hint="it is whoever really acts, as the token says")
        if self.role is not None:
            checked_name(self.role, "role")

    @property
    def acting(self) -> str:
        """The actor as it is written down: as an owner would be, or by the sub alone; empty where nobody acts as somebody else."""
        return "" if self.actor is None else next(iter(self.actor.spellings), self.actor.sub)

    def settings(self) -> dict[str, str]:
        """The settings of the transaction: all that say who asks, always, so that nothing of an earlier one is left."""
        who = NOBODY if self.identity is None else self.identity.settings()
        role = {} if self.role is None else {"role": self.role}
        return {**who, "rlskit.actor": self.acting, **dict(self.also), **role}

    def signs(self, login: Login) -> bool:
        """Whether a token is presented. Nobody needs none."""
        return self.identity is not None and login.key is not None


def begin(conn: AnyConnection, asker: Asker, login: Login) -> Generator[Any, Any, bytes]:
    """Open a transaction with the connection's own characteristics, and say who asks. The connection is idle.

    psycopg sends BEGIN by itself and alone; after this it finds the transaction open. Returns when the transaction began, for ``commit``. Raises
    SigningKeyError where the database does not take the identity, InvalidIdentityError where the connection cannot say it.
    """
    if needs_backend(asker, login):
        pid = yield from _ask_backend(conn, _opening(conn))
        return (yield from _say(conn, [introduction(asker, login, pid)], asker, login))
    return (yield from _say(conn, _statements(conn, asker, login), asker, login))


def identify(conn: AnyConnection, asker: Asker, login: Login) -> Waiting:
    """Say who asks in a transaction that is open already. Raises what ``begin`` does."""
    pid = (yield from _ask_backend(conn, [])) if needs_backend(asker, login) else conn.pgconn.backend_pid
    yield from _say(conn, [introduction(asker, login, pid)], asker, login)


def commit(conn: AnyConnection, began: bytes) -> Generator[Any, Any, bool]:
    """Commit; whether it was the transaction that ``began`` then. In one message."""
    results = yield from send_simply(conn, f"select {WHEN}; commit".encode())
    return results[0].get_value(0, 0) == began


def needs_backend(asker: Asker, login: Login) -> bool:
    """Whether the server has to be asked first: a token is for one backend, and behind a pooler nobody knows which before the transaction is open."""
    return login.behind_pooler and asker.signs(login)


def statements(conn: AnyConnection, asker: Asker, login: Login) -> list[Statement]:
    """What ``begin`` says in one exchange, for who sends it in a pipeline with more. Raises InvalidIdentityError."""
    said = _statements(conn, asker, login)
    for _, values in said:
        for value in values:
            encoded(conn, value)
    return said


def introduction(asker: Asker, login: Login, pid: int) -> Statement:
    """The statement that says who asks; with a token for the backend ``pid`` where there is a key.

    Without one it raises in a database that takes signed identities only: there nobody would ask, unnoticed.
    """
    calls, values = ["rlskit.refuse_cursors()"], []
    if asker.identity is None:
        calls.append("pg_catalog.set_config('rlskit.token', '', true)")
    elif login.key is None:
        # Constant, so that it costs nothing where nothing is required.
        calls.append("case when rlskit.is_signed() then rlskit.accept(null) end")
    else:
        calls.append("rlskit.accept(%s)")
        values.append(login.key.token(asker.identity, actor=asker.acting, pid=pid, now=time.time()))
    for name, value in asker.settings().items():
        calls.append(f"pg_catalog.set_config('{name}', %s, true)")
        values.append(value)
    return f"select {', '.join([*calls, WHEN])}", values


def ask(conn: AnyConnection, query: str) -> Generator[Any, Any, list[PGresult]]:
    """The results of SHOW search_path and of a query that runs under a fixed search_path, so that nothing of an earlier user's is asked instead."""
    inside = conn.pgconn.transaction_status == TransactionStatus.INTRANS
    first, last = ("savepoint rlskit", "rollback to rlskit; release rlskit") if inside else ("begin", "commit")
    message = f"show search_path; {first}; set local search_path = pg_catalog, pg_temp; {query}; {last}"
    results = yield from send_simply(conn, message.encode())
    return [results[0], results[3]]


def send_simply(conn: AnyConnection, message: bytes) -> Generator[Any, Any, list[PGresult]]:
    """Send a message as it is, beside what psycopg sends by itself; its results. Raises the server's error."""
    conn.pgconn.send_query(message)
    return _checked(conn, (yield from execute(conn.pgconn)))


def name_refusal(error: InvalidAuthorizationSpecification | InvalidCursorState, login: Login) -> None:
    """Raise OpenCursorError or SigningKeyError where it was this that the database refused; what somebody else raised is left to go its way."""
    if "rlskit.refuse_cursors(" in (error.diag.context or ""):
        raise OpenCursorError(
            "a cursor WITH HOLD of an earlier transaction is open, and would give the rows of whoever opened it",
            hint="it is closed now; close what you open, or give the pool reset=rlskit.scrub",
        ) from None
    if "rlskit.accept(" in (error.diag.context or ""):
        hint = GIVE_A_KEY
        if login.key is not None:
            hint = f"key `{login.key.kid}` is not known there, or was retired, or the clock here is more than a minute from the server's"
        # Without its cause, whose context may hold the token, where the server is told to log parameters.
        raise SigningKeyError(str(error.diag.message_primary), hint=hint) from None


# --- on the wire -------------------------------------------------------------------------------------------


def _opening(conn: AnyConnection) -> list[Statement]:
    parts = ["begin"]
    if conn.isolation_level is not None:
        parts.append("isolation level " + conn.isolation_level.name.replace("_", " "))
    if conn.read_only is not None:
        parts.append("read only" if conn.read_only else "read write")
    if conn.deferrable is not None:
        parts.append("deferrable" if conn.deferrable else "not deferrable")
    return [(" ".join(parts), ())]


def _statements(conn: AnyConnection, asker: Asker, login: Login) -> list[Statement]:
    return [*_opening(conn), introduction(asker, login, conn.pgconn.backend_pid)]


def _ask_backend(conn: AnyConnection, before: list[Statement]) -> Generator[Any, Any, int]:
    message = "; ".join([*(statement for statement, _ in before), "select pg_catalog.pg_backend_pid()"])
    results = yield from send_simply(conn, message.encode())
    return int(results[-1].get_value(0, 0) or 0)


def _say(conn: AnyConnection, said: list[Statement], asker: Asker, login: Login) -> Generator[Any, Any, bytes]:
    """In one exchange; the last value that comes back. A token travels as a parameter, so that it stands in no statement; else one message is the quickest."""
    try:
        if asker.signs(login):
            results = yield from _send_bound(conn, said)
        else:
            literal = Escaping(conn.pgconn).escape_literal
            texts = [
                statement.encode() % tuple(literal(encoded(conn, value)) for value in values)
                for statement, values in said
            ]
            results = yield from send_simply(conn, b"; ".join(texts))
    except (InvalidAuthorizationSpecification, InvalidCursorState) as error:
        name_refusal(error, login)
        raise
    return results[-1].get_value(0, results[-1].nfields - 1) or b""


def _send_bound(conn: AnyConnection, said: list[Statement]) -> Generator[Any, Any, list[PGresult]]:
    """Send the statements with their values as parameters, and wait once: libpq's pipeline."""
    pgconn = conn.pgconn
    bound = [(_numbered(statement).encode(), [encoded(conn, value) for value in values]) for statement, values in said]
    pgconn.enter_pipeline_mode()
    for statement, values in bound:
        pgconn.send_query_params(statement, values)
    pgconn.pipeline_sync()
    yield from send(pgconn)
    answers = []
    for _ in bound:
        answers += yield from fetch_many(pgconn)
    yield from fetch_many(pgconn)  # of the sync
    pgconn.exit_pipeline_mode()  # where it does not come to that, the connection is closed by whoever sees it
    return _checked(conn, answers)


def _numbered(statement: str) -> str:
    """The statement with PostgreSQL's own placeholders, $1 and on."""
    first, *rest = statement.split("%s")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


def _checked(conn: AnyConnection, results: list[PGresult]) -> list[PGresult]:
    """The results. Raises the first error among them."""
    for result in results:
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise error_from_result(result, encoding=conn.info.encoding)
    return results


def encoded(conn: AnyConnection, value: str) -> bytes:
    """The value as the connection sends text. libpq would cut it at a NUL, and it would be another name. Raises InvalidIdentityError."""
    try:
        text = value.encode(conn.info.encoding)
    except UnicodeEncodeError:
        raise InvalidIdentityError(
            f"the identity cannot be said in the connection's encoding {conn.info.encoding}",
            hint="connect with client_encoding=utf8",
        ) from None
    if text.decode(conn.info.encoding) != value:
        # Two names would be one: some encodings have the same bytes for a backslash and for a yen sign.
        raise InvalidIdentityError(
            f"the identity is another one in the connection's encoding {conn.info.encoding}",
            hint="connect with client_encoding=utf8",
        )
    if b"\0" in text:
        raise InvalidIdentityError("the identity holds a NUL character", hint="PostgreSQL cannot hold it")
    return text
