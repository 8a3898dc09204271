"""Whom no rule names: the owner of the table, guests, half an identity, other roles; and what no rule gives."""

from __future__ import annotations

import pytest
from psycopg import sql
from psycopg.errors import CheckViolation, InsufficientPrivilege

from rlskit import Open, TableRules, allow, as_nobody, as_user
from tests.support import ALICE, BOB, Database, full


@pytest.fixture
def todo(database: Database) -> Database:
    """A schema that PUBLIC may not use, a serial key, an owner and editors."""
    database.execute(
        "create schema shop", "create table shop.todo (id serial, content text, owner text, editors text[])"
    )
    database.apply(TableRules("shop.todo", allow.owner(), allow.owners_defined_in("editors").to("create", "read")))
    with database.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute("insert into shop.todo (content) values ('hers')")
    return database


def test_the_owner_of_the_table_is_bound_as_well(todo: Database) -> None:
    """Or else a function or a view of the owner's would show everything."""
    with todo.connect_as_owner() as conn:
        assert conn.execute("select count(*) from shop.todo").fetchone() == (0,)
        assert conn.execute("update shop.todo set content = 'x'").rowcount == 0
        with pytest.raises(InsufficientPrivilege):
            conn.execute("insert into shop.todo (owner) values ('alice')")


@pytest.mark.parametrize(
    "settings", [{}, {"rlskit.sub": ALICE.sub}, {"rlskit.username": "alice"}, {"rlskit.claims": "{}"}]
)
def test_nobody_and_half_an_identity_see_no_rows_and_get_no_error(settings: dict[str, str], todo: Database) -> None:
    with todo.connect_as_app() as conn, as_nobody(conn):
        for name, value in settings.items():
            conn.execute("select set_config(%s, %s, true)", [name, value])
        assert conn.execute("select * from shop.todo").fetchall() == []
        assert conn.execute("update shop.todo set content = 'x'").rowcount == 0
        assert conn.execute("delete from shop.todo").rowcount == 0
        with pytest.raises(InsufficientPrivilege, match="row-level security"), conn.transaction():
            conn.execute("insert into shop.todo (content) values ('x')")


@pytest.mark.parametrize("verb", ["truncate shop.todo", "alter table shop.todo disable trigger all", "create trigger t before insert on shop.todo for each row execute function rlskit.refuse_columns()"])  # fmt: skip
def test_what_row_security_does_not_govern_is_not_granted(verb: str, todo: Database) -> None:
    with todo.connect_as_app() as conn, pytest.raises(InsufficientPrivilege), as_user(conn, ALICE):
        conn.execute(sql.SQL(verb))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value"),
    [("owner", "''"), ("editors", "array['']"), ("editors", "array[null, 'bob']"), ("editors", "'{{bob},{carol}}'")],
)
def test_no_owner_column_holds_what_is_no_name(column: str, value: str, todo: Database) -> None:
    other = {"owner": "editors", "editors": "owner"}[column]
    mine = f"'{{{full(ALICE)}}}'" if other == "editors" else f"'{full(ALICE)}'"
    with todo.connect_as_app() as conn, pytest.raises(CheckViolation), as_user(conn, ALICE):
        conn.execute(sql.SQL(f"insert into shop.todo ({other}, {column}) values ({mine}, {value})"))  # type: ignore[arg-type]


def test_an_editor_who_may_only_read_neither_changes_nor_deletes(todo: Database) -> None:
    with todo.connect_as_app() as conn:
        with as_user(conn, ALICE):
            conn.execute("update shop.todo set editors = '{bob}'")
        with as_user(conn, BOB):
            assert conn.execute("select content from shop.todo").fetchall() == [("hers",)]
            assert conn.execute("update shop.todo set content = 'his'").rowcount == 0
            assert conn.execute("delete from shop.todo").rowcount == 0


@pytest.mark.parametrize("operation", ["create", "read", "update", "delete"])
def test_what_no_rule_has_nobody_may(operation: str, database: Database) -> None:
    given = {"create": ["read", "update", "delete"], "read": ["create"], "update": ["create", "read", "delete"], "delete": ["create", "read", "update"]}  # fmt: skip
    statement = {"create": "insert into todo default values", "read": "select count(*) from todo", "update": "update todo set content = 'x'", "delete": "delete from todo"}  # fmt: skip
    database.execute("create table todo (id serial, content text)")
    database.apply(TableRules("todo", allow.owner().to(*given[operation])))
    refused = pytest.raises(InsufficientPrivilege, match="permission denied for table todo")
    with database.connect_as_app() as conn, refused, as_user(conn, ALICE):
        conn.execute(sql.SQL(statement[operation]))  # type: ignore[arg-type]


def test_an_open_table_gives_its_operations_to_everybody_and_no_other(database: Database) -> None:
    database.execute("create table country (code text)", "insert into country values ('CH')")
    database.apply(TableRules("country", Open(reason="reference data", to=("read", "create"))))
    with database.connect_as_app() as conn, as_nobody(conn):
        assert conn.execute("select code from country").fetchall() == [("CH",)]
        assert conn.execute("insert into country values ('FR')").rowcount == 1
        with pytest.raises(InsufficientPrivilege, match="permission denied"), conn.transaction():
            conn.execute("delete from country")
