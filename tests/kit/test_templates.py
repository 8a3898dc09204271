"""What a test database is made of, and what is refused before the first test: a database or a login in which a green test would mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import rlskit
from rlskit.errors import BypassingRoleError, KitError, RlskitError
from rlskit.rules import Rules
from rlskit.server import Running
from rlskit.testing import TestServer, denied, factories, keeper, person
from rlskit.testing.templates import Load, Recipe, template
from tests.kit.conftest import ROLE, RULES
from tests.support import Server


def apply(dsn: str) -> None:
    """What a migration does that applies the rules."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        rlskit.plan(conn, RULES).apply(conn)


def then(*statements: str) -> Load:
    def load(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    return load


def write(folder: Path, **files: str) -> tuple[str, ...]:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text, encoding="utf-8")
    return tuple(f"{name}.sql" for name in files)


@pytest.fixture
def folder(tmp_path: Path, recipe: Recipe) -> Path:
    (tmp_path / "schema.sql").write_text((recipe.root / "schema.sql").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


@pytest.fixture
def here(recipe: Recipe, folder: Path) -> Recipe:
    """The same, in a folder of the test's own: a template is made for it."""
    return replace(recipe, root=folder)


def refused(kit: TestServer, recipe: Recipe) -> RlskitError:
    with pytest.raises(RlskitError) as caught:
        template(kit, recipe)
    return caught.value


def test_what_failed_once_fails_again_and_is_not_tried(kit: TestServer, here: Recipe) -> None:
    tried = []

    def load(dsn: str) -> None:
        tried.append(dsn)
        raise KitError("no")

    recipe = replace(here, load=(load,))

    assert [str(refused(kit, recipe)), str(refused(kit, recipe)), len(tried)] == ["no", "no", 1]


def test_a_copy_has_the_settings_of_its_template(kit: TestServer, here: Recipe) -> None:
    set_one = "do $$ begin execute format('alter database %I set work_mem = %L', current_database(), '5MB'); end $$"
    recipe = replace(here, load=("schema.sql", then(set_one)))
    with factories.for_test(kit, recipe, "database") as made, made.as_user("alice") as conn:
        found = conn.execute("select current_setting('work_mem')").fetchone()

    assert found == ("5MB",)


# --- what was loaded -------------------------------------------------------------------------------------------------


def test_rules_that_were_loaded_are_checked_and_not_applied(kit: TestServer, here: Recipe) -> None:
    loaded = replace(here, load=("schema.sql", apply))

    assert template(kit, loaded) is template(kit, loaded)


DIFFERENCES = {
    "row security is off": ("alter table todo disable row level security", "has policies, and its row security is off"),
    "not forced": ("alter table todo no force row level security", "row security of table `public.todo` is not forced"),
    "a policy less": (
        "drop policy rlskit_select on todo",
        "table .public.todo. differs from the rules: .*policy rlskit_select",
    ),
    "a privilege more": (f"grant update on todo to {ROLE}", "table .public.todo. differs from the rules: "),
    "a policy of somebody else's": (
        f"create policy everybody on todo to {ROLE} using (true)",
        "table `public.todo`: .*everybody",
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_each_difference_is_an_error_that_names_it(kit: TestServer, here: Recipe, what: str) -> None:
    statement, message = DIFFERENCES[what]
    error = refused(kit, replace(here, load=("schema.sql", apply, then(statement))))

    assert isinstance(error, KitError)
    assert "a green test would mean nothing in this database" in error.message
    with pytest.raises(KitError, match=message):
        raise error


def test_the_kit_applies_on_top_where_it_is_told_to(kit: TestServer, here: Recipe) -> None:
    off = then("alter table todo disable row level security")

    assert template(kit, replace(here, load=("schema.sql", apply, off), apply=True))


def test_rules_that_nobody_applied_are_told(kit: TestServer, here: Recipe) -> None:
    error = refused(kit, replace(here, apply=False))

    assert "this database has no schema rlskit" in error.message


def test_signed_identities_are_signed_with_a_key_of_the_run(kit: TestServer, here: Recipe) -> None:
    signed = replace(here, rules=Rules(*RULES.tables, role=ROLE, mode="signed"))
    for isolation in factories.ISOLATIONS:
        with factories.for_test(kit, signed, isolation) as made:
            with made.as_user("alice") as conn:
                assert conn.execute("select rlskit.identity()").fetchone() == ("alice-sub::alice",)
            with made.as_user("alice").session() as session:
                assert session.connection().exec_driver_sql("select rlskit.identity()").scalar() == "alice-sub::alice"

    assert made.key is not None


# --- files and functions ---------------------------------------------------------------------------------------------


def test_a_mistake_in_a_file_is_told_with_its_line(kit: TestServer, here: Recipe, folder: Path) -> None:
    error = refused(kit, replace(here, load=write(folder, wrong="select 1;\n\nselect nothing;\n")))

    assert error.message == 'wrong.sql, line 3: column "nothing" does not exist'


def test_what_needs_a_superuser_is_told_to_be_prepared(kit: TestServer, here: Recipe, folder: Path) -> None:
    (file,) = write(folder, roles="create role kit_reporting")
    error = refused(kit, replace(here, load=("schema.sql", file)))

    assert (error.message, "rlskit_prepare" in error.hint) == ("roles.sql: permission denied to create role", True)
    assert template(kit, replace(here, prepare=(file,)))


def test_a_role_that_is_there_already_is_told(kit: TestServer, here: Recipe, folder: Path) -> None:
    error = refused(kit, replace(here, prepare=write(folder, twice="create role kit_twice; create role kit_twice")))

    assert (error.message, "DO block" in error.hint) == ('twice.sql: role "kit_twice" already exists', True)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("missing.sql", "`.*missing.sql` cannot be read: FileNotFoundError"),
        ("no_such_module:load", "there is no `no_such_module:load` to load with"),
        ("os:no_such_function", "there is no `os:no_such_function` to load with"),
    ],
)
def test_what_cannot_be_loaded_is_told(kit: TestServer, here: Recipe, load: str, message: str) -> None:
    with pytest.raises(KitError, match=message):
        template(kit, replace(here, load=(load,)))


# --- logins ----------------------------------------------------------------------------------------------------------

LOGINS = {
    "a superuser": ("create role kit_a login superuser", "login `kit_a` is a superuser"),
    "BYPASSRLS": ("create role kit_b login bypassrls", "login `kit_b` has BYPASSRLS"),
    "a member of a superuser": ("create role kit_d login in role postgres", "login `kit_d` is a member of `postgres`"),
}


@pytest.mark.parametrize("what", LOGINS)
def test_a_login_that_bypasses_is_refused_before_the_first_test(
    kit: TestServer, here: Recipe, folder: Path, what: str
) -> None:
    statement, message = LOGINS[what]
    login = statement.split()[2]
    with pytest.raises(BypassingRoleError, match=message):
        template(kit, replace(here, prepare=write(folder, logins=statement), login=login))


@pytest.mark.parametrize("owns", [True, False], ids=["the owner", "a member of the owner"])
def test_a_login_that_owns_is_refused_before_the_first_test(
    kit: TestServer, here: Recipe, folder: Path, owns: bool
) -> None:
    login = "kit_e" if owns else "kit_f"
    make = write(folder, logins=f"create role {login} login; grant {login} to current_user")

    def hand_over(dsn: str) -> None:
        """As a superuser would: the owner of the tables is the login, or the login is a member of theirs."""
        name = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        owner = str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])
        with closing(kit.connect(name)) as conn:
            if owns:
                conn.execute(f"alter table todo owner to {login}")  # type: ignore[call-overload]
            else:
                conn.execute(f"grant {owner} to {login}")  # type: ignore[call-overload]

    with pytest.raises(BypassingRoleError, match=f"login `{login}` (owns|is a member of .*, which owns) table"):
        template(kit, replace(here, prepare=make, login=login, load=("schema.sql", apply, hand_over)))


OWN_LOGIN = f"""
do $$ begin
  if not exists (select from pg_roles where rolname = '{ROLE}') then create role {ROLE}; end if;
end $$;
create role kit_own login in role {ROLE};
"""


def test_the_applications_own_login_asks(kit: TestServer, here: Recipe, folder: Path) -> None:
    own = replace(here, prepare=write(folder, logins=OWN_LOGIN), login="kit_own")
    with factories.for_test(kit, own, "transaction") as made, made.as_user("alice") as conn:
        assert conn.execute("select session_user::text").fetchone() == ("kit_own",)


def test_a_login_that_is_missing_is_told(kit: TestServer, here: Recipe) -> None:
    with pytest.raises(KitError, match="there is no login `kit_nobody`"):
        template(kit, replace(here, login="kit_nobody"))


def test_a_login_without_the_role_of_the_rules_is_refused(kit: TestServer, here: Recipe, folder: Path) -> None:
    """It could do nothing, and so every `assert_cannot` would be green."""
    with pytest.raises(KitError, match=f"login `kit_poor` does not have the role `{ROLE}`"):
        template(kit, replace(here, prepare=write(folder, logins="create role kit_poor login"), login="kit_poor"))


def test_a_login_without_a_way_in_is_told(kit: TestServer, here: Recipe, folder: Path) -> None:
    make = write(folder, logins="create role kit_closed nologin")
    with pytest.raises(KitError, match=r"the login for the tests cannot connect: .*not permitted to log in"):
        template(kit, replace(here, prepare=make, login="kit_closed"))


def test_rules_for_a_role_that_bypasses_are_refused(kit: TestServer, here: Recipe, folder: Path) -> None:
    rules = Rules(*RULES.tables, role="kit_mighty")
    make = write(folder, roles="create role kit_mighty superuser")
    error = refused(kit, replace(here, rules=rules, prepare=make))

    assert "kit_mighty" in error.message
    assert "superuser" in error.message


# --- one server, and what is left on it ------------------------------------------------------------------------------


@pytest.fixture
def passwords(server: Server) -> Iterator[Running]:
    """A server whose logins need passwords, as somebody else's has."""
    assert server.running.directory is not None
    file = server.running.directory / "data" / "pg_hba.conf"
    before = file.read_text(encoding="utf-8")
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        file.write_text("local all postgres trust\nlocal all all scram-sha-256\n", encoding="utf-8")
        conn.execute("select pg_reload_conf()")
        yield replace(server.running, provider="dsn")
        file.write_text(before, encoding="utf-8")
        conn.execute("select pg_reload_conf()")


def everything(dsn: str) -> set[tuple[Any, ...]]:
    with closing(psycopg.connect(dsn)) as conn:
        return {*conn.execute("select rolname::text from pg_roles union all select datname::text from pg_database")}


def test_a_server_with_passwords_is_left_as_it_was(passwords: Running, here: Recipe, folder: Path) -> None:
    rules = Rules(*RULES.tables, role="kit_rules")
    roles = "create role kit_left_over; create role kit_rules; create role kit_logs_in login in role kit_rules"
    make = replace(here, prepare=write(folder, roles=roles), rules=rules, login="kit_logs_in")
    before = everything(passwords.dsn)
    with keeper.at_work(passwords, "gw0") as first:
        with (
            keeper.at_work(passwords, "gw1") as second,
            factories.for_test(second, here, "transaction") as made,
            made.as_user("alice") as conn,
        ):
            assert conn.execute("select rlskit.identity()").fetchone() == ("alice-sub::alice",)
        with factories.for_test(first, make, "database") as made:
            todo = made.insert("todo", owner=person("alice"))
            made.assert_cannot("bob", "read", todo)
            with made.as_role("kit_left_over") as conn, denied(kind="table"):
                conn.execute("select from todo")
            rest = everything(passwords.dsn) - before
        assert ("kit_rules",) in everything(passwords.dsn)

    assert {("kit_left_over",), ("kit_rules",), ("kit_logs_in",)} <= rest
    assert everything(passwords.dsn) == before


@pytest.mark.parametrize("database", ["postgres", "kit_elsewhere"])
def test_what_another_run_needs_stays(kit: TestServer, recipe: Recipe, embedded: Running, database: str) -> None:
    """Also where its DSN names another database, in which the locks of this one are not seen."""
    template(kit, recipe)
    if database != "postgres":
        kit._execute("create database {}", database)
    dsn = make_conninfo(embedded.dsn, dbname=database)
    with (
        keeper.at_work(replace(embedded, provider="dsn", dsn=dsn), "other") as other,
        factories.for_test(other, recipe, "database"),
    ):
        pass

    assert (ROLE,) in everything(embedded.dsn)
    with factories.for_test(kit, recipe, "database") as made, made.as_user("alice"):
        pass


def test_a_dsn_that_is_no_superusers_is_refused(kit: TestServer, embedded: Running, recipe: Recipe) -> None:
    login = template(kit, recipe).login
    dsn = make_conninfo(embedded.dsn, user=login.name, password=login.password)
    with (
        pytest.raises(KitError, match=f"login `{login.name}` is no superuser"),
        keeper.at_work(replace(embedded, dsn=dsn)),
    ):
        pass


@pytest.mark.parametrize(
    ("dsn", "uri"),
    [
        ("host=db.example port=6543 user=root password=secret dbname=x", "postgresql://me:p%2Fw@db.example:6543/d%20b"),
        ("host=/tmp/a user=root", "postgresql://me:p%2Fw@/d%20b?host=%2Ftmp%2Fa"),
        ("postgresql://root:secret@db/x?sslmode=require", "postgresql://me:p%2Fw@db/d%20b?sslmode=require"),
    ],
    ids=["a host", "a socket", "a URI"],
)
def test_a_logins_dsn_has_nothing_of_the_superusers(dsn: str, uri: str) -> None:
    server = keeper.TestServer(Running(dsn, "18.6", "dsn"), None, "")  # type: ignore[arg-type]

    assert server.url("d b", keeper.Account("me", "p/w")) == uri
