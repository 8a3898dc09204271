"""The page about production, from top to bottom: its commands print the lines that stand below them, its Python and its SQL run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

import rlskit
from benchmarks.__main__ import ON_EACH_SERVER
from rlskit import cli, load
from tests.support import ALICE, BOB, Database, full, perform

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "production.md"
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
STAYS_OUTSIDE = "rlskit check"  # the one command of the page that is to find something

RULES = 'role = "app_user"\n[tables.todo]\nallow = [{ owner = "owner" }]\n'


def test_the_page_does_what_it_says(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute(
        "create table todo (id int primary key, content text, owner text)",
        f"insert into todo values (1, 'milk', '{full(ALICE)}')",
        f"grant select, insert, update, delete on todo to {database.app}",
    )
    (tmp_path / "rlskit.toml").write_text(RULES.replace("app_user", database.app))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.owner_dsn)
    given = {"psycopg": psycopg, "rlskit": rlskit, "owner_dsn": database.owner_dsn, "rules": load("rlskit.toml")}
    seen = []
    for block in FENCE.finditer(PAGE.read_text(encoding="utf-8")):
        match block["language"]:
            case "console":
                run(block["code"])
            case "python":
                exec(compile(block["code"], str(PAGE), "exec"), given)
            case "sql":
                seen.append(perform(database, BOB, "select content from todo"))
                database.execute(*block["code"].replace("app_user", database.app).strip().split("\n"))

    assert seen == [[], [], [("milk",)], [("milk",)]]  # hers: closed to him by force and enable, open before
    assert database.plan(*given["rules"].tables).conforms  # the page's last command applies all of it again


def run(code: str) -> None:
    for command, printed in re.findall(r"^\$ (.+)\n((?:[^$].*\n)*)", code, re.MULTILINE):
        ran = CliRunner().invoke(cli.app, shlex.split(command)[1:])
        assert ran.exit_code == (1 if command == STAYS_OUTSIDE else 0), ran.output
        assert set(printed.splitlines()) <= set(ran.stdout.splitlines()), ran.stdout


def test_its_figures_are_those_of_a_benchmark() -> None:
    assert re.findall(r"python -m benchmarks (\w+)", PAGE.read_text(encoding="utf-8")) == ["downtime"]
    assert "downtime" in ON_EACH_SERVER
