"""`rlskit test`: exit codes, what stands on which stream, the copy, the files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from rlskit import load, plan
from rlskit.cli import app
from rlskit.errors import PlanError
from rlskit.prover.copies import copied
from tests.support import Database, Server, fresh_database

RULES = """
role = "{role}"
[tables.todo]
allow = [{{ owner = "owner" }}]
[tables.coded]
allow = [{{ owner = "owner" }}]
"""


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Database]:
    with fresh_database(server, "proving") as database:
        database.execute(
            "create table todo (id serial primary key, content text)",
            "create table coded (id serial primary key, code text not null check (md5(code) = '54ef36ec71201fdf9d1423fd26f97f6b'))",
        )
        rules = load(tomllib.loads(RULES.format(role=database.app)))
        with database.connect_as_owner() as conn:
            plan(conn, rules).apply(conn)
        yield database


@pytest.fixture
def given(made: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    (tmp_path / "rlskit.toml").write_text(RULES.format(role=made.app))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", made.superuser_dsn)
    monkeypatch.delenv("RLSKIT_RULES", raising=False)
    return made


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["test", *arguments])


def test_a_proof_exits_0_and_its_progress_is_apart(given: Database) -> None:
    result = ran("todo", "--junit", "cells.xml")

    assert result.exit_code == 0, result.output
    assert "public.todo: allow.owner()" in result.stdout
    assert result.stderr.startswith("public.todo: ")
    assert ElementTree.parse("cells.xml").getroot().get("failures") == "0"


def test_what_cannot_be_made_up_is_said_in_a_file(given: Database, tmp_path: Path) -> None:
    red = ran("coded")
    (tmp_path / "values.toml").write_text("[coded]\ncode = 'open sesame'\n")
    green = ran("coded", "--values", "values.toml", "--format", "json")

    assert (red.exit_code, green.exit_code) == (1, 0)
    assert "its rows could not be made" in red.stdout
    assert json.loads(green.stdout)["clean"]


def test_a_values_file_that_is_none_is_refused(given: Database, tmp_path: Path) -> None:
    (tmp_path / "values.toml").write_text("code = 1\n")

    assert ran("--values", "values.toml").exit_code == 2


def test_a_login_that_may_not_is_refused(given: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", given.owner_dsn)
    result = ran("todo")

    assert isinstance(result.exception, PlanError)  # main() makes exit code 2 of it
    assert "superuser" in result.exception.hint


def test_a_copy_is_made_and_dropped_and_so_is_what_an_earlier_run_left(given: Database) -> None:
    with given.connect(autocommit=True) as conn:
        conn.execute("create database rlskit_proof_left")
        conn.execute(
            f"comment on database rlskit_proof_left is 'rlskit test: a copy of {given.name}, for a proof'".encode()
        )
    result = ran("todo", "--copy")

    assert result.exit_code == 0, result.output
    assert "dropping `rlskit_proof_left`, which an earlier run left" in result.stderr
    assert given.rows("select datname from pg_database where starts_with(datname, 'rlskit_proof_')") == []


OF_THE_DATABASE = """
    select pg_get_userbyid(datdba)::text, setconfig, has_database_privilege(%s, database.oid, 'create')
    from pg_database as database left join pg_db_role_setting on setdatabase = database.oid and setrole = 0
    where datname = %s
"""


def test_a_copy_has_what_postgresql_does_not_copy(given: Database) -> None:
    """Its owner, its settings, who may create in it: each of them can open a database, and a proof in a copy would not notice."""
    with given.connect(autocommit=True) as conn:
        try:
            conn.execute(f"grant create on database {given.name} to {given.app}".encode())
            for setting in (
                "session_replication_role = replica",
                "app.motto = 'a, \"b\"'",
                'search_path = "a ""b, c", public',
            ):
                conn.execute(f"alter database {given.name} set {setting}".encode())
            with copied(conn) as name:
                origin, copy = (
                    conn.execute(OF_THE_DATABASE, [given.app, each]).fetchone() for each in (given.name, name)
                )
        finally:
            conn.execute(f"alter database {given.name} reset all".encode())
            conn.execute(f"revoke create on database {given.name} from {given.app}".encode())

    assert (
        copy
        == origin
        == (
            given.owner,
            ["session_replication_role=replica", 'app.motto=a, "b"', 'search_path="a ""b, c", public'],
            True,
        )
    )


def test_a_copy_that_is_in_use_is_left_alone(given: Database) -> None:
    told: list[str] = []
    with given.connect() as conn, copied(conn) as first, given.connect() as other:
        with pytest.raises(PlanError, match="cannot be copied while others are connected to it: 1 now"):
            copied(other, told.append).__enter__()

        assert given.rows("select count(*) from pg_database where datname = %s", [first]) == [(1,)]
    assert told == []


def test_no_table_at_all_exits_1(given: Database, tmp_path: Path) -> None:
    (tmp_path / "rlskit.toml").write_text(f'role = "{given.app}"\n[tables.todo]\nunmanaged = {{ reason = "old" }}\n')
    result = ran()

    assert (result.exit_code, "0 of 0 cells proved" in result.stdout) == (1, True)
