"""A cell of the proof: one operation of one person on one table, as probes with the outcome that the rules promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlskit.attempts import Attempt, Outcome
from rlskit.names import QualifiedName
from rlskit.prover.people import Person
from rlskit.vocabulary import OPERATIONS, Operation


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt of one person on one row, and what has to become of it.

    ``about`` says in words which row, and ``why`` what in the rules decides. ``before`` are attempts that the same person makes first, in the same
    savepoint, and that have to succeed. ``afterwards`` are the owner columns as they have to be stored where the attempt is allowed.
    Two people of one name need not be the same: each row has its own.
    """

    about: str
    person: Person
    attempt: Attempt
    expected: Outcome
    why: str
    before: tuple[Attempt, ...] = ()
    afterwards: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation of one person on one table: proved when every probe of it comes out as expected.

    ``obstacle`` says why nothing could be asked; such a cell, and one without probes, is never proved.
    """

    table: QualifiedName
    operation: Operation
    person: str
    probes: tuple[Probe, ...] = ()
    obstacle: str = ""


def unprovable(table: QualifiedName, obstacle: str) -> tuple[Cell, ...]:
    """The cells of a table of which nothing can be asked; each is red."""
    return tuple(Cell(table, operation, "everybody", obstacle=obstacle) for operation in OPERATIONS)
