"""How owner columns spell people."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rlskit import (
    auditor,
    backfiller,
)
from rlskit.auditor import Audit
from rlskit.cli.shared import (
    RULES_FILE,
    DsnOption,
    Format,
    FormatOption,
    RulesOption,
    Spelling,
    connected,
    err,
    out,
    source,
)
from rlskit.loader import load
from rlskit.words import counted


def owners(
    table: Annotated[str, typer.Argument(help="A table with owner rules.", metavar="TABLE", show_default=False)],
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    format: FormatOption = Format.text,
    backfill: Annotated[
        Spelling | None,
        typer.Option("--backfill", help="Print a script for psql that brings the names to this spelling."),
    ] = None,
    people: Annotated[
        str,
        typer.Option(
            "--people",
            help="A table or view with columns sub and username: who is who.",
            metavar="TABLE",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Count how the owners of a table are spelled. Exits 1 when there are rows or names that no rule reaches.

    No name is ever printed. Connect with a login that row security does not bind: a superuser, or one with BYPASSRLS.
    With --backfill nothing is run either: the script goes to stdout, what was counted to stderr, and it exits 0.
    """
    given = load(source(rules))
    with connected(dsn) as conn:
        if backfill is None:
            audited = auditor.audit(conn, given, table, people=people or None)
            _print_audit(audited, format, out)
            raise typer.Exit(0 if audited.clean else 1)
        made = backfiller.backfill(conn, given, table, backfill.value, people=people or None)
    _print_audit(made.audit, format, err)
    for note in made.notes if format is Format.text else ():
        err.print(f"the script: {note}", style="yellow", markup=False)
    sys.stdout.write(made.sql)


_COUNTS = ("column", "full", "sub", "username", "other", "claim", "malformed", "nobody")


def _print_audit(made: Audit, format: Format, console: Console) -> None:
    if format is Format.json:
        typer.echo(json.dumps(_audit_as_json(made), indent=2, ensure_ascii=False), err=console.stderr)
        return
    console.print(f"{made.table}: {counted(made.rows, 'row')}", style="bold", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for number, word in enumerate(_COUNTS):
        table.add_column(word, justify="right" if number else "left", no_wrap=True)
    for each in made.columns:
        names = each.names
        spelled = (names.full, names.sub, names.username, names.other) if each.accepts else (None,) * 4
        claims = each.named - names.total if each.claims else None
        counts = (*spelled, claims, each.malformed, each.nobody)
        table.add_row(Text(each.name), *("" if number is None else f"{number:,}" for number in counts))
    # Names of columns are never cut, however narrow the terminal is.
    table.width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table)
    for finding in made.findings:
        console.print(finding, markup=False)
    for note in made.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if made.clean:
        console.print("Every row is reached by everybody whom it names.")


def _audit_as_json(made: Audit) -> dict[str, Any]:
    return {
        "table": str(made.table),
        "clean": made.clean,
        "rows": made.rows,
        "unreachable": {"nobody": made.nobody, "unmatched": made.unmatched, "malformed": made.malformed},
        "columns": [
            {
                "column": each.name,
                "list": each.many,
                "accepts": list(each.accepts),
                "claims": list(each.claims),
                "nobody": each.nobody,
                "named": each.named,
                "malformed": each.malformed,
                "names": asdict(each.names) if each.accepts else None,
                "unmatched": asdict(each.unmatched) if each.accepts else None,
                "shared": each.shared,
            }
            for each in made.columns
        ],
        "findings": list(made.findings),
        "notes": list(made.notes),
    }
