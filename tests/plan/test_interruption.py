"""Killed at any point, a table is as before or as after, and the next run finishes the work."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

import rlskit
from rlskit import Rules, TableRules, allow, catalog
from rlskit.planner import compare
from rlskit.state import Check, Index, TableObject, Usage
from tests.support import Database

TABLES = ("first", "second")


class Mortal(psycopg.Connection[Any]):
    """A connection that is cut after so many statements."""

    statements_left: int | None = None

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if self.statements_left is not None:
            if self.statements_left == 0:
                self.pgconn.finish()
                raise psycopg.OperationalError("cut")
            self.statements_left -= 1
        return super().execute(*args, **kwargs)


def rules_of(database: Database) -> Rules:
    return database.rules(
        *(TableRules(table, allow.owner(), allow.owners_defined_in("editors").to("read")) for table in TABLES)
    )


def fresh_tables(database: Database) -> None:
    database.execute("drop schema if exists rlskit cascade", *(f"drop table if exists {table}" for table in TABLES))
    for table in TABLES:
        database.execute(f"create table {table} (id int, owner text)", f"insert into {table} values (1, 'alice')")


def objects(database: Database, rules: Rules, table: str) -> frozenset[TableObject]:
    """What a table has, but for what is made apart (indexes, the validation of checks), and the schema's USAGE, which both share."""
    with database.connect_as_owner() as conn, catalog.reading(conn):
        found = catalog.read(conn, [each.name for each in rules.tables], rules.role).state
    kept: set[TableObject] = set()
    for each in found.objects:
        if each.table.name == table and not isinstance(each, Index | Usage):
            kept.add(
                Check(table=each.table, name=each.name, expression=each.expression) if isinstance(each, Check) else each
            )
    return frozenset(kept)


def cut_after(database: Database, rules: Rules, statements: int) -> bool:
    """Apply on a connection that is cut; return whether the apply got to its end before."""
    with database.connect_as_owner() as planning:
        made = rlskit.plan(planning, rules)
    conn = Mortal.connect(database.owner_dsn)
    conn.statements_left = statements
    try:
        made.apply(conn)
    except psycopg.OperationalError:
        return False
    finally:
        conn.close()
    return True


def test_cut_after_any_statement_a_table_is_as_before_or_as_after(database: Database) -> None:
    rules = rules_of(database)
    fresh_tables(database)
    before = {table: objects(database, rules, table) for table in TABLES}
    database.apply(*rules.tables)
    after = {table: objects(database, rules, table) for table in TABLES}
    seen = set()

    statements, finished = 0, False
    while not finished:
        fresh_tables(database)
        finished = cut_after(database, rules, statements)
        found = {table: objects(database, rules, table) for table in TABLES}
        for table in TABLES:
            assert found[table] in (before[table], after[table]), (table, statements)
        seen.add(tuple(found[table] == after[table] for table in TABLES))
        database.apply(*rules.tables)
        assert database.plan(*rules.tables).conforms, statements
        statements += 4

    assert seen == {(False, False), (True, False), (True, True)}


def test_killed_while_it_waits_for_a_lock_nothing_is_changed(database: Database, tmp_path: Any) -> None:
    database.execute("create table todo (id int)")
    database.apply()
    file = tmp_path / "rlskit.toml"
    file.write_text(f'role = "{database.app}"\n[tables.todo]\nallow = [{{ owner = "owner" }}]\n')
    with database.connect_as_owner() as other:
        other.execute("lock table todo in access share mode")
        command = [
            sys.executable,
            "-m",
            "rlskit",
            "apply",
            "--yes",
            "--rules",
            str(file),
            "--dsn",
            database.owner_dsn,
            "--lock-timeout",
            "60",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            waiting = "select count(*) from pg_locks where relation = 'todo'::regclass and not granted"
            deadline = time.monotonic() + 20
            while database.rows(waiting) == [(0,)]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        other.rollback()

    deadline = time.monotonic() + 20
    while database.rows("select count(*) from pg_stat_activity where application_name = 'rlskit'") != [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert database.rows("select attname::text from pg_attribute where attrelid = 'todo'::regclass and attnum > 0") == [
        ("id",)
    ]
    assert database.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(False,)]


@pytest.mark.parametrize("rows", [0, 10])
def test_the_locks_are_those_that_the_plan_names(rows: int, database: Database) -> None:
    strength = [
        "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock",
        "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
    ]  # fmt: skip
    database.execute(
        "create table todo (id serial, editors text[])", f"insert into todo select g from generate_series(1, {rows}) g"
    )
    database.apply()
    made = database.plan(TableRules("todo", allow.owner(), allow.owners_defined_in("editors").to("read")))
    held_now = "select mode from pg_locks where relation = 'todo'::regclass and pid = pg_backend_pid()"
    named, held = {}, {}
    with database.connect_as_owner(autocommit=True) as conn:
        for step in made:
            if any(" concurrently " in statement for statement in step.statements):
                continue
            with conn.transaction():
                for statement in step.statements:
                    conn.execute(statement)
                modes = [row[0] for row in conn.execute(held_now).fetchall()]
            named[step.says] = step.lock.title().replace(" ", "") + "Lock" if step.lock else None
            held[step.says] = max(modes, key=strength.index) if modes else None
            if step.says.startswith("grant") and held[step.says] is None:
                held[step.says] = named[step.says]  # PostgreSQL 15 takes none at all

    assert held == named


def test_a_check_takes_only_the_locks_of_reading(database: Database) -> None:
    database.execute("create table todo (id serial)", "insert into todo default values")
    rules = database.apply(TableRules("todo", allow.owner()))
    locks = "select distinct mode from pg_locks where pid = pg_backend_pid() and relation = 'public.todo'::regclass"
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        other.execute("lock table todo in exclusive mode")  # all that lets others read
        with conn.transaction():
            conn.execute("set local lock_timeout = '2s'")
            assert compare(conn, rules).conforms
            assert conn.execute(locks).fetchall() in ([], [("AccessShareLock",)])
