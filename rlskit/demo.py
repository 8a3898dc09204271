"""The seeds' examples on a throwaway PostgreSQL: what alice, bob and nobody do, and what the database answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from rlskit.identity import Identity
from rlskit.planner import plan
from rlskit.rules import Rules, TableRules, allow
from rlskit.server import Running
from rlskit.session import as_nobody, as_user

ALICE = Identity(sub="5d1c", username="alice")
BOB = Identity(sub="77aa", username="bob")
PEOPLE = {"alice": ALICE, "bob": BOB}

RULES = Rules(
    TableRules("todo", allow.owner()),
    TableRules("todo_kept", allow.owner().to("create", "read", "update")),
    TableRules("todo_protected", allow.owner(), columns={"owner": allow.owner().to("read", "delete")}),
    TableRules("post", allow.owner_defined_in("author")),
    TableRules("board", allow.owners_defined_in("owners")),
    TableRules("article", allow.owners_defined_in("authors")),
    role="app_user",
)


@dataclass(frozen=True)
class Scene:
    """One statement: who performs it (alice, bob, nobody or superuser) on which table, what that is in words, and the answer that the rules promise."""

    who: str
    table: str
    says: str
    statement: str
    expected: str


STORY = (
    Scene(
        "alice",
        "todo",
        "adds milk, and names no owner",
        "insert into todo (content) values ('milk') returning owner",
        "1 row: 5d1c::alice",
    ),
    Scene(
        "bob", "todo", "adds bread", "insert into todo (content) values ('bread') returning owner", "1 row: 77aa::bob"
    ),
    Scene("alice", "todo", "reads everything", "select content from todo", "1 row: milk"),
    Scene("bob", "todo", "reads everything", "select content from todo", "1 row: bread"),
    # The very same query without row security: why an application must not connect like this.
    Scene("superuser", "todo", "reads everything", "select content from todo order by content", "2 rows: bread, milk"),
    Scene("nobody", "todo", "reads everything", "select content from todo", "0 rows"),
    Scene(
        "nobody", "todo", "adds tea", "insert into todo (content) values ('tea')", "refused: row-level security policy"
    ),
    Scene(
        "bob",
        "todo",
        "adds beer in alice's name",
        "insert into todo (content, owner) values ('beer', 'alice')",
        "refused: row-level security policy",
    ),
    Scene("bob", "todo", "changes alice's milk", "update todo set content = 'mine' where content = 'milk'", "0 rows"),
    Scene(
        "alice", "todo", "gives her milk to bob", "update todo set owner = '77aa::bob' where content = 'milk'", "1 row"
    ),
    Scene("alice", "todo", "reads everything", "select content from todo", "0 rows"),
    Scene("bob", "todo", "reads everything", "select content from todo order by content", "2 rows: bread, milk"),
    Scene(
        "alice",
        "todo_kept",
        "adds a row",
        "insert into todo_kept (content) values ('keep me') returning owner",
        "1 row: 5d1c::alice",
    ),
    Scene("alice", "todo_kept", "deletes it", "delete from todo_kept", "refused: permission denied"),
    Scene(
        "alice",
        "todo_protected",
        "adds a row",
        "insert into todo_protected (content) values ('mine') returning owner",
        "1 row: 5d1c::alice",
    ),
    Scene(
        "alice",
        "todo_protected",
        "gives it to bob",
        "update todo_protected set owner = '77aa::bob'",
        "refused: permission denied",
    ),
    Scene("alice", "todo_protected", "deletes it", "delete from todo_protected", "1 row"),
    Scene(
        "alice",
        "post",
        "adds a row",
        "insert into post (content) values ('hello') returning author",
        "1 row: 5d1c::alice",
    ),
    Scene("bob", "post", "reads everything", "select content from post", "0 rows"),
    Scene(
        "alice",
        "board",
        "adds a plan",
        "insert into board (content) values ('plan') returning owners",
        "1 row: ['5d1c::alice']",
    ),
    Scene("bob", "board", "reads everything", "select content from board", "0 rows"),
    Scene(
        "alice",
        "board",
        "adds bob to its owners",
        "update board set owners = array_append(owners, '77aa::bob')",
        "1 row",
    ),
    Scene("bob", "board", "reads everything", "select content from board", "1 row: plan"),
    Scene(
        "alice",
        "article",
        "adds a draft",
        "insert into article (content) values ('draft') returning authors",
        "1 row: ['5d1c::alice']",
    ),
    Scene("bob", "article", "deletes it", "delete from article", "0 rows"),
)


def rule_of(table: str) -> str:
    """The rules of one of the demo's tables, as they stand in Python."""
    return next(str(each) for each in RULES.tables if each.name.name == table)


@dataclass(frozen=True)
class Played:
    """A scene and the database's answer."""

    scene: Scene
    answer: str

    @property
    def as_expected(self) -> bool:
        """Whether the database answered as the rules promise."""
        return self.answer == self.scene.expected


def prepare(running: Running) -> None:
    """Create the seeds' tables and an ordinary login on the server, and apply the rules."""
    with psycopg.connect(running.dsn) as conn:
        conn.execute("create role app_user login")
        for table in RULES.tables:
            # What the rules need and a table lacks, the rules bring: here every owner column.
            conn.execute(
                SQL("create table {} (id serial primary key, content text)").format(Identifier(table.name.name))
            )
        conn.commit()
        plan(conn, RULES).apply(conn)


def play(running: Running) -> Iterator[Played]:
    """Perform the story scene by scene, each person through the application's one ordinary login."""
    with _connected(make_conninfo(running.dsn, user="app_user")) as app, _connected(running.dsn) as superuser:
        for scene in STORY:
            if scene.who == "superuser":
                yield Played(scene, _answer(superuser.transaction(), superuser, scene))
            else:
                block = as_user(app, PEOPLE[scene.who]) if scene.who in PEOPLE else as_nobody(app)
                yield Played(scene, _answer(block, app, scene))


@contextmanager
def _connected(dsn: str) -> Iterator[Connection[tuple[Any, ...]]]:
    with psycopg.connect(dsn, row_factory=tuple_row, autocommit=True) as conn:
        yield conn


def _answer(block: Any, conn: Connection[tuple[Any, ...]], scene: Scene) -> str:
    try:
        with block:
            cursor = conn.execute(scene.statement)
            values = [str(row[0]) for row in cursor.fetchall()] if cursor.description else []
            counted = f"{cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'}"
            return f"{counted}: {', '.join(values)}" if values else counted
    except psycopg.errors.InsufficientPrivilege as error:
        message = error.diag.message_primary or ""
        return "refused: " + (
            "row-level security policy" if "row-level security" in message else message.partition(" for ")[0]
        )
