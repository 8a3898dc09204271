"""An owner column that nobody may write, as Amplify's recipe has it: filled in once, named by no client, and never changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import pytest

from rlskit import Identity, Rules, TableRules, allow, as_user, compile, sql
from rlskit.state import AllBut, Grant, MovingAway, Policy, Trigger
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full, perform

alice, bob, carol = map(full, (ALICE, BOB, CAROL))

OWNER = TableRules("todo", allow.owner(), columns={"owner": allow.owner().to("read", "delete")})
SAME = TableRules("task", allow.owner(), columns={"owner": allow.same().to("read", "delete")})
LIST = TableRules("article", allow.owners_defined_in("editors"), columns={"editors": allow.same().to("read", "delete")})
TABLES = {"todo": ("owner", alice), "task": ("owner", alice), "article": ("editors", [alice])}


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "protected") as database:
        database.execute(
            "create table todo (id int primary key, content text, owner text)",
            "create table task (id int primary key, content text)",
            "create table article (id int primary key, content text, editors text[])",
        )
        database.apply(OWNER, SAME, LIST)
        yield database


@pytest.fixture
def tables(shared: Database) -> Database:
    """The three tables, with a row of alice and one of bob in each."""
    with shared.connect(autocommit=True) as admin:
        for table, (column, _) in TABLES.items():
            first, second = (f"'{name}'" if column == "owner" else f"array['{name}']" for name in (alice, bob))
            admin.execute(f"delete from {table}")
            admin.execute(f"insert into {table} (id, content, {column}) values (1, 'a', {first}), (2, 'b', {second})")
    return shared


def assert_denied(database: Database, statements: Iterable[str]) -> None:
    """Privileges refuse each of them to alice, whatever the rows."""
    with database.connect_as_app() as conn:
        for statement in statements:
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for"),
                as_user(conn, ALICE),
            ):
                conn.execute(statement)


def values(table: str) -> list[str]:
    """Whatever a client might write into the column: itself, another, nobody, what would be written anyway."""
    column, _ = TABLES[table]
    names = [f"'{name}'" if column == "owner" else f"'{{{name}}}'" for name in (alice, "alice", bob)]
    return [*names, "null", "default"]


# --- the recipe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_row_is_created_without_naming_its_owner_who_is_filled_in(table: str, tables: Database) -> None:
    column, mine = TABLES[table]

    for statement in (
        f"insert into {table} (id, content) values (3, 'x')",
        f"insert into {table} (id) values (1) on conflict (id) do update set content = 'y'",
        f"merge into {table} using (values (4)) as given on id = given.column1 when not matched then insert (id) values (4)",
    ):
        assert perform(tables, ALICE, statement) == 1
    assert perform(tables, ALICE, f"insert into {table} (id) select generate_series(5, 6) returning {column}") == [
        (mine,),
        (mine,),
    ]

    assert tables.rows(f"select id, content, {column} from {table} where id <> 2 order by id") == [
        (1, "y", mine),
        (3, "x", mine),
        *((key, None, mine) for key in (4, 5, 6)),
    ]
    assert perform(tables, BOB, f"select id from {table}") == [(2,)]


@pytest.mark.parametrize("table", TABLES)
def test_no_insert_names_the_owner(table: str, tables: Database) -> None:
    column, _ = TABLES[table]
    for value in values(table):
        assert_denied(
            tables,
            [
                f"insert into {table} (id, {column}) values (3, {value})",
                f"insert into {table} (id, {column}) values (3, {value}) returning id",
                f"insert into {table} (id, content, {column}) values (3, 'x', {value}) on conflict do nothing",
                f"insert into {table} (id, {column}) select 3, {value.replace('default', 'null')}",
                f"merge into {table} using (values (3)) as given on id = given.column1 when not matched then insert (id, {column}) values (3, {value})",
            ],
        )

    assert tables.rows(f"select count(*) from {table}") == [(2,)]


@pytest.mark.parametrize("table", TABLES)
def test_no_update_names_the_owner(table: str, tables: Database) -> None:
    column, _ = TABLES[table]
    stored = f"select id, content, {column} from {table} order by id"
    before = tables.rows(stored)
    for value in [*values(table), f"{table}.{column}"]:
        assert_denied(
            tables,
            [
                f"update {table} set {column} = {value}",
                f"update {table} set {column} = {value} where id = 1",
                f"update {table} set content = 'x', {column} = {value} where id = 1 returning id",
                f"update {table} set (content, {column}) = row ('x', {value}) where id = 1",
                f"with moved as (update {table} set {column} = {value} where id = 1 returning *) select * from moved",
                f"insert into {table} (id) values (1) on conflict (id) do update set {column} = {value}",
                f"insert into {table} (id) values (2) on conflict (id) do update set {column} = {value}",
                f"merge into {table} using (values (1)) as given on id = given.column1 when matched then update set {column} = {value}",
            ],
        )
    # what would be filled in anyway
    assert_denied(
        tables, [f"insert into {table} (id) values (1) on conflict (id) do update set {column} = excluded.{column}"]
    )

    assert tables.rows(stored) == before


@pytest.mark.parametrize("table", TABLES)
def test_the_rest_of_ones_row_is_read_changed_and_deleted_as_ever(table: str, tables: Database) -> None:
    column, mine = TABLES[table]

    assert perform(tables, ALICE, f"select {column} from {table}") == [(mine,)]
    assert perform(tables, ALICE, f"update {table} set content = 'x' returning content, {column}") == [("x", mine)]
    assert perform(tables, ALICE, f"delete from {table} where id = 2") == 0
    assert perform(tables, BOB, f"delete from {table} where id = 1") == 0
    assert perform(tables, ALICE, f"delete from {table}") == 1
    assert tables.rows(f"select id, content from {table}") == [(2, "b")]


@pytest.mark.parametrize("table", TABLES)
def test_nobody_else_touches_the_row_and_nobody_makes_one_for_another(table: str, tables: Database) -> None:
    assert perform(tables, CAROL, f"select * from {table}") == []
    assert perform(tables, CAROL, f"update {table} set content = 'x'") == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        perform(tables, CAROL, f"insert into {table} (id) values (1) on conflict (id) do update set content = 'x'")


# --- what is made for it -----------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [OWNER, SAME, LIST], ids=["owner", "same", "list"])
def test_a_protected_owner_needs_no_way_out_of_a_row_and_no_advice(rules: TableRules) -> None:
    protected = Rules(rules, role="app")
    open_to_change = Rules(TableRules(str(rules.table), *rules.allow), role="app")

    assert (way_out(protected), compile(protected).advice) == (False, ())
    assert "moving_to" not in sql(protected).partition(f"-- public.{rules.table}")[2]
    assert way_out(open_to_change)
    (advice,) = compile(open_to_change).advice
    assert advice.text.startswith("who may update a row may give it away by writing ")
    assert "moving_to" in sql(open_to_change).partition(f"-- public.{rules.table}")[2]


def way_out(rules: Rules) -> bool:
    """Whether there is a trigger, or an arm of a policy, that lets a row go."""
    objects = compile(rules).objects
    arms = [
        term
        for each in objects
        if isinstance(each, Policy)
        for expression in (each.using, each.with_check)
        for term in getattr(expression, "terms", ())
        if isinstance(term, MovingAway)
    ]
    triggers = [each for each in objects if isinstance(each, Trigger)]
    assert bool(arms) == bool(triggers)
    return bool(arms)


def test_a_plan_says_whether_rows_may_be_given_away(database: Database) -> None:
    database.execute("create table todo (id int, content text)")
    advice = "note: who may update a row may give it away by writing `owner`"

    assert advice in str(database.plan(TableRules("todo", allow.owner())))
    assert advice not in str(database.plan(OWNER))
    assert "trigger" in str(database.plan(TableRules("todo", allow.owner())))
    assert "trigger" not in str(database.plan(OWNER))


def test_a_column_is_protected_and_set_free_again(database: Database) -> None:
    """Back and forth, and each time the database does what the rules say then."""
    database.execute("create table todo (id int, content text)")
    given = f"update todo set owner = '{bob}' returning id"
    for rules, moves in ((TableRules("todo", allow.owner()), True), (OWNER, False)) * 2:
        database.apply(rules)
        assert database.plan(rules).conforms
        perform(database, ALICE, "insert into todo (id) values (1)")
        if moves:
            assert perform(database, ALICE, given) == [(1,)]
        else:
            assert_denied(database, [given])
        with database.connect(autocommit=True) as admin:
            found = admin.execute("select count(*) from pg_trigger where tgrelid = 'todo'::regclass").fetchone()
            assert found == (int(moves),)
            admin.execute("delete from todo")


# --- defaults ----------------------------------------------------------------------------------------


def test_a_default_is_there_only_where_a_rule_lets_the_person_create(database: Database) -> None:
    database.execute("create table todo (id int, owner text, author text)")
    database.apply(TableRules("todo", allow.owner().to("read"), allow.owner_defined_in("author")))

    assert perform(database, ALICE, "insert into todo (id) values (1) returning owner, author") == [(None, alice)]
    assert perform(database, ALICE, f"insert into todo (id, owner) values (2, '{bob}') returning id") == [(2,)]
    assert perform(database, BOB, "select id, author from todo") == [(2, alice)]
    assert perform(database, BOB, "update todo set id = 3") == 0


def test_a_default_fills_in_every_column_that_lets_the_person_create(database: Database) -> None:
    database.execute("create table todo (id int)")
    database.apply(
        TableRules(
            "todo",
            allow.owner(),
            allow.owner_defined_in("payer").identity_claim("email"),
            allow.owners_defined_in("editors"),
            allow.owners_defined_in("readers").to("read"),
            columns={each: allow.same().to("read", "delete") for each in ("owner", "payer", "editors")},
        )
    )

    made = perform(database, ALICE, "insert into todo (id) values (1) returning owner, payer, editors, readers")
    assert made == [(alice, "alice@example.com", [alice], None)]
    assert_denied(database, [f"insert into todo ({each}) values (default)" for each in ("owner", "payer", "editors")])
    assert perform(database, ALICE, f"update todo set readers = '{{{carol}}}'") == 1
    assert perform(database, CAROL, "select id from todo") == [(1,)]


def test_whoever_has_half_an_identity_fills_in_nothing_and_creates_nothing(tables: Database) -> None:
    for table in TABLES:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            perform(tables, Identity(sub="a1f0"), f"insert into {table} (id) values (3)")


@pytest.mark.parametrize("closed", [[], [allow.owner().to("read")]], ids=["nobody", "to be read alone"])
def test_an_owner_column_that_no_rule_lets_a_client_name_cannot_be_named_at_all(
    closed: Any, database: Database
) -> None:
    database.execute("create table todo (id int, content text, owner text)")
    database.apply(TableRules("todo", allow.owner(), columns={"owner": closed}))
    perform(database, ALICE, "insert into todo (id) values (1)")

    for value in (f"'{alice}'", "null", "default"):
        assert_denied(database, [f"insert into todo (owner) values ({value})", f"update todo set owner = {value}"])
    if not closed:
        assert_denied(
            database,
            [
                "select owner from todo",
                "select count(owner) from todo",
                f"select id from todo where owner = '{alice}'",
                "select id from todo order by owner",
                "insert into todo (id) values (2) returning *",
                "update todo set content = owner",
                "update todo set content = 'x' returning owner",
            ],
        )
    assert database.rows("select owner from todo") == [(alice,)]
    assert perform(database, ALICE, "select id, content from todo") == [(1, None)]
    assert perform(database, ALICE, "update todo set content = 'x' where id = 1 returning content") == [("x",)]
    assert perform(database, BOB, "select id from todo") == []
    assert_denied(database, ["delete from todo"])


# --- deleting a row is deleting each of its columns ---------------------------------------------------


def test_a_row_with_a_column_that_may_only_be_read_is_deleted_by_nobody(database: Database) -> None:
    rules = TableRules("todo", allow.owner(), columns={"title": allow.owner().to("read")})
    database.execute("create table todo (id int, title text, owner text)")
    database.apply(rules)
    perform(database, ALICE, "insert into todo (id) values (1)")

    assert_denied(database, ["delete from todo", "delete from todo where id = 1 returning id"])
    assert "nobody may delete a row, because nobody may delete `title`" in [each.text for each in advice(rules)]


def test_a_row_is_deleted_by_nobody_where_each_person_has_only_some_of_its_columns(database: Database) -> None:
    everything = ("create", "read", "update", "delete")
    rules = TableRules(
        "todo",
        allow.owner(),
        allow.owner_defined_in("author"),
        columns={
            "title": [allow.owner(), allow.owner_defined_in("author").to("create", "read", "update")],
            "body": [allow.owner().to("create", "read", "update"), allow.owner_defined_in("author").to(*everything)],
        },
    )
    database.execute("create table todo (id int, title text, body text, owner text, author text)")
    database.apply(rules)
    perform(database, ALICE, "insert into todo (id) values (1)")

    assert database.rows("select owner, author from todo") == [(alice, alice)]
    assert_denied(database, ["delete from todo"])
    assert "nobody may delete a row, because no rule has delete on all of `body`, `title`" in [
        each.text for each in advice(rules)
    ]


def test_a_row_is_deleted_by_the_one_who_may_delete_every_column(database: Database) -> None:
    rules = TableRules(
        "todo",
        allow.owner(),
        allow.owner_defined_in("author"),
        columns={
            "title": [allow.owner(), allow.owner_defined_in("author").to("create", "read", "update")],
            "owner": allow.same().to("create", "read", "delete"),
            "author": allow.same().to("create", "read", "delete"),
        },
    )
    database.execute("create table todo (id int, title text, owner text, author text)")
    database.apply(rules)
    with database.connect(autocommit=True) as admin:
        admin.execute("insert into todo values (1, 'x', %s, %s), (2, 'x', %s, %s)", [alice, bob, bob, alice])

    assert perform(database, ALICE, "select id from todo order by id") == [(1,), (2,)]
    assert perform(database, ALICE, "delete from todo returning id") == [(1,)]
    assert perform(database, ALICE, "delete from todo where id = 2") == 0
    assert perform(database, ALICE, "update todo set title = 'y' returning id") == [(2,)]
    assert [each for each in advice(rules) if "delete a row" in each.text] == []


def advice(rules: TableRules) -> Any:
    return compile(Rules(rules, role="app")).advice


def test_the_privileges_of_a_protected_owner_leave_it_out_of_all_but_reading() -> None:
    grants = {each.privilege: each.columns for each in compile(Rules(OWNER, role="app")) if isinstance(each, Grant)}

    assert grants == {"select": AllBut(), "insert": AllBut(("owner",)), "update": AllBut(("owner",)), "delete": None}
