"""The Python of the how-to page about identity, executed from top to bottom."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from rlskit import SigningKey, TableRules, allow, keyring
from tests.support import Database

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "identity.md"
FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks() -> Iterator[str]:
    """The page's Python, each block as many lines down as it stands in the page, so that an error names its line."""
    text = PAGE.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield "\n" * text.count("\n", 0, found.start("code")) + textwrap.dedent(found["code"])


@pytest.fixture
def given(database: Database) -> Iterator[dict[str, Any]]:
    """What the page takes for granted: the table under its rules, a key that is accepted, and a login for support."""
    database.execute("create table todo (id serial primary key, content text)")
    database.apply(TableRules("todo", allow.owner()))
    key, support = SigningKey.generate("2026-11"), sql.Identifier(f"{database.name}_support")
    with database.connect_as_owner() as conn:
        keyring.add(conn, key)
    with database.connect(autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login bypassrls").format(support))
        conn.execute(sql.SQL("grant select on todo to {}").format(support))
    yield {
        "app_dsn": database.app_dsn,
        "app_role": database.app,
        "owner_dsn": database.owner_dsn,
        "support_dsn": make_conninfo(database.superuser_dsn, user=f"{database.name}_support"),
        "signing_key": key.export(),
    }
    with database.connect(autocommit=True) as conn:
        conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(support))


def test_the_page_about_identity_does_what_it_says(given: dict[str, Any]) -> None:
    try:
        for code in blocks():
            exec(compile(code, str(PAGE), "exec"), given)
    finally:
        if "pool" in given:
            given["pool"].close()

    assert given["identity"] == ("5d1c::alice",)
    assert given["acting"] == ("5d1c::alice", "93fe::carol")
    assert given["exported"] == [("milk",), ("bread",)]
