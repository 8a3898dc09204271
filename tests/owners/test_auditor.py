"""`rlskit.auditor`: the counts are true, as ordinary logins see it; and whoever could not see every row is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from rlskit import Identity, Open, Rules, TableRules, allow, as_user
from rlskit.auditor import Audit, Names, audit
from rlskit.errors import PlanError, RlskitError, UnknownColumnError, UnsupportedRuleError
from tests.support import ALICE, BOB, Database, Server, fresh_database, full

ANY = TableRules("note", allow.owner(), allow.owners_defined_in("editors").to("read", "update"))
UUID = "0b1f5c2e-8f0a-4f6e-9a43-7d1f6f2c9e11"

# Secrets are names that must never come out.
ROWS: dict[int, tuple[str | None, list[str | None] | None]] = {
    1: (full(ALICE), None),
    2: (ALICE.sub, []),
    3: ("alice", [full(BOB), "bob", "b2e1"]),
    4: (UUID, None),
    5: ("stranger", ["stranger", "alice"]),
    6: (None, None),
    7: (None, []),
    8: ("", None),
    9: ("a::b::c", [None]),
    10: (None, ["bob"]),
}
PUBLIC_WORDS = {"full", "sub", "username", "other", "owner", "editors"}


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "audit") as database:
        database.execute(
            "create table note (id int primary key, owner text, editors text[])",
            "create table person (sub text, username varchar)",
        )
        with database.connect_as_owner() as conn:
            for key, (owner, editors) in ROWS.items():
                conn.execute("insert into note values (%s, %s, %s::text[])", [key, owner, editors])
        yield database


def audited(database: Database, *tables: TableRules, table: str = "note", **options: Any) -> Audit:
    with database.connect() as conn:
        return audit(conn, database.rules(*tables), table, **options)


# --- counts ----------------------------------------------------------------------------------------------------------


def test_every_spelling_is_counted(shared: Database) -> None:
    made = audited(shared, ANY)
    editors, owner = made.columns

    assert (made.rows, made.nobody, made.unmatched, made.malformed, made.unreachable) == (10, 2, 0, 2, 4)
    assert (owner.name, owner.many, owner.accepts, owner.nobody) == ("owner", False, ("full", "sub", "username"), 3)
    assert (owner.names, owner.named, owner.malformed) == (Names(full=1, sub=2, username=1, other=1), 5, 2)
    assert (editors.name, editors.many, editors.nobody) == ("editors", True, 6)
    assert (editors.names, editors.named, editors.malformed) == (Names(full=1, sub=1, username=3, other=1), 6, 1)
    assert {each.unmatched for each in made.columns} == {Names()}


def test_a_spelling_that_the_rules_do_not_accept_is_told(shared: Database) -> None:
    rules = TableRules("note", allow.owner(), allow.owners_defined_in("editors").to("read"), match="full")
    made = audited(shared, rules)
    editors, owner = made.columns

    assert (made.nobody, made.unmatched, made.malformed) == (2, 4, 2)
    assert owner.unmatched == Names(sub=2, username=1, other=1)
    assert editors.unmatched == Names(sub=1, username=3, other=1)
    assert any("owner: 4 names (2 sub, 1 username, 1 other) in a spelling" in each for each in made.findings)


def test_a_bare_name_of_somebody_unknown_may_be_a_sub(shared: Database) -> None:
    rules = TableRules("note", allow.owner(), match=["full", "sub"])
    (owner,) = audited(shared, rules).columns

    assert owner.unmatched == Names(username=1)
    assert owner.reusable == 0


@pytest.mark.parametrize(
    ("claim", "accepts", "unmatched"),
    [
        ("sub", ("sub",), Names(full=1, username=1)),
        ("username", ("username",), Names(full=1, sub=2)),
    ],
)
def test_a_claim_that_is_a_part_accepts_that_part_alone(
    claim: str, accepts: tuple[str, ...], unmatched: Names, shared: Database
) -> None:
    (owner,) = audited(shared, TableRules("note", allow.owner().identity_claim(claim))).columns

    assert (owner.accepts, owner.claims, owner.unmatched) == (accepts, (), unmatched)


def test_a_column_that_is_compared_with_a_claim_has_no_spellings(shared: Database) -> None:
    made = audited(shared, TableRules("note", allow.owner().identity_claim("email")))
    (owner,) = made.columns

    assert (owner.accepts, owner.claims) == ((), ("email",))
    assert (owner.named, owner.malformed, owner.nobody, owner.names) == (6, 1, 3, Names())
    assert (made.nobody, made.unmatched, made.malformed) == (3, 0, 1)


def test_people_tell_who_is_who(shared: Database) -> None:
    with shared.connect() as conn:
        conn.execute("insert into person values ('s0', 'stranger'), ('x', 'y::z'), (null, 'nobody')")
        made = audit(conn, shared.rules(ANY), "note", people="person")
        editors, owner = made.columns
        conn.rollback()

    assert (owner.names.username, owner.names.other) == (2, 0)
    assert (editors.names.username, editors.names.other) == (4, 0)


def test_a_bare_name_that_two_people_go_by_is_told(shared: Database) -> None:
    with shared.connect() as conn:
        conn.execute("insert into person values ('z9', 'alice')")
        made = audit(conn, shared.rules(ANY), "note", people="person")
        conn.rollback()

    assert [each.shared for each in made.columns] == [1, 1]
    assert any("more than one person" in each for each in made.notes)


def test_columns_of_other_types_in_other_schemas_with_awkward_names(server: Server) -> None:
    with fresh_database(server, "audit") as database:
        database.execute(
            'create schema "we.ird ""s"',
            'create table "we.ird ""s"."t :x{}" (id int, "own\'er" varchar, "ed{}itors%s" varchar(40)[], payer uuid) partition by list (id)',
            'create table "we.ird ""s".part partition of "we.ird ""s"."t :x{}" default',
            f"""insert into "we.ird ""s"."t :x{{}}" values (1, 'a1f0::alice', '{{alice,b2e1}}', '{UUID}'), (2, null, '{{}}', null)""",
        )
        rules = TableRules(
            "t :x{}",
            allow.owner_defined_in("own'er"),
            allow.owners_defined_in("ed{}itors%s"),
            allow.owner_defined_in("payer").identity_claim("sub"),
            schema='we.ird "s',
        )
        made = audited(database, rules, table='we.ird "s.t :x{}')

    assert {each.name: (each.names, each.nobody) for each in made.columns} == {
        "own'er": (Names(full=1), 1),
        "ed{}itors%s": (Names(username=1, other=1), 1),
        "payer": (Names(sub=1), 1),
    }
    assert (made.rows, made.nobody) == (2, 1)


def test_an_empty_table_is_clean(shared: Database) -> None:
    shared.execute("create table if not exists void (owner text)")
    made = audited(shared, TableRules("void", allow.owner()), table="public.void")

    assert (made.rows, made.clean, made.findings, made.notes) == (0, True, (), ())


def test_a_name_that_nobody_can_reach_is_a_finding_also_where_others_reach_the_row(shared: Database) -> None:
    rules = TableRules("note", allow.owner().match("full"), allow.owners_defined_in("editors").to("read"))
    with shared.connect() as conn:
        conn.execute("delete from note where id <> 3")
        made = audit(conn, shared.rules(rules), "note")
        conn.rollback()

    assert (made.unreachable, made.clean, len(made.findings)) == (0, False, 1)


@pytest.mark.parametrize(
    "rules",
    [
        ANY,
        TableRules("note", allow.owner(), match="full"),
        TableRules("note", allow.owner(), allow.owners_defined_in("editors"), match=["full", "sub"]),
        TableRules("note", allow.owner().match("full"), allow.owners_defined_in("editors").to("create", "read")),
        TableRules("note", allow.owner().identity_claim("sub"), allow.owners_defined_in("editors").match("full")),
        TableRules("note", allow.owner().to("read"), allow.owners_defined_in("editors").to("create")),
        TableRules("note", allow.owner().match("full").to("read"), allow.owner().match("full", "sub").to("create")),
    ],
    ids=str,
)
def test_what_is_counted_as_reached_is_what_people_reach(rules: TableRules, shared: Database) -> None:
    """As ordinary logins: everybody whom a name could mean asks for rows; what nobody gets is what the audit says."""
    with fresh_database(shared.server, "audit") as database:
        database.execute("create table note (id int primary key, owner text, editors text[])")
        database.apply(rules)
        with database.connect() as conn:
            # As rows may be that came before the checks.
            for name in ("rlskit_owner_check", "rlskit_editors_check"):
                conn.execute(f"alter table note drop constraint if exists {name}")
            for key, (owner, editors) in ROWS.items():
                conn.execute("insert into note values (%s, %s, %s::text[])", [key, owner, editors])
        made = audited(database, rules)
        strangers = [Identity(sub=name, username="nobody") for name in (UUID, "stranger")]
        strangers.append(Identity(sub="nobody", username="stranger"))
        seen: set[int] = set()
        with database.connect_as_app() as conn:
            for who in (ALICE, BOB, *strangers):
                with as_user(conn, who):
                    seen |= {key for (key,) in conn.execute("select id from note").fetchall()}

    assert made.rows - made.unreachable == len(seen)


# --- who may count ---------------------------------------------------------------------------------------------------


def test_whom_row_security_binds_is_refused(shared: Database) -> None:
    with fresh_database(shared.server, "audit") as database:
        database.execute("create table note (id int, owner text)")
        rules = database.rules(TableRules("note", allow.owner()), bypass_role="app_support")
        with database.connect_as_owner() as conn:
            assert audit(conn, rules, "note").rows == 0  # not bound yet
        database.apply(TableRules("note", allow.owner()))
        for connect in (database.connect_as_owner, database.connect_as_app):
            with connect() as conn, pytest.raises(PlanError, match=r"row security binds `.+` on table") as caught:
                audit(conn, rules, "note")
            assert caught.value.hint == "connect as `app_support`, a superuser or a role with BYPASSRLS"
        with database.connect() as conn:
            assert audit(conn, rules, "note").rows == 0


def test_people_that_row_security_hides_are_an_error_and_no_smaller_number(shared: Database) -> None:
    with fresh_database(shared.server, "audit") as database:
        database.execute(
            "create table note (id int, owner text)",
            "create table hidden (sub text, username text)",
            "alter table hidden enable row level security",
            "alter table hidden force row level security",
            "create view person as select * from hidden",
        )
        rules = database.rules(TableRules("note", allow.owner()))
        with database.connect_as_owner() as conn:
            with pytest.raises(PlanError, match="row security binds"):
                audit(conn, rules, "note", people="hidden")
            with pytest.raises(PlanError, match="would be affected by row-level security") as caught:
                audit(conn, rules, "note", people="person")

    assert caught.value.hint


def test_who_may_not_read_the_table_is_told_so(shared: Database) -> None:
    with shared.connect_as_app() as conn, pytest.raises(PlanError, match="permission denied for table note") as caught:
        audit(conn, shared.rules(ANY), "note")

    assert caught.value.hint == "connect as a role that may read the whole table"


# --- what it does to the database ------------------------------------------------------------------------------------


def test_it_takes_no_lock_but_that_of_reading_and_scans_once(shared: Database) -> None:
    with shared.connect() as writer, shared.connect() as conn:
        writer.execute("lock table note in exclusive mode")
        conn.execute("set local lock_timeout = '2s'")
        audit(conn, shared.rules(ANY), "note", people="person")
        scans = conn.execute(
            "select seq_scan + coalesce(idx_scan, 0) from pg_stat_xact_user_tables where relname = 'note'"
        ).fetchone()
        conn.rollback()
        writer.rollback()

    assert scans == (1,)


def test_an_idle_connection_is_idle_afterwards(shared: Database) -> None:
    with shared.connect() as conn:
        audit(conn, shared.rules(ANY), "note")
        assert conn.info.transaction_status == TransactionStatus.IDLE
        assert conn.execute("select current_setting('row_security'), current_setting('transaction_read_only')").fetchone() == ("on", "off")  # fmt: skip


def test_nothing_can_be_written_on_the_way(shared: Database) -> None:
    with shared.connect() as conn:
        conn.execute("create function writes() returns text language sql as 'delete from public.note returning owner'")
        conn.execute("create view writing as select writes() as sub, 'x' as username")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            audit(conn, shared.rules(ANY), "note", people="writing")
        conn.rollback()


# --- what cannot be asked --------------------------------------------------------------------------------------------

EDITORS = allow.owners_defined_in("editors")
REFUSALS: dict[str, tuple[Callable[[], TableRules], str, type[RlskitError], str, str]] = {
    "no rules": (
        lambda: ANY, "nte", PlanError,
        "table `nte` has no rules", "did you mean `note`?",
    ),
    "open": (
        lambda: TableRules("note", Open(reason="reference data")), "note", PlanError,
        "table `public.note` is open to read: reference data", "only a table with owner rules has owners",
    ),
    "no table": (
        lambda: TableRules("notes", allow.owner()), "notes", PlanError,
        "table `public.notes` does not exist", "did you mean `note`?",
    ),
    "a view": (
        lambda: TableRules("seen", allow.owner()), "seen", PlanError,
        "`public.seen` is no table, and PostgreSQL has no row security there", "put the rules on its tables",
    ),
    "no column": (
        lambda: TableRules("note", allow.owner_defined_in("onwer")), "note", UnknownColumnError,
        'table `public.note` has no column `onwer`, which allow.owner_defined_in("onwer") names', "did you mean `owner`?",
    ),
    "no column like it": (
        lambda: TableRules("note", allow.owner_defined_in("by")), "note", UnknownColumnError,
        'table `public.note` has no column `by`, which allow.owner_defined_in("by") names',
        "apply the rules first: that adds it, and it names nobody yet",
    ),
    "a list": (
        lambda: TableRules("note", allow.owner_defined_in("editors")), "note", UnsupportedRuleError,
        'column `editors` of table `public.note` is text[], and allow.owner_defined_in("editors") does not fit it',
        'write allow.owners_defined_in("editors")',
    ),
    "a number": (
        lambda: TableRules("note", allow.owner_defined_in("id")), "note", UnsupportedRuleError,
        "column `id` of table `public.note` cannot hold an owner exactly", "`rlskit plan` says why: make it an ordinary text column",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_asked_is_refused_with_the_way_out(name: str, shared: Database) -> None:
    rules, table, kind, message, hint = REFUSALS[name]
    with shared.connect() as conn:
        conn.execute("create view seen as select * from note")
        with pytest.raises(kind) as caught:
            audit(conn, shared.rules(rules()), table)
        conn.rollback()

    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("people", "kind", "message", "hint"),
    [
        ("persons", PlanError, "table `public.persons` does not exist", "did you mean `person`?"),
        ("x.person", PlanError, "table `x.person` does not exist", "schema `x` has no table or view of a similar name"),
        (
            "note",
            UnknownColumnError,
            "`public.note` has no column `sub`, which people are known by",
            "a view can give them the names `sub` and `username`; known: `id`, `owner`, `editors`",
        ),
    ],
)
def test_people_have_to_be_there(
    people: str, kind: type[RlskitError], message: str, hint: str, shared: Database
) -> None:
    with shared.connect() as conn, pytest.raises(kind) as caught:
        audit(conn, shared.rules(ANY), "note", people=people)

    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_the_table_may_be_named_in_every_way(shared: Database) -> None:
    rules = Rules(ANY, role=shared.app)
    with shared.connect() as conn:
        found = {audit(conn, rules, name) for name in ("note", "public.note", rules.tables[0].name)}

    assert len(found) == 1


def test_no_name_of_a_row_comes_out(shared: Database) -> None:
    rules = TableRules("note", allow.owner(), EDITORS, match="full")
    words = " ".join((*audited(shared, rules).findings, *audited(shared, rules).notes, repr(audited(shared, rules))))
    secrets = {name for owner, editors in ROWS.values() for name in (owner, *(editors or ())) if name}

    assert {name for name in secrets if name in words} == set()
