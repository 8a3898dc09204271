"""PgBouncer in transaction mode in front of a test's database: started for a block, on loopback, and gone after it.

``RLSKIT_REQUIRE_PGBOUNCER=1`` makes a missing program a failure; without it the test is skipped, and says how to install it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support import Database

_LIMIT = 30  # seconds for the first connection, and again for the end

_MISSING = "pgbouncer is not installed: apt-get install pgbouncer, or put it on PATH"

# Whoever asks is taken for the application's login, so that there is no list of users to be kept.
_SETTINGS = """\
[databases]
{name} = host={host} port={port} dbname={name} user={login}
[pgbouncer]
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 100
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
server_login_retry = 0.1
"""


def program() -> str:
    """Where PgBouncer is; Debian has it beside the daemons, where PATH seldom looks."""
    found = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if found is None and os.environ.get("RLSKIT_REQUIRE_PGBOUNCER"):
        pytest.fail(_MISSING)
    if found is None:
        pytest.skip(_MISSING)
    return found


@contextmanager
def bounced(database: Database, folder: Path, connections: int) -> Iterator[str]:
    """The DSN of the application's login through PgBouncer, which has so many connections to the server for all its clients."""
    path, listen, server = program(), free_port(), conninfo_to_dict(database.app_dsn)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        _SETTINGS.format(
            name=database.name,
            login=database.app,
            host=server["host"],
            port=server["port"],
            connections=connections,
            listen=listen,
        )
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # PgBouncer refuses root
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *user, settings], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
        )
    try:
        dsn = make_conninfo(database.app_dsn, host="127.0.0.1", port=listen)
        wait_for(process, dsn, log)
        yield dsn
        assert process.poll() is None, log.read_text()
    finally:
        stop(process)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    """Until it takes connections."""
    deadline = time.monotonic() + _LIMIT
    while not answers(dsn):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
