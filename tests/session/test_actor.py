"""`as_user(…, actor=…)`: the database can write down who really acted, and no rule looks at him."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

import rlskit
from rlskit import Identity, SigningKey, TableRules, allow, as_nobody, as_user, guard, keyring
from rlskit.errors import IdentityConflictError, InvalidIdentityError
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full

KEY = SigningKey.generate()
ACTOR = "select rlskit.actor()"
ASKS_AND_ACTS = "select rlskit.identity(), rlskit.actor()"
MODES: tuple[Any, ...] = ("plain", "signed")


@pytest.fixture(scope="module", params=MODES)
def todo(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    with fresh_database(server, "actor") as database:
        database.apply()
        database.execute("create table todo (id serial, content text, done_by text default rlskit.actor())")
        database.apply(TableRules("todo", allow.owner()), mode=request.param)
        with database.connect_as_owner() as conn:
            keyring.add(conn, KEY)
        yield database


@pytest.fixture
def app(todo: Database) -> Iterator[psycopg.Connection[Any]]:
    with todo.connect_as_app() as conn:
        guard(conn, key=KEY)
        yield conn


@pytest.mark.parametrize("options", [{}, {"pipeline": True}], ids=["", "in a pipeline"])
@pytest.mark.parametrize(
    ("actor", "told"),
    [
        (CAROL, full(CAROL)),
        (Identity(sub="d4c3"), "d4c3"),
        (Identity(sub="é'\"\\", username="日本"), "é'\"\\::日本"),
        (ALICE, full(ALICE)),
        (None, None),
    ],
    ids=["by both names", "by the sub alone", "by a strange name", "the same", "nobody else"],
)
def test_the_database_is_told_who_acts(
    actor: Identity | None, told: str | None, options: dict[str, Any], app: psycopg.Connection[Any]
) -> None:
    with as_user(app, ALICE, actor=actor, **options) as conn:
        rows = conn.execute(ASKS_AND_ACTS)
    assert rows.fetchall() == [(full(ALICE), told)]
    assert app.execute(ACTOR).fetchone() == (None,)


def test_an_async_block_tells_it_too(todo: Database) -> None:
    async def scenario() -> Any:
        async with await AsyncConnection.connect(todo.app_dsn) as app:
            await guard(app, key=KEY)
            async with as_user(app, ALICE, actor=CAROL) as conn:
                return await (await conn.execute(ASKS_AND_ACTS)).fetchone()

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == (full(ALICE), full(CAROL))


def test_no_rule_looks_at_the_actor(app: psycopg.Connection[Any], todo: Database) -> None:
    with as_user(app, BOB) as conn:
        conn.execute("insert into todo (content) values ('of bob')")
    with as_user(app, ALICE, actor=BOB) as conn:
        conn.execute("insert into todo (content) values ('of alice')")
        assert conn.execute("select content from todo").fetchall() == [("of alice",)]
        assert conn.execute("delete from todo where content = 'of bob'").rowcount == 0
        assert conn.execute("select rlskit.claim('email')").fetchone() == ("alice@example.com",)

    assert todo.rows("select owner, done_by from todo order by content") == [
        (full(ALICE), full(BOB)),
        (full(BOB), None),
    ]


def test_the_next_block_has_an_actor_of_its_own_or_none(app: psycopg.Connection[Any]) -> None:
    app.execute("select set_config('rlskit.actor', 'left behind', false)")
    app.commit()
    for actor, told in ((CAROL, full(CAROL)), (None, None), (BOB, full(BOB)), (None, None)):
        with as_user(app, ALICE, actor=actor) as conn:
            assert conn.execute(ACTOR).fetchone() == (told,)
    with as_nobody(app) as conn:
        assert conn.execute(ACTOR).fetchone() == (None,)


def test_another_actor_inside_is_another_asker(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE, actor=CAROL) as conn:
        for inner in (as_user(app, ALICE), as_user(app, ALICE, actor=BOB)):
            with pytest.raises(IdentityConflictError), inner:
                pass
        with as_user(app, ALICE, actor=CAROL):
            assert conn.execute(ACTOR).fetchone() == (full(CAROL),)


@pytest.mark.parametrize("actor", ["carol", "", {"sub": "c3d2"}, 0])
def test_an_actor_is_an_identity(actor: Any, app: psycopg.Connection[Any]) -> None:
    with pytest.raises(InvalidIdentityError) as caught:
        as_user(app, ALICE, actor=actor)
    assert str(caught.value) == "`actor` is no Identity\nhint: it is whoever really acts, as the token says"


def test_where_identities_are_signed_nobody_sets_the_actor(app: psycopg.Connection[Any], todo: Database) -> None:
    """And in plain mode whoever sends SQL does."""
    signed = todo.rows("select rlskit.is_signed()") == [(True,)]
    for actor, told in ((CAROL, full(CAROL)), (None, None)):
        with as_user(app, ALICE, actor=actor) as conn:
            conn.execute("select set_config('rlskit.actor', 'b2e1::bob', true)")
            assert conn.execute(ACTOR).fetchone() == (told if signed else "b2e1::bob",)


def test_a_default_that_writes_him_down_is_left_alone(todo: Database) -> None:
    """Of a column's defaults, what rlskit prints and applies takes back its own alone."""
    rules = todo.rules(TableRules("todo", allow.owner()))
    with todo.connect_as_owner(autocommit=True) as conn:
        assert rlskit.plan(conn, rules).conforms
        conn.execute("call rlskit.clear('todo')")
        query = "select attname::text from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum"
        assert conn.execute(f"{query} where adrelid = 'todo'::regclass order by 1").fetchall() == [
            ("done_by",),
            ("id",),
        ]
        rlskit.plan(conn, rules).apply(conn)
        assert rlskit.plan(conn, rules).conforms
