"""Who asks in a test: with and async with, psycopg and SQLAlchemy, in a copy and in a rolled-back transaction; never anybody who bypasses."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Text, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from rlskit import RowDenied, TableDenied
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    KitError,
    MissingIdentityError,
    OpenCursorError,
    TransactionInProgressError,
)
from rlskit.server import Running
from rlskit.testing import TestDatabase, TestServer, denied, factories, person
from rlskit.testing.templates import Recipe
from tests.kit.conftest import ROLE
from tests.support import assert_ordinary

ADD = "insert into board (content) values ('plan')"
WHO = "select coalesce(rlskit.identity(), 'nobody')"
ALICE = person("alice", email="alice@example.com")
BOB = person("bob", email="bob@example.com")


def asks(conn: Any) -> str:
    return str(conn.execute(WHO).fetchone()[0]).partition("-")[0]


def contents(conn: Any) -> list[str]:
    return [content for (content,) in conn.execute("select content from board order by id")]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


# --- in both isolations ----------------------------------------------------------------------------------------------


def test_everybody_sees_his_own(either: TestDatabase) -> None:
    with either.as_user(ALICE) as conn:
        conn.execute(ADD)
    with either.as_user(BOB) as conn:
        assert contents(conn) == []
    with either.as_nobody() as conn:
        assert contents(conn) == []
    with either.as_user(ALICE) as conn:
        assert contents(conn) == ["plan"]


def test_the_login_is_ordinary(either: TestDatabase) -> None:
    with either.as_user("alice") as conn:
        facts = conn.execute(
            "select session_user, rolsuper or rolbypassrls, pg_has_role(oid, %s, 'member'),"
            " exists (select from pg_class where relowner = pg_roles.oid) from pg_roles where rolname = session_user",
            [ROLE],
        ).fetchone()

    assert facts == (either.login, False, True, False)


def test_a_name_is_a_person(either: TestDatabase) -> None:
    with either.as_user("alice") as conn:
        assert conn.execute("select rlskit.identity()").fetchone() == ("alice-sub::alice",)


def test_nobody_in_particular_is_refused(either: TestDatabase) -> None:
    with pytest.raises(MissingIdentityError, match="nobody's name"):
        either.as_user(None)  # type: ignore[arg-type]


def test_an_error_undoes_the_block_and_goes_on_its_way(either: TestDatabase) -> None:
    with pytest.raises(ZeroDivisionError), either.as_user(ALICE) as conn:
        conn.execute(ADD)
        raise ZeroDivisionError
    with either.as_user(ALICE) as conn:
        assert contents(conn) == []


def test_a_refusal_has_its_name_outside_of_the_block(either: TestDatabase) -> None:
    with pytest.raises(RowDenied), either.as_user(ALICE) as conn:
        conn.execute("insert into board (content, owners) values ('plan', '{bob}')")


def test_a_refusal_that_is_expected_inside_ends_the_block_in_peace(either: TestDatabase) -> None:
    with either.as_user(ALICE) as conn, denied("permission denied", kind="table"):
        conn.execute("update todo set owner = 'bob'")
    with either.as_user(ALICE).session() as session, denied("permission denied", kind="table"):
        session.execute(text("update todo set owner = 'bob'"))
    with either.as_user(ALICE) as conn:
        assert asks(conn) == "alice"


def test_a_flush_that_is_refused_as_expected_ends_the_block_in_peace(either: TestDatabase) -> None:
    with either.as_nobody().session() as session, denied(kind="row"):
        session.add(Board(content="plan"))
        session.flush()
    with either.as_user(ALICE).session() as session:
        assert session.scalars(text("select content from board")).all() == []


def test_a_block_is_not_ended_inside(either: TestDatabase) -> None:
    for end in ("commit", "rollback"):
        with pytest.raises(TransactionInProgressError, match="cannot be ended inside"), either.as_user(ALICE) as conn:
            getattr(conn, end)()


def test_async_with(either: TestDatabase) -> None:
    async def work() -> None:
        async with either.as_user(ALICE) as conn:
            await conn.execute(ADD)
        async with either.as_user(BOB) as conn:
            assert await (await conn.execute("select from board")).fetchall() == []
        async with either.as_user(ALICE) as conn:
            with denied(kind="table"):
                await conn.execute("update todo set owner = 'bob'")
        with pytest.raises(TableDenied):
            async with either.as_user(ALICE) as conn:
                await conn.execute("update todo set owner = 'bob'")
        async with either.as_nobody() as conn:
            assert await (await conn.execute(WHO)).fetchone() == ("nobody",)

    run(work())


class Base(DeclarativeBase):
    pass


class Board(Base):
    __tablename__ = "board"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)


def test_a_session_asks_after_a_commit_and_after_a_rollback_too(either: TestDatabase) -> None:
    with either.as_user(ALICE).session() as session:
        session.add(Board(content="plan"))
        session.commit()
        session.add(Board(content="never"))
        session.flush()
        session.rollback()
        assert session.scalars(text("select content from board")).all() == ["plan"]
        session.add(Board(content="more"))
    with either.as_user(BOB).session() as session:
        assert session.scalars(text("select content from board")).all() == []
    with either.as_nobody().session() as session:
        assert session.scalar(text(WHO)) == "nobody"
    with either.as_user(ALICE) as conn:
        assert contents(conn) == ["plan", "more"]


def test_a_session_that_fails_leaves_nothing(either: TestDatabase) -> None:
    with pytest.raises(DBAPIError) as caught, either.as_user(ALICE).session() as session:
        session.add(Board(content="plan"))
        session.flush()
        session.execute(text("update todo set owner = 'bob'"))
    with either.as_user(ALICE) as conn:
        assert contents(conn) == []

    assert isinstance(caught.value.orig, TableDenied)


def test_an_asynchronous_session(either: TestDatabase) -> None:
    async def work() -> None:
        async with either.as_user(ALICE).async_session() as session:
            session.add(Board(content="plan"))
            await session.commit()
            assert (await session.scalars(text("select content from board"))).all() == ["plan"]
        async with either.as_user(BOB).async_session(async_sessionmaker(expire_on_commit=False)) as session:
            assert not session.sync_session.expire_on_commit
            assert (await session.scalars(text("select content from board"))).all() == []
        async with either.as_nobody().async_session() as session:
            with denied(kind="table"):
                await session.execute(text("update todo set owner = 'bob'"))

    run(work())


def test_the_applications_own_sessionmaker_is_bound_to_the_tests_database(either: TestDatabase) -> None:
    elsewhere: Any = object()
    sessions = sessionmaker(binds={Board: elsewhere}, expire_on_commit=False)

    with either.as_user(ALICE).session(sessions) as session:
        session.add(made := Board(content="plan"))
        session.commit()
        assert made.content == "plan"
        assert session.scalar(text("select current_database()")) == either.name


# --- in one rolled-back transaction ----------------------------------------------------------------------------------


def test_alice_inside_bob_inside_alice(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE) as conn:
        conn.execute(ADD)
        with rolled_back.as_user(BOB) as inner:
            assert (asks(inner), contents(inner)) == ("bob", [])
            with rolled_back.as_user(ALICE) as innermost:
                assert (asks(innermost), contents(innermost)) == ("alice", ["plan"])
            assert (asks(inner), contents(inner)) == ("bob", [])
            with rolled_back.as_nobody() as innermost:
                assert (asks(innermost), contents(innermost)) == ("nobody", [])
            assert asks(inner) == "bob"
        assert (asks(conn), contents(conn)) == ("alice", ["plan"])


def test_whoever_asked_before_asks_again_after_an_error(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE) as conn:
        with pytest.raises(InsufficientPrivilege), rolled_back.as_user(BOB) as inner:
            inner.execute("update todo set owner = 'bob'")
        assert asks(conn) == "alice"
        with rolled_back.as_user(BOB) as inner, denied():
            inner.execute("update todo set owner = 'bob'")
        assert asks(conn) == "alice"


def test_a_role_is_that_of_its_block(kit: TestServer, rolled_back: TestDatabase) -> None:
    kit._execute("create role kit_extra in role pg_monitor")
    kit._execute("grant kit_extra to {}", rolled_back.login)
    role = text("select current_user::text")
    with rolled_back.as_user(ALICE, role="kit_extra") as conn:
        with rolled_back.as_user(BOB) as inner:
            assert inner.execute("select current_user::text").fetchone() == (rolled_back.login,)
        with rolled_back.as_user(BOB).session() as session:
            assert session.scalar(role) == rolled_back.login
        with rolled_back.as_nobody(role="kit_extra").session() as session:
            assert session.scalar(role) == "kit_extra"
        assert conn.execute("select current_user::text").fetchone() == ("kit_extra",)
    with rolled_back.as_user(ALICE) as conn:
        assert conn.execute("select current_user::text").fetchone() == (rolled_back.login,)
    kit._execute("drop role kit_extra")


def test_between_the_blocks_nobody_asks(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE) as conn:
        place: Any = conn.held  # type: ignore[attr-defined]

    assert place.turn.execute(WHO).fetchone() == ("nobody",)


def test_sessions_and_connections_inside_each_other(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE).session() as session:
        session.add(Board(content="plan"))
        session.commit()
        with rolled_back.as_user(BOB) as conn:
            assert (asks(conn), contents(conn)) == ("bob", [])
            with rolled_back.as_user(ALICE).session() as inner:
                assert inner.scalars(text("select content from board")).all() == ["plan"]
            with rolled_back.as_user(BOB).session() as inner:
                assert inner.scalars(text("select content from board")).all() == []
            assert asks(conn) == "bob"
        assert session.scalars(text("select content from board")).all() == ["plan"]
        assert str(session.scalar(text(WHO))).startswith("alice")
        session.rollback()
        assert str(session.scalar(text(WHO))).startswith("alice")


def test_the_connection_of_an_outer_block_is_nobodys_while_an_inner_one_asks(rolled_back: TestDatabase) -> None:
    with (
        rolled_back.as_user(ALICE) as conn,
        rolled_back.as_user(BOB),
        pytest.raises(IdentityConflictError, match="another block of the test's one transaction"),
    ):
        conn.execute(WHO)
    with pytest.raises(IdentityConflictError, match="or this one is over"):
        conn.execute(WHO)


def test_the_session_of_an_outer_block_too(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE).session() as session:
        session.execute(text(WHO))
        with rolled_back.as_user(BOB), pytest.raises(IdentityConflictError):
            session.execute(text(WHO))
        assert str(session.scalar(text(WHO))).startswith("alice")


def test_prepared_statements_are_shared_by_the_blocks(rolled_back: TestDatabase) -> None:
    for who in (ALICE, BOB, ALICE):
        with rolled_back.as_user(who) as conn:
            for _ in range(7):
                conn.execute("select from board where id = %s", [1])
            conn.execute("select content from board", prepare=True)


def test_nothing_of_a_rolled_back_test_stays(kit: TestServer, recipe: Recipe) -> None:
    for _ in range(2):
        with factories.for_test(kit, recipe, "transaction") as made, made.as_user(ALICE) as conn:
            assert contents(conn) == []
            conn.execute(ADD)
    with factories.for_test(kit, recipe, "transaction") as made, made.as_user(ALICE).session() as session:
        session.add(Board(content="plan"))
        session.commit()
    with factories.for_test(kit, recipe, "transaction") as made, made.as_user(ALICE) as conn:
        assert contents(conn) == []


@pytest.mark.parametrize("inside", [True, False], ids=["in a block", "of a session"])
def test_a_commit_by_sql_is_told_and_its_database_is_made_anew(kit: TestServer, recipe: Recipe, inside: bool) -> None:
    def spoil() -> None:
        with factories.for_test(kit, recipe, "transaction") as made:
            if inside:
                with made.as_user(ALICE) as conn:
                    conn.execute(ADD)
                    conn.execute("commit")
            else:
                with made.as_user(ALICE).session() as session:
                    session.execute(text(ADD))
                    session.connection().exec_driver_sql(
                        "commit; begin; savepoint rlskit_test_1; savepoint sa_savepoint_1"
                    )

    with pytest.raises(KitError, match="was ended inside it"):
        spoil()
    with factories.for_test(kit, recipe, "transaction") as made, made.as_user(ALICE) as conn:
        assert contents(conn) == []


def test_with_and_async_with_do_not_mix(rolled_back: TestDatabase) -> None:
    async def work() -> None:
        async with rolled_back.as_user(ALICE):
            pass

    with rolled_back.as_user(ALICE), pytest.raises(KitError, match="either of `with` or of `async with`"):
        run(work())


def test_async_blocks_beside_each_other_are_refused(rolled_back: TestDatabase) -> None:
    async def ask() -> None:
        async with rolled_back.as_user(ALICE) as conn:
            for _ in range(3):
                await conn.execute(WHO)
                await asyncio.sleep(0)

    async def work() -> None:
        async with rolled_back.as_user(ALICE):
            pass
        answers = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert any(isinstance(each, IdentityConflictError | TransactionInProgressError) for each in answers)

    run(work())


def test_where_nobody_else_can_be_said_the_connection_is_closed(kit: TestServer, recipe: Recipe) -> None:
    """Or else whatever follows would be in the name of whoever asked in the block."""
    lost = pytest.raises(psycopg.OperationalError, match="lost inside the block")
    with factories.for_test(kit, recipe, "transaction") as made, lost, made.as_user(ALICE) as conn:
        with pytest.raises(OpenCursorError), made.as_user(BOB) as inner:
            inner.execute("declare theirs cursor with hold for select 1")
        with pytest.raises(psycopg.OperationalError, match="connection is closed"):
            conn.execute(WHO)


def test_blocks_that_are_left_in_another_order_close_the_connection(kit: TestServer, recipe: Recipe) -> None:
    with factories.for_test(kit, recipe, "transaction") as made, ExitStack() as stack:
        outer = made.as_user(ALICE)
        outer.__enter__()
        stack.enter_context(pytest.raises((TransactionInProgressError, psycopg.OperationalError)))
        stack.enter_context(made.as_user(BOB))
        outer.__exit__(None, None, None)


REFUSED = {
    "insert": lambda db: db.insert("todo", content="milk"),
    "stored": lambda db: db.stored("todo"),
    "connect": lambda db: db.connect(),
    "dsn": lambda db: db.dsn,
    "url": lambda db: db.url,
    "as_role": lambda db: db.as_role(ROLE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_another_connection_is_refused(rolled_back: TestDatabase, what: str) -> None:
    with pytest.raises(KitError, match="the test's one transaction") as caught:
        REFUSED[what](rolled_back)

    assert 'isolation="database"' in caught.value.hint


# --- in a copy -------------------------------------------------------------------------------------------------------


def test_connections_of_its_own_are_guarded(db: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(db.connect()) as conn:
        assert_ordinary(conn)
    with closing(psycopg.connect(db.dsn)) as conn:
        assert_ordinary(conn)

    async def work() -> None:
        conn = await db.connect_async()
        assert conn.info.user == db.login
        await conn.close()

    run(work())
    monkeypatch.setattr(db._place, "_dsn", f"{db.dsn}&options=-crow_security%3Doff")
    with pytest.raises(BypassingRoleError, match="row_security = off"):
        db.connect()
    gc.collect()  # a connection that was left open would be told now


def test_a_login_of_a_role_has_that_role_alone(db: TestDatabase) -> None:
    with db.as_role("pg_monitor") as conn, denied("permission denied", kind="table"):
        conn.execute("select from board")
    with db.as_role(ROLE, ALICE) as conn:
        assert asks(conn) == "alice"


@pytest.mark.parametrize(
    ("role", "reason"), [("postgres", "superuser"), ("pg_read_all_data", "reaches past row security")]
)
def test_a_role_that_bypasses_is_refused_with_its_reason(db: TestDatabase, role: str, reason: str) -> None:
    with pytest.raises(BypassingRoleError, match=reason), db.as_role(role):
        pass


def test_a_role_that_is_missing_is_told(db: TestDatabase) -> None:
    with pytest.raises(KitError, match="there is no role `reporting`"):
        db.as_role("reporting")


def test_a_copy_is_gone_after_its_test(kit: TestServer, recipe: Recipe, embedded: Running) -> None:
    with factories.for_test(kit, recipe, "database") as made:
        left_open = psycopg.connect(made.dsn)
    with closing(psycopg.connect(embedded.dsn)) as conn:
        found = conn.execute("select from pg_database where datname = %s", [made.name]).fetchall()
    left_open.close()

    assert found == []
