"""The plugin in suites as users write them: options, ini keys, markers, header and summary, and a run that ends where no server can be had."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlskit import containers
from rlskit import server as servers
from rlskit.errors import ServerError
from rlskit.server import Running
from rlskit.testing import servers as choices
from rlskit.testing.servers import Choice
from tests.kit.conftest import SCHEMA

RULES = """
role = "app_user"
[tables.todo]
allow = [{ owner = "owner" }]
columns.owner = [{ to = ["read", "delete"] }]
[tables.board]
allow = [{ owners = "owners" }]
"""
INI = """
[tool.pytest.ini_options]
addopts = "--strict-markers --strict-config -p no:cacheprovider -p no:hypothesispytest"
filterwarnings = ["error"]
rlskit_rules = "rlskit.toml"
rlskit_load = ["schema.sql"]
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLSKIT_TEST_DSN", "RLSKIT_REQUIRE_DB", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a schema and rules."""
    pytester.makefile(".toml", pyproject=INI, rlskit=RULES)
    (pytester.path / "schema.sql").write_text(SCHEMA, encoding="utf-8")
    return pytester


def test_off_until_used(pytester: pytest.Pytester) -> None:
    """Loading the plugin imports no driver, nothing of rlskit, nothing else; and a run without it says nothing of it."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_there(request):
            assert request.config.pluginmanager.has_plugin("rlskit")
            heavy = {"rlskit", "psycopg", "sqlalchemy", "testcontainers", "rlskit.testing"}
            assert heavy & set(sys.modules) == set()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*rlskit:*")


def test_importing_the_plugin_imports_pytest_alone() -> None:
    code = "import sys, pytest; before = {*sys.modules}; import pytest_rlskit; print(*sorted({*sys.modules} - before))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")

    assert answer.stdout.split() == ["pytest_rlskit"]


def test_a_suite(suite: pytest.Pytester, embedded: Running) -> None:
    """Everything that the fixtures give, on a DSN that is a superuser's."""
    suite.makeconftest(
        """
        import pytest, rlskit.testing

        boards = rlskit.testing.database(rules="rlskit.toml", load="schema.sql", isolation="transaction")
        other = rlskit.testing.database(rules="rlskit.toml", load=["schema.sql"], name="second")
        second_as_user = rlskit.testing.asking("second")
        """
    )
    suite.makepyfile(
        """
        import asyncio, pytest
        from rlskit.testing import denied, person, row

        def test_database(rlskit_db, as_user, as_nobody, as_role, assert_can, assert_cannot, rlskit_server):
            todo = rlskit_db.insert("todo", content="milk", owner=person("alice"))
            assert_can("alice", ["read", "update"], todo, content="beer")
            assert_cannot("bob", "read", todo)
            with as_user("bob") as conn:
                assert conn.execute("select from todo").fetchall() == []
                assert conn.execute("select session_user::text").fetchone() == (rlskit_db.login,)
            with as_nobody() as conn, denied(kind="row"):
                conn.execute("insert into board (content) values ('x')")
            with as_role("app_user", "alice").session() as session:
                assert len(session.connection().exec_driver_sql("select from todo").fetchall()) == 1
            assert rlskit_server.provider == "dsn"

        async def work(as_user):
            async with as_user("alice") as conn:
                await conn.execute("select from todo")

        def test_async(as_user):
            asyncio.run(work(as_user))

        @pytest.mark.rlskit(isolation="transaction")
        def test_transaction(rlskit_db, as_user):
            assert rlskit_db.isolation == "transaction"

        def test_two_databases(rlskit_db, boards, second, second_as_user):
            assert (rlskit_db.isolation, boards.isolation) == ("database", "transaction")
            assert len({rlskit_db.name, boards.name, second.name}) == 3
            with second_as_user("alice") as conn:
                assert conn.info.dbname == second.name

        @pytest.mark.rlskit(isolation="both")
        def test_wrong_isolation(rlskit_db): ...

        @pytest.mark.rlskit(isolated=True)
        def test_wrong_marker(rlskit_db): ...
        """
    )
    result = suite.runpytest_inprocess("--rlskit-dsn", embedded.dsn)

    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(
        [
            "rlskit: PostgreSQL 18.* (dsn); tests ask as an ordinary login that is made for the run",
            "*`both` is no isolation*",
            "*the marker rlskit takes `isolation` and nothing else*",
            "rlskit: PostgreSQL 18.* (dsn); asked as rlskit_test_*, made for the run and dropped; no test had a superuser's connection",
        ]
    )


def test_a_fixture_of_the_users_own_stands(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture
        def as_user():
            return "the user's own"

        def test_it(as_user):
            assert as_user == "the user's own"
        """
    )
    suite.runpytest_inprocess("--rlskit-server", "embedded").assert_outcomes(passed=1)


def test_isolation_by_option_and_ini_key(suite: pytest.Pytester, embedded: Running) -> None:
    suite.makefile(".toml", pyproject=INI + 'rlskit_isolation = "transaction"\n')
    suite.makepyfile(
        """
        import pytest

        def test_it(rlskit_db, pytestconfig):
            assert rlskit_db.isolation == (pytestconfig.getoption("rlskit_isolation") or "transaction")

        @pytest.mark.rlskit(isolation="database")
        def test_own(rlskit_db):
            assert rlskit_db.isolation == "database"
        """
    )
    for options in ((), ("--rlskit-isolation", "database")):
        suite.runpytest_inprocess("--rlskit-dsn", embedded.dsn, *options).assert_outcomes(passed=2)


def test_without_rules_a_test_is_told_what_to_set(pytester: pytest.Pytester, embedded: Running) -> None:
    pytester.makepyfile("def test_it(rlskit_db): ...")
    result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", "--rlskit-dsn", embedded.dsn)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*E700 rlskit_rules is not set*"])


def test_a_superusers_dsn_is_found_in_the_environment_and_workers_share_it(
    suite: pytest.Pytester, embedded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLSKIT_TEST_DSN", embedded.dsn)
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(rlskit_db, as_user, number):
            with as_user("alice") as conn:
                conn.execute("insert into board (content) values ('plan')")
            assert len(rlskit_db.stored("board")) == 1
        """
    )
    result = suite.runpytest_subprocess("-n2", "-p", "no:randomly")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["rlskit: PostgreSQL 18.* (dsn); tests ask as *", "rlskit: *asked as rlskit_test_gw?_*"]
    )


def test_the_embedded_server_is_asked_for(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_it(rlskit_server):\n    assert rlskit_server.provider == 'embedded'")
    result = suite.runpytest_inprocess("--rlskit-server", "embedded")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rlskit: PostgreSQL 18.* (embedded); tests ask as *"])


# --- no server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kind of server can be had."""
    for kind, reason in {
        servers.LocalBinaries: "no programs",
        servers.EmbeddedWheel: "no wheel",
        containers.Container: "no engine",
    }.items():
        monkeypatch.setattr(kind, "find", lambda self, reason=reason: reason)


def test_without_a_server_each_test_that_needs_one_is_an_error(suite: pytest.Pytester, nowhere: None) -> None:
    suite.makepyfile("def test_one(rlskit_db): ...\ndef test_two(as_user): ...\ndef test_three(): ...")
    result = suite.runpytest_inprocess()

    result.assert_outcomes(passed=1, errors=2)
    reasons = "dsn: RLSKIT_TEST_DSN is not set; container: no engine; local: no programs; embedded: no wheel"
    result.stdout.fnmatch_lines(
        [
            f"rlskit: no PostgreSQL can be had for the tests; {reasons}",
            f"*E400 no PostgreSQL *{reasons}",
            "*hint: set RLSKIT_TEST_DSN*",
        ]
    )


@pytest.mark.parametrize("way", ["option", "environment"])
def test_where_a_server_is_required_the_run_ends_at_once(
    suite: pytest.Pytester, nowhere: None, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    suite.makepyfile("def test_one(rlskit_db): ...\ndef test_three(): ...")
    if way == "environment":
        monkeypatch.setenv("RLSKIT_REQUIRE_DB", "1")
    result = suite.runpytest_inprocess(*(["--rlskit-require-db"] if way == "option" else []))

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: rlskit: no PostgreSQL can be had for the tests; *"])


@pytest.mark.parametrize(("key", "value"), [("rlskit_isolation", "transactions"), ("rlskit_server", "docker")])
def test_a_key_that_says_what_is_not_known_ends_the_run(suite: pytest.Pytester, key: str, value: str) -> None:
    (suite.path / "pyproject.toml").write_text(f'{INI}{key} = "{value}"\n', encoding="utf-8")
    suite.makepyfile("def test_it(rlskit_db): ...")
    result = suite.runpytest_inprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: rlskit: {key} is `{value}`, and has to be one of *"])


def test_what_is_required_of_others_is_nothing_to_a_suite_without_the_kit(
    pytester: pytest.Pytester, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLSKIT_REQUIRE_DB", "1")
    pytester.makepyfile("def test_it(): ...")

    pytester.runpytest_inprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_a_mistake_is_told_in_a_few_lines_and_no_server_is_started_for_rules_that_are_missing(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "start", None)
    (suite.path / "rlskit.toml").unlink()
    suite.makepyfile("def test_it(rlskit_db): ...")
    result = suite.runpytest_inprocess("--rlskit-server", "embedded")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E700 there is no `rlskit.toml` with the rules", "hint: name a TOML file, relative *"])
    assert len(result.outlines) < 20


def test_a_required_server_that_does_not_start_ends_the_run(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ServerError("initdb failed")

    monkeypatch.setattr(servers, "start", fails)
    suite.makepyfile("def test_one(rlskit_db): ...\ndef test_two(rlskit_db): ...")
    result = suite.runpytest_inprocess("--rlskit-server", "embedded", "--rlskit-require-db")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*rlskit: initdb failed*"])


def test_a_dsn_that_cannot_be_reached_is_told_and_nothing_else_is_taken(suite: pytest.Pytester) -> None:
    """In few lines, and with every local variable asked for."""
    suite.makepyfile("def test_one(rlskit_db): ...")
    result = suite.runpytest_inprocess("--rlskit-dsn", "host=/nowhere user=x password=hidden", "--showlocals")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["rlskit: the server of the DSN cannot be reached*"])
    assert "hidden" not in str(result.stdout) + str(result.stderr)
    assert len(result.outlines) < 20


# --- which server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (Choice(), ["dsn", "container", "local", "embedded"]),
        (Choice(dsn="host=x"), ["dsn"]),
        (Choice(image="postgres:17"), ["container"]),
        (Choice("local"), ["local"]),
        (Choice("embedded", image="postgres:17"), ["embedded"]),
    ],
    ids=["any", "a DSN", "an image", "local", "embedded"],
)
def test_where_a_server_is_looked_for(choice: Choice, names: list[str]) -> None:
    assert [each.name for each in choice.providers()] == names


def test_an_unknown_kind_of_server_is_told() -> None:
    with pytest.raises(ServerError, match="`docker` is no kind of server"):
        choices.find(Choice("docker"))


def test_the_first_that_can_be_had_is_taken(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.LocalBinaries, "find", lambda self: Running("host=x", "17.1", "local"))

    assert str(choices.find(Choice())) == "PostgreSQL 17.1 (local)"
