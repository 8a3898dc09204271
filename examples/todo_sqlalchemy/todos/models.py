"""The tables, and beside each who may do what with whose rows."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import ARRAY, ForeignKey, Text, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from rlskit import Open, TableRules, allow
from rlskit.sqlalchemy import column_rules


class Base(DeclarativeBase):
    """What the application maps."""


class Category(Base):
    """What a todo may be about: for everybody to read, and for a migration to write."""

    __tablename__ = "category"
    __rls__ = Open(reason="the same for everybody")
    name: Mapped[str] = mapped_column(primary_key=True)


class Todo(Base):
    """Its owner's alone, for ever: nobody writes the owner, whoever creates a row is it. The column is mapped by `rules_from`."""

    __tablename__ = "todo"
    __rls__ = TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")})
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str]
    done: Mapped[bool] = mapped_column(server_default=text("false"))
    category_name: Mapped[str | None] = mapped_column(ForeignKey(Category.name, ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), info=column_rules(allow.same().to("read", "delete"))
    )
    due: Mapped[date | None]
    category: Mapped[Category | None] = relationship()
    steps: Mapped[list[Step]] = relationship(
        back_populates="todo", order_by="Step.id", cascade="all, delete", passive_deletes=True
    )


class Step(Base):
    """A part of a todo. It is a row of its own, and so says its own rules."""

    __tablename__ = "step"
    __rls__ = TableRules(allow.owner(), columns={"owner": allow.same().to("read", "delete")})
    id: Mapped[int] = mapped_column(primary_key=True)
    todo_id: Mapped[int] = mapped_column(ForeignKey(Todo.id, ondelete="CASCADE"))
    content: Mapped[str]
    todo: Mapped[Todo] = relationship(back_populates="steps")


class Note(Base):
    """A text that its owner may share with co-authors: they read it and write its text, and neither its title nor who else may."""

    __tablename__ = "note"
    __rls__ = TableRules(
        allow.owner(),
        allow.owners_defined_in("coauthors").to("read", "update"),
        columns={
            "owner": allow.same().to("read", "delete"),
            "title": (allow.owner(), allow.owners_defined_in("coauthors").to("read")),
            "coauthors": (allow.owner(), allow.owners_defined_in("coauthors").to("read")),
        },
        match="full",  # <sub>::<username>, which never passes to somebody else
        reassign="never",  # who updates a note stays named by it: sharing gives nothing away
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    text: Mapped[str] = mapped_column(server_default="")
    coauthors: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
