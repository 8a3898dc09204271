"""An identity rides on a session: in each of its transactions, whatever ended the one before, and in nobody else's."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from rlskit import Identity
from rlskit.errors import (
    IdentityConflictError,
    MissingIdentityError,
    TransactionInProgressError,
)
from rlskit.sqlalchemy import guard, set_identity, set_nobody
from tests.orm.model import CONTENTS, IDS, Note, Todo, asking, contents, engine_of, mine
from tests.support import ALICE, BOB, CAROL, Database, full

Sessions = sessionmaker[Session]


@pytest.fixture
def alices(sessions: Sessions) -> Iterator[Session]:
    with sessions() as session:
        set_identity(session, ALICE)
        yield session


@pytest.fixture
def bobs(sessions: Sessions) -> Iterator[Session]:
    with sessions() as session:
        set_identity(session, BOB)
        yield session


def test_each_session_sees_its_own_and_nobody_sees_nothing(sessions: Sessions) -> None:
    for who in (ALICE, BOB, ALICE):
        with sessions() as session:
            set_identity(session, who)
            assert contents(session) == mine(who)
    with sessions() as session:
        set_nobody(session)
        assert (contents(session), asking(session)) == ([], "")


# --- the identity holds ----------------------------------------------------------------------------------------------


def fail(session: Session) -> None:
    with pytest.raises(DBAPIError):
        session.execute(text("select 1 / 0"))


def failed(session: Session) -> None:
    fail(session)
    session.rollback()


def in_a_block(session: Session) -> None:
    session.rollback()
    with session.begin():
        assert contents(session) == mine(ALICE)


def savepoint_released(session: Session) -> None:
    with session.begin_nested():
        session.add(Todo(content="kept"))
    session.delete(session.scalars(select(Todo).filter_by(content="kept")).one())
    session.flush()


def savepoint_rolled_back(session: Session) -> None:
    nested = session.begin_nested()
    session.add(Todo(content="undone"))
    session.flush()
    nested.rollback()


def failed_in_a_savepoint(session: Session) -> None:
    with pytest.raises(DBAPIError), session.begin_nested():
        session.execute(text("select 1 / 0"))


def retried_in_a_savepoint(session: Session) -> None:
    """The first statement of the session is a savepoint, and its key is taken."""
    session.rollback()
    for content in ("alice's", "retried"):
        try:
            with session.begin_nested():
                session.add(Todo(content=content))
        except IntegrityError:
            assert asking(session) == ALICE.sub
    assert session.execute(delete(Todo).filter_by(content="retried")).rowcount == 1


def failed_flush(session: Session) -> None:
    session.add(Todo(content="alice's"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()


def invalidated(session: Session) -> None:
    session.connection().invalidate()
    with pytest.raises(PendingRollbackError):
        contents(session)
    session.rollback()


def cut(session: Session) -> None:
    with pytest.raises(OperationalError):
        session.execute(text("select pg_terminate_backend(pg_backend_pid())"))
    session.rollback()


ENDINGS: dict[str, Callable[[Session], object]] = {
    "commit": Session.commit,
    "rollback": Session.rollback,
    "close": Session.close,
    "reset": Session.reset,
    "expunge": Session.expunge_all,
    "a failed statement": failed,
    "a failed flush": failed_flush,
    "begin()": in_a_block,
    "a savepoint": savepoint_released,
    "a savepoint rolled back": savepoint_rolled_back,
    "a savepoint that failed": failed_in_a_savepoint,
    "a retry in a savepoint": retried_in_a_savepoint,
    "an invalid connection": invalidated,
    "a connection that is cut": cut,
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_identity_survives(how: str, alices: Session) -> None:
    assert contents(alices) == mine(ALICE)
    for _ in range(2):
        ENDINGS[how](alices)
        assert (asking(alices), contents(alices)) == (ALICE.sub, mine(ALICE))


@pytest.mark.parametrize("how", ENDINGS)
def test_the_next_session_of_the_connection_is_its_own(how: str, alices: Session, sessions: Sessions) -> None:
    assert contents(alices) == mine(ALICE)
    ENDINGS[how](alices)
    alices.close()
    with sessions() as session:
        set_identity(session, BOB)
        assert (asking(session), contents(session)) == (BOB.sub, mine(BOB))


def test_a_session_block_commits(sessions: Sessions, todo: Database) -> None:
    with sessions.begin() as session:
        set_identity(session, CAROL)
        session.add(Todo(content="milk"))

    assert todo.rows("select owner from todo where content = 'milk'") == [(full(CAROL),)]


# --- whatever is asked -----------------------------------------------------------------------------------------------


def writes(session: Session) -> None:
    row = Todo(content="written", notes=[Note(text="a note")])
    session.add(row)
    session.flush()
    assert (row.owner, row.notes[0].owner) == (full(BOB), full(BOB))  # fetched
    session.refresh(row)
    session.commit()
    assert [note.text for note in row.notes] == ["a note"]  # loaded lazily, in another transaction
    session.expire(row)
    assert row.content == "written"
    session.delete(row.notes[0])
    session.delete(row)
    session.commit()


def writes_many(session: Session) -> None:
    rows = [Todo(content=f"{number}") for number in range(1200)]  # insertmanyvalues, in two batches
    session.add_all(rows)
    session.flush()
    assert {row.owner for row in rows} == {full(BOB)}
    owners = session.scalars(insert(Todo).returning(Todo.owner), [{"content": "a"}, {"content": "b"}]).all()
    assert owners == [full(BOB)] * 2
    session.bulk_save_objects([Todo(content="c")])
    session.bulk_insert_mappings(Todo.__mapper__, [{"content": "d"}])
    session.rollback()


def streams(session: Session) -> None:
    for options in ({"yield_per": 2}, {"stream_results": True}, {"stream_results": True, "max_row_buffer": 1}):
        found = session.execute(CONTENTS, execution_options=options)
        assert found.scalars().all() == mine(BOB)
    with session.scalars(select(func.generate_series(1, 5000)).execution_options(yield_per=10)) as partly:
        assert next(iter(partly)) == 1  # and the rest is not read


def locks(session: Session) -> None:
    assert session.scalars(CONTENTS.with_for_update()).all() == mine(BOB)
    assert session.get(Todo, IDS[ALICE], with_for_update=True) is None


def merges(session: Session) -> None:
    """Alice's row is not there for bob, so it is inserted; and its key is taken."""
    session.merge(Todo(id=IDS[ALICE], content="stolen"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()
    merged = session.merge(Todo(id=IDS[BOB], content="merged"))
    session.flush()
    assert merged.owner == full(BOB)
    session.rollback()


def flushes_by_itself(session: Session) -> None:
    session.add(Todo(content="pending"))
    assert contents(session) == ["bob's", "pending"]
    session.rollback()


def changes_all(session: Session) -> None:
    assert session.execute(update(Todo).values(content=Todo.content + "!")).rowcount == 1
    assert session.execute(delete(Note)).rowcount == 1
    session.rollback()


def asks_the_driver(session: Session) -> None:
    raw: Any = session.connection().connection.driver_connection
    assert raw.execute("select content from todo").fetchall() == [("bob's",)]
    with session.connection().connection.cursor() as cursor:
        assert cursor.execute("select current_setting('rlskit.sub')").fetchone() == (BOB.sub,)


def asks_the_connection(session: Session) -> None:
    assert contents(session.connection()) == mine(BOB)
    assert session.connection().exec_driver_sql("select content from todo").scalars().all() == mine(BOB)


WORK = (
    *(writes, writes_many, streams, locks, merges, flushes_by_itself, changes_all),
    *(asks_the_driver, asks_the_connection),
)


@pytest.mark.parametrize("work", WORK)
def test_whatever_a_session_does_is_its_owners(work: Callable[[Session], None], bobs: Session, todo: Database) -> None:
    work(bobs)
    work(bobs)

    bobs.close()
    assert todo.rows("select content, owner from todo order by id limit 1") == [("alice's", full(ALICE))]
    assert todo.rows("select count(*) from todo") == [(2,)]


def test_the_actor_and_the_role_are_told(sessions: Sessions, todo: Database) -> None:
    group = f"{todo.name}_group"
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"create role {group}")
        admin.execute(f"grant {group} to {todo.app}")
    try:
        with sessions() as session:
            set_identity(session, ALICE, actor=BOB, role=group)
            for _ in range(2):
                row = session.execute(text("select current_user::text, rlskit.actor()")).one()
                assert tuple(row) == (group, full(BOB))
                session.commit()
        with sessions() as session:
            set_nobody(session)
            assert session.scalar(text("select current_user::text || coalesce(rlskit.actor(), '')")) == todo.app
    finally:
        with todo.connect(autocommit=True) as admin:
            admin.execute(f"drop role {group}")


LISTENER = """
import sys
import psycopg
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

@event.listens_for(Session, "after_begin")
def after_begin(session, transaction, connection):
    print(connection.scalar(text("select current_setting('rlskit.sub', true)")))

from rlskit import Identity
from rlskit.sqlalchemy import guard, set_identity

engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(sys.argv[1]))
guard(engine)
with Session(engine) as session:
    set_identity(session, Identity(sub="a1f0"))
    session.connection()
engine.dispose()
"""


def test_what_an_application_does_at_the_beginning_is_asked_with_the_identity(todo: Database) -> None:
    """Its listener was there before rlskit's."""
    done = subprocess.run([sys.executable, "-c", LISTENER, todo.app_dsn], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == (f"{ALICE.sub}\n", "")


# --- one identity for each session -----------------------------------------------------------------------------------


def test_another_identity_in_a_session_is_refused_and_the_same_is_not(alices: Session) -> None:
    """Also after its end: its identity map holds her rows."""
    hers = alices.get(Todo, IDS[ALICE])
    for ending in (lambda: None, alices.commit, alices.close):
        ending()
        set_identity(alices, Identity(sub="a1f0", username="alice", claims={"email": "alice@example.com"}))
        with pytest.raises(IdentityConflictError) as caught:
            set_identity(alices, BOB)
        for other in ({"actor": BOB}, {"role": "postgres"}):
            with pytest.raises(IdentityConflictError):
                set_identity(alices, ALICE, **other)  # type: ignore[arg-type]
        with pytest.raises(IdentityConflictError):
            set_nobody(alices)
        assert contents(alices) == mine(ALICE)

    assert hers is not None
    assert str(caught.value) == (
        "somebody else asks through this session already\nhint: make a new session, or connection, for each identity"
    )


def test_nobody_stays_nobody(sessions: Sessions) -> None:
    with sessions() as session:
        set_nobody(session)
        set_nobody(session)
        with pytest.raises(IdentityConflictError):
            set_identity(session, ALICE)
        assert contents(session) == []


WRONG = [
    (lambda session: set_identity(session, None), "`set_identity` needs an Identity"),
    (lambda session: set_identity(session, "alice"), "`set_identity` needs an Identity"),
    (lambda session: set_identity(session, {"sub": "a1f0"}), "`set_identity` needs an Identity"),
    (lambda session: set_identity(session, ALICE, actor="bob"), "`actor` is no Identity"),
    (lambda session: set_identity(session, ALICE, role="no\0name"), "role"),
    (lambda session: set_identity(session.get_bind(), ALICE), "`Engine` is neither a session nor a connection"),
    (lambda session: set_nobody(session.get_bind().pool), "`QueuePool` is neither a session nor a connection"),
    (lambda session: set_nobody(None), "`NoneType` is neither a session nor a connection"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_identity_and_no_session_is_refused(wrong: Any, message: str, sessions: Sessions) -> None:
    with sessions() as session:
        with pytest.raises(Exception, match=message) as caught:
            wrong(session)
        assert getattr(caught.value, "code", "")[:2] in ("E3", "E1")
        set_identity(session, ALICE)
        session.rollback()
        assert contents(session) == mine(ALICE)


# --- without an identity ---------------------------------------------------------------------------------------------


def test_a_transaction_without_an_identity_is_refused_and_so_is_its_next_statement(sessions: Sessions) -> None:
    with sessions() as session:
        for _ in range(2):
            for _ in range(2):
                with pytest.raises(MissingIdentityError) as caught:
                    contents(session)
            with pytest.raises(MissingIdentityError):
                session.execute(text("select 1"))
            session.rollback()

    assert str(caught.value) == (
        "nobody said who is asking\n"
        "hint: rlskit.sqlalchemy.set_identity(session, identity), or set_nobody(session) for a guest;"
        " migrations have an engine of their own"
    )


NAMELESS: dict[str, Callable[[Session], object]] = {
    "add": lambda session: (session.add(Todo(content="x")), session.flush()),
    "get": lambda session: session.get(Todo, IDS[ALICE]),
    "bulk": lambda session: session.bulk_save_objects([Todo(content="x")]),
    "merge": lambda session: session.merge(Todo(id=1)),
    "connection": lambda session: contents(session.connection()),
    "savepoint": lambda session: session.begin_nested() and contents(session),
    "stream": lambda session: session.execute(CONTENTS.execution_options(yield_per=1)).all(),
}


@pytest.mark.parametrize("what", NAMELESS)
def test_whatever_is_asked_without_an_identity_is_refused(what: str, sessions: Sessions, todo: Database) -> None:
    with sessions() as session, pytest.raises(MissingIdentityError):
        NAMELESS[what](session)

    assert todo.rows("select count(*) from todo") == [(2,)]


def test_an_identity_that_comes_too_late_is_for_the_next_transaction(sessions: Sessions) -> None:
    with sessions() as session:
        with pytest.raises(MissingIdentityError):
            contents(session)
        with pytest.raises(TransactionInProgressError) as caught:
            set_identity(session, ALICE)
        session.rollback()
        session.begin()
        set_identity(session, ALICE)
        assert contents(session) == mine(ALICE)

    assert caught.value.message == "a transaction has begun already, and nobody asked in it"


def test_where_none_is_required_it_is_nobody_who_asks(engine: Engine, sessions: Sessions) -> None:
    guard(engine, require_identity=False)
    with sessions() as session:
        assert (contents(session), asking(session)) == ([], "")
        with pytest.raises(DBAPIError) as caught:
            session.execute(insert(Todo).values(content="nobody's"))
        assert getattr(caught.value.orig, "code", None) == "E501"
    with sessions() as session:
        assert contents(session) == []
        with pytest.raises(TransactionInProgressError):
            set_identity(session, ALICE)
        assert contents(session) == []
        session.commit()
        session.begin()
        set_identity(session, ALICE)
        assert contents(session) == mine(ALICE)


def test_a_session_without_a_guard_has_its_identity_all_the_same(todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    with Session(engine) as session:
        assert contents(session) == []
    for who in (ALICE, BOB):
        with Session(engine) as session:
            set_identity(session, who)
            assert contents(session) == mine(who)
            session.commit()
            assert contents(session) == mine(who)
    with Session(engine) as session:
        assert contents(session) == []
    engine.dispose()


# --- several at once -------------------------------------------------------------------------------------------------


def test_a_scoped_session_is_each_threads_own(sessions: Sessions) -> None:
    registry = scoped_session(sessions)
    seen: dict[str, list[str | None]] = {}
    both = threading.Barrier(2, timeout=20)

    def work(who: Identity) -> None:
        try:
            both.wait()
            set_identity(registry, who)
            for _ in range(10):
                seen.setdefault(who.sub, []).extend(contents(registry()))
                registry.commit()
        finally:
            registry.remove()

    threads = [threading.Thread(target=work, args=[who]) for who in (ALICE, BOB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert seen == {ALICE.sub: ["alice's"] * 10, BOB.sub: ["bob's"] * 10}
    with pytest.raises(MissingIdentityError):
        contents(registry())
    registry.remove()


def test_a_removed_scoped_session_takes_its_identity_along(sessions: Sessions) -> None:
    registry = scoped_session(sessions)
    for who in (ALICE, BOB):
        set_identity(registry, who)
        assert contents(registry()) == mine(who)
        registry.remove()
    set_nobody(registry)
    assert contents(registry()) == []
    registry.remove()


def test_each_engine_of_a_session_hears_the_identity(todo: Database) -> None:
    engines = [engine_of(todo.app_dsn) for _ in range(2)]
    sessions = sessionmaker(binds={Todo: engines[0], Note: engines[1]})
    guard(sessions)
    with sessions() as session:
        set_identity(session, ALICE)
        for _ in range(2):
            assert contents(session) == mine(ALICE)
            assert session.scalars(select(Note.text)).all() == ["of alice"]
            session.commit()
    with sessions() as session:
        set_identity(session, BOB)
        found = session.get(Todo, IDS[BOB])
        assert found is not None
        assert [note.text for note in found.notes] == ["of bob"]
    with sessions() as session, pytest.raises(MissingIdentityError):
        session.scalars(select(Note.text)).all()
    for each in engines:
        each.dispose()


@pytest.mark.parametrize(
    ("pool", "number"), [({}, 150), ({"poolclass": NullPool}, 20)], ids=["one connection", "no pool"]
)
def test_interleaved_sessions_never_share_an_identity(pool: dict[str, Any], number: int, todo: Database) -> None:
    """Commits, rollbacks, savepoints and errors, by people who come and go."""
    engine = engine_of(todo.app_dsn, **pool)
    sessions = sessionmaker(engine)
    guard(sessions)
    chance = random.Random(7)
    people = (ALICE, BOB, None)
    live: dict[Identity | None, Session] = {}
    for _ in range(number):
        who = chance.choice(people)
        session = live.get(who) or live.setdefault(who, sessions())
        set_identity(session, who) if who else set_nobody(session)
        expected = mine(who) if who else []
        if chance.random() < 0.3:
            with session.begin_nested() as nested:
                assert contents(session) == expected
                if chance.random() < 0.5:
                    nested.rollback()
        if chance.random() < 0.2:
            fail(session)
        else:
            assert (asking(session), contents(session)) == (who.sub if who else "", expected)
        chance.choice([session.commit, session.rollback, session.close])()
        if chance.random() < 0.2:
            live.pop(who).close()
    for session in live.values():
        session.close()
    engine.dispose()


def test_many_threads_on_one_connection_never_share_an_identity(todo: Database) -> None:
    engine = engine_of(todo.app_dsn)
    sessions = sessionmaker(engine)
    guard(sessions)
    wrong: list[Any] = []
    done: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            who = chance.choice((ALICE, BOB))
            with sessions() as session:
                set_identity(session, who)
                if (seen := contents(session)) != mine(who):
                    wrong.append((who.sub, seen))
                if chance.random() < 0.2:
                    fail(session)
                elif chance.random() < 0.2:
                    cut(session)
                else:
                    session.commit()
                    if (heard := asking(session)) != who.sub:
                        wrong.append((who.sub, heard))
                done.append(1)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    engine.dispose()

    assert (wrong, len(done)) == ([], 90)
