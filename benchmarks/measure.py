"""How figures are made and shown: interleaved rounds, medians with quartiles, round trips, and plain tables."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import quantiles
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from psycopg import AsyncConnection, Connection

AnyConnection: TypeAlias = Connection[Any] | AsyncConnection[Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Spread:
    """The median of many values, and the quartiles around it; formatted as ``1.02 (0.99…1.06)``."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = quantiles(values, n=4)
        return cls(low, middle, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}…{self.high:{spec}})"


class Span(NamedTuple):
    """Something that took from here to there."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def meets(self, other: Span) -> bool:
        return self.began < other.ended and other.began < self.ended


def interleaved(arms: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """In every round run each arm once, in random order, so that a busy moment hits all of them alike."""
    results: dict[str, list[Result]] = {name: [] for name in arms}
    order, random = list(arms), Random(0)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            results[name].append(arms[name]())
    return results


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The ratio of two arms, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def differences(minuend: Sequence[float], subtrahend: Sequence[float]) -> Spread:
    """The difference of two arms, round by round."""
    return Spread.of([a - b for a, b in zip(minuend, subtrahend, strict=True)])


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """How many seconds it takes, and what comes out of it."""
    began = perf_counter()
    result = action()
    return perf_counter() - began, result


@contextmanager
def one_core(*conns: AnyConnection) -> Iterator[str]:
    """Client and server share a core, where the system lets us: to wake another one takes longer than a short query.

    Gives it in words, for the report.
    """
    if sys.platform != "linux":
        yield "client and server on cores of their own"
        return
    before = os.sched_getaffinity(0)
    for process in (*_threads(), *(conn.info.backend_pid for conn in conns)):
        os.sched_setaffinity(process, {max(before)})
    try:
        yield "client and server on one core"
    finally:
        for thread in _threads():
            os.sched_setaffinity(thread, before)


def _threads() -> list[int]:
    """Those of this process: each is bound to cores for itself."""
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]


def round_trips(conn: Connection[Any], action: Callable[[], Result]) -> tuple[int, Result]:
    """How often the client sends something and then waits for the answer, as libpq's own trace tells it; and the result."""
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        conn.pgconn.trace(file.fileno())
        try:
            result = action()
        finally:
            conn.pgconn.untrace()
        file.seek(0)
        senders = [fields[1] for line in file if len(fields := line.split("\t")) > 2]
    return sum(before == "F" and after == "B" for before, after in pairwise(senders)), result


@contextmanager
def bytecode_cached() -> Iterator[dict[str, str]]:
    """The environment of a Python that keeps its bytecode, as an installed one does, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        yield kept | {"PYTHONPYCACHEPREFIX": folder}
        assert any(Path(folder).rglob("*.pyc")), "no bytecode was kept"


def report(title: str, how: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a heading, a line that says how it was measured, and the table."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [all(cell[:1].isdigit() or cell[:1] in "+-" for cell in column) for column in zip(*rows, strict=True)]
    print(f"\n{title}\n{how}")
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  " + "  ".join(cells).rstrip(), flush=True)
