"""`reassign="explicit"`: rows are given away with rlskit.reassign and not by an UPDATE, and reads pay nothing for it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from rlskit import Identity, TableRules, allow
from tests.support import ALICE, BOB, CAROL, Database, full, perform

TODO = TableRules("todo", allow.owner(), allow.owners_defined_in("editors"), reassign="explicit")


@pytest.fixture
def todo(database: Database) -> Database:
    """One row of alice's, who edits it alone, and one of carol's."""
    database.execute(
        "create table todo (id int, part text, content text, owner text, editors text[], primary key (id, part))"
    )
    database.apply(TODO)
    perform(database, ALICE, "insert into todo (id, part) values (1, 'a')")
    perform(database, CAROL, "insert into todo (id, part) values (2, 'a')")
    return database


def reassign(database: Database, who: Identity, key: str, column: str, owner: Any) -> Any:
    return perform(database, who, "select rlskit.reassign('todo', %s, %s, %s)", parameters=[key, column, owner])


def test_a_plain_update_does_not_give_a_row_away(todo: Database) -> None:
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        perform(todo, ALICE, "update todo set owner = 'bob', editors = '{bob}' where id = 1")
    assert perform(todo, ALICE, "update todo set editors = '{bob}' where id = 1") == 1  # she still owns it


def test_reassign_gives_it_away(todo: Database) -> None:
    assert perform(todo, ALICE, "update todo set editors = null where id = 1") == 1
    assert reassign(todo, ALICE, '{"id": 1}', "owner", full(BOB)) == [(1,)]

    assert perform(todo, ALICE, "select * from todo") == []
    assert perform(todo, BOB, "select id, owner from todo") == [(1, full(BOB))]


def test_a_list_is_left_in_the_same_way(todo: Database) -> None:
    assert perform(todo, ALICE, "update todo set owner = null where id = 1") == 1
    assert reassign(todo, ALICE, '{"id": 1, "part": "a"}', "editors", ["bob", 'it\'s "x", {y}\\']) == [(1,)]

    assert perform(todo, ALICE, "select * from todo") == []
    assert perform(todo, BOB, "select editors from todo") == [(["bob", 'it\'s "x", {y}\\'],)]


@pytest.mark.parametrize("key", ['{"id": 2}', '{"id": 3}', '{"id": null}', '{"id": 1, "part": "b"}'])
def test_what_is_not_the_callers_is_not_found(key: str, todo: Database) -> None:
    before = todo.rows("select * from todo order by id")

    assert reassign(todo, ALICE, key, "owner", full(BOB)) == [(0,)]
    assert todo.rows("select * from todo order by id") == before


def test_several_rows_by_a_part_of_the_key(todo: Database) -> None:
    perform(todo, ALICE, "insert into todo (id, part, editors) values (1, 'b', null), (1, 'c', null)")

    assert reassign(todo, ALICE, '{"id": 1}', "owner", full(BOB)) == [(3,)]
    assert perform(todo, BOB, "select part from todo order by part") == [("a",), ("b",), ("c",)]


def test_a_row_is_not_left_to_nobody(todo: Database) -> None:
    perform(todo, ALICE, "update todo set editors = null where id = 1")
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        reassign(todo, ALICE, '{"id": 1}', "owner", None)


def test_a_key_is_needed(todo: Database) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="the key names no column"):
        reassign(todo, ALICE, "{}", "owner", full(BOB))


def test_nothing_but_the_callers_rights_is_used(todo: Database) -> None:
    """A column that may not be updated, a table of somebody else's, names with quotes in them: as in any UPDATE."""
    with pytest.raises(InsufficientPrivilege, match="permission denied for table version"):
        perform(
            todo, ALICE, "select rlskit.reassign('rlskit.version', '{\"version_num\": \"0001\"}', 'version_num', 'x')"
        )
    with pytest.raises(psycopg.errors.UndefinedColumn):
        reassign(todo, ALICE, '{"id": 1}', 'owner" = null, "content', "x")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        reassign(todo, ALICE, '{"id = 1 or \\"id\\"": "1"}', "owner", "x")
    todo.apply(TableRules("todo", allow.owner(), columns={"owner": allow.owner().to("read")}, reassign="explicit"))
    with pytest.raises(InsufficientPrivilege, match="permission denied for table todo"):
        reassign(todo, ALICE, '{"id": 1}', "owner", full(BOB))


def test_it_works_on_partitions_and_after_a_wait(database: Database) -> None:
    database.execute(
        "create table todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of todo for values in (1)",
    )
    database.apply(TableRules("todo", allow.owner(), reassign="explicit"))
    perform(database, ALICE, "insert into todo (id) values (1)")

    assert reassign(database, ALICE, '{"id": 1}', "owner", full(BOB)) == [(1,)]
    assert perform(database, BOB, "select id from todo") == [(1,)]


def test_reads_carry_no_second_arm_and_the_plan_says_how_rows_are_given_away(todo: Database) -> None:
    assert "ctid" not in str(todo.rows("select qual from pg_policies where tablename = 'todo'"))
    assert todo.rows("select count(*) from pg_trigger where tgrelid = 'todo'::regclass") == [(0,)]
    notes = [each.text for each in todo.plan(TODO).wanted.advice]
    assert notes[0] == "who may update a row may give it away by writing `owner`, `editors` with rlskit.reassign(…)"


def test_changing_between_the_three_ways_needs_no_more_than_an_apply(todo: Database) -> None:
    for way in ("plain", "never", "explicit", "plain"):
        rules = TableRules("todo", allow.owner(), allow.owners_defined_in("editors"), reassign=way)  # type: ignore[arg-type]
        todo.apply(rules)
        assert todo.plan(rules).conforms

    assert perform(todo, ALICE, "update todo set owner = 'bob', editors = '{bob}' where id = 1") == 1
