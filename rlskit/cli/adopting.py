"""The way in: a start for a project, rules for a database that has policies, and what they would hide."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlskit import (
    forecaster,
    importer,
    starter,
    surveyor,
)
from rlskit.cli.shared import (
    RULES_FILE,
    DsnOption,
    Format,
    FormatOption,
    RulesOption,
    YesOption,
    confirm,
    connected,
    err,
    fail,
    out,
    progress,
    source,
)
from rlskit.identity import Identity
from rlskit.loader import load


def shadow(
    tables: Annotated[
        list[str],
        typer.Argument(help="Tables; without them all that have rules.", metavar="[TABLE]...", show_default=False),
    ] = [],  # noqa: B006 - as above
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    people: Annotated[
        str,
        typer.Option(
            "--people",
            help="A table or view with columns sub and username, and one for each further claim that rules compare.",
            metavar="TABLE",
            show_default=False,
        ),
    ] = "",
    persons: Annotated[
        list[str],
        typer.Option(
            "--as", help="A person, as an owner column spells one: <sub>::<username>.", metavar="SUB::USERNAME"
        ),
    ] = [],  # noqa: B006 - as above
    format: FormatOption = Format.text,
) -> None:
    """Count what row security would hide from people, before it is switched on. Nothing is changed.

    Of --people only counts are printed, and no name; exits 1 when there are rows that none of them would read. A person given by --as is printed, and
    costs a scan of each table. Connect with a login that row security does not bind: a superuser, or one with BYPASSRLS.
    """
    identities = [
        Identity(sub=sub, username=name if both else None)
        for sub, both, name in (each.partition("::") for each in persons)
    ]
    with connected(dsn) as conn:
        made = forecaster.shadow(conn, load(source(rules)), *tables, identities=identities, people=people or None)
    if format is Format.json:
        typer.echo(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
    else:
        out.print(str(made), markup=False)
    raise typer.Exit(0 if made.clean else 1)


def init(
    folder: Annotated[
        Path, typer.Argument(help="The project.", exists=True, file_okay=False, metavar="[FOLDER]", show_default=False)
    ] = Path(),
    role: Annotated[str, typer.Option("--role", help="The application's role.")] = "app_user",
    dsn: Annotated[
        str,
        typer.Option("--dsn", "-d", help="A database whose tables a rule file is to begin with.", show_default=False),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Change Alembic's env.py too, and do not ask.")] = False,
) -> None:
    """Write a commented start for a project's rules, and show what Alembic's env.py needs. Imports nothing of it.

    A file that is there is never overwritten, and env.py is changed only with --yes, or a yes on the terminal.
    """
    project = surveyor.survey(folder.resolve())
    known: tuple[starter.Table, ...] = ()
    if dsn and project.base is None and project.rules is None:
        with connected(dsn) as conn:
            known = starter.tables(conn)
    elif dsn:
        progress("--dsn was not asked: its tables are for a rule file, and this project has models or rules.")
    made = starter.start(project, role=role, known=known)
    for line in made.found:
        out.print(line, markup=False)
    if made.new:
        made.new.write()
        out.print(f"Wrote {made.new.name}: read it first.", style="bold", markup=False)
    if made.edit:
        out.print(f"\n{made.edit.diff}\n", markup=False)
        if yes or (sys.stdin.isatty() and typer.confirm(f"Change {made.edit.name} so?")):
            made.edit.write()
            out.print(f"Changed {made.edit.name}.", style="bold", markup=False)
        else:
            out.print(f"{made.edit.name} was not changed: --yes does it.", markup=False)
    for note in made.notes:
        out.print(f"note: {note}", style="yellow", markup=False)
    out.print("\n".join(["Next:", *(f"  {each}" for each in made.commands)]), markup=False)


def import_(
    dsn: DsnOption = "",
    role: Annotated[str, typer.Option("--role", help="The application's role.", show_default=False)] = "",
    schema: Annotated[list[str], typer.Option("--schema", help="A schema to read; may be given again.")] = ["public"],  # noqa: B006 - as above
    claim: Annotated[
        list[str],
        typer.Option(
            "--claim",
            help="Which claim a setting or a function stands for, as in app.user_id=sub; may be given again.",
            metavar="SOURCE=CLAIM",
        ),
    ] = [],  # noqa: B006 - as above
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file for the rules, in place of stdout.", show_default=False),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Write rules for a database that has policies and grants already. Nothing is changed there.

    Findings go to stderr, and stand in the file as well. Exits 1 when something was not understood and is kept as it is.
    """
    if not role:
        fail("no role is named", "say with --role which role the application's policies and privileges are for")
    said = {source: meant for source, _, meant in (each.rpartition("=") for each in claim)}
    if "" in said:
        fail("--claim takes SOURCE=CLAIM", "for example --claim app.user_id=sub")
    with connected(dsn) as conn:
        imported = importer.read(conn, role=role, schemas=schema, claims=said)
    for note in imported.notes:
        where = f"{note.table}: " if note.table else ""
        err.print(f"{where}{note}", style="" if note.kind == "understood" else "yellow", markup=False)
    if output is None:
        sys.stdout.write(imported.toml())
    else:
        if output.exists():
            confirm(yes, f"{output} is there already. Write over it?", "name another file, or say --yes")
        try:
            output.write_text(imported.toml(), encoding="utf-8")
        except OSError as error:
            fail(f"{output} cannot be written: {type(error).__name__}", "name a file in a folder that is there")
    raise typer.Exit(0 if imported.is_complete else 1)
