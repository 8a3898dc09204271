"""The story of the demo, told."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rlskit import demo as story
from rlskit import (
    server,
)
from rlskit.cli.shared import (
    out,
    progress,
)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running, and print its DSN.")] = False,
    as_sql: Annotated[bool, typer.Option("--sql", help="Show the statements instead of words.")] = False,
) -> None:
    """Show the rules at work on a throwaway PostgreSQL. Exits 1 if any answer is not the promised one."""
    with server.start(server.EmbeddedWheel(), server.LocalBinaries(), keep=keep, on_progress=progress) as running:
        story.prepare(running)
        played = list(story.play(running))
        _print_story(played, as_sql)
        if keep:
            out.print(
                f"\nThe server stays:   psql '{running.dsn}'\nStop and remove it: {running.stop_command}", markup=False
            )
    raise typer.Exit(0 if all(each.as_expected for each in played) else 1)


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
