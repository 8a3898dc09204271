"""The proof that a database keeps the rules."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import make_conninfo

from rlskit import prover
from rlskit.cli.shared import (
    RULES_FILE,
    DsnOption,
    Format,
    FormatOption,
    RulesOption,
    connected,
    fail,
    out,
    progress,
    source,
)
from rlskit.loader import load
from rlskit.prover.copies import copied


def prove(
    tables: Annotated[
        list[str],
        typer.Argument(help="Tables; without them all that have rules.", metavar="[TABLE]...", show_default=False),
    ] = [],  # noqa: B006 - Typer wants a list, and copies it
    dsn: DsnOption = "",
    rules: RulesOption = RULES_FILE,
    copy: Annotated[
        bool, typer.Option("--copy", help="Prove in a copy of the database, which is made beside it and dropped.")
    ] = False,
    values: Annotated[
        Path | None,
        typer.Option(
            "--values",
            help='What cannot be made up for required columns, as TOML: [table] column = "text".',
            metavar="FILE",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", help="A file for the cells as JUnit XML.", metavar="FILE", show_default=False),
    ] = None,
    mutate: Annotated[
        bool,
        typer.Option("--mutate", help="In a copy, weaken each protection once, and demand a red cell for it."),
    ] = False,
    pgtap: Annotated[
        Path | None,
        typer.Option(
            "--pgtap", help="A file for the cells as pgTAP tests, drawn in a copy.", metavar="FILE", show_default=False
        ),
    ] = None,
    format: FormatOption = Format.text,
) -> None:
    """Prove that the database keeps the rules: every operation, asked by everybody whom the rules tell apart, about rows made for it.

    All of it in one transaction, which is rolled back; connect as a superuser, to a database for tests or with --copy. Exits 1 when a cell is red,
    when the database is none that proves anything, when there is no cell, and with --mutate when a weakened protection was not noticed.
    """
    read, said = load(source(rules)), _values(values)
    began = time.monotonic()
    found: prover.Proof | prover.Mutations
    with connected(dsn) as given, _place(given, copy or mutate or pgtap is not None) as conn:
        if pgtap is not None:
            _write(pgtap, prover.pgtap(conn, read, *tables, values=said))
        if mutate:
            found = prover.mutate(conn, read, *tables, values=said, say=progress)
            proof = found.proof
        else:
            found = proof = prover.prove(conn, read, *tables, values=said, say=progress)
    progress(f"{time.monotonic() - began:.0f} seconds")
    if junit is not None:
        _write(junit, proof.junit())
    if format is Format.json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        out.print(str(found), markup=False)
    raise typer.Exit(0 if found.clean else 1)


@contextmanager
def _place(given: psycopg.Connection[Any], copy: bool) -> Iterator[psycopg.Connection[Any]]:
    """The database itself, or a copy of it."""
    if not copy:
        yield given
        return
    with copied(given, progress) as name:
        progress(f"copied to `{name}`")
        with psycopg.connect(make_conninfo(given.info.dsn, password=given.info.password, dbname=name)) as conn:
            yield conn


def _values(path: Path | None) -> dict[str, dict[str, str]]:
    """The file, each value as text."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read: {error}", '[table], and below it column = "text"')
    for table, columns in found.items():
        if not isinstance(columns, dict) or any(isinstance(each, dict | list) for each in columns.values()):
            fail(f"{path}: `{table}` does not map columns to texts", f'["{table}"], and below it column = "text"')
    return {table: {name: _text(value) for name, value in columns.items()} for table, columns in found.items()}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be written: {type(error).__name__}", "name a file in a folder that is there")
