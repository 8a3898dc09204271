"""The schema ``rlskit`` by itself: put into a database, upgraded, and taken away again."""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.errors import DependentObjectsStillExist, InsufficientPrivilege

from rlskit import applier, catalog, runtime
from rlskit.applier import PATIENCE, Patience
from rlskit.errors import PlanError
from rlskit.rules import Rules
from rlskit.steps import Step, runtime_steps, signing_steps
from rlskit.vocabulary import Mode
from rlskit.words import counted


def installation(conn: Connection[Any], *, mode: Mode | None = None) -> tuple[Step, ...]:
    """Return what ``install`` would do; empty when the current runtime is there. Raises RuntimeVersionError for a newer one."""
    with catalog.reading(conn):
        database = catalog.read(conn, (), role="")
    return (*runtime_steps(database), *signing_steps(database, mode))


def install(
    conn: Connection[Any],
    *,
    mode: Mode | None = None,
    lock_timeout: float = PATIENCE.lock_timeout,
    retries: int = PATIENCE.retries,
) -> tuple[Step, ...]:
    """Put the current runtime into the database of the idle connection ``conn``, or upgrade it; return what was done.

    ``mode`` says whether identities have to be signed, "plain" or "signed"; None leaves that as it is. ``lock_timeout`` (seconds) and
    ``retries`` are those of ``Plan.apply``.

    Raises RuntimeVersionError for a runtime that is newer than this package, PlanError for missing rights and for a lock that cannot be had.
    """
    patience = Patience(lock_timeout, retries)
    applier.check_idle(conn)
    steps = installation(conn, mode=mode)
    applier.carry_out(conn, steps, patience=patience)
    return steps


def without_tables(rules: Rules) -> Rules:
    """The same role without a rule: planned and applied, it takes the rules off every table and leaves the tables closed."""
    return Rules(role=rules.role, bypass_role=rules.bypass_role, schema=rules.schema)


def check_unused(conn: Connection[Any], way_out: str) -> None:
    """Raise PlanError, with this hint, while a table of the database rests on the schema ``rlskit``."""
    with catalog.reading(conn):
        managed = sorted({each.table for each in catalog.read(conn, (), role="").state.objects if each.mark})
    if managed:
        raise PlanError(
            f"the schema rlskit is in use by {counted(len(managed), 'table')}, first `{managed[0]}`", hint=way_out
        )


def uninstall(conn: Connection[Any]) -> None:
    """Take the schema ``rlskit`` away. Raises PlanError, and changes nothing, while anything in the database rests on it."""
    applier.check_idle(conn)
    check_unused(conn, "take the rules off first: rlskit uninstall --tables, which leaves the tables closed")
    try:
        with applier.autocommit(conn):
            conn.execute(runtime.script("uninstall.sql"))
    except (DependentObjectsStillExist, InsufficientPrivilege) as error:
        detail = (error.diag.message_detail or "").partition("\n")[0]
        raise PlanError(
            f"{error.diag.message_primary}: {detail}" if detail else str(error.diag.message_primary),
            hint="drop what rests on it, or connect as its owner",
        ) from error
