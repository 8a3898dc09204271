"""Steps are carried out on a connection: short transactions, one a table, with a limit on waiting for locks, tried again where that was not enough."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.errors import (
    CheckViolation,
    DeadlockDetected,
    InsufficientPrivilege,
    LockNotAvailable,
    QueryCanceled,
    RaiseException,
)
from psycopg.pq import TransactionStatus

from rlskit.errors import PlanError
from rlskit.names import QualifiedName
from rlskit.steps import Step, transaction
from rlskit.words import counted

_SEARCH_PATH = "set local search_path = pg_catalog, pg_temp"  # no operator of anybody's gets into a policy
# Two applies at once would undo each other's work halfway; the number is rlskit's own, "rlsk" in ASCII.
_ADVISORY_LOCK = 0x726C736B

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a statement waits for a lock, in seconds, and how often its transaction is tried again where that was not enough.

    Whoever comes while a lock is waited for queues behind it, so ``lock_timeout`` is what readers and writers feel at worst. Raises
    PlanError for a time that PostgreSQL would take for no limit or not at all, and for less than no retry.
    """

    lock_timeout: float = 0.25
    retries: int = 10

    def __post_init__(self) -> None:
        if not 0.001 <= self.lock_timeout <= 2_000_000:
            raise PlanError(
                f"a lock timeout of {self.lock_timeout:g} seconds",
                hint="a millisecond, 0.001, is the least; 60 is long",
            )
        if self.retries < 0:
            raise PlanError(f"{self.retries} retries", hint="0 retries: one try, and no more")

    def pause(self, failures: int) -> float:
        """Seconds until the next try: the queue drains meanwhile, and whoever has the lock may end."""
        return min(self.lock_timeout * 2.0 ** min(failures - 1, 13), 8.0) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


PATIENCE = Patience()


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
    patience: Patience = PATIENCE,
    on_progress: Tell | None = None,
) -> None:
    """Run the steps in their order; those of one table and one phase in one transaction where they may share one.

    What meets a lock that cannot be had in time, or a deadlock, is tried again after a pause that grows. Raises PlanError when another apply
    is at work, or when the last try has failed; what was finished until then stays, and every table is as before or as after.
    """
    groups = [
        list(group)
        for _, group in groupby(steps, key=lambda step: (step.table if step.phase == "table" else step, step.phase))
    ]
    tell = on_progress or (lambda _: None)
    with autocommit(conn), _alone(conn):
        for number, group in enumerate(groups, 1):
            place = f"table `{group[0].table}`" if group[0].table else "the schema rlskit"
            for action, patient in _actions(conn, group, patience):
                with _told(place, patient):
                    _persistently(conn, action, patient, tell, _name(group[0].table))
            tell(f"[{number} of {len(groups)}] {_name(group[0].table)}: {counted(len(group), 'step')}")


def _name(table: QualifiedName | None) -> str:
    return str(table or "schema rlskit")


def _actions(
    conn: Connection[Any], group: Sequence[Step], patience: Patience
) -> Iterator[tuple[Callable[[], None], Patience]]:
    """What is done, and tried again, as a whole: a table's transaction, or else each statement; and with which patience."""

    def together() -> None:
        with conn.transaction():
            conn.execute(_SEARCH_PATH)
            _limit_waiting(conn, patience.lock_timeout, "set local")
            # In one message, so that no lock is held while a slow network takes its time; all of it is written by ddl.
            conn.execute(";\n".join(transaction(group)))

    def alone(statement: str, limit: float) -> None:
        conn.execute(_SEARCH_PATH.replace("local ", ""))
        _limit_waiting(conn, limit, "set")
        conn.execute(statement)  # written by ddl, or a file that ships with the package

    if group[0].phase == "table":
        yield together, patience
        return
    for statement in (statement for step in group for statement in step.statements):
        if _is_concurrent(statement):
            yield partial(alone, statement, 0), replace(patience, retries=0)
        else:
            yield partial(alone, statement, patience.lock_timeout), patience


def _is_concurrent(statement: str) -> bool:
    """A concurrent build blocks nobody while it waits for older transactions; giving up would only leave an invalid index, in its own way."""
    return statement.startswith(("create index concurrently ", "drop index concurrently "))


def _persistently(conn: Connection[Any], action: Callable[[], None], patience: Patience, tell: Tell, name: str) -> None:
    for failures in range(1, patience.retries + 1):
        try:
            action()
        except (LockNotAvailable, DeadlockDetected) as error:
            conn.rollback()  # a file that brings its own BEGIN may have failed inside it
            pause = patience.pause(failures)
            deadlock = isinstance(error, DeadlockDetected)
            what = "a deadlock" if deadlock else f"no lock within {patience.lock_timeout:g} seconds"
            tell(f"{name}: {what}; retry {failures} of {patience.retries} in {pause:.1f} seconds")
            time.sleep(pause)
        else:
            return
    action()


@contextmanager
def _told(place: str, patience: Patience) -> Iterator[None]:
    """What the database says becomes a PlanError with the way out."""
    tried = f", tried {patience.retries + 1} times" if patience.retries else ""
    try:
        yield
    except LockNotAvailable as error:
        raise PlanError(
            f"no lock on {place} within {patience.lock_timeout:g} seconds{tried}",
            hint="others are at work on it: apply again, with more --retries, or with --lock-timeout 2 where it is an autovacuum, "
            "which gives way after a second; what was done so far stays",
        ) from error
    except DeadlockDetected as error:
        raise PlanError(
            f"{place}: {error.diag.message_primary}{tried}",
            hint="others lock the same tables in another order: apply again; what was done so far stays",
        ) from error
    except QueryCanceled as error:
        raise PlanError(
            f"{place}: {error.diag.message_primary}",
            hint="somebody cancelled it, or statement_timeout did: apply again; what was done so far stays",
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
