"""The matrix as tests: the same names in every worker and on every database, green for right rules, and red with what the proof tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rlskit import Open, TableRules, Unmanaged, allow
from rlskit.errors import KitError, PlanError
from rlskit.prover.people import PAST_THE_RULES, TABLE_OWNER
from rlskit.rules import Rules
from rlskit.server import Running
from rlskit.testing import MatrixCell, TestDatabase, TestServer, factories, proving
from rlskit.testing.cases import cases, cells_of
from rlskit.testing.templates import Recipe, template
from tests.kit.conftest import ROLE, RULES, SCHEMA
from tests.kit.test_plugin import INI
from tests.kit.test_plugin import RULES as FILE

SUITE = """
from rlskit.testing import rls_matrix

@rls_matrix("rlskit.toml")
def test_access(cell, rlskit_db):
    rlskit_db.prove(cell)
"""
EVERYTHING = Rules(
    *RULES.tables,
    TableRules("category", Open(reason="the same for everybody")),
    TableRules("ledger", allow.owner(), columns={"total": []}),
    TableRules("person", allow.owner_defined_in("id").identity_claim("sub"), reassign="never"),
    role=ROLE,
)
MORE = """
revoke select on category from public;
create table ledger (id integer, owner text not null, total numeric not null default 0) partition by range (id);
create table ledger_1 partition of ledger for values from (0) to (2000000000);
create table person (id uuid primary key default gen_random_uuid(), name text);
"""


def case(rules: Rules, name: str) -> MatrixCell:
    (found,) = [each for each in cases(rules) if str(each) == name]
    return found


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_names_are_of_the_rules_alone() -> None:
    names = [str(each) for each in cases(RULES, "todo")]

    assert names == [
        *(f"todo-create-{each}" for each in ("owner", "stranger", "nobody", "half identity", "spoofed")),
        *(
            f"todo-{operation}-{each}"
            for operation in ("read", "update", "delete")
            for each in ("owner", "stranger", "nobody", "half identity", "spoofed", "former owner")
        ),
        "todo-around the rules",
    ]


def test_a_list_of_owners_has_co_owners_and_an_open_table_has_no_owner() -> None:
    people = {str(table): {each.person for each in cases(EVERYTHING, table)} for table in ("board", "category")}

    assert people["board"] - people["category"] == {"owner", "co-owner", "former owner"}


def test_a_table_of_another_schema_says_so() -> None:
    rules = Rules(TableRules("todo", allow.owner()), TableRules("app.todo", allow.owner()), role=ROLE)

    assert {str(each).partition("-")[0] for each in cases(rules)} == {"todo", "app.todo"}
    assert len({str(each) for each in cases(rules)}) == len(cases(rules))


def test_rules_that_nobody_can_be_asked_about_are_refused() -> None:
    with pytest.raises(KitError, match="the matrix has no cell"):
        cases(Rules(TableRules("todo", Unmanaged(reason="alembic's")), role=ROLE))
    with pytest.raises(PlanError, match="tdo"):
        cases(RULES, "tdo")


# --- what is proved --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(kit: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("everything")
    (root / "schema.sql").write_text(SCHEMA + MORE, encoding="utf-8")
    return Recipe(rules=EVERYTHING, load=("schema.sql",), root=root)


@pytest.mark.parametrize(("isolation", "tables"), [("database", ["board", "ledger"]), ("transaction", ["person"])])
def test_right_rules_are_proved_in_both_isolations(
    kit: TestServer, everything: Recipe, isolation: str, tables: list[str]
) -> None:
    with factories.for_test(kit, everything, isolation) as db:  # type: ignore[arg-type]
        for each in cases(EVERYTHING, *tables):
            db.prove(each)
        if isolation == "database":
            assert (db.stored("ledger"), db.stored("board")) == ([], [])


def test_every_cell_of_a_proof_is_some_tests(kit: TestServer, everything: Recipe) -> None:
    """And but for what the database brings, none is left to the test of the rest."""
    made = template(kit, everything)
    for table in EVERYTHING.tables:
        mine = cases(EVERYTHING, table.name)
        cells = proving._rows(kit, made, mine[0]).cells
        taken = [each for one in mine for each in cells_of(one, cells)]
        rest = {each.person for each in cells_of(mine[-1], cells)}

        assert sorted(taken, key=str) == sorted(cells, key=str)
        assert {each for each in rest if not each.endswith("naming a part")} <= {TABLE_OWNER.name, PAST_THE_RULES.name}
        assert any(each.endswith("naming a part") for each in rest) == (table.name.name == "ledger")


def test_signed_identities_are_proved(kit: TestServer, everything: Recipe) -> None:
    rules = Rules(*RULES.tables, role=ROLE, mode="signed")
    with factories.for_test(kit, replace(everything, rules=rules), "transaction") as db:
        for each in cases(rules, "todo"):
            db.prove(each)


def test_a_table_whose_rows_cannot_be_made_is_red(kit: TestServer, tmp_path: Path) -> None:
    """Unless it is said what they hold."""
    (tmp_path / "schema.sql").write_text(
        "create function is_code(code text) returns boolean language sql immutable as $$ select md5(code) = md5('A-' || 1) $$;"
        "create table todo (id serial primary key, code text not null check (is_code(code)), owner text)",
        encoding="utf-8",
    )
    rules = Rules(TableRules("todo", allow.owner()), role=ROLE)
    with factories.for_test(kit, Recipe(rules=rules, load=("schema.sql",), root=tmp_path), "transaction") as db:
        for name in ("todo-read-owner", "todo-around the rules"):
            with pytest.raises(AssertionError, match=f"{name} is red\n(.|\n)*its rows could not be made"):
                db.prove(case(rules, name))
        for each in cases(rules, values={"todo": {"code": "A-1"}})[:2]:
            db.prove(each)


def test_a_matrix_of_other_rules_is_refused(db: TestDatabase) -> None:
    with pytest.raises(KitError, match="other rules than the database"):
        db.prove(cases(EVERYTHING)[0])


# --- what is red -----------------------------------------------------------------------------------------------------

WEAKENED: dict[str, tuple[str, str, str]] = {
    "a policy taken away": (
        "drop policy rlskit_select on todo",
        "todo-read-owner",
        "the owner's row: expected allowed, PostgreSQL says not visible",
    ),
    "row security off": (
        "alter table todo disable row level security",
        "todo-read-stranger",
        "the owner's row: expected not visible, PostgreSQL says allowed: 1 row",
    ),
    "FORCE missing": (
        "alter table todo no force row level security",
        "todo-around the rules",
        "red: public.todo, read by the table's owner",
    ),
    "a policy for everybody": (
        "create policy all_of_it on todo for delete to public using (true)",
        "todo-delete-nobody",
        "found by a cursor and not by WHERE: expected not visible, PostgreSQL says allowed",
    ),
    "a privilege too many": (
        f"grant update (owner) on todo to {ROLE}",
        "todo-update-owner",
        "`owner`: expected refused, PostgreSQL says allowed",
    ),
    "a privilege of the tests' own login": (
        "grant update (owner) on todo to {login}",
        "todo-update-owner",
        "`owner`: expected refused, PostgreSQL says allowed",
    ),
    "a check taken away": (
        "alter table todo drop constraint rlskit_owner_check",
        "todo-around the rules",
        "an empty name: expected refused, PostgreSQL says allowed",
    ),
    "a trigger that writes owners": (
        "create function join_in() returns trigger language plpgsql as $$ begin new.owners := array_append(new.owners, 'x'); return new; end $$;"
        "create trigger join_in before insert on board for each row execute function join_in()",
        "board-create-owner",
        "allowed, and the owner is stored otherwise than the rules say",
    ),
}


@pytest.fixture
def weakened(kit: TestServer, everything: Recipe) -> Callable[[str], TestDatabase]:
    """What the fixture would give after somebody has changed the database by hand; the kit refuses it where it notices."""

    def weaken(statement: str) -> TestDatabase:
        made = template(kit, everything)
        name = kit.create_database(made.owner.name, made.name)
        with closing(kit.connect(name)) as conn:
            conn.execute(statement.replace("{login}", made.login.name).encode())
        return TestDatabase(kit, replace(made, name=name), name, "database")

    return weaken


@pytest.mark.parametrize("how", WEAKENED)
def test_a_weakened_protection_is_red(weakened: Callable[[str], TestDatabase], how: str) -> None:
    statement, name, message = WEAKENED[how]
    with pytest.raises(AssertionError) as caught:
        weakened(statement).prove(case(EVERYTHING, name))
    told = str(caught.value)

    assert told.startswith(f"{name} is red\nred: public.")
    assert message in told
    assert "\n    the rules: " in told
    assert "\n    statement: " in told
    assert told.endswith(
        "\nhint: rlskit plan says what differs from the rules, and rlskit apply brings the table back to them"
    )


def test_what_is_asked_of_no_row_is_red(db: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "cells_of", lambda *_: ())
    with pytest.raises(AssertionError, match="nothing was asked, so board-create-owner is not proved"):
        db.prove(cases(RULES)[0])


# --- in a suite ------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("RLSKIT_TEST_DSN", "RLSKIT_REQUIRE_DB", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makefile(".toml", pyproject=INI, rlskit=FILE)
    (pytester.path / "schema.sql").write_text(SCHEMA, encoding="utf-8")
    pytester.makepyfile(test_access=SUITE)
    return pytester


def test_each_cell_is_a_test_of_its_own(suite: pytest.Pytester, embedded: Running) -> None:
    """In whatever worker; and the cells are known before there is a server."""
    collected = suite.runpytest_inprocess("--collect-only", "-q", "--rlskit-dsn", "host=/nowhere")
    result = suite.runpytest_subprocess("-v", "-n2", "-k", "board or delete", "--rlskit-dsn", embedded.dsn)

    collected.stdout.fnmatch_lines_random(["test_access.py::test_access[[]todo-update-stranger]"])
    result.assert_outcomes(passed=33)
    result.stdout.fnmatch_lines_random(["*PASSED test_access.py::test_access[[]board-update-co-owner] "])


def test_where_isolation_was_not_said_nothing_is_copied(suite: pytest.Pytester, embedded: Running) -> None:
    suite.makepyfile(
        test_access="""
        import pytest
        from rlskit.testing import rls_matrix

        @rls_matrix("rlskit.toml", "public.todo")
        def test_unsaid(cell, rlskit_db):
            assert rlskit_db.isolation == "transaction"

        @rls_matrix("rlskit.toml", "todo", values={"todo": {"content": "said"}})
        @pytest.mark.rlskit(isolation="database")
        def test_said(cell, rlskit_db):
            assert rlskit_db.isolation == "database"
            assert dict(cell.values) == {"todo": (("content", "said"),)}
        """
    )
    result = suite.runpytest_inprocess("-k", "create and stranger", "--rlskit-dsn", embedded.dsn)

    result.assert_outcomes(passed=2, deselected=46)


def test_a_database_that_differs_is_told_before_anything_is_asked(suite: pytest.Pytester, embedded: Running) -> None:
    suite.makeconftest(
        """
        import psycopg
        import rlskit.testing

        def weakened(statement):
            def load(dsn):
                with psycopg.connect(dsn, autocommit=True) as conn:
                    rlskit.plan(conn, rlskit.load("rlskit.toml")).apply(conn)
                    conn.execute(statement)
            return rlskit.testing.database(rules="rlskit.toml", load=["schema.sql", load])

        bare = weakened("drop policy rlskit_select on todo")
        off = weakened("alter table todo disable row level security")
        unforced = weakened("alter table todo no force row level security")
        """
    )
    suite.makepyfile(
        test_access="""
        from rlskit.testing import rls_matrix

        @rls_matrix("rlskit.toml", "todo")
        def test_bare(cell, bare):
            bare.prove(cell)

        @rls_matrix("rlskit.toml", "todo")
        def test_off(cell, off):
            off.prove(cell)

        @rls_matrix("rlskit.toml", "todo")
        def test_unforced(cell, unforced):
            unforced.prove(cell)
        """
    )
    result = suite.runpytest_inprocess("-k", "read and owner and not former", "--rlskit-dsn", embedded.dsn)

    result.assert_outcomes(errors=3, deselected=69)
    result.stdout.fnmatch_lines(
        [
            "*E700 a green test would mean nothing in this database: * differs from the rules: *policy*rlskit_select*",
            "*E700 a green test would mean nothing in this database: *todo* row *",
            "*E700 a green test would mean nothing in this database: *todo* not forced*",
        ]
    )


WRONG = {
    "no cell": ("@rls_matrix({'role': 'app_user', 'tables': {}})", "the matrix has no cell"),
    "no such table": ("@rls_matrix('rlskit.toml', 'tdo')", "table `tdo` has no rules"),
    "no rules": ("@rls_matrix('missing.toml')", "*missing.toml*"),
    "twice": (
        "@rls_matrix('rlskit.toml', 'todo')\n@rls_matrix('rlskit.toml', 'board')",
        "it stands here more than once",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_matrix_is_an_error_when_tests_are_collected(suite: pytest.Pytester, what: str) -> None:
    decorator, message = WRONG[what]
    suite.makepyfile(
        test_access=f"from rlskit.testing import rls_matrix\n{decorator}\ndef test_access(cell, rlskit_db): ...\n"
    )
    result = suite.runpytest_inprocess("--rlskit-server", "embedded")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*rls_matrix: *{message}*"])


def test_a_test_that_does_not_take_its_cell_is_told(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_access="from rlskit.testing import rls_matrix\n@rls_matrix('rlskit.toml')\ndef test_access(rlskit_db): ...\n"
    )
    result = suite.runpytest_inprocess("--rlskit-server", "embedded")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["rls_matrix: test_access does not take the cell"])
