"""Who may ask at all: refuses a login that row security does not bind, and knows what signs for the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, overload
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, Connection
from psycopg.pq import Escaping
from psycopg.pq.abc import PGresult

from rlskit import prelude, runtime
from rlskit.connections import AnyConnection, AsyncPool, Pool, check_read, lent
from rlskit.errors import (
    BypassError,
    BypassingRoleError,
    RuntimeVersionError,
    SigningKeyError,
)
from rlskit.prelude import Login
from rlskit.refusals import Facts, is_true, refusals
from rlskit.rules import Rules
from rlskit.signing import SigningKey

_log = logging.getLogger("rlskit")
_ORDINARY = "connect with an ordinary login: not superuser, no BYPASSRLS, and no owner of a table"


@dataclass(frozen=True, slots=True)
class Terms:
    """On what a login is let in: the key that signs for it, why it may bypass row security where it may; and the rules that a refusal is explained by."""

    key: SigningKey | None = None
    allow_bypass: str | None = None
    rules: Rules | None = None


# Both forget what is gone.
_known: WeakKeyDictionary[AnyConnection, tuple[Terms, Login]] = WeakKeyDictionary()
_terms: WeakKeyDictionary[Any, Terms] = WeakKeyDictionary()  # of pools


@overload
def guard(
    source: Connection[Any],
    *,
    key: SigningKey | str | None = None,
    rules: Rules | None = None,
    allow_bypass: str | None = None,
) -> None: ...
@overload
def guard(
    source: AsyncConnection[Any],
    *,
    key: SigningKey | str | None = None,
    rules: Rules | None = None,
    allow_bypass: str | None = None,
) -> Awaitable[None]: ...
@overload
def guard(
    source: Pool[Connection[Any]],
    *,
    key: SigningKey | str | None = None,
    rules: Rules | None = None,
    allow_bypass: str | None = None,
) -> None: ...
@overload
def guard(
    source: AsyncPool[AsyncConnection[Any]],
    *,
    key: SigningKey | str | None = None,
    rules: Rules | None = None,
    allow_bypass: str | None = None,
) -> Awaitable[None]: ...
def guard(
    source: Any, *, key: SigningKey | str | None = None, rules: Rules | None = None, allow_bypass: str | None = None
) -> Awaitable[None] | None:
    """Make sure, once for each connection, that row security binds its login. A connection is left as it is: idle when idle.

    ``source`` is a psycopg connection, or an open pool: then one of its connections is asked now, and each other one when ``as_user`` takes it first.
    ``ConnectionPool(…, configure=rlskit.guard)`` asks whenever a connection is made. For what is asynchronous it returns an awaitable.
    ``key`` (a SigningKey, or its text) signs every identity that asks on these connections, where the database takes signed ones only.
    With ``rules``, the Rules of this database, a refusal says by which of them. ``allow_bypass`` is a reason in words why this login may see everything all the same; it is logged.

    Raises BypassingRoleError for a superuser, for BYPASSRLS, for the owner of a managed table, for whoever may become one of them, for a login
    that has settings of its own for what rlskit rests on, and where ``row_security`` is off; RuntimeVersionError where the schema ``rlskit`` is missing
    or older than this package needs; SigningKeyError where identities have to be signed and there is no key.
    """
    terms = checked_terms(key, rules, allow_bypass)
    if isinstance(source, AsyncConnection):
        return _aguard(source, terms)
    if isinstance(source, Connection):
        _guard(source, terms)
        return None
    lease = lent(source)
    if hasattr(lease, "__aenter__"):
        return _aguard_lent(source, lease, terms)
    with lease as conn:
        _guard(conn, terms)
    _terms[source] = terms
    return None


def _guard(conn: Connection[Any], terms: Terms) -> None:
    check_read(conn)
    with conn.lock:
        conn.wait(admit_with_key(conn, terms))


async def _aguard(conn: AsyncConnection[Any], terms: Terms) -> None:
    check_read(conn)
    async with conn.lock:
        await conn.wait(admit_with_key(conn, terms))


async def _aguard_lent(pool: Any, lease: AbstractAsyncContextManager[AsyncConnection[Any]], terms: Terms) -> None:
    async with lease as conn:
        await _aguard(conn, terms)
    _terms[pool] = terms


# --- what is decided, whoever waits ------------------------------------------------------------------------


def checked_terms(key: SigningKey | str | None, rules: Rules | None, allow_bypass: str | None) -> Terms:
    """The terms that these arguments of ``guard`` mean. Raises SigningKeyError, and BypassingRoleError for a reason that is none."""
    if allow_bypass is not None and not allow_bypass.strip():
        raise BypassingRoleError("`allow_bypass` is empty", hint="say in words why this login may see everything")
    return Terms(SigningKey.parse(key) if isinstance(key, str) else key, allow_bypass, rules)


def rules_of(conn: AnyConnection) -> Rules | None:
    """The rules that ``guard`` was given for this connection, or for its pool."""
    return _known[conn][0].rules if conn in _known else None


def terms_of(source: Any) -> Terms | None:
    """The terms that ``guard`` was given for a pool."""
    return _terms.get(source)


def admitted(conn: AnyConnection, terms: Terms | None) -> Login | None:
    """What is known of the login, where it was let in on these terms. Asks nothing."""
    before, login = _known.get(conn, (None, None))
    return login if terms is None or terms is before or terms in (Terms(), before) else None


def admit(conn: AnyConnection, terms: Terms | None) -> Generator[Any, Any, Login]:
    """What is known of the login; found out and judged where nobody has yet, or not on these terms. Raises what ``guard`` does.

    For the ``wait`` of a connection whose lock is held.
    """
    known = admitted(conn, terms)
    if known is not None:
        return known
    terms = terms or Terms()
    found = yield from facts(conn)
    login = Login(
        key=terms.key,
        signed=is_true(found, "signed"),
        behind_pooler=found["backend_pid"] != str(conn.pgconn.backend_pid),
    )
    try:
        if refusal := next(refusals(found), None):
            raise BypassingRoleError(f"login `{found['login']}` {refusal.text}", hint=refusal.hint or _ORDINARY)
        if not login.behind_pooler and conn.info.user != found["login"]:
            raise BypassingRoleError(
                f"the connection was made by login `{conn.info.user}`, and says that it is `{found['login']}`",
                hint="connect as the application's own login: SET SESSION AUTHORIZATION can be taken back",
            )
    except BypassingRoleError as error:
        if terms.allow_bypass is None:
            raise
        said = {"event": "bypass allowed", "login": found["login"], "reason": terms.allow_bypass}
        _log.warning("%s; allowed: %s", error.message, terms.allow_bypass, extra={"rlskit": said})
    if not is_true(found, "has_runtime"):
        raise RuntimeVersionError(
            "this database has no schema rlskit that the login may use", hint="rlskit apply, or rlskit install"
        )
    (version,) = _facts((yield from prelude.ask(conn, "select version_num from rlskit.version"))).values()
    if version is None or version < runtime.version():
        raise RuntimeVersionError(
            f"the schema rlskit has version {version}, and this package needs {runtime.version()}",
            hint="rlskit apply, or rlskit install, by its owner",
        )
    if login.key is not None and not login.signed:
        said = {"event": "signatures not required", "login": found["login"]}
        _log.warning(
            'identities are signed, and this database takes others too: say mode = "signed" in the rules and apply',
            extra={"rlskit": said},
        )
    _known[conn] = (terms, login)
    return login


def admit_with_key(conn: AnyConnection, terms: Terms) -> prelude.Waiting:
    """The same for a connection on which somebody will ask. Raises SigningKeyError where he has to be signed for, and there is no key."""
    login = yield from admit(conn, terms)
    if login.signed and login.key is None:
        raise SigningKeyError("this database takes signed identities only", hint=prelude.GIVE_A_KEY)


def admit_past_rules(conn: AnyConnection, role: str | None) -> Generator[Any, Any, tuple[str, str]]:
    """The login and the database of a connection that no rule binds, once it has taken on ``role``. Raises BypassError for any other.

    For the ``wait`` of a connection whose lock is held.
    """
    query = b"""
        select session_user, current_database(), login.rolsuper as superuser, role.rolsuper, role.rolbypassrls
        from pg_catalog.pg_roles as login, pg_catalog.pg_roles as role
        where login.rolname = session_user and role.rolname = """
    query += b"session_user" if role is None else Escaping(conn.pgconn).escape_literal(prelude.encoded(conn, role))
    (result,) = yield from prelude.send_simply(conn, query)
    if not result.ntuples:
        raise BypassError(
            f"there is no role `{role}`", hint="role names one that has BYPASSRLS, and that the login may take on"
        )
    found = _facts([result])
    login = f"login `{found['session_user']}`"
    who = f"role `{role}`" if role is not None else login
    if is_true(found, "superuser") or is_true(found, "rolsuper"):
        raise BypassError(
            f"{login if is_true(found, 'superuser') else who} is a superuser",
            hint="a role with BYPASSRLS, and with no more than it needs, is enough",
        )
    if not is_true(found, "rolbypassrls"):
        raise BypassError(
            f"{who} has no BYPASSRLS, so the rules bind it", hint="connect with the login of support, or name its role"
        )
    return str(found["session_user"]), str(found["current_database"])


def facts(conn: AnyConnection) -> Generator[Any, Any, Facts]:
    """What the login of the session is, and what it could become, as ``refusals`` takes it. For the ``wait`` of a connection whose lock is held."""
    return _facts((yield from prelude.ask(conn, runtime.script("catalog/login.sql"))))


def _facts(results: Sequence[PGresult]) -> Facts:
    """The one row of a query, which came last, by the names of its columns, as PostgreSQL writes it."""
    result = results[-1]
    named = ((result.fname(column), result.get_value(0, column)) for column in range(result.nfields))
    return {(name or b"").decode(): None if value is None else value.decode() for name, value in named}
