"""An identity rides on a connection, and a session joins one: in whatever mode, at whatever level, out of whatever pool."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from rlskit import Identity, as_user
from rlskit.errors import (
    IdentityConflictError,
    MissingIdentityError,
    OpenCursorError,
    TransactionInProgressError,
)
from rlskit.sqlalchemy import guard, set_identity, set_nobody
from tests.orm.model import Base, Todo, asking, contents, engine_of, mine
from tests.session.test_as_user import round_trips
from tests.support import ALICE, BOB, CAROL, Database, Server, copied, full

MODES = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


def session_of(bind: Any, who: Identity, **options: Any) -> Session:
    session = Session(bind, **options)
    set_identity(session, who)
    return session


# --- connections -----------------------------------------------------------------------------------------------------


def test_an_identity_rides_on_a_connection(engine: Engine, todo: Database) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        assert contents(connection) == mine(ALICE)
        connection.commit()
        assert contents(connection) == mine(ALICE)
        connection.rollback()
        with connection.begin(), connection.begin_nested() as nested:
            connection.execute(text("insert into todo (content) values ('undone')"))
            nested.rollback()
        with connection.begin():
            assert asking(connection) == ALICE.sub
        connection.invalidate()
        assert contents(connection) == mine(ALICE)
    with engine.connect() as connection:
        with pytest.raises(MissingIdentityError):
            contents(connection)
        connection.rollback()
        set_nobody(connection)
        assert (contents(connection), asking(connection)) == ([], "")

    assert todo.rows("select count(*) from todo") == [(2,)]


def test_a_block_of_the_engine_may_say_first_who_asks(engine: Engine, todo: Database) -> None:
    """``begin`` has sent nothing yet."""
    with engine.begin() as connection:
        set_identity(connection, CAROL)
        with connection.begin_nested() as nested:
            nested.rollback()
        connection.execute(text("insert into todo (content) values ('milk')"))

    assert todo.rows("select owner from todo where content = 'milk'") == [(full(CAROL),)]


def test_a_block_that_has_asked_gets_no_identity(engine: Engine) -> None:
    guard(engine, require_identity=False)
    with engine.begin() as connection:
        assert contents(connection) == []
        with pytest.raises(TransactionInProgressError):
            set_identity(connection, ALICE)
        assert contents(connection) == []


def test_a_connection_has_one_identity(engine: Engine) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        set_identity(connection, ALICE)
        for refused in (lambda: set_identity(connection, BOB), lambda: set_nobody(connection)):
            with pytest.raises(IdentityConflictError):
                refused()


def test_a_sessions_own_connection_takes_no_other_identity(engine: Engine) -> None:
    with session_of(engine, ALICE) as session:
        with pytest.raises(TransactionInProgressError):
            set_identity(session.connection(), BOB)
        assert contents(session) == mine(ALICE)


@pytest.mark.parametrize("ask", [contents, lambda connection: Base.metadata.create_all(connection)])
def test_a_connection_without_an_identity_is_refused(ask: Callable[[Connection], object], engine: Engine) -> None:
    for _ in range(2):
        with engine.connect() as connection:
            for _ in range(2):
                with pytest.raises(MissingIdentityError):
                    ask(connection)
        with engine.begin() as connection, pytest.raises(MissingIdentityError):
            ask(connection)


def test_tables_are_made_with_another_engine(engine: Engine, todo: Database) -> None:
    with pytest.raises(MissingIdentityError, match="migrations have an engine of their own"):
        Base.metadata.create_all(engine)
    owner = engine_of(todo.owner_dsn)
    Base.metadata.create_all(owner)
    owner.dispose()


ENDED: dict[str, Callable[[Session], object]] = {
    "commit": lambda session: session.execute(text("commit")),
    "rollback": lambda session: session.execute(text("rollback")),
    "the driver's": lambda session: session.connection().connection.driver_connection.commit(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("how", ENDED)
@pytest.mark.parametrize("guarded", [True, False])
def test_what_follows_a_transaction_ended_past_sqlalchemy_is_refused(how: str, guarded: bool, todo: Database) -> None:
    """It would be asked by nobody, unnoticed."""
    engine = engine_of(todo.app_dsn)
    if guarded:
        guard(engine)
    with session_of(engine, ALICE) as session:
        assert contents(session) == mine(ALICE)
        ENDED[how](session)
        for _ in range(2):
            with pytest.raises(TransactionInProgressError, match="was ended past SQLAlchemy"):
                contents(session)
        session.rollback()
        assert contents(session) == mine(ALICE)
    engine.dispose()


# --- sessions that join a connection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_test_with_one_outer_transaction(mode: Any, engine: Engine, todo: Database) -> None:
    """As SQLAlchemy's own recipe has it, in each mode; of the outer transaction nothing is left."""
    with engine.connect() as connection:
        outer = connection.begin()
        for content in ("milk", "bread"):
            if not outer.is_active:
                outer = connection.begin()
            with session_of(connection, ALICE, join_transaction_mode=mode) as session:
                session.add(Todo(content=content))
                session.flush()
                if mode == "create_savepoint":
                    session.rollback()
                    session.add(Todo(content=content))
                    session.commit()
                    assert contents(session) == ["alice's", content]
                    session.delete(session.scalars(select(Todo).filter_by(content=content)).one())
                    session.commit()
                    assert contents(connection) == mine(ALICE)
                assert asking(session) == ALICE.sub
        if outer.is_active:
            outer.rollback()

    assert todo.rows("select count(*) from todo") == [(2,)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_session_joins_a_connection_of_its_own_identity_only(begun: bool, mode: Any, engine: Engine) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        if begun:
            connection.begin()
        with session_of(connection, ALICE, join_transaction_mode=mode) as session:
            assert contents(session) == mine(ALICE)
            session.commit()
        with session_of(connection, BOB, join_transaction_mode=mode) as session:
            for _ in range(2):  # not even when the first refusal was caught
                with pytest.raises(IdentityConflictError, match="somebody else asks in this transaction already"):
                    contents(session)
            with pytest.raises(IdentityConflictError):
                contents(session.connection())


def test_a_session_without_an_identity_asks_as_its_connection(engine: Engine) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        with Session(connection) as session:
            assert contents(session) == mine(ALICE)
            with pytest.raises(TransactionInProgressError):
                set_identity(session, BOB)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guarded", [True, False])
def test_two_identities_in_one_outer_transaction_are_refused(guarded: bool, mode: Any, todo: Database) -> None:
    """Whoever was first: after the refusal nobody asks in it any more, because nobody could tell whose statement comes next."""
    engine = engine_of(todo.app_dsn)
    if guarded:
        guard(engine)
    with engine.connect() as connection:
        outer = connection.begin()
        alices = session_of(connection, ALICE, join_transaction_mode=mode)
        bobs = session_of(connection, BOB, join_transaction_mode=mode)
        assert contents(alices) == mine(ALICE)
        for _ in range(2):
            for session in (bobs, alices):
                with pytest.raises(IdentityConflictError):
                    contents(session)
        bobs.close()
        alices.close()
        if outer.is_active:
            outer.rollback()
        with session_of(connection, BOB) as session:
            assert contents(session) == mine(BOB)
    engine.dispose()


def test_what_was_said_in_a_savepoint_is_said_again_after_it(todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    with engine.connect() as connection:
        outer = connection.begin()
        with session_of(connection, ALICE, join_transaction_mode="create_savepoint") as session:
            assert contents(session) == mine(ALICE)
            session.rollback()
            assert contents(connection) == mine(ALICE)
        outer.rollback()
        outer = connection.begin()
        with session_of(connection, ALICE, join_transaction_mode="create_savepoint") as session:
            assert contents(session) == mine(ALICE)
        with session_of(connection, BOB) as session, pytest.raises(IdentityConflictError):
            contents(session)  # the outer transaction stays hers
        outer.rollback()
    engine.dispose()


def test_a_transaction_that_the_driver_began_hears_the_identity_too(engine: Engine) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        driver: Any = connection.connection.driver_connection
        for _ in range(2):
            driver.execute("select 1")
            assert contents(connection) == mine(ALICE)
            connection.commit()


# --- isolation, read only, engines with options ----------------------------------------------------------------------

SHOWN = text(
    "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
    " current_setting('transaction_deferrable')"
)
OPTIONS = [
    ({"isolation_level": "SERIALIZABLE"}, ("serializable", "off", "off")),
    ({"isolation_level": "REPEATABLE READ"}, ("repeatable read", "off", "off")),
    ({"postgresql_readonly": True}, ("read committed", "on", "off")),
    (
        {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True},
        ("serializable", "on", "on"),
    ),
]


@pytest.mark.parametrize(("options", "shown"), OPTIONS)
def test_isolation_read_only_and_deferrable_hold(options: Any, shown: tuple[str, ...], engine: Engine) -> None:
    with session_of(engine.execution_options(**options), ALICE) as session:
        for _ in range(2):
            assert session.execute(SHOWN).one() == shown
            assert contents(session) == mine(ALICE)
            session.commit()
    with engine.connect().execution_options(**options) as connection:
        set_identity(connection, ALICE)
        assert connection.execute(SHOWN).one() == shown
    with session_of(engine, ALICE) as session:
        assert session.connection(execution_options=options).execute(SHOWN).one() == shown
    with session_of(engine, BOB) as session:
        assert session.execute(SHOWN).one() == ("read committed", "off", "off")
        with pytest.raises(InvalidRequestError):
            session.connection().execution_options(isolation_level="AUTOCOMMIT")
        assert contents(session) == mine(BOB)


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("how", ["engine", "session", "connection", "driver"])
def test_an_identity_and_autocommit_are_refused(how: str, guarded: bool, todo: Database) -> None:
    """There is no transaction in which it could be told."""
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    engine = engine_of(todo.app_dsn, **({"connect_args": {"autocommit": True}} if how == "driver" else {}))
    if guarded:
        guard(engine)
    with ExitStack() as stack:
        asked: Any = stack.enter_context(engine.connect() if how == "connection" else Session(engine))
        if how == "connection":
            asked.execution_options(**autocommit)
        elif how == "engine":
            asked.bind = engine.execution_options(**autocommit)
        set_identity(asked, ALICE)
        for _ in range(2):
            with pytest.raises(MissingIdentityError, match="AUTOCOMMIT"):
                contents(asked.connection(execution_options=autocommit) if how == "session" else asked)
            if how == "session":
                asked.rollback()
    engine.dispose()


@pytest.mark.parametrize("first", ["the engine itself", "the one with options"])
def test_what_an_engine_hears_those_hear_that_were_made_of_it(first: str, todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    made = engine.execution_options(logging_token="x")
    guard(engine if first == "the engine itself" else made)
    for each in (engine, made, engine.execution_options(isolation_level="SERIALIZABLE")):
        with each.connect() as connection:
            set_identity(connection, ALICE)
            assert contents(connection) == mine(ALICE)
        with session_of(each, BOB) as session:
            assert contents(session) == mine(BOB)
        with Session(each) as session, pytest.raises(MissingIdentityError):
            contents(session)
    engine.dispose()


# --- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"poolclass": NullPool}, {"poolclass": StaticPool}, {"pool_pre_ping": True}, {"pool_recycle": 0}],
    ids=str,
)
def test_any_pool_will_do(options: dict[str, Any], todo: Database) -> None:
    engine = engine_of(todo.app_dsn, **options)
    guard(engine)
    for _ in range(2):
        for who in (ALICE, BOB):
            with session_of(engine, who) as session:
                assert contents(session) == mine(who)
                session.commit()
                assert contents(session) == mine(who)
        with Session(engine) as session, pytest.raises(MissingIdentityError):
            contents(session)
        engine.dispose()


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_pool_that_lends_one_connection_twice_mixes_nobody(guarded: bool, pool: Any, todo: Database) -> None:
    """Then two sessions are in one transaction of the server, and neither knows of the other."""
    engine = engine_of(todo.app_dsn, poolclass=pool)
    if guarded:
        guard(engine, require_identity=False)
    alices, bobs, nobodys = session_of(engine, ALICE), session_of(engine, BOB), Session(engine)
    assert contents(alices) == mine(ALICE)
    for other in (bobs, nobodys, bobs, nobodys):
        with pytest.raises(IdentityConflictError):
            contents(other)
    assert contents(alices) == mine(ALICE)
    with session_of(engine, ALICE) as same:
        assert contents(same) == mine(ALICE)
        same.commit()  # and with it hers
    with pytest.raises(TransactionInProgressError):
        contents(alices)
    bobs.rollback()
    assert contents(bobs) == mine(BOB)
    with pytest.raises(IdentityConflictError):
        contents(alices)
    for each in (bobs, nobodys, alices):
        each.close()
    engine.dispose()


def test_nobody_finds_an_identity_on_the_drivers_connection(engine: Engine) -> None:
    with session_of(engine, ALICE) as session:
        assert asking(session) == ALICE.sub
        driver: Any = session.connection().connection.driver_connection
    assert driver.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert driver.execute(
        "select coalesce(current_setting('rlskit.sub', true), ''), count(*) from todo"
    ).fetchone() == ("", 0)
    driver.rollback()
    raw = engine.raw_connection()
    try:
        assert raw.driver_connection is driver
        with as_user(driver, BOB) as conn:  # and may be asked in psycopg's own way
            assert conn.execute("select content from todo").fetchall() == [("bob's",)]
    finally:
        raw.close()


def test_a_session_that_is_dropped_leaves_nothing(engine: Engine) -> None:
    session = session_of(engine, ALICE)
    assert contents(session) == mine(ALICE)
    del session
    gc.collect()
    with Session(engine) as other, pytest.raises(MissingIdentityError):
        contents(other)
    with session_of(engine, BOB) as bobs:
        assert contents(bobs) == mine(BOB)


# --- two phases ------------------------------------------------------------------------------------------------------


def of_a_session(engine: Engine, steps: list[str]) -> None:
    with session_of(engine, ALICE, twophase=True) as session:
        session.add(Todo(content="milk"))
        session.flush()
        for step in steps:
            getattr(session, step)()
        assert asking(session) == ALICE.sub
    with session_of(engine, BOB, twophase=True) as session:
        assert (asking(session), contents(session)) == (BOB.sub, mine(BOB))


def of_a_connection(engine: Engine, steps: list[str]) -> None:
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        for each in (["rollback"], steps):
            transaction = connection.begin_twophase()
            connection.execute(text("insert into todo (content) values ('milk')"))
            assert asking(connection) == ALICE.sub
            for step in each:
                getattr(transaction, step)()
                if step == "prepare":
                    with pytest.raises((TransactionInProgressError, DBAPIError)):  # nobody asks after it
                        contents(connection)


def test_transactions_of_two_phases_have_their_identity(server: Server, todo: Database) -> None:
    """On a copy of the server that allows them."""
    with copied(server, settings=["max_prepared_transactions=5", "fsync=off"]) as dsn:
        dsn = make_conninfo(dsn, dbname=todo.name)
        for use, guarded in ((of_a_session, True), (of_a_session, False), (of_a_connection, True)):
            for steps in (["commit"], ["rollback"], ["prepare", "commit"], ["prepare", "rollback"]):
                engine = engine_of(make_conninfo(dsn, user=todo.app))
                if guarded:
                    guard(engine)
                use(engine, steps)
                if guarded:
                    with Session(engine, twophase=True) as session, pytest.raises(MissingIdentityError):
                        contents(session)
                engine.dispose()
                with psycopg.connect(dsn) as conn:
                    stored = conn.execute("delete from todo where content = 'milk' returning owner").fetchall()
                assert stored == ([(full(ALICE),)] if steps[-1] == "commit" else []), (use, guarded, steps)


def test_each_transaction_of_two_phases_hears_its_own_identity(engine: Engine) -> None:
    """Of nothing before it on the same connection."""
    with engine.connect() as connection:
        for who in (ALICE, BOB, BOB):
            with session_of(connection, who, twophase=True) as session:
                assert contents(session) == mine(who)
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        connection.begin().rollback()
        with connection.begin_twophase() as transaction:
            assert contents(connection) == mine(ALICE)
            transaction.rollback()


def test_two_phases_that_the_server_does_not_allow_leave_nothing(engine: Engine, todo: Database) -> None:
    with session_of(engine, CAROL, twophase=True) as session:
        session.add(Todo(content="milk"))
        session.flush()
        with pytest.raises(SQLAlchemyError):
            session.commit()
    gc.collect()
    with session_of(engine, BOB) as session:
        assert (asking(session), contents(session)) == (BOB.sub, mine(BOB))
    assert todo.rows("select count(*) from todo") == [(2,)]


# --- what it costs ---------------------------------------------------------------------------------------------------


def driver_of(engine: Engine) -> Any:
    raw = engine.raw_connection()
    try:
        return raw.driver_connection
    finally:
        raw.close()


def in_a_session(engine: Engine, who: Identity | None) -> None:
    with Session(engine) as session:
        if who:
            set_identity(session, who)
        for _ in range(2):
            contents(session)
            contents(session)
            session.commit()


def in_a_savepoint(engine: Engine, who: Identity | None) -> None:
    with Session(engine) as session:
        if who:
            set_identity(session, who)
        with session.begin_nested():
            contents(session)
        session.rollback()


def on_a_connection(engine: Engine, who: Identity | None) -> None:
    with engine.connect() as connection:
        if who:
            set_identity(connection, who)
        for _ in range(2):
            contents(connection)
            connection.commit()


def joined(engine: Engine, who: Identity | None) -> None:
    with engine.connect() as connection:
        if who:
            set_identity(connection, who)
        connection.begin()
        for _ in range(2):
            with Session(connection) as session:
                if who:
                    set_identity(session, who)
                contents(session)


@pytest.mark.parametrize("work", [in_a_session, in_a_savepoint, on_a_connection, joined])
def test_an_identity_costs_no_round_trip(work: Callable[[Engine, Identity | None], None], todo: Database) -> None:
    counts = []
    for who in (None, ALICE):
        engine = engine_of(todo.app_dsn)
        if who:
            guard(engine, scrub=False)
        work(engine, who)  # the first time the login is judged
        with round_trips(driver_of(engine)) as counted:
            work(engine, who)
        counts += counted
        engine.dispose()

    assert counts[0] == counts[1] > 2


def test_a_transaction_costs_no_round_trip_more_where_its_connection_is_scrubbed_afterwards(engine: Engine) -> None:
    with session_of(engine, ALICE) as session:
        contents(session)
        driver = session.connection().connection.driver_connection
        session.rollback()
        with round_trips(driver) as inside:
            contents(session)
        with round_trips(driver) as ending:
            session.commit()

    assert inside == [2]  # BEGIN and the statement
    assert ending[0] > 1  # COMMIT, and what the pool does


def test_nothing_is_heard_twice(engine: Engine, todo: Database) -> None:
    """However often an engine is guarded, and whatever is made of it."""
    guard(engine)
    guard(sessionmaker(engine))
    guard(engine.execution_options(logging_token="x"))
    with session_of(engine, ALICE) as session:
        driver: Any = session.connection().connection.driver_connection
        session.rollback()
        with round_trips(driver) as counted:
            contents(session)
            session.rollback()
    assert counted == [3]  # BEGIN, the statement, ROLLBACK


def test_sessions_of_other_engines_are_left_alone(engine: Engine, todo: Database) -> None:
    """Another driver, a superuser: whoever never says who asks is not asked."""
    other = engine_of(todo.superuser_dsn)
    with Session(other) as session:
        assert contents(session) == ["alice's", "bob's"]
        driver: Any = session.connection().connection.driver_connection
        session.commit()
        with round_trips(driver) as counted:
            contents(session)
            session.commit()
    other.dispose()

    assert counted == [3]


def test_a_cursor_that_somebody_left_open_is_refused_in_two_phases_too(todo: Database) -> None:
    """There the transaction has begun before anybody says who asks."""
    engine = engine_of(todo.app_dsn)
    guard(engine)
    with session_of(engine, ALICE) as session:
        session.execute(text("declare kept cursor with hold for select content from todo"))
        session.commit()
    with session_of(engine, BOB, twophase=True) as session, pytest.raises(OpenCursorError):
        session.execute(text("fetch all from kept"))
    with session_of(engine, BOB, twophase=True) as session:
        assert contents(session) == mine(BOB)
    engine.dispose()
