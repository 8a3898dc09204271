"""Columns whose writers depend on the row: an editor may change the content but not the title; only the owner sets the price."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, UndefinedColumn

import rlskit
from rlskit import Identity, TableRules, allow, as_user
from tests.support import ALICE, BOB, CAROL, Database, Server, copy_of, fresh_database, full, perform

EDITORS = allow.owners_defined_in("editors")
ITEM = TableRules(
    "item",
    allow.owner(),
    EDITORS.to("create", "read", "update"),
    columns={"title": [allow.owner(), EDITORS.to("read")], "price": [allow.owner(), EDITORS.to("read")]},
)
TABLE = "create table item (id int primary key, title text, content text, price numeric(10, 2) default 5)"


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "columns") as database:
        yield prepared(database)


@pytest.fixture
def item(original: Database) -> Iterator[Database]:
    """One item: alice owns it, bob may edit it."""
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    database.execute(TABLE)
    database.apply(ITEM)
    perform(
        database, ALICE, "insert into item (id, title, content, price, editors) values (1, 'hers', 'x', 7, '{bob}')"
    )
    return database


def refused(database: Database, who: Identity, statement: str) -> psycopg.errors.Diagnostic:
    before = database.rows("select * from item")
    with pytest.raises(InsufficientPrivilege) as caught:
        perform(database, who, statement)
    assert database.rows("select * from item") == before
    return caught.value.diag


# --- update ----------------------------------------------------------------------------------------------------------


def test_an_editor_changes_the_content_but_not_the_title(item: Database) -> None:
    assert perform(item, BOB, "update item set content = 'his' returning title, content") == [("hers", "his")]

    diag = refused(item, BOB, "update item set title = 'his'")
    assert diag.message_primary == "permission denied to update column title of this row in table item"
    assert diag.message_hint == "No rule that names the caller in the row allows it."
    assert (diag.schema_name, diag.table_name, diag.column_name) == ("public", "item", "title")


def test_the_owner_changes_both(item: Database) -> None:
    assert perform(item, ALICE, "update item set content = 'new', title = 'new', price = 9 returning price") == [(9,)]


@pytest.mark.parametrize(
    "sets", ["title = title", "title = default", "title = null", "content = 'his', title = title", "price = price"]
)
def test_it_counts_that_a_column_is_set_and_not_to_what(sets: str, item: Database) -> None:
    refused(item, BOB, f"update item set {sets}")


def test_a_stranger_is_told_nothing(item: Database) -> None:
    assert perform(item, CAROL, "update item set title = 'hers'") == 0


def test_one_row_that_may_not_be_changed_stops_the_statement(item: Database) -> None:
    perform(item, BOB, "insert into item (id, content) values (2, 'his own')")

    assert perform(item, BOB, "update item set title = 'b' where id = 2") == 1
    refused(item, BOB, "update item set title = 'b'")


def test_an_upsert_is_held_to_the_same(item: Database) -> None:
    upsert = "insert into item (id, editors) values (1, '{bob}') on conflict (id) do update set "

    refused(item, BOB, upsert + "title = 'his'")
    assert perform(item, BOB, upsert + "content = 'his'") == 1


def test_a_merge_is_held_to_the_same(item: Database) -> None:
    merge = "merge into item using (values (1)) as given (id) on item.id = given.id when matched then update set "

    refused(item, BOB, merge + "title = 'his'")
    assert perform(item, BOB, merge + "content = 'his'") == 1


def test_who_is_owner_at_the_time_decides(item: Database) -> None:
    assert perform(item, ALICE, "update item set owner = 'bob'") == 1

    assert perform(item, BOB, "update item set title = 'now his'") == 1


def test_a_column_for_editors_and_no_other(database: Database) -> None:
    database.execute(
        "create table item (id int primary key, title text, content text, twice int generated always as (id * 2) stored)"
    )
    rules = TableRules(
        "item", allow.owner(), EDITORS.to("read"), columns={"content": [allow.owner(), EDITORS.to("read", "update")]}
    )
    database.apply(rules)
    perform(database, ALICE, "insert into item (id, editors) values (1, '{bob}')")

    assert perform(database, BOB, "update item set content = 'his'") == 1
    for column in ("title", "owner", "editors", "id"):
        refused(database, BOB, f"update item set {column} = {column}")
    assert perform(database, ALICE, "update item set title = 'hers', id = 3 returning twice") == [(6,)]
    database.execute("alter table item add column later text")
    refused(database, ALICE, "update item set later = 'x'")
    database.apply(rules)
    refused(database, BOB, "update item set later = 'x'")
    assert perform(database, ALICE, "update item set later = 'x'") == 1


def test_two_people_may_write_a_column_and_a_third_may_not(database: Database) -> None:
    author = allow.owner_defined_in("author")
    both = [allow.owner(), author, EDITORS.to("read")]
    database.execute("create table item (id int primary key, title text)")
    database.apply(TableRules("item", allow.owner(), author, EDITORS, columns={"title": both}))
    named = "insert into item (id, owner, author, editors, title) values ({}, '{}', '{}', '{{carol}}', 't')"

    perform(database, ALICE, named.format(1, "alice", "bob"))
    perform(database, BOB, named.format(2, "alice", "bob"))
    with pytest.raises(InsufficientPrivilege):
        perform(database, CAROL, named.format(3, "alice", "bob"))
    for who, changed in ((ALICE, 2), (BOB, 2)):
        assert perform(database, who, "update item set title = 'new'") == changed
    refused(database, CAROL, "update item set title = 'new'")


# --- create ----------------------------------------------------------------------------------------------------------


def test_only_the_owner_sets_the_price_of_a_new_row(item: Database) -> None:
    theirs = "insert into item (id, owner, editors, price) values (2, 'alice', '{bob}', 6)"

    diag = refused(item, BOB, theirs)
    assert "of a new row in table item" in (diag.message_primary or "")
    assert perform(item, BOB, "insert into item (id, price) values (2, 6)") == 1  # his own


def test_a_value_that_is_the_default_counts_as_not_named(item: Database) -> None:
    """D9: a trigger sees values, not which columns were named."""
    perform(item, BOB, "insert into item (id, owner, editors, price, title) values (2, default, '{bob}', 5.00, null)")
    database_rules = TableRules(
        "item",
        allow.owner(),
        EDITORS.to("create", "read", "update"),
        columns={"price": [allow.owner(), EDITORS.to("read")]},
    )
    item.apply(database_rules)

    statement = "insert into item (id, owner, editors, price, title) values ({}, 'alice', '{{bob}}', {}, 't')"
    assert perform(item, BOB, statement.format(3, "5")) == 1
    assert perform(item, BOB, statement.format(4, "default")) == 1
    refused(item, BOB, statement.format(5, "5.01"))
    refused(item, BOB, statement.format(5, "null"))


@pytest.mark.parametrize(
    ("type", "default", "same", "other"),
    [
        ("json", '{"a": 1}', '{"a": 1}', '{"a": 2, "a": 1}'),
        ("float8", "0", "0", "-0"),
        ("jsonb", '{"a": 1}', '{"a":1}', '{"a": 2}'),
        ("point", "(1,2)", "(1, 2)", "(2,1)"),
        ("text[]", "{a,b}", '{"a",b}', "{b,a}"),
        ("timestamptz", None, None, "2020-01-01"),
        ("bytea", "\\x00ff", "\\x00FF", "\\x00"),
        ("float8", "NaN", "nan", "0"),
        ("text", 'it\'s \\ "x" %I', 'it\'s \\ "x" %I', ""),
    ],
)
def test_any_type_may_have_a_default(
    type: str, default: str | None, same: str | None, other: str, database: Database
) -> None:
    column = sql.Identifier('odd "%s" name')
    with database.connect_as_owner() as conn:
        conn.execute(
            sql.SQL("create table item (id int primary key, {} {} default {})").format(
                column, sql.SQL(type), sql.Literal(default)
            )
        )
    database.apply(
        TableRules(
            "item",
            allow.owner(),
            EDITORS.to("create", "read"),
            columns={'odd "%s" name': [allow.owner(), EDITORS.to("read")]},
        )
    )

    def create(number: int, value: str | None) -> int:
        statement = sql.SQL("insert into item (id, owner, editors, {}) values ({}, 'alice', '{{bob}}', {})").format(
            column, sql.Literal(number), sql.Literal(value)
        )
        with database.connect_as_app() as conn, as_user(conn, BOB):
            return conn.execute(statement).rowcount

    assert create(1, same) == 1
    with pytest.raises(InsufficientPrivilege):
        create(2, other)


def test_whoever_may_create_may_say_the_key(database: Database) -> None:
    database.execute("create table item (id uuid primary key default gen_random_uuid(), title text, note text)")
    database.apply(
        TableRules(
            "item",
            allow.owner(),
            EDITORS.to("read"),
            columns={"note": [allow.owner(), EDITORS.to("create", "read")]},
        )
    )
    statement = "insert into item (id, owner, note) values (gen_random_uuid(), {}, 'n')"

    assert perform(database, BOB, statement.format("default")) == 1
    refused(database, BOB, statement.format("'alice'"))
    perform(database, BOB, "insert into item (note) values ('n')")


def test_what_a_trigger_of_the_table_fills_in_is_not_the_callers_doing(item: Database) -> None:
    item.execute(
        "create function fill() returns trigger language plpgsql as $$ begin new.price := 99; return new; end $$",
        "create trigger a_first before insert on item for each row execute function fill()",
    )

    assert perform(item, BOB, "insert into item (id, editors, owner) values (2, '{bob}', default)") == 1


def test_a_guarded_column_that_was_renamed_is_closed_until_the_rules_follow(item: Database) -> None:
    item.execute("alter table item rename column price to cost")

    with pytest.raises(UndefinedColumn, match="which its rules guard, has another name now"):
        perform(item, BOB, "insert into item (id, owner, editors, cost) values (2, 'alice', '{bob}', 1)")
    with pytest.raises(InsufficientPrivilege):
        perform(item, BOB, "update item set cost = 1 where id = 1")


@pytest.mark.parametrize(
    ("column", "setting", "value"),
    [
        ("float8 default 5.4321", "extra_float_digits = -15", "5"),
        ("float8 default 1000", "extra_float_digits = -15", "1499"),
        (
            "timestamptz default '2020-01-01 00:00+00'",
            "datestyle = 'SQL'; set local timezone = 'EST0'",
            "'2020-01-01 05:00+00'",
        ),
        ("text[] default '{NULL}'", "array_nulls = off", "array['NULL']"),
        ("text[] default '{a}'", "array_nulls = on", "'[7:7]={a}'::text[]"),
        ("priced", "array_nulls = on", "null"),
    ],
)
def test_no_setting_and_no_type_makes_another_value_pass_for_the_default(
    column: str, setting: str, value: str, database: Database
) -> None:
    database.execute("create domain priced as int default 5", f"create table item (id int primary key, price {column})")
    only_the_owner = [allow.owner(), EDITORS.to("read")]
    database.apply(TableRules("item", allow.owner(), EDITORS.to("create", "read"), columns={"price": only_the_owner}))
    for_alice = "insert into item (id, owner, editors{}) values ({}, 'alice', '{{bob}}'{})"

    assert perform(database, BOB, for_alice.format("", 1, "")) == 1
    with database.connect_as_app() as conn, pytest.raises(InsufficientPrivilege), as_user(conn, BOB):
        conn.execute(sql.SQL(f"set local {setting}"))  # type: ignore[arg-type]
        conn.execute(sql.SQL(for_alice.format(", price", 2, f", {value}")))  # type: ignore[arg-type]


# --- whom it binds ---------------------------------------------------------------------------------------------------


def test_who_is_not_bound_by_row_security_is_not_bound_by_this(item: Database) -> None:
    with item.connect() as conn:
        conn.execute("update item set title = 'fixed', price = 1")
        conn.execute("insert into item (id, price) values (2, 3)")


@pytest.mark.parametrize("spelled", ["match", "claim", "varchar", "varchar[]", "uuid"])
def test_every_way_to_name_a_person_works_in_a_trigger(spelled: str, database: Database) -> None:
    alice = Identity(sub="0b2d8a3e-1f5c-4e0a-9f7b-6c1d2e3f4a5b", username="alice", claims={"email": "a@example.com"})
    owner = {
        "match": allow.owner().match("full"),
        "claim": allow.owner().identity_claim("email"),
        "uuid": allow.owner().identity_claim("sub"),
    }.get(spelled, allow.owner())
    types = {"varchar": "owner varchar(300)", "varchar[]": "editors varchar(300)[]", "uuid": "owner uuid"}
    database.execute(
        f"create table item (id int primary key, title text, content text, {types.get(spelled, 'more int')})"
    )
    database.apply(
        TableRules("item", owner, EDITORS.to("read", "update"), columns={"title": [owner, EDITORS.to("read")]}),
    )
    perform(database, alice, "insert into item (id, editors) values (1, '{bob}')")

    assert perform(database, alice, "update item set title = 'hers'") == 1
    assert perform(database, BOB, "update item set content = 'his'") == 1
    refused(database, BOB, "update item set title = 'his'")
    assert database.plan(
        TableRules("item", owner, EDITORS.to("read", "update"), columns={"title": [owner, EDITORS.to("read")]})
    ).conforms


# --- partitions and children -----------------------------------------------------------------------------------------


def test_partitions_are_guarded(database: Database) -> None:
    database.execute(
        TABLE.replace("primary key", "") + " partition by list (id)",
        "create table item_1 partition of item for values in (1)",
        "create table item_2 partition of item for values in (2)",
    )
    database.apply(ITEM)
    perform(database, ALICE, "insert into item (id, title, editors) values (1, 'hers', '{bob}')")

    refused(database, BOB, "update item set title = 'his'")
    refused(database, BOB, "insert into item (id, owner, editors, price) values (2, 'alice', '{bob}', 6)")
    assert perform(database, BOB, "update item set content = 'his'") == 1


def test_partitions_that_are_made_later_are_guarded(database: Database) -> None:
    """They get the triggers, and neither row security nor the rules' defaults: the partitioned table is asked for those."""
    database.execute(TABLE.replace("primary key", "") + " partition by list (id)")
    database.apply(ITEM)
    database.execute("create table item_1 partition of item (price default 0.01) for values in (1)")
    perform(database, ALICE, "insert into item (id, title, editors) values (1, 'hers', '{bob}')")

    refused(database, BOB, "update item set title = 'his'")
    refused(database, BOB, "insert into item (id, owner, editors, price) values (1, 'alice', '{bob}', 0.01)")
    assert perform(database, BOB, "update item set content = 'his'") == 1


def test_an_update_that_moves_a_row_counts_as_a_creation_for_guarded_columns(database: Database) -> None:
    """PostgreSQL moves a row by an INSERT, which is all that a trigger can see; so it is refused rather than let through."""
    database.execute(
        TABLE.replace("primary key", "") + " partition by list (id)",
        "create table item_1 partition of item for values in (1)",
        "create table item_2 partition of item for values in (2)",
    )
    database.apply(ITEM)
    perform(database, ALICE, "insert into item (id, title, editors) values (1, 'hers', '{bob}')")

    refused(database, BOB, "update item set id = 2")
    assert perform(database, ALICE, "update item set id = 2") == 1


def test_children_that_inherit_are_guarded(database: Database) -> None:
    database.execute(TABLE, "create table special_item (extra int) inherits (item)")
    database.apply(ITEM)
    with database.connect() as conn:
        conn.execute(
            "insert into special_item (id, title, owner, editors) values (1, 'hers', %s, '{bob}')", [full(ALICE)]
        )

    refused(database, BOB, "update item set title = 'his'")
    assert perform(database, BOB, "update item set content = 'his'") == 1


# --- the script ------------------------------------------------------------------------------------------------------


def test_the_script_guards_children_that_inherit_as_well(database: Database) -> None:
    database.execute(TABLE, "create table special_item (extra int) inherits (item)")
    for _ in range(2):
        script(database, rlskit.sql(database.rules(ITEM)))
    with database.connect() as conn:
        conn.execute("insert into special_item (id, owner, editors) values (1, %s, '{bob}')", [full(ALICE)])

    refused(database, BOB, "update item set title = 'his'")
    assert perform(database, ALICE, "update item set owner = 'bob', editors = null") == 1
    assert [step.says for step in database.plan(ITEM) if "trigger" in step.says] == []


@pytest.mark.parametrize(
    "columns",
    [
        {"title": [allow.owner(), EDITORS.to("read")]},
        {'con%tent "x"': [allow.owner(), EDITORS.to("create", "read", "update")]},
    ],
    ids=["one column", "all but one"],
)
def test_the_script_leads_to_the_same_database(columns: Any, database: Database) -> None:
    database.execute('create table item (id int primary key, title text, "con%tent ""x""" text, "o\'dd" int)')
    rules = TableRules(
        "item",
        allow.owner(),
        EDITORS.to("read", *(["create", "update"] if "title" in columns else [])),
        columns=columns,
    )
    script(database, rlskit.sql(database.rules(rules)))

    assert str(database.plan(rules)) == "The database does what the rules say: 1 table, nothing to do."
    script(database, rlskit.sql(database.rules(rules)))
    assert database.plan(rules).conforms


def script(database: Database, text: str) -> None:
    program = [database.server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database.owner_dsn]
    subprocess.run(program, input=text, text=True, check=True, capture_output=True)
