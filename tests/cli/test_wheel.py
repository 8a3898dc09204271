"""What a user installs: the built wheel, and nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel brings."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("rlskit-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=installed.parent, capture_output=True, text=True, check=False
    )


def test_it_brings_the_sql_files_the_migrations_and_the_types(installed: Path) -> None:
    expected = {f"_sql/{path.relative_to(ROOT / 'sql')}" for path in (ROOT / "sql").rglob("*.sql")}
    expected |= {f"_migrations/{path.relative_to(ROOT / 'migrations')}" for path in (ROOT / "migrations").rglob("*.py")}
    brought = {
        str(path.relative_to(installed / "rlskit")) for path in (installed / "rlskit").rglob("*") if path.is_file()
    }

    assert expected | {"py.typed"} <= brought


def test_it_runs_from_its_own_files(installed: Path) -> None:
    shown = run(
        installed, "-c", "import rlskit.runtime as r; print(r.__file__, r.directory(), r.migrations(), sep='\\n')"
    )

    assert [Path(line).is_relative_to(installed) for line in shown.stdout.splitlines()] == [True] * 3


def test_its_demo_plays_as_promised(installed: Path) -> None:
    shown = run(installed, "-m", "rlskit", "demo")

    assert (shown.returncode, "All 25 answers are those that the rules promise" in shown.stdout) == (0, True)
