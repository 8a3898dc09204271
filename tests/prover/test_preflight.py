"""A database on which a green test would mean nothing is told, each reason by its own message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from rlskit import Rules, TableRules, allow, guard, runtime
from rlskit.errors import BypassingRoleError, PlanError
from rlskit.preflight import Finding, findings
from tests.support import Database, Server, fresh_database

TABLES = TableRules("note", allow.owner()), TableRules("todo", allow.owner())


@pytest.fixture(scope="module")
def ruled(server: Server) -> Iterator[Database]:
    with fresh_database(server, "preflight") as made:
        made.execute("create table todo (id serial, content text)", "create table note (id serial, content text)")
        made.apply(*TABLES)
        yield made


@pytest.fixture(scope="module")
def rules(ruled: Database) -> Rules:
    return ruled.rules(*TABLES)


@pytest.fixture
def conn(ruled: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's; whatever is spoilt on it is rolled back."""
    with ruled.connect() as conn:
        yield conn
        conn.rollback()


def spoilt(conn: psycopg.Connection[Any], rules: Rules, *statements: str) -> list[tuple[str, str]]:
    """What is found after these, in short."""
    names = {"app": rules.role, "owner": rules.role.replace("_app", "_owner"), "other": f"{rules.role}_other"}
    for statement in statements:
        conn.execute(statement.format_map(names))  # type: ignore[arg-type]
    short = {name: f"<{short}>" for short, name in sorted(names.items(), reverse=True)}
    found = []
    for each in findings(conn, rules):
        text = each.text
        for name in sorted(short, key=len, reverse=True):
            text = text.replace(f"`{name}`", short[name])
        found.append((each.kind, text))
    return found


def test_of_what_is_as_the_rules_say_nothing_is_found(ruled: Database, rules: Rules) -> None:
    with ruled.connect() as conn:
        assert findings(conn, rules) == ()
        assert conn.info.transaction_status == TransactionStatus.IDLE
        assert conn.execute("select session_user::text, current_user::text").fetchone() == ("postgres", "postgres")


ROLES = {
    "a superuser": (["alter role {app} superuser"], "superuser", "is a superuser, so no rule binds it"),
    "BYPASSRLS": (["alter role {app} bypassrls"], "bypassrls", "has BYPASSRLS, so no rule binds it"),
    "the owner of a table": (
        ["alter table todo owner to {app}"],
        "owner",
        "owns table public.todo, and can lift the rules",
    ),
    "a member of the owner": (
        ["grant {owner} to {app}"],
        "member of owner",
        "is a member of <owner>, which owns table public.note and can lift the rules",
    ),
    "a member of a superuser": (
        ["create role {other} superuser", "grant {other} to {app}"],
        "member of superuser",
        "is a member of <other>, a superuser, and may become one, so no rule binds it",
    ),
    "a member of BYPASSRLS": (
        ["create role {other} bypassrls", "grant {other} to {app}"],
        "member of bypassrls",
        "is a member of <other>, which has BYPASSRLS, and may take it on, so no rule binds it",
    ),
    "a reader of everything": (
        ["grant pg_read_all_data to {app}"],
        "reads past",
        "has pg_read_all_data, which reaches past row security",
    ),
    "a setting of its own": (
        ["alter role {app} set search_path = theirs"],
        "setting",
        "has a setting of its own for search_path, which it could have written itself",
    ),
    "the owner of the schema": (
        ["alter schema public owner to {app}"],
        "owner",
        "owns the schema of table public.note, and can lift the rules",
    ),
}


@pytest.mark.parametrize("how", ROLES)
def test_a_role_that_no_rule_binds_is_told(how: str, conn: psycopg.Connection[Any], rules: Rules) -> None:
    statements, kind, text = ROLES[how]

    assert spoilt(conn, rules, *statements)[0] == (kind, f"role <app> {text}")
    assert conn.execute("select session_user::text, current_user::text").fetchone() == ("postgres", "postgres")


def test_nobody_has_to_be_able_to_connect_as_it(conn: psycopg.Connection[Any], rules: Rules) -> None:
    """Its members can be what it is. What a login says of itself when it connects, a role without login never says."""
    harmless = spoilt(conn, rules, "alter role {app} nologin", "alter role {app} set search_path = theirs")
    found = spoilt(conn, rules, "grant {owner} to {app}")

    assert harmless == []
    assert found[0] == ("member of owner", f"role <app> {ROLES['a member of the owner'][2]}")


def test_a_superuser_is_told_to_be_nothing_else(conn: psycopg.Connection[Any], rules: Rules) -> None:
    found = spoilt(conn, rules, "alter role {app} superuser bypassrls", "alter table todo owner to {app}")

    assert [kind for kind, _ in found] == ["superuser"]


def test_all_else_that_a_role_is_is_told_together(conn: psycopg.Connection[Any], rules: Rules) -> None:
    found = spoilt(conn, rules, "alter role {app} bypassrls", "alter table todo owner to {app}")

    assert [kind for kind, _ in found] == ["bypassrls", "owner"]


def test_an_identity_for_everybody_is_told(ruled: Database, conn: psycopg.Connection[Any], rules: Rules) -> None:
    found = spoilt(conn, rules, f"alter database {ruled.name} set rlskit.sub = 'secret'")

    assert found == [("identity", "rlskit.sub is set for everybody who connects: whoever says nothing is somebody")]


def test_guard_says_the_same_of_a_login(ruled: Database, rules: Rules) -> None:
    with ruled.connect() as conn:
        conn.execute(f"alter role {ruled.app} bypassrls")
        conn.commit()
        try:
            (found,) = findings(conn, rules)
            with psycopg.connect(ruled.app_dsn) as app, pytest.raises(BypassingRoleError) as caught:
                guard(app)
        finally:
            conn.execute(f"alter role {ruled.app} nobypassrls")
            conn.commit()

    assert caught.value.message.removeprefix("login ") == found.text.removeprefix("role ")


DROP_POLICIES = """
    do $$
    declare name text;
    begin
      for name in select polname from pg_policy where polrelid = 'todo'::regclass loop
        execute format('drop policy %I on todo', name);
      end loop;
    end
    $$
"""
APP_MAY_DO_ALL = "create policy everybody on todo to {app} using (true)"
TABLE = {
    "row security is off": (
        ["alter table todo disable row level security"],
        [("off", "table `public.todo` has policies, and its row security is off: they bind nobody")],
    ),
    "row security is off, and not forced": (
        ["alter table todo disable row level security, no force row level security"],
        [("off", "table `public.todo` has policies, and its row security is off: they bind nobody")],
    ),
    "row security is not forced": (
        ["alter table todo no force row level security"],
        [
            (
                "not forced",
                "row security of table `public.todo` is not forced: it does not bind the owner of the table",
            )
        ],
    ),
    "there are no policies": ([DROP_POLICIES], [("no policies", "table `public.todo` has no policies")]),
    "there are no policies, and row security is off": (
        [DROP_POLICIES, "alter table todo disable row level security"],
        [("no policies", "table `public.todo` has no policies")],
    ),
    "it is not there": (["drop table todo"], [("missing", "table `public.todo` does not exist")]),
    "a policy is missing": (
        ["drop policy rlskit_select on todo"],
        [
            (
                "differences",
                "the database is not as the rules say: 1 difference: public.todo: create policy rlskit_select",
            )
        ],
    ),
    "somebody else's policy lets everybody in": (
        [APP_MAY_DO_ALL],
        [
            (
                "differences",
                "the database is not as the rules say: 1 difference: public.todo: the permissive policy `everybody` is not rlskit's",
            )
        ],
    ),
    "row security is off, and more": (
        ["alter table todo disable row level security", APP_MAY_DO_ALL, "alter table note alter owner drop default"],
        [
            ("off", "table `public.todo` has policies, and its row security is off: they bind nobody"),
            (
                "differences",
                "the database is not as the rules say: 2 other differences: public.note: let owner default to the caller's name; public.todo: ",
            ),
        ],
    ),
    "the owner column cannot hold an owner": (
        ["drop table todo", "create table todo (owner int)"],
        [("no policies", "table `public.todo` has no policies"), ("impossible", "…")],
    ),
}


@pytest.mark.parametrize("how", TABLE)
def test_a_table_whose_rules_do_not_bind_is_told(how: str, conn: psycopg.Connection[Any], rules: Rules) -> None:
    statements, expected = TABLE[how]
    found = spoilt(conn, rules, *statements)

    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    for (kind, text), (_, words) in zip(found, expected, strict=True):
        assert kind == "impossible" or (text.startswith(words) if kind == "differences" else text == words)


def test_each_finding_names_its_table_and_the_way_out(conn: psycopg.Connection[Any], rules: Rules) -> None:
    conn.execute("alter table todo no force row level security")
    (found,) = findings(conn, rules)

    assert found == Finding(
        rules.tables[1].name,
        "not forced",
        "row security of table `public.todo` is not forced: it does not bind the owner of the table",
        "alter table public.todo force row level security, or rlskit apply",
    )
    assert str(found) == f"{found.text}\nhint: {found.hint}"


def test_a_runtime_that_is_missing_or_older_is_told(
    conn: psycopg.Connection[Any], rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("drop schema rlskit cascade")
        missing = spoilt(conn, rules)
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "version", lambda: "0009")
        older = spoilt(conn, rules)

    assert missing[0] == ("runtime", "this database has no schema rlskit")
    assert older[0] == ("runtime", "the schema rlskit has version 0001, and this package needs 0009")


def test_a_role_that_does_not_exist_is_told(conn: psycopg.Connection[Any]) -> None:
    (found,) = findings(conn, Rules(*TABLES, role="nobody_has_this_name"))

    assert (found.kind, found.text) == ("no role", "role `nobody_has_this_name` does not exist")


def test_only_a_superuser_may_ask(ruled: Database, rules: Rules) -> None:
    with ruled.connect_as_owner() as conn:
        with pytest.raises(PlanError, match="may not look at the database as role"):
            findings(conn, rules)
        assert conn.info.transaction_status == TransactionStatus.IDLE


def test_the_session_of_whoever_asks_is_no_matter(ruled: Database, rules: Rules) -> None:
    """An identity on it, its search_path, its row_security: none of that is the role's."""
    with ruled.connect() as conn:
        conn.execute("set rlskit.sub = 'somebody'; set search_path = pg_temp; set row_security = off")

        assert findings(conn, rules) == ()
