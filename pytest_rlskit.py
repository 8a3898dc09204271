"""rlskit's plugin for pytest: options, ini keys, and fixtures on databases in which no test can be fooled.

It stands beside the package, because pytest loads it in every run: importing anything of `rlskit` would import psycopg. Until a fixture or an
option of it is used it does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rlskit.testing import Asking, TestDatabase, TestServer
    from rlskit.testing.servers import Choice, Found

_USED = pytest.StashKey[list[str]]()
_FOUND = pytest.StashKey["Found"]()

_INI = {
    "rlskit_rules": ("string", "the rules: what rlskit.load takes, relative to the rootdir"),
    "rlskit_load": ("linelist", "SQL files that the tables' owner runs, or module:function, called with his DSN"),
    "rlskit_prepare": ("linelist", "SQL files that a superuser runs before: extensions, roles"),
    "rlskit_login": ("string", "the application's own login, which asks instead of one that is made"),
    "rlskit_isolation": ("string", "database: a copy for each test; transaction: one that is rolled back"),
    "rlskit_server": ("string", "where a PostgreSQL comes from: dsn, container, local or embedded"),
}
_KNOWN = {
    "rlskit_isolation": ("database", "transaction"),
    "rlskit_server": ("dsn", "container", "local", "embedded"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and ini keys."""
    group = parser.getgroup("rlskit", "row level security, tested as an ordinary login")
    group.addoption(
        "--rlskit-dsn",
        metavar="DSN",
        help="a superuser's DSN of a server for tests (RLSKIT_TEST_DSN); tests never get it",
    )
    group.addoption(
        "--rlskit-server",
        choices=_KNOWN["rlskit_server"],
        help="where a PostgreSQL comes from; else the first of these that can be had",
    )
    group.addoption("--rlskit-image", metavar="IMAGE", help="the image of the container (RLSKIT_TEST_IMAGE)")
    group.addoption(
        "--rlskit-require-db",
        action="store_true",
        help="end the run at once where no PostgreSQL can be had (RLSKIT_REQUIRE_DB=1)",
    )
    group.addoption(
        "--rlskit-isolation", choices=_KNOWN["rlskit_isolation"], help="what tests get that do not say it themselves"
    )
    for name, (kind, told) in _INI.items():
        parser.addini(name, told, type=kind, default=[] if kind == "linelist" else "")  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    """The markers."""
    config.addinivalue_line(
        "markers", 'rlskit(isolation="database" | "transaction"): what kind of database this test gets'
    )
    config.addinivalue_line("markers", "rlskit_matrix(rules, *tables, values): what rlskit.testing.rls_matrix makes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with ``rls_matrix`` is one for each cell of the access matrix."""
    if marks := [*metafunc.definition.iter_markers("rlskit_matrix")]:
        from rlskit.testing import matrix  # noqa: PLC0415 - not before it is needed

        matrix.parametrize(metafunc, marks)


# --- which server ----------------------------------------------------------------------------------------------------


def _choice(config: pytest.Config) -> Choice:
    from rlskit.testing.servers import Choice  # noqa: PLC0415 - not before it is needed

    name = config.getoption("rlskit_server") or (
        None if config.getoption("rlskit_dsn") else config.getini("rlskit_server")
    )
    return Choice(name=name or None, dsn=config.getoption("rlskit_dsn"), image=config.getoption("rlskit_image"))


def _found(config: pytest.Config) -> Found:
    """The server for this run. Raises ServerError with the reasons."""
    from rlskit.testing import servers  # noqa: PLC0415 - not before it is needed

    if _FOUND not in config.stash:
        config.stash[_FOUND] = servers.find(_choice(config))
    return config.stash[_FOUND]


def _is_required(config: pytest.Config) -> bool:
    return bool(config.getoption("rlskit_require_db")) or os.environ.get("RLSKIT_REQUIRE_DB", "") not in ("", "0")


def _is_configured(config: pytest.Config) -> bool:
    options = ("rlskit_dsn", "rlskit_server", "rlskit_image", "rlskit_isolation", "rlskit_require_db")
    return any(map(config.getoption, options)) or any(map(config.getini, _INI))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where a key says what is not known, or a server is required and none can be had, the run ends here."""
    for name, known in _KNOWN.items():
        if (said := session.config.getini(name)) and said not in known:
            raise pytest.UsageError(f"rlskit: {name} is `{said}`, and has to be one of {', '.join(known)}")
    if _is_configured(session.config) and _is_required(session.config) and not _is_worker(session.config):
        from rlskit.errors import ServerError  # noqa: PLC0415 - not before it is needed

        try:
            _found(session.config)
        except ServerError as error:
            raise pytest.UsageError(f"rlskit: {error}") from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which server, and who asks; nothing where nothing of the plugin's is set."""
    if not _is_configured(config):
        return []
    from rlskit.errors import ServerError  # noqa: PLC0415 - not before it is needed

    try:
        found = _found(config)
    except ServerError as error:
        return [f"rlskit: {error.message}"]
    own = config.getini("rlskit_login")
    who = f"the login `{own}`" if own else "an ordinary login that is made for the run"
    shared = ", one for each worker" if config.getoption("numprocesses", None) and found.name != "dsn" else ""
    return [f"rlskit: {found}{shared}; tests ask as {who}"]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist has used."""
    node.config.stash.setdefault(_USED, []).extend(getattr(node, "workeroutput", {}).get("rlskit", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells what it has used."""
    if _is_worker(session.config):
        session.config.workeroutput["rlskit"] = session.config.stash.get(_USED, [])  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which server was used, and who asked."""
    used = terminalreporter.config.stash.setdefault(_USED, [])
    for line in dict.fromkeys(used):
        terminalreporter.write_line(f"rlskit: {line}")


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rlskit_server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    """The PostgreSQL of this run: `version` and `provider`. No test gets a superuser's connection of it."""
    from rlskit import server  # noqa: PLC0415 - not before it is needed
    from rlskit.errors import ServerError  # noqa: PLC0415 - the same
    from rlskit.testing import factories, keeper  # noqa: PLC0415 - the same

    config = request.config
    worker: str = getattr(config, "workerinput", {}).get("workerid", "")
    with ExitStack() as stack:
        with factories.plainly():
            try:
                running = stack.enter_context(server.start(_found(config)))
            except ServerError as error:
                if _is_required(config):
                    pytest.exit(f"rlskit: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
                raise
            made = stack.enter_context(keeper.at_work(running, worker))
        yield made
        config.stash.setdefault(_USED, []).append(made.told())


@pytest.fixture
def rlskit_db(request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
    """The test's database, as the ini keys describe it: `insert` and `stored` go past the rules; `as_user` and the others ask as an ordinary login."""
    from rlskit.testing import factories  # noqa: PLC0415 - not before it is needed

    with factories.requested(
        request, factories.configured, request.config.getini("rlskit_isolation") or "database"
    ) as made:
        yield made


@pytest.fixture
def as_user(rlskit_db: TestDatabase) -> Callable[..., Asking]:
    """Somebody asks, in a block.

    `with as_user("alice") as conn`, or `async with`; `with as_user("alice").session() as session` for SQLAlchemy.
    """
    return rlskit_db.as_user


@pytest.fixture
def as_nobody(rlskit_db: TestDatabase) -> Callable[..., Asking]:
    """A guest asks, in a block: no rows, and no error for reading.

    `with as_nobody() as conn`, and the rest as for `as_user`.
    """
    return rlskit_db.as_nobody


@pytest.fixture
def as_role(rlskit_db: TestDatabase) -> Callable[..., Asking]:
    """A login asks that is made for a role and has no other.

    `with as_role("reporting") as conn`; `as_role("reporting", "alice")`: in alice's name.
    """
    return rlskit_db.as_role


@pytest.fixture
def assert_can(rlskit_db: TestDatabase) -> Callable[..., None]:
    """Fail unless she can: `assert_can("alice", ["read", "update"], row, content="beer")`: tried, and undone."""
    return rlskit_db.assert_can


@pytest.fixture
def assert_cannot(rlskit_db: TestDatabase) -> Callable[..., None]:
    """Fail unless he cannot: `assert_cannot("bob", "read", row)`: refused, or not visible; the row has to be there."""
    return rlskit_db.assert_cannot
