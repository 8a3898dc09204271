"""The schema rlskit by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from rlskit import (
    installer,
    planner,
)
from rlskit.applier import PATIENCE
from rlskit.cli.rules import print_plan
from rlskit.cli.shared import (
    RULES_FILE,
    DsnOption,
    Format,
    LockTimeoutOption,
    Mode,
    RetriesOption,
    RulesOption,
    YesOption,
    confirm,
    connected,
    out,
    progress,
    source,
)
from rlskit.loader import load


def install(
    dsn: DsnOption = "",
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="Whether identities have to be signed; without it that stays as it is."),
    ] = None,
    lock_timeout: LockTimeoutOption = PATIENCE.lock_timeout,
    retries: RetriesOption = PATIENCE.retries,
) -> None:
    """Put the schema rlskit into a database, or upgrade it. `apply` does it too; this is for a DBA."""
    with connected(dsn) as conn:
        done = installer.install(conn, mode=mode.value if mode else None, lock_timeout=lock_timeout, retries=retries)
    out.print("\n".join(step.says for step in done) or "The schema rlskit is there, and current.", markup=False)


def uninstall(
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    tables: Annotated[
        bool, typer.Option("--tables", help="Take the rules off every table first; the tables stay closed.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Take the schema rlskit away again. Refuses while a table rests on it."""
    with connected(dsn) as conn:
        if tables:
            made = planner.plan(conn, installer.without_tables(load(source(rules))))
            print_plan(made, Format.text)
            confirm(yes, "Take the rules off these tables, and the schema rlskit away?")
            made.apply(conn, on_progress=progress)
        else:
            confirm(yes, "Take the schema rlskit away?")
        installer.uninstall(conn)
    out.print("The schema rlskit is gone.")
