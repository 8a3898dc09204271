"""Refused, or not there: what is expected is what the database did, or the test is red and says what came instead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from rlskit import ColumnDenied, Identity, RowDenied, TableDenied, TableRules, allow, as_user, expect_row
from rlskit.errors import InvalidIdentityError, MissingIdentityError
from rlskit.sqlalchemy import set_identity
from rlskit.testing.expectations import denied, not_visible, person
from tests.support import Database, Server, fresh_database

ALICE, BOB = person("alice"), person("bob")
EDITORS = allow.owners_defined_in("editors")
MINE = [allow.owner(), EDITORS.to("read")]

OWN = "insert into note (content) values ('mine')"
ROW = "insert into note (content, owner) values ('a secret', 'somebody')"
COLUMN = "update note set title = 'a secret' where content = 'theirs'"
TABLE = "truncate note"
NO_ROW = "delete from note where content = 'private'"
BROKEN = "select 1 / 0"


@pytest.fixture(scope="module")
def ruled(server: Server) -> Iterator[Database]:
    with fresh_database(server, "expectations") as made:
        made.execute("create table note (id serial primary key, content text, title text)")
        made.apply(TableRules("note", allow.owner(), EDITORS.to("read", "update"), columns={"title": MINE}))
        made.execute("alter table note no force row level security")
        made.execute(
            "insert into note (content, owner, editors) values"
            " ('theirs', 'alice-sub::alice', '{bob}'), ('private', 'alice-sub::alice', '{}')",
            "alter table note force row level security",
        )
        yield made


@pytest.fixture
def conn(ruled: Database) -> Iterator[psycopg.Connection[Any]]:
    """Bob's transaction."""
    with ruled.connect_as_app() as conn, as_user(conn, BOB):
        yield conn


def alchemy(database: Database) -> URL:
    return URL.create("postgresql+psycopg", query=conninfo_to_dict(database.app_dsn))  # type: ignore[arg-type]


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_person_is_the_same_every_time() -> None:
    assert person("alice") == Identity(sub="alice-sub", username="alice")
    assert person("alice", email="a@example.com").claims == {"email": "a@example.com"}
    with pytest.raises(InvalidIdentityError):
        person("alice::bob")


# --- refused ---------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "row": (ROW, RowDenied, {"table": "note"}),
    "column": (COLUMN, ColumnDenied, {"table": "note", "columns": ["title"]}),
    "table": (TABLE, TableDenied, {"table": "note", "columns": []}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_inside_is_expected_and_the_transaction_goes_on(
    kind: Any, conn: psycopg.Connection[Any]
) -> None:
    statement, expected, rest = KINDS[kind]
    with denied(kind=kind, **rest, inside=conn) as refused:
        conn.execute(statement.encode())

    assert type(refused.denial) is expected
    assert isinstance(refused.denial.__cause__, InsufficientPrivilege)
    assert conn.execute("select content from note").fetchall() == [("theirs",)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_a_block_is_expected_outside_of_it(kind: Any, ruled: Database) -> None:
    statement, expected, rest = KINDS[kind]
    with ruled.connect_as_app() as conn:
        with denied("permission denied|row-level security", kind=kind, **rest) as refused, as_user(conn, BOB):
            conn.execute(statement.encode())

        assert type(refused.denial) is expected
        assert conn.info.transaction_status == TransactionStatus.IDLE


DIFFERENT: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing": (
        OWN,
        {"kind": "row", "table": "note", "columns": ["owner"], "match": "policy"},
        "expected: row refused, table `note`, columns `owner`, a message that matches `policy`\n"
        "came:     nothing was refused\n"
        "an update or delete that reaches no row raises nothing: for that there is not_visible()",
    ),
    "no row": (
        NO_ROW,
        {},
        "expected: a row, a column or a table refused\n"
        "came:     nothing was refused\n"
        "an update or delete that reaches no row raises nothing: for that there is not_visible()",
    ),
    "another kind": (
        ROW,
        {"kind": "column"},
        "expected: column refused\n"
        'came:     row refused, table `note`: new row violates row-level security policy for table "note"\n'
        "it was the row that was refused, not the column",
    ),
    "another table": (
        TABLE,
        {"table": "todo"},
        "expected: a row, a column or a table refused, table `todo`\n"
        "came:     table refused, table `note`: permission denied for table note\n"
        "the table is `note`, not `todo`",
    ),
    "other columns": (
        COLUMN,
        {"columns": ["price", "owner"]},
        "expected: a row, a column or a table refused, columns `owner`, `price`\n"
        "came:     column refused, table `note`, columns `title`: "
        "permission denied to update column title of this row in table note\n"
        "missing columns: `owner`, `price`\nextra columns: `title`",
    ),
    "another message": (
        TABLE,
        {"match": "view"},
        "expected: a row, a column or a table refused, a message that matches `view`\n"
        "came:     table refused, table `note`: permission denied for table note\n"
        "the message does not match",
    ),
    "another error of the database": (
        BROKEN,
        {},
        "expected: a row, a column or a table refused\ncame:     DivisionByZero: division by zero",
    ),
    "no access to data": (
        "set role postgres",
        {},
        "expected: a row, a column or a table refused\n"
        'came:     InsufficientPrivilege: permission denied to set role "postgres"',
    ),
}


@pytest.mark.parametrize("how", DIFFERENT)
def test_what_came_instead_is_said(how: str, conn: psycopg.Connection[Any]) -> None:
    statement, expected, message = DIFFERENT[how]
    with pytest.raises(AssertionError) as caught, denied(**expected, inside=conn):
        conn.execute(statement.encode())

    assert str(caught.value) == message
    assert "secret" not in message
    assert conn.execute("select count(*) from note").fetchone() == (1,), "it was rolled back all the same"


def test_a_row_that_was_not_there_was_not_refused(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(AssertionError, match="no row was reached, and nothing refused"), denied():
        expect_row(conn.execute(NO_ROW))


def test_what_is_not_the_databases_goes_its_way(conn: psycopg.Connection[Any]) -> None:
    for error in (ZeroDivisionError("mine"), AssertionError("mine"), MissingIdentityError("mine"), KeyboardInterrupt()):
        for block in (denied(), not_visible()):
            with pytest.raises(type(error)) as caught, block:
                raise error from RowDenied("by the way") if isinstance(error, AssertionError) else None
            assert caught.value is error
    with pytest.raises(AssertionError, match="nothing was refused yet"):
        denied().denial  # noqa: B018


def test_it_works_around_what_is_awaited(ruled: Database) -> None:
    async def scenario() -> list[Any]:
        async with await AsyncConnection.connect(ruled.app_dsn) as conn:
            with denied(kind="row"):
                async with as_user(conn, BOB):
                    await conn.execute(ROW)
            async with as_user(conn, BOB):
                async with denied(kind="row", inside=conn) as refused:
                    await conn.execute(ROW)
                assert refused.denial.table == "note"
                with pytest.raises(AssertionError, match="nothing was refused"):
                    async with denied(inside=conn):
                        await conn.execute(OWN)
                with not_visible():
                    expect_row(await conn.execute(NO_ROW))
                not_visible(await conn.execute(NO_ROW))
                return await (await conn.execute("select content from note")).fetchall()

    assert asyncio.run(scenario()) == [("theirs",)]


def test_a_connection_is_asked_in_its_own_way(conn: psycopg.Connection[Any], ruled: Database) -> None:
    async def scenario() -> None:
        with pytest.raises(TypeError, match="without `async`"):
            async with denied(inside=conn):  # type: ignore[attr-defined]
                raise AssertionError("it was entered")
        async with await AsyncConnection.connect(ruled.app_dsn) as other:
            with pytest.raises(TypeError, match="`async with denied"), denied(inside=other):  # type: ignore[attr-defined]
                raise AssertionError("it was entered")

    asyncio.run(scenario())


def test_it_works_with_sessions(ruled: Database) -> None:
    engine = create_engine(alchemy(ruled), poolclass=NullPool)
    with Session(engine) as session:
        set_identity(session, BOB)
        with denied(kind="row", table="note", inside=session) as refused:
            session.execute(text(ROW))
        with denied(kind="column", columns=["title"], inside=session.connection()):
            session.execute(text(COLUMN))
        not_visible(session.execute(text(NO_ROW)))  # type: ignore[arg-type]
        assert session.scalars(text("select content from note")).all() == ["theirs"]
        with denied(kind="row"):
            session.execute(text(ROW))

    assert type(refused.denial) is RowDenied
    with pytest.raises(AssertionError, match="DivisionByZero: division by zero"), denied(), Session(engine) as session:
        set_identity(session, BOB)
        session.execute(text(BROKEN))


def test_it_works_with_asynchronous_sessions(ruled: Database) -> None:
    async def scenario() -> list[Any]:
        async with AsyncSession(create_async_engine(alchemy(ruled), poolclass=NullPool)) as session:
            set_identity(session, BOB)
            async with denied(kind="row", table="note", inside=session):
                await session.execute(text(ROW))
            not_visible(await session.execute(text(NO_ROW)))  # type: ignore[arg-type]
            return list((await session.scalars(text("select content from note"))).all())

    assert asyncio.run(scenario()) == ["theirs"]


# --- not there -------------------------------------------------------------------------------------------------------


def test_a_row_that_is_not_there_is_expected(conn: psycopg.Connection[Any]) -> None:
    not_visible(conn.execute(NO_ROW))
    not_visible(conn.execute("select * from note where content = 'private'"))
    with not_visible():
        expect_row(conn.execute(NO_ROW))


def test_a_row_that_is_there_is_told(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(AssertionError) as caught:
        not_visible(conn.execute("select content from note"))
    assert str(caught.value) == "expected: no row to be visible\ncame:     1 row that the statement reached"
    with pytest.raises(AssertionError, match="1 row that the statement reached"):
        not_visible(conn.execute(f"{NO_ROW}; select 1"))
    with pytest.raises(AssertionError, match="nothing was raised"), not_visible():
        expect_row(conn.execute("select content from note"))
    with pytest.raises(TypeError, match="does not know how many rows"):
        not_visible(None)  # type: ignore[arg-type]


def test_what_was_refused_was_not_invisible(conn: psycopg.Connection[Any]) -> None:
    with (
        pytest.raises(AssertionError, match="came:     row refused, table `note`: new row"),
        conn.transaction(),
        not_visible(),
    ):
        expect_row(conn.execute(ROW))
