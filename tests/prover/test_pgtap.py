"""The written pgTAP file: run by psql, with pgTAP on 15 where the extension is there, else with the stand-in of tap.sql.

``RLSKIT_REQUIRE_PGTAP=1`` makes a missing extension an error. Which of the two was used is told at the end of a run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlskit import TableRules, allow, prover
from rlskit.cli.shared import app
from tests.support import Database, Server, fresh_database

SCHEMA = """
create table project (id uuid primary key default gen_random_uuid(), name text not null, made_at timestamptz not null default now());
create table todo (id serial primary key, content text not null, project uuid not null references project, seen_at timestamptz default clock_timestamp());
create table note (id uuid primary key default gen_random_uuid(), body text, readers text[], owner text);
insert into project (name) values ('a secret project');
"""
RULES = (
    TableRules("todo", allow.owner(), match="full", columns={"owner": allow.owner().to("read", "delete")}),
    TableRules("note", allow.owner(), allow.owners_defined_in("readers").to("read"), match="full"),
)


@dataclass(frozen=True)
class Taps:
    """A database with rules, and what runs a file in it."""

    database: Database
    runner: str

    def write(self) -> str:
        with self.database.connect() as conn:
            return prover.pgtap(conn, self.database.rules(*RULES))

    def run(self, text: str, folder: Path) -> list[str]:
        """The lines that psql prints; each begins with `ok` or `not ok`, but for the plan and what is said of a failure."""
        file = folder / "access.sql"
        file.write_text(text, encoding="utf-8")
        program: list[str | Path] = [
            self.database.server.bin / "psql",
            "-X",
            "-d",
            self.database.superuser_dsn,
            "-f",
            file,
        ]
        done = subprocess.run(program, capture_output=True, text=True, check=False)

        assert (done.stderr, done.returncode) == ("", 0)
        return [line for line in done.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def taps(server: Server) -> Iterator[Taps]:
    with fresh_database(server, "taps") as database:
        database.execute(SCHEMA)
        database.apply(*RULES)
        with database.connect(autocommit=True) as conn:
            conn.execute("insert into note (body, owner) values ('a secret note', 'somebody-there')")
        yield Taps(database, _with_pgtap(database))


def _with_pgtap(database: Database) -> str:
    """Install pgTAP in the database, or what stands in for it; which it is."""
    with database.connect(autocommit=True) as conn:
        found = conn.execute("select default_version from pg_available_extensions where name = 'pgtap'").fetchone()
        if found:
            conn.execute("create extension pgtap")
            return f"pgTAP {found[0]}"
        # Debian's extension is for Debian's server, and not for the one of the wheel.
        required = os.environ.get("RLSKIT_REQUIRE_PGTAP") and database.server.major == 15
        assert not required, "pgTAP is required, and not there: apt-get install postgresql-15-pgtap"
        conn.execute((Path(__file__).parent / "tap.sql").read_bytes())
        conn.execute(f'alter database "{database.name}" set search_path = "$user", public, tap'.encode())
        return "the stand-in for pgTAP"


@pytest.fixture(scope="module")
def written(taps: Taps) -> str:
    return taps.write()


def test_every_test_of_the_file_passes_and_nothing_of_it_is_left(
    taps: Taps, written: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    plan, *lines = taps.run(written, tmp_path)
    record_property("pgtap_tests", f"{taps.runner} ran {len(lines)}")

    assert [line for line in lines if not line.startswith("ok ")] == []
    assert plan == f"1..{len(lines)}"
    assert len(lines) > 500
    assert taps.database.rows(
        "select (select count(*) from todo), (select count(*) from note), (select count(*) from project)"
    ) == [(0, 1, 1)]
    assert taps.database.rows("select from pg_roles where rolname like 'rlskit%%'") == []


def test_the_same_tables_give_the_same_file(taps: Taps, written: str) -> None:
    assert taps.write() == written


def test_the_file_holds_no_value_of_a_row_that_was_there(written: str) -> None:
    assert [each for each in ("secret", "somebody-there") if each in written] == []


@pytest.mark.parametrize(
    ("weakened", "noticed"),
    [
        pytest.param("alter table note disable row level security", "note: read by stranger", id="row security off"),
        pytest.param("alter table todo no force row level security", "todo: read by the table''s owner", id="not forced"),
        pytest.param("drop policy rlskit_select on todo", "todo: read by owner", id="a policy dropped"),
        pytest.param("alter policy rlskit_delete on todo using (true)", "todo: delete by stranger", id="a policy weakened"),
        pytest.param("grant update on todo to {app}", "todo: update by owner", id="a grant widened"),
        pytest.param("alter table todo alter owner set default 'x'", "todo: create by owner", id="a default replaced"),
        pytest.param("alter table note drop constraint rlskit_readers_check", "note: create by whoever bypasses", id="a check dropped"),
        pytest.param("alter table note disable trigger zz_rlskit_reassign", "note: update by owner", id="a trigger off"),
    ],
)  # fmt: skip
def test_what_is_weakened_is_not_ok(taps: Taps, written: str, tmp_path: Path, weakened: str, noticed: str) -> None:
    """Inside the transaction of the file, which takes it back; of its tests only those that are about it are run."""
    others = re.compile(rf"^select is\(.*\n(?!  '{noticed}).*\n", re.MULTILINE)
    few = others.sub("", written)
    statement = weakened.format(app=taps.database.app)

    assert [line for line in taps.run(few, tmp_path) if line.startswith("not ok")] == []
    lines = taps.run(few.replace("\nbegin;\n", f"\nbegin;\n{statement};\n"), tmp_path)
    assert any(noticed.replace("''", "'") in line for line in lines if line.startswith("not ok"))


def test_a_signed_database_is_asked_with_signatures(server: Server, tmp_path: Path) -> None:
    with fresh_database(server, "signed") as database:
        database.execute("create table todo (id int primary key)")
        rules = database.apply(TableRules("todo", allow.owner()), mode="signed")
        taps = Taps(database, _with_pgtap(database))
        with database.connect() as conn:
            text = prover.pgtap(conn, rules)
        _, *lines = taps.run(text, tmp_path)
        _, *without = taps.run(text.replace("if asker.signs then", "if false then"), tmp_path)

    assert [line for line in lines if not line.startswith("ok ")] == []
    assert any("todo: read by owner: the owner's row" in line for line in without if line.startswith("not ok "))


def test_a_table_of_which_nothing_could_be_asked_fails_and_says_why(database: Database, tmp_path: Path) -> None:
    database.execute("create table todo (id int primary key, part int not null check (part < 0 and part > 0))")
    rules = database.apply(TableRules("todo", allow.owner()))
    taps = Taps(database, _with_pgtap(database))
    with database.connect() as conn:
        text = prover.pgtap(conn, rules)
    plan, *lines = taps.run(text, tmp_path)
    tests = [line for line in lines if not line.startswith("#")]

    assert plan == f"1..{len(tests)}"
    assert all(line.startswith("not ok ") and "its rows could not be made" in line for line in tests)


def test_the_command_writes_the_file_from_a_copy(taps: Taps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rlskit.toml").write_text(
        f'role = "{taps.database.app}"\n[tables.todo]\nallow = [{{ owner = "owner" }}]\nmatch = "full"\n'
        'columns.owner = [{ owner = "owner", to = ["read", "delete"] }]\n'
        '[tables.note]\nallow = [{ owner = "owner" }, { owners = "readers", to = ["read"] }]\nmatch = "full"\n'
    )
    monkeypatch.chdir(tmp_path)
    command = ["test", "todo", "--pgtap", "access.sql", "--dsn", taps.database.superuser_dsn]
    result = CliRunner().invoke(app, command)
    file = (tmp_path / "access.sql").read_text(encoding="utf-8")

    assert result.exit_code == 0, result.output
    assert file.startswith("-- What the rules promise, cell by cell, as pgTAP tests.")
    assert [line for line in taps.run(file, tmp_path)[1:] if not line.startswith("ok ")] == []
    assert "cells proved" in result.stdout
    assert taps.database.rows("select datname from pg_database where starts_with(datname, 'rlskit_proof_')") == []
