"""The command line: options in, a library call, words out. Nothing here that a user of the library would want."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC
from enum import StrEnum
from importlib.metadata import version as distribution_version
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NoReturn

import psycopg
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rlskit import auditor, backfiller, forecaster, installer, keyring, planner, scripter, server, starter, surveyor
from rlskit import demo as story
from rlskit.applier import PATIENCE
from rlskit.auditor import Audit
from rlskit.errors import RlskitError
from rlskit.identity import Identity
from rlskit.loader import load
from rlskit.planner import Plan
from rlskit.signing import SigningKey
from rlskit.steps import Step
from rlskit.words import counted

app = typer.Typer(
    name="rlskit",
    help="Owner and multi-owner rules, enforced by PostgreSQL itself.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Findings go to stdout, progress and errors to stderr. rich knows about pipes and NO_COLOR.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Format(StrEnum):
    """How findings are printed."""

    text = "text"
    json = "json"


class Spelling(StrEnum):
    """How an owner column may spell a person: ``<sub>::<username>``, or one of the two alone."""

    full = "full"
    sub = "sub"
    username = "username"


class Mode(StrEnum):
    """Whether a database takes signed identities only."""

    plain = "plain"
    signed = "signed"


class Stage(StrEnum):
    """How far rules are brought into force."""

    indexes = "indexes"
    policies = "policies"
    enable = "enable"
    force = "force"


RulesOption = Annotated[
    str, typer.Option("--rules", "-r", help="A TOML file, or module:attribute.", envvar="RLSKIT_RULES", metavar="FILE")
]
DsnOption = Annotated[
    str,
    typer.Option(
        "--dsn", "-d", help="The database: a libpq string or a URL.", envvar="DATABASE_URL", show_default=False
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="For people or for machines.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
LockTimeoutOption = Annotated[
    float, typer.Option("--lock-timeout", help="Seconds to wait for a lock; others queue meanwhile.", min=0.001)
]
RetriesOption = Annotated[
    int, typer.Option("--retries", help="How often to try again for a lock, after pauses that grow.", min=0)
]
StageOption = Annotated[Stage, typer.Option("--stage", help="How far to go; each stage contains those before it.")]
ReleaseOption = Annotated[
    list[str],
    typer.Option("--release", help="Switch row security off on a table that left the rules.", metavar="TABLE"),
]

RULES_FILE = "rlskit.toml"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"rlskit {distribution_version('rlskit')}")
        raise typer.Exit


@app.command("demo")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running, and print its DSN.")] = False,
    as_sql: Annotated[bool, typer.Option("--sql", help="Show the statements instead of words.")] = False,
) -> None:
    """Show the rules at work on a throwaway PostgreSQL. Exits 1 if any answer is not the promised one."""
    with server.start(server.EmbeddedWheel(), server.LocalBinaries(), keep=keep, on_progress=_progress) as running:
        story.prepare(running)
        played = list(story.play(running))
        _print_story(played, as_sql)
        if keep:
            out.print(
                f"\nThe server stays:   psql '{running.dsn}'\nStop and remove it: {running.stop_command}", markup=False
            )
    raise typer.Exit(0 if all(each.as_expected for each in played) else 1)


@app.command("sql")
def sql(rules: RulesOption = RULES_FILE) -> None:
    """Print the whole SQL of the rules. No database is needed."""
    sys.stdout.write(scripter.sql(load(_source(rules))))


@app.command("plan")
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
    with _connected(dsn) as conn:
        made = planner.plan(conn, load(_source(rules)), release=release, stage=stage.value)
    if as_sql:
        sys.stdout.write(made.sql())
    else:
        _print_plan(made, format)
        if format is Format.text and not made.conforms:
            out.print("Nothing was changed.")
    raise typer.Exit(1 if exit_code and not made.conforms else 0)


@app.command("apply")
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
    with _connected(dsn) as conn:
        made = planner.plan(conn, load(_source(rules)), release=release, stage=stage.value)
        _print_plan(made, Format.text)
        if made.conforms:
            return
        for step in made.prunings if prune_foreign else ():
            out.print(f"--prune-foreign: {step.table}: {step}", style="red", markup=False)
        _confirm(yes, "Apply this?")
        made.apply(conn, lock_timeout=lock_timeout, retries=retries, prune_foreign=prune_foreign, on_progress=_progress)
    if made.later:
        out.print(f"Applied and verified: stage {made.stage}. {_missing(made.later)}")
    else:
        out.print("Applied and verified: the database does what the rules say.")


@app.command("check")
def check(dsn: DsnOption = "", rules: RulesOption = RULES_FILE, format: FormatOption = Format.text) -> None:
    """Exit 1 when the database differs from the rules, and say in what. A login that may only read the catalogue is enough."""
    with _connected(dsn) as conn:
        made = planner.compare(conn, load(_source(rules)))
    _print_plan(made, format)
    if format is Format.text and made.steps:
        out.print(_missing(made.steps))
    raise typer.Exit(0 if made.conforms else 1)


@app.command("owners")
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
    given = load(_source(rules))
    with _connected(dsn) as conn:
        if backfill is None:
            audited = auditor.audit(conn, given, table, people=people or None)
            _print_audit(audited, format, out)
            raise typer.Exit(0 if audited.clean else 1)
        made = backfiller.backfill(conn, given, table, backfill.value, people=people or None)
    _print_audit(made.audit, format, err)
    for note in made.notes if format is Format.text else ():
        err.print(f"the script: {note}", style="yellow", markup=False)
    sys.stdout.write(made.sql)


@app.command("shadow")
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
    with _connected(dsn) as conn:
        made = forecaster.shadow(conn, load(_source(rules)), *tables, identities=identities, people=people or None)
    if format is Format.json:
        typer.echo(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
    else:
        out.print(str(made), markup=False)
    raise typer.Exit(0 if made.clean else 1)


@app.command("init")
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
        with _connected(dsn) as conn:
            known = starter.tables(conn)
    elif dsn:
        _progress("--dsn was not asked: its tables are for a rule file, and this project has models or rules.")
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


@app.command("install")
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
    with _connected(dsn) as conn:
        done = installer.install(conn, mode=mode.value if mode else None, lock_timeout=lock_timeout, retries=retries)
    out.print("\n".join(step.says for step in done) or "The schema rlskit is there, and current.", markup=False)


@app.command("uninstall")
def uninstall(
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    tables: Annotated[
        bool, typer.Option("--tables", help="Take the rules off every table first; the tables stay closed.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Take the schema rlskit away again. Refuses while a table rests on it."""
    with _connected(dsn) as conn:
        if tables:
            made = planner.plan(conn, installer.without_tables(load(_source(rules))))
            _print_plan(made, Format.text)
            _confirm(yes, "Take the rules off these tables, and the schema rlskit away?")
            made.apply(conn, on_progress=_progress)
        else:
            _confirm(yes, "Take the schema rlskit away?")
        installer.uninstall(conn)
    out.print("The schema rlskit is gone.")


keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The keys that identities are signed with.")
app.add_typer(keys, name="keys")


@keys.command("add")
def add_key(
    dsn: DsnOption = "",
    name: Annotated[
        str, typer.Option("--name", help="Its name; a random one, if none is given.", show_default=False)
    ] = "",
) -> None:
    """Make a key, let the database accept it, and print it: once, and nowhere else.

    Alone on stdout stands the text that the application gives to rlskit.guard(…, key=…). The keys that are there stay accepted.
    """
    key = SigningKey.generate(name or None)
    with _connected(dsn) as conn:
        keyring.add(conn, key)
    _progress(
        f"The database accepts what key {key.kid} signs. Keep it where the application's other secrets are; it is not shown again."
    )
    typer.echo(key.export())


@keys.command("list")
def list_keys(dsn: DsnOption = "", format: FormatOption = Format.text) -> None:
    """List the keys that the database accepts: their names, and since when. Never their secrets."""
    with _connected(dsn) as conn:
        known = keyring.known(conn)
    if format is Format.json:
        typer.echo(
            json.dumps([{"kid": each.kid, "created_at": each.created_at.isoformat()} for each in known], indent=2)
        )
        return
    for each in known:
        out.print(f"{each.kid:32}  {each.created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", markup=False)
    if not known:
        out.print("There is no key: where identities have to be signed, everybody is nobody.")


@keys.command("retire")
def retire_key(
    kid: Annotated[str, typer.Argument(help="The name of the key.", metavar="NAME", show_default=False)],
    dsn: DsnOption = "",
    yes: YesOption = False,
) -> None:
    """Accept a key no more, from this moment on. Give the applications their new one before."""
    with _connected(dsn) as conn:
        known = {each.kid for each in keyring.known(conn)}
        others = len(known - {kid})
        left = f"{counted(others, 'other key')} {'stays' if others == 1 else 'stay'}"
        if kid in known:
            _confirm(
                yes,
                f"{left if others else 'No other key is there'}: whoever signs with {kid} is refused at once. Retire it?",
            )
        keyring.retire(conn, kid)
    out.print(f"Key {kid} is accepted no more.", markup=False)


def main() -> NoReturn:
    """Run the command line. Exits 0 when clean, 1 with findings, 2 when it could not run."""
    try:
        app(standalone_mode=True)
    except RlskitError as error:
        _fail(f"{error.code} {error.message}", error.hint)
    except psycopg.OperationalError as error:
        _fail(f"the database cannot be reached: {' '.join(str(error).split())}", "see --dsn and DATABASE_URL")
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:  # libpq did not understand the string; its words may quote the password in it
            _fail("the DSN is no libpq string and no URL", "postgresql://user@host/database, or host=… dbname=…")
        _fail(f"the database refused: {error.diag.message_primary}", "")
    except KeyboardInterrupt:
        err.print("interrupted: what was finished stays, and what was not was undone")
        sys.exit(130)
    sys.exit(0)


# --- helpers -------------------------------------------------------------------------------------------


def _fail(message: str, hint: str) -> NoReturn:
    err.print("[bold red]error[/]: ", end="")
    err.print(message, markup=False)
    if hint:
        err.print(f"hint: {hint}", markup=False)
    sys.exit(2)


def _progress(line: str) -> None:
    err.print(line, markup=False)


def _source(rules: str) -> str:
    """The default file, or the project's own pyproject.toml where that holds the rules instead."""
    if rules == RULES_FILE and not Path(RULES_FILE).exists() and Path("pyproject.toml").exists():
        return "pyproject.toml"
    return rules


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    if not dsn:
        _fail("no database is named", "give --dsn, or set DATABASE_URL")
    scheme, separator, rest = dsn.partition("://")
    with psycopg.connect(scheme.partition("+")[0] + separator + rest, application_name="rlskit") as conn:
        yield conn


def _confirm(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        _fail("nobody is there to be asked", "read the plan, then say --yes")
    if not typer.confirm(question):
        _fail("not confirmed, and nothing was changed", "")


def _print_plan(made: Plan, format: Format) -> None:
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


def _print_story(played: list[story.Played], as_sql: bool) -> None:
    for name, scenes in groupby(played, lambda each: each.scene.table):
        out.print(f"\n{name}: {story.rule_of(name)}", style="bold", markup=False)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), width=None if as_sql else 80)
        table.add_column(width=9)
        table.add_column(min_width=30)
        table.add_column(min_width=30)
        for each in scenes:
            style = "red" if each.answer.startswith("refused") else ""
            answer = each.answer if each.as_expected else f"{each.answer}   NOT AS PROMISED: {each.scene.expected}"
            table.add_row(
                each.scene.who, Text(each.scene.statement if as_sql else each.scene.says), Text(answer, style=style)
            )
        out.print(table)
    if all(each.as_expected for each in played):
        out.print(
            f"\nAll {len(played)} answers are those that the rules promise, and no statement said whose rows it meant."
        )
        out.print("A superuser is bound by no rule: that is why rlskit refuses to let an application connect as one.")
