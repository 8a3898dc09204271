"""`rlskit.backfiller`: the script is run as psql runs it; afterwards the same people, and only they, see their rows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Identifier

from rlskit import Identity, TableRules, allow, as_user
from rlskit.auditor import Names, audit
from rlskit.backfiller import Backfill, Change, backfill
from rlskit.errors import PlanError
from rlskit.vocabulary import SPELLINGS, Spelling
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full

EDITORS = allow.owners_defined_in("editors").to("read", "update")
MATCHES: dict[str, list[str]] = {
    "any": ["any"],
    "full": ["full"],
    "full_sub": ["full", "sub"],
    "full_username": ["full", "username"],
}
TABLES = {
    f"note_{name}": TableRules(f"note_{name}", allow.owner(), EDITORS, match=match) for name, match in MATCHES.items()
}
NOTE = TABLES["note_any"]

Row = tuple[str | None, list[str] | None]


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "backfill") as database:
        for table in TABLES:
            database.execute(f"create table {table} (id int primary key, owner text, editors text[])")
        database.execute("create table person (sub text, username text)")
        database.apply(*TABLES.values())
        yield database


def fill(database: Database, rows: Iterable[Row], table: str = "note_any", people: Iterable[Identity] = ()) -> None:
    with database.connect() as conn:
        conn.execute(SQL("truncate {}, person").format(Identifier(table)))
        for key, (owner, editors) in enumerate(rows, 1):
            conn.execute(SQL("insert into {} values (%s, %s, %s::text[])").format(Identifier(table)), [key, owner, editors])  # fmt: skip
        for who in people:
            conn.execute("insert into person values (%s, %s)", [who.sub, who.username])


def written(database: Database, to: Spelling, table: str = "note_any", people: str | None = None) -> Backfill:
    with database.connect() as conn:
        return backfill(conn, database.rules(*TABLES.values()), table, to, people=people)


def run(database: Database, script: str) -> tuple[int, list[tuple[Any, ...]]]:
    """The script in one message, as a superuser: how many rows the UPDATE changed, and what the last SELECT says."""
    updated, report = -1, []
    with database.connect(autocommit=True) as conn:
        cursor = conn.execute(script.encode())
        while True:
            status = cursor.statusmessage or ""
            if status.startswith("UPDATE"):
                updated = int(status.split()[1])
            if cursor.description:
                report = cursor.fetchall()
            if not cursor.nextset():
                return updated, report


def stored(database: Database, table: str = "note_any") -> list[Row]:
    with database.connect() as conn:
        query = SQL("select owner, editors from {} order by id").format(Identifier(table))
        return [(owner, editors) for owner, editors in conn.execute(query)]


def visible(database: Database, people: Iterable[Identity], table: str = "note_any") -> dict[str, set[int]]:
    """Whom the rules show which rows: as an ordinary login."""
    found = {}
    with database.connect_as_app() as conn:
        for who in people:
            with as_user(conn, who):
                rows = conn.execute(SQL("select id from {}").format(Identifier(table))).fetchall()
            found[who.sub] = {key for (key,) in rows}
    return found


# --- every spelling, and the same people -----------------------------------------------------------------------------

PEOPLE = (ALICE, BOB, CAROL)
MIXED: list[Row] = [
    (full(ALICE), None),
    (ALICE.sub, [full(BOB)]),
    (ALICE.username, [BOB.sub, "b2e1::bob", "carol"]),
    (None, ["bob", "c3d2", "bob", "alice"]),
    (None, None),
    ("stranger", []),
]
SPELLED: dict[Spelling, list[Row]] = {
    "full": [
        ("a1f0::alice", None),
        ("a1f0::alice", ["b2e1::bob"]),
        ("a1f0::alice", ["b2e1::bob", "c3d2::carol"]),
        (None, ["b2e1::bob", "c3d2::carol", "a1f0::alice"]),
        (None, None),
        ("stranger", []),
    ],
    "sub": [
        ("a1f0", None),
        ("a1f0", ["b2e1"]),
        ("a1f0", ["b2e1", "c3d2"]),
        (None, ["b2e1", "c3d2", "a1f0"]),
        (None, None),
        ("stranger", []),
    ],
    "username": [
        ("alice", None),
        ("alice", ["bob"]),
        ("alice", ["bob", "carol"]),
        (None, ["bob", "carol", "alice"]),
        (None, None),
        ("stranger", []),
    ],
}


@pytest.mark.parametrize("to", SPELLINGS)
def test_every_known_name_gets_the_spelling_and_everybody_sees_what_they_saw(to: Spelling, shared: Database) -> None:
    fill(shared, MIXED, people=PEOPLE)
    before = visible(shared, PEOPLE)
    run(shared, written(shared, to, people="person").sql)

    assert stored(shared) == SPELLED[to]
    assert visible(shared, PEOPLE) == before


def test_without_people_the_full_names_of_the_table_tell(shared: Database) -> None:
    """Carol stands nowhere in full, so her names stay."""
    fill(shared, MIXED)
    before = visible(shared, PEOPLE)
    made = written(shared, "full")
    updated, report = run(shared, made.sql)

    assert stored(shared)[:4] == [
        ("a1f0::alice", None),
        ("a1f0::alice", ["b2e1::bob"]),
        ("a1f0::alice", ["b2e1::bob", "carol"]),
        (None, ["b2e1::bob", "c3d2", "a1f0::alice"]),
    ]
    assert visible(shared, PEOPLE) == before
    assert updated == 3
    assert made.changes == (
        Change("editors", "other", 0, 2),
        Change("editors", "sub", 1, 0),
        Change("editors", "username", 3, 0),
        Change("owner", "other", 0, 1),
        Change("owner", "sub", 1, 0),
        Change("owner", "username", 1, 0),
    )
    assert report == [(each.column, each.spelling, each.changes, each.stays) for each in made.changes]


def test_run_again_it_changes_nothing(shared: Database) -> None:
    fill(shared, MIXED, people=PEOPLE)
    for to in SPELLINGS:
        script = written(shared, to, people="person").sql
        assert (run(shared, script)[0] > 0, run(shared, script)[0]) == (True, 0)
        assert {each.changes for each in written(shared, to, people="person").changes} <= {0}


def test_what_full_rules_did_not_reach_is_reached_afterwards(shared: Database) -> None:
    fill(shared, [("a1f0", None), ("alice", ["b2e1"])], "note_full", PEOPLE)
    assert visible(shared, PEOPLE, "note_full") == {"a1f0": set(), "b2e1": set(), "c3d2": set()}
    run(shared, written(shared, "full", "note_full", "person").sql)

    assert visible(shared, PEOPLE, "note_full") == {"a1f0": {1, 2}, "b2e1": {2}, "c3d2": set()}
    with shared.connect() as conn:
        assert audit(conn, shared.rules(*TABLES.values()), "note_full").clean


# --- who is not meant ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [None, "person"])
@pytest.mark.parametrize("to", SPELLINGS)
def test_a_username_of_two_people_is_left(to: Spelling, people: str | None, shared: Database) -> None:
    namesakes = (ALICE, Identity(sub="z9", username="alice"))
    rows: list[Row] = [("a1f0::alice", None), ("z9::alice", None), ("alice", ["alice"])]
    fill(shared, rows, people=namesakes)
    updated, report = run(shared, written(shared, to, people=people).sql)

    assert (updated, stored(shared)) == (0, rows)
    if to == "full":
        assert report == [("editors", "username", 0, 1), ("owner", "username", 0, 1)]


@pytest.mark.parametrize("to", ["sub", "username"])
def test_a_name_that_is_anothers_too_is_not_given(to: Spelling, shared: Database) -> None:
    """Mallory's username is alice's sub; as bare sub, alice's row would be mallory's."""
    mallory = Identity(sub="m6", username="a1f0")
    fill(shared, [("a1f0::alice", None)], people=(ALICE, mallory))
    run(shared, written(shared, to, people="person").sql)

    assert visible(shared, [mallory]) == {"m6": set()}


@pytest.mark.parametrize("to", SPELLINGS)
def test_a_full_name_that_mallory_forged_gives_her_nothing(to: Spelling, shared: Database) -> None:
    """She wrote it into a list of her own, where names are not held against anything."""
    mallory = Identity(sub="m6", username="mallory")
    rows: list[Row] = [("alice", None), ("a1f0", None), ("mallory", ["m6::alice", "a1f0::mallory"])]
    fill(shared, rows)
    run(shared, written(shared, to).sql)
    assert visible(shared, [mallory])["m6"] <= {3}

    fill(shared, rows, people=(ALICE, mallory))
    run(shared, written(shared, to, people="person").sql)
    assert visible(shared, [mallory])["m6"] <= {3}


def test_a_username_that_was_somebody_elses_before_is_left(shared: Database) -> None:
    """The table still names the former alice in full, so her bare name could mean her."""
    fill(shared, [("z9::alice", None), ("alice", None)], people=[ALICE])
    run(shared, written(shared, "full", people="person").sql)

    assert stored(shared) == [("z9::alice", None), ("alice", None)]


def test_who_was_renamed_keeps_what_stands_under_the_sub(shared: Database) -> None:
    renamed = Identity(sub="a1f0", username="alice_b")
    fill(shared, [("a1f0", None), ("a1f0::alice", None)], people=[renamed])
    run(shared, written(shared, "full", people="person").sql)
    assert stored(shared) == [("a1f0::alice_b", None), ("a1f0::alice", None)]

    run(shared, written(shared, "username", people="person").sql)
    assert stored(shared) == [("alice_b", None), ("a1f0::alice", None)], "that username may be another's by now"
    run(shared, written(shared, "sub", people="person").sql)
    assert visible(shared, [renamed]) == {"a1f0": {1, 2}}


LETTERS = st.sampled_from("abcd")
ANYBODY = st.lists(st.tuples(LETTERS, st.sampled_from("abcdxy")), min_size=1, max_size=4, unique_by=lambda who: who[0])
NAME = st.one_of(
    st.sampled_from("abcdxyz"), st.tuples(LETTERS, st.sampled_from("abcdxyz")).map("::".join), st.just("z::z::z")
)
ROWS = st.lists(st.tuples(st.none() | NAME, st.none() | st.lists(NAME, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    who=ANYBODY,
    rows=ROWS,
    to=st.sampled_from(SPELLINGS),
    table=st.sampled_from(sorted(TABLES)),
    told=st.booleans(),
)
def test_nobody_gains_a_row_that_does_not_name_them_alone(
    who: list[tuple[str, str]], rows: list[Row], to: Spelling, table: str, told: bool, shared: Database
) -> None:
    """Whatever stands there: names of everybody in each other's lists, forged ones, usernames that are others' subs."""
    people = [Identity(sub=sub, username=username) for sub, username in who]
    if not told:  # then everybody stands in the table in full, beside what is forged
        rows = [*rows, *((full(each), None) for each in people)]
    fill(shared, rows, table, people)
    before, had = visible(shared, people, table), stored(shared, table)
    script = written(shared, to, table, "person" if told else None).sql
    updated, _ = run(shared, script)
    after, has = visible(shared, people, table), stored(shared, table)

    for each in people:
        for key in after[each.sub] - before[each.sub]:
            owner, editors = had[key - 1]
            names = {owner, *(editors or ())} - {None}
            theirs = {name for name in names if name in each.spellings or (name or "").startswith(f"{each.sub}::")}
            others = {name for other in people if other.sub != each.sub for name in other.spellings}
            assert theirs - others, f"{each.spellings} was not the one who is named"
            if table == "note_any":
                former = any((name or "").startswith(f"{each.sub}::") for name in names)
                assert former, "only a former username beside their own sub may have kept them from it"
    if to == "full" and table == "note_any":
        assert all(after[each.sub] <= before[each.sub] for each in people)
    assert updated == sum(one != other for one, other in zip(had, has, strict=True))
    assert run(shared, script)[0] == 0
    assert stored(shared, table) == has


# --- what else happens to the table ----------------------------------------------------------------------------------


def test_rows_with_an_empty_name_stay_and_stop_nothing(server: Server) -> None:
    with fresh_database(server, "backfill") as database:
        database.execute("create table note (id int primary key, owner text, editors text[], payer text)")
        rules = TableRules("note", allow.owner(), EDITORS, allow.owner_defined_in("payer").identity_claim("email"))
        database.apply(rules)
        with database.connect() as conn:
            for column in ("owner", "editors", "payer"):
                (definition,) = conn.execute("select pg_get_constraintdef(oid) from pg_constraint where conname = %s", [f"rlskit_{column}_check"]).fetchone() or ("",)  # fmt: skip
                conn.execute(f"alter table note drop constraint rlskit_{column}_check")
                conn.execute("insert into note values (%s, 'alice', null, null)", [ord(column[0])])
                conn.execute(f"update note set {column} = %s where id = %s", [["alice", None] if column == "editors" else "", ord(column[0])])  # fmt: skip
                conn.execute(f"alter table note add constraint rlskit_{column}_check {definition} not valid")
            conn.execute("insert into note values (1, 'a1f0::alice', null, null), (2, 'alice', null, 'x@y')")
        with database.connect() as conn:
            made = backfill(conn, database.rules(rules), "note", "full")
        updated, report = run(database, made.sql)

    assert (updated, report) == (1, [("owner", "username", 1, 0)])


def test_only_rows_that_change_are_written_and_triggers_find_what_they_are_used_to(server: Server) -> None:
    with fresh_database(server, "backfill") as database:
        database.execute(
            "create table note (id int primary key, owner text, editors text[])",
            "insert into note values (1, 'a1f0::alice', null), (2, 'alice', '{x,x}'), (3, null, '{alice}'), (4, 'x', '{}')",
            "create table changed (id int)",
            "create function note_change() returns trigger language plpgsql as 'begin insert into changed values (new.id); return new; end'",
            "create trigger change after update on note for each row execute function note_change()",
        )
        with database.connect() as conn:
            made = backfill(conn, database.rules(TableRules("note", allow.owner(), EDITORS)), "note", "full")
        run(database, made.sql)

        assert database.rows("select id from changed order by 1") == [(2,), (3,)]
        assert database.rows("select owner, editors from note order by id") == [
            ("a1f0::alice", None),
            ("a1f0::alice", ["x", "x"]),
            (None, ["a1f0::alice"]),
            ("x", []),
        ]


def test_awkward_names_and_other_types_through_psql(server: Server, tmp_path: Path) -> None:
    with fresh_database(server, "backfill") as database:
        database.execute(
            'create schema "we.ird ""s"',
            """create table "we.ird ""s"."t :x{}" (id int, "own'er" varchar, "ed{}i\\s%s" varchar(40)[], payer uuid, mail text) partition by list (id)""",
            'create table "we.ird ""s".part partition of "we.ird ""s"."t :x{}" default',
            """insert into "we.ird ""s"."t :x{}" values (1, 'a1f0::alice', '{alice,b2e1}', gen_random_uuid(), 'alice'), (2, 'a1f0', null, null, null)""",
        )
        rules = TableRules(
            "t :x{}",
            allow.owner_defined_in("own'er"),
            allow.owners_defined_in("ed{}i\\s%s"),
            allow.owner_defined_in("payer").identity_claim("sub"),
            allow.owner_defined_in("mail").identity_claim("email"),
            schema='we.ird "s',
        )
        with database.connect() as conn:
            made = backfill(conn, database.rules(rules), 'we.ird "s.t :x{}', "full")
        file = tmp_path / "backfill.sql"
        file.write_text(made.sql, encoding="utf-8")
        psql = [server.bin / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", database.superuser_dsn, "-f", file]
        ran = subprocess.run(psql, capture_output=True, text=True, check=False)
        rows = database.rows("""select "own'er", "ed{}i\\s%%s", mail from "we.ird ""s"."t :x{}" order by id""")

    assert (ran.returncode, ran.stderr, "UPDATE 2\n" in ran.stdout) == (0, "", True)
    assert rows == [("a1f0::alice", ["a1f0::alice", "b2e1"], "alice"), ("a1f0::alice", None, None)]
    assert any("column payer stays as it is, because it is uuid" in note for note in made.notes)


def test_a_claim_on_the_sub_is_a_spelling_too(server: Server) -> None:
    """Rows of the full spelling, and rules that compare the sub: nobody reaches them until they are spelled so."""
    with fresh_database(server, "backfill") as database:
        database.execute("create table note (id int primary key, owner text)", "insert into note values (1, 'a1f0::alice')")  # fmt: skip
        rules = database.apply(TableRules("note", allow.owner().identity_claim("sub")))
        assert visible(database, [ALICE], "note") == {"a1f0": set()}
        with database.connect() as conn:
            assert audit(conn, rules, "note").columns[0].unmatched == Names(full=1)
            made = backfill(conn, rules, "note", "sub")
        run(database, made.sql)

        assert visible(database, [ALICE], "note") == {"a1f0": {1}}


def test_whom_row_security_binds_can_run_nothing(shared: Database) -> None:
    rows: list[Row] = [("a1f0::alice", None), ("alice", None)]
    fill(shared, rows)
    script = written(shared, "full").sql
    with shared.connect_as_owner(autocommit=True) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="would be affected by row-level security"):
            conn.execute(script.encode())
        conn.rollback()

    assert stored(shared) == rows


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_script_says_what_it_does_and_names_nobody(shared: Database) -> None:
    fill(shared, MIXED, people=PEOPLE)
    for to in SPELLINGS:
        for people in (None, "person"):
            made = written(shared, to, people=people)
            assert {name for who in PEOPLE for name in who.spellings if name in made.sql} == set()
            assert "stranger" not in made.sql
            assert made.sql.startswith("-- Brings the owners in table public.note_any to one spelling: ")
            assert [made.sql.count(line) for line in ("\nbegin;\n", "\ncommit;\n", "set local lock_timeout = '5s';", "set local row_security = off;")] == [1] * 4  # fmt: skip


def test_the_head_counts_and_warns(shared: Database) -> None:
    fill(shared, MIXED)
    head = written(shared, "sub", "note_any").sql.partition("begin;")[0]
    assert "-- When it was written, the names in 6 rows were:\n" in head
    assert "--   owner: 1 full to change, 0 to leave, because it cannot be told whom they mean\n" in head

    notes = {table: " ".join(written(shared, "username", table).notes) for table in ("note_any", "note_full")}
    assert ["accept full and not username" in each for each in notes.values()] == [False, True]
    assert ["given such a username next" in each for each in notes.values()] == [True, True]


def test_nothing_to_change_is_said(shared: Database) -> None:
    fill(shared, [("a1f0::alice", None)])
    made = written(shared, "full")

    assert (made.changes, "all of them spelled so already" in made.sql, run(shared, made.sql)) == ((), True, (0, []))


def test_what_cannot_be_written_is_refused(server: Server) -> None:
    with fresh_database(server, "backfill") as database:
        database.execute(
            "create table note (owner varchar(8), mail text)", "insert into note values ('alice', null)",
            "create table person (sub text, username text)", "insert into person values ('a1f0', 'alice')",
        )  # fmt: skip
        mail = allow.owner_defined_in("mail").identity_claim("email")
        with database.connect() as conn:
            with pytest.raises(PlanError) as caught:
                backfill(conn, database.rules(TableRules("note", mail)), "note", "full")
            assert caught.value.message == "no owner column of table `public.note` could be spelled otherwise"
            with pytest.raises(PlanError) as caught:
                backfill(conn, database.rules(TableRules("note", allow.owner())), "note", "full", people="person")
            assert caught.value.message == (
                "column `owner` of table `public.note` has room for 8 characters, and a name would have 11"
            )
            with pytest.raises(PlanError, match="`ful` is no spelling") as caught:
                backfill(conn, database.rules(TableRules("note", allow.owner())), "note", "ful")  # type: ignore[arg-type]
            assert caught.value.hint == "did you mean `full`?"
