"""The proof, on a real database: green where the rules are in force, and red for each protection that is taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest

from rlskit import Open, Rules, TableRules, Unmanaged, allow, catalog, compiler, ddl, plan
from rlskit.demo import RULES as DEMO
from rlskit.errors import PlanError, TransactionInProgressError
from rlskit.prover import Proof, Rehearsal, prove, rehearse
from rlskit.prover.rehearsal import chosen_tables, prepare
from rlskit.prover.stage import LoginStage, TransactionStage
from tests.support import Database, Server, assert_ordinary, fresh_database

SCHEMA = """
create schema app;
create schema "Shop";
create table app.account (id uuid primary key, name text not null);
create table app.project (
  id bigint generated always as identity primary key,
  title varchar(40) not null,
  owner uuid not null references app.account,
  state text not null default 'open' check (state in ('open', 'closed'))
);
create table app.task (
  id uuid primary key default gen_random_uuid(),
  project_id bigint not null references app.project,
  title text not null check (length(title) > 2),
  author text,
  editors text[],
  rating int,
  unique (project_id, title)
);
create table app.profile (owner text primary key, bio text);
create table "Shop"."Order" (
  "Id" serial primary key,
  "Payer" varchar(45) not null,
  payee text,
  total numeric(10, 2) not null check (total > 0),
  "internalNote" text
);
create table app.country (code char(2) primary key, name text not null unique);
create table app.hidden (id serial primary key, owner text not null);
create table app.kept (id serial primary key, owner text not null, note text not null);
create table app.never (id serial primary key, owner text, editors text[] not null default '{}');
create table app.keyless (owner text, note text);
create table app.board (name text, note text);
"""

TABLES = (
    TableRules(
        "project",
        allow.owner().identity_claim("sub"),
        columns={"state": [allow.same().to("read", "update"), allow.owner().identity_claim("sub").to("create")]},
    ),
    TableRules(
        "task",
        allow.owner_defined_in("author"),
        allow.owners_defined_in("editors").to("read", "update"),
        columns={
            "author": allow.same().to("read", "delete"),
            "rating": [allow.same().to("read"), allow.owner_defined_in("author").to("create", "update")],
        },
    ),
    TableRules("profile", allow.owner(), match="full"),
    TableRules(
        "Order",
        allow.owner_defined_in("Payer").identity_claim("email").to("create", "read", "update"),
        allow.owner_defined_in("payee").match("full", "sub").to("read"),
        columns={"internalNote": []},
        schema="Shop",
    ),
    TableRules("country", Open(reason="reference data")),
    TableRules("hidden", allow.owner(), columns={"id": [allow.same().to("create", "delete")]}),
    TableRules("kept", allow.owner(), reassign="explicit"),
    TableRules("never", allow.owner(), allow.owners_defined_in("editors"), reassign="never"),
    TableRules("keyless", allow.owner()),
    TableRules("board", Open(reason="a wall", to=("create", "read", "update", "delete"))),
)
NAMES = [f"{each.table}" for each in TABLES]
TODO = TableRules("todo", allow.owner(), columns={"secret": allow.same().to("delete")}, schema="public")


@pytest.fixture(scope="module")
def fresh(server: Server) -> Iterator[Database]:
    with fresh_database(server, "prove") as made:
        yield made


@pytest.fixture(scope="module")
def rules(fresh: Database) -> Rules:
    """A schema as there are many, and its rules in force."""
    fresh.execute(SCHEMA, "create table todo (id serial primary key, content text, secret text)")
    fresh.execute("create table app.odd (id serial primary key, owner text, p text not null check (md5(p) = 'x'))")
    with fresh.connect() as conn:
        conn.execute("insert into app.board values ('there', 'before')")
    odd = TableRules("odd", allow.owner())
    return fresh.apply(*TABLES, odd, TODO, schema="app")


@pytest.fixture(scope="module")
def ready(server: Server) -> Iterator[tuple[psycopg.Connection[Any], Rehearsal]]:
    """A table whose cells are all proved, and the transaction in which protections can be taken away."""
    with fresh_database(server, "prove") as database:
        database.execute("create table todo (id serial primary key, content text, secret text)")
        rules = database.apply(TODO)
        with database.connect() as conn, rehearse(conn, rules) as rehearsal:
            proof = Proof([rehearsal.prove(each) for each in rehearsal.cells])
            assert proof.clean, str(proof)
            yield conn, rehearsal


def proved(database: Database, rules: Rules, *tables: str) -> Proof:
    with database.connect() as conn:
        return prove(conn, rules, *tables)


def everything(database: Database) -> object:
    """What could be left behind: rows, roles, databases, keys."""
    schemas = "('app', 'Shop', 'public', 'rlskit')"
    with database.connect() as conn:
        tables = conn.execute(
            f"select oid::regclass::text from pg_class where relkind = 'r' and relnamespace in (select oid from pg_namespace where nspname in {schemas})".encode()
        ).fetchall()
        rows = {name: conn.execute(f"select count(*) from {name}".encode()).fetchone() for (name,) in sorted(tables)}
        roles = conn.execute("select rolname from pg_roles order by 1").fetchall()
    return rows, roles


# --- green -----------------------------------------------------------------------------------------------------------


def test_a_database_that_keeps_its_rules_is_proved_and_left_as_it_was(fresh: Database, rules: Rules) -> None:
    before = everything(fresh)
    proof = proved(fresh, rules, *NAMES)

    assert (str(proof) if proof.red or proof.findings else "", proof.clean) == ("", True)
    assert {each.cell.table for each in proof.results} == {
        each.name for each in rules.tables if each.name.name not in ("todo", "odd")
    }
    assert everything(fresh) == before


def test_where_identities_are_signed_the_proof_signs_with_a_key_of_its_own(server: Server) -> None:
    with fresh_database(server, "prove") as database:
        database.execute("create table todo (id serial primary key, content text, secret text)")
        rules = database.apply(TODO, mode="signed")
        proof = proved(database, rules)

        assert (proof.clean, database.rows("select count(*) from rlskit.key")) == (True, [(0,)])
        assert any(each.cell.person == "spoofed: the owner without a signature" for each in proof.results)
        with database.connect() as conn, rehearse(conn, rules) as rehearsal:
            spoofed = [probe for cell in rehearsal.cells for probe in cell.probes if not probe.person.introduced]
            assert {probe.person.identity for probe in spoofed} == {None}


def test_the_demo_is_proved_as_a_superuser_has_made_it(server: Server) -> None:
    """Its tables belong to a superuser, whom no row security binds; whoever has his rights alone is bound all the same."""
    with fresh_database(server, "prove") as database, database.connect() as conn:
        for table in DEMO.tables:
            conn.execute(f"create table {table.name.name} (id serial primary key, content text)".encode())
        conn.commit()
        rules = Rules(*DEMO.tables, role=database.app)
        plan(conn, rules).apply(conn)
        proof = prove(conn, rules, "todo", "board")
        conn.execute("alter table todo no force row level security")
        conn.commit()

        assert proof.clean
        assert red(prove(conn, rules, "todo")) == ["read by the table's owner"]


def test_an_ordinary_login_is_answered_the_same(fresh: Database, rules: Rules) -> None:
    """The questions are asked again on a real connection of the application's own login."""
    with fresh.connect() as conn, fresh.connect_as_app() as ordinary:
        assert_ordinary(ordinary)
        with catalog.reading(conn):
            database = catalog.read(conn, compiler.compile(rules).tables, rules.role)
        cells, filler = prepare(conn, rules, chosen_tables(rules, ["public.todo"]), database)
        conn.commit()
        try:
            with conn.transaction(force_rollback=True):
                owners = {name: facts.owner for name, facts in database.tables.items()}
                stage = LoginStage(ordinary, TransactionStage(conn, rules.role, owners))
                asked = [probe for cell in cells for probe in cell.probes]
                answers = [stage.perform(probe).answer.outcome for probe in asked]
        finally:
            conn.execute("delete from todo")
            conn.commit()

        assert len(filler.made) >= 5
        assert answers == [probe.expected for probe in asked]


# --- red -------------------------------------------------------------------------------------------------------------


def red(proof: Proof) -> list[str]:
    return [each.name for each in proof.red]


TAKEN_AWAY = {
    "policy dropped": ("drop policy rlskit_select on todo", "read by owner"),
    "read policy open": ("alter policy rlskit_select on todo using (true)", "read by stranger"),
    "update policy open": ("alter policy rlskit_update on todo using (true)", "update by stranger"),
    "delete policy open": ("alter policy rlskit_delete on todo using (true)", "delete by nobody"),
    "update check open": ("alter policy rlskit_update on todo with check (true)", "update by owner"),
    "insert check open": ("alter policy rlskit_insert on todo with check (true)", "create by stranger"),
    "row security off": ("alter table todo disable row level security", "read by stranger"),
    "not forced": ("alter table todo no force row level security", "read by the table's owner"),
    "column opened": ("grant select (secret) on todo to {app}", "read by owner"),
    "column opened to write": ("grant update (secret) on todo to {app}", "update by owner"),
    "column opened to create": ("grant insert (secret) on todo to {app}", "create by owner"),
    "privilege taken": ("revoke update (content) on todo from {app}", "update by owner"),
    "default dropped": ("alter table todo alter column owner drop default", "create by owner"),
    "check dropped": ("alter table todo drop constraint rlskit_owner_check", "create by whoever bypasses the rules"),
    "trigger disabled": ("alter table todo disable trigger zz_rlskit_reassign", "update by owner"),
    "owner changed at the commit": (
        "create function steal() returns trigger language plpgsql security definer as"
        " $$ begin update todo set owner = 'thief' where id = new.id; return null; end $$;"
        " create constraint trigger steal after insert on todo deferrable initially deferred for each row execute function steal()",
        "create by owner",
    ),
    "policy for everybody": ("create policy everybody on todo for select to public using (true)", "read by stranger"),
    "moving arm open": (
        "alter policy rlskit_select on todo using"
        " (owner = any ((select rlskit.identities())::text[]) or owner = current_setting('rlskit.moving_to', true))",
        "read by spoofed: a row on its way",
    ),
    "full name joined": (
        "alter policy rlskit_select on todo using (owner = concat(current_setting('rlskit.sub', true), '::', current_setting('rlskit.username', true))"
        " or owner = current_setting('rlskit.username', true) or owner = current_setting('rlskit.sub', true))",
        "read by spoofed: the full name as username",
    ),
    "any case": (
        "alter policy rlskit_select on todo using (lower(owner) = any ((select rlskit.identities())::text[] || lower(rlskit.identity())))",
        "read by spoofed: in capitals",
    ),
    "pattern": (
        "alter policy rlskit_select on todo using (owner like any ((select rlskit.identities())::text[]))",
        "read by spoofed: a pattern",
    ),
    "sub is enough": (
        "alter policy rlskit_select on todo using (owner = any ((select rlskit.identities())::text[]) or owner = rlskit.claim('sub'))",
        "read by half identity: no username",
    ),
}


@pytest.mark.parametrize(("statement", "cell"), TAKEN_AWAY.values(), ids=TAKEN_AWAY)
def test_a_protection_that_is_taken_away_is_a_red_cell(
    ready: tuple[psycopg.Connection[Any], Rehearsal], statement: str, cell: str
) -> None:
    conn, rehearsal = ready
    (asked,) = [each for each in rehearsal.cells if f"{each.operation} by {each.person}" == cell]
    with conn.transaction(force_rollback=True):
        conn.execute(statement.format(app=rehearsal.rules.role).encode())

        assert not rehearsal.prove(asked).proved


def test_a_red_proof_says_where_who_what_and_why(server: Server) -> None:
    with fresh_database(server, "prove") as database:
        database.execute("create table note (id serial primary key, content text)")
        rules = database.apply(TableRules("note", allow.owner()))
        database.execute("alter policy rlskit_delete on note using (true)")
        proof = proved(database, rules)
    told = str(proof)

    assert [each.kind for each in proof.findings] == ["differences"]
    assert "red: public.note, delete by stranger" in told
    assert "expected not visible, PostgreSQL says allowed: 1 row" in told
    assert "the rules: no rule with delete names the caller in the row" in told
    assert 'statement: delete from "public"."note" where current of rlskit_row' in told
    assert "1 difference: public.note: alter policy rlskit_delete for delete" in told.splitlines()[0]
    assert (
        f"{proof.proved:,} of {proof.total:,} cells are as the rules say, and prove nothing: see the first line" in told
    )
    assert told.count("\nred: ") == 5
    assert f"and {len(proof.red) - 5} more: --format json or --junit FILE has them all" in told


def test_a_database_without_the_rules_is_asked_nothing(server: Server) -> None:
    with fresh_database(server, "prove") as database:
        database.execute("create table note (id serial primary key, content text)")
        proof = proved(database, database.rules(TableRules("note", allow.owner())))

    assert [each.kind for each in proof.findings] == ["runtime", "no policies"]
    assert (proof.total, proof.clean, proof.to_dict()["asked"]) == (0, False, False)
    assert "nothing was asked" in str(proof)
    assert "rlskit apply" in str(proof).splitlines()[-1]
    assert ElementTree.fromstring(proof.junit()).get("failures") == "2"


def test_an_aborted_transaction_is_no_verdict(ready: tuple[psycopg.Connection[Any], Rehearsal]) -> None:
    conn, rehearsal = ready
    with conn.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("select from gone")
        with pytest.raises(PlanError, match="was aborted"):
            rehearsal.prove(rehearsal.cells[0])


def test_the_partitions_of_others_are_asked_about_without_a_row_of_theirs(server: Server) -> None:
    with fresh_database(server, "prove") as database:
        database.execute(
            "create table log (id int primary key, owner text) partition by range (id)",
            "create table rest partition of log default",
        )
        rules = database.apply(TableRules("log", allow.owner()))
        database.execute(
            f"grant delete, update on rest to {database.app}", "alter table rest disable row level security"
        )
        proof = proved(database, rules)
    asked = {
        (each.probe.attempt.operation, ddl.text(each.probe.attempt.statement).partition(" where ")[2], each.did)
        for result in proof.red
        for each in result.failures
        if result.cell.person == "owner, naming a part"
    }

    assert asked == {(each, "false", "allowed: 0 rows") for each in ("update", "delete")}


def test_values_of_a_table_that_is_not_there_are_refused(fresh: Database, rules: Rules) -> None:
    with fresh.connect() as conn, pytest.raises(PlanError, match=r"`app[.]contry`") as caught:
        prove(conn, rules, "country", values={"app.contry": {"code": "AT"}})

    assert caught.value.hint == "did you mean `app.country`?"


def test_a_finding_alone_is_red(fresh: Database, rules: Rules) -> None:
    with fresh.connect(autocommit=True) as conn:
        conn.execute(f"alter role {fresh.app} bypassrls".encode())
        try:
            proof = prove(conn, rules, "country")
        finally:
            conn.execute(f"alter role {fresh.app} nobypassrls".encode())
    suites = ElementTree.fromstring(proof.junit())

    assert ([each.kind for each in proof.findings], len(proof.red), proof.clean) == (["bypassrls"], 0, False)
    assert str(proof).endswith("cells are as the rules say, and prove nothing: see the first line")
    assert suites[0].get("name") == "database"


def test_a_row_that_cannot_be_made_is_a_red_cell_with_its_reason(fresh: Database, rules: Rules) -> None:
    proof = proved(fresh, rules, "odd")

    assert (proof.total, proof.proved, proof.clean) == (4, 0, False)
    assert str(proof).count("its rows could not be made") == 1
    assert "--values" in str(proof)
    assert "rlskit plan" not in str(proof)


def test_a_table_that_was_forgotten_is_told(server: Server) -> None:
    """And only where the role reaches it; what the rules leave alone on purpose is not forgotten."""
    with fresh_database(server, "forgotten") as database:
        database.execute(
            "create table todo (id serial primary key)",
            *(f"create table {name} (id int)" for name in ("secret", "own", "versions")),
            *(f"grant select (id), delete on {name} to {database.app}" for name in ("secret", "versions")),
        )
        rules = database.apply(TableRules("todo", allow.owner()), TableRules("versions", Unmanaged(reason="a tool's")))
        proof = proved(database, rules)

    assert (proof.clean, [str(each) for each in proof.beside]) == (True, ["public.secret (select, delete)"])
    assert "note: no rule names what the role reaches all the same: public.secret (select, delete)\n" in str(proof)
    assert proof.to_dict()["unruled"] == [{"table": "public.secret", "privileges": ["select", "delete"]}]


def test_nothing_to_prove_is_red() -> None:
    proof = Proof(())

    assert (proof.total, proof.clean) == (0, False)
    assert "0 of 0 cells proved" in str(proof)
    assert ElementTree.fromstring(proof.junit()).get("failures") == "1"


# --- who may -------------------------------------------------------------------------------------------------------


def test_whoever_is_no_superuser_is_refused(fresh: Database, rules: Rules) -> None:
    with fresh.connect_as_owner() as conn, pytest.raises(PlanError, match="superuser"):
        prove(conn, rules)


def test_a_connection_in_a_transaction_is_refused(fresh: Database, rules: Rules) -> None:
    with fresh.connect() as conn:
        conn.execute("select 1")
        with pytest.raises(TransactionInProgressError):
            prove(conn, rules)


def test_a_table_without_rules_is_refused(fresh: Database, rules: Rules) -> None:
    with fresh.connect() as conn, pytest.raises(PlanError, match="has no rules"):
        prove(conn, rules, "tood")


# --- what it is told in ----------------------------------------------------------------------------------------------


def test_junit_and_json_tell_the_same(fresh: Database, rules: Rules) -> None:
    proof = proved(fresh, rules, "public.todo")
    root, data = ElementTree.fromstring(proof.junit()), json.loads(json.dumps(proof.to_dict()))
    suite = root[0]

    assert (root.tag, suite.tag, suite.get("name")) == ("testsuites", "testsuite", "public.todo")
    assert (suite.get("tests"), suite.get("failures")) == (str(proof.total), "0")
    assert [case.get("name") for case in suite] == [
        f"{each['operation']} by {each['person']}" for each in data["tables"][0]["cells"]
    ]
    assert (data["clean"], data["cells"], data["proved"]) == (True, proof.total, proof.total)


def test_a_seed_gives_the_same_people_again(fresh: Database, rules: Rules) -> None:
    with fresh.connect() as conn:
        people = []
        for _ in range(2):
            with rehearse(conn, rules, "public.todo", seed=1) as rehearsal:
                people.append([probe.person for cell in rehearsal.cells for probe in cell.probes])

    assert people[0] == people[1]
