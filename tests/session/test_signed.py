"""Where identities have to be signed, whoever sends SQL of his own choosing is still nobody but the one whose block it is."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import select
import socket
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import (
    Identity,
    SigningKey,
    TableRules,
    allow,
    as_nobody,
    as_user,
    check_connection,
    gatekeeper,
    guard,
    keyring,
    plan,
    runtime,
    scrub,
)
from rlskit.errors import BypassingRoleError, IdentityConflictError, InvalidIdentityError, RlskitError, SigningKeyError
from rlskit.signing import LIFETIME
from tests.conformance.strategies import people
from tests.session.test_as_user import round_trips
from tests.support import ALICE, BOB, Database, Server, fresh_database

KEY = SigningKey.generate("first")
UNKNOWN = SigningKey.generate("unknown")
IMPOSTOR = SigningKey("first", b"not the secret of the first key, but 32 bytes")
CONTENTS = "select content from todo"
NOT_ACCEPTED = "the signature of the identity is not accepted"
NEEDS_A_KEY = "this database takes signed identities only"


def prepared(database: Database, mode: Any) -> Database:
    """A table with a row of alice's and one of bob's, and one key."""
    database.execute("create table todo (id serial, content text)")
    database.apply(
        TableRules("todo", allow.owner(), allow.owner_defined_in("email").identity_claim("email")), mode=mode
    )
    add(database, KEY)
    with database.connect_as_app() as app:
        guard(app, key=KEY)
        for who in (ALICE, BOB):
            with as_user(app, who) as conn:
                conn.execute("insert into todo (content) values (%s)", [f"of {who.username}"])
    return database


@pytest.fixture(scope="module")
def signed(server: Server) -> Iterator[Database]:
    """One database for all that leave it as it is."""
    with fresh_database(server, "signed") as made:
        yield prepared(made, "signed")


@pytest.fixture(scope="module")
def plain(server: Server) -> Iterator[Database]:
    with fresh_database(server, "plain") as made:
        yield prepared(made, "plain")


@pytest.fixture
def app(signed: Database) -> Iterator[psycopg.Connection[Any]]:
    with signed.connect_as_app() as conn:
        guard(conn, key=KEY)
        yield conn


def add(database: Database, key: SigningKey) -> None:
    with database.connect_as_owner() as conn:
        keyring.add(conn, key)


def retire(database: Database, key: SigningKey) -> None:
    with database.connect_as_owner() as conn:
        keyring.retire(conn, key.kid)


@contextmanager
def accepted(database: Database, key: SigningKey) -> Iterator[SigningKey]:
    add(database, key)
    try:
        yield key
    finally:
        with suppress(SigningKeyError):
            retire(database, key)


def switch(database: Database, mode: str) -> None:
    database.execute(runtime.requirement(signed=mode == "signed"))


@contextmanager
def switched(database: Database, mode: str) -> Iterator[None]:
    """The other mode for the block."""
    switch(database, mode)
    try:
        yield
    finally:
        switch(database, "plain" if mode == "signed" else "signed")


def token(conn: psycopg.Connection[Any], who: Identity, *, key: SigningKey = KEY, late: float = 0) -> str:
    """What the application would present for ``who`` on this connection, or would have presented some seconds ago."""
    return key.token(who, pid=conn.info.backend_pid, now=time.time() - late)


def signature(secret: bytes, *parts: str) -> str:
    """The last part of a token, as anybody can write it who knows the secret."""
    return hmac.new(secret, ".".join(parts).encode(), sha256).hexdigest()


def seen(conn: psycopg.Connection[Any]) -> list[Any]:
    return conn.execute(CONTENTS).fetchall()


def present(conn: psycopg.Connection[Any], text: str) -> None:
    conn.execute("select set_config('rlskit.token', %s, true)", [text])


# --- every way to ask --------------------------------------------------------------------------------------------------


def by_connection(database: Database, key: SigningKey | None, who: Identity, **options: Any) -> list[Any]:
    with psycopg.connect(database.app_dsn) as app:
        if key is not None:
            guard(app, key=key)
        with as_user(app, who, **options) as conn:
            cursor = conn.execute(CONTENTS)
        assert app.info.transaction_status == TransactionStatus.IDLE
        return cursor.fetchall()


def by_async_connection(database: Database, key: SigningKey | None, who: Identity, **options: Any) -> list[Any]:
    async def asking() -> list[Any]:
        async with await AsyncConnection.connect(database.app_dsn) as app:
            if key is not None:
                await guard(app, key=key.export())
            async with as_user(app, who, **options) as conn:
                cursor = await conn.execute(CONTENTS)
            return await cursor.fetchall()

    return asyncio.run(asyncio.wait_for(asking(), 60))


def by_pool(database: Database, key: SigningKey | None, who: Identity, **options: Any) -> list[Any]:
    with ConnectionPool(database.app_dsn, min_size=0, max_size=1, reset=scrub, timeout=20) as pool:
        if key is not None:
            guard(pool, key=key)
        with as_user(pool, who, **options) as conn:
            cursor = conn.execute(CONTENTS)
        return cursor.fetchall()


def by_async_pool(database: Database, key: SigningKey | None, who: Identity, **options: Any) -> list[Any]:
    async def asking() -> list[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            database.app_dsn, min_size=0, max_size=1, reset=scrub, timeout=20, open=False
        )
        async with pool:
            if key is not None:
                await guard(pool, key=key)
            async with as_user(pool, who, **options) as conn:
                cursor = await conn.execute(CONTENTS)
            return await cursor.fetchall()

    return asyncio.run(asyncio.wait_for(asking(), 60))


def by_configured_pool(database: Database, key: SigningKey, who: Identity) -> list[Any]:
    configure = partial(guard, key=key)
    pool = ConnectionPool(database.app_dsn, min_size=1, max_size=1, configure=configure, reset=scrub, open=False)
    with pool, as_user(pool, who) as conn:
        return seen(conn)


def by_configured_async_pool(database: Database, key: SigningKey, who: Identity) -> list[Any]:
    async def asking() -> list[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            database.app_dsn, min_size=1, max_size=1, configure=partial(guard, key=key), reset=scrub, open=False
        )
        async with pool, as_user(pool, who) as conn:
            return await (await conn.execute(CONTENTS)).fetchall()

    return asyncio.run(asyncio.wait_for(asking(), 60))


Way = Callable[[Database, Any, Identity], list[Any]]
UNGUARDED: dict[str, Way] = {
    "a connection": by_connection,
    "a connection, in a pipeline": partial(by_connection, pipeline=True),
    "an async connection": by_async_connection,
    "an async connection, in a pipeline": partial(by_async_connection, pipeline=True),
    "a pool": by_pool,
    "a pool, in a pipeline": partial(by_pool, pipeline=True),
    "an async pool": by_async_pool,
    "an async pool, in a pipeline": partial(by_async_pool, pipeline=True),
}
WAYS = {
    **UNGUARDED,
    "a pool that guards what it makes": by_configured_pool,
    "an async pool that guards what it makes": by_configured_async_pool,
}


@pytest.mark.parametrize("way", WAYS)
def test_with_a_key_each_sees_their_own(way: str, signed: Database) -> None:
    for who in (ALICE, BOB):
        assert WAYS[way](signed, KEY, who) == [(f"of {who.username}",)]


@pytest.mark.parametrize("way", UNGUARDED)
def test_without_a_key_it_is_refused_and_not_silently_nobody(way: str, signed: Database) -> None:
    with pytest.raises(SigningKeyError) as caught:
        UNGUARDED[way](signed, None, ALICE)

    assert str(caught.value) == (
        f"{NEEDS_A_KEY}\nhint: guard the connection or the pool with a key: rlskit.guard(pool, key=…); rlskit keys add prints one"
    )


@pytest.mark.parametrize("way", UNGUARDED)
@pytest.mark.parametrize("key", [UNKNOWN, IMPOSTOR], ids=["an unknown key", "a wrong secret"])
def test_a_key_that_the_database_does_not_have_is_refused(key: SigningKey, way: str, signed: Database) -> None:
    with pytest.raises(SigningKeyError) as caught:
        UNGUARDED[way](signed, key, ALICE)

    assert str(caught.value) == (
        f"{NOT_ACCEPTED}\nhint: key `{key.kid}` is not known there, or was retired, or the clock here is more than a minute from the server's"
    )
    assert caught.value.__cause__ is None  # its context may hold the token


def test_the_guard_refuses_where_signatures_are_required_and_there_is_no_key(signed: Database) -> None:
    with signed.connect_as_app() as conn:
        with pytest.raises(SigningKeyError, match=NEEDS_A_KEY):
            guard(conn)
        assert conn.info.transaction_status == TransactionStatus.IDLE
    with ConnectionPool(signed.app_dsn, min_size=0, max_size=1, timeout=20) as pool:
        with pytest.raises(SigningKeyError, match=NEEDS_A_KEY):
            guard(pool)
        with pool.connection(timeout=5) as conn:  # it came back
            assert not conn.closed

    async def scenario() -> None:
        async with await AsyncConnection.connect(signed.app_dsn) as conn:
            with pytest.raises(SigningKeyError, match=NEEDS_A_KEY):
                await guard(conn)

    asyncio.run(scenario())


def test_a_guard_later_gives_the_key_and_a_bare_one_does_not_take_it_away(signed: Database) -> None:
    with signed.connect_as_app() as conn:
        with pytest.raises(SigningKeyError):
            guard(conn)
        guard(conn, key=KEY)
        guard(conn)
        with as_user(conn, ALICE):
            assert seen(conn) == [("of alice",)]


def test_the_same_identity_inside_is_a_savepoint(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        with pytest.raises(ZeroDivisionError), as_user(app, ALICE):
            conn.execute("update todo set content = 'undone'")
            raise ZeroDivisionError
        assert seen(conn) == [("of alice",)]


def test_nobody_needs_no_key(signed: Database) -> None:
    with signed.connect_as_app() as bare, as_nobody(bare) as conn:
        assert seen(conn) == []
    with signed.connect_as_app() as bare, as_nobody(bare, pipeline=True) as conn:
        assert seen(conn) == []


def test_nobody_is_nobody_on_a_connection_with_a_key(app: psycopg.Connection[Any]) -> None:
    app.execute("select set_config('rlskit.token', %s, false)", [token(app, BOB)])
    app.commit()
    with as_nobody(app) as conn:
        assert seen(conn) == []


def test_the_next_transaction_knows_nobody(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        assert seen(conn) == [("of alice",)]

    assert seen(app) == []
    assert app.execute("select current_setting('rlskit.token')").fetchone() == ("",)


def test_it_costs_no_round_trip_of_its_own(app: psycopg.Connection[Any]) -> None:
    with round_trips(app) as plain, app.transaction():
        app.execute("select 1")
    with round_trips(app) as identified, as_user(app, ALICE) as conn:
        conn.execute("select 1")

    assert (plain, identified) == ([3], [3])


def test_it_works_in_a_transaction_that_may_only_read(app: psycopg.Connection[Any]) -> None:
    app.read_only = True
    app.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with as_user(app, ALICE) as conn:
        assert seen(conn) == [("of alice",)]


@contextmanager
def behind_a_pooler(database: Database) -> Iterator[str]:
    """The DSN of a relay that tells its client another process id than its backend's, as a pooler does: one connection."""
    to_server = Path(conninfo_to_dict(database.server.dsn)["host"]) / ".s.PGSQL.5432"
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/.s.PGSQL.5432")
        listening.listen(1)
        thread = threading.Thread(target=_relay, args=(listening, to_server), daemon=True)
        thread.start()
        yield make_conninfo(database.app_dsn, host=folder)
        thread.join(20)
        assert not thread.is_alive()


def _relay(listening: socket.socket, to_server: Path) -> None:
    client, _ = listening.accept()
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(str(to_server))
        while True:
            for ready in select.select([client, server], [], [])[0]:
                if not (data := ready.recv(65536)):
                    return
                if ready is server:  # BackendKeyData: its letter, its length, the process id
                    data = re.sub(
                        rb"K\x00\x00\x00\x0c....(?=.{4}Z)", b"K\x00\x00\x00\x0c\x00\x00\x00\x07", data, flags=re.DOTALL
                    )
                (server if ready is client else client).sendall(data)


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
def test_behind_a_pooler_the_backend_is_asked_first(options: dict[str, Any], signed: Database) -> None:
    with behind_a_pooler(signed) as dsn, psycopg.connect(dsn) as app:
        guard(app, key=KEY)
        assert app.info.backend_pid == 7
        app.read_only = True
        for who in (ALICE, BOB):
            with as_user(app, who, **options) as conn:
                cursor = conn.execute("select content, current_setting('transaction_read_only') from todo")
            assert cursor.fetchall() == [(f"of {who.username}", "on")]
        with as_nobody(app, **options) as conn:
            cursor = conn.execute(CONTENTS)
        assert cursor.fetchall() == []


# --- keys come and go -------------------------------------------------------------------------------------------------


@contextmanager
def idle_and_usable(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """What is refused inside leaves the connection to others, and changes nothing."""
    with pytest.raises(SigningKeyError, match=NOT_ACCEPTED):
        yield
    assert conn.info.transaction_status == TransactionStatus.IDLE
    with as_nobody(conn):
        assert seen(conn) == []


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
def test_a_retired_key_is_dead_at_once(options: dict[str, Any], signed: Database) -> None:
    with signed.connect_as_app() as conn, accepted(signed, SigningKey.generate()) as key:
        guard(conn, key=key)
        with as_user(conn, ALICE, **options):
            rows = conn.execute(CONTENTS)
        assert rows.fetchall() == [("of alice",)]

        retire(signed, key)
        with idle_and_usable(conn), as_user(conn, ALICE, **options):
            conn.execute("delete from todo")
    assert len(signed.rows(CONTENTS)) == 2


def test_a_key_that_is_retired_inside_of_a_block_ends_what_it_signed(signed: Database) -> None:
    with signed.connect_as_app() as conn, accepted(signed, SigningKey.generate()) as key:
        guard(conn, key=key)
        with as_user(conn, ALICE):
            retire(signed, key)
            assert seen(conn) == []


def test_keys_are_changed_without_a_gap(signed: Database) -> None:
    before, after = SigningKey.generate(), SigningKey.generate()
    with (
        signed.connect_as_app() as old,
        signed.connect_as_app() as new,
        accepted(signed, before),
        accepted(signed, after),
    ):
        guard(old, key=before)
        guard(new, key=after)
        for conn in (old, new):
            with as_user(conn, ALICE):
                assert seen(conn) == [("of alice",)]
        retire(signed, before)
        with idle_and_usable(old), as_user(old, ALICE):
            pass
        with as_user(new, ALICE):
            assert seen(new) == [("of alice",)]
        guard(old, key=after)  # and the open connection goes on with the other one
        with as_user(old, ALICE):
            assert seen(old) == [("of alice",)]


def test_a_pool_goes_on_with_another_key(signed: Database) -> None:
    with ConnectionPool(signed.app_dsn, min_size=0, max_size=1, reset=scrub, timeout=20) as pool:
        for _ in range(2):
            with accepted(signed, SigningKey.generate()) as key:
                guard(pool, key=key)
                with as_user(pool, ALICE) as conn:
                    assert seen(conn) == [("of alice",)]


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
@pytest.mark.parametrize(("slow", "taken"), [(LIFETIME - 20, True), (LIFETIME + 5, False), (-LIFETIME, True)])
def test_clocks_may_be_a_minute_apart(
    slow: int, taken: bool, options: dict[str, Any], app: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("rlskit.prelude.time.time", lambda: now - slow)
    if taken:
        with as_user(app, ALICE, **options) as conn:
            rows = conn.execute(CONTENTS)
        assert rows.fetchall() == [("of alice",)]
    else:
        with idle_and_usable(app), as_user(app, ALICE, **options) as conn:
            conn.execute("delete from todo")


# --- the mode is switched ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
def test_a_guarded_connection_without_a_key_is_told_when_signatures_become_required(
    options: dict[str, Any], plain: Database
) -> None:
    with plain.connect_as_app() as conn:
        guard(conn)
        refused = pytest.raises(SigningKeyError, match=NEEDS_A_KEY)
        with switched(plain, "signed"), refused, as_user(conn, ALICE, **options):
            conn.execute("delete from todo")
        assert conn.info.transaction_status == TransactionStatus.IDLE
        with as_user(conn, ALICE, **options):
            rows = conn.execute(CONTENTS)
        assert rows.fetchall() == [("of alice",)]


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
def test_an_async_one_is_told_too(options: dict[str, Any], plain: Database) -> None:
    async def scenario() -> None:
        async with await AsyncConnection.connect(plain.app_dsn) as conn:
            await guard(conn)
            with switched(plain, "signed"), pytest.raises(SigningKeyError, match=NEEDS_A_KEY):
                async with as_user(conn, ALICE, **options):
                    await conn.execute("delete from todo")
            assert conn.info.transaction_status == TransactionStatus.IDLE

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert len(plain.rows(CONTENTS)) == 2


@pytest.mark.parametrize("warm", [CONTENTS, "execute asking", "select rlskit.identity()", "select rlskit.claim('sub')"])
def test_a_plan_that_is_kept_sees_the_other_mode_at_once(warm: str, plain: Database) -> None:
    """Once unsigned, once as nobody; what was prepared and run often enough keeps its plan."""

    def asks(conn: psycopg.Connection[Any]) -> Any:
        conn.execute(
            "select set_config('rlskit.sub', %s, true), set_config('rlskit.username', %s, true)",
            [BOB.sub, BOB.username],
        )
        rows = conn.execute(warm, prepare=warm != "execute asking").fetchall()  # type: ignore[call-overload]
        conn.rollback()
        return rows

    with plain.connect_as_app() as conn:
        conn.execute(f"prepare asking as {CONTENTS}")
        conn.commit()
        somebody = asks(conn)
        for _ in range(10):
            assert asks(conn) == somebody
        for _ in range(2):
            with switched(plain, "signed"):
                nobody = asks(conn)
            assert nobody in ([], [(None,)])
            assert asks(conn) == somebody != nobody


def test_a_key_where_none_is_required_works_and_is_told_once_for_each_connection(
    plain: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with plain.connect_as_app() as conn:
        guard(conn, key=KEY)
        for who in (ALICE, BOB):
            with as_user(conn, who):
                assert seen(conn) == [(f"of {who.username}",)]

    (record,) = [each for each in caplog.records if each.name == "rlskit"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        'identities are signed, and this database takes others too: say mode = "signed" in the rules and apply'
    )
    assert record.rlskit == {"event": "signatures not required", "login": plain.app}  # type: ignore[attr-defined]


# --- SQL of the attacker's choosing -----------------------------------------------------------------------------------

BE_BOB = (
    "set_config('rlskit.sub', 'b2e1', {0}), set_config('rlskit.username', 'bob', {0}),"
    " set_config('rlskit.claims', '{{\"email\": \"bob@example.com\"}}', {0})"
)
HERE, FOR_LONG = BE_BOB.format("true"), BE_BOB.format("false")
ALL_OF_THEM = "(select string_agg(content, ',') from todo)"
SPOOFS = {
    "in the transaction": (f"select {HERE}", CONTENTS),
    "in the session": (f"select {FOR_LONG}", CONTENTS),
    "by SET": ("set local rlskit.sub = 'b2e1'", "set local rlskit.username = 'bob'", CONTENTS),
    "in a CTE": (f"with me as materialized (select {HERE}) select content from me left join todo on true",),
    "in a subquery": (f"select {ALL_OF_THEM} from (select {HERE} offset 0) me where me is not null",),
    "in the target list": (f"select {HERE}, {ALL_OF_THEM}",),
    "in a block of PL/pgSQL": (f"do $$ begin perform {HERE}; end $$", CONTENTS),
    "in another transaction": ("rollback", "begin", f"select {HERE}", CONTENTS),
    "after a savepoint": ("savepoint here", f"select {HERE}", "release here", CONTENTS),
    "and without a token": (f"select {HERE}, set_config('rlskit.token', '', true)", CONTENTS),
    "after a reset": ("reset rlskit.token", "discard plans", f"select {HERE}", CONTENTS),
    "by a claim alone": ("""set local rlskit.claims = '{"email": "bob@example.com"}'""", CONTENTS),
}


def attacked(conn: psycopg.Connection[Any], *statements: str) -> str:
    """Everything that the last statement shows."""
    for statement in statements:
        cursor = conn.execute(statement)  # type: ignore[call-overload]
    return str(cursor.fetchall())


@contextmanager
def in_alices_block(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Whatever the block thinks of what was done inside."""
    with suppress(psycopg.Error, RlskitError), as_user(conn, ALICE):
        yield


@contextmanager
def on_a_bare_connection(conn: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    conn.rollback()


PLACES: dict[str, Callable[[psycopg.Connection[Any]], AbstractContextManager[Any]]] = {
    "in alice's block": in_alices_block,
    "on a bare connection": on_a_bare_connection,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spoof", SPOOFS)
def test_settings_make_nobody_bob(spoof: str, place: str, app: psycopg.Connection[Any]) -> None:
    found = None
    with PLACES[place](app):
        found = attacked(app, *SPOOFS[spoof])
    assert found is not None
    assert "of bob" not in found


@pytest.mark.parametrize("spoof", SPOOFS)
def test_in_plain_mode_they_do(spoof: str, plain: Database) -> None:
    """So that nobody believes otherwise: there the rules stop mistakes, and not whoever can send SQL."""
    with plain.connect_as_app() as app, on_a_bare_connection(app):
        assert "of bob" in attacked(app, *SPOOFS[spoof])


def claimed(text: str, **changes: Any) -> str:
    """The middle of a token with something changed in it."""
    return b64encode(json.dumps(json.loads(b64decode(text)) | changes).encode()).decode()


def parts(change: Callable[[str, str, str, str], tuple[str, ...]]) -> Callable[[str], str]:
    return lambda good: ".".join(change(*good.split(".")))


# What is made of a token that would be taken: bob's, in time, for this very backend.
FORGED: dict[str, Callable[[str], str]] = {
    "no signature": parts(lambda v, kid, said, mac: (v, kid, said)),
    "an empty signature": parts(lambda v, kid, said, mac: (v, kid, said, "")),
    "a signature that is cut short": lambda good: good[:-1],
    "a signature that is cut to half": lambda good: good[:-32],
    "a signature and more": lambda good: good + "0",
    "a signature and a blank": lambda good: good + " ",
    "a signature twice": parts(lambda v, kid, said, mac: (v, kid, said, mac + mac)),
    "a signature in upper case": parts(lambda v, kid, said, mac: (v, kid, said, mac.upper())),
    "a signature of zeros": parts(lambda v, kid, said, mac: (v, kid, said, "0" * 64)),
    "the other end of the signature": parts(lambda v, kid, said, mac: (v, kid, said, mac[::-1])),
    "a plain digest": parts(lambda v, kid, said, mac: (v, kid, said, sha256(f"{v}.{kid}.{said}".encode()).hexdigest())),
    "a signature by nothing": parts(lambda v, kid, said, mac: (v, kid, said, signature(b"", v, kid, said))),
    "a signature by the name": parts(lambda v, kid, said, mac: (v, kid, said, signature(kid.encode(), v, kid, said))),
    "another version, signed": parts(
        lambda v, kid, said, mac: ("v2", kid, said, signature(KEY.secret, "v2", kid, said))
    ),
    "another version": parts(lambda v, kid, said, mac: ("v2", kid, said, mac)),
    "a version in upper case": parts(lambda v, kid, said, mac: ("V1", kid, said, mac)),
    "no version": parts(lambda v, kid, said, mac: ("", kid, said, mac)),
    "no key": parts(lambda v, kid, said, mac: (v, "", said, mac)),
    "another key": parts(lambda v, kid, said, mac: (v, "unknown", said, mac)),
    "a key in upper case": parts(lambda v, kid, said, mac: (v, kid.upper(), said, mac)),
    "a pattern of keys": parts(lambda v, kid, said, mac: (v, "%", said, mac)),
    "SQL for a key": parts(lambda v, kid, said, mac: (v, "' or kid = 'first", said, mac)),
    "nothing said": parts(lambda v, kid, said, mac: (v, kid, "", mac)),
    "an earlier beginning": lambda good: "." + good,
    "a later end": lambda good: good + ".",
    "one part more": lambda good: good + ".00",
    "one part more, in the middle": parts(lambda v, kid, said, mac: (v, kid, "", said, mac)),
    "the dots elsewhere": parts(lambda v, kid, said, mac: (v, f"{kid}.{said[:8]}", said[8:] + mac)),
    "somebody else": parts(lambda v, kid, said, mac: (v, kid, claimed(said, **ALICE.to_dict()), mac)),
    "a later time": parts(lambda v, kid, said, mac: (v, kid, claimed(said, exp=9999999999), mac)),
    "another actor": parts(lambda v, kid, said, mac: (v, kid, claimed(said, actor="c3d2::carol"), mac)),
    "a line break in what is said": parts(lambda v, kid, said, mac: (v, kid, f"{said[:8]}\n{said[8:]}", mac)),
    "a blank in what is said": parts(lambda v, kid, said, mac: (v, kid, said + " ", mac)),
    "another order": lambda good: ".".join(good.split(".")[::-1]),
    "quotes around it": lambda good: f'"{good}"',
}  # fmt: skip

JUNK = {
    "nothing": "",
    "a blank": " ",
    "dots": "...",
    "many dots": "." * 100_000,
    "a version alone": "v1...",
    "one long word": "x" * 1_000_000,
    "a long name of a key": f"v1.{'k' * 100_000}.e30=.00",
    "much said": f"v1.first.{'A' * 1_000_000}.{'0' * 64}",
    "a long signature": f"v1.first.e30=.{'0' * 1_000_000}",
    "no base64": "v1.first.!!!.00",
    "base64 without its end": "v1.first.e30.00",
    "an object that says nothing": "v1.first.e30=.00",
    "a JSON web token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJiMmUxIn0.",
    "JSON": '{"sub": "b2e1", "username": "bob"}',
    "SQL": "'; select * from rlskit.key; --",
    "backslashes": "v1.\\x00.\\.\\",
    "an array": "{v1,first,e30=,00}",
    "NULL": "NULL",
    "other scripts": "v1.日本.é\u202e👩‍👧.\U0010ffff",
    "other digits": f"v1.first.e30=.{'٠' * 64}",
    "control characters": "v1.\x01.\x7f\t.\r\n",
    "every byte that there is": "".join(map(chr, range(1, 256))),
    "formats": "%s%d%n.%1$s.{0}.$1",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("forgery", FORGED)
def test_a_token_with_anything_changed_is_nobodys(forgery: str, place: str, app: psycopg.Connection[Any]) -> None:
    good = token(app, BOB)
    with PLACES[place](app):
        present(app, FORGED[forgery](good))
        assert seen(app) == []
        present(app, good)  # so that what is refused above is what was changed
        assert seen(app) == [("of bob",)]


def test_no_prefix_of_a_token_and_no_other_letter_in_it_is_taken(app: psycopg.Connection[Any]) -> None:
    good = token(app, BOB)
    changed = [good[:place] for place in range(len(good))]
    changed += [
        f"{good[:place]}{'A' if letter != 'A' else 'B'}{good[place + 1 :]}" for place, letter in enumerate(good)
    ]
    query = "select count(rlskit.signed_claims()) from (select set_config('rlskit.token', %s, true) offset 0) given"
    for text in changed:
        assert app.execute(query, [text]).fetchone() == (0,), text
    assert app.execute(query, [good]).fetchone() == (1,)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_nobodys_and_raises_nothing(junk: str, place: str, app: psycopg.Connection[Any]) -> None:
    with PLACES[place](app):
        present(app, JUNK[junk])
        row = app.execute(
            "select count(*), rlskit.identity(), rlskit.claim('email'), rlskit.actor() from todo"
        ).fetchone()
        assert row == (0, None, None, None)


def test_junk_says_why_to_whoever_presents_it(app: psycopg.Connection[Any]) -> None:
    for text in (*JUNK.values(), None):
        message = NOT_ACCEPTED if text is not None else NEEDS_A_KEY
        with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification, match=message), app.transaction():
            app.execute("select rlskit.accept(%s)", [text])


# --- a token that was signed, and is used elsewhere or later --------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_token_is_worth_nothing_on_another_backend(
    place: str, app: psycopg.Connection[Any], signed: Database
) -> None:
    with signed.connect_as_app() as bobs:
        guard(bobs, key=KEY)
        with as_user(bobs, BOB):
            row = bobs.execute("select current_setting('rlskit.token')").fetchone()
            assert row is not None
            with PLACES[place](app):
                present(app, row[0])
                assert seen(app) == []
            present(bobs, row[0])
            assert seen(bobs) == [("of bob",)]


@pytest.mark.parametrize("place", PLACES)
def test_a_token_is_worth_nothing_in_a_transaction_that_begins_after_its_time(
    place: str, app: psycopg.Connection[Any]
) -> None:
    with PLACES[place](app):
        present(app, token(app, BOB, late=LIFETIME + 1))
        assert seen(app) == []


def test_a_transaction_that_began_in_time_may_go_on(app: psycopg.Connection[Any]) -> None:
    """A known limit: what ends with its time is the beginning of transactions."""
    late = token(app, BOB, late=LIFETIME - 1)
    for expected in ([("of bob",)], []):
        app.execute("select 1")
        time.sleep(0.1 if not expected else 1.8)
        present(app, late)
        assert seen(app) == expected
        app.rollback()


def test_a_token_that_is_caught_serves_on_the_same_backend_until_its_time_is_over(app: psycopg.Connection[Any]) -> None:
    """A known limit: whoever reads it inside of bob's block, and sends SQL on the same connection within a minute, is bob once more."""
    with as_user(app, BOB):
        row = app.execute("select current_setting('rlskit.token')").fetchone()
    assert row is not None
    with as_user(app, ALICE):
        assert seen(app) == [("of alice",)]
        present(app, row[0])
        assert seen(app) == [("of bob",)]


def test_what_is_left_in_the_session_is_nobodys_for_the_next_one(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE):
        app.execute("select set_config('rlskit.token', current_setting('rlskit.token'), false)")
    with as_user(app, BOB):
        assert seen(app) == [("of bob",)]
    scrub(app)
    assert seen(app) == []


# --- a login without a key ---------------------------------------------------------------------------------------------


def test_the_dsn_alone_makes_nobody_of_anybody(signed: Database) -> None:
    with psycopg.connect(signed.app_dsn, autocommit=True) as leaked:
        leaked.execute(f"select {FOR_LONG}")
        assert seen(leaked) == []
        assert (
            leaked.execute(
                "select rlskit.identity(), rlskit.identities(), rlskit.claim('sub'), rlskit.claim('username'), rlskit.claim('email')"
            ).fetchone()
            == (None,) * 5
        )
        for change in ("update todo set content = 'mine'", "delete from todo"):
            assert leaked.execute(change).rowcount == 0  # type: ignore[call-overload]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            leaked.execute("insert into todo (content) values ('mine')")


@pytest.mark.parametrize("setting", ["token", "sub", "username", "claims", "actor"])
def test_settings_of_the_connection_string_are_refused_and_show_nothing(setting: str, signed: Database) -> None:
    values = {**BOB.settings(), "rlskit.actor": "bob", "rlskit.token": KEY.token(BOB, pid=1, now=time.time())}
    given = values[f"rlskit.{setting}"].replace(" ", "\\ ")
    with psycopg.connect(signed.app_dsn, options=f"-c rlskit.{setting}={given}") as conn:
        assert seen(conn) == []
        conn.rollback()
        with pytest.raises(BypassingRoleError, match="comes with an identity of its own"):
            guard(conn, key=KEY)


CLOSED_TO_THE_APPLICATION = (
    "select inner_pad from rlskit.key",
    "select count(*) from rlskit.key",
    "table rlskit.key",
    "copy rlskit.key to stdout",
    "copy (select outer_pad from rlskit.key) to stdout",
    "insert into rlskit.key (kid, inner_pad, outer_pad) values ('mine', '', '')",
    "update rlskit.key set inner_pad = ''",
    "delete from rlskit.key",
    "truncate rlskit.key",
    "lock table rlskit.key",
    "alter table rlskit.key owner to current_user",
    "create trigger mine before insert on rlskit.key execute function rlskit.note_new_owner()",
    "create policy mine on rlskit.key using (true)",
    "create temporary table mine () inherits (rlskit.key)",
    "grant select on rlskit.key to current_user",
    "call rlskit.add_key('mine', decode(repeat('00', 32), 'hex'))",
    "call rlskit.require_signatures(false)",
    "create or replace function rlskit.is_signed() returns boolean language sql immutable parallel safe return false",
    "create function rlskit.accept(varchar) returns void language sql as ''",
    "alter function rlskit.is_signed() rename to was_signed",
    "alter function rlskit.signed_claims() security invoker",
    "alter function rlskit.signed_claims() set search_path = public",
    "drop function rlskit.is_signed()",
    "update pg_catalog.pg_proc set prosrc = 'begin return true; end' where proname = 'is_signed'",
)


@pytest.mark.parametrize("statement", CLOSED_TO_THE_APPLICATION)
def test_the_application_neither_reads_nor_changes_who_may_sign(statement: str, app: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), as_user(app, ALICE):
        app.execute(statement)  # type: ignore[call-overload]


# --- what tells of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
def test_neither_the_token_nor_who_asks_stands_in_a_statement(
    options: dict[str, Any], app: psycopg.Connection[Any], signed: Database
) -> None:
    """Sessions of one login see each other's statements."""
    query = "select query from pg_stat_activity where pid = %s"
    with signed.connect_as_app(autocommit=True) as other, as_user(app, ALICE, **options) as conn:
        if options:
            conn._pipeline.sync()  # type: ignore[union-attr]
        row = other.execute(query, [app.info.backend_pid]).fetchone()
    assert row is not None
    # Of a flight the last one stands there.
    assert options or row[0].startswith("select rlskit.refuse_cursors(), rlskit.accept($1), ")
    assert not any(told in row[0] for told in ("v1.", "alice", "a1f0"))


def test_no_message_tells_a_secret(
    app: psycopg.Connection[Any], signed: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even about a token that a key has signed, and that holds no JSON."""
    caplog.set_level(logging.DEBUG)
    pads = signed.rows(
        "select kid, encode(inner_pad, 'hex'), encode(outer_pad, 'hex') from rlskit.key where kid = 'first'"
    )
    said: list[str] = []
    app.add_notice_handler(lambda notice: said.append(everything_in(notice)))
    app.execute("set client_min_messages = debug5")
    app.commit()
    for text in ("no JSON", "[]", "1", '{"pid": "x"}', '{"pid": 1}', '"\\ud800"'):
        middle = f"v1.first.{b64encode(text.encode()).decode()}"
        whole = f"{middle}.{signature(KEY.secret, *middle.split('.'))}"
        for statement in ("select rlskit.accept(%s)", "select set_config('rlskit.token', %s, true), rlskit.identity()"):
            try:
                app.execute(statement, [whole])
            except psycopg.Error as error:
                said.append(everything_in(error.diag))
            app.rollback()
    with signed.connect_as_app() as other, pytest.raises(SigningKeyError) as refused:
        guard(other, key=IMPOSTOR)
        with as_user(other, ALICE):
            pass
    said.append(f"{refused.value}{refused.value!r}{refused.value.__cause__}")
    said.append(caplog.text)

    assert len(said) > 10
    text = "".join(said)
    secrets = [*pads[0][1:], KEY.secret.hex(), KEY.export()[6:], IMPOSTOR.secret.hex(), IMPOSTOR.export()[6:]]
    assert [each for each in secrets if each[:16] in text] == []


def everything_in(diagnosis: psycopg.errors.Diagnostic) -> str:
    return " ".join(str(getattr(diagnosis, name)) for name in dir(diagnosis) if not name.startswith("_"))


# --- functions of the attacker's own -------------------------------------------------------------------------------------

HIS_OWN = r"""
grant usage on schema theirs to public;
create function theirs.set_config(text, text, boolean) returns text language plpgsql as $$ begin raise 'fooled'; end $$;
create function theirs.current_setting(text, boolean) returns text language plpgsql as $$ begin raise 'fooled'; end $$;
create function theirs.accept(text) returns void language plpgsql as $$ begin raise 'fooled'; end $$;
create function theirs.is_signed() returns boolean language sql return false;
create function theirs.pg_backend_pid() returns int language sql return 1;
create function theirs.sha256(bytea) returns bytea language sql return '\x00'::bytea;
create function theirs.convert_to(text, name) returns bytea language sql return '\x00'::bytea;
create function theirs.transaction_timestamp() returns timestamptz language sql return '-infinity'::timestamptz;
create function theirs.never(bytea, bytea) returns boolean language sql return false;
create function theirs.always(text, text) returns boolean language sql return true;
create operator theirs.<> (leftarg = bytea, rightarg = bytea, function = theirs.never);
create operator theirs.= (leftarg = text, rightarg = text, function = theirs.always);
create table theirs.key (kid text, inner_pad bytea, outer_pad bytea);
"""


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
@pytest.mark.parametrize("pooled", [False, True], ids=["", "behind a pooler"])
def test_functions_under_the_same_names_fool_nobody(pooled: bool, options: dict[str, Any], database: Database) -> None:
    prepared(database, "signed")
    with psycopg.connect(database.app_dsn) as app, database.connect(autocommit=True) as admin:
        guard(app, key=KEY)
        admin.execute(f"create schema theirs authorization {database.app}")
        app.execute(HIS_OWN)
        app.execute("set search_path = theirs, pg_catalog, public")
        app.commit()
        terms, login = gatekeeper._known[app]
        gatekeeper._known[app] = (terms, replace(login, behind_pooler=pooled))

        with as_user(app, ALICE, **options):
            rows = app.execute(CONTENTS)
        assert rows.fetchall() == [("of alice",)]
        forged = parts(lambda v, kid, said, mac: (v, kid, claimed(said, **BOB.to_dict()), mac))(token(app, ALICE))
        app.execute(
            "select pg_catalog.set_config('rlskit.token', %s, true), pg_catalog.set_config('rlskit.sub', 'b2e1', true)",
            [forged],
        )
        assert seen(app) == []
        # The one function that has its owner's rights, called with a search_path of the caller's.
        assert app.execute("select rlskit.signed_claims()").fetchone() == (None,)


def test_a_setting_of_the_lexer_fools_nobody(signed: Database) -> None:
    """A session compiles a function when it is used first, under the settings that it has then."""
    with psycopg.connect(
        signed.app_dsn, options="-c standard_conforming_strings=off -c transform_null_equals=on"
    ) as app:
        guard(app, key=KEY)
        with as_user(app, ALICE):
            assert seen(app) == [("of alice",)]
            good = token(app, BOB)
            for forgery in FORGED.values():
                present(app, forgery(good))
                assert seen(app) == []


# --- the same in both modes ------------------------------------------------------------------------------------------------

ANY_NAME = st.sampled_from(
    ["email", "sub", "username", "pid", "exp", "actor", "claims", "kid", "é'\"\\", "%s", "", " "]
)
ANY_VALUE = st.sampled_from(
    ["", " ", "\t\n\v\f\r ", "\u00a0", "NULL", "{}", '"', "'", "\\", "::", "😀", "\x01", "1e5"]
) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
EVERYTHING = """
select rlskit.identities(), rlskit.identities('full', 'sub'), rlskit.identities('username'), rlskit.identity(), rlskit.actor(),
  array(select rlskit.claim(name) from unnest(%s::text[]) with ordinality as given (name, place) order by place)
"""


def test_the_same_person_is_the_same_in_both_modes(signed: Database, plain: Database) -> None:
    with signed.connect_as_app() as one, plain.connect_as_app() as other:
        guard(one, key=KEY)
        guard(other)

        @settings(deadline=None, max_examples=80, database=None)
        @given(people(), st.dictionaries(ANY_NAME, ANY_VALUE, max_size=4))
        def the_same(drawn: tuple[Identity, ...], claims: dict[str, str]) -> None:
            for who in (replace(drawn[0], claims=claims), *drawn[1:]):
                names = ["sub", "username", "email", "missing", *who.claims]
                in_both = []
                for conn in (one, other):
                    with as_user(conn, who, actor=drawn[-1]):
                        in_both.append(conn.execute(EVERYTHING, [names]).fetchone())
                assert in_both[0] == in_both[1]
                assert in_both[0] is not None
                assert in_both[0][0] == (list(who.spellings) or None)

        the_same()


def test_a_parallel_scan_gives_the_same_rows(database: Database) -> None:
    database.execute("create table todo (id int)")
    database.apply(TableRules("todo", allow.owner()), mode="signed")
    add(database, KEY)
    with database.connect(autocommit=True) as admin:
        admin.execute(
            "insert into todo select n, case n % 3 when 0 then 'a1f0::alice' else 'b2e1::bob' end from generate_series(1, 3000) n"
        )
        admin.execute("analyze todo")
    with database.connect_as_app() as app:
        for name in (
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "min_parallel_table_scan_size",
            "enable_indexscan",
            "enable_bitmapscan",
        ):
            app.execute(f"set {name} = 0")  # type: ignore[call-overload]
        app.commit()
        guard(app, key=KEY)
        for who, expected in ((ALICE, 1000), (BOB, 2000)):
            with as_user(app, who):
                steps = app.execute("explain (analyze, costs off, timing off) select count(*) from todo").fetchall()
                assert "Parallel Seq Scan" in str(steps)
                assert "Workers Launched: 0" not in str(steps)
                assert app.execute("select count(*) from todo").fetchone() == (expected,)


# --- what a login may leave for others -----------------------------------------------------------------------------------

MAKES = {
    "a schema in which it may create": (
        "create schema theirs; grant create on schema theirs to {app}",
        "CREATE on schema theirs",
    ),
    "a database in which it may create": ("grant create on database {name} to {app}", "CREATE on database {name}"),
    "a table of its own": ("create table theirs (); alter table theirs owner to {app}", "theirs, which it owns"),
}


@pytest.mark.parametrize("what", MAKES)
def test_a_login_that_makes_things_is_refused_where_identities_are_signed(what: str, database: Database) -> None:
    """The statements of others would fall into what SQL injection left there; nothing that a connection is scrubbed of."""
    prepared(database, "signed")
    place = {"app": database.app, "name": database.name}
    statements, named = (each.format(**place) for each in MAKES[what])
    with database.connect(autocommit=True) as admin:
        admin.execute(statements.encode())
    with database.connect_as_app() if "table" not in what else psycopg.connect(database.app_dsn) as app:
        with pytest.raises(BypassingRoleError) as caught:
            guard(app, key=KEY)
        assert named in caught.value.message
    with database.connect_as_owner() as conn:
        plan(conn, database.rules(TableRules("todo", allow.owner()), mode="plain")).apply(conn)
    with psycopg.connect(database.app_dsn) as app:
        guard(app)  # plain, it could be anybody anyhow


def test_the_guard_is_not_deceived_by_what_a_search_path_finds_first(database: Database) -> None:
    prepared(database, "plain")
    with database.connect(autocommit=True) as admin:
        admin.execute(f"grant create on schema public to {database.app}")
        admin.execute(f"alter role {database.app} set search_path = public, pg_catalog")
    with psycopg.connect(database.app_dsn, autocommit=True) as app:
        app.execute(
            "create view public.pg_db_role_setting as select 0::oid setrole, 0::oid setdatabase, null::text[] setconfig"
        )
    with psycopg.connect(database.app_dsn) as app, pytest.raises(BypassingRoleError, match="search_path"):
        guard(app)


def test_a_check_is_not_deceived_by_a_table_of_the_session(signed: Database) -> None:
    with psycopg.connect(signed.app_dsn, autocommit=True) as app:
        app.execute(
            "create temp view pg_settings as select 'x'::text as name, 'x'::text as setting, 'x'::text as reset_val"
        )
        app.execute("set search_path = pg_temp, public, pg_catalog")
        with pytest.raises(IdentityConflictError):
            check_connection(app)
        assert app.closed


def test_a_token_that_is_too_long_is_none(signed: Database, app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE):
        app.execute("select set_config('rlskit.token', repeat('v1.first.a.', 3000000), true)")
        assert seen(app) == []
    claims = {f"claim {number}": "x" * 1000 for number in range(60)}
    with pytest.raises(InvalidIdentityError, match="the limit is"), as_user(app, Identity(sub="a", claims=claims)):
        pass
    assert app.info.transaction_status == TransactionStatus.IDLE
