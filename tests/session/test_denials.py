"""What the database refuses has a name: at the end of a block, and inside for who asks."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg import AsyncConnection, Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from rlskit import (
    ColumnDenied,
    NotVisible,
    RowDenied,
    TableDenied,
    allow,
    as_nobody,
    as_user,
    denial,
    expect_row,
    guard,
    scrub,
)
from rlskit.denials import Denial
from rlskit.rules import TableRules
from tests.support import ALICE, BOB, Database, Server, copy_of, fresh_database

SECRET = "SECRET-value"

EDITORS = allow.owners_defined_in("editors")
MINE = [allow.owner(), EDITORS.to("read")]
RULES = (
    TableRules(
        "todo",
        allow.owner(),
        EDITORS.to("create", "read"),
        columns={"checked": allow.same().to("create", "read"), "title": MINE},
    ),
    TableRules("note", allow.owner(), reassign="never"),
    TableRules("shared", allow.owner(), EDITORS.to("read", "update"), columns={"title": MINE}),
    TableRules(
        "strict",
        allow.owner(),
        EDITORS.to("read"),
        columns={"content": [allow.owner(), EDITORS.to("create", "read", "update")]},
    ),
)

# What bob asks, and what he is told: the kind, the table, the operation, the columns.
REFUSED: dict[str, tuple[str, type[Any], str | None, str | None, tuple[str, ...]]] = {
    "a new row of another's": (
        f"insert into todo (id, content, owner, editors) values (2, '{SECRET}', 'alice', null)",
        RowDenied,
        "todo",
        None,
        (),
    ),
    "a row that would be another's": (
        f"update note set owner = 'alice', content = '{SECRET}'",
        RowDenied,
        "note",
        None,
        (),
    ),
    "an upsert of another's row": (
        f"insert into note values (1, '{SECRET}') on conflict (id) do update set content = '{SECRET}'",
        RowDenied,
        "note",
        "update",
        (),
    ),
    "a merge into a row that he may only read": (
        f"merge into todo using (values (1)) as given (id) on todo.id = given.id when matched then update set content = '{SECRET}'",
        RowDenied,
        "todo",
        None,
        (),
    ),
    "a merge that would delete it": (
        "merge into todo using (values (1)) as given (id) on todo.id = given.id when matched then delete",
        TableDenied,
        "todo",
        None,
        (),
    ),
    "in a function": (
        f"do $$ begin insert into note (id, content, owner) values (3, '{SECRET}', 'alice'); end $$",
        RowDenied,
        "note",
        None,
        (),
    ),
    "a column of a new row": (
        f"insert into todo (id, owner, editors, title) values (2, 'alice', '{{bob}}', '{SECRET}')",
        ColumnDenied,
        "todo",
        "create",
        ("title",),
    ),
    "columns of a new row": (
        f"insert into strict (id, owner, title, price) values (2, 'alice', '{SECRET}', 7)",
        ColumnDenied,
        "strict",
        "create",
        ("owner", "price", "title"),
    ),
    "a column of this row": (
        f"update shared set title = '{SECRET}'",
        ColumnDenied,
        "shared",
        "update",
        ("title",),
    ),
    "any column of this row but one": (f"update strict set title = '{SECRET}'", ColumnDenied, "strict", "update", ()),
    "a column that nobody may write": (
        "update todo set checked = true",
        TableDenied,
        "todo",
        None,
        (),
    ),
    "a table without rules": (f"select * from closed where content = '{SECRET}'", TableDenied, "closed", None, ()),
    "a view": ("select * from seen", TableDenied, "seen", None, ()),
    "a schema": ("select * from hidden.closed", TableDenied, None, None, ()),
    "a sequence": ("select nextval('counter')", TableDenied, None, None, ()),
    "a function": ("select secret_function()", TableDenied, None, None, ()),
}
EVERY_KIND = ["a new row of another's", "a column of this row", "a table without rules"]

# 42501 too, and no access to data.
LEFT_ALONE = {
    "a role": "set role postgres",
    "a setting": "set session_replication_role = replica",
    "a role to make": "create role mallory",
    "a file": "copy note to '/tmp/note'",
    "a raise of one's own": f"do $$ begin raise insufficient_privilege using message = 'no {SECRET}'; end $$",
}


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "denials") as database:
        yield prepared(database)


@pytest.fixture
def todo(original: Database) -> Iterator[Database]:
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    columns = "(id int primary key, content text, title text, price int, checked bool)"
    database.execute(
        f"create table todo {columns}",
        f"create table shared {columns}",
        f"create table strict {columns}",
        "create table note (id int primary key, content text)",
        "create table closed (id int, content text)",
        "create view seen as select * from closed",
        "create schema hidden",
        "create table hidden.closed (id int)",
        "create sequence counter",
        "create function secret_function() returns int language sql return 1",
        "revoke execute on function secret_function() from public",
    )
    database.apply(*RULES)
    with database.connect_as_app() as conn, as_user(conn, ALICE):
        for table in ("todo", "shared", "strict"):
            conn.execute(f"insert into {table} (id, editors) values (1, '{{bob}}')")  # type: ignore[call-overload]
        conn.execute("insert into note (id) values (1)")
    with database.connect_as_app() as conn, as_user(conn, BOB):
        conn.execute("insert into note (id) values (2)")
    return database


def inside(database: Database, statement: str) -> BaseException:
    with database.connect_as_app() as app, as_user(app, BOB) as conn:
        with pytest.raises(psycopg.Error) as caught, conn.transaction():
            conn.execute(statement)  # type: ignore[call-overload]
        assert type(caught.value) is InsufficientPrivilege
    error = caught.value
    return denial(error) or error


def at_the_end(database: Database, statement: str) -> BaseException:
    with database.connect_as_app() as app:
        with pytest.raises(psycopg.Error) as caught, as_user(app, BOB) as conn:
            conn.execute(statement)  # type: ignore[call-overload]
        assert app.info.transaction_status == TransactionStatus.IDLE
    return caught.value


def of_a_savepoint(database: Database, statement: str) -> BaseException:
    with database.connect_as_app() as app, as_user(app, BOB) as conn:
        with pytest.raises(psycopg.Error) as caught, as_user(conn, BOB):
            conn.execute(statement)  # type: ignore[call-overload]
        assert conn.execute("select 1").fetchone() == (1,)
    return caught.value


def of_nested_blocks(database: Database, statement: str) -> BaseException:
    """The inner one names it, and the outer one leaves it."""
    with database.connect_as_app() as app, pytest.raises(psycopg.Error) as caught, as_user(app, BOB) as conn:
        try:
            with as_user(conn, BOB):
                conn.execute(statement)  # type: ignore[call-overload]
        except psycopg.Error as error:
            named = error
            raise
    assert caught.value is named
    return caught.value


def from_a_pool(database: Database, statement: str) -> BaseException:
    with ConnectionPool(database.app_dsn, min_size=1, max_size=1, configure=guard, reset=scrub, timeout=20) as pool:
        with pytest.raises(psycopg.Error) as caught, as_user(pool, BOB) as conn:
            conn.execute(statement)  # type: ignore[call-overload]
        with as_user(pool, ALICE) as conn:
            assert conn.execute("select id from note").fetchall() == [(1,)]
    return caught.value


Scenario = Callable[[AsyncConnection[Any]], Awaitable[BaseException]]


def awaited(database: Database, scenario: Scenario) -> BaseException:
    async def running() -> BaseException:
        async with await AsyncConnection.connect(database.app_dsn) as app:
            error = await scenario(app)
            assert app.info.transaction_status == TransactionStatus.IDLE
            return error

    return asyncio.run(asyncio.wait_for(running(), 60))


def awaited_inside(database: Database, statement: str) -> BaseException:
    async def scenario(app: AsyncConnection[Any]) -> BaseException:
        async with as_user(app, BOB) as conn:
            with pytest.raises(psycopg.Error) as caught:
                async with conn.transaction():
                    await conn.execute(statement)  # type: ignore[call-overload]
            return denial(caught.value) or caught.value

    return awaited(database, scenario)


def awaited_at_the_end(database: Database, statement: str) -> BaseException:
    async def scenario(app: AsyncConnection[Any]) -> BaseException:
        with pytest.raises(psycopg.Error) as caught:
            async with as_user(app, BOB) as conn:
                await conn.execute(statement)  # type: ignore[call-overload]
        return caught.value

    return awaited(database, scenario)


def awaited_of_nested_blocks(database: Database, statement: str) -> BaseException:
    async def scenario(app: AsyncConnection[Any]) -> BaseException:
        with pytest.raises(psycopg.Error) as caught:
            async with as_user(app, BOB) as conn:
                with pytest.raises(psycopg.Error) as inner:
                    async with as_user(conn, BOB):
                        await conn.execute(statement)  # type: ignore[call-overload]
                raise inner.value
        assert caught.value is inner.value
        return caught.value

    return awaited(database, scenario)


def awaited_from_a_pool(database: Database, statement: str) -> BaseException:
    async def running() -> BaseException:
        lender: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            database.app_dsn, min_size=1, max_size=1, open=False, configure=guard, reset=scrub, timeout=20
        )
        async with lender as pool:
            with pytest.raises(psycopg.Error) as caught:
                async with as_user(pool, BOB) as conn:
                    await conn.execute(statement)  # type: ignore[call-overload]
        return caught.value

    return asyncio.run(asyncio.wait_for(running(), 60))


WAYS = {
    each.__name__: each
    for each in (
        *(inside, at_the_end, of_a_savepoint, of_nested_blocks, from_a_pool),
        *(awaited_inside, awaited_at_the_end, awaited_of_nested_blocks, awaited_from_a_pool),
    )
}


def facts(error: BaseException) -> tuple[Any, ...]:
    return type(error), *(getattr(error, name, None) for name in ("table", "operation", "columns"))


@pytest.mark.parametrize("what", REFUSED)
def test_every_refusal_has_its_name(what: str, todo: Database) -> None:
    statement, *expected = REFUSED[what]

    assert facts(inside(todo, statement)) == tuple(expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", EVERY_KIND)
def test_it_has_it_wherever_it_happens(what: str, way: str, todo: Database) -> None:
    statement, *expected = REFUSED[what]
    error = WAYS[way](todo, statement)

    assert facts(error) == tuple(expected)
    assert isinstance(error, InsufficientPrivilege)
    assert error.sqlstate == error.diag.sqlstate == "42501"
    driver = error.__cause__
    assert type(driver) is InsufficientPrivilege
    assert error.diag.message_primary == driver.diag.message_primary
    assert driver.__traceback__ is not None
    assert traceback.extract_tb(driver.__traceback__)[0].filename == __file__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_is_no_access_to_data_stays_the_drivers(what: str, way: str, todo: Database) -> None:
    error = WAYS[way](todo, LEFT_ALONE[what])

    assert type(error) is InsufficientPrivilege
    assert error.__cause__ is None


@pytest.mark.parametrize("what", REFUSED)
def test_no_value_of_a_row_is_carried_along(what: str, todo: Database) -> None:
    error = at_the_end(todo, REFUSED[what][0])
    assert isinstance(error, Denial)

    for each in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert facts(each) == facts(error)
        diag = {name: getattr(each.diag, name) for name in dir(each.diag) if not name.startswith("_")}
        for text in (str(each), repr(each), repr(each.args), repr(vars(each)), repr(diag)):
            assert SECRET not in text
        assert SECRET.encode() not in pickle.dumps(each)


def test_nobody_is_refused_by_name(todo: Database) -> None:
    with todo.connect_as_app() as app, pytest.raises(RowDenied) as caught, as_nobody(app) as conn:
        conn.execute("insert into note (id) values (3)")

    assert str(caught.value) == (
        'new row violates row-level security policy for table "note"\n'
        "hint: no rule that names the caller in the row allows it: leave the owner column to its default, or to whom it names"
    )


def test_a_refusal_at_the_commit_has_its_name(todo: Database) -> None:
    """What a deferred trigger is refused."""
    todo.execute(
        "create function late() returns trigger language plpgsql as"
        " $$ begin insert into note (id, owner) values (9, 'alice'); return null; end $$",
        "create constraint trigger late after insert on note deferrable initially deferred"
        " for each row when (new.id = 8) execute function late()",
    )
    statement = "insert into note (id) values (8)"

    for way in (at_the_end, from_a_pool, awaited_at_the_end):
        assert facts(way(todo, statement)) == (RowDenied, "note", None, ())
    assert todo.rows("select id from note order by id") == [(1,), (2,)]


def test_what_else_leaves_a_block_is_the_same_object(todo: Database) -> None:
    driver = InsufficientPrivilege("of the application")
    wrapper = RuntimeError("with a cause")
    wrapper.__cause__ = inside(todo, "select * from closed").__cause__
    with todo.connect_as_app() as app:
        for error in (driver, wrapper, ZeroDivisionError(), psycopg.errors.UniqueViolation("x"), KeyboardInterrupt()):
            with pytest.raises(type(error)) as caught, as_user(app, BOB):
                raise error
            assert caught.value is error
    assert type(denial(wrapper)) is TableDenied


def test_what_was_named_inside_leaves_as_it_is(todo: Database) -> None:
    with todo.connect_as_app() as app, pytest.raises(TableDenied) as caught, as_user(app, BOB) as conn:
        try:
            conn.execute("select * from closed")
        except InsufficientPrivilege as error:
            named = denial(error)
            assert named is not None
            raise named from None

    assert caught.value is named


@pytest.mark.parametrize("what", EVERY_KIND)
def test_what_sqlalchemy_wraps_has_its_name(what: str, todo: Database) -> None:
    statement, *expected = REFUSED[what]
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: todo.connect_as_app(), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as conn:
        for name, value in BOB.settings().items():
            conn.exec_driver_sql("select set_config(%s, %s, true)", (name, value))
        with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
            conn.exec_driver_sql(statement)

    error = denial(caught.value)
    assert error is not None
    assert facts(error) == tuple(expected)
    assert error.__cause__ is caught.value.orig


def test_the_usual_except_still_catches(todo: Database) -> None:
    with todo.connect_as_app() as app:
        try:
            with as_user(app, BOB) as conn:
                conn.execute("select * from closed")
        except psycopg.errors.InsufficientPrivilege as error:
            told = str(error)

    assert told.startswith("permission denied for table closed\n")
    assert isinstance(app, Connection)


def test_a_row_that_is_expected_and_does_not_come_is_not_visible(todo: Database) -> None:
    """The database raises nothing for another's row, and the same for one that is not there."""
    statements = (
        "update note set content = 'new' where id = %s",
        "delete from note where id = %s",
        "select id from note where id = %s",
    )
    with todo.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute("insert into note (id, content) values (7, 'old')")
    with todo.connect_as_app() as conn, as_user(conn, BOB):
        for statement in statements:
            for number in (7, 4711):
                with pytest.raises(NotVisible):
                    expect_row(conn.execute(statement, [number]))
    with todo.connect_as_app() as conn, as_user(conn, ALICE):
        assert expect_row(conn.execute("select content from note where id = %s", [7])).fetchall() == [("old",)]


def test_a_cursor_that_does_not_count_is_no_answer(todo: Database) -> None:
    with todo.connect_as_app() as conn, as_user(conn, ALICE), conn.cursor("named") as cursor:
        cursor.execute("select id from todo")
        with pytest.raises(TypeError, match="ServerCursor"):
            expect_row(cursor)


# Whom the rules are known to, is told which one it was.
BY_RULE = {
    "a row that would be another's": 'the rules of table `public.note`: allow.owner(), reassign="never"',
    "a new row of another's": "the rules of table `public.todo`: " + str(RULES[0]),
}


@pytest.mark.parametrize("what", BY_RULE)
def test_a_hint_names_the_rule_where_the_rules_are_known(what: str, todo: Database) -> None:
    with todo.connect_as_app() as conn:
        guard(conn, rules=todo.rules(*RULES))
        with pytest.raises(RowDenied) as caught, as_user(conn, BOB):
            conn.execute(REFUSED[what][0])

    assert caught.value.hint.partition("; ")[2] == BY_RULE[what]


def test_a_hint_names_the_rule_of_the_column(todo: Database) -> None:
    with ConnectionPool(todo.app_dsn, min_size=1, max_size=1) as pool:
        guard(pool, rules=todo.rules(*RULES))
        with as_user(pool, ALICE) as conn:
            conn.execute("insert into shared (id, title, editors) values (71, 'mine', array['bob'])")
        with pytest.raises(ColumnDenied) as caught, as_user(pool, BOB) as conn:
            conn.execute("update shared set title = 'his' where id = 71")

    assert caught.value.hint.endswith(
        '; column `title` is for allow.owner() or allow.owners_defined_in("editors").to("read")'
    )


def test_a_table_without_rules_is_told_so(todo: Database) -> None:
    with todo.connect_as_app() as conn, pytest.raises(TableDenied) as caught:
        guard(conn, rules=todo.rules(*RULES))
        with as_user(conn, BOB):
            conn.execute("select * from closed")

    assert caught.value.hint.endswith("; no rule names table `closed`")
