"""A copy of a database beside it, for a proof that changes more than rows; dropped at the end, and by the next run where that did not happen."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import scalar_row
from psycopg.sql import SQL, Identifier, Literal

from rlskit.connections import check_idle
from rlskit.errors import PlanError
from rlskit.prover.stage import MADE

_COMMENT = "rlskit test: a copy of {}, for a proof"
# While a copy is in use its name is locked in the database that it was made of.
_LOCK = "select pg_try_advisory_lock(hashtext('rlskit'), hashtext(%s))"


@contextmanager
def copied(conn: Connection[Any], say: Callable[[str], None] = lambda line: None) -> Iterator[str]:
    """Copy the database of ``conn`` beside it, give the copy's name, and drop it at the end.

    ``conn`` is an idle connection, the only one to its database, of a superuser or of whoever owns it and may create databases. It is put into
    autocommit meanwhile. Copies that a killed run left are dropped first, and ``say`` hears of each. Raises PlanError where others are connected,
    or where the login may not.
    """
    check_idle(conn)
    before, conn.autocommit = conn.autocommit, True
    cursor = conn.cursor(row_factory=scalar_row)
    try:
        origin = str(cursor.execute("select current_database()").fetchone())
        for left in _leftovers(conn, origin):
            say(f"dropping `{left}`, which an earlier run left")
            _drop(conn, left)
        name = f"{MADE}{secrets.token_hex(6)}"
        cursor.execute(_LOCK, [name])
        _create(conn, name, origin)
        try:
            yield name
        finally:
            _drop(conn, name)
            cursor.execute("select pg_advisory_unlock(hashtext('rlskit'), hashtext(%s))", [name])
    finally:
        if not conn.closed:
            conn.autocommit = before


def _leftovers(conn: Connection[Any], origin: str) -> Iterator[str]:
    """The copies of this database that nobody is at work in."""
    cursor = conn.cursor(row_factory=scalar_row)
    query = "select datname::text from pg_database where starts_with(datname, %s) and shobj_description(oid, 'pg_database') = %s"
    for name in cursor.execute(query, [MADE, _COMMENT.format(origin)]).fetchall():
        if cursor.execute(_LOCK, [name]).fetchone():
            yield name
            cursor.execute("select pg_advisory_unlock(hashtext('rlskit'), hashtext(%s))", [name])


def _create(conn: Connection[Any], name: str, origin: str) -> None:
    if others := _others(conn, origin):
        raise PlanError(
            f"database `{origin}` cannot be copied while others are connected to it: {others} now",
            hint="PostgreSQL copies a database only when nobody else is in it: stop the application and its pools, or name a database for tests",
        )
    try:
        conn.execute(SQL("create database {} template {}").format(Identifier(name), Identifier(origin)))
    except InsufficientPrivilege as error:
        raise PlanError(
            f"`{conn.info.user}` may not copy database `{origin}`: {error.diag.message_primary}",
            hint="connect as a superuser",
        ) from error
    conn.execute(SQL("comment on database {} is {}").format(Identifier(name), Literal(_COMMENT.format(origin))))


def _others(conn: Connection[Any], origin: str) -> int:
    """How many others are connected, in a moment: a server process ends a little after its client. PostgreSQL itself would wait for longer."""
    query = "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend' and pid <> pg_backend_pid()"
    for _ in range(10):
        others = int(conn.cursor(row_factory=scalar_row).execute(query, [origin]).fetchone() or 0)
        if not others:
            break
        sleep(0.1)
    return others


def _drop(conn: Connection[Any], name: str) -> None:
    conn.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))
