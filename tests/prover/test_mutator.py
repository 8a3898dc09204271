"""Each protection is weakened once in a database that keeps its rules, and a cell of the proof has to turn red."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlskit import Open, TableRules, allow, catalog, demo, plan, prover
from rlskit.cli.shared import app
from rlskit.names import QualifiedName
from rlskit.prover import Mutations, mutator
from rlskit.prover.mutants import Mutant, mutants
from tests.support import Database, Server, fresh_database

SCHEMA = """
create table country (code char(2) primary key, name text not null);
create table article (
  id int generated always as identity primary key, title text not null, body text, fee int, editors text[], owner text,
  slug text generated always as (lower(title)) stored, country char(2) not null default 'AT' references country
);
create schema "Log";
create table "Log"."Event" (id bigserial, at date not null, holder uuid, primary key (id, at)) partition by range (at);
create table "Log".rest partition of "Log"."Event" default;
"""
RULES = (
    TableRules("country", Open(reason="reference data")),
    TableRules(
        "article",
        allow.owner(),
        allow.owners_defined_in("editors").to("read", "update"),
        columns={
            "title": [allow.owner(), allow.owners_defined_in("editors").to("read")],
            "owner": allow.same().to("read", "delete"),
            "fee": allow.same().to("read", "delete"),
        },
    ),
    TableRules(
        "Log.Event",
        allow.owner_defined_in("holder").identity_claim("sub"),
        columns={"holder": allow.same().to("create", "read", "delete")},
        reassign="never",
    ),
)
ARTICLE = QualifiedName("public", "article")


@pytest.fixture(scope="module")
def ruled(server: Server) -> Iterator[Database]:
    with fresh_database(server, "mutated") as database:
        database.execute(SCHEMA, "insert into country values ('AT', 'Austria')")
        database.apply(*RULES)
        yield database


@pytest.fixture(scope="module")
def mutated(ruled: Database) -> tuple[Mutations, Any, Any]:
    """What came of all mutants, and the database before and after."""
    rules = ruled.rules(*RULES)
    names = [each.name for each in rules.tables]

    def state() -> Any:
        with ruled.connect() as conn, catalog.reading(conn):
            return catalog.read(conn, names, rules.role)

    before = state()
    with ruled.connect() as conn:
        return prover.mutate(conn, rules), before, state()


@pytest.fixture(scope="module")
def made(ruled: Database) -> dict[str, Mutant]:
    """The mutants of the tables, by table and words."""
    rules = ruled.rules(*RULES)
    names = [each.name for each in rules.tables]
    with ruled.connect() as conn, catalog.reading(conn):
        found = list(mutants(catalog.read(conn, names, rules.role), names, rules.role))
    by_words = {f"{each.table.name}: {each.what}": each for each in found}

    assert len(by_words) == len(found)
    return by_words


# --- what is weakened ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mutant",
    [
        "article: policy rlskit_select: USING is true",
        "article: policy rlskit_update: WITH CHECK is true",
        "Event: policy rlskit_delete: dropped",
        "article: grant insert: granted on the whole table",
        "article: grant insert: granted on owner",
        "country: grant delete: granted on the whole table",
        "article: grant update: revoked",
        "article: check rlskit_editors_check: dropped",
        "article: default of owner: dropped",
        "article: default of owner: the same name for everybody",
        "article: trigger zz_rlskit_reassign: dropped",
        "article: trigger 00_rlskit_update_title: disabled",
        "article: row security: disabled",
        "article: row security: no longer forced",
        "article: usage on schema public: revoked",
        "Event: usage on sequence Event_id_seq: revoked",
        "Event: default of holder: the same name for everybody",
        "Event: row security of part Log.rest: no longer forced",
        "Event: grant select of part Log.rest: granted on the whole table",
        "country: grant insert: granted on the whole table",
    ],
)
def test_each_kind_of_protection_is_weakened(made: dict[str, Mutant], mutant: str) -> None:
    assert mutant in made


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param("country: policy rlskit_select: USING is true", id="a condition that is true already"),
        pytest.param("Event: grant insert: granted on the whole table", id="no column is left to be granted"),
        pytest.param("article: grant insert: granted on slug", id="a generated column is written by nobody"),
        pytest.param("Event: check rlskit_holder_check: dropped", id="a uuid is never empty"),
        pytest.param("article: default of country: dropped", id="a default that is not rlskit's"),
        pytest.param("country: usage on schema public: revoked", id="a schema once, and not for each of its tables"),
    ],
)
def test_what_would_change_nothing_is_no_mutant(made: dict[str, Mutant], mutant: str) -> None:
    assert mutant not in made


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_every_mutant_of_a_real_schema_is_caught_or_stands_behind_another_protection(
    mutated: tuple[Mutations, Any, Any],
) -> None:
    mutations, _, _ = mutated

    assert [f"{each.mutant.table} {each.mutant.what}: {each.obstacle}" for each in mutations.survivors] == []
    assert (mutations.proof.clean, mutations.clean) == (True, True)


def test_every_mutant_of_the_demo_is_caught(server: Server) -> None:
    """Its tables are those of the superuser who made them. All of them on one server, and on others that one with the most protections."""
    tables = [each for each in demo.RULES.tables if server.major == 18 or each.name.name == "todo_protected"]
    with fresh_database(server, "demo") as database:
        rules = database.rules(*tables)
        with database.connect(autocommit=True) as conn:
            for table in rules.tables:
                conn.execute(f"create table {table.name.name} (id serial primary key, content text)".encode())
        with database.connect() as conn:
            plan(conn, rules).apply(conn)
            mutations = prover.mutate(conn, rules)

    assert mutations.clean, str(mutations)
    assert len(mutations.results) > 18 * len(tables)
    assert {each.mutant.what: each.behind.partition(":")[0] for each in mutations.behind} == {
        "usage on schema public: revoked": "the same privilege, which the role has through PUBLIC or another role",
        "policy rlskit_update: WITH CHECK is true": "a privilege that nobody has",
    }


@pytest.mark.parametrize(
    ("what", "operation", "person"),
    [
        ("policy rlskit_select: USING is true", "read", "stranger"),
        ("policy rlskit_update: USING is true", "update", "stranger"),
        ("policy rlskit_delete: USING is true", "delete", "stranger"),
        ("check rlskit_owner_check: dropped", "create", "whoever bypasses the rules"),
        ("default of owner: dropped", "create", "owner"),
        ("row security: no longer forced", "read", "the table's owner"),
    ],
)
def test_a_mutant_is_caught_by_the_cell_that_it_is_about(
    mutated: tuple[Mutations, Any, Any], what: str, operation: str, person: str
) -> None:
    (mutation,) = (
        each for each in mutated[0].results if (each.mutant.what, each.mutant.table.name) == (what, "article")
    )

    assert mutation.caught_by is not None
    assert (mutation.caught_by.operation, mutation.caught_by.person) == (operation, person)


@pytest.mark.parametrize(
    ("table", "what", "behind"),
    [
        ("article", "usage on schema public: revoked", "PUBLIC"),
        ("country", "grant insert: granted on the whole table", "row security"),
        ("Event", "policy rlskit_update: WITH CHECK is true", "grant update"),
        ("Event", "grant insert of part Log.rest: granted on the whole table", "row security"),
    ],
)
def test_what_another_protection_makes_good_is_decided_by_the_server(
    mutated: tuple[Mutations, Any, Any], table: str, what: str, behind: str
) -> None:
    (mutation,) = (each for each in mutated[0].results if (each.mutant.table.name, each.mutant.what) == (table, what))

    assert (mutation.caught_by, mutation.survived) == (None, False)
    assert behind in mutation.behind


def test_what_several_protections_make_good_together_is_no_survivor(server: Server) -> None:
    """The policy's check is behind the guard trigger of a list that must not be NULL, as no grant alone would tell."""
    with fresh_database(server, "several") as database:
        database.execute(
            "create table article (id serial primary key, title text not null, created_by text, editors text[] not null)"
        )
        owner, editors = allow.owner_defined_in("created_by"), allow.owners_defined_in("editors")
        rules = database.apply(
            TableRules(
                "article",
                owner,
                editors.to("read", "update"),
                columns={"created_by": allow.same().to("read", "delete"), "editors": [owner, editors.to("read")]},
            )
        )
        with database.connect() as conn:
            with catalog.reading(conn):
                found = list(mutants(catalog.read(conn, [ARTICLE], rules.role), [ARTICLE], rules.role))
            (check,) = (each for each in found if each.what == "policy rlskit_update: WITH CHECK is true")
            with prover.rehearse(conn, rules) as rehearsal:
                # As in `mutate`: what could stand before it is among the mutants, and only this one is asked about.
                conn.execute("set constraints all immediate")
                mutation = mutator._Run(conn, rehearsal, found, lambda line: None)._result(check)

    assert (mutation.survived, mutation.behind) == (False, "trigger 00_rlskit_update_editors")


def test_nothing_of_it_is_left(mutated: tuple[Mutations, Any, Any], ruled: Database) -> None:
    _, before, after = mutated

    assert (before.state, before.foreign) == (after.state, after.foreign)
    assert ruled.rows("select count(*) from article union all select count(*) from country order by 1") == [(0,), (1,)]
    assert ruled.rows("select rolname from pg_roles where rolname like 'rlskit%%'") == []


def test_a_mutant_that_no_cell_asks_about_survives(ruled: Database, made: dict[str, Mutant]) -> None:
    """Of the proof, only reading is left: what reading does not tell is not noticed."""
    rules = ruled.rules(*RULES)
    wanted = [
        "policy rlskit_select: USING is true",
        "policy rlskit_update: USING is true",
        "policy rlskit_insert: dropped",
    ]
    chosen = [made[f"article: {each}"] for each in wanted]
    with ruled.connect() as conn, prover.rehearse(conn, rules, "article") as rehearsal:
        only_reading = replace(rehearsal, cells=tuple(each for each in rehearsal.cells if each.operation == "read"))
        proof = prover.Proof([only_reading.prove(each) for each in only_reading.cells])
        mutations = Mutations(proof, mutator.mutate(conn, only_reading, chosen))

    assert [each.mutant.what for each in mutations.survivors] == wanted[1:]
    assert (proof.clean, mutations.clean) == (True, False)
    assert "survived: public.article, policy rlskit_update: USING is true" in str(mutations)
    assert "without this protection others' rows are open to update, and no cell turns red" in str(mutations)
    assert str(mutations).endswith("1 of 3 mutants caught, 2 survived")


def test_a_mutant_that_cannot_be_made_is_a_survivor(ruled: Database, made: dict[str, Mutant]) -> None:
    rules = ruled.rules(*RULES)
    gone = replace(made["article: policy rlskit_select: dropped"], statements=("drop policy gone on article",))
    with ruled.connect() as conn, prover.rehearse(conn, rules, "article") as rehearsal:
        (mutation,) = mutator.mutate(conn, rehearsal, [gone])

    assert (mutation.survived, mutation.obstacle) == (True, 'policy "gone" for table "article" does not exist')


# --- what is said of it ----------------------------------------------------------------------------------------------


def test_red_cells_are_said_first_and_nothing_is_weakened(server: Server) -> None:
    with fresh_database(server, "red") as database:
        database.execute("create table todo (id serial primary key, owner text)")
        rules = database.apply(TableRules("todo", allow.owner()))
        database.execute("alter table todo disable row level security")
        with database.connect() as conn:
            mutations = prover.mutate(conn, rules)

    assert (mutations.results, mutations.clean) == ((), False)
    assert str(mutations).startswith("nothing was weakened: ")
    assert "row security" in str(mutations)


def test_no_mutant_at_all_is_no_success(mutated: tuple[Mutations, Any, Any]) -> None:
    none = Mutations(mutated[0].proof)

    assert (none.clean, str(none)) == (False, "0 mutants: nothing that these tables have could be weakened")


def test_the_mutants_as_json(mutated: tuple[Mutations, Any, Any]) -> None:
    said = json.loads(json.dumps(mutated[0].to_dict()))
    first = next(each for each in said["results"] if each["mutant"] == "policy rlskit_delete: dropped")

    assert (said["clean"], said["survivors"], said["mutants"]) == (True, 0, len(mutated[0].results))
    assert first["caught_by"] == {"operation": "delete", "person": "owner"}
    assert first["statements"] == ['drop policy "rlskit_delete" on "Log"."Event"']


def test_the_command_weakens_a_copy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_database(server, "command") as database:
        database.execute("create table todo (id serial primary key, content text not null)")
        database.apply(TableRules("todo", allow.owner()))
        (tmp_path / "rlskit.toml").write_text(
            f'role = "{database.app}"\n[tables.todo]\nallow = [{{ owner = "owner" }}]\n'
        )
        monkeypatch.chdir(tmp_path)
        command = ["test", "todo", "--mutate", "--dsn", database.superuser_dsn]
        clean = CliRunner().invoke(app, command)
        database.execute("drop policy rlskit_delete on todo")
        red = CliRunner().invoke(app, [*command, "--format", "json"])

        assert database.rows("select datname from pg_database where starts_with(datname, 'rlskit_proof_')") == []
    assert (clean.exit_code, red.exit_code) == (0, 1), clean.output
    page = (Path(__file__).parents[2] / "docs/how-to/proving.md").read_text(encoding="utf-8")
    assert f"$ rlskit test todo --mutate\n{clean.stdout}```\n" in page
    assert ("copied to `rlskit_proof_" in clean.stderr, "mutant 1 of " in clean.stderr) == (True, True)
    assert re.search(r"^\d+ seconds$", clean.stderr, re.MULTILINE)
    assert (json.loads(red.stdout)["proved"], json.loads(red.stdout)["mutants"]) == (False, 0)
