"""The guard of an engine: who may connect, whose key signs, what is left of the one before, and what a refusal is called."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

import rlskit
from rlskit import (
    ColumnDenied,
    Identity,
    NotVisible,
    RowDenied,
    Rules,
    SigningKey,
    TableDenied,
    TableRules,
    allow,
    keyring,
)
from rlskit.errors import (
    BypassingRoleError,
    IdentityError,
    InvalidIdentityError,
    RuntimeVersionError,
    SigningKeyError,
)
from rlskit.sqlalchemy import guard, set_identity, set_nobody
from tests.orm.model import IDS, TABLES, Todo, asking, contents, engine_of, fill, mine
from tests.support import ALICE, BOB, Database, Server, assert_nobody_is_left, fresh_database, full


def session_of(engine: Engine, who: Identity) -> Session:
    session = Session(engine)
    set_identity(session, who)
    return session


# --- who may connect -------------------------------------------------------------------------------------------------

BYPASSING = ["superuser_dsn", "owner_dsn"]


def ask(engine: Engine) -> object:
    with session_of(engine, ALICE) as session:
        return contents(session)


@pytest.mark.parametrize("login", BYPASSING)
@pytest.mark.parametrize("guarded", [True, False])
def test_a_login_that_no_rule_binds_is_refused(login: str, guarded: bool, todo: Database) -> None:
    engine = engine_of(getattr(todo, login))
    if guarded:
        guard(engine)
        with pytest.raises(BypassingRoleError), engine.connect():
            pass
    for _ in range(2):
        with pytest.raises(BypassingRoleError):
            ask(engine)
    gc.collect()  # a connection that was left open would warn
    engine.dispose()

    assert_nobody_is_left(todo)


def test_a_role_with_bypassrls_is_refused(todo: Database) -> None:
    login = f"{todo.name}_support"
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"create role {login} login bypassrls")
    try:
        engine = engine_of(make_conninfo(todo.superuser_dsn, user=login))
        guard(engine)
        with pytest.raises(BypassingRoleError, match="BYPASSRLS"):
            ask(engine)
        engine.dispose()
    finally:
        with todo.connect(autocommit=True) as admin:
            admin.execute(f"drop role {login}")


def test_a_login_may_bypass_for_a_reason(todo: Database, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(todo.superuser_dsn)
    guard(engine, allow_bypass="the nightly report")
    assert ask(engine) == ["alice's", "bob's"]
    engine.dispose()
    assert "the nightly report" in caplog.text

    with pytest.raises(BypassingRoleError):
        guard(engine, allow_bypass=" ")


@pytest.mark.parametrize("require_identity", [True, False])
def test_connections_that_were_there_before_the_guard_are_judged_too(require_identity: bool, todo: Database) -> None:
    """Also where nobody says who asks: or else a superuser would."""
    engine = engine_of(todo.superuser_dsn)
    with Session(engine) as session:
        assert contents(session) == ["alice's", "bob's"]
    guard(engine, require_identity=require_identity)
    for asked in (ask, lambda engine: Session(engine).connection(), lambda engine: engine.connect().begin_twophase()):
        with Session(engine) as session, pytest.raises(BypassingRoleError):
            contents(session)
        with pytest.raises(BypassingRoleError):
            asked(engine)
        gc.collect()
    engine.dispose()


def test_a_database_without_the_runtime_is_refused(server: Server) -> None:
    with fresh_database(server, "bare") as bare:
        engine = engine_of(bare.app_dsn)
        guard(engine)
        with pytest.raises(RuntimeVersionError):
            ask(engine)
        engine.dispose()


NO_ENGINE = [
    (lambda: create_engine("sqlite://"), "the driver `pysqlite` cannot say who asks"),
    (lambda: sessionmaker(create_engine("sqlite://")), "the driver `pysqlite` cannot say who asks"),
    (lambda: sessionmaker(), "the sessionmaker is bound to no engine"),
    (lambda: None, "`NoneType` is neither an engine nor a sessionmaker"),
    (lambda: "postgresql+psycopg://", "`str` is neither an engine nor a sessionmaker"),
    (lambda: Session, "`type` is neither an engine nor a sessionmaker"),
]


@pytest.mark.parametrize(("made", "message"), NO_ENGINE, ids=range(len(NO_ENGINE)))
def test_what_is_no_engine_of_psycopgs_is_not_guarded(made: Callable[[], Any], message: str) -> None:
    with pytest.raises(IdentityError) as caught:
        guard(made())

    assert caught.value.message == message


def test_an_identity_is_for_psycopgs_engines_only() -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        assert session.scalar(text("select 1")) == 1
    with Session(engine) as session:
        set_identity(session, ALICE)
        with pytest.raises(IdentityError, match="pysqlite"):
            session.scalar(text("select 1"))
    with engine.connect() as connection, pytest.raises(IdentityError, match="pysqlite"):
        set_identity(connection, ALICE)
    engine.dispose()


def test_a_sessionmaker_of_two_engines_is_guarded_whole_or_not_at_all(todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    with pytest.raises(IdentityError):
        guard(sessionmaker(engine, binds={Todo: create_engine("sqlite://")}))
    with Session(engine) as session:
        assert contents(session) == []
    engine.dispose()


def test_the_last_guard_counts(engine: Engine) -> None:
    guard(engine, require_identity=False)
    with Session(engine) as session:
        assert contents(session) == []
    guard(engine)
    with Session(engine) as session, pytest.raises(IdentityError):
        contents(session)


def test_an_identity_that_the_connection_cannot_spell_is_refused(todo: Database) -> None:
    engine = engine_of(make_conninfo(todo.app_dsn, client_encoding="latin1"))
    guard(engine)
    with session_of(engine, Identity(sub="日本", username="x")) as session:
        with pytest.raises(InvalidIdentityError, match="cannot be said in the connection's"):
            contents(session)
        with pytest.raises(PendingRollbackError):  # and nothing goes after it
            contents(session)
        session.rollback()
    assert ask(engine) == mine(ALICE)
    engine.dispose()


# --- signed identities -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signing(server: Server) -> Iterator[tuple[Database, SigningKey]]:
    with fresh_database(server, "signed") as made:
        made.execute(*TABLES)
        tables = (TableRules("todo", allow.owner()), TableRules("note", allow.owner()))
        key = SigningKey.generate()
        with made.connect_as_owner() as conn:
            rlskit.plan(conn, Rules(*tables, role=made.app, mode="signed")).apply(conn)
            keyring.add(conn, key)
        yield made, key


@pytest.fixture
def signed(signing: tuple[Database, SigningKey]) -> tuple[Database, SigningKey]:
    fill(signing[0])
    return signing


def retire(database: Database, kid: str) -> None:
    with database.connect_as_owner() as conn:
        keyring.retire(conn, kid)


def add(database: Database, key: SigningKey) -> None:
    with database.connect_as_owner() as conn:
        keyring.add(conn, key)


def test_identities_are_signed(signed: tuple[Database, SigningKey]) -> None:
    database, key = signed
    engine = engine_of(database.app_dsn)
    guard(engine, key=key.export())
    for who in (ALICE, BOB):
        with session_of(engine, who) as session:
            for _ in range(2):
                assert (contents(session), asking(session)) == (mine(who), who.sub)
                session.commit()
    with Session(engine) as session:
        set_nobody(session)
        assert contents(session) == []
    engine.dispose()


def test_without_a_key_nobody_asks_where_identities_have_to_be_signed(signed: tuple[Database, SigningKey]) -> None:
    database, _ = signed
    for guarded in (True, False):
        engine = engine_of(database.app_dsn)
        if guarded:
            guard(engine)
        for _ in range(2):
            with session_of(engine, ALICE) as session:
                with pytest.raises(SigningKeyError):
                    contents(session)
                with pytest.raises((SigningKeyError, PendingRollbackError)):
                    contents(session)
        engine.dispose()
    with pytest.raises(SigningKeyError):
        guard(engine, key="no key")


def test_a_key_that_is_retired_and_comes_back(signed: tuple[Database, SigningKey]) -> None:
    """While the pool lives, and the session too."""
    database, _ = signed
    key, next_key = SigningKey.generate(), SigningKey.generate()
    add(database, key)
    engine = engine_of(database.app_dsn)
    guard(engine, key=key)
    with session_of(engine, ALICE) as session:
        assert contents(session) == mine(ALICE)
        session.commit()
        retire(database, key.kid)
        with pytest.raises(SigningKeyError, match=key.kid):
            contents(session)
        session.rollback()
        add(database, key)
        assert contents(session) == mine(ALICE)
        session.commit()
        retire(database, key.kid)
        add(database, next_key)
        guard(engine, key=next_key)
        assert contents(session) == mine(ALICE)
    engine.dispose()


# --- nothing is left to the next -------------------------------------------------------------------------------------

# What one leaves behind, and a statement that finds it.
LEFT = {
    "a temporary table": ("create temporary table todo (content text)", "select to_regclass('pg_temp.todo') is not null"),
    "a setting": ("set statement_timeout = 12345", "select current_setting('statement_timeout') = '12345ms'"),
    "an identity": ("set rlskit.sub = 'a1f0'", "select current_setting('rlskit.sub', true) = 'a1f0'"),
    "a prepared statement": ("prepare theirs as select 1", "select count(*) > 0 from pg_prepared_statements where name = 'theirs'"),
    "a lock": ("select pg_advisory_lock(17)", "select count(*) > 0 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"),
    "a cursor": ("declare theirs cursor with hold for select content from todo", "select count(*) > 0 from pg_cursors"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_what_one_user_leaves_behind_does_not_reach_the_next(what: str, engine: Engine) -> None:
    left, finds = LEFT[what]
    with engine.connect() as connection:
        set_identity(connection, ALICE)
        connection.execute(text(left))
        assert connection.scalar(text(finds)) is True
        connection.commit()
    with session_of(engine, BOB) as session:
        assert session.scalar(text(finds)) is not True


def test_a_statement_that_psycopg_has_prepared_is_not_taken_for_another(engine: Engine) -> None:
    """It is poisoned under the name that psycopg gave it."""
    with session_of(engine, ALICE) as session:
        for _ in range(8):
            contents(session)
        names = session.scalars(text("select name from pg_prepared_statements")).all()
        session.execute(text("deallocate all"))
        for name in names:
            session.execute(text(f"prepare {name} as select 'poisoned'"))
        session.commit()
    assert names
    for _ in range(3):
        with session_of(engine, BOB) as session:
            for _ in range(8):
                assert contents(session) == mine(BOB)


def test_without_scrubbing_all_is_as_sqlalchemy_has_it(todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    guard(engine, scrub=False)
    left, finds = LEFT["a temporary table"]
    with session_of(engine, ALICE) as session:
        session.execute(text(left))
        session.commit()
    with session_of(engine, BOB) as session:
        assert session.scalar(text(finds)) is True
        assert session.scalar(text(LEFT["a cursor"][1])) is False
    engine.dispose()


def test_what_is_left_open_is_rolled_back(engine: Engine, todo: Database) -> None:
    session = session_of(engine, ALICE)
    session.add(Todo(content="milk"))
    session.flush()
    session.close()
    raw = engine.raw_connection()
    driver: Any = raw.driver_connection
    driver.execute("select 1")
    raw.close()
    assert driver.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    assert todo.rows("select count(*) from todo") == [(2,)]


# --- refusals --------------------------------------------------------------------------------------------------------


EDITORS = allow.owners_defined_in("editors")


@pytest.fixture(scope="module")
def refusing(server: Server) -> Iterator[Database]:
    """Bob may edit alice's row, but not its title; whatever is inserted into ``late`` is refused when the transaction ends."""
    with fresh_database(server, "refusing") as made:
        made.execute(
            *TABLES,
            "create table closed (id int)",
            "create table shared (id int primary key, title text, owner text, editors text[])",
            "create table late (id int)",
            "create function be_late() returns trigger language plpgsql"
            " as $$ begin insert into todo (owner) values ('alice'); return null; end $$",
            "create constraint trigger be_late after insert on late initially deferred for each row execute function be_late()",
            f"insert into shared values (1, 'hers', '{full(ALICE)}', '{{{full(BOB)}}}')",
        )
        title = [allow.owner(), EDITORS.to("read")]
        made.apply(
            *(TableRules(name, allow.owner()) for name in ("todo", "note", "late")),
            TableRules("shared", allow.owner(), EDITORS.to("read", "update"), columns={"title": title}),
        )
        yield made


@pytest.fixture
def refuses(refusing: Database) -> Iterator[Engine]:
    fill(refusing)
    engine = engine_of(refusing.app_dsn)
    guard(engine)
    yield engine
    engine.dispose()


def executes(statement: str) -> Callable[[Session], object]:
    return lambda session: session.execute(text(statement))


def flushes(session: Session) -> None:
    session.add(Todo(content="x", owner="alice"))
    session.flush()


def commits_a_flush(session: Session) -> None:
    session.add(Todo(content="x", owner="alice"))
    session.commit()


def commits(session: Session) -> None:
    session.execute(text("insert into late values (1)"))
    session.commit()


def streams(session: Session) -> None:
    session.execute(text("select * from closed").execution_options(yield_per=1)).all()


# What bob does, what it is called, and the table and the columns that it says.
REFUSED: dict[str, tuple[Callable[[Session], object], type[Exception], str, tuple[str, ...]]] = {
    "a row": (executes("insert into todo (owner) values ('alice')"), RowDenied, "todo", ()),
    "many rows": (
        lambda session: session.execute(insert(Todo), [{"content": "a"}, {"content": "b", "owner": "alice"}]),
        *(RowDenied, "todo", ()),
    ),
    "a row that is given away by an update": (
        lambda session: session.execute(update(Todo).values(owner="alice::x")) and flushes(session),
        *(RowDenied, "todo", ()),
    ),
    "a flush": (flushes, RowDenied, "todo", ()),
    "a flush that a commit makes": (commits_a_flush, RowDenied, "todo", ()),
    "a commit": (commits, RowDenied, "todo", ()),
    "a column": (executes("update shared set title = 'his'"), ColumnDenied, "shared", ("title",)),
    "a table": (executes("select * from closed"), TableDenied, "closed", ()),
    "a stream": (streams, TableDenied, "closed", ()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_database_refuses_has_its_name_as_orig(what: str, refuses: Engine) -> None:
    """And is what SQLAlchemy makes of it besides."""
    does, kind, table, columns = REFUSED[what]
    with session_of(refuses, BOB) as session, pytest.raises(ProgrammingError) as caught:
        does(session)

    refusal: Any = caught.value.orig
    assert (type(refusal), refusal.table, refusal.columns) == (kind, table, columns)
    assert isinstance(refusal, psycopg.errors.InsufficientPrivilege)
    assert rlskit.denial(caught.value) is refusal
    assert type(caught.value.__cause__) is psycopg.errors.InsufficientPrivilege
    assert refusal.__cause__ is caught.value.__cause__
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), type(again.orig), again.orig.table) == (ProgrammingError, kind, table)


def test_after_a_refusal_the_session_goes_on(refuses: Engine) -> None:
    with session_of(refuses, BOB) as session:
        with pytest.raises(ProgrammingError):
            flushes(session)
        session.rollback()
        with pytest.raises(ProgrammingError), session.begin_nested():
            flushes(session)
        assert (contents(session), asking(session)) == (mine(BOB), BOB.sub)


def test_other_errors_stay_as_they_are(engine: Engine) -> None:
    for statement, kind in (
        ("select 1 / 0", psycopg.errors.DivisionByZero),
        ("set role postgres", psycopg.errors.InsufficientPrivilege),
    ):
        with session_of(engine, ALICE) as session, pytest.raises(DBAPIError) as caught:
            session.execute(text(statement))
        assert type(caught.value.orig) is kind


def cut_idle(engine: Engine, database: Database) -> None:
    """Cut the connections that wait in the pool."""
    ask(engine)
    with database.connect() as admin:
        admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", [database.app])


def test_a_connection_that_was_cut_in_the_pool_is_told_as_sqlalchemy_tells_it(engine: Engine, todo: Database) -> None:
    """Whoever tries again for SQLAlchemy's own errors goes on doing so."""
    for asked in (lambda: session_of(engine, ALICE), engine.connect):
        cut_idle(engine, todo)
        with asked() as either:
            set_identity(either, ALICE)
            with pytest.raises(OperationalError) as caught:
                contents(either)
            assert caught.value.connection_invalidated
            either.rollback()
            assert contents(either) == mine(ALICE)


def test_a_role_that_cannot_be_taken_on_is_told_as_sqlalchemy_tells_it(engine: Engine) -> None:
    with Session(engine) as session:
        set_identity(session, ALICE, role="postgres")
        for _ in range(2):
            with pytest.raises(ProgrammingError, match="postgres"):
                contents(session)
            session.rollback()
    assert ask(engine) == mine(ALICE)


def test_a_row_of_another_is_not_there(engine: Engine, todo: Database) -> None:
    """No error of the database: no row is touched. Where one was expected, that is told."""
    with session_of(engine, BOB) as session:
        assert session.get(Todo, IDS[ALICE]) is None
        hers = update(Todo).where(Todo.id == IDS[ALICE]).values(content="his")
        with pytest.raises(NotVisible):
            rlskit.expect_row(session.execute(hers))
        with pytest.raises(NotVisible):
            rlskit.expect_row(session.execute(text("delete from note where owner like 'a%'")))
        with pytest.raises(TypeError, match="does not know how many rows there are"):
            rlskit.expect_row(session.execute(select(Todo)))

    assert todo.rows("select content from todo where id = 1") == [("alice's",)]


def test_a_row_that_was_given_away_meanwhile_is_stale(engine: Engine, todo: Database) -> None:
    """As for a row that another transaction has deleted: SQLAlchemy counts."""
    with session_of(engine, BOB) as session:
        row = session.get(Todo, IDS[BOB])
        assert row is not None
        with todo.connect() as admin:
            admin.execute("update todo set owner = %s where id = %s", [full(ALICE), IDS[BOB]])
        row.content = "changed"
        with pytest.raises(StaleDataError):
            session.flush()
        session.rollback()
        with pytest.raises(Exception, match="has been deleted, or its row is otherwise not present"):
            _ = row.content

    assert todo.rows("select content from todo where id = 2") == [("bob's",)]
