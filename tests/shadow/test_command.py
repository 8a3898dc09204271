"""`rlskit shadow`: exit codes, what stands on which stream, and that no name of the crowd does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlskit import installer
from rlskit.cli import app
from rlskit.errors import MissingIdentityError, PlanError
from tests.support import Database

RULES = """
role = "{role}"
[tables.note]
allow = [{{ owner = "owner" }}]
[tables.word]
open = {{ reason = "reference data" }}
"""


@pytest.fixture
def given(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    database.execute(
        "create table note (owner text)",
        "insert into note values ('a1f0::alice'), ('b2e1::bob')",
        "create table word (id int)",
        "create table person (sub text, username text)",
        "insert into person values ('a1f0', 'alice'), ('b2e1', 'bob')",
    )
    with database.connect_as_owner() as conn:
        installer.install(conn)
    (tmp_path / "rlskit.toml").write_text(RULES.format(role=database.app))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.superuser_dsn)
    monkeypatch.delenv("RLSKIT_RULES", raising=False)
    return database


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["shadow", *arguments])


def test_it_exits_1_when_there_are_rows_that_nobody_would_read(given: Database) -> None:
    clean = ran("--people", "person", "note")
    given.execute("insert into note values (null)")
    found = ran("--people", "person", "note", "--format", "json")

    assert (clean.exit_code, clean.stdout.splitlines()) == (
        0,
        [
            "public.note",
            "  2 of public.person: of 2 rows some hidden from 2, all from 0; hidden from one 1 (median), at most 1",
            "Every row would be read by somebody of public.person.",
        ],
    )
    crowd = {
        "rows": 3,
        "unread": 1,
        "people": 2,
        "nameless": 0,
        "losing": 2,
        "blind": 0,
        "median": 2,
        "most": 2,
        "lacks": [],
    }
    assert (found.exit_code, json.loads(found.stdout)) == (
        1,
        {
            "clean": False,
            "people": "public.person",
            "tables": [{"table": "public.note", "persons": [], "crowd": crowd}],
        },
    )


def test_a_person_is_given_as_an_owner_column_spells_one_or_by_the_sub_alone(given: Database) -> None:
    shown = ran("--as", "a1f0::alice", "--as", "b2e1", "-f", "json")
    note, word = json.loads(shown.stdout)["tables"]

    assert shown.exit_code == 0
    assert note["persons"][0] == {"sub": "a1f0", "username": "alice", "rows": 2, "hidden": 1, "read": 1, "update": 1, "delete": 1, "lacks": []}  # fmt: skip
    assert [(each["sub"], each["username"], each["lacks"]) for each in word["persons"]] == [
        ("a1f0", "alice", []),
        ("b2e1", None, []),
    ]
    assert (note["persons"][1]["read"], note["persons"][1]["lacks"]) == (0, ["username"])


def test_nobody_named_cannot_run(given: Database) -> None:
    refused = [ran("note").exception, ran("nte", "--people", "person").exception]

    assert [type(each) for each in refused] == [MissingIdentityError, PlanError]
