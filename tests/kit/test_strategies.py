"""What Hypothesis draws: legal people, rows that can be stored, and spoofs that the database takes for nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg import Connection

from rlskit import Identity, Open, Rule, TableRules, allow, as_user, reference
from rlskit.testing.strategies import identities, people, rows, spoofed_settings
from tests.support import Database, Server, fresh_database

RULES = TableRules(
    "note",
    allow.owner(),
    allow.owners_defined_in("editors").to("read"),
    allow.owner_defined_in("payer").identity_claim("email").to("read"),
    allow.owner_defined_in("author").identity_claim("sub").to("read"),
)
COLUMNS = ("owner", "editors", "payer", "author")
QUICKLY = settings(max_examples=25, deadline=None, database=None, derandomize=True)
OFTEN = settings(QUICKLY, max_examples=120, phases=[Phase.generate])


@pytest.fixture(scope="module")
def ruled(server: Server) -> Iterator[Database]:
    with fresh_database(server, "strategies") as made:
        made.execute("create table note (id serial primary key, content text)")
        made.apply(RULES)
        yield made


def store(conn: Connection[Any], *drawn: Mapping[str, Any]) -> None:
    """These rows and no others, numbered from 1."""
    conn.execute("truncate note restart identity")
    for row in drawn:
        values = [row[column] for column in COLUMNS]
        conn.execute("insert into note (owner, editors, payer, author) values (%s, %s, %s, %s)", values)
    conn.commit()


# --- people ----------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Identity], bool]] = {
    "without a username": lambda who: who.username is None,
    "whose username is the sub": lambda who: who.username == who.sub,
    "with a claim": lambda who: bool(who.claims.get("email")),
    "without the claim": lambda who: "email" not in who.claims,
    "with a blank claim": lambda who: who.claims.get("email") == " ",
    "with a quote": lambda who: "'" in who.sub,
    "beyond ASCII": lambda who: not who.sub.isascii(),
    "with the longest name": lambda who: len(who.sub) == 256,
}


def test_people_of_every_kind_are_drawn() -> None:
    seen: set[str] = set()

    @OFTEN
    @given(identities())
    def draw(who: Identity) -> None:
        seen.update(kind for kind, is_one in KINDS.items() if is_one(who))

    draw()
    assert seen == {*KINDS}


SHARED: dict[str, Callable[[Identity, Identity], bool]] = {
    "a username": lambda one, other: one.username is not None and one.username == other.username,
    "a sub for a username": lambda one, other: one.sub == other.username,
    "a claim for a username": lambda one, other: bool(other.username) and other.username in one.claims.values(),
}


def test_people_are_different_and_some_share_a_name() -> None:
    seen: set[str] = set()

    @OFTEN
    @given(people(min_size=2, max_size=2))
    def draw(pair: tuple[Identity, Identity]) -> None:
        assert pair[0] != pair[1]
        seen.update(name for name, is_shared in SHARED.items() if is_shared(*pair))

    draw()
    assert seen == {*SHARED}


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_owner_columns_of_its_rules() -> None:
    found: list[object] = []

    @settings(QUICKLY, max_examples=1)
    @given(rows(RULES, ()), rows(TableRules("open", Open(reason="all")), ()))
    def draw(ruled: dict[str, object], unruled: dict[str, object]) -> None:
        found.append((ruled.keys(), unruled))

    draw()
    assert found == [({*COLUMNS}, {})]


def test_rows_can_be_stored_and_the_database_shows_each_to_whom_it_names(ruled: Database) -> None:
    """The reference agrees; whom a row names, and whom it does not, are among them, for every rule."""
    seen: set[tuple[str, bool]] = set()
    with ruled.connect() as stored, ruled.connect_as_app() as conn:

        @QUICKLY
        @given(st.data())
        def holds(data: st.DataObject) -> None:
            asking = data.draw(people(max_size=2))
            drawn = data.draw(st.lists(rows(RULES, asking), min_size=1, max_size=3))
            store(stored, *drawn)
            for who in asking:
                expected = [number for number, row in enumerate(drawn, 1) if reference.read(RULES, who, row).allowed]
                with as_user(conn, who):
                    shown = [number for (number,) in conn.execute("select id from note order by id")]
                assert shown == expected
                for rule in cast(tuple[Rule, ...], RULES.allow):
                    seen.update((str(rule.column), reference.names(rule, who, row)) for row in drawn)

        holds()

    assert seen == {(column, named) for column in COLUMNS for named in (True, False)}


# --- spoofs ----------------------------------------------------------------------------------------------------------


def test_spoofs_are_nobody_to_the_database(ruled: Database) -> None:
    with ruled.connect() as stored, ruled.connect_as_app() as conn:

        @QUICKLY
        @given(st.data())
        def holds(data: st.DataObject) -> None:
            victim = data.draw(identities())
            said = data.draw(spoofed_settings(victim))
            everything = {"owner": victim.sub, "author": victim.sub, "payer": victim.claims.get("email") or None}
            store(stored, {**everything, "editors": list(victim.spellings)})
            with conn.transaction(force_rollback=True):
                for name, value in said.items():
                    conn.execute("select set_config(%s, %s, true)", [name, value])
                assert conn.execute("select id from note").fetchall() == []
            with as_user(conn, victim):
                assert conn.execute("select count(*) from note").fetchone() == (1,)

        holds()


# --- without it ------------------------------------------------------------------------------------------------------


def test_without_hypothesis_it_says_what_to_install() -> None:
    script = """
import sys
sys.modules["hypothesis"] = None
try:
    import rlskit.testing.strategies
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "rlskit.testing.strategies needs Hypothesis; pip install hypothesis\n"
