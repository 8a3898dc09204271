"""Rules and a database: what differs, and how it is made to conform."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from rlskit import (
    planner,
    scripter,
)
from rlskit.applier import PATIENCE
from rlskit.cli.shared import (
    RULES_FILE,
    DsnOption,
    Format,
    FormatOption,
    LockTimeoutOption,
    ReleaseOption,
    RetriesOption,
    RulesOption,
    Stage,
    StageOption,
    YesOption,
    confirm,
    connected,
    out,
    progress,
    source,
)
from rlskit.loader import load
from rlskit.planner import Plan
from rlskit.steps import Step


def sql(rules: RulesOption = RULES_FILE) -> None:
    """Print the whole SQL of the rules. No database is needed."""
    sys.stdout.write(scripter.sql(load(source(rules))))


def plan(
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    format: FormatOption = Format.text,
    as_sql: Annotated[bool, typer.Option("--sql", help="Print the statements only.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when there is something to do.")] = False,
    release: ReleaseOption = [],  # noqa: B006 - Typer wants a list, and copies it
    stage: StageOption = Stage.force,
) -> None:
    """Say what would change, why, and with which lock. Nothing is changed."""
    with connected(dsn) as conn:
        made = planner.plan(conn, load(source(rules)), release=release, stage=stage.value)
    if as_sql:
        sys.stdout.write(made.sql())
    else:
        print_plan(made, format)
        if format is Format.text and not made.conforms:
            out.print("Nothing was changed.")
    raise typer.Exit(1 if exit_code and not made.conforms else 0)


def apply(
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    yes: YesOption = False,
    lock_timeout: LockTimeoutOption = PATIENCE.lock_timeout,
    retries: RetriesOption = PATIENCE.retries,
    prune_foreign: Annotated[
        bool, typer.Option("--prune-foreign", help="Drop what lets the role past the rules.")
    ] = False,
    release: ReleaseOption = [],  # noqa: B006 - as above
    stage: StageOption = Stage.force,
) -> None:
    """Bring the database to the rules, or to a stage of them: one transaction a table, verified at the end. May be run again."""
    with connected(dsn) as conn:
        made = planner.plan(conn, load(source(rules)), release=release, stage=stage.value)
        print_plan(made, Format.text)
        if made.conforms:
            return
        for step in made.prunings if prune_foreign else ():
            out.print(f"--prune-foreign: {step.table}: {step}", style="red", markup=False)
        confirm(yes, "Apply this?")
        made.apply(conn, lock_timeout=lock_timeout, retries=retries, prune_foreign=prune_foreign, on_progress=progress)
    if made.later:
        out.print(f"Applied and verified: stage {made.stage}. {_missing(made.later)}")
    else:
        out.print("Applied and verified: the database does what the rules say.")


def check(dsn: DsnOption = "", rules: RulesOption = RULES_FILE, format: FormatOption = Format.text) -> None:
    """Exit 1 when the database differs from the rules, and say in what. A login that may only read the catalogue is enough."""
    with connected(dsn) as conn:
        made = planner.compare(conn, load(source(rules)))
    print_plan(made, format)
    if format is Format.text and made.steps:
        out.print(_missing(made.steps))
    raise typer.Exit(0 if made.conforms else 1)


def print_plan(made: Plan, format: Format) -> None:
    """Print a plan for people, or for machines."""
    if format is Format.json:
        typer.echo(json.dumps(_as_json(made), indent=2, ensure_ascii=False))
        return
    for line in str(made).splitlines():
        style = "yellow" if line.startswith("  note:") else "" if line.startswith("  ") else "bold"
        out.print(line, style=style, markup=False)


def _missing(steps: Iterable[Step]) -> str:
    return f"Missing until the rules are in force: {planner.by_stage(steps)}."


def _as_json(made: Plan) -> dict[str, Any]:
    def listed(steps: Iterable[Step]) -> list[dict[str, Any]]:
        return [
            {
                "table": str(step.table) if step.table else None,
                "stage": step.stage,
                "phase": step.phase,
                "says": step.says,
                "why": step.why,
                "lock": step.lock,
                "statements": list(step.statements),
            }
            for step in steps
        ]

    return {
        "conforms": made.conforms,
        "compared": made.compared,
        "stage": made.stage,
        "steps": listed(made.steps),
        "later": listed(made.later),
        "foreign": [
            {"table": str(each.table), "name": each.name, "says": each.text, "undoes": each.undoes}
            for each in made.foreign
        ],
        "advice": [{"table": str(each.table), "says": each.text} for each in made.wanted.advice],
    }
