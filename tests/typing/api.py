"""The public API in user code, as `mypy --strict` sees it; nothing here is run.

What must not type-check bears the `type: ignore` that names the mistake: mypy complains when it is no mistake any more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, assert_type

import psycopg
from hypothesis.strategies import SearchStrategy
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow, TupleRow, class_row, dict_row, scalar_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import Column, Engine, MetaData, Table, update
from sqlalchemy import Connection as AlchemyConnection
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncAlchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    Session,
    mapped_column,
    registry,
    scoped_session,
    sessionmaker,
)
from sqlmodel import SQLModel

import rlskit
from rlskit import (
    ColumnDenied,
    Identity,
    NotVisible,
    Open,
    Plan,
    RowDenied,
    Rule,
    Rules,
    SigningKey,
    TableDenied,
    TableRules,
    Unmanaged,
    allow,
)
from rlskit.sqlalchemy import (
    column_rules,
    guard,
    readable_columns,
    rules_from,
    set_identity,
    set_nobody,
    writable_columns,
)
from rlskit.state import State
from rlskit.steps import Step
from rlskit.testing.expectations import ExpectedDenial, denied, not_visible, person
from rlskit.testing.leaks import assert_no_leak, assert_no_leak_async
from rlskit.testing.strategies import identities, people, rows, spoofed_settings


@dataclass
class Todo:
    """What an application makes of a row."""

    content: str


# --- rules -----------------------------------------------------------------------------------------------------------


def rules_are_written() -> Rules:
    assert_type(allow.owner(), Rule)
    assert_type(allow.owner_defined_in("author"), Rule)
    assert_type(allow.owners_defined_in("editors").to("read", "update"), Rule)
    assert_type(allow.owner().to(["create", "read"]).match("full", "sub"), Rule)
    assert_type(allow.owner().identity_claim("email"), Rule)
    todo = TableRules(
        "todo",
        allow.owner(),
        allow.owners_defined_in("editors").to("read"),
        columns={"owner": allow.same().to("read", "delete"), "secret": [], "title": [allow.same()]},
        match=["full", "sub"],
        schema="app",
        reassign="never",
        keep={"policy auditors": "the auditors read everything"},
    )
    country = TableRules("country", Open(reason="reference data", to=("read", "update")))
    audit = TableRules("audit", Unmanaged(reason="policies of its own"))
    model = TableRules(allow.owner())
    assert_type(model, TableRules)
    rules = Rules(todo, country, audit, role="app_user", bypass_role="support", schema="app", mode="signed")
    assert_type(rules.mode, Literal["plain", "signed"] | None)
    assert_type(rules.tables, tuple[TableRules, ...])
    assert_type(rules.bypass_role, str | None)
    return rules


def columns_may_come_from_elsewhere(narrow: Mapping[str, Rule], wide: dict[str, list[Rule]]) -> Sequence[TableRules]:
    return [TableRules("todo", allow.owner(), columns=narrow), TableRules("post", allow.owner(), columns=wide)]


def mistakes_in_rules() -> None:
    allow.owner().to("select")  # type: ignore[arg-type]
    allow.owner_defined_in(3)  # type: ignore[arg-type]
    TableRules("todo", allow.owner, columns={"title": []})  # type: ignore[arg-type]
    TableRules("todo", allow.owner(), reassign="nevr")  # type: ignore[arg-type]
    TableRules("todo", allow.owner(), columns={"title": "read"})  # type: ignore[dict-item]
    Open(to=("read",))  # type: ignore[call-arg]
    Open("reference data")  # type: ignore[call-arg]
    Rules(TableRules("todo", allow.owner()))  # type: ignore[call-arg]
    Rules("todo", role="app_user")  # type: ignore[arg-type]


def rules_do_not_change(rules: Rules, rule: Rule) -> None:
    rules.role = "mallory"  # type: ignore[misc]
    rule.operations = ("read",)  # type: ignore[misc]


# --- load, compile, sql, plan ----------------------------------------------------------------------------------------


def rules_are_loaded(settings: dict[str, object]) -> None:
    assert_type(rlskit.load("rlskit.toml"), Rules)
    assert_type(rlskit.load(Path("pyproject.toml")), Rules)
    assert_type(rlskit.load("shop.access:rules"), Rules)
    assert_type(rlskit.load(settings), Rules)
    rlskit.load(None)  # type: ignore[arg-type]


def rules_become_sql(rules: Rules) -> None:
    assert_type(rlskit.compile(rules), State)
    assert_type(rlskit.sql(rules), str)


def a_plan_is_read_and_applied(conn: Connection[DictRow], rules: Rules) -> None:
    plan = rlskit.plan(conn, rules)
    assert_type(plan, Plan)
    assert_type(plan[0], Step)
    assert_type(plan[:3], Sequence[Step])
    assert_type([step.says for step in plan], list[str])
    assert_type(plan.conforms, bool)
    assert_type(plan.compared, Literal["twin", "mark"])
    assert_type(plan.sql(), str)
    plan.apply(conn, lock_timeout=10, retries=3, prune_foreign=True, on_progress=print)
    assert_type(rlskit.plan(conn, rules, stage="policies").stage, Literal["indexes", "policies", "enable", "force"])
    rlskit.plan(conn, rules, stage="polices")  # type: ignore[arg-type]
    if not plan:
        return


# --- as_user ---------------------------------------------------------------------------------------------------------


def a_user_asks(dsn: str) -> None:
    """The connection comes out of the block as it went in: with the type of its rows."""
    alice = Identity(sub="5d1c", username="alice", claims={"email": "alice@example.org"})
    assert_type(alice.username, str | None)
    assert_type(alice.settings(), dict[str, str])
    with psycopg.connect(dsn) as conn, rlskit.as_user(conn, alice) as inside:
        assert_type(inside, Connection[TupleRow])
        assert_type(inside.execute("select 1").fetchone(), tuple[Any, ...] | None)
    with (
        psycopg.connect(dsn, row_factory=dict_row) as by_name,
        rlskit.as_user(by_name, alice, role="app_user") as inside_dict,
    ):
        assert_type(inside_dict, Connection[dict[str, Any]])
        assert_type(inside_dict.execute("select 1 as one").fetchone(), dict[str, Any] | None)
    with psycopg.connect(dsn, row_factory=class_row(Todo)) as todos, rlskit.as_user(todos, alice) as inside_class:
        assert_type(inside_class, Connection[Todo])
        assert_type(inside_class.execute("select content from todo").fetchall(), list[Todo])


def nobody_asks(dsn: str) -> list[int]:
    """The same, and its value may be returned from inside the block."""
    with psycopg.Connection[int].connect(dsn, row_factory=scalar_row) as conn:
        rlskit.guard(conn)
        with rlskit.as_nobody(conn) as inside:
            assert_type(inside, Connection[int])
            return inside.execute("select 1").fetchall()


def one_row(conn: Connection[Todo], alice: Identity) -> Todo | None:
    """A function that returns from inside the block alone needs no return after it."""
    with rlskit.as_user(conn, alice) as inside:
        return inside.execute("select content from todo").fetchone()


async def a_user_asks_asynchronously(dsn: str, pool: AsyncConnectionPool[AsyncConnection[DictRow]]) -> None:
    """The same words, behind `async with`; a pool lends the connection for the block."""
    alice = Identity(sub="5d1c", username="alice")
    async with await AsyncConnection.connect(dsn) as conn, rlskit.as_user(conn, alice) as inside:
        assert_type(inside, AsyncConnection[TupleRow])
        assert_type(await (await inside.execute("select 1")).fetchone(), tuple[Any, ...] | None)
    async with rlskit.as_user(pool, alice) as lent:
        assert_type(lent, AsyncConnection[dict[str, Any]])
    async with rlskit.as_nobody(pool) as lent_to_nobody:
        assert_type(lent_to_nobody, AsyncConnection[dict[str, Any]])


def a_pool_lends(dsn: str) -> None:
    """Guarded when a connection is made, scrubbed when it comes back."""
    alice = Identity(sub="5d1c", username="alice")
    pool: ConnectionPool[Connection[TupleRow]] = ConnectionPool(dsn, configure=rlskit.guard, reset=rlskit.scrub)
    with pool, rlskit.as_user(pool, alice) as conn:
        assert_type(conn, Connection[TupleRow])
    AsyncConnectionPool(dsn, open=False, configure=rlskit.guard, reset=rlskit.scrub)


def identities_are_signed(dsn: str, conn: Connection[TupleRow], pool: ConnectionPool[Connection[DictRow]]) -> None:
    """A key, or its text as an environment variable holds it; None where there is none."""
    alice = Identity(sub="5d1c", username="alice")
    key = SigningKey.parse("first:…")
    assert_type(key, SigningKey)
    assert_type(SigningKey.generate("second").export(), str)
    rlskit.guard(conn, key=key)
    rlskit.guard(conn, key=os.environ.get("SIGNING_KEY"), allow_bypass="a nightly job")
    rlskit.guard(pool, key=key.export())
    with rlskit.as_user(pool, alice) as lent:
        assert_type(lent, Connection[dict[str, Any]])
    ConnectionPool(dsn, configure=partial(rlskit.guard, key=key), reset=rlskit.scrub)
    ConnectionPool(dsn, configure=lambda made: rlskit.guard(made, key=key))
    # mypy takes the first of a function's overloads for a partial, and that is not the one for what is asynchronous.
    AsyncConnectionPool(dsn, open=False, configure=lambda made: rlskit.guard(made, key=key), reset=rlskit.scrub)


async def identities_are_signed_asynchronously(
    conn: AsyncConnection[TupleRow], pool: AsyncConnectionPool[AsyncConnection[DictRow]]
) -> None:
    """What guards them is awaited."""
    alice = Identity(sub="5d1c", username="alice")
    await rlskit.guard(conn, key=SigningKey.generate())
    await rlskit.guard(pool, key="first:…", allow_bypass="a nightly job")
    async with rlskit.as_user(pool, alice, pipeline=True, actor=alice) as lent:
        assert_type(lent, AsyncConnection[dict[str, Any]])


def somebody_acts_for_another(conn: Connection[TupleRow], alice: Identity, carol: Identity | None) -> None:
    """And all of it may be sent in one flight."""
    with rlskit.as_user(conn, alice, actor=carol, pipeline=True) as inside:
        assert_type(inside, Connection[TupleRow])
        found = inside.execute("select content from todo")
    assert_type(found.fetchall(), list[tuple[Any, ...]])
    with rlskit.as_nobody(conn, pipeline=True) as nobodys:
        assert_type(nobodys, Connection[TupleRow])


async def support_sees_everything(
    conn: Connection[TupleRow],
    pool: ConnectionPool[Connection[DictRow]],
    other: AsyncConnection[Todo],
    carol: Identity,
) -> list[Todo]:
    """For a reason, and its value may be returned from inside the block."""
    with rlskit.bypass(conn, reason="ticket 123", actor=carol, role="support", timeout=5) as inside:
        assert_type(inside, Connection[TupleRow])
    with rlskit.bypass(pool, reason="ticket 123") as lent:
        assert_type(lent, Connection[dict[str, Any]])
    async with rlskit.bypass(other, reason="ticket 123", timeout=0.5) as inside_class:
        assert_type(inside_class, AsyncConnection[Todo])
        return await (await inside_class.execute("select content from todo")).fetchall()


def mistakes_with_keys(conn: Connection[TupleRow], pool: ConnectionPool[Connection[TupleRow]]) -> None:
    rlskit.guard(conn, key=b"secret")  # type: ignore[call-overload]
    rlskit.guard(pool, SigningKey.generate())  # type: ignore[call-overload]
    rlskit.guard(pool, allow_bypass=True)  # type: ignore[call-overload]
    rlskit.guard("postgresql://")  # type: ignore[call-overload]
    SigningKey("first", "secret")  # type: ignore[arg-type]
    SigningKey.generate().secret = b""  # type: ignore[misc]
    Rules(role="app_user", mode="sign")  # type: ignore[arg-type]


async def mistakes_with_a_bypass(conn: Connection[TupleRow], other: AsyncConnection[TupleRow]) -> None:
    rlskit.bypass(conn)  # type: ignore[call-arg]
    rlskit.bypass(conn, reason=None)  # type: ignore[arg-type]
    rlskit.bypass(conn, "ticket 123")  # type: ignore[call-arg]
    rlskit.bypass(conn, reason="ticket 123", actor="carol")  # type: ignore[arg-type]
    rlskit.bypass(conn, reason="ticket 123", pipeline=True)  # type: ignore[call-arg]
    async with rlskit.bypass(conn, reason="ticket 123"):  # type: ignore[misc]
        pass
    with rlskit.bypass(other, reason="ticket 123"):  # type: ignore[misc]
        pass


def a_refusal_has_a_name(conn: Connection[TupleRow], alice: Identity) -> str:
    """What catches the driver's exception catches it, and it tells more."""
    try:
        with rlskit.as_user(conn, alice) as inside:
            try:
                with inside.transaction():
                    inside.execute("select * from todo")
            except psycopg.errors.InsufficientPrivilege as error:
                assert_type(rlskit.denial(error), RowDenied | ColumnDenied | TableDenied | None)
            assert_type(rlskit.expect_row(inside.execute("select 1")), psycopg.Cursor[tuple[Any, ...]])
    except RowDenied as error:
        assert_type(error.table, str | None)
        assert_type(error.operation, Literal["create", "read", "update", "delete"] | None)
        return error.hint
    except (ColumnDenied, TableDenied) as error:
        assert_type(error.columns, tuple[str, ...])
        caught: psycopg.errors.InsufficientPrivilege = error
        return f"{error.code} {error.message} {caught.diag.message_primary} {caught.sqlstate}"
    except NotVisible as error:
        missing: LookupError = error
        return f"{error.code} {error.hint} {missing}"
    raise NotVisible


def mistakes_with_refusals(error: RowDenied) -> None:
    error.operation = "select"  # type: ignore[assignment]
    rlskit.denial("permission denied")  # type: ignore[arg-type]
    rlskit.denial(None)  # type: ignore[arg-type]


async def mistakes_in_waiting(conn: Connection[TupleRow], other: AsyncConnection[TupleRow], alice: Identity) -> None:
    async with rlskit.as_user(conn, alice):  # type: ignore[misc]
        pass
    with rlskit.as_user(other, alice):  # type: ignore[misc]
        pass


def mistakes_in_asking(conn: Connection[TupleRow], alice: Identity) -> None:
    rlskit.as_user(conn, None)  # type: ignore[arg-type]
    rlskit.as_user(conn, "alice")  # type: ignore[arg-type]
    rlskit.as_user(alice, conn)  # type: ignore[arg-type]
    rlskit.as_user(conn, alice, "app_user")  # type: ignore[call-arg]
    rlskit.as_user(conn, alice, actor="carol")  # type: ignore[arg-type]
    rlskit.as_nobody(conn, actor=alice)  # type: ignore[call-arg]
    Identity("5d1c")  # type: ignore[call-arg]
    alice.sub = "mallory"  # type: ignore[misc]
    alice.claims["email"] = "bob@example.org"  # type: ignore[index]


# --- SQLAlchemy ------------------------------------------------------------------------------------------------------


class OurSession(Session):
    """What an application makes of a session."""


def engines_are_guarded(
    engine: Engine,
    sessions: sessionmaker[Session],
    ours: sessionmaker[OurSession],
    async_engine: AsyncEngine,
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    guard(engine)
    guard(sessions, key=rlskit.SigningKey.generate(), require_identity=False, scrub=False)
    guard(ours, key="name:secret", allow_bypass="the nightly report")
    guard(async_engine)
    guard(async_sessions)
    guard(engine.execution_options(isolation_level="SERIALIZABLE"))


def somebody_asks_through_sqlalchemy(
    session: Session, ours: OurSession, registry: scoped_session[Session], conn: AlchemyConnection, alice: Identity
) -> None:
    for each in (session, ours, conn):
        set_identity(each, alice)
    set_identity(registry, alice, actor=alice, role="app_user")
    set_nobody(session)
    set_nobody(conn, role="app_user")


def a_row_is_expected(session: Session, conn: AlchemyConnection) -> None:
    rlskit.expect_row(session.execute(update(Article).values(title="milk")))
    rlskit.expect_row(conn.execute(update(Article).values(title="milk")))


async def somebody_asks_asynchronously(
    session: AsyncSession, registry: async_scoped_session[AsyncSession], conn: AsyncAlchemyConnection, alice: Identity
) -> None:
    """Nothing to await: no database is asked."""
    set_identity(session, alice)
    set_identity(registry, alice)
    set_nobody(conn)
    await set_identity(session, alice)  # type: ignore[func-returns-value, misc]


class Base(DeclarativeBase):
    """What an application maps."""


class Article(Base):
    """With its rules beside it."""

    __tablename__ = "article"
    __rls__ = (allow.owner(), allow.owners_defined_in("editors").to("read"))
    id: Mapped[int] = mapped_column(primary_key=True)
    internal: Mapped[str] = mapped_column(info=column_rules())
    remark: Mapped[str] = mapped_column(info=column_rules(allow.same().to("read"), allow.owner()))


def rules_stand_beside_models(mapped: registry, metadata: MetaData, table: Table) -> Rules:
    assert_type(rules_from(Base, role="app_user"), Rules)
    for each in (mapped, metadata):
        rules_from(each, role="app_user", bypass_role="support", mode="signed", schema="app", require_all=False)
    rules = rules_from(SQLModel, role="app_user", schemas=["app", "public"])
    assert_type(readable_columns(Article, rules), tuple[InstrumentedAttribute[Any], ...])
    assert_type(readable_columns(table, rules), tuple[Column[Any], ...])
    assert_type(writable_columns(Article, rules, "create"), frozenset[str])
    assert_type(writable_columns(table, rules, "update"), frozenset[str])
    return rules


def mistakes_beside_models(rules: Rules) -> None:
    rules_from(Base)  # type: ignore[call-arg]
    rules_from("models", role="app_user")  # type: ignore[arg-type]
    rules_from(Base, role="app_user", mode="sign")  # type: ignore[arg-type]
    column_rules("read")  # type: ignore[arg-type]
    writable_columns(Article, rules, "delete")  # type: ignore[arg-type]
    readable_columns("article", rules)  # type: ignore[call-overload]


def mistakes_with_sqlalchemy(engine: Engine, session: Session, conn: Connection[TupleRow], alice: Identity) -> None:
    guard(session)  # type: ignore[arg-type]
    guard("postgresql+psycopg://")  # type: ignore[arg-type]
    guard(engine, "key")  # type: ignore[call-arg]
    set_identity(engine, alice)  # type: ignore[arg-type]
    set_identity(conn, alice)  # type: ignore[arg-type]
    set_identity(session, None)  # type: ignore[arg-type]
    set_identity(session, "alice")  # type: ignore[arg-type]
    set_identity(session, alice, "app_user")  # type: ignore[call-arg, arg-type]
    set_nobody(session, actor=alice)  # type: ignore[call-arg]
    rlskit.expect_row(session)  # type: ignore[type-var]


# --- tests of one's own ----------------------------------------------------------------------------------------------


def somebody_is_refused(conn: Connection[TupleRow], session: Session, table: TableRules) -> None:
    alice = person("alice", email="alice@example.com")
    assert_type(alice, Identity)
    with denied() as refused:
        conn.execute("select 1")
    assert_type(refused, ExpectedDenial)
    assert_type(refused.denial, RowDenied | ColumnDenied | TableDenied)
    with denied("policy", kind="row", table="todo", inside=conn) as inside:
        assert_type(inside, ExpectedDenial)
    with denied(kind="column", columns=["title"], inside=session):
        session.execute(update(Article).values(title="milk"))
    with not_visible():
        rlskit.expect_row(conn.execute("select 1"))
    not_visible(conn.execute("select 1"))
    not_visible(session.execute(update(Article).values(title="milk")))
    assert_type(identities(claims=["email"]), SearchStrategy[Identity])
    assert_type(people(max_size=3), SearchStrategy[tuple[Identity, ...]])
    assert_type(rows(table, [alice]), SearchStrategy[dict[str, str | list[str] | None]])
    spoofed_settings(alice)


async def somebody_is_refused_asynchronously(conn: AsyncConnection[TupleRow], session: AsyncSession) -> None:
    async with denied(kind="row", inside=conn) as refused:
        assert_type(refused, ExpectedDenial)
    async with denied(kind="row", inside=session):
        not_visible(await conn.execute("select 1"))


def nothing_leaks(
    pool: ConnectionPool[Connection[TupleRow]], engine: Engine, sessions: sessionmaker[Session], dsn: str
) -> None:
    assert_no_leak(pool)
    assert_no_leak(engine)
    assert_no_leak(sessions)
    assert_no_leak(lambda: psycopg.connect(dsn))


async def nothing_leaks_asynchronously(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    await assert_no_leak_async(pool)
    await assert_no_leak_async(engine)
    await assert_no_leak_async(sessions)


def mistakes_in_tests(
    conn: AsyncConnection[TupleRow],
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
    engine: AsyncEngine,
    alice: Identity,
) -> None:
    denied(kind="rows")  # type: ignore[call-overload]
    denied(inside="todo")  # type: ignore[call-overload]
    with denied(inside=conn):  # type: ignore[attr-defined]
        pass
    not_visible("todo")  # type: ignore[call-overload]
    person("alice", age=3)  # type: ignore[arg-type]
    assert_no_leak(pool)  # type: ignore[arg-type]
    assert_no_leak(engine)  # type: ignore[arg-type]
    assert_no_leak(conn)  # type: ignore[arg-type]
    rows(alice, [])  # type: ignore[arg-type]
