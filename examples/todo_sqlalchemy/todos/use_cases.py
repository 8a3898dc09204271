"""What the application does, in the name of whoever asks through the session. No function says whose rows it means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, selectinload

from rlskit import Identity, expect_row
from todos.models import Category, Note, Step, Todo


def categories(session: Session) -> Sequence[str]:
    """What a todo may be about."""
    return session.scalars(select(Category.name).order_by(Category.name)).all()


def add_todo(session: Session, content: str, category: str | None = None, steps: Iterable[str] = ()) -> Todo:
    """A todo and its steps, which belong to whoever asks."""
    todo = Todo(content=content, category_name=category, steps=[Step(content=each) for each in steps])
    session.add(todo)
    session.flush()
    return todo


def todos(session: Session) -> Sequence[Todo]:
    """One's own, with their steps."""
    return session.scalars(select(Todo).options(selectinload(Todo.steps)).order_by(Todo.id)).all()


def finish_todo(session: Session, id: int) -> None:
    """Raises NotVisible for another's todo, as for one that is not there: PostgreSQL raises nothing, and touches no row."""
    expect_row(session.execute(update(Todo).where(Todo.id == id).values(done=True)))


def write_note(session: Session, title: str, text: str = "") -> Note:
    """A note, which nobody else reads before it is shared."""
    note = Note(title=title, text=text)
    session.add(note)
    session.flush()
    return note


def notes(session: Session) -> Sequence[Note]:
    """One's own, and those that others share."""
    return session.scalars(select(Note).order_by(Note.id)).all()


def edit_note(session: Session, id: int, text: str) -> None:
    """Its owner and its co-authors may. Raises NotVisible."""
    expect_row(session.execute(update(Note).where(Note.id == id).values(text=text)))


def retitle_note(session: Session, id: int, title: str) -> None:
    """Its owner may; a co-author is refused with ColumnDenied. Raises NotVisible."""
    expect_row(session.execute(update(Note).where(Note.id == id).values(title=title)))


def share_note(session: Session, id: int, coauthor: Identity) -> None:
    """Adds to the list as it is stored, so that two who share at once do not undo each other's work. Raises NotVisible."""
    name = coauthor.spellings[0]  # <sub>::<username>
    shared = func.array_append(func.array_remove(Note.coauthors, name), name)
    expect_row(session.execute(update(Note).where(Note.id == id).values(coauthors=shared)))
