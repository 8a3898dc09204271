"""What may be asked. No statement says whose rows it means: the database knows who asks."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Depends
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlskit import Identity, expect_row
from todo_app.auth import caller
from todo_app.database import Database, GuestDatabase, row, rows

router = APIRouter()

Text = Annotated[str, Field(min_length=1, max_length=500)]


class Body(BaseModel):
    """What a client sends: a field that it may not name, such as the owner, is a mistake and not overlooked."""

    model_config = ConfigDict(extra="forbid")


class Change(Body):
    """Some fields of a row. Only those that the client sent are written, so a default here stands for nothing but `left out`."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name a field to change")
        return self


# --- everybody -----------------------------------------------------------------------------------------------------


class Category(BaseModel):
    """What a todo may be about."""

    name: str


class Person(BaseModel):
    """The caller, as others name him to share something."""

    sub: str
    username: str | None


@router.get("/categories")
async def list_categories(db: GuestDatabase) -> list[Category]:
    """For guests as well: no token is asked for."""
    return await rows(db, Category, "select name from category order by name")


@router.get("/me")
async def read_me(identity: Annotated[Identity, Depends(caller)]) -> Person:
    """Who the token says that one is."""
    return Person(sub=identity.sub, username=identity.username)


# --- todos, which are their owner's alone --------------------------------------------------------------------------


class Todo(BaseModel):
    """A todo, as its owner sees it."""

    id: int
    content: str
    done: bool
    category: str | None


class NewTodo(Body):
    """What a todo is made of. Its owner is whoever asks."""

    content: Text
    category: str | None = None


class TodoChange(Change):
    """What of a todo is to change."""

    content: Text = ""
    done: bool = False
    category: str | None = None


@router.get("/todos")
async def list_todos(db: Database, after: int = 0) -> list[Todo]:
    """The first hundred after the one with this id."""
    query = "select id, content, done, category from todo where id > %s order by id limit 100"
    return await rows(db, Todo, query, [after])


@router.post("/todos", status_code=201)
async def create_todo(new: NewTodo, db: Database) -> Todo:
    """The owner is the column's default: rlskit.identity()."""
    query = "insert into todo (content, category) values (%s, %s) returning id, content, done, category"
    return await row(db, Todo, query, [new.content, new.category])


@router.get("/todos/{id}")
async def read_todo(id: int, db: Database) -> Todo:
    """404 for another's, as for one that is not there."""
    return await row(db, Todo, "select id, content, done, category from todo where id = %s", [id])


@router.patch("/todos/{id}")
async def change_todo(id: int, change: TodoChange, db: Database) -> Todo:
    """Changes the fields that the client sent."""
    query = sql.SQL("update todo set {} where id = %(id)s returning id, content, done, category")
    return await row(db, Todo, query.format(assignments(change)), {"id": id, **change.model_dump(exclude_unset=True)})


@router.delete("/todos/{id}", status_code=204)
async def delete_todo(id: int, db: Database) -> None:
    """PostgreSQL raises nothing where no row is touched: expect_row does."""
    expect_row(await db.execute("delete from todo where id = %s", [id]))


# --- checklists, which their owner may share -----------------------------------------------------------------------


class Checklist(BaseModel):
    """A checklist, as its owner and its editors see it."""

    id: int
    title: str
    entries: list[str]
    owner: str
    editors: list[str]


class NewChecklist(Body):
    """What a checklist is made of."""

    title: Text
    entries: list[Text] = []


class ChecklistChange(Change):
    """What of a checklist is to change. An editor who sends a title gets a 403: the column's rule says so, and no line of this file."""

    title: Text = ""
    entries: list[Text] = []


@router.get("/checklists")
async def list_checklists(db: Database, after: int = 0) -> list[Checklist]:
    """One's own, and those that others share."""
    query = (
        "select id, title, entries, rlskit.username_of(owner) as owner, editors"
        " from checklist where id > %s order by id limit 100"
    )
    return await rows(db, Checklist, query, [after])


@router.post("/checklists", status_code=201)
async def create_checklist(new: NewChecklist, db: Database) -> Checklist:
    """Nobody edits it yet but its owner."""
    query = (
        "insert into checklist (title, entries) values (%s, %s)"
        " returning id, title, entries, rlskit.username_of(owner) as owner, editors"
    )
    return await row(db, Checklist, query, [new.title, new.entries])


@router.get("/checklists/{id}")
async def read_checklist(id: int, db: Database) -> Checklist:
    """404 for one that nobody shared with the caller."""
    query = "select id, title, entries, rlskit.username_of(owner) as owner, editors from checklist where id = %s"
    return await row(db, Checklist, query, [id])


@router.patch("/checklists/{id}")
async def change_checklist(id: int, change: ChecklistChange, db: Database) -> Checklist:
    """Names only the columns that the client sent, so that an editor who sends entries asks for nothing that is not his."""
    query = sql.SQL(
        "update checklist set {} where id = %(id)s"
        " returning id, title, entries, rlskit.username_of(owner) as owner, editors"
    )
    return await row(
        db, Checklist, query.format(assignments(change)), {"id": id, **change.model_dump(exclude_unset=True)}
    )


@router.delete("/checklists/{id}", status_code=204)
async def delete_checklist(id: int, db: Database) -> None:
    """404 for an editor too: of a row that may be read and not deleted, the database says that it touched none."""
    expect_row(await db.execute("delete from checklist where id = %s", [id]))


@router.put("/checklists/{id}/editors/{sub}")
async def share_checklist(id: int, sub: str, db: Database) -> Checklist:
    """Adds to the list as it is stored, so that two who share at once do not undo each other's work."""
    query = (
        "update checklist set editors = array_append(array_remove(editors, %(sub)s), %(sub)s) where id = %(id)s"
        " returning id, title, entries, rlskit.username_of(owner) as owner, editors"
    )
    return await row(db, Checklist, query, {"id": id, "sub": sub})


@router.delete("/checklists/{id}/editors/{sub}")
async def unshare_checklist(id: int, sub: str, db: Database) -> Checklist:
    """Takes it from an editor again."""
    query = (
        "update checklist set editors = array_remove(editors, %(sub)s) where id = %(id)s"
        " returning id, title, entries, rlskit.username_of(owner) as owner, editors"
    )
    return await row(db, Checklist, query, {"id": id, "sub": sub})


def assignments(change: Change) -> sql.Composed:
    """``content = %(content)s, done = %(done)s`` for the fields that the client sent; the names are the model's, and quoted besides."""
    sent = sorted(change.model_fields_set)
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in sent)
