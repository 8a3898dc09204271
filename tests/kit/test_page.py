"""The page about testing: its files make projects, and their tests pass; one is the example with FastAPI, one that with SQLAlchemy and Alembic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlskit.server import Running
from tests.projects import at_work_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "testing.md"
FILE = re.compile(r"^```\w+\n(?:#|--) (?P<name>\S+\.\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONS = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-W", "error::ResourceWarning")


def files() -> dict[str, str]:
    return {found["name"]: found["text"] for found in FILE.finditer(PAGE.read_text(encoding="utf-8"))}


def test_the_first_ten_minutes(pytester: pytest.Pytester, embedded: Running) -> None:
    for name, text in files().items():
        if name not in ("test_app.py", "migrated.py"):
            (pytester.path / name).write_text(text, encoding="utf-8")
    ini = pytester.path / "pyproject.toml"
    ini.write_text(ini.read_text(encoding="utf-8") + 'rlskit_prepare = ["roles.sql"]\n', encoding="utf-8")
    result = pytester.runpytest_inprocess("--rlskit-dsn", embedded.dsn, *OPTIONS)

    result.assert_outcomes(passed=8 + 24)  # and the cells of the matrix


def test_fastapis_example(pytester: pytest.Pytester, embedded: Running) -> None:
    example = ROOT / "examples" / "todo_fastapi"
    for name in ("rlskit.toml", "schema.sql"):
        (pytester.path / name).write_text((example / name).read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("pyproject.toml", "test_app.py"):
        (pytester.path / name).write_text(files()[name], encoding="utf-8")
    pytester.makeconftest(
        """
        import pytest
        from todo_app.settings import Settings

        @pytest.fixture
        def settings():
            return Settings(database_url="", keys=None, issuer="issuer", audience="todo")
        """
    )
    ignored = ("-W", "ignore:Using `httpx`")  # Starlette's newest would rather have another package
    result = pytester.runpytest_inprocess("--rlskit-dsn", embedded.dsn, *OPTIONS, *ignored)

    result.assert_outcomes(passed=1)


@pytest.fixture
def todos(pytester: pytest.Pytester) -> Iterator[pytest.Pytester]:
    """A suite in the folder of the other example."""
    (pytester.path / "migrated.py").write_text(files()["migrated.py"], encoding="utf-8")
    pytester.makeini(
        f"[pytest]\nrlskit_rules = todos.access:rules\nrlskit_load = migrated:migrate\npythonpath = {pytester.path}\n"
    )
    with at_work_in(ROOT / "examples" / "todo_sqlalchemy"):
        yield pytester


def test_alembics_example(todos: pytest.Pytester, embedded: Running) -> None:
    todos.makepyfile(
        """
        from rlskit.testing import person
        from todos.models import Note

        def test_a_note_is_shared(rlskit_db, as_user, assert_can, assert_cannot):
            note = rlskit_db.insert("note", owner=person("alice"), coauthors=[person("bob")])
            assert_can("bob", "update", note, text="tea")
            assert_cannot("bob", "update", note, title="his")
            assert_cannot("carol", ["read", "update", "delete"], note, text="tea")
            with as_user("bob").session() as session:
                session.get(Note, note["id"]).text = "cake"
            assert rlskit_db.stored(note)["text"] == "cake"
        """
    )
    path = todos.path / "test_alembics_example.py"
    result = todos.inline_run(
        path, "--rootdir", str(todos.path), "-c", str(todos.path / "tox.ini"), "--rlskit-dsn", embedded.dsn, *OPTIONS
    )

    result.assertoutcome(passed=1)
