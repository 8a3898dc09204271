"""An apply proves on the server that rows can be given away and that nobody sees more for it, before a table rests on it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

import rlskit
from rlskit import TableRules, allow, as_user, canary, ddl
from rlskit.errors import PlanError, UnsupportedRuleError
from tests.support import BOB, Database

TODO = TableRules("todo", allow.owner())
PROOF = "prove on this server that rows can be given away, and that nobody sees more for it"


@pytest.fixture
def todo(database: Database) -> Database:
    database.execute("create table todo (id int)")
    return database


def proofs(made: rlskit.Plan) -> list[str]:
    return [step.says for step in made if step.phase == "proof"]


def test_the_plan_says_that_it_will_be_proved(todo: Database) -> None:
    made = todo.plan(TODO)

    assert [step.says for step in made][:2] == ["install the schema rlskit, version 0001", PROOF]
    assert "rollback;" in made.sql()


@pytest.mark.parametrize(
    "rules",
    [
        TableRules("todo", allow.owner(), reassign="never"),
        TableRules("todo", allow.owner(), reassign="explicit"),
        TableRules("todo", allow.owner(), columns={"owner": allow.same().to("read", "delete")}),
    ],
)
def test_what_does_not_rest_on_it_needs_no_proof(rules: TableRules, todo: Database) -> None:
    assert proofs(todo.plan(rules)) == []


def test_a_table_that_has_it_is_not_proved_again(todo: Database) -> None:
    todo.apply(TODO)
    todo.execute("alter table todo alter owner drop default")

    assert proofs(todo.plan(TODO)) == []


def test_it_leaves_nothing_behind(todo: Database) -> None:
    todo.apply(TODO)

    assert todo.rows("select relname from pg_class where relname ~ 'canary'") == []


# --- whoever applies -------------------------------------------------------------------------------------------------


def test_a_superuser_proves_it_as_the_applications_role(todo: Database) -> None:
    with todo.connect() as conn:
        rlskit.plan(conn, todo.rules(TODO)).apply(conn)

    assert todo.plan(TODO).conforms


@pytest.fixture
def bypassing(todo: Database) -> Iterator[str]:
    name = f"{todo.name}_bypassing"
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"create role {name} login bypassrls in role {todo.owner}")
    yield name
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"drop owned by {name} cascade")
        admin.execute(f"drop role {name}")


def test_who_is_bound_by_no_rule_and_may_not_become_one_who_is_cannot_prove_it(todo: Database, bypassing: str) -> None:
    todo.apply()
    with psycopg.connect(todo.superuser_dsn, user=bypassing) as conn:
        made = rlskit.plan(conn, todo.rules(TODO))
        with pytest.raises(PlanError) as caught:
            made.apply(conn)

    assert caught.value.message == (
        f'the schema rlskit: "{bypassing}" is bound by no rule and may not become "{todo.app}",'
        " so it could not be proved that rows can be given away here"
    )
    assert caught.value.hint == 'Grant it that role, or say reassign = "explicit" or "never".'
    assert todo.rows("select count(*) from pg_policies") == [(0,)]


def test_it_can_where_it_has_been_granted_the_role(todo: Database, bypassing: str) -> None:
    todo.apply()
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"grant {todo.app} to {bypassing}")
    with psycopg.connect(todo.superuser_dsn, user=bypassing) as conn:
        rlskit.plan(conn, todo.rules(TODO)).apply(conn)


def test_without_the_right_to_a_temporary_table_nothing_is_begun(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"revoke temporary on database {todo.name} from public")
        admin.execute(f"alter database {todo.name} owner to current_user")
        admin.execute(f"grant create on database {todo.name} to {todo.owner}")
    with pytest.raises(PlanError) as caught:
        todo.plan(TODO)

    assert (
        caught.value.hint
        == f'grant temporary on database "{todo.name}" to "{todo.owner}", or say reassign = "explicit" or "never"'
    )
    todo.apply(TableRules("todo", allow.owner(), reassign="never"))


# --- a server that is otherwise --------------------------------------------------------------------------------------

ARM = "(ctid = '(4294967295,0)'::tid and "


@pytest.mark.parametrize(
    ("piece", "instead", "said"),
    [
        (ARM, "(false and ", "this server does not let an UPDATE give a row away: new row violates row-level security"),
        (ARM, "(", "a row that was given away is still where it was"),
        (
            "do $rlskit$",
            "drop trigger zz_rlskit_reassign on pg_temp.rlskit_canary;\ndo $rlskit$",
            "this server does not let",
        ),
    ],
    ids=["no arm", "stored rows in the arm", "no trigger"],
)
def test_what_does_not_hold_is_told(piece: str, instead: str, said: str, database: Database) -> None:
    """The script with one piece broken, as on a server on which that piece would not do what it does here."""
    database.apply()
    script = canary.script(database.app)
    assert piece in script

    with (
        database.connect_as_owner(autocommit=True) as conn,
        pytest.raises(psycopg.errors.RaiseException, match=said),
    ):
        conn.execute(script.replace(piece, instead).encode())


# --- where rows are kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [False, True], ids=["the table", "a partition"])
def test_another_way_to_keep_rows_is_refused(part: bool, database: Database) -> None:
    """What a row version has for a place before it is stored is known of PostgreSQL's own tables only."""
    method = f"{database.name}_heap"
    with database.connect(autocommit=True) as admin:
        admin.execute(f"create access method {method} type table handler heap_tableam_handler")
    if part:
        database.execute(
            "create table todo (id int) partition by list (id)",
            f"create table todo_1 partition of todo for values in (1) using {method}",
        )
    else:
        database.execute(f"create table todo (id int) using {method}")
    with pytest.raises(UnsupportedRuleError) as caught:
        database.plan(TODO)

    assert caught.value.message == (
        f"table `public.todo{'_1' if part else ''}` keeps its rows by the access method `{method}`, under which a plain UPDATE cannot give them away"
    )
    assert caught.value.hint == 'say reassign="explicit" or "never", or protect the owner column'
    database.apply(TableRules("todo", allow.owner(), reassign="explicit"))


@pytest.mark.parametrize("part", ["partition", "child"])
def test_a_foreign_table_that_becomes_a_part_shows_nothing_and_is_told(part: str, database: Database) -> None:
    """Its rows have no place, as if they were not stored yet."""
    file = database.server.running.directory / f"{database.name}.csv" if database.server.running.directory else None
    assert file is not None
    file.write_text("2,secret,a1f0::alice\n")
    file.chmod(0o644)
    database.execute(
        "create table todo (id int, content text, owner text)"
        + (" partition by list (id)" if part == "partition" else "")
    )
    database.apply(TODO)
    with database.connect(autocommit=True) as admin:
        admin.execute("create extension file_fdw; create server files foreign data wrapper file_fdw")
        columns = "partition of todo for values in (2)" if part == "partition" else "() inherits (todo)"
        admin.execute(f"create foreign table todo_2 {columns} server files options (filename '{file}', format 'csv')")
        admin.execute(f"alter foreign table todo_2 owner to {database.owner}")
        assert admin.execute("select count(*) from todo").fetchone() == (1,)
    with database.connect_as_app() as conn, as_user(conn, BOB):
        conn.execute("select set_config('rlskit.moving_to', 'a1f0::alice', true)")
        assert conn.execute("select * from todo").fetchall() == []

    with pytest.raises(PlanError, match=r"`public\.todo_2` is a part of table `public\.todo` and a foreign table"):
        database.plan(TODO)


def test_a_role_with_quotes_in_its_name(database: Database) -> None:
    assert ddl.text(sql.Literal('it\'s "odd"')) in canary.script('it\'s "odd"')
