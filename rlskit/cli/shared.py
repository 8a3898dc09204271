"""What the commands share: their options, their two outputs, the database, the question before a change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import psycopg
import typer
from rich.console import Console

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


def fail(message: str, hint: str) -> NoReturn:
    """End with exit code 2: it could not run."""
    err.print("[bold red]error[/]: ", end="")
    err.print(message, markup=False)
    if hint:
        err.print(f"hint: {hint}", markup=False)
    sys.exit(2)


def progress(line: str) -> None:
    """Say what is going on, apart from what was found."""
    err.print(line, markup=False)


def source(rules: str) -> str:
    """The default file, or the project's own pyproject.toml where that holds the rules instead."""
    if rules == RULES_FILE and not Path(RULES_FILE).exists() and Path("pyproject.toml").exists():
        return "pyproject.toml"
    return rules


@contextmanager
def connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The database that is named; a URL of SQLAlchemy's does as well."""
    if not dsn:
        fail("no database is named", "give --dsn, or set DATABASE_URL")
    scheme, separator, rest = dsn.partition("://")
    with psycopg.connect(scheme.partition("+")[0] + separator + rest, application_name="rlskit") as conn:
        yield conn


def confirm(yes: bool, question: str, hint: str = "read the plan, then say --yes") -> None:
    """Ask before a change, unless that was answered already. Without a terminal nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nobody is there to be asked", hint)
    if not typer.confirm(question):
        fail("not confirmed, and nothing was changed", "")
