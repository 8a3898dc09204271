"""Why there is no container, in words, and what an engine is asked to do: without one, by an engine that only answers."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlskit import containers, server
from rlskit.containers import Container
from rlskit.errors import ServerError
from tests.containers.support import FakeEngine, fake_engine

FIND = "from rlskit.containers import Container; print(Container().find())"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for sockets, whose names have to be short; whatever this machine has set for testcontainers is gone."""
    from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415 - as late as rlskit does

    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_AUTH_CONFIG", "RLSKIT_TEST_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "tc_properties", {})
    monkeypatch.setattr(config, "tc_host_override", None)
    monkeypatch.setattr(config, "connection_mode_override", None)
    monkeypatch.setattr(config, "hub_image_name_prefix", "")
    monkeypatch.setattr(config, "_ryuk_disabled", True)
    monkeypatch.setattr("testcontainers.core.utils.inside_container", lambda: False)
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{name}/docker.sock")
        yield Path(name)


@pytest.fixture
def engine(folder: Path) -> Iterator[FakeEngine]:
    with fake_engine(folder) as made:
        yield made


def failure(image: str = "postgres:18-alpine") -> ServerError:
    """That of a container which cannot be started."""
    with pytest.raises(ServerError) as caught, server.start(Container(image)):
        pass
    return caught.value


@contextmanager
def nothing_left_to_the_collector() -> Iterator[None]:
    """A socket that is left open would be a warning in a suite of somebody's, at any later moment."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(each.message) for each in caught] == []


# --- why there is none -----------------------------------------------------------------------------------------------


def test_without_testcontainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers.community.postgres", None)

    assert Container().find() == "testcontainers 4.15 or later is not installed: pip install 'rlskit[test]'"


def test_without_an_engine(folder: Path) -> None:
    with nothing_left_to_the_collector():
        found = Container().find()

    assert found == f"no Docker engine answers at `unix://{folder}/docker.sock`: No such file or directory"


def test_without_an_engine_and_without_docker_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setattr("docker.utils.utils.DEFAULT_UNIX_SOCKET", f"http+unix://{folder}/docker.sock")

    found = Container().find()

    assert found == "no Docker engine answers at the usual place, and DOCKER_HOST is not set: No such file or directory"


def test_with_an_engine_that_keeps_silent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for until it hangs up."""
    monkeypatch.setattr(containers, "_PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{folder}/docker.sock")
        silent.listen()
        hang_up = threading.Timer(10, silent.close)
        hang_up.start()
        try:
            found = Container().find()
        finally:
            hang_up.cancel()

        assert found == f"no Docker engine answers at `unix://{folder}/docker.sock`: timed out"


def test_a_login_in_docker_host_is_not_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://someone:geheim@127.0.0.1:1")

    found = Container().find()

    assert isinstance(found, str)
    assert found.startswith("no Docker engine answers at `tcp://127.0.0.1:1`: ")
    assert "geheim" not in found


def test_an_image_that_cannot_be_pulled(engine: FakeEngine) -> None:
    found = Container("example.test/unknown:1").find()

    assert found == (
        "the image `example.test/unknown:1` is not there and cannot be pulled: pull access denied for example.test/unknown"
    )


def test_a_reaper_that_cannot_be_pulled(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415 - as late as rlskit does

    monkeypatch.setattr(config, "_ryuk_disabled", False)

    found = Container().find()

    assert isinstance(found, str)
    assert found.startswith("the image `testcontainers/ryuk:")
    assert found.endswith("(TESTCONTAINERS_RYUK_DISABLED=true does without it)")


def test_the_reasons_are_said_by_start(folder: Path) -> None:
    assert failure().message.startswith("no PostgreSQL can be had; container: no Docker engine answers at ")


# --- what the environment says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RLSKIT_TEST_IMAGE": "postgres:17", "TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX": "mirror.test/"}, "the image `mirror.test/postgres:17` is not"),
        ({"RYUK_CONTAINER_IMAGE": "reaper:1"}, "the image `reaper:1` is not"),
        ({"RYUK_CONTAINER_IMAGE": "reaper:1", "TESTCONTAINERS_RYUK_DISABLED": "true"}, "_Image(name='postgres:18-alpine')"),
        ({"TESTCONTAINERS_CONNECTION_MODE": "flood"}, "testcontainers cannot read its environment: "),
    ],
    ids=["image", "reaper", "no reaper", "nonsense"],
)  # fmt: skip
def test_the_environment_counts(engine: FakeEngine, folder: Path, settings: dict[str, str], words: str) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(folder), "DOCKER_HOST": engine.address, **settings}
    done = subprocess.run([sys.executable, "-c", FIND], env=environment, capture_output=True, text=True, check=False)

    assert words in done.stdout + done.stderr


# --- what is started, and how it ends --------------------------------------------------------------------------------


def test_what_the_engine_is_asked_to_start(engine: FakeEngine) -> None:
    failure()

    asked = engine.created
    assert asked["Image"] == "postgres:18-alpine"
    assert asked["Cmd"] == ["postgres", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    assert {"POSTGRES_USER=postgres", "POSTGRES_DB=postgres", "PGDATA=/pgdata"} < set(asked["Env"])
    assert asked["HostConfig"]["Tmpfs"] == {"/pgdata": ""}
    assert asked["HostConfig"]["PortBindings"] == {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}


def test_each_container_has_a_password_of_its_own(engine: FakeEngine) -> None:
    failure()
    first = engine.password
    failure()

    assert len(first) >= 32
    assert engine.password != first


@pytest.mark.parametrize("mode", ["gateway_ip", "host elsewhere"])
def test_published_wider_where_loopback_is_out_of_reach(
    engine: FakeEngine, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testcontainers.core.config import ConnectionMode, testcontainers_config  # noqa: PLC0415 - as late as rlskit does

    if mode == "gateway_ip":
        monkeypatch.setattr(testcontainers_config, "connection_mode_override", ConnectionMode.gateway_ip)
    else:
        monkeypatch.setattr(testcontainers_config, "tc_host_override", "docker.test")
    failure()

    assert engine.created["HostConfig"]["PortBindings"] == {"5432/tcp": [{"HostIp": "", "HostPort": ""}]}


def test_a_container_that_ends_at_once(engine: FakeEngine) -> None:
    """It is not waited for: testcontainers alone takes two minutes to see it."""
    error = failure()

    assert error.message == "the container ended by itself with code 3; the end of its log:\nno moon tonight …"
    assert "RLSKIT_TEST_IMAGE" in error.hint
    assert [each for each in engine.requests if each.startswith("DELETE")] == [
        "DELETE /containers/c1?v=True&link=False&force=True"
    ]


def test_a_container_that_cannot_be_started(engine: FakeEngine) -> None:
    engine.refusal = 'exec: "postgres":\n  executable file not found'

    assert failure().message == 'the container failed: exec: "postgres": executable file not found'
    assert engine.requests[-1].startswith("DELETE /containers/c1?")


def test_a_server_that_takes_no_connection(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to wait is that of testcontainers: TC_MAX_TRIES times TC_POOLING_INTERVAL."""
    from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415 - as late as rlskit does

    monkeypatch.setattr(config, "max_tries", 1)
    monkeypatch.setattr(config, "sleep_time", 0.2)
    engine.status = "running"
    error = failure()

    assert error.message.startswith("the server in the container took no connection within ")
    assert engine.password not in str(error)
    assert engine.requests[-1].startswith("DELETE /containers/c1?")


def test_a_container_that_cannot_be_removed(engine: FakeEngine) -> None:
    engine.holds_on = True

    assert failure().message == "the container failed: the device is busy"


def test_a_container_cannot_be_kept(engine: FakeEngine) -> None:
    with pytest.raises(ServerError, match="not kept after its block"), server.start(Container(), keep=True):
        pass

    assert not [each for each in engine.requests if each.startswith("POST")]
