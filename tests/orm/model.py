"""An application's model and engines, for the tests of rlskit.sqlalchemy."""

from __future__ import annotations

from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, FetchedValue, ForeignKey, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from rlskit import Identity
from tests.support import ALICE, BOB, Database, full

URL = "postgresql+psycopg://"


class Base(AsyncAttrs, DeclarativeBase):
    """What the application maps."""


class Todo(Base):
    """Something to do; whoever writes it down owns it."""

    __tablename__ = "todo"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str | None] = mapped_column(unique=True)
    owner: Mapped[str | None] = mapped_column(server_default=FetchedValue())
    notes: Mapped[list[Note]] = relationship(order_by="Note.id")


class Note(Base):
    """A remark on it, with an owner of its own."""

    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    todo_id: Mapped[int] = mapped_column(ForeignKey(Todo.id))
    text: Mapped[str | None]
    owner: Mapped[str | None] = mapped_column(server_default=FetchedValue())


TABLES = (
    "create table todo (id serial primary key, content text unique)",
    "create table note (id serial primary key, todo_id int not null references todo, text text)",
    "alter sequence todo_id_seq restart with 1000",
    "alter sequence note_id_seq restart with 1000",
)

# Whose first rows have which ids; each has one note, with the same id.
IDS = {ALICE: 1, BOB: 2}


def fill(database: Database) -> None:
    """One row for alice and one for bob, and nothing else."""
    with database.connect() as conn:
        conn.execute("truncate todo, note")
        for who, number in IDS.items():
            conn.execute("insert into todo values (%s, %s, %s)", (number, f"{who.username}'s", full(who)))
            conn.execute("insert into note values (%s, %s, %s, %s)", (number, number, f"of {who.username}", full(who)))


def options(dsn: str, given: dict[str, Any]) -> dict[str, Any]:
    """Where nothing else is said, a pool of one: whatever is left behind, the next one meets it."""
    pool = {} if "poolclass" in given else {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
    return {**pool, **given, "connect_args": conninfo_to_dict(dsn) | given.get("connect_args", {})}


def engine_of(dsn: str, **given: Any) -> Engine:
    return create_engine(URL, **options(dsn, given))


def async_engine_of(dsn: str, **given: Any) -> AsyncEngine:
    return create_async_engine(URL, **options(dsn, given))


ASKING = select(func.coalesce(func.current_setting("rlskit.sub", True), ""))
CONTENTS = select(Todo.content).order_by(Todo.id)


def contents(asked: Session | Connection) -> list[str | None]:
    """What whoever asks sees."""
    return list(asked.scalars(CONTENTS))


def asking(asked: Session | Connection) -> str:
    """Who asks, as the database has heard it: the sub, or nothing."""
    return str(asked.scalar(ASKING))


def mine(who: Identity) -> list[str]:
    """What ``who`` sees of the first rows."""
    return [f"{who.username}'s"]
