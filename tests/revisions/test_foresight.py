"""What a migration will have made of the database when its rules come: new tables, their privileges, types, indexes and schemas."""

from __future__ import annotations

import re
from typing import Any

import pytest
from alembic.util import CommandError
from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Column,
    Computed,
    Enum,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    text,
)

import rlskit
from rlskit import TableRules, allow
from tests.revisions.conftest import Project, snapshot
from tests.support import ALICE, perform


def todo(metadata: MetaData, *columns: Column[Any]) -> Table:
    return Table("todo", metadata, Column("id", Integer, primary_key=True), Column("content", Text), *columns)


def is_settled(project: Project) -> bool:
    """Whether the rules are in force, and another revision would have nothing to say."""
    revision = project.autogenerate()
    return project.compare().conforms and re.findall(r"op\.\w+\(", revision) == []


def test_what_default_privileges_give_with_a_new_table_is_taken_back(project: Project) -> None:
    """TRUNCATE among it, which asks no policy; and again where a downgrade makes the table anew."""
    app = project.database.app
    project.database.execute(
        f"alter default privileges grant all on tables to {app}",
        f"alter default privileges grant all on sequences to {app}",
    )
    table = todo(project.metadata, Column("secret", Text))
    rules = project.rule(TableRules("todo", allow.owner(), columns={"secret": []}))

    project.autogenerate()
    project.upgrade()

    perform(project.database, ALICE, "insert into todo (content) values ('milk')")
    for statement in ("select secret from todo", "truncate todo", "select setval('todo_id_seq', 1)"):
        with pytest.raises(rlskit.TableDenied):
            perform(project.database, ALICE, statement)
    assert is_settled(project)
    project.upgrade()
    with project.database.connect() as conn:
        before = snapshot(conn, rules)
    project.metadata.remove(table)
    project.rules = project.database.rules()
    project.autogenerate()
    project.upgrade()
    project.downgrade()
    with project.database.connect() as conn:
        assert snapshot(conn, rules) == before


def test_types_and_defaults_of_new_columns_are_found_where_the_migration_finds_them(project: Project) -> None:
    project.database.execute(
        "create function make_id() returns uuid language sql as 'select gen_random_uuid()'",
        "create sequence numbers",
    )
    numbers = Sequence("numbers")
    todo(
        project.metadata,
        Column("token", Uuid, server_default=text("make_id()")),
        Column("number", Integer, server_default=numbers.next_value()),
        Column("moods", ARRAY(Enum("glad", "sad", name="mood"))),  # which the migration makes
    )
    project.rule(TableRules("todo", allow.owner()))

    project.autogenerate()
    project.upgrade()

    assert is_settled(project)


def test_a_new_column_rests_on_those_that_are_there(project: Project) -> None:
    todo(project.metadata)
    project.rule(TableRules("todo", allow.owner()))
    project.autogenerate()
    project.upgrade()
    table = project.metadata.tables["todo"]
    table.append_column(Column("twice", Integer, Computed("id * 2", persisted=True)))
    table.append_column(Column("more", Integer, CheckConstraint("more > id")))

    project.autogenerate()
    project.upgrade()

    assert is_settled(project)


def test_what_a_new_column_needs_and_nobody_has(project: Project) -> None:
    todo(project.metadata, Column("number", Integer, server_default=Sequence("numbers").next_value()))
    project.rule(TableRules("todo", allow.owner()))

    with pytest.raises(CommandError, match='relation "numbers" does not exist, which a new column needs'):
        project.autogenerate()


def test_tables_without_rules_are_not_tried(project: Project) -> None:
    todo(project.metadata, Column("number", Integer, server_default=Sequence("numbers").next_value()))
    project.rule()

    assert "op.create_table('todo'" in project.autogenerate()


def test_an_index_of_the_models_own_serves_as_well(project: Project) -> None:
    table = todo(project.metadata, Column("owner", Text, index=True))
    Table("note", project.metadata, Column("owner", Text, unique=True))
    Table("mark", project.metadata, Column("owner", Text, primary_key=True))
    project.rule(*(TableRules(name, allow.owner()) for name in ("todo", "note", "mark")))

    assert "create_owner_index" not in project.autogenerate()
    project.upgrade()
    assert is_settled(project)
    project.upgrade()

    table.indexes.clear()
    assert "op.create_owner_index('todo__owner_rlskit'" in project.autogenerate()
    project.upgrade()
    assert is_settled(project)


def test_the_index_of_a_partition_goes_with_that_of_its_table(project: Project) -> None:
    Table("todo", project.metadata, Column("id", Integer, primary_key=True), postgresql_partition_by="range (id)")
    project.rule(TableRules("todo", allow.owner()))
    project.options = {"include_object": lambda object_, name, type_, *_: type_ != "table" or name != "todo_1"}
    project.autogenerate()
    project.upgrade()
    project.database.execute("create table todo_1 partition of todo for values from (0) to (9)")
    project.autogenerate()
    project.upgrade()
    project.options = {}
    Table("todo_1", project.metadata, Column("id", Integer, primary_key=True), Column("owner", Text))

    assert is_settled(project)


def test_a_trigger_that_was_switched_off_is_so_again_after_the_downgrade(project: Project) -> None:
    todo(project.metadata)
    rules = project.rule(TableRules("todo", allow.owner()))
    project.autogenerate()
    project.upgrade()
    project.database.execute("alter table todo disable trigger zz_rlskit_reassign")
    with project.database.connect() as conn:
        before = snapshot(conn, rules)

    project.autogenerate()
    project.upgrade()

    assert project.compare().conforms
    project.downgrade()
    with project.database.connect() as conn:
        assert snapshot(conn, rules) == before


# --- schemas ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(project: Project) -> Project:
    """A project whose owner works in the schema `app`, and finds `public` behind it."""
    database = project.database
    database.execute("create schema app")
    with database.connect(autocommit=True) as conn:
        conn.execute(f"alter role {database.owner} in database {database.name} set search_path = app, public")
    return project


def test_a_table_is_where_the_search_path_finds_it(elsewhere: Project) -> None:
    elsewhere.database.execute("create table public.todo (id serial primary key, content text)")
    todo(elsewhere.metadata)
    elsewhere.rule(TableRules("todo", allow.owner()))

    elsewhere.autogenerate()
    elsewhere.upgrade()

    assert is_settled(elsewhere)


def test_an_owner_column_is_added_to_the_table_of_the_rules(elsewhere: Project) -> None:
    """And not to that of the same name, which comes first on the search_path."""
    elsewhere.database.execute("create table app.todo (id int)", "create table public.todo (id int)")
    elsewhere.options = {
        "include_object": lambda object_, name, type_, reflected, other: type_ != "table" or not reflected
    }
    elsewhere.rule(TableRules("todo", allow.owner()))

    elsewhere.autogenerate()
    elsewhere.upgrade()

    assert elsewhere.compare().conforms


def test_rules_for_another_table_than_the_models_mean_are_refused(elsewhere: Project) -> None:
    """Or else the one would be open, and the database called clean."""
    elsewhere.database.execute(
        "create table app.todo (id serial primary key, content text)", "create table public.todo (id int)"
    )
    todo(elsewhere.metadata)
    elsewhere.rule(TableRules("todo", allow.owner()))

    with pytest.raises(
        CommandError, match=r'is `app\.todo` by the search_path .* `public\.todo`\nhint: say schema="app"'
    ):
        elsewhere.autogenerate()

    elsewhere.rule(TableRules("todo", allow.owner()), schema="app")
    elsewhere.autogenerate()
    elsewhere.upgrade()
    assert is_settled(elsewhere)
