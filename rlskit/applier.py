"""Steps are carried out on a connection: short transactions, one a table, with a limit on waiting for locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.errors import CheckViolation, InsufficientPrivilege, LockNotAvailable, RaiseException
from psycopg.pq import TransactionStatus

from rlskit.errors import PlanError
from rlskit.steps import Step
from rlskit.words import counted

# Two applies at once would undo each other's work halfway; the number is rlskit's own, "rlsk" in ASCII.
_SEARCH_PATH = "set local search_path = pg_catalog, pg_temp"  # no operator of anybody's gets into a policy
_ADVISORY_LOCK = 0x726C736B


def check_idle(conn: Connection[Any]) -> None:
    """Raise PlanError unless the connection is outside of any transaction."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise PlanError(
            "the connection is in a transaction",
            hint="commit or roll back first: rules are applied in transactions of their own",
        )


def carry_out(
    conn: Connection[Any],
    steps: Iterable[Step],
    *,
    lock_timeout: float,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Run the steps in their order; those of one table and one phase in one transaction where they may share one.

    Raises PlanError when another apply is at work, or when a lock cannot be had within ``lock_timeout`` seconds; what was
    finished until then stays, and every table is as before or as after.
    """
    groups = [
        list(group)
        for _, group in groupby(steps, key=lambda step: (step.table if step.phase == "table" else step, step.phase))
    ]
    with autocommit(conn), _alone(conn):
        for number, group in enumerate(groups, 1):
            place = f"table `{group[0].table}`" if group[0].table else "the schema rlskit"
            try:
                if group[0].phase == "table":
                    with conn.transaction():
                        conn.execute(_SEARCH_PATH)
                        _limit_waiting(conn, lock_timeout, "set local")
                        _run(conn, group)
                else:
                    conn.execute(_SEARCH_PATH.replace("local ", ""))
                    _limit_waiting(conn, 0 if _concurrent(group) else lock_timeout, "set")
                    _run(conn, group)
            except LockNotAvailable as error:
                raise PlanError(
                    f"no lock on {place} within {lock_timeout:g} seconds",
                    hint="others are at work on it: apply again, or with a longer --lock-timeout; what was done so far stays",
                ) from error
            except CheckViolation as error:
                raise PlanError(
                    f"{place}: {error.diag.message_primary}",
                    hint="the rules are in force; set the empty names to NULL or to an owner's, and apply again",
                ) from error
            except RaiseException as error:
                raise PlanError(
                    f"{place}: {error.diag.message_primary}",
                    hint=error.diag.message_hint
                    or 'say reassign = "explicit" or "never"; this is a defect of rlskit, please tell us',
                ) from error
            except InsufficientPrivilege as error:
                raise PlanError(
                    f"{place}: {error.diag.message_primary}", hint="connect as its owner, or let a DBA run it"
                ) from error
            if on_progress is not None:
                on_progress(
                    f"[{number} of {len(groups)}] {group[0].table or 'schema rlskit'}: {counted(len(group), 'step')}"
                )


def _run(conn: Connection[Any], steps: Iterable[Step]) -> None:
    for step in steps:
        for statement in step.statements:
            conn.execute(statement)  # written by ddl, or a file that ships with the package


def _concurrent(steps: Iterable[Step]) -> bool:
    """A concurrent build blocks nobody while it waits for older transactions; giving up would only leave an invalid index."""
    return any(" concurrently " in statement for step in steps for statement in step.statements)


def _limit_waiting(conn: Connection[Any], seconds: float, how: LiteralString) -> None:
    conn.execute(f"{how} lock_timeout = {int(seconds * 1000)}")


@contextmanager
def autocommit(conn: Connection[Any]) -> Iterator[None]:
    """The connection in autocommit mode for the block, for statements that bring transactions of their own or stand outside of any."""
    before = conn.autocommit
    conn.autocommit = True
    try:
        yield
    finally:
        if not conn.closed:
            conn.rollback()  # a file that brings its own BEGIN may have failed inside it
            conn.autocommit = before


@contextmanager
def _alone(conn: Connection[Any]) -> Iterator[None]:
    row = conn.execute("select pg_try_advisory_lock(%s) as mine", [_ADVISORY_LOCK]).fetchone()
    mine = row["mine"] if isinstance(row, dict) else row[0] if row else False
    if not mine:
        raise PlanError("another apply is at work on this database", hint="wait until it is done, and plan again")
    try:
        yield
    finally:
        if not conn.closed:
            conn.rollback()  # a file that brings its own BEGIN may have failed inside it
            conn.execute("reset lock_timeout; reset search_path")
            conn.execute("select pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
