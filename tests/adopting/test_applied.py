"""What rlskit has applied comes back: rules under which nothing is left to do, and the very same where the catalogue can tell."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rlskit import Open, Rules, TableRules, allow, importer, load, plan
from rlskit.names import QualifiedName
from rlskit.planner import compare
from tests.conformance.strategies import LISTS, ORDINARY, OWNERS, Declaration, declarations
from tests.support import Database, Server, fresh_database

EDITORS = allow.owners_defined_in("editors")
EMAIL = allow.owner_defined_in("payer").identity_claim("email")
PROTECTED = {"owner": allow.same().to("read", "delete")}

ITEM = "create table {} (id serial primary key, content text, price int, owner text, payer text, editors text[])"

# What comes back as it was said.
SAID = {
    "an owner": TableRules("item", allow.owner()),
    "a protected owner": TableRules("item", allow.owner(), columns=PROTECTED),
    "another column": TableRules("item", allow.owner_defined_in("payer")),
    "several owners": TableRules("item", EDITORS, reassign="explicit"),
    "a claim": TableRules("item", EMAIL),
    "a claim with quotes": TableRules("item", allow.owner().identity_claim("é'\"\\")),
    "some spellings": TableRules("item", allow.owner().match("full", "sub")),
    "the full spelling": TableRules("item", allow.owner(), EDITORS.to("read"), match="full"),
    "some operations": TableRules("item", allow.owner().to("create", "read")),
    "rules OR-ed": TableRules("item", allow.owner(), EDITORS.to("read", "update"), EMAIL.to("read")),
    "nobody's column": TableRules("item", allow.owner().to("create", "read", "update"), columns={"price": []}),
    "a column of the owner's": TableRules(
        "item",
        allow.owner().to("create", "read", "update"),
        EDITORS.to("read", "update"),
        columns={"content": [allow.owner().to("create", "read", "update"), EDITORS.to("read")]},
    ),
    "rows that stay": TableRules("item", allow.owner(), EDITORS.to("read", "update"), reassign="never"),
    "a creator of nothing but the key": TableRules(
        "item",
        allow.owner(),
        columns={"id": [allow.owner(), EDITORS.to("create")], "price": [allow.same().to("read", "update", "delete")]},
    ),
    "an open table": TableRules("item", Open(reason="found so by rlskit import", to=("create", "read"))),
}


def left_under(rules: Rules, database: Database) -> list[Any]:
    with database.connect_as_owner() as conn:
        made = compare(conn, rules)
    return [*made.steps, *made.undoing]


def read(database: Database, **options: Any) -> importer.Imported:
    with database.connect_as_owner() as conn:
        return importer.read(conn, role=database.app, **options)


@dataclass(frozen=True)
class Came:
    """What was applied to one database, and what came back."""

    applied: Rules
    imported: importer.Imported


@pytest.fixture(scope="module")
def came(server: Server) -> Iterator[Came]:
    with fresh_database(server, "applied") as database:
        database.execute(*(ITEM.format(f"item_{number}") for number in range(len(SAID))))
        applied = database.apply(*(rules.at(item(number)) for number, rules in enumerate(SAID.values())))
        yield Came(applied, read(database))


def item(number: int) -> QualifiedName:
    return QualifiedName("public", f"item_{number}")


@pytest.mark.parametrize("said", SAID)
def test_what_was_applied_comes_back(said: str, came: Came) -> None:
    name = item(list(SAID).index(said))

    assert [each for each in came.imported.rules.tables if each.name == name] == [SAID[said].at(name)]
    assert came.imported.rules == came.applied
    assert came.imported.is_complete


@seed(20)
@settings(
    max_examples=2, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(drawn=st.lists(declarations(), min_size=12, max_size=12))
def test_nothing_is_left_to_do_under_what_comes_back(drawn: list[Declaration], server: Server) -> None:
    columns = [f"{name} text" for name in (*ORDINARY, *OWNERS)] + [f"{name} text[]" for name in LISTS]
    with fresh_database(server, "drawn") as database:
        for number in range(len(drawn)):
            database.execute(f"create table item_{number} (id int primary key, {', '.join(columns)})")
        database.apply(*(each.rules.at(item(number)) for number, each in enumerate(drawn)))
        imported = read(database)
        left = left_under(imported.rules, database)

    assert [str(step) for step in left] == []
    assert len(imported.rules.tables) == len(drawn)


def test_tables_of_every_schema_come_back_and_partitions_have_no_rules_of_their_own(database: Database) -> None:
    database.execute(
        "create schema app",
        ITEM.format("app.item"),
        "create table todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of todo for values in (1)",
    )
    applied = database.apply(TableRules("app.item", EDITORS), TableRules("todo", allow.owner()), mode="signed")
    imported = read(database)

    assert imported.rules == applied
    assert load(tomllib.loads(imported.toml())) == applied


def test_what_somebody_added_by_hand_is_kept_and_said(database: Database) -> None:
    database.execute(ITEM.format("item"), "create table todo (id int, owner text) partition by list (id)")
    database.execute("create table todo_1 partition of todo for values in (1)")
    database.apply(TableRules("item", allow.owner()), TableRules("todo", allow.owner()))
    database.execute(
        "create policy auditors on item for select using (true)",
        "create policy live on item as restrictive using (id > 0)",
        "grant truncate on item to public",
        "create policy part on todo_1 using (true)",
    )
    imported = read(database)

    assert {what for table in imported.rules.tables for what, _ in table.keep} == {
        "policy auditors",
        "policy live",
        "policy part",
        "privilege truncate of public",
    }
    assert not imported.is_complete
    assert left_under(imported.rules, database) == []


@pytest.mark.parametrize(
    "change",
    [
        "alter policy rlskit_select on item using (true)",
        "alter policy rlskit_select on item using (owner = any ((select rlskit.identities())::text[]) and id > 0)",
        "alter policy rlskit_update on item with check (content = 'x')",
        "drop policy rlskit_update on item",
        "revoke insert on item from {app}",
        'drop trigger "00_rlskit_update_content" on item',
    ],
)
def test_what_was_changed_by_hand_is_never_given_as_a_rule(change: str, database: Database) -> None:
    """It is either what still stands there, or no rule at all, and a plan under it opens nothing."""
    database.execute(ITEM.format("item"))
    database.apply(SAID["a column of the owner's"])
    database.execute(change.replace("{app}", database.app))
    imported = read(database)

    if imported.rules.tables:
        assert left_under(imported.rules, database) == []
    else:
        assert [note.kind for note in imported.notes] == ["kept"]


def test_rules_of_a_table_that_became_a_part_of_another_are_not_lifted(database: Database) -> None:
    database.execute("create table todo (id int, owner text)", "insert into todo values (1, 'somebody')")
    database.apply(TableRules("todo", allow.owner()))
    database.execute(
        "create table everything (id int, owner text) partition by list (id)",
        "alter table everything enable row level security",
        "alter table everything attach partition todo default",
        f"grant select on everything, todo to {database.app}",
    )
    imported = read(database)
    with database.connect_as_owner() as conn:
        plan(conn, imported.rules).apply(conn)

    assert imported.rules.tables == ()
    assert "rlskit's rules hold for its part `public.todo`" in str(imported.notes[-1])
    assert database.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(True,)]
