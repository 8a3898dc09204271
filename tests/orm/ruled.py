"""An application's models with their rules beside them, for the tests of what the ORM does under them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Column, ForeignKey, MetaData, Table, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlmodel import Field, SQLModel

from rlskit import Open, Rules, TableRules, allow
from rlskit.sqlalchemy import column_rules, rules_from


class Base(DeclarativeBase):
    """What the application maps."""


class Todo(Base):
    """Its owner is missing, and may not be written; a column has another name; one is for writing alone, and one for reading."""

    __tablename__ = "todo"
    __rls__ = TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")})
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column("content")
    secret: Mapped[str | None] = mapped_column(info=column_rules(allow.same().to("create", "update", "delete")))
    made: Mapped[datetime | None] = mapped_column(
        server_default=func.now(), info=column_rules(allow.same().to("read", "delete"))
    )
    checked: Mapped[str | None] = mapped_column(info=column_rules(allow.same().to("read", "delete")))
    notes: Mapped[list[Note]] = relationship(back_populates="todo", order_by="Note.id")


class Note(Base):
    """Its unreadable column is filled by the server, which the ORM would like to hear of; nobody may set it."""

    __tablename__ = "note"
    __rls__ = allow.owner()
    id: Mapped[int] = mapped_column(primary_key=True)
    todo_id: Mapped[int] = mapped_column(ForeignKey(Todo.id))
    text: Mapped[str | None]
    score: Mapped[str | None] = mapped_column(
        server_default="7", deferred=True, deferred_group="more", info=column_rules(allow.same().to("delete"))
    )
    link: Mapped[str | None] = mapped_column(deferred=True, deferred_group="more")
    todo: Mapped[Todo] = relationship(back_populates="notes")


class Article(Base):
    """Only its owner sets the price; the database has a default for it that the model does not know."""

    __tablename__ = "article"
    __rls__ = (allow.owner(), allow.owners_defined_in("editors"))
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int | None] = mapped_column(
        info=column_rules(allow.owner(), allow.owners_defined_in("editors").to("read", "delete"))
    )


class Message(Base):
    """Whoever writes it cannot read it again."""

    __tablename__ = "message"
    __rls__ = (allow.owner_defined_in("sender").to("create"), allow.owner_defined_in("recipient").to("read", "delete"))
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    body: Mapped[str | None]
    sender: Mapped[str | None] = mapped_column(Text)
    recipient: Mapped[str | None] = mapped_column(Text)


class Employee(Base):
    """A base class, with the rules of the one that shares its table."""

    __tablename__ = "employee"
    __rls__ = allow.owner()
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    salary: Mapped[str | None] = mapped_column(info=column_rules(allow.same().to("create", "delete")))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}  # noqa: RUF012


class Temp(Employee):
    """In the table of its base class."""

    until: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "temp"}  # noqa: RUF012


class Manager(Employee):
    """In a table of its own, with rules and an owner of its own."""

    __tablename__ = "manager"
    __rls__ = allow.owner()
    id: Mapped[int] = mapped_column(ForeignKey(Employee.id), primary_key=True)
    car: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Ledger(Base):
    """In another schema."""

    __tablename__ = "ledger"
    __table_args__ = {"schema": "app"}  # noqa: RUF012
    __rls__ = allow.owner()
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


COUNTRY = Table(
    "country", Base.metadata, Column("code", Text, primary_key=True), info={"rls": Open(reason="reference data")}
)


class Local(SQLModel):
    """SQLModel's classes, with a MetaData of the test's own."""

    metadata = MetaData()


class Hero(Local, table=True):
    """The same with SQLModel."""

    __tablename__ = "hero"
    __rls__ = allow.owner()
    id: int | None = Field(default=None, primary_key=True)
    name: str
    secret_name: str | None = Field(
        default=None, sa_column_kwargs={"info": column_rules(allow.same().to("create", "update", "delete"))}
    )


TABLES = ["note", "todo", "article", "message", "manager", "employee", "app.ledger", "country", "hero"]


def rules_for(role: str) -> Rules:
    """The rules of all of them."""
    ours, local = rules_from(Base, role=role), rules_from(Local, role=role)
    return Rules(*ours.tables, *local.tables, role=role)
