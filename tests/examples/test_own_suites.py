"""The examples' own tests, as whoever copies the folder runs them: `pytest` in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PASSED = {"todo_fastapi": 78, "todo_sqlalchemy": 105}
OURS = re.compile(r"RLSKIT_|PYTEST_|PG[A-Z]+$")


@pytest.mark.parametrize(("example", "passed"), PASSED.items(), ids=PASSED)
def test_every_test_of_the_example_passes(example: str, passed: int) -> None:
    """On a server of their own, with nothing of this run's in the environment."""
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    options = ["-q", "--rlskit-server", "embedded", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=EXAMPLES / example,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith(f"{passed} passed in ")


@pytest.mark.parametrize("example", PASSED)
def test_the_readme_says_how_they_are_run(example: str) -> None:
    readme = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")

    assert "$ pip install -r requirements-test.txt" in readme
    assert re.search(r"^\$ pytest\n", readme, re.MULTILINE)
