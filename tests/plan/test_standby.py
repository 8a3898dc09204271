"""On a streaming standby nothing may be created: `check` works there by the digests in the policies' comments."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rlskit import SigningKey, TableRules, allow, as_user, guard, keyring, plan
from rlskit.errors import PlanError, SigningKeyError
from rlskit.forecaster import shadow
from rlskit.planner import compare
from tests.support import ALICE, BOB, Database, Server, copied, full

RULES = TableRules("todo", allow.owner())


@pytest.fixture(scope="module")
def standby(server: Server) -> Iterator[str]:
    """The DSN of a standby that follows the server."""
    with copied(server, backup=["-R"], settings=["hot_standby=on"]) as dsn:
        yield dsn


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
    database.execute("create table todo (id serial, content text)", "create table person (sub text, username text)")
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

    with psycopg.connect(there) as conn:
        made = shadow(conn, rules, identities=[ALICE], people="person").tables[0]
        assert (made.shares[0].read, made.crowd and made.crowd.unread) == (1, 1)

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
