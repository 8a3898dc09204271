"""PgBouncer in transaction mode lends one connection of the server to many clients: none of them is taken for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql

from rlskit import RowDenied, TableRules, allow, as_nobody, as_user, guard
from rlskit.errors import BypassingRoleError
from tests.stress.pgbouncer import bounced
from tests.support import ALICE, BOB, Database, full

Clients = tuple[Connection[Any], Connection[Any]]

SETTINGS = "select " + ", ".join(
    f"coalesce(current_setting('rlskit.{name}', true), '')" for name in ("sub", "username", "claims")
)


@pytest.fixture
def todo(database: Database) -> Database:
    database.execute("create table todo (id serial, content text)")
    database.apply(TableRules("todo", allow.owner()))
    return database


@pytest.fixture
def dsn(todo: Database, tmp_path: Path) -> Iterator[str]:
    """Through PgBouncer, which has one connection to the server for everybody."""
    with bounced(todo, tmp_path, 1) as made:
        yield made


@pytest.fixture
def clients(dsn: str) -> Iterator[Clients]:
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(psycopg.connect(dsn, prepare_threshold=None, autocommit=True)) for _ in range(2)
        )
        yield first, second


def only(conn: Connection[Any], query: str) -> Any:
    ((value,),) = conn.execute(query).fetchall()  # type: ignore[call-overload]
    return value


def owners(conn: Connection[Any]) -> list[Any]:
    return conn.execute("select owner from todo").fetchall()


def test_clients_of_one_connection_of_the_server_see_their_own(clients: Clients, todo: Database) -> None:
    backends = set()
    for conn, who in zip(clients, (ALICE, BOB), strict=True):
        guard(conn)
        with as_user(conn, who):
            conn.execute("insert into todo (content) values ('milk')")
            assert owners(conn) == [(full(who),)]
            backends.add(only(conn, "select pg_backend_pid()"))

    assert len(backends) == 1
    assert sorted(todo.rows("select owner from todo")) == [(full(ALICE),), (full(BOB),)]


@pytest.mark.parametrize("how", ["committed", "rolled back", "failed", "cut"])
def test_the_next_client_of_the_same_connection_is_nobody(how: str, clients: Clients) -> None:
    alice, other = clients
    try:
        with as_user(alice, ALICE) as conn:
            conn.execute("insert into todo (content) values ('milk')")
            if how == "rolled back":
                raise KeyError
            if how == "failed":
                conn.execute("select 1 / 0")
            if how == "cut":
                conn.pgconn.finish()
    except (KeyError, psycopg.errors.DivisionByZero, psycopg.OperationalError):
        assert how != "committed"

    assert only(other, "select rlskit.identity()") is None
    assert other.execute(SETTINGS).fetchall() == [("", "", "")]
    assert owners(other) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.execute("insert into todo (content) values ('nobody')")


def test_what_the_database_refuses_has_its_name(clients: Clients) -> None:
    conn, _ = clients
    with pytest.raises(RowDenied), as_user(conn, ALICE):
        conn.execute("insert into todo (content, owner) values ('milk', %s)", [full(BOB)])


def test_a_login_that_no_rule_binds_is_refused(todo: Database, tmp_path: Path) -> None:
    """PgBouncer logs in for its clients: who they say they are does not count."""
    with todo.connect(autocommit=True) as admin:
        admin.execute(sql.SQL("alter role {} bypassrls").format(sql.Identifier(todo.app)))
    with bounced(todo, tmp_path, 1) as dsn, psycopg.connect(dsn, prepare_threshold=None) as conn:
        with pytest.raises(BypassingRoleError):
            guard(conn)
        with pytest.raises(BypassingRoleError), as_user(conn, ALICE):
            pass


@pytest.fixture
def careless(clients: Clients) -> Connection[Any]:
    """A client that has told the connection of the server, for good, that Bob asks; the other client was guarded before that."""
    conn, other = clients
    with as_user(conn, BOB):
        conn.execute("insert into todo (content) values ('milk')")
    guard(other)
    for name, value in BOB.settings().items():
        conn.execute("select set_config(%s, %s, false)", [name, value])
    assert owners(other) == [(full(BOB),)]  # outside of every block, the session's settings count
    return other


def test_what_a_careless_client_has_set_counts_in_no_block(careless: Connection[Any]) -> None:
    with as_user(careless, ALICE) as conn:
        assert only(conn, "select rlskit.identity()") == full(ALICE)
        assert owners(conn) == []
    with as_nobody(careless) as conn:
        assert only(conn, "select rlskit.identity()") is None
        assert conn.execute(SETTINGS).fetchall() == [("", "", "{}")]
        assert owners(conn) == []


def test_what_a_careless_client_has_set_is_refused_by_guard(careless: Connection[Any], dsn: str) -> None:
    assert owners(careless) == [(full(BOB),)]
    with psycopg.connect(dsn, prepare_threshold=None) as conn, pytest.raises(BypassingRoleError, match="of its own"):
        guard(conn)
