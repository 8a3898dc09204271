"""Rules come in stages: what nobody notices, what binds the application, what binds the owner too; and nothing is loosened on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any, get_args

import psycopg
import pytest

from rlskit import Rules, TableRules, allow, as_user, catalog, plan
from rlskit.errors import ForeignObjectError, RuleError
from rlskit.planner import Plan, by_stage, compare
from rlskit.stages import MEANINGS, STAGES, Stage
from tests.plan.test_interruption import Mortal
from tests.support import ALICE, BOB, Database, full, perform

EDITORS = allow.owners_defined_in("editors")
TODO = TableRules(
    "todo", allow.owner(), EDITORS.to("read", "update"), columns={"content": [allow.owner(), EDITORS.to("read")]}
)
MAKE = (
    "create table todo (id serial primary key, content text, owner text not null default 'the house')",
    f"insert into todo (content, owner) values ('hers', '{full(ALICE)}'), ('his', '{full(BOB)}')",
    "create index todo_content on todo (content)",
)


@pytest.fixture
def todo(database: Database) -> Database:
    """A table with rows, without rules, and an application that may do everything with it."""
    make(database)
    return database


def make(database: Database) -> None:
    database.execute(
        "drop schema if exists rlskit cascade",
        "drop table if exists todo",
        *MAKE,
        f"grant select, insert, update, delete on todo to {database.app}",
        f"grant usage, select on sequence todo_id_seq to {database.app}",
    )


def reach(database: Database, stage: Stage, *tables: TableRules, **options: Any) -> Plan:
    """Apply the rules up to a stage, and return the plan that did it."""
    with database.connect_as_owner() as conn:
        made = plan(conn, database.rules(*(tables or [TODO]), **options), stage=stage)
        made.apply(conn)
    return made


def flags(database: Database) -> tuple[bool, bool]:
    """ENABLE and FORCE."""
    (found,) = database.rows("select relrowsecurity, relforcerowsecurity from pg_class where oid = 'todo'::regclass")
    return found[0], found[1]


def privileges(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("select relacl::text from pg_class where relname in ('todo', 'todo_id_seq') order by relname")


def catalogue(database: Database, rules: Rules) -> tuple[object, ...]:
    """All that plans compare, with the marks, which a comparison leaves out."""
    with database.connect_as_owner() as conn, catalog.reading(conn):
        found = catalog.read(conn, [each.name for each in rules.tables], rules.role)
    marks = sorted((*each.key, each.mark or "") for each in found.state.objects)
    return (found.state, found.tables, found.foreign, found.functions, marks)


# --- what belongs where ----------------------------------------------------------------------------------------------


def test_each_stage_does_its_own(todo: Database) -> None:
    kinds = {}
    for stage in STAGES:
        made = reach(todo, stage)
        kinds[stage] = sorted({step.after.kind if step.after else step.phase for step in made if step.phase != "proof"})

    assert kinds == {
        "indexes": ["column", "index"],
        "policies": ["policy", "runtime", "trigger"],
        "enable": ["check", "default", "grant", "row security", "table", "usage"],
        "force": ["row security"],
    }
    assert (flags(todo), todo.plan(TODO).conforms) == ((True, True), True)


def test_a_stage_contains_those_before_it(todo: Database) -> None:
    steps = {}
    with todo.connect_as_owner() as conn:
        for stage in STAGES:
            steps[stage] = {step.statements for step in plan(conn, todo.rules(TODO), stage=stage)}

    assert steps["indexes"] < steps["policies"] < steps["enable"] < steps["force"]


def test_every_stage_says_what_it_means() -> None:
    assert (tuple(MEANINGS), get_args(Stage)) == (STAGES, STAGES)


def test_a_stage_that_is_none_is_refused(todo: Database) -> None:
    with todo.connect_as_owner() as conn, pytest.raises(RuleError) as caught:
        plan(conn, todo.rules(TODO), stage="polices")  # type: ignore[arg-type]

    assert (caught.value.message, caught.value.hint) == ("`polices` is no stage", "did you mean `policies`?")


def test_the_plan_says_which_stage_it_is_and_what_is_next(todo: Database) -> None:
    for stage, following in pairwise(STAGES):
        made, again = reach(todo, stage), reach(todo, stage)
        last = f"Next is stage {following}: {MEANINGS[following]}."

        assert str(made).splitlines()[-2:] == [f"This is stage {stage}: {MEANINGS[stage]}.", last]
        assert str(again).splitlines() == [f"Stage {stage} is reached: 1 table, nothing to do.", last]
        assert again.conforms


def test_what_is_missing_is_counted_by_stage(todo: Database) -> None:
    with todo.connect_as_owner() as conn:
        counts = [by_stage(compare(conn, todo.rules(TODO)).steps)]
        for stage in STAGES:
            reach(todo, stage)
            counts.append(by_stage(compare(conn, todo.rules(TODO)).steps))

    assert counts == [
        "3 steps of stage indexes, 7 steps of stage policies, 14 steps of stage enable, 1 step of stage force",
        "7 steps of stage policies, 14 steps of stage enable, 1 step of stage force",
        "14 steps of stage enable, 1 step of stage force",
        "1 step of stage force",
        "",
    ]


# --- what the application sees ---------------------------------------------------------------------------------------

OLD_APPLICATION = [
    "insert into todo (content) values ('new') returning content, owner",
    "insert into todo (content, owner) values ('new', '') returning content, owner",
    "insert into todo (content, owner) values ('new', 'somebody') returning content, owner",
    "update todo set content = 'changed' where content = 'his' returning content, owner",
    f"update todo set owner = '{full(BOB)}' where content = 'hers' returning content, owner",
    "update todo set owner = '' where content = 'hers' returning content, owner",
    "select content, owner from todo order by id",
    "delete from todo where content = 'his' returning content, owner",
    "truncate todo",
]


def answers(database: Database) -> list[object]:
    """What an application that tells nobody who is asking gets for each of its statements, none of which stays."""
    found: list[object] = []
    with database.connect_as_app() as conn:
        for statement in OLD_APPLICATION:
            try:
                found.append(conn.execute(statement).fetchall())
            except psycopg.Error as error:
                found.append(str(error))
            conn.rollback()
    return found


@pytest.mark.parametrize("stage", ["indexes", "policies"])
def test_an_application_that_knows_no_identity_notices_nothing(stage: Stage, todo: Database) -> None:
    before, granted = answers(todo), privileges(todo)
    reach(todo, stage)

    assert (answers(todo), privileges(todo), flags(todo)) == (before, granted, (False, False))


def test_one_that_says_who_is_asking_writes_owners_before_the_rules_bind(database: Database) -> None:
    database.execute("create table todo (id serial, content text)", f"grant select, insert on todo to {database.app}")
    database.execute(f"grant usage on sequence todo_id_seq to {database.app}")
    reach(database, "policies", TableRules("todo", allow.owner()))
    perform(database, ALICE, "insert into todo (content) values ('milk')")

    assert database.rows("select owner, content from todo") == [(full(ALICE), "milk")]
    assert perform(database, BOB, "select content from todo") == [("milk",)]


def test_no_stage_before_enable_lets_anybody_in(todo: Database) -> None:
    """A privilege on a schema or a sequence would open what no rule closes yet."""
    todo.execute("revoke usage on schema public from public", f"revoke all on sequence todo_id_seq from {todo.app}")
    reach(todo, "policies")
    with todo.connect_as_app() as conn, pytest.raises(psycopg.errors.UndefinedTable):
        conn.execute("select from todo")
    reach(todo, "enable")

    assert perform(todo, ALICE, "select content from todo") == [("hers",)]


def test_enable_binds_the_application_and_force_the_owner(todo: Database) -> None:
    reach(todo, "enable")
    assert perform(todo, ALICE, "select content, owner from todo") == [("hers", full(ALICE))]
    assert perform(todo, BOB, "insert into todo (content) values ('new') returning owner") == [(full(BOB),)]
    with todo.connect_as_owner() as owner:
        assert owner.execute("select count(*) from todo").fetchone() == (3,)
    assert flags(todo) == (True, False)

    reach(todo, "force")
    with todo.connect_as_owner() as owner:
        assert owner.execute("select count(*) from todo").fetchone() == (0,)
    assert flags(todo) == (True, True)


def test_signatures_are_required_when_the_rules_bind(todo: Database) -> None:
    signed = "select rlskit.is_signed()"
    reach(todo, "policies", mode="signed")
    assert todo.rows(signed) == [(False,)]
    reach(todo, "enable", mode="signed")

    assert todo.rows(signed) == [(True,)]


# --- nothing is loosened, and no half of a change --------------------------------------------------------------------


def test_a_table_in_force_stays_so_at_every_stage(todo: Database) -> None:
    reach(todo, "force")
    before = catalogue(todo, todo.rules(TODO))
    for stage in STAGES:
        assert len(reach(todo, stage)) == 0

    assert catalogue(todo, todo.rules(TODO)) == before


WIDER = TableRules("todo", allow.owner(), allow.owner_defined_in("content").to("read"), columns={"owner": []})


@pytest.mark.parametrize("reached", ["enable", "force"])
def test_a_change_of_rules_in_force_is_one_transaction(reached: Stage, todo: Database) -> None:
    """Policies alone, without what they take away in privileges, would show more than the old rules and the new."""
    reach(todo, reached)
    indexes = reach(todo, "indexes", WIDER)
    assert [step.after and step.after.kind for step in indexes] == []
    made = reach(todo, "policies", WIDER)

    assert {step.after.kind if step.after else "dropped" for step in made} >= {"policy", "dropped"}
    assert {step.stage for step in made.later} == ({"force"} if reached == "enable" else set())
    assert flags(todo) == (True, reached == "force")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        perform(todo, ALICE, "select owner from todo")


def test_row_security_that_somebody_switches_on_by_hand_finds_the_policies(todo: Database) -> None:
    reach(todo, "policies")
    todo.execute("alter table todo enable row level security")
    assert perform(todo, ALICE, "select content from todo") == [("hers",)]
    made = reach(todo, "policies")

    assert "check" in {step.after.kind for step in made if step.after}
    assert (by_stage(made.later), flags(todo)) == ("1 step of stage force", (True, False))


@pytest.mark.parametrize("reached", ["policies", "force"])
def test_a_table_that_leaves_the_rules_is_closed_at_one_go(reached: Stage, todo: Database) -> None:
    todo.execute("create table other (id int)")
    reach(todo, reached)
    policies = "select count(*) from pg_policy where polrelid = 'todo'::regclass"
    other = TableRules("other", allow.owner())
    reach(todo, "policies", other)
    kept = reached == "policies"
    assert todo.rows(policies) == [(4 if kept else 0,)]
    assert (f"{todo.app}=arwd" in privileges(todo)[0][0], flags(todo)) == (kept, (not kept, not kept))
    reach(todo, "force", other)

    assert todo.rows(policies) == [(0,)]
    assert todo.app not in privileges(todo)[0][0]


# --- in whatever order, the same end ---------------------------------------------------------------------------------

PATHS: list[tuple[Stage, ...]] = [
    ("indexes", "policies", "enable", "force"),
    ("enable", "indexes", "policies", "force"),
]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_stages_end_where_one_apply_does(path: tuple[Stage, ...], todo: Database) -> None:
    reach(todo, "force")
    at_once = catalogue(todo, todo.rules(TODO))
    make(todo)
    for stage in path:
        reach(todo, stage)

    assert catalogue(todo, todo.rules(TODO)) == at_once


def test_a_stage_that_was_cut_off_is_finished_by_any_later_one(todo: Database) -> None:
    reach(todo, "force")
    at_once = catalogue(todo, todo.rules(TODO))
    make(todo)
    for stage in STAGES[:3]:
        with todo.connect_as_owner() as planning:
            made = plan(planning, todo.rules(TODO), stage=stage)
        with closing(Mortal.connect(todo.owner_dsn)) as conn:
            conn.statements_left = 12
            try:
                made.apply(conn)
            except psycopg.OperationalError:
                continue
    reach(todo, "force")

    assert catalogue(todo, todo.rules(TODO)) == at_once


def test_a_partitioned_table_goes_through_the_stages_with_its_parts(database: Database) -> None:
    database.execute(
        "create table todo (id int, region text, content text, owner text) partition by list (region)",
        "create table a_part partition of todo for values in ('a')",
        f"insert into todo values (1, 'a', 'hers', '{full(ALICE)}')",
        f"grant select on todo, a_part to {database.app}",
    )
    rules = TableRules("todo", allow.owner())
    on = "select relname::text from pg_class where relrowsecurity order by 1"
    reach(database, "policies", rules)
    assert database.rows(on) == []
    with database.connect_as_app() as app:
        assert app.execute("select content from a_part").fetchall() == [("hers",)]
    reach(database, "enable", rules)

    assert database.rows(on) == [("a_part",), ("todo",)]
    assert perform(database, ALICE, "select content from todo") == [("hers",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        perform(database, ALICE, "select content from a_part")


# --- what rlskit did not make ----------------------------------------------------------------------------------------

LEGACY = "create policy legacy on todo using (true)"


@pytest.fixture
def undone(todo: Database) -> Iterator[Database]:
    todo.execute(LEGACY, "grant truncate on todo to public")
    return todo


def test_what_undoes_the_rules_hinders_no_stage_in_which_they_do_not_bind(undone: Database) -> None:
    for stage in ("indexes", "policies"):
        made = reach(undone, stage)
        assert (made.undoing, len(made.foreign)) == ((), 2)
    with pytest.raises(ForeignObjectError):
        reach(undone, "enable")

    assert flags(undone) == (False, False)


def test_it_hinders_from_policies_on_where_row_security_is_on(undone: Database) -> None:
    undone.execute("alter table todo enable row level security")
    reach(undone, "indexes")
    with pytest.raises(ForeignObjectError):
        reach(undone, "policies")


def test_a_policy_of_the_same_name_hinders_from_policies_on(todo: Database) -> None:
    todo.execute("create policy rlskit_select on todo using (true)")
    reach(todo, "indexes")
    with pytest.raises(ForeignObjectError):
        reach(todo, "policies")
    with todo.connect_as_owner() as conn:
        plan(conn, todo.rules(TODO), stage="policies").apply(conn, prune_foreign=True)
        assert plan(conn, todo.rules(TODO), stage="policies").conforms


def test_the_connection_of_one_who_asks_is_guarded_at_every_stage(todo: Database) -> None:
    for stage in STAGES[1:]:
        reach(todo, stage)
        with todo.connect_as_app() as conn, as_user(conn, ALICE):
            assert conn.execute("select content from todo where content = 'hers'").fetchall() == [("hers",)]
