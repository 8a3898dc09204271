"""The example of SQLAlchemy and Alembic: from an empty database to two people, back to nothing, and revisions that never go stale."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import alembic.command
import psycopg
import pytest
from alembic.config import Config
from alembic.config import main as alembic_main
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from rlskit.cli import app
from tests.projects import at_work_in
from tests.revisions.conftest import snapshot
from tests.support import ALICE, Database, Server, assert_ordinary
from todos import use_cases
from todos.__main__ import DATABASE_URL
from todos.__main__ import main as todos_main
from todos.access import rules
from todos.database import asking, sessions_at

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "todo_sqlalchemy"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """The roles and the empty database of the example, made by its own script; the environment says where, as the README has it."""
    place = conninfo_to_dict(server.dsn)
    made = Database(server, "todo")
    with at_work_in(EXAMPLE) as here:
        for name in ("host", "port", "user"):
            here.setenv(f"PG{name.upper()}", str(place[name]))
        subprocess.run([server.bin / "psql", "-qf", "roles.sql", "postgres"], check=True)
        yield made
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("drop database todo with (force)")
        conn.execute("drop role todo_owner")
        conn.execute("drop role todo_app")


@pytest.fixture
def migrated(database: Database) -> Database:
    alembic_main(argv=["upgrade", "head"])
    with database.connect_as_app() as conn:
        assert_ordinary(conn)
    return database


@pytest.fixture
def sessions(migrated: Database) -> Iterator[sessionmaker[Session]]:
    made = sessions_at(DATABASE_URL)
    yield made
    made.kw["bind"].dispose()


# --- the README ------------------------------------------------------------------------------------------------------


def commands(language: str = "console") -> Iterator[tuple[str, str]]:
    """Each command of the README, without its comment, and what it prints."""
    for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL):
        for command, answer in re.findall(r"^\$ (.*)\n((?:(?!\$ ).+\n)*)", block, re.MULTILINE):
            yield command.partition("  #")[0].strip(), answer


def test_the_readmes_commands_print_what_the_readme_says(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = []
    for command, answer in commands():
        assignments, words = said(command)
        with monkeypatch.context() as here:
            for name, value in assignments.items():
                here.setenv(name, value)
            match words:
                case ["alembic", *arguments]:
                    alembic_main(argv=arguments)
                case ["python", "-m", "todos", *arguments]:
                    assert todos_main(arguments) == answer.startswith("refused")
                case ["export", *given]:
                    for each in given:
                        monkeypatch.setenv(*each.split("=", 1))
                case ["pip", "install", "-r", _] | ["psql", "-f", "roles.sql", "postgres"] | ["pytest"]:
                    continue  # the fixture has run psql, and test_own_suites runs pytest
                case _:
                    raise AssertionError(command)
        printed = capsys.readouterr()
        run.append(words[0])

        assert (command, printed.out + printed.err) == (command, answer)
    assert (run.count("alembic"), run.count("python") > 12) == (2, True)


def said(command: str) -> tuple[dict[str, str], list[str]]:
    """The assignments before a command, and its words, with variables in their places."""
    words = [os.path.expandvars(each) for each in shlex.split(command)]
    number = next(place for place, each in enumerate(words) if not re.match(r"\w+=", each))
    return dict(each.split("=", 1) for each in words[:number]), words[number:]


def test_a_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https://)([^)#]+)", README)

    assert links
    assert [target for target in links if not (EXAMPLE / target).exists()] == []


# --- the revisions ---------------------------------------------------------------------------------------------------


def test_down_and_up_again_and_down_to_nothing(migrated: Database, sessions: sessionmaker[Session]) -> None:
    with asking(sessions, ALICE) as session:
        use_cases.add_todo(session, "milk", "errand", ["go out"])
        use_cases.write_note(session, "party")
    sessions.kw["bind"].dispose()
    with migrated.connect() as conn:
        was = snapshot(conn, rules)

    alembic_main(argv=["downgrade", "-1"])
    with migrated.connect() as conn:
        assert snapshot(conn, rules) != was
    alembic_main(argv=["upgrade", "head"])
    with migrated.connect() as conn:
        assert snapshot(conn, rules) == was
    assert migrated.rows("select content, owner from todo") == [("milk", "a1f0::alice")]

    alembic_main(argv=["downgrade", "base"])
    assert migrated.rows(
        "select tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
    ) == [("alembic_version",)]
    assert migrated.rows("select to_regnamespace('rlskit'), has_schema_privilege('todo_app', 'public', 'create')") == [
        (None, False)
    ]
    assert migrated.rows("select from pg_shdepend where refobjid = 'todo_app'::regrole") == []


def first_models() -> str:
    """The models without the lines that the README says are new."""
    models = (EXAMPLE / "todos" / "models.py").read_text(encoding="utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(each[1:] or each for each in lines if each[0] != sign) for sign in "+-")
        assert models.count(new) == 1, new
        models = models.replace(new, old)
    return models


def written(folder: Path, name: str) -> str:
    """A revision without the day of its making."""
    text = (folder / "migrations" / "versions" / name).read_text(encoding="utf-8")
    return re.sub(r"^Create Date: .*$", "", text, flags=re.MULTILINE)


def test_the_revisions_are_what_is_written_today(database: Database, tmp_path: Path) -> None:
    """In a project as `alembic init` and `rlskit init --yes` leave it, with nothing done by hand but the address of the database."""
    config = Config(tmp_path / "alembic.ini", stdout=io.StringIO())
    alembic.command.init(config, str(tmp_path / "migrations"))
    ini = (tmp_path / "alembic.ini").read_text(encoding="utf-8")
    address = "sqlalchemy.url = postgresql+psycopg://todo_owner@/todo"
    (tmp_path / "alembic.ini").write_text(re.sub(r"^sqlalchemy\.url = .*", address, ini, flags=re.MULTILINE))
    shutil.copytree(EXAMPLE / "todos", tmp_path / "todos", ignore=shutil.ignore_patterns("access.py", "__pycache__"))
    (tmp_path / "todos" / "models.py").write_text(first_models(), encoding="utf-8")
    made = CliRunner().invoke(app, ["init", str(tmp_path), "--role", "todo_app", "--yes"])
    assert (made.exit_code, "note:" in made.output) == (0, False), made.output

    with at_work_in(tmp_path, "todos"):
        alembic_main(argv=["revision", "--autogenerate", "--rev-id", "0001", "-m", "tables and rules"])
        alembic_main(argv=["upgrade", "head"])
        alembic_main(argv=["check"])
        options = ["--rules", "todos.access:rules", "--dsn", database.owner_dsn]
        planned = CliRunner().invoke(app, ["plan", "--exit-code", *options])
        assert planned.exit_code == 0, planned.output
    for each in ("migrations/versions/0002_categories.py", "todos/models.py"):
        shutil.copy(EXAMPLE / each, tmp_path / each)
    with at_work_in(tmp_path, "todos"):
        alembic_main(argv=["upgrade", "head"])
        alembic_main(argv=["revision", "--autogenerate", "--rev-id", "0003", "-m", "shared notes"])

    for name in ("0001_tables_and_rules.py", "0003_shared_notes.py"):
        assert written(tmp_path, name) == written(EXAMPLE, name)
    env = (tmp_path / "migrations" / "env.py").read_text(encoding="utf-8")
    assert env == (EXAMPLE / "migrations" / "env.py").read_text(encoding="utf-8")
