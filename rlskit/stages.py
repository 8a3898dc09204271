"""The stages in which rules come to a table: which change belongs to which, and what a lower one leaves for later."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from rlskit.errors import RuleError
from rlskit.facts import Database
from rlskit.names import QualifiedName
from rlskit.state import Change, Column, Default, Index, Policy, RowSecurity, State, TableObject, Trigger
from rlskit.words import did_you_mean

Stage: TypeAlias = Literal["indexes", "policies", "enable", "force"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# Each contains those before it.
MEANINGS: dict[Stage, str] = {
    "indexes": "what takes long: owner columns that are missing, and indexes",
    "policies": "what does nothing while row security is off, so that nobody notices",
    "enable": "the rules bind the application",
    "force": "the rules bind the owner of the tables too",
}


def checked_stage(stage: object) -> Stage:
    """Return the stage. Raises RuleError for a word that is none."""
    for each in STAGES:
        if each == stage:
            return each
    raise RuleError(f"`{stage}` is no stage", hint=did_you_mean(str(stage), STAGES), key="stage")


def contains(stage: Stage, other: Stage) -> bool:
    """Whether ``other`` is done when ``stage`` is."""
    return STAGES.index(other) <= STAGES.index(stage)


def parted(before: TableObject | None, after: TableObject | None) -> Iterator[Change]:
    """Yield the change, or its two parts: to ENABLE and to FORCE row security are of different stages."""
    match before, after:
        case RowSecurity(enabled=False, forced=False), RowSecurity(enabled=True, forced=True):
            enabled = replace(after, forced=False)
            yield before, enabled
            yield enabled, replace(after, why="the owner of the table too")
        case _:
            yield before, after


def stage_of(before: TableObject | None, after: TableObject | None, table: Stage | None) -> Stage:
    """The first stage that contains the change; ``table`` is what ``together`` says of its table.

    Whatever can refuse the application something, hide it or open it, waits for "enable": privileges, which without row security would
    open every row, checks, and a default in the place of another.
    """
    match before, after:
        case (None, Column()) | (_, Index()):
            return "indexes"
        case RowSecurity(enabled=True), RowSecurity(enabled=True):
            return "force"
    match before, after:
        case ((Policy() | Trigger() | Index()), _) | (None, Policy() | Trigger() | Default()):
            return table or "policies"
    return table or "enable"


def binding(database: Database) -> frozenset[QualifiedName]:
    """The tables whose row security is on."""
    return frozenset(each.table for each in database.state.objects if isinstance(each, RowSecurity) and each.enabled)


def together(table: QualifiedName, wanted: State, bound: Set[QualifiedName]) -> Stage | None:
    """The stage at which a table changes as a whole, but for its indexes and FORCE; None for one that goes through the stages.

    Where row security is on (``bound``), half of a change would be neither the old rules nor the new. What leaves the rules is closed at one go.
    """
    if table in bound:
        return "policies"
    return None if any(isinstance(each, Policy) for each in wanted.of(table)) else "enable"


def undone(stage: Stage, table: QualifiedName, bound: Set[QualifiedName]) -> bool:
    """Whether what lets the role past the rules of a table undoes what the stage asks for: only where the rules bind, or will."""
    return contains(stage, "enable") or (stage == "policies" and table in bound)
