"""The how-to page about Alembic: one project, from its first revision on, performed from top to bottom in a database of its own.

The page holds, in fences:

    ```python    beginning with `# FILE.py`: that file of the project. `context.configure(…)`: its arguments, in each call of env.py, after the
                 definitions above it. `def upgrade` and `def downgrade`: put into the revision that was made last. Otherwise: what stands so in that
                 revision, between `…` lines
    ```console   commands, run with what each prints, but for Alembic's log; `: …` stands for the rest of a line
    ```sql       statements that the owner of the tables runs, as psql would
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import alembic.command
import pytest
from alembic.config import Config
from alembic.config import main as alembic_main
from typer.testing import CliRunner

from rlskit.cli import app
from tests.docs.test_pages import ROLE, url
from tests.projects import at_work_in
from tests.support import ALICE, BOB, Database, perform

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "alembic.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Project:
    """A folder with Alembic in it, and what of the page was not as it says."""

    folder: Path
    database: Database
    capture: pytest.CaptureFixture[str]
    files: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def block(self, place: str, language: str, text: str) -> None:
        match language:
            case "console":
                for command, answer in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                    self.compare(f"{place}: {command}", answer.rstrip(), self.run(command))
            case "sql":
                self.database.execute(*text.strip().split("\n"))
            case _ if found := re.match(r"# (\S+\.py)\n", text):
                (self.folder / found[1]).write_text(self.local(text), encoding="utf-8")
                self.files.add(found[1].removesuffix(".py"))
            case _ if "context.configure(" in text:
                self.configure(text)
            case _ if text.startswith("def upgrade"):
                head = self.revision().partition("def upgrade")[0]
                head = head.replace("from alembic import op", "from rlskit.alembic import op")
                self.path().write_text(head + text, encoding="utf-8")
            case _:
                there = "".join(self.general(self.revision()).split())
                for part in re.split(r"^ *…$", text, flags=re.MULTILINE):
                    if "".join(part.split()) not in there:
                        self.wrong.append(f"{place}: this is not in {self.path().name}:\n{part}\n{self.revision()}")

    def run(self, command: str) -> str:
        """What the command prints, without what tells of files that were written."""
        command, _, search = command.partition(" | grep ")
        command, _, file = command.partition(" > ")
        program, *words = shlex.split(self.local(command))
        self.capture.readouterr()
        with at_work_in(self.folder, *self.files) as here:
            here.setenv("DATABASE_URL", self.database.owner_dsn)
            if program == "rlskit":
                result = CliRunner().invoke(app, words)
                assert result.exit_code == 0, result.output
                printed = result.output
            else:
                with suppress(SystemExit):  # what is wrong, it has printed
                    alembic_main(argv=words)
                both = self.capture.readouterr()
                printed = both.out + both.err
        lines = [line for line in self.general(printed).splitlines() if re.search(shlex.split(search or "''")[0], line)]
        return "" if file else "\n".join(line for line in lines if not line.startswith("Generating "))

    def configure(self, text: str) -> None:
        definitions, _, call = text.partition("context.configure(")
        env = self.folder / "migrations" / "env.py"
        source = env.read_text(encoding="utf-8")
        arguments = call.strip().removesuffix(")").partition("rls_rules")[2]
        source = re.sub(r"rls_rules=rules(, \w+=\w+)*", f"rls_rules{arguments}", source)
        if definitions:
            source = source.replace("def run_migrations_offline", f"{definitions}\ndef run_migrations_offline")
        env.write_text(source, encoding="utf-8")

    def compare(self, what: str, expected: str, got: str) -> None:
        if got != expected and not re.fullmatch(".*".join(map(re.escape, expected.split(": …"))), got):
            self.wrong.append(f"{what}\nexpected: {expected}\ngot:      {got}")

    def path(self) -> Path:
        """The revision that was made last."""
        return max((self.folder / "migrations" / "versions").glob("*.py"), key=lambda path: path.stat().st_mtime_ns)

    def revision(self) -> str:
        return self.path().read_text(encoding="utf-8")

    def local(self, text: str) -> str:
        return text.replace(ROLE, self.database.app)

    def general(self, text: str) -> str:
        return (
            text.replace(self.database.app, ROLE)
            .replace(self.database.owner, "app_owner")
            .replace(str(self.folder), ".")
        )


def blocks() -> Iterator[tuple[str, str, str]]:
    text = PAGE.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield f"alembic.md:{text.count(chr(10), 0, found.start(2)) + 1}", found[1], textwrap.dedent(found[2])


def start(folder: Path, database: Database, template: str) -> None:
    """What `alembic init` makes, with the address of the database."""
    ini = folder / "alembic.ini"
    alembic.command.init(Config(ini, stdout=io.StringIO()), str(folder / "migrations"), template=template)
    address = f"sqlalchemy.url = {url(database.owner_dsn).replace('%', '%%')}"
    text = ini.read_text(encoding="utf-8")
    ini.write_text(re.sub(r"^sqlalchemy\.url = .*", lambda _: address, text, flags=re.MULTILINE), encoding="utf-8")


@pytest.fixture
def project(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    made = Project(tmp_path, database, capsys)
    yield made
    for name in made.files:
        sys.modules.pop(name, None)


def test_the_page_about_alembic_does_what_it_says(project: Project) -> None:
    start(project.folder, project.database, "generic")
    for place, language, text in blocks():
        project.block(place, language, text)
        assert not project.wrong, "\n".join(project.wrong)

    perform(project.database, ALICE, "insert into task (content) values ('milk')")
    assert perform(project.database, BOB, "select content from task") == []


def test_the_asynchronous_template_does_the_same(project: Project) -> None:
    start(project.folder, project.database, "async")
    for place, language, text in islice(blocks(), 2):
        project.block(place, language, text)
    project.run("rlskit init --yes")
    for command in ("revision --autogenerate -m todos", "upgrade head"):
        assert project.run(f"alembic {command}") == ""

    assert project.run("alembic check") == "No new upgrade operations detected."
    perform(project.database, ALICE, "insert into todo (content) values ('milk')")
    assert perform(project.database, BOB, "select content from todo") == []
