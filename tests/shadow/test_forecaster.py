"""`rlskit.forecaster`: what is forecast of rules that are not applied is what happens once they are, to each person and to all together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from rlskit import Identity, Open, Rules, TableRules, Unmanaged, allow, as_user, installer
from rlskit.errors import (
    MissingIdentityError,
    PlanError,
    RlskitError,
    RuntimeVersionError,
    SigningKeyError,
    UnknownColumnError,
)
from rlskit.forecaster import Crowd, Forecast, Share, TableForecast, shadow
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full

UUID = "0b1f5c2e-8f0a-4f6e-9a43-7d1f6f2c9e11"
PEOPLE = [
    ALICE,
    BOB,
    CAROL,
    Identity(sub="alice", username="b2e1", claims={"email": "X"}),  # goes by others' names
    Identity(sub=UUID, username="o'hara \\ {x} %s", claims={"email": "bob@example.com"}),
    Identity(sub="d4c3"),
]
NAMES = [
    *(
        name
        for each in PEOPLE
        for name in (*each.spellings, each.sub, each.username or "", *each.claims.values())
        if name
    ),
    *("stranger", "a::b::c", "a1f0::bob", UUID.upper()),
]

OWN = allow.owner()
EDITORS = allow.owners_defined_in("editors")
TABLES = [
    TableRules("any_spelling", OWN),
    TableRules("full_alone", OWN, match="full"),
    TableRules("two_spellings", OWN, EDITORS.to("read"), match=["full", "username"]),
    TableRules("two_people", OWN.to("read", "delete"), EDITORS.to("read", "update")),
    TableRules("protected", OWN, EDITORS.to("read", "update"), columns={"owner": allow.same().to("read", "delete")}),
    TableRules("kept", OWN, EDITORS, reassign="never"),
    TableRules("explicit", EDITORS, reassign="explicit"),
    TableRules("by_claim", OWN.identity_claim("email"), EDITORS.identity_claim("sub").to("read")),
    TableRules("several", OWN.match("full"), OWN.identity_claim("email").to("read"), EDITORS.identity_claim("email")),
    TableRules("by_uuid", allow.owner_defined_in("holder").identity_claim("sub"), OWN.to("read")),
    TableRules("narrow", allow.owner_defined_in("short"), allow.owners_defined_in("shorts").to("read", "update")),
    TableRules("unread", OWN.to("create")),
    TableRules("late", allow.owner_defined_in("added_later"), EDITORS.to("read")),
    TableRules("country", Open(reason="reference data")),
]
IDS = [str(each.table) for each in TABLES]


@dataclass(frozen=True)
class Applied:
    """A database whose rules are in force by now, and what was forecast of them before."""

    database: Database
    rules: Rules
    before: Forecast


# No rows that a check of rlskit would refuse: these rules are applied.
def some_name(rng: random.Random) -> str | None:
    return rng.choice([*NAMES, None])


def some_names(rng: random.Random) -> list[str] | None:
    return rng.choice([None, [], [rng.choice(NAMES)], [rng.choice(NAMES) for _ in range(3)]])


@pytest.fixture(scope="module")
def applied(server: Server) -> Iterator[Applied]:
    rng = random.Random(server.major)
    with fresh_database(server, "shadow") as database:
        database.execute("create table person (sub text, username varchar(99), email text)")
        with database.connect_as_owner() as conn:
            for each in PEOPLE:
                conn.execute(
                    "insert into person values (%s, %s, %s)", [each.sub, each.username, each.claims.get("email")]
                )
            for name in IDS:
                conn.execute(
                    f'create table {name} (id int primary key, owner text collate "C", editors text[] collate "POSIX", holder uuid, short varchar(60), shorts varchar(60)[])'
                )
                with conn.cursor() as cursor:
                    cursor.executemany(
                        f"insert into {name} values (%s, %s, %s::text[], %s, %s, %s::text[])",
                        [
                            (
                                key,
                                some_name(rng),
                                some_names(rng),
                                rng.choice([UUID, None]),
                                some_name(rng),
                                some_names(rng),
                            )
                            for key in range(40)
                        ],
                    )
            conn.commit()
            installer.install(conn)
        rules = database.rules(*TABLES)
        with database.connect() as conn:
            before = shadow(conn, rules, identities=PEOPLE, people="person")
            assert conn.info.transaction_status == TransactionStatus.IDLE
        database.apply(*TABLES)
        yield Applied(database, rules, before)


def forecast_of(made: Forecast, name: str) -> TableForecast:
    (found,) = (each for each in made.tables if each.table.name == name)
    return found


def reached(conn: psycopg.Connection[Any], statement: str) -> int:
    """How many rows a statement of whoever asks reaches; it is rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            return conn.execute(statement).rowcount
    except psycopg.errors.InsufficientPrivilege:
        return 0


# --- the forecast is what happens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDS)
def test_what_is_forecast_for_a_person_is_what_happens(name: str, applied: Applied) -> None:
    found = forecast_of(applied.before, name)
    statements = (f"select from {name}", f"update {name} set id = id", f"delete from {name}")
    happens = []
    with applied.database.connect_as_app() as conn:
        for who in PEOPLE:
            with as_user(conn, who):
                happens.append(tuple(reached(conn, each) for each in statements))

    assert [(each.read, each.update, each.delete) for each in found.shares] == happens
    assert [(each.rows, each.hidden) for each in found.shares] == [(40, 40 - read) for read, _, _ in happens]


@pytest.mark.parametrize("name", IDS)
def test_the_crowd_is_what_its_people_are_one_by_one(name: str, applied: Applied) -> None:
    found = forecast_of(applied.before, name)
    crowd, hidden = found.crowd, [each.hidden for each in found.shares]
    assert crowd is not None
    seen: set[int] = set()
    with applied.database.connect_as_app() as conn:
        for who in PEOPLE if name != "unread" else ():
            with as_user(conn, who):
                seen |= {key for (key,) in conn.execute(f"select id from {name}")}

    assert (crowd.rows, crowd.people, crowd.unread) == (40, len(PEOPLE), 40 - len(seen))
    assert (crowd.losing, crowd.blind) == (sum(each > 0 for each in hidden), hidden.count(40))
    assert (crowd.median, crowd.most) == (median_low(hidden), max(hidden))


@pytest.mark.parametrize("who", PEOPLE, ids=range(len(PEOPLE)))
def test_one_person_counted_in_bulk_is_counted_exactly(who: Identity, applied: Applied) -> None:
    """Table by table: the query for thousands and the policy's own condition say the same."""
    with applied.database.connect() as conn:
        conn.execute("create table one (sub text, username text, email text)")
        conn.execute("insert into one values (%s, %s, %s)", [who.sub, who.username, who.claims.get("email")])
        made = shadow(conn, applied.rules, identities=[who], people="one")
        conn.rollback()

    assert {each.table.name: each.crowd.most for each in made.tables if each.crowd} == {
        each.table.name: each.shares[0].hidden for each in made.tables
    }
    assert {each.table.name: each.crowd.nameless for each in made.tables if each.crowd}["any_spelling"] == (
        who.username is None
    )


def test_the_rows_are_neither_all_hidden_nor_all_shown(applied: Applied) -> None:
    """Or else the tests above would say nothing."""
    shares = [share for each in applied.before.tables for share in each.shares]

    assert sum(0 < each.read < 40 for each in shares) > 35
    assert sum(0 < each.update < each.read for each in shares) > 5
    assert [forecast_of(applied.before, name).shares[0].read for name in ("unread", "country")] == [0, 40]


def test_it_may_be_asked_when_the_rules_are_in_force(applied: Applied) -> None:
    with applied.database.connect() as conn:
        assert shadow(conn, applied.rules, "kept", "public.late", identities=PEOPLE, people="person").tables == (
            forecast_of(applied.before, "kept"),
            forecast_of(applied.before, "late"),
        )


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def notes(server: Server) -> Iterator[Database]:
    with fresh_database(server, "shadow") as database:
        database.execute(
            "create table note (id int, owner text, payer text)",
            "insert into note values (1, 'a1f0::alice', null), (2, 'bob', 'bob@example.com'), (3, 'stranger', null), (4, null, null)",
            "create table person (sub text, username text)",
            "insert into person values ('a1f0', 'alice'), ('b2e1', 'bob'), ('b2e1', 'bob'), ('x', 'a::b'), (null, 'alice')",
            "create view broken as select 'secret'::text as sub, ('secret' || id)::int::text as username from note",
        )
        with database.connect_as_owner() as conn:
            installer.install(conn)
        yield database


NOTE = TableRules("note", allow.owner(), allow.owner_defined_in("payer").identity_claim("email").to("read"))


def foretold(database: Database, *tables: TableRules, names: tuple[str, ...] = (), **options: Any) -> Forecast:
    with database.connect() as conn:
        return shadow(conn, database.rules(*tables or (NOTE,)), *names, **options)


def test_people_are_told_in_counts_and_persons_as_they_were_given(notes: Database) -> None:
    made = foretold(
        notes, identities=[ALICE, Identity(sub="b2e1", username="bob"), Identity(sub="77")], people="person"
    )

    assert (
        str(made)
        == """\
public.note
  a1f0::alice: of 4 rows 3 hidden; 1 to read, 1 to update, 1 to delete
  b2e1::bob: of 4 rows 3 hidden; 1 to read, 1 to update, 1 to delete
  note: b2e1::bob is given without `email`: what rules on it would show is not counted
  77: of 4 rows 4 hidden; 0 to read, 0 to update, 0 to delete
  note: 77 is given without `email` and `username`: what rules on it would show is not counted
  4 of public.person: of 4 rows some hidden from 4, all from 2; hidden from one 3 (median), at most 4
  2 rows would be read by nobody of public.person
  note: 2 of public.person have no name that these rules compare
  note: public.person has no column `email`: what rules on it would show is not counted"""
    )
    assert made.tables[0].crowd == Crowd(4, 2, 4, 2, 4, 2, 3, 4, ("email",))
    assert made.tables[0].shares[0] == Share(ALICE, 4, 1, 1, 1, ())


def test_a_crowd_alone_gives_no_name_away(notes: Database) -> None:
    made = foretold(notes, people="person")

    assert [
        each for each in ("a1f0", "alice", "bob", "stranger", "b2e1") if each in f"{made} {made!r} {made.to_dict()}"
    ] == []


def test_rows_that_nobody_of_the_crowd_reads_are_the_finding(notes: Database) -> None:
    country = TableRules("note", Open(reason="reference data"))

    assert (foretold(notes, people="person").clean, foretold(notes, country, people="person").clean) == (False, True)
    assert foretold(notes, identities=[ALICE]).clean
    assert str(foretold(notes, country, people="person")).splitlines()[1:] == [
        "  4 of public.person: of 4 rows some hidden from 0, all from 0; hidden from one 0 (median), at most 0",
        "Every row would be read by somebody of public.person.",
    ]


def test_an_empty_list_of_people_reads_nothing(notes: Database) -> None:
    notes.execute("create or replace view nobody_yet as select sub, username from person where false")

    assert foretold(notes, people="nobody_yet").tables[0].crowd == Crowd(4, 4, 0, 0, 0, 0, 0, 0, ("email",))


def test_tables_that_are_left_alone_are_passed_over(notes: Database) -> None:
    made = foretold(notes, NOTE, TableRules("person", Unmanaged(reason="the login's own")), people="person")

    assert [each.table.name for each in made.tables] == ["note"]


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_nothing_is_left_of_whom_it_asked_for(notes: Database) -> None:
    with notes.connect() as conn:
        conn.execute("select set_config('rlskit.sub', 'mine', true)")
        shadow(conn, notes.rules(NOTE), identities=[ALICE], people="person")

        assert conn.execute(
            "select current_setting('rlskit.sub'), current_setting('transaction_read_only')"
        ).fetchone() == ("mine", "off")


def test_it_waits_for_no_lock_but_that_of_reading(notes: Database) -> None:
    with notes.connect() as other, notes.connect() as conn:
        other.execute("lock table note, person in exclusive mode")
        conn.execute("set lock_timeout = '1ms'")

        assert shadow(conn, notes.rules(NOTE), identities=[ALICE], people="person").tables


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({}, MissingIdentityError, "nobody is named", id="nobody"),
        pytest.param({"people": "persn"}, PlanError, "`public.persn` does not exist", id="no list"),
        pytest.param({"people": "note"}, UnknownColumnError, "has no column `sub`", id="no names"),
        pytest.param({"people": "person", "names": ("nte",)}, PlanError, "has no rules", id="no rules"),
        pytest.param({"people": "person", "names": ("note", "person")}, PlanError, "is unmanaged", id="unmanaged"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: Any, error: type[RlskitError], words: str, notes: Database) -> None:
    with pytest.raises(error, match=words) as refused:
        foretold(notes, NOTE, TableRules("person", Unmanaged(reason="the login's own")), **options)
    assert refused.value.hint


def test_rules_of_no_table_say_nothing(notes: Database) -> None:
    with notes.connect() as conn, pytest.raises(PlanError, match="no table has rules"):
        shadow(conn, notes.rules(), people="person")


def test_a_table_that_is_named_twice_is_counted_once(notes: Database) -> None:
    assert len(foretold(notes, names=("note", "public.note"), identities=[ALICE]).tables) == 1


def test_an_error_of_the_list_quotes_no_value(notes: Database) -> None:
    with pytest.raises(PlanError, match=r"`public\.broken` cannot be read") as refused:
        foretold(notes, people="broken")

    assert "secret" not in f"{refused.value} {refused.value.__cause__}"
    assert refused.value.__suppress_context__


def test_a_login_that_row_security_binds_is_refused(applied: Applied) -> None:
    """The owner of tables that are forced; and the application, which may not even read them."""
    for dsn in (applied.database.owner_dsn, applied.database.app_dsn):
        with psycopg.connect(dsn) as conn, pytest.raises(PlanError, match="row security binds"):
            shadow(conn, applied.rules, "kept", identities=PEOPLE)


def test_the_owner_may_ask_before_row_security_is_on(notes: Database) -> None:
    with notes.connect_as_owner() as conn:
        assert shadow(conn, notes.rules(NOTE), identities=[ALICE]).tables[0].shares[0].read == 1


def test_a_list_that_is_not_all_to_be_seen_is_refused(database: Database) -> None:
    database.execute(
        "create table note (owner text)",
        "create table person (sub text, username text)",
        "alter table person enable row level security",
        "alter table person force row level security",
    )
    with database.connect_as_owner() as conn:
        installer.install(conn)
        with pytest.raises(PlanError, match=r"row security binds .* on table `public\.person`"):
            shadow(conn, database.rules(TableRules("note", allow.owner())), people="person")


def test_without_the_schema_rlskit_nothing_can_be_asked_and_nothing_is_installed(database: Database) -> None:
    database.execute("create table note (owner text)")
    with pytest.raises(RuntimeVersionError, match="install the schema rlskit, version") as refused:
        foretold(database, TableRules("note", allow.owner()), identities=[ALICE])

    assert "rlskit install" in refused.value.hint
    assert database.rows("select to_regnamespace('rlskit') is null") == [(True,)]


def test_where_identities_are_signed_nobody_is_taken_for_nobody(database: Database) -> None:
    database.execute("create table note (owner text)")
    with database.connect_as_owner() as conn:
        installer.install(conn, mode="signed")
    with pytest.raises(SigningKeyError, match="signed identities only"):
        foretold(database, TableRules("note", allow.owner()), identities=[ALICE])


def test_a_person_is_told_by_the_spelling_that_a_row_has(notes: Database) -> None:
    assert [Share(each, 1, 1, 1, 1, ()).name for each in (ALICE, Identity(sub="77"))] == [full(ALICE), "77"]
