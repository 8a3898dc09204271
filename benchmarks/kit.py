"""How long a fresh suite of ten access tests takes with the kit: the whole pytest process, on each kind of server, in both isolations."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import bytecode_cached, report
from rlskit import server
from rlskit.containers import Container
from rlskit.server import EmbeddedWheel, LocalBinaries, Provider

RUNS = 3
ISOLATIONS = ("database", "transaction")

FILES = {
    "pyproject.toml": '[tool.pytest.ini_options]\nrlskit_rules = "rlskit.toml"\nrlskit_load = ["schema.sql"]\n',
    "rlskit.toml": 'role = "app_user"\n[tables.todo]\nallow = [{ owner = "owner" }]\n[tables.board]\nallow = [{ owners = "owners" }]\n',
    "schema.sql": "create table todo (id bigint generated always as identity primary key, content text, owner text);\n"
    "create table board (id bigint generated always as identity primary key, content text, owners text[]);\n",
    "test_access.py": """
import pytest


@pytest.mark.parametrize("number", range(10))
def test_everybody_sees_his_own(as_user, number):
    with as_user("alice") as conn:
        conn.execute("insert into todo (content) values ('milk')")
        conn.execute("insert into board (content) values ('plan')")
    with as_user("bob") as conn:
        assert conn.execute("select from todo").fetchall() == []
        assert conn.execute("update board set content = 'his'").rowcount == 0
    with as_user("alice") as conn:
        assert conn.execute("select content from todo").fetchall() == [("milk",)]
""",
}


def run() -> None:
    providers: tuple[Provider, ...] = (Container(), LocalBinaries(), EmbeddedWheel())
    rows = []
    for provider in providers:
        if isinstance(missing := provider.find(), str):
            print(f"\nkit, {provider.name}: not measured, {missing}.")
            continue
        rows.append(_measured(provider.name, "--rlskit-server", provider.name))
    with server.start(EmbeddedWheel()) as running:
        rows.append(_measured("dsn: the same server for every run", "--rlskit-dsn", running.dsn))
    report(
        "kit: a fresh suite of ten access tests, in seconds of the whole pytest process",
        f"The median of {RUNS} runs, each a fresh process, and a fresh server but for a DSN's; imports have cached bytecode, as pip leaves it.",
        ["server", *(f'isolation="{each}"' for each in ISOLATIONS)],
        rows,
    )


def _measured(name: str, *options: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, bytecode_cached() as environment:
        for file, text in FILES.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        found = [name]
        for isolation in ISOLATIONS:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rlskit-isolation", isolation]
            runs = [_once([*command, *options], folder, environment) for _ in range(RUNS + 1)]
            found.append(f"{median(runs[1:]):.1f}")  # the first fills the cache
        return found


def _once(command: list[str], folder: str, environment: dict[str, str]) -> float:
    began = perf_counter()
    answer = subprocess.run(
        command, cwd=folder, env={**environment, "PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert "10 passed" in answer.stdout, answer.stdout + answer.stderr
    return perf_counter() - began
