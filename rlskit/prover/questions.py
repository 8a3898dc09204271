"""All cells of one table. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rlskit.prover import creating, parts, standing
from rlskit.prover.cells import Cell, Probe
from rlskit.prover.ground import Ground
from rlskit.vocabulary import OPERATIONS, Operation


def cells(ground: Ground) -> tuple[Cell, ...]:
    """The cells of one table, operation by operation."""
    return tuple(sorted(_cells(ground), key=lambda each: OPERATIONS.index(each.operation)))


def _cells(ground: Ground) -> Iterator[Cell]:
    found: dict[tuple[Operation, str], list[Probe]] = {}
    for probe in (*standing.probes(ground), *creating.probes(ground), *parts.probes(ground)):
        found.setdefault((probe.attempt.operation, probe.person.name), []).append(probe)
    for (operation, person), probes in found.items():
        yield Cell(ground.table, operation, person, tuple(probes))
