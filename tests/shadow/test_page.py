"""The page about `rlskit shadow`: its statements, its commands and its Python, with the answers that it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlskit import Identity, Rules, TableRules, allow, installer
from rlskit.cli import app
from tests.support import Database

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "shadow.md").read_text(encoding="utf-8")
RULES = """
role = "{role}"
[tables.todo]
allow = [{{ owner = "owner" }}, {{ owners = "readers", to = ["read"] }}]
[tables.invoice]
allow = [{{ owner = "payer", identity_claim = "email" }}]
"""


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_shows_what_is_counted(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (statement,), (code,) = fenced("sql"), fenced("python")
    database.execute(
        "create table account (id text, login text, email text)",
        "insert into account values ('5d1c', 'alice', 'a@example.com'), ('77aa', 'bob', 'b@example.com'), ('93fe', 'carol', null)",
        statement,
        "create table todo (owner text, readers text[])",
        "insert into todo values ('alice', null), ('bob', '{5d1c}'), ('77aa', null), ('77aa::bob', null), ('mallory', null)",
        "create table invoice (payer text)",
        "insert into invoice values ('a@example.com'), ('b@example.com'), ('b@example.com'), (null)",
    )
    with database.connect_as_owner() as conn:
        installer.install(conn)
    (tmp_path / "rlskit.toml").write_text(RULES.format(role=database.app))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.superuser_dsn)
    monkeypatch.delenv("RLSKIT_RULES", raising=False)

    for shown in fenced("console"):
        command, _, answer = shown.partition("\n")
        assert CliRunner().invoke(app, shlex.split(command)[2:]).stdout == answer
    rules = Rules(TableRules("todo", allow.owner()), role=database.app)
    with database.connect() as conn:
        given = {"conn": conn, "rules": rules, "Identity": Identity}
        exec(compile(code, "shadow.md", "exec"), given)
