"""The directives of `op`, one by one: carried out, printed by `--sql`, refused before anything is changed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from alembic import op as theirs
from alembic.operations import MigrateOperation
from alembic.util import CommandError
from sqlalchemy import Column, Integer, Table, Text
from sqlalchemy.exc import DBAPIError

import rlskit
from rlskit import TableRules, allow, runtime
from rlskit.alembic import op
from rlskit.alembic.directives import _registers, directives
from rlskit.alembic.statements import lent
from rlskit.errors import ForeignObjectError, PlanError, RuntimeVersionError
from tests.revisions.conftest import Project, snapshot
from tests.revisions.stubs import stub
from tests.support import ALICE, BOB, perform


@pytest.fixture
def ruled(project: Project) -> Project:
    """A project whose table todo has its rules, and whose owner is bound by them."""
    Table("todo", project.metadata, Column("id", Integer, primary_key=True), Column("content", Text))
    project.rule(TableRules("todo", allow.owner()))
    project.autogenerate()
    project.upgrade()
    perform(project.database, ALICE, "insert into todo (content) values ('milk')")
    return project


def refusal(error: pytest.ExceptionInfo[CommandError]) -> type[BaseException]:
    assert error.value.__cause__ is not None
    return type(error.value.__cause__)


# --- offline ---------------------------------------------------------------------------------------------------------


def test_the_sql_that_is_printed_makes_the_same_database(ruled: Project) -> None:
    assert ruled.rules is not None
    with ruled.database.connect() as conn:
        made = snapshot(conn, ruled.rules)
    up, down = ruled.sql("head"), ruled.sql("head:base", down=True)
    ruled.downgrade("base")

    with ruled.database.connect_as_owner(autocommit=True) as conn:
        conn.execute("drop table alembic_version")
        conn.execute(up)
    with ruled.database.connect() as conn:
        assert snapshot(conn, ruled.rules) == made

    with ruled.database.connect_as_owner(autocommit=True) as conn:
        conn.execute(down)
        assert conn.execute("select to_regclass('todo'), to_regnamespace('rlskit')").fetchone() == (None, None)


def test_percent_signs_colons_and_tabs_stay_as_they_are(project: Project) -> None:
    """A claim may be called so; Alembic's own text would double the one, take the other for a parameter, and make spaces of a tab."""
    Table("todo", project.metadata, Column("id", Integer, primary_key=True))
    project.rule(TableRules("todo", allow.owner().identity_claim("custom:100% %(x)s :y\t")))
    project.autogenerate()

    assert "'custom:100% %(x)s :y\t'" in project.sql("head")
    project.upgrade()
    assert project.compare().conforms
    assert "op.alter_policy" not in project.autogenerate()


def test_what_looks_a_name_up_does_so_in_pg_catalog(ruled: Project) -> None:
    """Or else an operator of anybody's would get into a policy; and what the migration has set is put back."""
    ruled.database.execute(
        "create function always(text, text) returns bool immutable language sql return true",
        "create operator public.<> (leftarg = text, rightarg = text, function = always)",
    )
    ruled.write(
        'op.execute("set local search_path = public, pg_catalog")\n'
        f"    op.alter_policy('rlskit_delete', 'todo', to='{ruled.database.app}', using=\"owner <> 'x'\")\n"
        "    assert op.get_bind().exec_driver_sql('show search_path').scalar() == 'public, pg_catalog'"
    )
    ruled.upgrade()

    assert ruled.database.rows("select qual from pg_policies where policyname = 'rlskit_delete'") == [
        ("(owner <> 'x'::text)",)
    ]
    with ruled.database.connect() as conn:
        conn.execute("set search_path = ''")
        assert "OPERATOR" not in str(
            conn.execute("select qual from pg_policies where policyname = 'rlskit_delete'").fetchone()
        )


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_policy_of_that_name_that_is_not_rlskits(ruled: Project) -> None:
    ruled.database.execute("create policy mine on todo using (true)")
    ruled.write(f"op.create_policy('mine', 'todo', command='select', to='{ruled.database.app}', using='true')")

    with pytest.raises(CommandError, match=r"the policy `mine` is not rlskit's, but bears this name") as error:
        ruled.upgrade()

    assert refusal(error) is ForeignObjectError
    assert 'op.drop_policy("mine", "todo")' in str(error.value)


def test_autogenerate_refuses_while_a_foreign_policy_lets_the_role_past_the_rules(ruled: Project) -> None:
    ruled.database.execute("create policy mine on todo using (true)")
    revisions = len(list((ruled.folder / "versions").glob("*.py")))

    with pytest.raises(CommandError, match="policy `mine` is not rlskit's") as error:
        ruled.autogenerate()

    assert refusal(error) is ForeignObjectError
    assert len(list((ruled.folder / "versions").glob("*.py"))) == revisions


def test_the_runtime_is_missing(project: Project) -> None:
    project.database.execute("create table todo (owner text)")
    project.write(f"op.create_policy('mine', 'todo', command='select', to='{project.database.app}', using='true')")

    with pytest.raises(CommandError, match="the schema rlskit is not in this database") as error:
        project.upgrade()

    assert refusal(error) is RuntimeVersionError


def test_a_revision_that_is_newer_than_the_package(project: Project) -> None:
    project.write("op.install_rlskit('9999')")

    with pytest.raises(
        CommandError, match=r"needs version 9999 of the schema rlskit, and this package knows \d+"
    ) as error:
        project.upgrade()

    assert refusal(error) is RuntimeVersionError


def test_a_runtime_that_is_newer_than_the_revision_stays(ruled: Project) -> None:
    ruled.database.execute("update rlskit.version set version_num = '9999'")
    ruled.write("op.install_rlskit('0001')")

    ruled.upgrade()

    assert ruled.database.rows("select version_num from rlskit.version") == [("9999",)]


def test_an_older_runtime_is_upgraded_by_autogenerate(ruled: Project) -> None:
    ruled.database.execute("update rlskit.version set version_num = '0000'")
    # What there was before the first release is not known; a function that is missing stands for it.
    assert f"op.install_rlskit('{runtime.version()}')" in ruled.autogenerate()


def test_a_runtime_that_was_changed_by_hand_is_put_back(ruled: Project) -> None:
    ruled.database.execute(
        "create or replace function rlskit.identities() returns text[] language plpgsql as $$ begin return array['a1f0::alice']; end $$"
    )

    assert "op.install_rlskit(" in ruled.autogenerate()
    ruled.upgrade()

    assert ruled.compare().conforms
    ruled.downgrade()
    assert ruled.compare().conforms  # nobody puts the change back


def test_a_role_that_is_not_there(ruled: Project) -> None:
    ruled.write("op.grant_privileges('todo', to='nobody_here', select=['id'])")

    with pytest.raises(CommandError, match="role `nobody_here` does not exist") as error:
        ruled.upgrade()

    assert refusal(error) is PlanError


def test_a_table_that_is_not_there(ruled: Project) -> None:
    ruled.write("op.enable_rls('todo', schema='elsewhere')")

    with pytest.raises(CommandError, match=r"table `elsewhere\.todo` does not exist"):
        ruled.upgrade()


def test_a_migration_role_that_lacks_the_rights(ruled: Project) -> None:
    """Said before anything is changed, and with the owner's name."""
    with ruled.database.connect(autocommit=True) as conn:
        conn.execute("create table other (id int)")
    ruled.write("op.enable_rls('other')")

    with pytest.raises(CommandError, match=r"may not alter table `public\.other`, which belongs to") as error:
        ruled.upgrade()

    assert refusal(error) is PlanError


def test_the_runtime_is_not_taken_away_while_a_table_rests_on_it(ruled: Project) -> None:
    ruled.write("op.uninstall_rlskit()")

    with pytest.raises(CommandError, match=r"in use by 1 table, first `public\.todo`"):
        ruled.upgrade()

    assert ruled.compare().conforms


def test_nobody_said_which_rules(project: Project) -> None:
    """Or else `alembic check` would call a database clean that nobody has looked at."""
    env = project.folder / "env.py"
    env.write_text(env.read_text().replace('given["options"]["rls_rules"] = given["rules"]', "pass"))

    with pytest.raises(CommandError, match=r"context\.configure\(…, rls_rules=rules\)"):
        project.autogenerate()


def test_rules_that_are_none(project: Project) -> None:
    project.rules = "rlskit.toml"  # type: ignore[assignment]

    with pytest.raises(CommandError, match="`rls_rules` is a str"):
        project.autogenerate()


def test_a_table_of_the_rules_that_the_migration_drops(ruled: Project) -> None:
    ruled.metadata.clear()

    with pytest.raises(CommandError, match=r"table `public\.todo` has rules, and the migration drops it"):
        ruled.autogenerate()


def test_a_column_of_the_rules_that_the_models_lack(project: Project) -> None:
    Table("todo", project.metadata, Column("id", Integer, primary_key=True), Column("content", Text))
    project.rule(TableRules("todo", allow.owner(), columns={"contnt": allow.same().to("read")}))

    with pytest.raises(CommandError, match="did you mean `content`"):
        project.autogenerate()


def test_another_driver(project: Project) -> None:
    class Driver:
        driver_connection = object()

    class Connection:
        connection = Driver()
        dialect = type("Dialect", (), {"driver": "asyncpg"})

    with pytest.raises(PlanError, match="`asyncpg`"), lent(Connection()):  # type: ignore[arg-type]
        pass


# --- rls_suspended ---------------------------------------------------------------------------------------------------

FORCED = "select relrowsecurity and relforcerowsecurity from pg_class where oid = 'todo'::regclass"


def test_a_data_migration_reaches_every_row(ruled: Project) -> None:
    ruled.write("with op.rls_suspended('todo'):\n        op.execute(\"update todo set content = upper(content)\")")

    ruled.upgrade()

    assert ruled.database.rows("select content from todo") == [("MILK",)]
    assert ruled.database.rows(FORCED) == [(True,)]


def test_without_it_a_data_migration_reaches_none(ruled: Project) -> None:
    ruled.write('op.execute("update todo set content = upper(content)")')

    ruled.upgrade()

    assert ruled.database.rows("select content from todo") == [("milk",)]


def test_the_printed_suspension_does_the_same(ruled: Project) -> None:
    ruled.write("with op.rls_suspended('todo'):\n        op.execute(\"update todo set content = upper(content)\")")
    head = ruled.sql(f"{_current(ruled)}:head")

    with ruled.database.connect_as_owner(autocommit=True) as conn:
        conn.execute(head)

    assert ruled.database.rows("select content from todo") == [("MILK",)]
    assert ruled.database.rows(FORCED) == [(True,)]


def _current(project: Project) -> str:
    return str(project.database.rows("select version_num from alembic_version")[0][0])


@pytest.mark.parametrize(
    "failing",
    [
        "raise ZeroDivisionError",
        "op.execute('select 1 / 0')",
        "op.execute(\"update todo set content = upper(content)\"); op.get_bind().exec_driver_sql('select 1 / 0')",
    ],
    ids=["Python", "SQL", "half done"],
)
def test_an_error_inside_leaves_all_as_it_was(ruled: Project, failing: str) -> None:
    ruled.write(f"with op.rls_suspended('todo'):\n        {failing}")

    with pytest.raises((ZeroDivisionError, DBAPIError)):
        ruled.upgrade()

    assert ruled.database.rows("select content from todo") == [("milk",)]
    assert ruled.database.rows(FORCED) == [(True,)]


def test_an_error_that_is_caught_outside_does_not_leave_it_lifted(ruled: Project) -> None:
    ruled.write(
        "try:\n        with op.rls_suspended('todo'):\n            raise ZeroDivisionError\n    except ZeroDivisionError:\n        pass"
    )

    ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(True,)]


@pytest.mark.parametrize(
    "ending",
    [
        "with op.get_context().autocommit_block():\n            pass",
        "op.get_bind().get_transaction().commit()",
        "with op.rls_suspended('note'):\n            pass\n        op.get_bind().get_transaction().commit()",
    ],
    ids=["autocommit_block", "commit", "after another table's"],
)
def test_a_commit_inside_is_refused(ruled: Project, ending: str) -> None:
    ruled.database.execute("create table note (id int)", "alter table note force row level security")
    ruled.write(f"with op.rls_suspended('todo'):\n        {ending}")

    with pytest.raises(CommandError, match="a commit while row security is lifted would leave it so"):
        ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(True,)]


def test_a_commit_past_sqlalchemy_is_noticed_and_mended(ruled: Project) -> None:
    ruled.write("with op.rls_suspended('todo'):\n        op.execute('commit')")

    with pytest.raises(CommandError, match="the transaction was ended while row security was lifted"):
        ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(True,)]


def test_two_tables_at_once(ruled: Project) -> None:
    ruled.database.execute("create table note (id int)", "alter table note force row level security")
    ruled.write(
        "with op.rls_suspended('todo'), op.rls_suspended('note'):\n        op.execute(\"update todo set content = upper(content)\")"
    )

    ruled.upgrade()

    assert ruled.database.rows("select content from todo") == [("MILK",)]
    assert ruled.database.rows("select relforcerowsecurity from pg_class where relname in ('todo', 'note')") == [
        (True,),
        (True,),
    ]


def test_a_savepoint_from_inside_is_not_gone_back_to(ruled: Project) -> None:
    """There row security would still be lifted, and the migration would commit it."""
    ruled.write(
        """bind = op.get_bind()
    try:
        with op.rls_suspended('todo'):
            inside = bind.begin_nested()
            op.execute('select 1 / 0')
    except Exception:
        inside.rollback()"""
    )

    with pytest.raises(DBAPIError, match=r"savepoint .* does not exist"):
        ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(True,)]


def test_what_is_deferred_has_to_be_settled_first(ruled: Project) -> None:
    ruled.database.execute(
        "alter table todo add column after int references todo (id) deferrable initially deferred",
    )
    writing = "with op.rls_suspended('todo'):\n        op.execute('update todo set after = id')"
    ruled.write(writing)

    with pytest.raises(CommandError, match=r"pending trigger events\nhint: .*set constraints all immediate"):
        ruled.upgrade()

    path = next(path for path in (ruled.folder / "versions").glob("*.py") if writing in path.read_text())
    path.write_text(
        path.read_text().replace(writing, f"{writing}\n        op.execute('set constraints all immediate')")
    )
    ruled.upgrade()
    assert ruled.database.rows("select id = after from todo") == [(True,)]


def test_directives_are_refused_without_a_transaction(project: Project) -> None:
    """Before anything is changed: half of them would stay."""
    project.write("op.install_rlskit('0001')")
    project.engine = project.engine.execution_options(isolation_level="AUTOCOMMIT")

    with pytest.raises(CommandError, match="run in a transaction, and this connection has none"):
        project.upgrade()

    assert project.database.rows("select to_regnamespace('rlskit')") == [(None,)]


def test_outside_of_a_transaction_it_is_refused(ruled: Project) -> None:
    ruled.write("with op.get_context().autocommit_block():\n        with op.rls_suspended('todo'):\n            pass")

    with pytest.raises(CommandError, match="this connection has none"):
        ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(True,)]


def test_a_table_whose_owner_is_not_bound_is_left_so(ruled: Project) -> None:
    ruled.database.execute("alter table todo no force row level security")
    ruled.write("with op.rls_suspended('todo'):\n        op.execute(\"update todo set content = upper(content)\")")

    ruled.upgrade()

    assert ruled.database.rows(FORCED) == [(False,)]
    assert ruled.database.rows("select content from todo") == [("MILK",)]


def test_a_migration_that_is_killed_inside_leaves_all_as_it_was(ruled: Project) -> None:
    script = textwrap.dedent(
        f"""
        import time
        import psycopg
        from alembic.migration import MigrationContext
        from alembic.operations import Operations
        from sqlalchemy import create_engine
        from rlskit.alembic import op

        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect({ruled.database.owner_dsn!r}))
        with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
            with op.rls_suspended("todo"):
                op.execute("update todo set content = upper(content)")
                print("inside", flush=True)
                time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"

    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)

    deadline = time.monotonic() + 30
    while ruled.database.rows("select from pg_stat_activity where usename = %s", [ruled.database.owner]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stdout.close()
    assert ruled.database.rows("select content from todo") == [("milk",)]
    assert ruled.database.rows(FORCED) == [(True,)]
    assert perform(ruled.database, BOB, "select content from todo") == []


# --- registration ----------------------------------------------------------------------------------------------------


def test_what_another_library_has_registered_is_not_replaced() -> None:
    with pytest.raises(CommandError, match=r"another library has registered `op\.create_table` already"):

        @_registers("create_table")
        class Ours(MigrateOperation):
            pass


def test_op_is_alembics_with_more_in_it() -> None:
    assert set(directives()) <= set(dir(theirs)) & set(dir(op))
    assert op.create_table is theirs.create_table
    with pytest.raises(AttributeError):
        op.nothing_of_the_kind  # noqa: B018


def test_what_autogenerate_says_is_heard_under_alembics_own_configuration_of_logging() -> None:
    """Its `fileConfig` switches off what alembic.ini does not name, and comes after the imports."""
    script = (
        "import sys, logging.config, rlskit.alembic\n"
        "from rlskit.alembic import autogenerate\n"
        "logging.config.fileConfig(sys.argv[1])\n"
        "print(autogenerate._log.isEnabledFor(logging.INFO))"
    )
    ini = Path(rlskit.__file__).parents[1] / "examples" / "todo_sqlalchemy" / "alembic.ini"
    shown = subprocess.run([sys.executable, "-c", script, ini], capture_output=True, text=True, check=True)

    assert shown.stdout == "True\n"


def test_importing_alembic_does_not_import_rlskit() -> None:
    script = "import sys, alembic.command; print([name for name in sys.modules if name.startswith('rlskit')])"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_type_checkers_see_what_there_is() -> None:
    assert (Path(rlskit.__file__).parent / "alembic" / "op.pyi").read_text(encoding="utf-8") == stub()
