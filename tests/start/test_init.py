"""`rlskit init`: what it finds in a project, what it writes, and that it touches nothing else."""

from __future__ import annotations

import ast
import io
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import alembic.command
import pytest
from alembic.config import Config
from typer.testing import CliRunner, Result

from rlskit import load, plan, splicer, starter
from rlskit.cli import app
from rlskit.errors import PlanError, RuleError, StalePlanError
from rlskit.starter import Start
from rlskit.surveyor import Name, survey
from tests.support import Database

TEMPLATES = [each.name for each in (Path(alembic.__file__).parent / "templates").iterdir()]

BASE = """
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase):
    pass
"""
TODO = """
from sqlalchemy.orm import Mapped, mapped_column
from {base} import Base

class Todo(Base):
    __tablename__ = "todo"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
ONE_MODULE = BASE + TODO.partition("import Base")[2] + "    id = None\n"


def write(root: Path, **files: str) -> Path:
    """Files by their names, with `__` for a folder and without the ending."""
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package with a module for its base, one for each model, and one that hands the base on."""
    for package in ("app", "app/models"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    write(tmp_path, app__models__base=BASE, app__models__todo=TODO.format(base="app.models"))
    (tmp_path / "app" / "models" / "__init__.py").write_text("from .base import Base\n")
    return tmp_path


def with_alembic(root: Path, template: str = "generic", folder: str = "migrations") -> Path:
    """What `alembic init` makes, by the Alembic that is installed."""
    config = Config(root / "alembic.ini", toml_file=root / "pyproject.toml", stdout=io.StringIO())
    alembic.command.init(config, str(root / folder), template=template)
    return root / folder / "env.py"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(each.relative_to(root)): each.read_bytes() for each in root.rglob("*") if each.is_file()}


def init(root: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["init", str(root), *arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def started(root: Path, role: str = "app_user") -> Start:
    return starter.start(survey(root), role=role)


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_are_found_by_their_text_and_nothing_is_imported(project: Path) -> None:
    write(project, app__broken="raise SystemExit(1)\nfrom sqlalchemy import", app__poison="raise SystemExit(1)")
    found = survey(project)

    assert (found.base, [str(each.place) for each in found.models]) == (
        Name("app.models.base", "Base"),
        ["app.models.todo:Todo"],
    )
    assert found.unread == (project / "app" / "broken.py",)
    assert any("app/broken.py is no Python" in each for each in started(project).notes)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        pytest.param(ONE_MODULE, "models:Base", id="a class"),
        pytest.param(
            "import sqlalchemy.orm as orm\nBase = orm.declarative_base()\nclass Todo(Base):\n    __tablename__ = 'todo'",
            "models:Base",
            id="a function",
        ),
        pytest.param(
            "from sqlalchemy import orm\nclass Base(orm.MappedAsDataclass, orm.DeclarativeBase): ...\nclass Stamped(Base):\n    __abstract__ = True\n"
            "class Todo(Stamped):\n    __tablename__: str = 'todo'",
            "models:Base",
            id="through another",
        ),
        pytest.param(
            "from sqlmodel import SQLModel\nclass Plain(SQLModel): ...\nclass Todo(Plain, table=True): ...",
            "sqlmodel:SQLModel",
            id="SQLModel",
        ),
    ],
)
def test_a_base_is_found_however_it_was_made(text: str, base: str, tmp_path: Path) -> None:
    found = survey(write(tmp_path, models=text))

    assert (str(found.base), [each.table for each in found.models]) == (base, ["todo"])


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        pytest.param("models", "access:rules", id="a module"),
        pytest.param("app/models", "app.access:rules", id="in a folder"),
        pytest.param("app/models/tables", "app.access:rules", id="in a package of models"),
        pytest.param("src/shop/data/models", "shop.data.access:rules", id="below src"),
    ],
)
def test_the_rules_stand_beside_the_models(file: str, rules: str, tmp_path: Path) -> None:
    write(tmp_path, **{file.replace("/", "__"): ONE_MODULE})
    init(tmp_path)
    made = started(tmp_path)
    inside = "PYTHONPATH=src " if file.startswith("src") else ""

    assert made.commands == (
        f"{inside}rlskit sql --rules {rules}",
        f"{inside}rlskit plan --rules {rules} --dsn postgresql://…",
    )
    assert survey(tmp_path).rules == rules


def test_the_start_names_the_models_and_imports_what_they_stand_in(project: Path) -> None:
    init(project, "--role", "shop")
    text = (project / "app" / "access.py").read_text()
    body = [ast.unparse(each) for each in ast.parse(text).body[1:]]

    assert body == [
        "from rlskit.sqlalchemy import rules_from",
        "import app.models.todo",
        "from app.models.base import Base",
        "rules = rules_from(Base, role='shop', require_all=False)",
    ]
    assert "#     class Todo(…):  # in app.models.todo\n#         __rls__ = allow.owner()\n" in text


def test_models_of_another_base_are_named_and_left_out(project: Path) -> None:
    write(
        project,
        app__other=ONE_MODULE.replace("Todo", "Other"),
        app__more=TODO.format(base="app.models").replace("Todo", "More"),
    )
    write(project, app__flask="from app import db\nclass Page(db.Model):\n    __tablename__ = 'page'")
    made = started(project)

    assert made.new is not None
    assert [each for each in (b"Todo", b"More", b"Other", b"Page") if each in made.new.after] == [b"Todo", b"More"]
    assert [each.partition(" ")[0] for each in made.notes] == ["app.flask:Page", "app.other:Other"]


@pytest.mark.parametrize("folder", [".hidden", "node_modules", "tests", "env-of-mine", "alembic-of-mine", "build"])
def test_what_is_not_the_projects_own_is_passed_over(folder: str, tmp_path: Path) -> None:
    write(tmp_path, **{f"{folder}__models": ONE_MODULE})
    (tmp_path / folder / "pyvenv.cfg" if folder.startswith("env") else tmp_path / folder / "script.py.mako").touch()

    assert survey(tmp_path).models == ()


def test_what_cannot_be_imported_is_passed_over_and_an_odd_text_warns_nobody(tmp_path: Path) -> None:
    write(tmp_path, **{"a-script": ONE_MODULE, "class": ONE_MODULE, "odd": "PATTERN = '\\d'\n"})
    found = survey(tmp_path)

    assert (found.models, found.unread) == ((), ())


# --- nothing else is touched -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_without_yes_one_file_is_written_and_nothing_is_changed(template: str, project: Path) -> None:
    with_alembic(project, template)
    before = snapshot(project)
    shown = init(project)
    after = snapshot(project)

    assert (after.keys() - before.keys(), {name: after[name] for name in before}) == ({"app/access.py"}, before)
    assert "+++ b/migrations/env.py" in shown.stdout
    assert "migrations/env.py was not changed: --yes does it." in shown.stdout


@pytest.mark.parametrize(("answer", "changed"), [("y", True), ("n", False)])
def test_a_terminal_is_asked(answer: str, changed: bool, project: Path) -> None:
    env = with_alembic(project)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "rlskit", "init", project], stdin=theirs, stdout=subprocess.DEVNULL
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(timeout=60) == 0
    os.close(ours)
    os.close(theirs)

    assert ("rls_rules" in env.read_text()) is changed


def test_a_file_that_is_there_is_never_overwritten(project: Path) -> None:
    mine = write(project, app__access="MINE = 1\n") / "app" / "access.py"
    init(project)

    assert (mine.read_text(), survey(project).rules) == ("MINE = 1\n", "app.row_rules:rules")
    write(project, app__row_rules="MINE = 2\n")
    with pytest.raises(PlanError, match="are there already"):
        started(project)


def test_a_file_that_comes_meanwhile_is_not_overwritten_either(project: Path) -> None:
    env = with_alembic(project)
    made = started(project)
    assert made.new is not None
    assert made.edit is not None
    made.new.path.write_text("MINE = 1\n")
    env.write_text(f"{env.read_text()}# mine\n")
    for change in (made.new, made.edit):
        with pytest.raises(StalePlanError, match="was written by somebody else"):
            change.write()

    assert (made.new.path.read_text(), env.read_text().endswith("# mine\n")) == ("MINE = 1\n", True)


def test_a_role_that_can_be_none_is_refused_before_anything_is_written(project: Path) -> None:
    before = snapshot(project)
    with pytest.raises(RuleError, match="`public` cannot be the application's role"):
        started(project, role="public")

    assert snapshot(project) == before


# --- alembic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_of_alembics_templates_is_given_the_rules(template: str, project: Path) -> None:
    env = with_alembic(project, template)
    before = env.read_text().splitlines()
    init(project, "--yes")
    text = env.read_text()
    calls = [
        each
        for each in ast.walk(ast.parse(text))
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "context.configure"
    ]

    assert [ast.unparse(call.keywords[-1]) for call in calls] == ["rls_rules=rules"] * 2
    assert "import rlskit.alembic" in text
    assert "from app.access import rules" in text
    assert [
        each for each in before if each not in text.splitlines() and "target_metadata=target_metadata" not in each
    ] == (["target_metadata = None"] if template != "multidb" else [])


def test_autogenerate_gets_the_models_where_something_imports_them_all(project: Path) -> None:
    env = with_alembic(project)
    shown = init(project, "--yes").stdout

    assert "\nfrom app.models.base import Base\n" in env.read_text()
    assert "\ntarget_metadata = Base.metadata\n" in env.read_text()
    assert "note:" not in shown


@pytest.mark.parametrize("rules", ['role = "app_user"', None], ids=["a rule file", "rules in Python"])
def test_autogenerate_does_not_get_models_that_nothing_may_have_imported(rules: str | None, project: Path) -> None:
    """It would drop their tables."""
    env = with_alembic(project)
    if rules is None:
        write(project, app__access="from rlskit import Rules\nrules = Rules(role='app_user')\n")
    else:
        (project / "rlskit.toml").write_text(rules)
    shown = init(project, "--yes").stdout

    assert "\ntarget_metadata = None\n" in env.read_text()
    assert "migrations/env.py: target_metadata is None; autogenerate compares models with Base.metadata" in shown


@pytest.mark.parametrize("template", ["generic", "pyproject"])
def test_a_second_time_finds_everything_there(template: str, project: Path) -> None:
    with_alembic(project, template)
    init(project, "--yes")
    before = snapshot(project)
    shown = init(project, "--yes").stdout

    assert snapshot(project) == before
    assert "Found rules: app.access:rules.\n" in shown
    assert "and its env.py knows the rules.\n" in shown


@pytest.mark.parametrize("location", ["%(here)s/db/migrations", "db/migrations", "app:../db/migrations"])
def test_env_py_is_where_the_configuration_says(location: str, project: Path) -> None:
    env = with_alembic(project, folder="db/migrations")
    (project / "alembic.ini").write_text(f"[alembic]\nscript_location = {location}\nfile_template = %%(rev)s\n")
    init(project, "--yes")

    assert "rls_rules=rules" in env.read_text()


def test_rules_in_a_file_are_loaded_from_wherever_alembic_is_run(tmp_path: Path) -> None:
    env = with_alembic(tmp_path, folder="db/migrations")
    init(tmp_path, "--yes")
    lines = env.read_text().splitlines()

    assert 'rules = rlskit.load(Path(__file__).parents[2] / "rlskit.toml")' in lines
    assert (env.parents[2] / "rlskit.toml").is_file()


def spliced(text: str) -> str:
    return splicer.splice(text.encode(), lambda name: [f"from access import {name}"]).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("context.configure(url=u)", "context.configure(url=u, rls_rules=rules)", id="one line"),
        pytest.param("context.configure(url=(u) , )", "context.configure(url=(u), rls_rules=rules , )", id="a comma"),
        pytest.param("context.configure(**given)", "context.configure(**given, rls_rules=rules)", id="given otherwise"),
        pytest.param(
            "context.configure(\n    url=u,  # ü, (,)\n)",
            "context.configure(\n    url=u,  # ü, (,)\n    rls_rules=rules,\n)",
            id="a comment",
        ),
        pytest.param(
            "context.configure(\r\n\turl='ü',\r\n)",
            "context.configure(\r\n\turl='ü',\r\n\trls_rules=rules,\r\n)",
            id="as Windows has it",
        ),
        pytest.param(
            "context.configure(url='ü', opts={\n    'a': 1,\n})",
            "context.configure(url='ü', opts={\n    'a': 1,\n}, rls_rules=rules)",
            id="braces",
        ),
    ],
)
def test_all_else_stays_as_it_is_written(before: str, after: str) -> None:
    end = "\r\n" if "\r\n" in before else "\n"
    head = f"from alembic import context  # keep{end}"

    assert spliced(head + before) == f"{head}from access import rules{end}{after}"


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    assert "rls_rules=rls_rules" in spliced("from alembic import context\nrules = []\ncontext.configure(url=1)\n")


def test_the_models_take_the_place_of_none_and_of_nothing_else() -> None:
    head = "from alembic import context\n# target_metadata = None\n"
    text = f"{head}target_metadata = None  # ü\nother = None\ncontext.configure(url=1)\n"
    after = splicer.splice(text.encode(), lambda name: [], metadata="Base.metadata").decode()

    assert after == text.replace("None  # ü", "Base.metadata  # ü").replace("url=1", "url=1, rls_rules=rules")
    with pytest.raises(ValueError, match=r"^$"):
        splicer.splice(f"{text}Base = 1\n".encode(), lambda name: [], metadata="Base.metadata")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("from alembic import context as c\nc.configure(url=1)\n", id="another name"),
        pytest.param("from alembic import context\ncontext.configure(*given)\n", id="arguments by place"),
        pytest.param("from alembic import context\ncontext.configure()\n", id="no arguments"),
        pytest.param("from alembic import context; x = (\n1)\ncontext.configure(url=1)\n", id="two on a line"),
        pytest.param("context.configure(url=1, rls_rules=r)\ncontext.configure(url=1)\n", id="half of it"),
        pytest.param(
            "from alembic import context\nrules = rls_rules = 1\ncontext.configure(url=1)\n", id="both names taken"
        ),
        pytest.param("from alembic import (\n", id="no Python"),
    ],
)
def test_what_is_not_understood_is_told_and_left_alone(text: str, project: Path) -> None:
    env = with_alembic(project)
    env.write_text(text)
    shown = init(project, "--yes").stdout

    assert env.read_text() == text
    assert (
        "migrations/env.py is not what Alembic's templates are like, and is left alone; it needs `import rlskit.alembic`"
        in shown
    )


def test_an_environment_that_is_not_found_is_told(project: Path) -> None:
    (project / "alembic.ini").write_text("[alembic]\nscript_location = nowhere\n")

    assert started(project).notes[0].startswith("alembic.ini does not say where env.py is; it needs")


# --- a rule file -----------------------------------------------------------------------------------------------------


def uncommented(text: str) -> str:
    """The file with its sections switched on: what stands below the last explanation."""
    head, first, sections = text.partition("# [tables.")
    return head + "\n".join(line.removeprefix("# ") for line in (first + sections).splitlines())


def test_without_models_a_rule_file_is_written_that_loads_at_once(tmp_path: Path) -> None:
    shown = init(tmp_path, "--role", "shop")
    text = (tmp_path / "rlskit.toml").read_text()

    assert (load(tmp_path / "rlskit.toml").role, load(tmp_path / "rlskit.toml").tables) == ("shop", ())
    assert [str(each.name) for each in load(tomllib.loads(uncommented(text))).tables] == ["public.todo"]
    assert shown.stdout.splitlines() == [
        "Wrote rlskit.toml: read it first.",
        "Next:",
        "  rlskit sql",
        "  rlskit plan --dsn postgresql://…",
    ]


def test_the_tables_of_a_database_are_its_sections_and_fit_it(database: Database, tmp_path: Path) -> None:
    database.execute(
        "create schema shop",
        'create table shop."Order \\ ""x""" (id int, created_by varchar(40), owner_id int)',
        "create table todo (id int, content text, owner text)",
        "create table note (id int, user_id uuid)",
        "create table event (id int, at date, author text) partition by range (at)",
        "create table event_1 partition of event for values from ('2026-01-01') to ('2027-01-01')",
        "create table country (id int, user_id int)",
        "create table alembic_version (version_num text)",
        'create table "a.b" (username text)',
        "create view of_todo as select * from todo",
    )
    init(tmp_path, "--dsn", database.superuser_dsn, "--role", database.app)
    text = (tmp_path / "rlskit.toml").read_text()
    rules = load(tomllib.loads(uncommented(text)))

    assert load(tmp_path / "rlskit.toml").tables == ()
    assert {each.name.name: str(each).partition(",")[0] for each in rules.tables} == {
        'Order \\ "x"': 'allow.owner_defined_in("created_by")',
        "todo": "allow.owner()",
        "note": 'allow.owner_defined_in("user_id").identity_claim("sub")',
        "event": 'allow.owner_defined_in("author")',
        "country": "unmanaged: not decided yet",
        "alembic_version": "unmanaged: alembic's own",
        "a.b": 'allow.owner_defined_in("username")',
    }
    with database.connect_as_owner() as conn:
        assert plan(conn, rules).by_table().keys() >= {
            each.name for each in rules.tables if isinstance(each.allow, tuple)
        }


def test_rules_that_are_there_are_kept(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.rlskit]\nrole = "app_user"\n')
    made = started(tmp_path)

    assert (made.new, made.found, made.commands[0]) == (None, ("Found rules: pyproject.toml.",), "rlskit sql")
