"""On a streaming standby nothing may be created: `check` works there by the digests in the policies' comments."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rlskit import SigningKey, TableRules, allow, as_user, guard, keyring, plan
from rlskit.errors import PlanError, SigningKeyError
from rlskit.planner import compare
from tests.support import ALICE, BOB, Database, Server, full

RULES = TableRules("todo", allow.owner())


@pytest.fixture(scope="module")
def standby(server: Server) -> Iterator[str]:
    """The DSN of a standby that follows the server; stopped by its own handle."""
    assert server.running.directory is not None
    folder = Path(tempfile.mkdtemp(prefix="rlskit-standby-", dir=server.running.directory.parent))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    programs = server.bin
    if subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, check=False, cwd="/", **other
    ).returncode:
        programs = Path("/proc") / str(server_pid(server)) / "exe"
        programs = programs.resolve().parent
    data = folder / "data"
    subprocess.run(
        [programs / "pg_basebackup", "-d", server.dsn, "-D", data, "-R", "-c", "fast"], check=True, cwd="/", **other
    )
    process = subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "hot_standby=on"],
        cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **other,
    )  # fmt: skip
    dsn = make_conninfo(server.dsn, host=str(folder))
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        yield dsn
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder)


def server_pid(server: Server) -> int:
    assert server.running.directory is not None
    return int((server.running.directory / "data" / "postmaster.pid").read_text().split()[0])


def caught_up(database: Database, standby: str) -> str:
    """Wait until the standby has what the primary has now; its DSN for this database."""
    ((now,),) = database.rows("select pg_current_wal_insert_lsn()::text")
    deadline = time.monotonic() + 30
    while True:
        with psycopg.connect(standby) as conn:
            row = conn.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [now]).fetchone()
        if row == (True,):
            return make_conninfo(standby, dbname=database.name)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_check_and_identity_on_a_standby(database: Database, standby: str) -> None:
    database.execute("create table todo (id serial, content text)")
    rules = database.apply(RULES)
    with database.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute("insert into todo (content) values ('milk')")
    there = caught_up(database, standby)

    with psycopg.connect(make_conninfo(there, user=database.owner)) as conn:
        found = compare(conn, rules)
        assert (found.conforms, found.compared) == (True, "mark")
    with psycopg.connect(make_conninfo(there, user=database.app)) as conn:
        with as_user(conn, ALICE):
            assert conn.execute("select owner from todo").fetchall() == [(full(ALICE),)]
        assert conn.execute("select owner from todo").fetchall() == []

    database.execute("alter policy rlskit_select on todo using (true)")
    with psycopg.connect(make_conninfo(caught_up(database, standby), user=database.owner)) as conn:
        assert [step.says for step in compare(conn, rules)] == [
            f"alter policy rlskit_select for select to {database.app}"
        ]
        conn.rollback()
        with pytest.raises(PlanError) as caught:
            plan(conn, rules)
    assert caught.value.message == "this server is read-only"


def test_a_signed_identity_is_taken_on_a_standby(database: Database, standby: str) -> None:
    """A token is for one backend, and that is one of the standby's; the keys come with everything else."""
    database.execute("create table todo (id serial, content text)")
    database.apply(RULES, mode="signed")
    key = SigningKey.generate()
    with database.connect_as_owner() as conn:
        keyring.add(conn, key)
    with database.connect_as_app() as conn:
        guard(conn, key=key)
        with as_user(conn, ALICE):
            conn.execute("insert into todo (content) values ('milk')")

    with psycopg.connect(make_conninfo(caught_up(database, standby), user=database.app)) as conn:
        with pytest.raises(SigningKeyError):
            guard(conn)
        guard(conn, key=key)
        for who, expected in ((ALICE, [(full(ALICE),)]), (BOB, [])):
            with as_user(conn, who):
                assert conn.execute("select owner from todo").fetchall() == expected
            with as_user(conn, who, pipeline=True):
                rows = conn.execute("select owner from todo")
            assert rows.fetchall() == expected
