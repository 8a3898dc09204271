"""The application as a command: ``python -m todos 5d1c::alice add milk``."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

import rlskit
from rlskit import Identity
from rlskit.errors import RlskitError
from todos import use_cases
from todos.database import asking, sessions_at

COMMANDS = [
    "categories",
    "add content",
    "list",
    "finish id",
    "write title text",
    "notes",
    "edit id text",
    "retitle id title",
    "share id coauthor",
]
DATABASE_URL = "postgresql+psycopg://todo_app@/todo"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say, in one transaction; print what came of it, or why it was refused."""
    arguments = parser().parse_args(argv)
    sessions = sessions_at(os.environ.get("DATABASE_URL", DATABASE_URL))
    try:
        with asking(sessions, arguments.who) as session:
            lines = list(answer(session, arguments))
    except RlskitError as error:
        return refused(error)
    except IntegrityError:
        print("refused: there is no such category", file=sys.stderr)
        return 1
    except DBAPIError as error:
        denied = rlskit.denial(error)
        if denied is None:
            raise
        return refused(denied)
    finally:
        sessions.kw["bind"].dispose()
    print(*lines, sep="\n", end="\n" if lines else "")
    return 0


def refused(error: RlskitError) -> int:
    """Say why, without a value of anybody's row."""
    print(f"refused: {error.code} {error}", file=sys.stderr)
    return 1


def answer(session: Session, arguments: Namespace) -> Iterator[str]:
    """Do the one thing, and give the lines that tell of it."""
    match arguments.command:
        case "categories":
            yield from use_cases.categories(session)
        case "add":
            yield f"todo {use_cases.add_todo(session, arguments.content, arguments.category, arguments.step).id}"
        case "list":
            for todo in use_cases.todos(session):
                yield f"{todo.id} {'done' if todo.done else 'open'} {todo.content}"
                yield from (f"  {step.content}" for step in todo.steps)
        case "finish":
            use_cases.finish_todo(session, arguments.id)
        case "write":
            yield f"note {use_cases.write_note(session, arguments.title, arguments.text).id}"
        case "notes":
            yield from (f"{note.id} {note.title}: {note.text}" for note in use_cases.notes(session))
        case "edit":
            use_cases.edit_note(session, arguments.id, arguments.text)
        case "retitle":
            use_cases.retitle_note(session, arguments.id, arguments.title)
        case "share":
            use_cases.share_note(session, arguments.id, arguments.coauthor)


def parser() -> ArgumentParser:
    """The words of the command line."""
    words = ArgumentParser(prog="todos", description="Todos of one's own, and notes that are shared.")
    # Here whoever calls says who he is. Where there is a login, this is what a verified token says: Identity.from_claims(…).
    words.add_argument("who", type=person, help="<sub>::<username>")
    commands = words.add_subparsers(dest="command", required=True)
    kinds: dict[str, Callable[[str], object]] = {"id": int, "coauthor": person}
    for line in COMMANDS:
        name, *places = line.split()
        command = commands.add_parser(name)
        for place in places:
            command.add_argument(place, type=kinds.get(place, str))
    commands.choices["add"].add_argument("--category")
    commands.choices["add"].add_argument("--step", action="append", default=[])
    return words


def person(text: str) -> Identity:
    """Who is spelled so, as an owner column spells him."""
    sub, _, username = text.partition("::")
    return Identity(sub=sub, username=username)


if __name__ == "__main__":
    sys.exit(main())
