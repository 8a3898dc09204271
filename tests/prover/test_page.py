"""The page about `rlskit test`: its table, its rules, its commands and its Python, with the answers that it shows."""

from __future__ import annotations

import re
import shlex
import tomllib
from hashlib import md5
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlskit import Rules, load, plan
from rlskit.cli import app
from tests.support import Database

PATH = Path(__file__).parents[2] / "docs" / "how-to" / "proving.md"
CODE = md5(b"AB-12345-X", usedforsecurity=False).hexdigest()
PAGE = PATH.read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def ran(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command)[2:])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_shows_what_is_proved(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (table, *_), (written, values, *_), (code, *_) = fenced("sql"), fenced("toml"), fenced("python")
    (first, copy, filled), (answer, *_) = zip(
        *(each.partition("\n")[::2] for each in fenced("console")[:3]), strict=True
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.superuser_dsn)
    monkeypatch.delenv("RLSKIT_RULES", raising=False)
    text = written.replace("app_user", database.app)

    def bring(text: str) -> Rules:
        (tmp_path / "rlskit.toml").write_text(text)
        rules = load(tomllib.loads(text))
        with database.connect_as_owner() as conn:
            plan(conn, rules).apply(conn)
        return rules

    database.execute(table)
    rules = bring(text)
    assert ran(first) == answer
    with database.connect() as conn:
        exec(compile(code, PATH.name, "exec"), {"conn": conn, "rules": rules})
    ran(copy)
    database.execute(f"create table voucher (id serial primary key, code text not null check (md5(code) = '{CODE}'))")
    bring(f'{text}\n[tables.voucher]\nopen = {{ reason = "for all" }}\n')
    (tmp_path / "values.toml").write_text(values)
    ran(filled)
