"""The schema rlskit: every way in leads to the same database, and every way out leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from alembic import command
from alembic.config import CommandLine, Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import LockNotAvailable
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from rlskit import catalog, installer, runtime
from rlskit.errors import PlanError
from tests.support import Database

Way: TypeAlias = Callable[[Database], object]

POLICY = """
    create table notes (owner text);
    create policy mine on notes using (owner = any (rlskit.identities()))
"""

# Something that rests on each thing in the schema.
RESTING = {
    "claim": "create table notes (owner text default rlskit.claim('sub'))",
    "identity": "create table notes (owner text default rlskit.identity())",
    "identities": "create table notes (owners text[] default rlskit.identities())",
    "some identities": "create table notes (owners text[] default rlskit.identities('full'))",
    "list_of": "create table notes (owners text[] default rlskit.list_of('alice'))",
    "as_uuid": "create table notes (owner uuid default rlskit.as_uuid(''))",
    "note_new_owner": """
        create table notes (owner text);
        create trigger noting before update on notes for each row execute function rlskit.note_new_owner('owner')
    """,
    "refuse_columns": """
        create table notes (owner text);
        create trigger refusing before insert on notes for each row execute function rlskit.refuse_columns('owner')
    """,
    "username_of": "create table notes (owner text, shown text generated always as (rlskit.username_of(owner)) stored)",
    "is_foreign": "create table notes (is_foreign bool default rlskit.is_foreign(0))",
    "actor": "create table notes (actor text default rlskit.actor())",
    "is_signed": "create table notes (signed bool default rlskit.is_signed())",
    "signed_claims": "create table notes (said jsonb default rlskit.signed_claims())",
    "accept": "create function accepting() returns void begin atomic select rlskit.accept('v1'); end",
    "refuse_cursors": "create function refusing() returns void begin atomic select rlskit.refuse_cursors(); end",
    "key": "create view keys as select kid from rlskit.key",
    "version": "create view version as select * from rlskit.version",
    "schema": "create function rlskit.mine() returns int language sql return 1",
}


def call(*arguments: str | Path, given: str = "") -> str:
    """Run a program; its output, or CalledProcessError with what it complains about."""
    try:
        done = subprocess.run(arguments, input=given, capture_output=True, check=True, encoding="utf-8")
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
    return done.stdout


def psql(database: Database, *arguments: str | Path, given: str = "") -> str:
    program = database.server.bin / "psql"
    return call(program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.owner_dsn, *arguments, given=given)


def alembic(database: Database, *arguments: str) -> str:
    """Run Alembic as its command line does, in this process; what it prints."""
    line, printed = CommandLine(), StringIO()
    options = line.parser.parse_args(["-x", f"url={url(database)}", *arguments])
    line.run_cmd(configuration(cmd_opts=options, stdout=printed, output_buffer=printed), options)
    return printed.getvalue()


def configuration(**options: Any) -> Config:
    config = Config(**options)
    config.set_main_option("script_location", str(runtime.migrations()))
    return config


def url(database: Database) -> str:
    said = {name: str(value) for name, value in conninfo_to_dict(database.owner_dsn).items()}
    return URL.create("postgresql+psycopg", query=said).render_as_string(hide_password=False)


def dump(database: Database) -> str:
    """All that the database holds, rows and owners and privileges too, as the server's own pg_dump writes it."""
    text = call(database.server.bin / "pg_dump", "-d", database.superuser_dsn)
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)  # a random word in every dump


# --- the ways in ----


def runtime_by_psql(database: Database) -> None:
    psql(database, "-f", runtime.directory() / "runtime.sql")


def upgrades_by_psql(database: Database) -> None:
    """One call for each file, which runs it and writes its number down: as sql/README.md says."""
    for number, name in runtime.upgrades().items():
        noted = f"delete from rlskit.version; insert into rlskit.version values ('{number}')"
        psql(database, "-1", "-f", runtime.directory() / name, "-c", noted)


def runtime_by_psycopg(database: Database) -> None:
    with database.connect_as_owner(autocommit=True) as conn:
        conn.execute(runtime.script("runtime.sql"))


def install(database: Database) -> None:
    with database.connect_as_owner() as conn:
        assert installer.install(conn)


def alembic_upgrade(database: Database) -> None:
    alembic(database, "upgrade", "head")


def alembic_upgrade_as_sql(database: Database) -> None:
    psql(database, given=alembic(database, "upgrade", "head", "--sql"))


def alembic_upgrade_as_sql_by_psycopg(database: Database) -> None:
    with database.connect_as_owner(autocommit=True) as conn:
        conn.execute(alembic(database, "upgrade", "head", "--sql").encode())


WAYS_IN: list[Way] = [
    upgrades_by_psql,
    runtime_by_psycopg,
    install,
    alembic_upgrade,
    alembic_upgrade_as_sql,
    alembic_upgrade_as_sql_by_psycopg,
]


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_leads_to_the_same_database(database: Database, way: Way):
    runtime_by_psql(database)
    expected = dump(database)
    database.execute("drop schema rlskit cascade")
    way(database)
    assert dump(database) == expected
    assert f"{runtime.version()}\n" in expected


def test_the_functions_are_those_that_the_package_knows(database: Database):
    runtime_by_psql(database)
    with database.connect_as_owner() as conn:
        found = catalog.read(conn, (), role="")
    assert found.functions == runtime.functions()
    assert found.runtime_version == runtime.version()


def test_runtime_sql_may_be_run_again(database: Database):
    runtime_by_psql(database)
    once = dump(database)
    runtime_by_psql(database)
    assert dump(database) == once


def test_runtime_sql_may_be_run_again_below_a_policy(database: Database):
    runtime_by_psql(database)
    database.execute(POLICY)
    once = dump(database)
    runtime_by_psql(database)
    assert dump(database) == once


@pytest.mark.parametrize("way", [runtime_by_psql, install, alembic_upgrade])
def test_install_does_nothing_where_the_runtime_is_current(database: Database, way: Way):
    way(database)
    before = dump(database)
    with database.connect_as_owner() as conn:
        assert installer.install(conn) == ()
    assert dump(database) == before


# --- Alembic where others were before ----


@pytest.mark.parametrize("way", [runtime_by_psql, install, alembic_upgrade])
def test_alembic_knows_the_version_whoever_installed_it(database: Database, way: Way):
    way(database)
    before = dump(database)
    assert alembic(database, "current").split() == [runtime.version(), "(head)"]
    alembic(database, "upgrade", "head")
    assert dump(database) == before


def test_alembic_current_leaves_an_empty_database_empty(database: Database):
    before = dump(database)
    assert alembic(database, "current") == ""
    assert dump(database) == before


def test_alembic_does_not_touch_the_version_of_the_application(database: Database):
    database.execute("create table alembic_version (version_num text)", "insert into alembic_version values ('ae10')")
    before = dump(database)
    alembic(database, "upgrade", "head")
    assert database.rows("select version_num from alembic_version") == [("ae10",)]
    alembic(database, "downgrade", "base")
    assert dump(database) == before


def test_alembic_may_go_up_and_down_and_up_again(database: Database):
    alembic(database, "upgrade", "head")
    once = dump(database)
    alembic(database, "downgrade", "base")
    alembic(database, "upgrade", "head")
    assert dump(database) == once


def test_alembic_works_inside_a_transaction_of_the_caller(database: Database):
    config = configuration()
    empty = dump(database)
    with create_engine(url(database), poolclass=NullPool).connect() as connection:
        config.attributes["connection"] = connection
        with connection.begin() as transaction:
            command.upgrade(config, "head")
            assert connection.exec_driver_sql("select rlskit.as_uuid('?')").scalar_one() is None
            transaction.rollback()
        assert dump(database) == empty
        command.upgrade(config, "head")
        installed = dump(database)
        with connection.begin() as transaction:
            command.downgrade(config, "base")
            transaction.rollback()
        assert dump(database) == installed
        command.downgrade(config, "base")
        assert dump(database) == empty


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_alembic_takes_the_url_that_the_application_has(database: Database, driver: str):
    config = configuration()
    config.set_main_option("sqlalchemy.url", url(database).replace("postgresql+psycopg", driver, 1).replace("%", "%%"))
    command.upgrade(config, "head")
    assert database.rows("select version_num from rlskit.version") == [(runtime.version(),)]


def test_alembic_without_a_url_says_how_to_give_one():
    with pytest.raises(CommandError, match="-x url=postgresql://"):
        command.upgrade(configuration(), "head")


def test_alembic_in_a_shell_with_a_section_of_its_own_in_the_ini_file_of_the_application(
    database: Database, tmp_path: Path
):
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = elsewhere\n[rlskit]\nscript_location = {runtime.migrations()}\n")
    in_a_shell = [sys.executable, "-m", "alembic", "-c", ini, "-n", "rlskit"]
    before = dump(database)
    psql(database, given=call(*in_a_shell, "upgrade", "head", "--sql"))
    assert call(*in_a_shell, "-x", f"url={url(database)}", "current").split() == [runtime.version(), "(head)"]
    call(*in_a_shell, "-x", f"url={url(database)}", "downgrade", "base")
    assert dump(database) == before


# --- the ways out ----


def uninstall(database: Database) -> None:
    with database.connect_as_owner() as conn:
        installer.uninstall(conn)


def uninstall_by_psql(database: Database) -> None:
    psql(database, "-f", runtime.directory() / "uninstall.sql")


def alembic_downgrade(database: Database) -> None:
    alembic(database, "downgrade", "base")


def alembic_downgrade_as_sql(database: Database) -> None:
    psql(database, given=alembic(database, "downgrade", f"{runtime.version()}:base", "--sql"))


WAYS_OUT: list[Way] = [uninstall, uninstall_by_psql, alembic_downgrade, alembic_downgrade_as_sql]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_every_way_out_leaves_nothing(database: Database, way: Way):
    before = dump(database)
    runtime_by_psql(database)
    assert dump(database) != before
    way(database)
    assert dump(database) == before


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_out_while_a_policy_rests_on_the_schema(database: Database, way: Way):
    runtime_by_psql(database)
    database.execute(POLICY)
    before = dump(database)
    with pytest.raises((PlanError, DBAPIError, subprocess.CalledProcessError)) as caught:
        way(database)
    assert "depend" in str(caught.value) + str(getattr(caught.value, "stderr", ""))
    assert dump(database) == before


@pytest.mark.parametrize("resting", RESTING.values(), ids=RESTING)
def test_uninstall_is_refused_whatever_rests_on_the_schema(database: Database, resting: str):
    runtime_by_psql(database)
    database.execute(resting)
    before = dump(database)
    with pytest.raises(PlanError, match="depend"):
        uninstall(database)
    assert dump(database) == before


def test_uninstall_names_a_table_that_has_rules(database: Database):
    runtime_by_psql(database)
    database.execute(POLICY, "call rlskit.mark('policy', 'notes', 'mine', 'digest')")
    before = dump(database)
    with database.connect_as_owner() as conn, pytest.raises(PlanError, match=r"public\.notes"):
        installer.uninstall(conn)
    assert dump(database) == before


def test_uninstall_where_nothing_is_installed_does_nothing(database: Database):
    before = dump(database)
    uninstall(database)
    uninstall_by_psql(database)
    assert dump(database) == before


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_refused_uninstall_leaves_the_connection_as_it_was(database: Database, autocommit: bool):
    runtime_by_psql(database)
    database.execute(POLICY)
    with closing(database.connect_as_owner(autocommit=autocommit)) as conn:
        with pytest.raises(PlanError):
            installer.uninstall(conn)
        assert conn.autocommit is autocommit
        assert conn.info.transaction_status == TransactionStatus.IDLE


def test_an_uninstall_that_waited_too_long_leaves_all_as_it_was(database: Database):
    runtime_by_psql(database)
    before = dump(database)
    options = "-c lock_timeout=100ms"
    with database.connect_as_owner() as other, closing(database.connect_as_owner(options=options)) as conn:
        other.execute("select from rlskit.version")
        with pytest.raises(LockNotAvailable):
            installer.uninstall(conn)
        assert not conn.autocommit
        assert conn.info.transaction_status == TransactionStatus.IDLE
    assert dump(database) == before


# --- the files ----


def files() -> list[Path]:
    return sorted((runtime.directory() / "upgrade").iterdir())


def test_upgrade_files_are_named_and_numbered_one_after_the_other():
    assert all(re.fullmatch(r"\d{4}_[a-z]+(_[a-z]+)*\.sql", each.name) for each in files())
    assert [int(each.name[:4]) for each in files()] == list(range(1, len(files()) + 1))
    assert list(runtime.upgrades()) == [each.name[:4] for each in files()]


def test_each_upgrade_file_has_a_revision_that_runs_it_alone():
    revisions = {each.revision: each for each in ScriptDirectory(str(runtime.migrations())).walk_revisions()}
    assert revisions.keys() == {each.name[:4] for each in files()}
    for number, name in runtime.upgrades().items():
        ran: list[str] = []
        afterwards: list[str] = []
        revisions[number].module.upgrade(run=ran.append, afterwards=afterwards)
        assert (ran, afterwards) == ([name], [])
        assert Path(revisions[number].path).stem == Path(name).stem
    numbers = [None, *(each.name[:4] for each in files())]
    assert [(revisions[each].down_revision, each) for each in numbers[1:] if each] == list(pairwise(numbers))


def test_sql_output_holds_the_upgrade_files_to_the_letter(database: Database):
    printed = alembic(database, "upgrade", "head", "--sql")
    assert all(runtime.script(name).strip() in printed for name in runtime.upgrades().values())
    assert "%I" in printed
    assert "%%" not in printed


def test_upgrade_files_leave_the_transaction_and_the_version_to_whoever_runs_them():
    for each in files():
        text = each.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(begin|commit|rollback);", text, re.MULTILINE)
        assert not re.search(r"(insert into|update|delete from) rlskit\.version", text)


def test_what_the_readme_tells_a_dba_to_run_says_what_it_promises(database: Database):
    runtime_by_psql(database)
    database.execute(
        POLICY,
        "call rlskit.mark('policy', 'notes', 'mine', 'digest')",
        "alter table notes enable row level security",
        "insert into notes values ('a1f0::alice'), ('alice'), ('b2e1::bob')",
        f"grant select on notes to {database.app}",
    )
    readme = (runtime.directory() / "README.md").read_text(encoding="utf-8")
    act, check = re.findall(r"^```sql\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    with database.connect(autocommit=True) as conn:
        *_, identities, notes, _ = results(conn, act.replace("role app;", f"role {database.app};"))
        version, tables, policies, login = results(conn, check.replace("'app'", f"'{database.app}'"))
    assert identities == [(["a1f0::alice", "a1f0", "alice"],)]
    assert notes == [("a1f0::alice",), ("alice",)]
    assert version == [(runtime.version(),)]
    assert tables == [("notes", True, False)]
    assert [each[:2] for each in policies] == [("notes", "mine")]
    assert login == [(database.app, False, False, False)]


def results(conn: Connection[Any], script: str) -> list[list[tuple[Any, ...]]]:
    cursor = conn.execute(script.encode())
    found = [cursor.fetchall() if cursor.description else []]
    while cursor.nextset():
        found.append(cursor.fetchall() if cursor.description else [])
    return found
