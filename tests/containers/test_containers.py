"""`Container` on a Docker engine: a server, an ordinary login in it, and that nothing is left behind."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import rlskit
from rlskit import Rules, TableRules, allow, as_user, guard, server
from rlskit.containers import DEFAULT_IMAGE, Container
from rlskit.errors import BypassingRoleError, ServerError
from rlskit.server import Running
from tests.containers.support import why_not
from tests.support import ALICE, BOB

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "containers.md"

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def docker() -> Iterator[Any]:
    """A client of the engine, apart from that of rlskit. Without an engine the tests are skipped, or fail where they are required."""
    if reason := why_not():
        if os.environ.get("RLSKIT_REQUIRE_CONTAINERS"):
            pytest.fail(f"RLSKIT_REQUIRE_CONTAINERS is set, and there is no container: {reason}")
        pytest.skip(reason)
    from docker import from_env  # noqa: PLC0415 - optional

    client = from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(docker: Any) -> Iterator[Running]:
    with server.start(Container()) as made:
        yield made


def container(docker: Any, running: Running) -> Any:
    """That of the server."""
    (found,) = docker.containers.list(filters={"publish": conninfo_to_dict(running.dsn)["port"]})
    return found


def left(docker: Any, identifiers: list[str]) -> list[str]:
    """Which of the containers and volumes are still there, running or not."""
    there = {each.id for each in docker.containers.list(all=True)} | {each.id for each in docker.volumes.list()}
    return [each for each in identifiers if each in there]


def traces(docker: Any, running: Running) -> list[str]:
    """The container of the server and its volumes."""
    found = container(docker, running)
    return [found.id, *(each["Name"] for each in found.attrs["Mounts"] if each["Type"] == "volume")]


def ask(dsn: str, query: str) -> tuple[Any, ...] | None:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query).fetchone()


# --- a server --------------------------------------------------------------------------------------------------------


def test_a_server(running: Running) -> None:
    assert running.provider == "container"
    assert ask(running.dsn, "select split_part(current_setting('server_version'), ' ', 1)") == (running.version,)
    assert ask(running.dsn, "show is_superuser") == ("on",)
    assert str(conninfo_to_dict(running.dsn)["password"]) not in repr(running)


def test_it_is_for_tests_alone(docker: Any, running: Running) -> None:
    """Nobody else reaches it, nothing is written to a disk, and its password is asked for."""
    attributes = container(docker, running).attrs

    assert {each["HostIp"] for each in attributes["NetworkSettings"]["Ports"]["5432/tcp"]} == {"127.0.0.1"}
    assert ask(running.dsn, "show data_directory") == ("/pgdata",)
    assert attributes["HostConfig"]["Tmpfs"] == {"/pgdata": ""}
    assert ask(running.dsn, "show fsync") == ("off",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(running.dsn, password="another"))


def test_an_ordinary_login_is_bound_and_the_superuser_refused(running: Running) -> None:
    with psycopg.connect(running.dsn, autocommit=True) as conn:
        conn.execute("create role app login password 'app'")
        conn.execute("create table todo (id serial, content text)")
        rlskit.plan(conn, Rules(TableRules("todo", allow.owner()), role="app")).apply(conn)

        with pytest.raises(BypassingRoleError):
            guard(conn)
    with psycopg.connect(make_conninfo(running.dsn, user="app", password="app")) as conn:
        guard(conn)
        with as_user(conn, ALICE):
            conn.execute("insert into todo (content) values ('milk')")
        with as_user(conn, BOB):
            seen_by_bob = conn.execute("select content from todo").fetchall()
        with as_user(conn, ALICE):
            seen_by_alice = conn.execute("select content from todo").fetchall()

    assert (seen_by_bob, seen_by_alice) == ([], [("milk",)])


def test_the_page_does_what_it_says(docker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), namespace)

    assert capsys.readouterr().out == f"{namespace['running'].version} ('postgres',)\n"


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_gone_after_an_exception(docker: Any) -> None:
    seen: list[str] = []
    lines: list[str] = []
    with pytest.raises(ZeroDivisionError), server.start(Container(), on_progress=lines.append) as running:
        seen += traces(docker, running)
        assert left(docker, seen) == seen
        raise ZeroDivisionError

    assert left(docker, seen) == []
    assert lines[0] == f"starting a container of {os.environ.get('RLSKIT_TEST_IMAGE', DEFAULT_IMAGE)}"
    assert lines[1].startswith("ready in ")


def test_a_container_that_ends_during_the_block(docker: Any) -> None:
    seen: list[str] = []
    with pytest.raises(ServerError) as caught, server.start(Container()) as running:
        seen += traces(docker, running)
        password = str(conninfo_to_dict(running.dsn)["password"])
        container(docker, running).kill("SIGINT")
        docker.api.wait(seen[0], timeout=30)

    assert caught.value.message.startswith("the container ended by itself with code 0; the end of its log:\n")
    assert caught.value.message.endswith("database system is shut down")
    assert password not in str(caught.value)
    assert left(docker, seen) == []


def test_a_container_that_was_removed_during_the_block(docker: Any) -> None:
    with (
        pytest.raises(ServerError, match="the container failed: No such container"),
        server.start(Container()) as running,
    ):
        container(docker, running).remove(force=True, v=True)


def test_an_image_whose_container_ends_at_once(docker: Any) -> None:
    image = os.environ.get("RLSKIT_TEST_IMAGE", DEFAULT_IMAGE)
    file = f'FROM {image}\nENTRYPOINT ["sh", "-c", "echo no moon tonight $POSTGRES_PASSWORD >&2; exit 3"]\n'
    made, _ = docker.images.build(fileobj=io.BytesIO(file.encode()), rm=True, tag=f"rlskit-ends-at-once:{os.getpid()}")
    before = {each.id for each in docker.containers.list(all=True, filters={"ancestor": made.id})}
    try:
        with pytest.raises(ServerError) as caught, server.start(Container(made.tags[0])):
            pass
        after = {each.id for each in docker.containers.list(all=True, filters={"ancestor": made.id})}
    finally:
        docker.images.remove(made.tags[0])

    assert caught.value.message == "the container ended by itself with code 3; the end of its log:\nno moon tonight …"
    assert (before, after) == (set(), set())


def test_a_suite_of_the_kit_runs_on_a_container_as_an_ordinary_login(docker: Any, pytester: pytest.Pytester) -> None:
    """Over TCP and by password, in a process of its own, and nothing of it is left."""
    before = {each.id for each in docker.containers.list(all=True)}
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\nrlskit_rules = "rlskit.toml"\nrlskit_load = ["schema.sql"]\n'
    )
    pytester.makefile(".toml", rlskit='role = "app_user"\n[tables.todo]\nallow = [{ owner = "owner" }]\n')
    pytester.makefile(".sql", schema="create table todo (id int primary key, content text, owner text);")
    pytester.makepyfile(
        """
        from rlskit.testing import person

        def test_bob_sees_nothing(rlskit_server, rlskit_db, as_user, assert_cannot):
            assert rlskit_server.provider == "container"
            milk = rlskit_db.insert("todo", owner=person("alice"))
            assert_cannot("bob", ["read", "delete"], milk)
            with as_user("alice") as conn:
                bound = conn.execute("select session_user, current_setting('is_superuser')").fetchone()
            assert bound == (rlskit_db.login, "off")
        """
    )
    result = pytester.runpytest_subprocess("--rlskit-server", "container", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
    assert {each.id for each in docker.containers.list(all=True)} == before
