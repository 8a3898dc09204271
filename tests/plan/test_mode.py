"""Whether identities have to be signed is a part of the plan; and so is it that nobody but their owner reads the keys."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from threading import Thread
from time import monotonic
from typing import Any

import psycopg
import pytest

import rlskit
from rlskit import SigningKey, TableRules, allow, as_user, guard, keyring, runtime
from rlskit.errors import BypassingRoleError, PlanError, SigningKeyError
from rlskit.installer import install, uninstall, without_tables
from rlskit.planner import compare
from tests.support import ALICE, BOB, Database, Server, fresh_database, full

KEY = SigningKey.generate("first")
TODO = TableRules("todo", allow.owner(), reassign="never")
ONLY_SIGNED = "take signed identities only"
BOTH = "take identities as they are, signed or not"
CLOSES = "close the keys of signed identities"


@pytest.fixture
def todo(database: Database) -> Database:
    database.execute("create table todo (id int)")
    return database


def made_signed(database: Database) -> Database:
    database.apply(TODO, mode="signed")
    with database.connect_as_owner() as conn:
        keyring.add(conn, KEY)
    return database


@pytest.fixture
def signed(todo: Database) -> Database:
    return made_signed(todo)


@pytest.fixture(scope="module")
def standing(server: Server) -> Iterator[Database]:
    """The same, for all that leave its rules and its mode as they are."""
    with fresh_database(server, "mode") as database:
        database.execute("create table todo (id int)")
        yield made_signed(database)


@pytest.fixture
def keyed(standing: Database) -> Iterator[Database]:
    """With that one key, whatever was done to them before."""
    yield standing
    standing.execute("delete from rlskit.key where kid <> 'first'")


def is_signed(database: Database) -> bool:
    ((answer,),) = database.rows("select rlskit.is_signed()")
    return bool(answer)


def keys(database: Database) -> list[Any]:
    return [kid for (kid,) in database.rows("select kid from rlskit.key")]


def says(plan: rlskit.Plan) -> list[str]:
    return [step.says for step in plan]


# --- plan, apply, check ------------------------------------------------------------------------------------------------


def test_a_fresh_database_takes_signed_identities_from_the_beginning(todo: Database) -> None:
    plan = todo.plan(TODO, mode="signed")
    assert says(plan)[:2] == ["install the schema rlskit, version 0001", ONLY_SIGNED]
    assert f"  {ONLY_SIGNED}: an application without a key is nobody from now on: rlskit keys add makes one" in str(
        plan
    )

    todo.apply(TODO, mode="signed")
    assert is_signed(todo)
    assert todo.plan(TODO, mode="signed").conforms


def test_where_nobody_has_said_it_is_plain(todo: Database) -> None:
    todo.apply(TODO)

    assert not is_signed(todo)
    assert todo.plan(TODO, mode="plain").conforms


@pytest.mark.parametrize(
    ("mode", "words", "why"),
    [
        ("signed", ONLY_SIGNED, "an application without a key is nobody from now on: rlskit keys add makes one"),
        ("plain", BOTH, "whoever can send SQL can be anybody from now on"),
    ],
)
def test_an_existing_database_is_switched_and_the_plan_says_so(mode: Any, words: str, why: str, todo: Database) -> None:
    todo.apply(TODO, mode="signed" if mode == "plain" else "plain")
    rules = todo.rules(TODO, mode=mode)
    with todo.connect_as_app() as conn:  # who may read the catalogue is told too
        assert [(step.says, step.why, step.lock) for step in compare(conn, rules)] == [(words, why, None)]

    todo.apply(TODO, mode=mode)
    assert is_signed(todo) == (mode == "signed")
    assert todo.plan(TODO, mode=mode).conforms


@pytest.mark.parametrize("mode", ["signed", "plain"])
def test_rules_that_say_nothing_of_it_leave_it(mode: Any, todo: Database) -> None:
    todo.apply(TODO, mode=mode)
    assert todo.plan(TODO).conforms
    todo.apply(TableRules("todo", allow.owner()))
    with todo.connect_as_owner() as conn:
        rlskit.plan(conn, without_tables(todo.rules(TODO, mode="plain"))).apply(conn)
        install(conn)

    assert is_signed(todo) == (mode == "signed")


@pytest.mark.parametrize("mode", ["signed", "plain"])
def test_a_file_of_rules_says_it_as_they_do(mode: Any, todo: Database) -> None:
    given = {"role": todo.app, "mode": mode, "tables": {"todo": {"allow": [{"owner": "owner"}], "reassign": "never"}}}
    assert rlskit.load(given) == todo.rules(TODO, mode=mode)


# --- without a plan ----------------------------------------------------------------------------------------------------


def by_psycopg(database: Database, script: str) -> None:
    with database.connect_as_owner(autocommit=True) as conn:
        conn.execute(script.encode())


def by_psql(database: Database, script: str) -> None:
    command = [database.server.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", database.owner_dsn]
    subprocess.run(command, input=script, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("mode", ["signed", "plain"])
def test_the_whole_sql_says_it(mode: Any, todo: Database) -> None:
    script = rlskit.sql(todo.rules(TODO, mode=mode))
    assert f"\ncall rlskit.require_signatures({str(mode == 'signed').lower()});\n" in script
    todo.apply(TODO, mode="plain" if mode == "signed" else "signed")
    by_psql(todo, script)

    assert todo.plan(TODO, mode=mode).conforms


RERUNS: dict[str, Callable[[Database], None]] = {
    "the runtime, by psql": lambda database: by_psql(database, runtime.script("runtime.sql")),
    "the runtime, by psycopg": lambda database: by_psycopg(database, runtime.script("runtime.sql")),
    "all that rlskit sql prints": lambda database: by_psql(database, rlskit.sql(database.rules(TODO))),
}


@pytest.mark.parametrize("run", RERUNS)
def test_what_is_run_again_keeps_the_mode_and_the_keys(run: str, signed: Database) -> None:
    RERUNS[run](signed)

    assert is_signed(signed)
    assert keys(signed) == ["first"]
    with signed.connect_as_app() as conn:
        guard(conn, key=KEY)
        with as_user(conn, ALICE):
            conn.execute("insert into todo (id) values (1)")


def test_installed_by_itself_it_takes_the_mode_that_is_said(database: Database) -> None:
    with database.connect_as_owner() as conn:
        assert [step.says for step in install(conn, mode="signed")] == [
            "install the schema rlskit, version 0001",
            ONLY_SIGNED,
        ]
        assert is_signed(database)
        assert install(conn, mode="signed") == ()
        assert [step.says for step in install(conn, mode="plain")] == [BOTH]
    assert not is_signed(database)


def test_taken_away_the_schema_takes_the_keys_along(signed: Database) -> None:
    with signed.connect_as_owner() as conn:
        rlskit.plan(conn, without_tables(signed.rules(TODO))).apply(conn)
        uninstall(conn)
        assert signed.rows("select to_regclass('rlskit.key'), to_regnamespace('rlskit')") == [(None, None)]
        install(conn)
    assert (keys(signed), is_signed(signed)) == ([], False)


# --- the proof that rows can be given away -----------------------------------------------------------------------------


def test_the_proof_asks_as_people_for_whom_nobody_signs_and_leaves_the_mode(signed: Database) -> None:
    plan = signed.plan(TableRules("todo", allow.owner()), mode="signed")
    assert plan[0].phase == "proof"
    signed.apply(TableRules("todo", allow.owner()), mode="signed")

    assert is_signed(signed)
    with signed.connect_as_app() as conn:
        guard(conn, key=KEY)
        with as_user(conn, ALICE):
            conn.execute("insert into todo (id) values (1)")
            assert conn.execute("update todo set owner = %s", [full(BOB)]).rowcount == 1
        with as_user(conn, BOB):
            assert conn.execute("select id from todo").fetchall() == [(1,)]


def test_a_proof_that_fails_leaves_the_mode(signed: Database) -> None:
    script = rlskit.canary.script(signed.app).replace("do $rlskit$", "do $$ begin raise 'broken'; end $$;\ndo $rlskit$")
    with signed.connect_as_owner(autocommit=True) as conn, pytest.raises(psycopg.errors.RaiseException, match="broken"):
        conn.execute(script.encode())

    assert is_signed(signed)


def test_who_does_not_own_the_schema_cannot_prove_it_where_signatures_are_required(todo: Database) -> None:
    """The proof needs people for whom nobody signs; it is for the owner of the schema to let them in for a moment."""
    with todo.connect() as admin:
        install(admin, mode="signed")
    with pytest.raises(PlanError) as caught:
        todo.apply(TableRules("todo", allow.owner()))

    assert str(caught.value) == (
        "the schema rlskit: permission denied for schema rlskit\nhint: connect as its owner, or let a DBA run it"
    )
    todo.apply(TODO)
    assert is_signed(todo)


# --- the keys are their owner's alone ----------------------------------------------------------------------------------


def accepts(database: Database) -> None:
    """Signatures are accepted, and the application reads no key."""
    with database.connect_as_app() as conn:
        guard(conn, key=KEY)
        with as_user(conn, ALICE):
            pass
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select outer_pad from rlskit.key")


@pytest.mark.parametrize("whom", ["{app}", "public", "{app} with grant option"])
def test_default_privileges_that_open_tables_do_not_open_the_keys(whom: str, todo: Database) -> None:
    todo.execute(f"alter default privileges grant all on tables to {whom.format(app=todo.app)}")
    todo.apply(TODO, mode="signed")
    with todo.connect_as_owner() as conn:
        keyring.add(conn, KEY)

    accepts(todo)
    assert todo.plan(TODO, mode="signed").conforms


@pytest.fixture
def group(keyed: Database) -> Iterator[str]:
    """A role that the application's login is in."""
    name = f"{keyed.name}_group"
    with keyed.connect(autocommit=True) as admin:
        admin.execute(f"create role {name} in role {keyed.owner}")
        admin.execute(f"revoke {keyed.owner} from {name}")
        admin.execute(f"grant {name} to {keyed.app}")
    yield name
    with keyed.connect(autocommit=True) as admin:
        admin.execute(f"drop owned by {name} cascade")
        admin.execute(f"drop role {name}")


OPENED: dict[str, tuple[str, ...]] = {
    "to the application": ("grant select on rlskit.key to {app}",),
    "to be written": ("grant insert on rlskit.key to {app}",),
    "to everybody": ("grant select on rlskit.key to public",),
    "with all other tables": ("grant select on all tables in schema rlskit to {app}",),
    "to a role that the application has": ("grant select on rlskit.key to {group}",),
    "a column": ("grant select (outer_pad) on rlskit.key to {app}",),
    "a column, to everybody": ("grant select (inner_pad), insert (kid) on rlskit.key to public",),
    "with the right to give it on": (
        "grant select on rlskit.key to {group} with grant option",
        "set role {group}",
        "grant select on rlskit.key to {app}",
    ),
}


@pytest.mark.parametrize("opened", OPENED)
def test_keys_that_were_opened_are_refused_told_and_closed(opened: str, group: str, keyed: Database) -> None:
    with keyed.connect(autocommit=True) as admin:
        admin.execute(f"grant {group} to {keyed.owner}")
    keyed.execute(*(each.format(app=keyed.app, group=group) for each in OPENED[opened]))
    with keyed.connect_as_app() as conn, pytest.raises(BypassingRoleError) as caught:
        guard(conn, key=KEY)
    assert str(caught.value) == (
        f"login `{keyed.app}` has a privilege on rlskit.key, and could sign as anybody\n"
        "hint: rlskit apply takes it away, and so does rlskit install"
    )

    plan = keyed.plan(TODO)
    assert [(step.says, step.why) for step in plan] == [
        (CLOSES, "somebody but their owner has a privilege on rlskit.key, and could sign as anybody")
    ]
    keyed.apply(TODO)
    accepts(keyed)
    assert keys(keyed) == ["first"]
    assert is_signed(keyed)


def test_a_group_of_others_that_reads_the_keys_is_told_too(group: str, keyed: Database) -> None:
    with keyed.connect(autocommit=True) as admin:
        admin.execute(f"revoke {group} from {keyed.app}")
        admin.execute(f"grant select on rlskit.key to {group}")
    accepts(keyed)
    assert says(keyed.plan(TODO)) == [CLOSES]

    with keyed.connect_as_owner() as conn:
        assert [step.says for step in install(conn)] == [CLOSES]
    assert keyed.plan(TODO).conforms


# --- keys, by their owner ----------------------------------------------------------------------------------------------


def test_keys_are_added_listed_and_retired(keyed: Database) -> None:
    with keyed.connect_as_owner() as conn:
        keyring.add(conn, SigningKey.generate("second"))
        keyring.add(conn, SigningKey.generate("third"))
        assert [each.kid for each in keyring.known(conn)] == ["first", "second", "third"]
        with pytest.raises(SigningKeyError) as caught:
            keyring.add(conn, SigningKey.generate("second"))
        assert str(caught.value) == "there is a key `second` already\nhint: give the new one another name"
        assert caught.value.__cause__ is None
        keyring.retire(conn, "second")
        assert [each.kid for each in keyring.known(conn)] == ["first", "third"]
        with pytest.raises(SigningKeyError) as caught:
            keyring.retire(conn, "second")
        assert str(caught.value) == "there is no key `second`\nhint: rlskit keys list names them"


@pytest.mark.parametrize(
    "what", [keyring.known, lambda conn: keyring.add(conn, KEY), lambda conn: keyring.retire(conn, "first")]
)
def test_the_keys_are_not_the_applications(what: Callable[[psycopg.Connection[Any]], object], keyed: Database) -> None:
    with keyed.connect_as_app() as conn, pytest.raises(PlanError) as caught:
        what(conn)
    assert str(caught.value) == (
        "the keys are not this login's to see or to change: permission denied for table key\n"
        "hint: connect as the owner of the schema rlskit"
    )


def test_the_secret_stands_in_no_statement_and_in_no_table(keyed: Database) -> None:
    """There are the two keys that HMAC makes of it, which are as good; so nobody reads them."""
    second = SigningKey.generate("second")
    query = "select query from pg_stat_activity where pid = %s"
    with keyed.connect_as_owner(autocommit=True) as conn, keyed.connect_as_owner() as busy:
        busy.execute("lock rlskit.key in access exclusive mode")  # so that the other one waits, and can be looked at
        thread = Thread(target=keyring.add, args=(conn, second), daemon=True)
        thread.start()
        deadline = monotonic() + 20
        while (row := busy.execute(query, [conn.info.backend_pid]).fetchone()) is None or "add_key" not in row[0]:
            assert monotonic() < deadline
            busy.execute("select pg_stat_clear_snapshot()")
        busy.rollback()
        thread.join(20)
    assert row == ("call rlskit.add_key($1, $2)",)
    ((stored,),) = keyed.rows("select key::text from rlskit.key where kid = 'second'")
    assert second.secret.hex() not in stored


@pytest.mark.parametrize("length", [0, 31, 65])
def test_the_database_refuses_a_secret_of_another_length_and_a_strange_name(length: int, keyed: Database) -> None:
    with keyed.connect_as_owner() as conn:
        for kid, secret in (("second", b"x" * length), ("a.b", KEY.secret), (None, KEY.secret), ("second", None)):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="a key has a name of at most 32 letters"):
                conn.execute("call rlskit.add_key(%s, %s)", [kid, secret])
            conn.rollback()


@pytest.mark.parametrize("length", [32, 33, 63, 64])
def test_a_secret_of_any_length_between_signs(length: int, keyed: Database) -> None:
    key = SigningKey(f"of-{length}", bytes(range(255, 255 - length, -1)))
    with keyed.connect_as_owner() as conn:
        keyring.add(conn, key)
    with keyed.connect_as_app() as conn:
        guard(conn, key=key)
        with as_user(conn, ALICE):
            assert conn.execute("select rlskit.identity()").fetchone() == (full(ALICE),)
