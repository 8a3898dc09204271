"""What the ORM does under column privileges, through the application's login: nothing that it may not, and all that it may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Integer, MetaData, Text, func, insert, inspect, select, update
from sqlalchemy.exc import InvalidRequestError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    declarative_base,
    joinedload,
    mapped_column,
    selectinload,
    sessionmaker,
    subqueryload,
    undefer,
    undefer_group,
)

from rlskit import Identity, Rules, TableDenied, TableRules, allow, plan
from rlskit.sqlalchemy import column_rules, guard, readable_columns, rules_from, set_identity, writable_columns
from tests.orm import ruled
from tests.orm.model import async_engine_of, engine_of
from tests.orm.ruled import COUNTRY, Article, Employee, Hero, Ledger, Manager, Message, Note, Temp, Todo
from tests.support import ALICE, BOB, Database, Server, fresh_database, full

Sessions = sessionmaker[Session]


def make(database: Database, rules: Rules, *metadata: MetaData) -> None:
    """The tables, as their owner, and the rules."""
    engine = engine_of(database.owner_dsn)
    for each in metadata:
        each.create_all(engine)
    engine.dispose()
    with database.connect_as_owner() as conn:
        plan(conn, rules).apply(conn)


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Database]:
    with fresh_database(server, "models") as database:
        database.execute("create schema app")
        make(database, ruled.rules_for(database.app), ruled.Base.metadata, ruled.Local.metadata)
        database.execute("alter table article alter price set default 10")
        with database.connect() as conn:
            conn.execute("insert into country values ('is')")
        database.connect_as_app().close()  # an ordinary login, or it fails
        yield database


@pytest.fixture(scope="module")
def rules(made: Database) -> Rules:
    return ruled.rules_for(made.app)


@pytest.fixture(scope="module")
def engine(made: Database) -> Iterator[Engine]:
    engine = engine_of(made.app_dsn, pool_size=2)
    guard(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(made: Database, engine: Engine) -> Iterator[Sessions]:
    yield sessionmaker(engine)
    with made.connect() as conn:
        conn.execute("truncate todo, note, article, message, employee, manager, app.ledger, hero")


def session_of(sessions: Sessions, who: Identity) -> Session:
    session = sessions()
    set_identity(session, who)
    return session


@pytest.fixture
def alices(sessions: Sessions) -> Iterator[Session]:
    with session_of(sessions, ALICE) as session:
        yield session


@pytest.fixture
def bobs(sessions: Sessions) -> Iterator[Session]:
    with session_of(sessions, BOB) as session:
        yield session


def test_what_is_written_beside_models_is_what_the_database_has(made: Database, rules: Rules) -> None:
    with made.connect_as_owner() as conn:
        changes = plan(conn, rules)

    assert list(changes) == []


# --- insert ----------------------------------------------------------------------------------------------------------


def test_a_new_row_has_its_owner_from_the_database(alices: Session) -> None:
    todo = Todo(text="milk", secret="hush")
    alices.add(todo)
    alices.flush()

    assert (todo.owner, todo.made is not None, todo.checked) == (full(ALICE), True, None)
    assert (todo.text, todo.secret) == ("milk", "hush")  # what was said is known, until it has to be asked for


def test_its_owner_comes_back_with_the_insert(alices: Session) -> None:
    article = Article(price=3)
    alices.add(article)
    alices.flush()

    assert {"id", "owner", "editors"} - inspect(article).dict.keys() == set()


def test_many_new_rows_come_in_one_statement(alices: Session) -> None:
    alices.add_all([Todo(text="bread"), Todo(text="milk", secret="hush"), Todo()])
    alices.add_all([Article(price=number) for number in range(5)])
    alices.flush()

    assert alices.scalars(select(Todo.text).where(Todo.owner == full(ALICE)).order_by(Todo.text)).all() == [
        "bread",
        "milk",
        None,
    ]
    assert alices.scalars(select(Article.price).order_by(Article.price)).all() == [0, 1, 2, 3, 4]


def test_rows_are_inserted_in_bulk(alices: Session) -> None:
    alices.execute(insert(Todo), [{"text": "milk"}, {"text": "bread"}])
    returned = alices.scalars(insert(Todo).returning(Todo), [{"text": "eggs"}, {"text": "flour"}]).all()

    assert [(each.text, each.owner) for each in returned] == [("eggs", full(ALICE)), ("flour", full(ALICE))]
    assert alices.scalar(select(func.count()).select_from(Todo)) == 4


def test_what_the_server_fills_in_and_nobody_may_read_is_not_asked_back(alices: Session) -> None:
    note = Note(text="of milk", todo=Todo(text="milk"))
    alices.add(note)
    alices.add_all([Note(text=str(number), todo=note.todo) for number in range(3)])
    alices.flush()

    assert (note.owner, note.todo.owner) == (full(ALICE), full(ALICE))


def test_a_column_that_depends_on_the_row_is_left_to_the_database(alices: Session) -> None:
    """Without it the ORM would send NULL, which is not the default, and an editor may not."""
    article = Article(owner=full(BOB), editors=[full(ALICE)])
    alices.add(article)
    alices.flush()

    assert article.price == 10


def test_a_message_is_written_by_whoever_cannot_read_it(alices: Session, bobs: Session) -> None:
    alices.add(Message(body="hello", recipient=full(BOB)))
    alices.add_all([Message(recipient=full(BOB)) for _ in range(3)])
    alices.commit()

    assert alices.scalars(select(Message)).all() == []
    assert [each.sender for each in bobs.scalars(select(Message).where(Message.body == "hello"))] == [full(ALICE)]


def test_what_may_not_be_written_is_refused_by_the_database(alices: Session) -> None:
    alices.add(Todo(owner=full(BOB)))
    with pytest.raises(ProgrammingError) as caught:
        alices.flush()

    assert isinstance(caught.value.orig, TableDenied)  # PostgreSQL does not say which column


# --- update ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def todo(alices: Session) -> Todo:
    todo = Todo(text="milk", secret="hush", notes=[Note(text="first"), Note(text="second")])
    alices.add(todo)
    alices.commit()
    return todo


def test_a_row_is_changed_and_read_again(alices: Session, todo: Todo, made: Database) -> None:
    todo.text, todo.secret = "bread", "psst"
    alices.commit()

    assert (todo.text, todo.owner) == ("bread", full(ALICE))
    assert made.rows("select content, secret from todo") == [("bread", "psst")]


def test_rows_are_updated_in_bulk(alices: Session, todo: Todo) -> None:
    alices.execute(update(Todo), [{"id": todo.id, "text": "bread"}])
    assert alices.scalars(select(Todo.text)).all() == ["bread"]

    alices.execute(update(Todo).where(Todo.text == "bread").values(text="eggs"))
    assert alices.scalars(update(Todo).values(text=Todo.text + "!").returning(Todo)).one().text == "eggs!"


@pytest.mark.parametrize("way", ["known", "new to the session"])
def test_a_row_is_merged(alices: Session, todo: Todo, way: str) -> None:
    number = todo.id
    if way == "new to the session":
        alices.expunge_all()
    merged = alices.merge(Todo(id=number, text="bread", owner=full(ALICE)))
    alices.commit()

    assert (merged.text, merged.owner) == ("bread", full(ALICE))


def test_a_row_that_is_not_there_is_merged_as_a_new_one(alices: Session) -> None:
    merged = alices.merge(Todo(text="bread", secret="hush"))
    alices.commit()

    assert (merged.text, merged.owner) == ("bread", full(ALICE))


def test_what_a_request_brings_is_narrowed_to_what_may_be_written(alices: Session, todo: Todo, rules: Rules) -> None:
    body = {"text": "bread", "secret": "psst", "owner": full(BOB), "made": None, "is_admin": True}
    for name in body.keys() & writable_columns(Todo, rules, "update"):
        setattr(todo, name, body[name])
    alices.flush()

    assert body.keys() - writable_columns(Todo, rules, "update") == {"owner", "made", "is_admin"}
    assert alices.scalars(select(Todo.text)).all() == ["bread"]


def test_a_row_is_deleted_with_what_belongs_to_it(alices: Session, todo: Todo) -> None:
    for each in todo.notes:
        alices.delete(each)
    alices.delete(todo)
    alices.commit()

    assert alices.scalar(select(func.count()).select_from(Todo)) == 0


# --- read ------------------------------------------------------------------------------------------------------------


def test_what_nobody_may_read_is_never_fetched(alices: Session, todo: Todo) -> None:
    def check(found: Todo | None) -> None:
        assert found is not None
        assert found.text == "milk"
        with pytest.raises(InvalidRequestError) as caught:
            _ = found.secret
        assert str(caught.value) == "`tests.orm.ruled.Todo.secret` is not loaded: by the rules nobody may read it"

    check(todo)
    alices.refresh(todo)
    check(todo)
    alices.expire(todo)
    check(todo)
    alices.expunge_all()
    check(alices.get(Todo, todo.id))
    alices.expunge_all()
    check(alices.scalars(select(Todo)).one())


SUBQUERIES = {
    "a subquery": lambda: select(aliased(Todo, select(Todo).subquery())),
    "with a limit": lambda: select(Todo).options(joinedload(Todo.notes)).limit(1),
    "a union": lambda: select(Todo).from_statement(select(Todo).union_all(select(Todo).where(Todo.id < 0))),
}


@pytest.mark.parametrize("what", SUBQUERIES)
def test_nor_inside_of_a_subquery(alices: Session, todo: Todo, what: str) -> None:
    assert [each.text for each in alices.scalars(SUBQUERIES[what]()).unique()] == ["milk"]


def test_nor_by_a_count_of_the_old_kind(alices: Session, todo: Todo) -> None:
    assert alices.query(Todo).count() == 1


@pytest.mark.parametrize("load", [joinedload, selectinload, subqueryload], ids=lambda each: each.__name__)
def test_relationships_are_loaded(alices: Session, todo: Todo, load: Any) -> None:
    alices.expunge_all()
    (found,) = alices.scalars(select(Todo).options(load(Todo.notes))).unique()
    (note, _) = alices.scalars(select(Note).options(load(Note.todo)).order_by(Note.id))

    assert [each.text for each in found.notes] == ["first", "second"]
    assert note.todo is found


def test_relationships_are_loaded_when_they_are_asked_for(alices: Session, todo: Todo) -> None:
    alices.expunge_all()
    (found,) = alices.scalars(select(Todo))

    assert [each.todo.text for each in found.notes] == ["milk", "milk"]


def test_whoever_asks_for_it_by_name_is_refused_by_the_database(alices: Session, todo: Todo) -> None:
    with pytest.raises(ProgrammingError) as caught:
        alices.scalars(select(Todo).options(undefer(Todo.secret))).all()

    assert getattr(caught.value.orig, "sqlstate", None) == "42501"


def test_what_is_loaded_as_a_group_leaves_out_what_nobody_may_read(alices: Session, todo: Todo) -> None:
    alices.add(Note(todo=todo, link="there"))
    alices.commit()

    note = select(Note).where(Note.link == "there")
    assert alices.scalars(note).one().link == "there"
    alices.expunge_all()
    assert alices.scalars(note.options(undefer_group("more"))).one().link == "there"


def test_the_columns_that_may_be_read_are_there_to_select(alices: Session, todo: Todo, rules: Rules) -> None:
    (row,) = alices.execute(select(*readable_columns(Todo, rules)))
    codes = alices.execute(select(*readable_columns(COUNTRY, rules))).all()

    assert (row._fields, row.text) == (("id", "text", "made", "checked", "owner"), "milk")
    assert codes == [("is",)]


# --- inheritance, schemas, SQLModel, asyncio -------------------------------------------------------------------------


def test_a_hierarchy_is_stored_and_read(alices: Session, bobs: Session) -> None:
    alices.add_all([Employee(salary="1"), Temp(until="May", salary="2"), Manager(car="red", salary="3")])
    alices.commit()
    alices.expunge_all()

    found = alices.scalars(select(Employee).order_by(Employee.id)).all()
    assert [type(each) for each in found] == [Employee, Temp, Manager]
    assert [each.owner for each in found] == [full(ALICE)] * 3
    assert [each.car for each in alices.scalars(select(Manager).where(Manager.owner == full(ALICE)))] == ["red"]
    with pytest.raises(InvalidRequestError, match=r"Manager\.salary` is not loaded"):
        _ = found[2].salary
    assert bobs.scalars(select(Employee)).all() == []


def test_a_table_of_another_schema_is_no_exception(alices: Session, bobs: Session) -> None:
    alices.add(Ledger(amount=3))
    alices.commit()

    assert [each.owner for each in alices.scalars(select(Ledger))] == [full(ALICE)]
    assert bobs.scalars(select(Ledger)).all() == []


def test_a_class_of_sqlmodel_is_no_exception(alices: Session, bobs: Session) -> None:
    hero = Hero(name="Deadpond", secret_name="Dive Wilson")
    alices.add(hero)
    alices.commit()

    assert (hero.name, hero.owner) == ("Deadpond", full(ALICE))  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequestError):
        _ = hero.secret_name
    assert bobs.scalars(select(Hero)).all() == []


def test_an_asynchronous_session_is_no_exception(made: Database, sessions: Sessions) -> None:
    async def main() -> tuple[Any, ...]:
        engine = async_engine_of(made.app_dsn)
        guard(engine)
        try:
            async with AsyncSession(engine) as session:
                set_identity(session, ALICE)
                todo = Todo(text="milk", secret="hush", notes=[Note(text="first")])
                session.add(todo)
                await session.commit()
                await session.refresh(todo)
                found = (await session.scalars(select(Note).options(joinedload(Note.todo)))).one()
                return (todo.text, todo.owner, found.todo.text, found.owner)
        finally:
            await engine.dispose()

    assert asyncio.run(main()) == ("milk", full(ALICE), "milk", full(ALICE))


# --- whatever the order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [False, True], ids=["the owner is missing", "the owner is declared"])
def test_rules_may_come_after_the_first_sessions(database: Database, declared: bool) -> None:
    """The mappers were configured, and have remembered what they insert."""
    late = declarative_base()
    body = {
        "__tablename__": "thing",
        "__rls__": TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")}),
        "id": mapped_column(Integer, primary_key=True),
        "mark": mapped_column(Text, info=column_rules(allow.same().to("read", "delete"))),
        "secret": mapped_column(Text, info=column_rules(allow.same().to("create", "delete"))),
    }
    Thing: Any = type("Thing", (late,), body | ({"owner": mapped_column(Text)} if declared else {}))
    owners = engine_of(database.owner_dsn)
    late.metadata.create_all(owners)
    with Session(owners) as session:
        before = Thing(secret="before")
        session.add(before)
        session.commit()
        assert before.secret == "before"
    owners.dispose()
    rules = rules_from(late, role=database.app)
    with database.connect_as_owner() as conn:
        plan(conn, rules).apply(conn)
    engine = engine_of(database.app_dsn)
    guard(engine)
    with Session(engine) as session:
        set_identity(session, ALICE)
        session.add(Thing(secret="hush"))
        session.commit()
        (thing,) = session.scalars(select(Thing).where(Thing.owner == full(ALICE)))

        assert (thing.owner, thing.mark) == (full(ALICE), None)
        with pytest.raises(InvalidRequestError):
            _ = thing.secret
    engine.dispose()


def test_a_key_that_the_application_sets_needs_no_reading(database: Database) -> None:
    class Own(DeclarativeBase):
        pass

    class Vote(Own):
        __tablename__ = "vote"
        __rls__ = allow.owner().to("create")
        ballot: Mapped[str] = mapped_column(primary_key=True)
        choice: Mapped[str]

    make(database, rules_from(Own, role=database.app), Own.metadata)
    engine = engine_of(database.app_dsn)
    guard(engine)
    with Session(engine) as session:
        set_identity(session, ALICE)
        session.add(Vote(ballot=str(uuid4()), choice="yes"))
        session.add_all([Vote(ballot=str(uuid4()), choice="no") for _ in range(3)])
        session.commit()
    engine.dispose()

    assert database.rows("select choice, owner from vote where choice = 'yes'") == [("yes", full(ALICE))]
