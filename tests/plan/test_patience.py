"""An apply waits for locks shortly, tries again, holds no lock that grows, and gives up with everything as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from threading import Timer
from typing import Any

import psycopg
import pytest

from rlskit import TableRules, allow, installer, plan
from rlskit.applier import Patience
from rlskit.errors import PlanError
from rlskit.planner import Plan
from tests.support import Database

TODO = TableRules("todo", allow.owner())
MAKE = ("create table todo (id int, content text, owner text)", "insert into todo values (1, 'milk', 'alice')")
FAMILY = (
    "create table todo (id int, region text, owner text) partition by list (region)",
    "create table a_part partition of todo for values in ('a')",
    "insert into todo values (1, 'a', 'alice')",
)
WAITING = "select relation::regclass::text from pg_locks where not granted and relation is not null"


@contextmanager
def applying(database: Database, *tables: TableRules, **options: Any) -> Iterator[Future[list[str]]]:
    """An apply in a thread of its own; its result is what it told."""
    told: list[str] = []

    def apply(made: Plan) -> list[str]:
        with database.connect_as_owner() as conn:
            made.apply(conn, on_progress=told.append, **options)
        return told

    with ThreadPoolExecutor() as pool:
        yield pool.submit(apply, database.plan(*tables))


def wait_until(database: Database, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """What is waited for, as soon as it is as it should be."""
    deadline = time.monotonic() + 20
    while not holds(found := [row[0] for row in database.rows(WAITING)]):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


# --- bounded retries -------------------------------------------------------------------------------------------------


def test_a_lock_that_is_had_at_a_later_try(database: Database) -> None:
    database.execute(*MAKE)
    told: list[str] = []
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        other.execute("select from todo")

        def tell(line: str) -> None:
            told.append(line)
            if "retry 2" in line:
                other.rollback()

        plan(conn, database.rules(TODO)).apply(conn, lock_timeout=0.01, on_progress=tell)

    assert [line.rpartition(" in ")[0] for line in told if "retry" in line] == [
        f"public.todo: no lock within 0.01 seconds; retry {number} of 10" for number in (1, 2)
    ]
    assert database.plan(TODO).conforms


def test_the_last_try_fails_with_everything_as_it_was(database: Database) -> None:
    database.execute(*MAKE, "grant select on todo to public")
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        other.execute("select from todo")
        with pytest.raises(PlanError) as caught:
            plan(conn, database.rules(TODO)).apply(conn, lock_timeout=0.01, retries=2, prune_foreign=True)

    assert caught.value.message == "no lock on table `public.todo` within 0.01 seconds, tried 3 times"
    # What is pruned belongs to the table's transaction: no moment has neither what was there nor the rules.
    assert database.rows("select has_table_privilege('public', 'todo', 'select')") == [(True,)]
    assert database.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(False,)]


def test_a_missing_owner_column_has_its_index_before_anything_rests_on_it(database: Database) -> None:
    database.execute("create table todo (id int)", "insert into todo values (1)")
    steps = [(step.phase, step.says.partition(" ")[2]) for step in database.plan(TODO) if step.table]

    assert steps[:2] == [
        ("before", "column owner text"),
        ("before", "index todo__owner_rlskit on owner (btree) concurrently"),
    ]
    assert {phase for phase, _ in steps[2:]} == {"table", "after"}


def test_a_build_that_blocks_nobody_waits_as_long_as_it_takes(database: Database) -> None:
    database.execute(*MAKE)
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        made = plan(conn, database.rules(TODO), stage="indexes")
        other.execute("insert into todo values (2, 'bread', 'bob')")
        Timer(0.3, other.rollback).start()
        made.apply(conn, lock_timeout=0.01, retries=0)
        assert plan(conn, database.rules(TODO), stage="indexes").conforms


@pytest.mark.parametrize("valid", [True, False], ids=["without its comment", "inside of the build"])
def test_a_build_that_was_cut_off_is_finished(valid: bool, database: Database) -> None:
    database.execute(*MAKE)
    database.apply(TODO)
    before = database.plan(TODO).database.state
    with database.connect(autocommit=True) as admin:
        admin.execute("comment on index todo__owner_rlskit is null")
        admin.execute("update pg_index set indisvalid = %s where indexrelid = 'todo__owner_rlskit'::regclass", [valid])
    database.apply(TODO)

    assert (database.plan(TODO).conforms, database.plan(TODO).database.state) == (True, before)


def test_attaching_the_index_of_a_partition_has_a_limit_too(database: Database) -> None:
    """Unlike the build it would stall whoever comes, for as long as it waits."""
    database.execute(*FAMILY)
    building = database.plan(TODO)[2]
    *before, attach = building.statements
    assert attach.startswith("alter index")
    database.execute(*before)
    with database.connect_as_owner() as other, database.connect_as_owner(options="-c statement_timeout=5s") as conn:
        other.execute("select from a_part where owner = 'alice'")
        with pytest.raises(PlanError, match=r"no lock on table `public\.todo` within 0\.05 seconds"):
            plan(conn, database.rules(TODO)).apply(conn, lock_timeout=0.05, retries=0)


def test_installing_is_tried_again_as_well(database: Database) -> None:
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        installer.install(conn)
        conn.execute("drop function rlskit.username_of(text)")
        conn.commit()
        other.execute("lock table rlskit.version in exclusive mode")
        with pytest.raises(PlanError, match=r"no lock on the schema rlskit within 0\.01 seconds, tried 2 times"):
            installer.install(conn, lock_timeout=0.01, retries=1)
        other.rollback()
        assert [step.says for step in installer.install(conn)] == ["restore the schema rlskit"]


@pytest.mark.parametrize(
    ("seconds", "retries"), [(0, 1), (-1, 1), (0.0004, 1), (float("nan"), 1), (float("inf"), 1), (1, -1)]
)
def test_a_patience_that_cannot_be_meant_is_refused(seconds: float, retries: int) -> None:
    with pytest.raises(PlanError):
        Patience(seconds, retries)


def test_pauses_grow_up_to_a_limit_and_never_come_together() -> None:
    patience = Patience(0.25, 10)
    pauses = [{patience.pause(failures) for _ in range(50)} for failures in (1, 2, 3, 10, 10_000)]

    assert [max(shorter) < min(longer) for shorter, longer in pairwise(pauses)] == [True, True, True, False]
    assert {round(each / 8) for each in pauses[3] | pauses[4]} == {1}
    assert min(map(len, pauses)) > 1


# --- locks that grow -------------------------------------------------------------------------------------------------


def test_who_has_read_a_table_can_still_write_it_while_an_apply_waits(database: Database) -> None:
    """With a lock on writers in its hands and one on readers still to come, the apply would be in a deadlock with him."""
    database.execute(*MAKE)
    database.apply(TODO)
    database.execute("drop trigger zz_rlskit_reassign on todo", "alter table todo drop constraint rlskit_owner_check")
    with database.connect_as_app() as app, applying(database, TODO, lock_timeout=20, retries=0) as applied:
        app.execute("select content from todo")
        wait_until(database, lambda found: found == ["todo"])
        app.execute("update todo set content = 'bread'")
        app.commit()
        applied.result(timeout=20)

    assert database.plan(TODO).conforms


def test_a_family_is_locked_from_the_top_as_readers_do(database: Database) -> None:
    database.execute(*FAMILY)
    database.apply(TODO)
    database.execute(
        "alter table a_part disable row level security",
        "alter table todo disable row level security",
    )
    with database.connect_as_owner() as reader, applying(database, TODO, lock_timeout=20, retries=0) as applied:
        reader.execute("lock table only todo in access share mode")
        wait_until(database, lambda found: found == ["todo"])
        reader.execute("lock table only a_part in access share mode")
        reader.commit()
        applied.result(timeout=20)

    assert database.plan(TODO).conforms


def test_a_deadlock_with_another_order_is_tried_again(database: Database) -> None:
    database.execute(*FAMILY)
    with database.connect(autocommit=True) as admin:
        admin.execute(f"alter role {database.owner} set deadlock_timeout = '200ms'")
    rules = TableRules("todo", allow.owner())
    with database.connect() as other, applying(database, rules, lock_timeout=1, retries=2) as applied:
        other.execute("set deadlock_timeout = '60s'")
        other.execute("lock table only a_part in access share mode")
        wait_until(database, lambda found: found == ["a_part"])
        other.execute("lock table only todo in access share mode")
        other.commit()
        told = applied.result(timeout=20)

    assert [line.partition(";")[0] for line in told if "retry" in line] == ["public.todo: a deadlock"]
    assert database.plan(rules).conforms


def test_whoever_cancels_an_apply_is_obeyed(database: Database) -> None:
    database.execute(*MAKE)
    with database.connect_as_owner() as other, applying(database, TODO, lock_timeout=20) as applied:
        other.execute("select from todo")
        wait_until(database, lambda found: found == ["todo"])
        database.rows("select pg_cancel_backend(pid) from pg_locks where not granted")
        with pytest.raises(PlanError, match=r"table `public\.todo`: canceling statement due to user request"):
            applied.result(timeout=20)

    assert database.rows("select count(*) from pg_policy") == [(0,)]


class Recording(psycopg.Connection[Any]):
    """A connection that keeps what is sent over it."""

    sent: list[str]

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self.sent = [*getattr(self, "sent", []), str(query)]
        return super().execute(query, *args, **kwargs)


def test_no_lock_is_held_while_the_network_takes_its_time(database: Database) -> None:
    database.execute(*MAKE)
    with Recording.connect(database.owner_dsn) as conn:
        plan(conn, database.rules(TODO)).apply(conn)
    (locking,) = (each for each in conn.sent if "lock table" in each)

    assert locking.startswith('lock table "public"."todo" in ACCESS EXCLUSIVE mode;\nalter table')
    assert [each for each in conn.sent if "create policy" in each and "rlskit_canary" not in each] == [locking]


# --- only what differs -----------------------------------------------------------------------------------------------


def test_another_expression_is_put_into_the_policies_that_are_there(database: Database) -> None:
    protected = {"owner": allow.owner().to("read", "delete")}
    database.execute(*MAKE)
    database.apply(TableRules("todo", allow.owner(), columns=protected))
    narrowed = TableRules(
        "todo", allow.owner().match("full"), columns={"owner": allow.owner().match("full").to("read", "delete")}
    )

    statements = [statement for step in database.plan(narrowed) for statement in step.statements]
    assert [each.split(" ")[:2] for each in statements] == [["alter", "policy"], ["call", "rlskit.mark('policy',"]] * 4
