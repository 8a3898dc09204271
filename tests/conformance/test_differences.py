"""The intended differences from Amplify that the recorded decisions cannot show: D3 to D9, each pinned."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from rlskit import Identity, Rules, TableRules, allow, as_user, compile
from rlskit.errors import InvalidIdentityError, RuleError, UnsupportedRuleError
from tests.support import ALICE, BOB, Database, full, perform


@pytest.fixture
def todo(database: Database) -> Database:
    database.execute("create table todo (id serial primary key, content text, owner text)")
    database.apply(TableRules("todo", allow.owner()))
    with database.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute("insert into todo (content) values ('hers')")
    return database


@pytest.mark.parametrize(
    "statement", ["update todo set content = 'his'", "delete from todo", "update todo set owner = 'bob'"]
)
def test_d3_a_mismatch_touches_no_row_and_raises_nothing(statement: str, todo: Database) -> None:
    assert perform(todo, BOB, statement) == 0

    assert todo.rows("select content, owner from todo") == [("hers", full(ALICE))]


def test_d4_anothers_row_is_no_row(todo: Database) -> None:
    assert (
        perform(todo, BOB, "select * from todo where id = 1")
        == perform(todo, BOB, "select * from todo where id = 2")
        == []
    )


def test_d5_a_read_shows_the_stored_value(todo: Database) -> None:
    assert perform(todo, ALICE, "select owner from todo") == [(full(ALICE),)]
    assert perform(todo, ALICE, "select rlskit.username_of(owner) from todo") == [("alice",)]


@pytest.mark.parametrize(
    ("owner", "username"), [("a::alice", "alice"), ("alice", "alice"), ("a::b::c", "b::c"), ("", ""), (None, None)]
)
def test_d5_the_username_is_what_stands_after_the_first_two_colons(
    owner: str | None, username: str | None, database: Database
) -> None:
    database.apply()

    assert database.rows("select rlskit.username_of(%s)", [owner]) == [(username,)]


def test_d6_a_username_that_spells_anothers_name_is_refused_in_python_and_in_sql(todo: Database) -> None:
    with pytest.raises(InvalidIdentityError):
        Identity(sub="evil", username=full(ALICE))
    with todo.connect_as_app() as conn:
        conn.execute(
            "select set_config('rlskit.sub', 'evil', true), set_config('rlskit.username', %s, true)", [full(ALICE)]
        )
        assert conn.execute("select * from todo").fetchall() == []


@pytest.mark.parametrize("rule", [allow.owner().identity_claim("sub"), allow.owner().match("full")])
def test_d6_a_claim_or_the_full_spelling_closes_the_rest(rule: Any, database: Database) -> None:
    """A username that is another's sub, where subs are no UUIDs: told apart by what the rule compares."""
    database.execute("create table todo (id serial, owner text)")
    database.apply(TableRules("todo", rule))
    perform(database, ALICE, "insert into todo default values")

    assert perform(database, Identity(sub="evil", username=ALICE.sub), "select * from todo") == []
    assert len(perform(database, ALICE, "select * from todo")) == 1


def test_d7_update_or_delete_without_read_is_refused() -> None:
    with pytest.raises(RuleError, match="has update and delete without read"):
        TableRules("todo", allow.owner().to("create", "update", "delete"))


@pytest.mark.parametrize("operation", ["get", "list", "sync", "listen", "search"])
def test_d8_a_part_of_read_is_refused(operation: Any) -> None:
    with pytest.raises(RuleError, match="alone cannot be told apart by PostgreSQL"):
        allow.owner().to(operation)


def test_d9_a_value_that_is_the_default_counts_as_not_named(database: Database) -> None:
    """Amplify refuses whatever the value is; a trigger sees the value, and not that the column was named."""
    database.execute("create table todo (id serial, owner text, editors text[], price int default 5)")
    editors = allow.owners_defined_in("editors")
    only_the_owner = [allow.owner(), editors.to("read")]
    database.apply(TableRules("todo", allow.owner(), editors, columns={"price": only_the_owner}))
    for_alice = f"insert into todo (owner, editors, price) values ('{full(ALICE)}', '{{bob}}', %s)"

    assert perform(database, BOB, for_alice % 5) == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied to set column price"):
        perform(database, BOB, for_alice % 6)


def test_who_reads_a_column_may_not_depend_on_the_row() -> None:
    editor = allow.owner_defined_in("editor").to("read", "update")
    rules = TableRules("todo", allow.owner(), editor, columns={"title": allow.owner()})
    with pytest.raises(UnsupportedRuleError, match="who may read column `title` would depend on the row"):
        compile(Rules(rules, role="app"))


def test_what_a_column_closes_for_everybody_cannot_be_named_at_all(database: Database) -> None:
    database.execute("create table todo (id serial, content text, owner text)")
    database.apply(TableRules("todo", allow.owner(), columns={"owner": allow.owner().to("read", "delete")}))
    for value in ("default", "null", f"'{full(ALICE)}'"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table todo"):
            perform(database, ALICE, f"insert into todo (owner) values ({value})")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table todo"):
            perform(database, ALICE, f"update todo set owner = {value}")
