"""`install` by itself: rights, a later version, and what it leaves behind when it cannot."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from rlskit import TableRules, allow, as_user, runtime
from rlskit.errors import PlanError
from rlskit.installer import install
from tests.support import ALICE, Database


def test_without_the_right_to_create_it_is_refused_and_the_connection_stays_usable(database: Database) -> None:
    with database.connect_as_app() as conn:
        with pytest.raises(PlanError) as caught:
            install(conn)
        assert conn.info.transaction_status == TransactionStatus.IDLE
        assert conn.execute("select current_setting('lock_timeout')").fetchone() == ("0",)
        assert conn.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        ).fetchone() == (0,)

    assert caught.value.message == f"the schema rlskit: permission denied for database {database.name}"


def test_a_schema_that_a_dba_made_in_advance_is_enough(database: Database) -> None:
    with database.connect(autocommit=True) as admin:
        admin.execute(f"create schema rlskit authorization {database.app}")
    with database.connect_as_app() as conn:
        install(conn)
        assert install(conn) == ()


def test_default_privileges_that_close_functions_do_not_close_the_rules(database: Database) -> None:
    database.execute("alter default privileges revoke execute on functions from public", "create table todo (id int)")
    database.apply(TableRules("todo", allow.owner()))
    with database.connect_as_app() as conn, as_user(conn, ALICE):
        assert conn.execute("select * from todo").fetchall() == []


def test_default_privileges_that_open_tables_do_not_open_the_version(database: Database) -> None:
    database.execute("alter default privileges grant all on tables to public")
    with database.connect_as_owner() as conn:
        install(conn)
    with database.connect_as_app() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("delete from rlskit.version")


def test_an_upgrade_runs_every_newer_file_in_one_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.connect_as_owner() as conn:
        install(conn)
        later = {"0002": "upgrade/0002_a.sql", "0003": "upgrade/0003_b.sql"}
        files: dict[str, Any] = {"upgrade/0002_a.sql": "create table rlskit.a ()", "upgrade/0003_b.sql": "select 1 / 0"}
        script = runtime.script
        monkeypatch.setattr(runtime, "upgrades", lambda: {"0001": "upgrade/0001_runtime.sql"} | later)
        monkeypatch.setattr(runtime, "script", lambda name: f"{files[name]};" if name in files else script(name))
        with pytest.raises(psycopg.errors.DivisionByZero):
            install(conn)
        assert database.rows("select to_regclass('rlskit.a'), (select version_num from rlskit.version)") == [
            (None, "0001")
        ]
        files["upgrade/0003_b.sql"] = "create table rlskit.b ()"
        assert [step.says for step in install(conn)] == ["upgrade the schema rlskit from version 0001 to 0003"]
        assert install(conn) == ()

    assert database.rows("select version_num from rlskit.version") == [("0003",)]


def test_an_older_runtime_is_not_put_over_a_newer_one(database: Database) -> None:
    with database.connect_as_owner(autocommit=True) as conn:
        conn.execute(runtime.script("runtime.sql"))
        conn.execute("update rlskit.version set version_num = '0002'")
        with pytest.raises(psycopg.errors.RaiseException, match="newer runtime of rlskit than 0001"):
            conn.execute(runtime.script("runtime.sql"))
        conn.execute("rollback")

    assert database.rows("select version_num from rlskit.version") == [("0002",)]


def test_no_operator_of_the_applications_is_run_by_whoever_installs(database: Database) -> None:
    """Where everybody may create in public, as in databases that began before PostgreSQL 15."""
    with database.connect(autocommit=True) as admin:
        admin.execute("grant create on schema public to public")
    with database.connect_as_app(autocommit=True) as app:
        app.execute(
            "create function public.evil(varchar, varchar) returns boolean language plpgsql as $$ begin raise 'evil'; end $$"
        )
        app.execute("create operator public.> (leftarg = varchar, rightarg = varchar, function = public.evil)")
    with database.connect(autocommit=True) as admin:
        for _ in range(2):
            admin.execute(runtime.script("runtime.sql"))
        admin.execute(runtime.script("upgrade/0001_runtime.sql"))
        assert admin.execute("show search_path").fetchone() == ('"$user", public',)
        admin.execute(runtime.script("uninstall.sql"))


@pytest.mark.parametrize(("one", "other"), [(("a:", "b"), ("a", ":b")), (("a", ":b"), ("a:", "b"))])
def test_no_two_people_share_a_spelling(one: tuple[str, str], other: tuple[str, str], database: Database) -> None:
    database.apply()
    with database.connect_as_app() as conn:
        for sub, username in (one, other):
            row = conn.execute(
                "select set_config('rlskit.sub', %s, true), set_config('rlskit.username', %s, true)", [sub, username]
            ).fetchone()
            assert row == (sub, username)
            assert conn.execute("select rlskit.identities(), rlskit.identity()").fetchone() == (None, None)
