"""`check` sees every difference between the rules and the database, says it, and `apply` mends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rlskit import Open, TableRules, Unmanaged, allow, plan
from rlskit.errors import PlanError
from rlskit.planner import compare
from tests.support import Database, Server, copy_of, fresh_database

EDITORS = allow.owners_defined_in("editors")
TODO = TableRules(
    "todo", allow.owner(), EDITORS.to("read", "update"), columns={"content": [allow.owner(), EDITORS.to("read")]}
)

# What somebody did by hand, and the sentence that tells it. {app} is the application's login.
DRIFT = {
    "row security switched off": (
        ["alter table todo disable row level security"],
        "enable row level security",
    ),
    "row security not forced": (
        ["alter table todo no force row level security"],
        "force row level security",
    ),
    "policy dropped": (["drop policy rlskit_delete on todo"], "create policy rlskit_delete for delete to {app}"),
    "USING widened": (
        ["alter policy rlskit_select on todo using (true)"],
        "alter policy rlskit_select for select to {app}",
    ),
    "WITH CHECK widened": (
        ["alter policy rlskit_insert on todo with check (true)"],
        "alter policy rlskit_insert for insert to {app}",
    ),
    "WITH CHECK of update widened": (
        ["alter policy rlskit_update on todo with check (true)"],
        "alter policy rlskit_update for update to {app}",
    ),
    "roles widened": (
        ["alter policy rlskit_select on todo to public"],
        "alter policy rlskit_select for select to {app}",
    ),
    "command changed": (
        [
            "drop policy rlskit_delete on todo",
            "create policy rlskit_delete on todo for all to {app} using (true)",
            "comment on policy rlskit_delete on todo is 'rlskit 0 0'",
        ],
        "alter policy rlskit_delete for delete to {app}",
    ),
    "restrictive instead of permissive": (
        [
            "drop policy rlskit_delete on todo",
            "create policy rlskit_delete on todo as restrictive for delete to {app} using (true)",
            "comment on policy rlskit_delete on todo is 'rlskit 0 0'",
        ],
        "alter policy rlskit_delete for delete to {app}",
    ),
    "privilege on the table": (["grant update on todo to {app}"], "revoke update from {app}"),
    "truncate": (["grant truncate on todo to {app}"], "revoke truncate from {app}"),
    "privilege on a column missing": (["revoke select (owner) on todo from {app}"], "grant select (owner) to {app}"),
    "delete revoked": (["revoke delete on todo from {app}"], "grant delete to {app}"),
    "a new column is closed": (["alter table todo add column secret text"], "grant insert (secret) to {app}"),
    "default dropped": (["alter table todo alter column owner drop default"], "let owner default to the caller's name"),
    "default changed": (
        ["alter table todo alter column owner set default 'mallory'"],
        "let owner default to the caller's name",
    ),
    "default where no rule creates": (
        ["alter table todo alter column editors set default rlskit.list_of('mallory')"],
        "drop the default of editors",
    ),
    "check dropped": (["alter table todo drop constraint rlskit_owner_check"], "add check rlskit_owner_check"),
    "check changed": (
        [
            "alter table todo drop constraint rlskit_owner_check",
            "alter table todo add constraint rlskit_owner_check check (true)",
            "comment on constraint rlskit_owner_check on todo is 'rlskit'",
        ],
        "alter check rlskit_owner_check",
    ),
    "trigger dropped": (
        ["drop trigger zz_rlskit_reassign on todo"],
        "create trigger zz_rlskit_reassign before update",
    ),
    "trigger disabled": (
        ["alter table todo disable trigger zz_rlskit_reassign"],
        "alter trigger zz_rlskit_reassign before update",
    ),
    "guard dropped": (
        ['drop trigger "00_rlskit_update_content" on todo'],
        "create trigger 00_rlskit_update_content before update of content",
    ),
    "guard of another column": (
        [
            'drop trigger "00_rlskit_update_content" on todo',
            'create trigger "00_rlskit_update_content" before update of owner on todo for each row'
            " when ((old.owner = any (rlskit.identities())) is not true) execute function rlskit.refuse_columns('content')",
            "call rlskit.mark('trigger', 'todo', '00_rlskit_update_content', '0')",
        ],
        "alter trigger 00_rlskit_update_content before update of content",
    ),
    "guard with another condition": (
        [
            'drop trigger "00_rlskit_update_content" on todo',
            'create trigger "00_rlskit_update_content" before update of content on todo for each row'
            " when ((old.owner = any (rlskit.identities())) is not true and false)"
            " execute function rlskit.refuse_columns('content')",
            "call rlskit.mark('trigger', 'todo', '00_rlskit_update_content', '0')",
        ],
        "alter trigger 00_rlskit_update_content before update of content",
    ),
    "index dropped": (["drop index todo__owner_rlskit"], "create index todo__owner_rlskit on owner (btree)"),
    "the list's index dropped": (
        ["drop index todo__editors_rlskit"],
        "create index todo__editors_rlskit on editors (gin)",
    ),
    "sequence closed": (
        ["revoke usage on sequence todo_id_seq from {app}"],
        "grant usage of sequence public.todo_id_seq to {app}",
    ),
    "more than usage of a sequence": (
        ["grant all on sequence todo_id_seq to {app}"],
        "revoke update of sequence public.todo_id_seq from {app}",
    ),
    "runtime changed": (
        [
            "create or replace function rlskit.identities() returns text[] language sql stable parallel safe"
            " as $$ select array['mallory'] $$"
        ],
        "restore the schema rlskit",
    ),
    "runtime's search path freed": (
        ["alter function rlskit.claim(text) reset search_path"],
        "restore the schema rlskit",
    ),
}


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "drift") as database:
        yield prepared(database)


@pytest.fixture
def todo(original: Database) -> Iterator[Database]:
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    database.execute("create table todo (id serial primary key, content text, owner text, editors text[])")
    database.apply(TODO)
    return database


def sentences(made: object) -> list[str]:
    return [step.says for step in made]  # type: ignore[attr-defined]


@pytest.mark.parametrize("drift", DRIFT)
def test_a_change_by_hand_is_told_and_mended(drift: str, todo: Database) -> None:
    statements, sentence = DRIFT[drift]
    todo.execute(*(each.replace("{app}", todo.app) for each in statements))

    found = todo.plan(TODO)
    assert sentence.replace("{app}", todo.app) in sentences(found)

    todo.apply(TODO)
    assert sentences(todo.plan(TODO)) == []


def test_what_conforms_has_an_empty_plan(todo: Database) -> None:
    made = todo.plan(TODO)

    assert (made.conforms, len(made), str(made)) == (
        True,
        0,
        "The database does what the rules say: 1 table, nothing to do.",
    )


def test_applying_twice_changes_nothing(todo: Database) -> None:
    before = todo.rows("select oid, relacl::text from pg_class where relname = 'todo'")
    todo.apply(TODO)

    assert todo.rows("select oid, relacl::text from pg_class where relname = 'todo'") == before


def test_only_what_differs_is_altered(todo: Database) -> None:
    todo.execute("alter policy rlskit_select on todo using (true)")

    proof, step = todo.plan(TODO)
    assert proof.phase == "proof"
    assert step.statements[0].startswith('alter policy "rlskit_select" on "public"."todo"')


def test_a_table_that_leaves_the_rules_stays_closed(todo: Database) -> None:
    other = TableRules("other", allow.owner())
    todo.execute("create table other (id int)")
    todo.apply(other)

    flags = todo.rows(
        "select relrowsecurity, relforcerowsecurity, relacl::text like %s from pg_class where relname = 'todo'",
        [f"%{todo.app}%"],
    )
    assert flags == [(True, True, False)]
    assert todo.rows("select count(*) from pg_policy where polrelid = 'todo'::regclass") == [(0,)]
    assert todo.rows("select count(*) from pg_trigger where tgrelid = 'todo'::regclass and not tgisinternal") == [(0,)]
    assert todo.rows(
        "select count(*) from pg_attrdef where adrelid = 'todo'::regclass and pg_get_expr(adbin, adrelid) like '%%rlskit%%'"
    ) == [(0,)]
    assert todo.plan(other).conforms


def test_unmanaged_gives_the_table_back(todo: Database) -> None:
    todo.apply(TableRules("todo", Unmanaged(reason="somebody else looks after it")))

    assert todo.rows("select relrowsecurity, relforcerowsecurity from pg_class where relname = 'todo'") == [
        (False, False)
    ]


def test_unmanaged_never_touches_what_rlskit_did_not_make(database: Database) -> None:
    database.execute(
        "create table audit (id int)",
        "alter table audit enable row level security",
        f"grant select on audit to {database.app}",
    )
    made = database.plan(TableRules("audit", Unmanaged(reason="the auditors' own")))

    assert [step.table for step in made] == [None]


def test_a_table_that_left_is_opened_only_when_released_by_name(todo: Database) -> None:
    todo.apply()
    with todo.connect_as_owner() as conn:
        plan(conn, todo.rules(), release=["todo"]).apply(conn)

    assert todo.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(False,)]


def test_an_open_table_is_readable_and_nothing_else(database: Database) -> None:
    database.execute("create table country (code text)", "insert into country values ('NZ')")
    database.apply(TableRules("country", Open(reason="reference data")))
    with database.connect_as_app(autocommit=True) as app:
        assert app.execute("select code from country").fetchall() == [("NZ",)]
        privileges = app.execute(
            "select p from unnest(array['insert','update','delete','truncate']) p where has_table_privilege('country', p)"
            " or p <> 'delete' and p <> 'truncate' and has_any_column_privilege('country', p)"
        ).fetchall()

    assert privileges == []


def test_a_narrower_rule_takes_away(todo: Database) -> None:
    narrow = TableRules("todo", allow.owner().to("read"))
    todo.apply(narrow)

    policies = todo.rows("select polname::text from pg_policy where polrelid = 'todo'::regclass")
    assert policies == [("rlskit_select",)]
    assert todo.rows(
        "select count(*) from information_schema.column_privileges where grantee = %s and privilege_type <> 'SELECT'",
        [todo.app],
    ) == [(0,)]


@pytest.fixture
def reader(todo: Database) -> Iterator[psycopg.Connection[Any]]:
    """A login that may read the catalogue, and neither alter nor create anything."""
    name = f"{todo.name}_reader"
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"create role {name} login")
        admin.execute(f"revoke temporary on database {todo.name} from public")
    with psycopg.connect(make_conninfo(todo.superuser_dsn, user=name)) as conn:
        yield conn
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"drop role {name}")


def test_a_login_that_may_only_read_the_catalogue_can_check(todo: Database, reader: psycopg.Connection[Any]) -> None:
    found = compare(reader, todo.rules(TODO))

    assert (found.conforms, found.compared) == (True, "mark")


@pytest.mark.parametrize("drift", DRIFT)
def test_it_sees_every_change_by_hand_too(drift: str, todo: Database, reader: psycopg.Connection[Any]) -> None:
    statements, _ = DRIFT[drift]
    todo.execute(*(each.replace("{app}", todo.app) for each in statements))

    assert not compare(reader, todo.rules(TODO)).conforms
    todo.apply(TODO)
    reader.rollback()
    assert compare(reader, todo.rules(TODO)).conforms


def test_it_may_not_plan_what_it_may_not_do(todo: Database, reader: psycopg.Connection[Any]) -> None:
    todo.execute("drop policy rlskit_select on todo")

    with pytest.raises(PlanError, match=r"may not alter table `public\.todo`"):
        plan(reader, todo.rules(TODO))
