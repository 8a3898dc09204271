"""A copy of a database beside it, for a proof that changes more than rows; dropped at the end, and by the next run where that did not happen."""

from __future__ import annotations

import re
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
_OWNER = "select pg_get_userbyid(datdba)::text from pg_database where datname = %s"
_SETTINGS = """
    select split_part(given, '=', 1), substr(given, strpos(given, '=') + 1)
    from pg_db_role_setting join pg_database as origin on origin.oid = setdatabase, unnest(setconfig) as given
    where datname = %s and setrole = 0
"""
_CREATORS = """
    select role_.rolname::text
    from pg_database, aclexplode(datacl) as held left join pg_roles as role_ on role_.oid = held.grantee
    where datname = %s and held.privilege_type = 'CREATE' and held.grantee <> datdba
"""
# Their values are kept as lists of quoted names; written as one text, they would be one name.
_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
}


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
        try:
            _create(conn, name, origin)
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
    owner = conn.cursor(row_factory=scalar_row).execute(_OWNER, [origin]).fetchone()
    try:
        conn.execute(
            SQL("create database {} template {} owner {}").format(
                Identifier(name), Identifier(origin), Identifier(str(owner))
            )
        )
        carry_over(conn, name, origin)
    except InsufficientPrivilege as error:
        raise PlanError(
            f"`{conn.info.user}` may not copy database `{origin}`: {error.diag.message_primary}",
            hint="connect as a superuser",
        ) from error
    conn.execute(SQL("comment on database {} is {}").format(Identifier(name), Literal(_COMMENT.format(origin))))


def carry_over(conn: Connection[Any], name: str, origin: str) -> None:
    """Give the database ``name`` what CREATE DATABASE does not copy of ``origin``: the settings of its sessions, and who may create in it.

    ``conn`` is in autocommit, and of whoever may alter both. Such a setting can switch triggers off, or row security.
    """
    for setting, value in conn.execute(_SETTINGS, [origin]).fetchall():
        values = [Literal(each) for each in _listed(value)] if setting.lower() in _LISTS else [Literal(value)]
        conn.execute(
            SQL("alter database {} set {} to {}").format(
                Identifier(name), Identifier(*setting.split(".")), SQL(", ").join(values)
            )
        )
    for (grantee,) in conn.execute(_CREATORS, [origin]).fetchall():
        role = SQL("public") if grantee is None else Identifier(grantee)
        conn.execute(SQL("grant create on database {} to {}").format(Identifier(name), role))


def _listed(value: str) -> list[str]:
    """The names in a list, as PostgreSQL keeps it: quoted where they have to be."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^",\s]+)', value)
    return [quoted.replace('""', '"') or plain for quoted, plain in found] or [""]


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
