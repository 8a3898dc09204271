"""`rlskit import` as a user meets it: the file on stdout, what was found on stderr, exit codes, and no file overwritten unasked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from rlskit import importer, load, plan
from rlskit.errors import PlanError, RlskitError, RuleError
from tests.adopting.test_written_by_others import SUPABASE, owned, read
from tests.cli.test_cli import Shell, rlskit  # noqa: F401 - the fixture
from tests.support import Database

MINE = "create policy mine on {} using (owner = current_setting('app.user_id', true))"


@pytest.fixture
def shell(rlskit: Shell) -> Shell:  # noqa: F811
    """With a table of somebody's, and one without row security."""
    owned(
        rlskit.database,
        "drop table todo",
        "create table todo (id int primary key, content text, owner text)",
        "create table country (code text)",
        "alter table todo enable row level security",
        MINE.format("todo"),
        "grant select on todo to {app}",
        "grant select on country to {app}",
    )
    return rlskit


def test_rules_are_written_over_a_file_only_when_asked_read_back_and_applied(shell: Shell) -> None:
    role, there = shell.database.app, (shell.folder / "rlskit.toml").read_text()
    refused = shell("import", "--role", role, "--output", "rlskit.toml")

    assert refused.code == 2
    assert refused.err.endswith("error: nobody is there to be asked\nhint: name another file, or say --yes\n")
    assert (shell.folder / "rlskit.toml").read_text() == there

    done = shell("import", "--role", role, "--output", "rlskit.toml", "--yes")

    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        'check: `app.user_id` is taken for the claim `sub`; if it is another: --claim "app.user_id=…"',
        f"public.country: open: row security is off: `{role}` has read on every row",
        "public.todo: understood: policy `mine` for all to `public` became rules, and others lose it too when it is dropped",
    ]
    assert (
        (shell.folder / "rlskit.toml").read_text()
        == f"""\
# Written by `rlskit import`. Read the notes, then `rlskit plan`: it says what would change.
# Once the rules are applied, the application says who is asking with `as_user`, and the owners of the tables are bound as well.
# What is kept goes on asking what it asked: go on writing those settings too.
# What became rules lets the role past them as long as it is there: `rlskit apply --prune-foreign` drops it.
# check: `app.user_id` is taken for the claim `sub`; if it is another: --claim "app.user_id=…"
role = "{role}"

# public.todo
# understood: policy `mine` for all to `public` became rules, and others lose it too when it is dropped
[tables.todo]
allow = [{{ owner = "owner", identity_claim = "sub", to = ["read"] }}]

# public.country
# open: row security is off: `{role}` has read on every row
# [tables.country]
# open = {{ reason = "say why, or write owner rules", to = ["read"] }}
"""
    )
    assert shell("apply", "--yes", "--prune-foreign").code == 0


def test_what_is_kept_makes_it_exit_with_one_and_the_file_can_be_planned(shell: Shell) -> None:
    owned(shell.database, "create policy shared on todo for select using (content like 'p%')")
    done = shell("import", "--role", shell.database.app)

    assert done.code == 1
    assert "public.todo: kept: policy `shared` stays: its condition is not understood" in done.err.splitlines()
    assert 'keep = { "policy shared" = "kept by rlskit import: its condition is not understood" }' in done.out
    with shell.database.connect_as_owner() as conn:
        assert plan(conn, load(tomllib.loads(done.out))).steps


def test_a_claim_that_is_said_is_not_guessed(database: Database) -> None:
    owned(
        database,
        "create table todo (owner text)",
        "alter table todo enable row level security",
        MINE.format("todo"),
        "grant select on todo to {app}",
    )
    imported = read(database, claims={"app.user_id": "email"})

    assert [str(table) for table in imported.rules.tables] == ['allow.owner().identity_claim("email").to("read")']
    assert [note for note in imported.notes if note.kind == "check"] == []


def test_it_refuses_what_it_cannot_understand_before_it_connects(tmp_path: Path) -> None:
    shell = Shell(tmp_path, None)  # type: ignore[arg-type]
    no_role = shell("import", dsn="postgresql://")
    no_claim = shell("import", "--role", "app", "--claim", "sub", dsn="postgresql://")

    assert (no_role.code, no_role.err.splitlines()[0]) == (2, "error: no role is named")
    assert (no_claim.code, no_claim.err.splitlines()[0]) == (2, "error: --claim takes SOURCE=CLAIM")


# --- in Python -------------------------------------------------------------------------------------------------------


def test_nothing_is_changed(shell: Shell) -> None:
    query = "select count(*), max(oid) from pg_class union all select count(*), max(oid) from pg_policy"
    before = shell.database.rows(query)
    read(shell.database)

    assert shell.database.rows(query) == before


def test_without_temporary_tables_it_says_so(database: Database) -> None:
    with database.connect(autocommit=True) as conn:
        conn.execute(f"revoke temporary on database {database.name} from public, {database.owner}")
        conn.execute(f"alter database {database.name} owner to {database.owner}")
        conn.execute(f"revoke temporary on database {database.name} from {database.owner}")

    with pytest.raises(PlanError, match="may create none here"):
        read(database)


def test_a_policy_for_a_login_is_understood_when_it_is_said_what_a_login_is(database: Database) -> None:
    owned(
        database,
        "create table todo (owner text)",
        "alter table todo enable row level security",
        "create policy mine on todo using (owner = current_user)",
        "grant select on todo to {app}",
    )

    (todo,) = read(database, claims={"current_user": "username"}).rules.tables
    assert str(todo) == 'allow.owner().identity_claim("username").to("read")'


def test_a_joined_identity_is_the_full_spelling(database: Database) -> None:
    owned(
        database,
        *SUPABASE,
        "create table todo (owner text)",
        "alter table todo enable row level security",
        "create policy mine on todo using (owner = public.me())",
        "grant select on todo to {app}",
    )

    (todo,) = read(database, claims={" public.me() ": "sub::username"}).rules.tables
    assert str(todo) == 'allow.owner().match("full").to("read")'


def test_a_partition_has_the_rules_of_its_table(database: Database) -> None:
    owned(
        database,
        "create table todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of todo for values in (1)",
        "alter table todo enable row level security",
        "alter table todo_1 enable row level security",
        MINE.format("todo"),
        MINE.format("todo_1"),
        "grant select on todo to {app}",
    )
    imported = read(database)

    assert [str(table.name) for table in imported.rules.tables] == ["public.todo"]
    assert [str(each) for each in imported.notes if each.table and each.table.name == "todo_1"] == [
        "kept: what holds for `public.todo` holds for it; its own policies, for whoever names it directly, are not taken over"
    ]


def test_a_part_of_a_table_that_was_not_read_is_left_out(database: Database) -> None:
    owned(
        database,
        "create schema app",
        "create table app.todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of app.todo for values in (1)",
        "alter table todo_1 enable row level security",
        MINE.format("todo_1"),
        "grant select on todo_1 to {app}",
    )
    imported = read(database)

    assert imported.rules.tables == ()
    assert [str(each) for each in imported.notes if each.kind == "kept"] == [
        "kept: it is a part of `app.todo`, which was not read: name its schema with --schema"
    ]


def test_a_table_of_the_applications_own_stays_as_it_is(database: Database) -> None:
    owned(
        database,
        "create table todo (owner text)",
        "alter table todo enable row level security",
        MINE.format("todo"),
    )
    with database.connect(autocommit=True) as conn:
        conn.execute(f"alter table todo owner to {database.app}")
        conn.execute(f"grant select on todo to {database.app}")
        conn.execute(f"grant {database.app} to {database.owner}")
    imported = read(database)

    assert [str(table) for table in imported.rules.tables] == [
        f"unmanaged: kept by rlskit import: `{database.app}` owns it, or may become its owner, who can lift every rule"
    ]
    with database.connect_as_owner() as conn:
        assert [step.table for step in plan(conn, imported.rules)] == [None]


def test_a_role_that_does_not_inherit_has_nothing_of_the_others(database: Database) -> None:
    """It may become the group, and until it does it has nothing of the group's policies."""
    group = f"{database.name}_group"
    with database.connect(autocommit=True) as conn:
        conn.execute(f"create role {group}; alter role {database.app} noinherit; grant {group} to {database.app}")
    owned(
        database,
        "create table todo (owner text)",
        "alter table todo enable row level security",
        f"create policy mine on todo to {group} using (owner = current_setting('app.user_id', true))",
        f"grant select on todo to {group}",
        "grant select on todo to {app}",
    )
    (todo,) = read(database).rules.tables
    with database.connect(autocommit=True) as conn:
        conn.execute(f"drop owned by {group}; drop role {group}")

    assert str(todo) == "unmanaged: kept by rlskit import: no policy of it was understood"


def test_names_come_back_whatever_stands_in_them(database: Database) -> None:
    owned(
        database,
        'create schema "s.1"',
        'create table "s.1"."we ird ""t""" ("ow.ner é" text)',
        'alter table "s.1"."we ird ""t""" enable row level security',
        '''create policy "it's ""mine"" # \n" on "s.1"."we ird ""t""" using ("ow.ner é" = current_setting('app.user_id', true))''',
        '''create policy "an ""other"" \n" on "s.1"."we ird ""t""" for select using ("ow.ner é" like 'p%')''',
        'grant usage on schema "s.1" to {app}',
        'grant select on "s.1"."we ird ""t""" to {app}',
    )
    imported = read(database, schemas=["s.1"])

    assert str(imported.rules.tables[0]) == 'allow.owner_defined_in("ow.ner é").identity_claim("sub").to("read")'
    assert load(tomllib.loads(imported.toml())) == imported.rules


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (
            {"claims": {"app.usr_id": "sub"}},
            RuleError,
            "no policy asks `app.usr_id`\nhint: did you mean `app.user_id`?",
        ),
        ({"claims": {"app.user_id": "a::b"}}, RuleError, "joined claims such as `a::b`"),
        ({"schemas": ["elsewhere"]}, PlanError, "schema `elsewhere` does not exist"),
        ({"role": "nobody_has_it"}, PlanError, "role `nobody_has_it` does not exist"),
        ({"role": "pg_read_all_data"}, PlanError, "a role that reaches past row security"),
    ],
    ids=["unknown source", "joined claim", "unknown schema", "unknown role", "bypassing role"],
)
def test_what_cannot_be_meant_is_refused(
    options: dict[str, Any], kind: type[RlskitError], words: str, database: Database
) -> None:
    owned(database, "create table todo (owner text)", MINE.format("todo"))

    with database.connect_as_owner() as conn, pytest.raises(kind) as refused:
        importer.read(conn, **{"role": database.app, **options})
    assert words in str(refused.value)
