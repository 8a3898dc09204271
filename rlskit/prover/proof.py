"""What came of a proof, cell by cell: told in sentences, as JUnit XML, as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from xml.etree import ElementTree

from rlskit import ddl
from rlskit.names import QualifiedName
from rlskit.preflight import Finding, Unruled
from rlskit.prover.cells import Cell, Probe
from rlskit.vocabulary import OPERATIONS
from rlskit.words import counted

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHOWN = 3  # failures of a cell; the others are counted
_TOLD = 5  # red cells, and tables of which nothing could be asked; JSON and JUnit have all of them
_LOOK = "rlskit plan says what differs from the rules, and rlskit apply brings the table back to them"


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe that did not come out as expected; ``did`` is what PostgreSQL did, in words without a value of a row."""

    probe: Probe
    did: str


@dataclass(frozen=True, slots=True)
class Result:
    """A cell and its failures; none of them, and at least one probe: proved."""

    cell: Cell
    failures: tuple[Failure, ...] = ()

    @property
    def proved(self) -> bool:
        """Whether the database does exactly what the rules say, as far as this cell asks."""
        return bool(self.cell.probes) and not self.failures and not self.cell.obstacle

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.cell.operation} by {self.cell.person}"


@dataclass(frozen=True)
class Proof:
    """What came of all cells, of tables with these ``rules`` in words.

    ``findings`` are why the database is none that proves anything; ``asked`` is False where nothing was asked because of them. ``beside`` are tables
    that no rule names and that the role reaches all the same: a note, and not red.

    ``str()`` tells it: a matrix for each table, and each red cell.
    """

    results: Sequence[Result]
    findings: tuple[Finding, ...] = ()
    rules: tuple[tuple[QualifiedName, str], ...] = ()
    asked: bool = True
    beside: tuple[Unruled, ...] = ()

    @property
    def total(self) -> int:
        """How many cells there are."""
        return len(self.results)

    @cached_property
    def red(self) -> tuple[Result, ...]:
        """The cells that are not proved."""
        return tuple(each for each in self.results if not each.proved)

    @property
    def proved(self) -> int:
        """How many cells are as the rules say; where ``findings`` stand, they prove nothing."""
        return self.total - len(self.red)

    @property
    def probes(self) -> int:
        """How many attempts the cells are made of."""
        return sum(len(each.cell.probes) for each in self.results)

    @property
    def clean(self) -> bool:
        """Whether there is at least one cell, all are proved, and nothing was found that would make them mean nothing."""
        return self.total > 0 and not self.red and not self.findings

    @property
    def verdict(self) -> str:
        """The red cells, and how many are proved: what ``str()`` ends with."""
        return "\n".join(_verdict(self))

    def __str__(self) -> str:
        return "\n".join(_story(self))

    def to_dict(self) -> dict[str, object]:
        """The proof as JSON can hold it."""
        return {
            "clean": self.clean,
            "asked": self.asked,
            "cells": self.total,
            "proved": self.proved,
            "probes": self.probes,
            "unruled": [{"table": str(each.table), "privileges": list(each.privileges)} for each in self.beside],
            "findings": [
                {
                    "table": str(each.table) if each.table else None,
                    "kind": each.kind,
                    "text": each.text,
                    "hint": each.hint,
                }
                for each in self.findings
            ],
            "tables": [
                {
                    "table": str(table),
                    "rules": dict(self.rules).get(table),
                    "cells": [_as_dict(each) for each in results],
                }
                for table, results in _by_table(self)
            ],
        }

    def junit(self) -> str:
        """The proof as JUnit XML: a test suite for each table, a test case for each cell, and one more for what was found of the database."""
        root = ElementTree.Element("testsuites", name="rlskit")
        if self.findings or not self.total:
            suite = _suite(root, "database", len(self.findings) or 1, len(self.findings) or 1)
            for finding in self.findings:
                _case(suite, "database", finding.kind, finding.text, f"{finding.text}\nhint: {finding.hint}")
            if not self.findings:
                _case(suite, "database", "cells", "there are no cells, so nothing is proved", _NONE)
        for table, results in _by_table(self):
            suite = _suite(root, str(table), len(results), sum(not each.proved for each in results))
            for each in results:
                lines = [] if each.proved else list(_red(each, len(each.failures)))
                _case(suite, str(table), each.name, lines[0].strip() if lines else "", "\n".join(lines))
        for name in ("tests", "failures"):
            root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


# --- in words ----------------------------------------------------------------------------------------------

_NONE = "hint: the rules have no table that anybody could be asked about; name the rule file with --rules"
_NOT_ASKED = (
    "nothing was asked: as long as that stands, no answer would mean anything",
    "hint: do what is said above (rlskit apply brings the rules into the database), and then test again",
)
_MARKS = {"allowed": "+", "held": "·", "red": "X"}


def _story(proof: Proof) -> Iterator[str]:
    for finding in proof.findings:
        yield f"red: {finding.text}"
        yield f"  hint: {finding.hint}"
    if proof.findings:
        yield ""
    for table, results in _by_table(proof):
        yield f"{table}: {dict(proof.rules).get(table, '')}".rstrip(": ")
        yield from _matrix(results)
        yield ""
    if proof.total:
        yield f"{_MARKS['allowed']} something is allowed, {_MARKS['held']} nothing is, as the rules say; {_MARKS['red']} red"
        yield ""
    if proof.beside:
        yield f"note: no rule names what the role reaches all the same: {', '.join(map(str, proof.beside))}"
        yield "  write its rules, or Unmanaged(reason=…) where that is meant"
        yield ""
    yield from _verdict(proof)


def _verdict(proof: Proof) -> Iterator[str]:
    if not proof.asked:
        yield from _NOT_ASKED
        return
    told = list(_red_cells(proof))
    for lines, _ in told[:_TOLD]:
        yield from lines
        yield ""
    if more := sum(cells for _, cells in told[_TOLD:]):
        yield f"and {more:,} more: --format json or --junit FILE has them all"
        yield ""
    cells = f"{proof.proved:,} of {counted(proof.total, 'cell')}"
    if not proof.findings or not proof.total:
        yield f"{cells} proved, by {counted(proof.probes, 'attempt')}"
    else:
        yield f"{cells} are as the rules say, and prove nothing: see the first line"
    if not proof.total:
        yield _NONE
    elif any(each.failures for each in proof.red):
        yield f"hint: {_LOOK}"


def _red_cells(proof: Proof) -> Iterator[tuple[list[str], int]]:
    """Lines, and how many red cells they are about: a table of which nothing could be asked is told once."""
    obstacles = Counter((each.cell.table, each.cell.obstacle) for each in proof.red if each.cell.obstacle)
    for (table, obstacle), cells in obstacles.items():
        yield [f"red: {table}, all that is asked of it", f"  {obstacle}"], cells
    for each in proof.red:
        if not each.cell.obstacle:
            yield [f"red: {each.cell.table}, {each.name}", *(f"  {line}" for line in _red(each, _SHOWN))], 1


def _by_table(proof: Proof) -> Iterator[tuple[QualifiedName, list[Result]]]:
    for table, results in groupby(proof.results, key=lambda each: each.cell.table):
        yield table, list(results)


def _matrix(results: Sequence[Result]) -> Iterator[str]:
    people = list(dict.fromkeys(each.cell.person for each in results))
    marks = {(each.cell.person, each.cell.operation): _mark(each) for each in results}
    width = max(map(len, people))
    yield f"  {'':{width}}  {'  '.join(OPERATIONS)}"
    for person in people:
        row = "  ".join(f"{marks.get((person, operation), ''):^{len(operation)}}" for operation in OPERATIONS)
        yield f"  {person:{width}}  {row}".rstrip()


def _mark(result: Result) -> str:
    if not result.proved:
        return _MARKS["red"]
    allowed = any(probe.expected == "allowed" for probe in result.cell.probes)
    return _MARKS["allowed" if allowed else "held"]


def _red(result: Result, shown: int) -> Iterator[str]:
    if result.cell.obstacle or not result.cell.probes:
        yield result.cell.obstacle or "nothing was asked"
    for failure in result.failures[:shown]:
        probe = failure.probe
        yield f"{probe.about}: expected {probe.expected}, PostgreSQL says {failure.did}"
        yield f"  the rules: {probe.why}"
        yield f"  statement: {ddl.text(probe.attempt.statement)}"
    if len(result.failures) > shown:
        yield f"and {len(result.failures) - shown} more"


def _as_dict(result: Result) -> dict[str, object]:
    return {
        "operation": result.cell.operation,
        "person": result.cell.person,
        "proved": result.proved,
        "probes": len(result.cell.probes),
        "obstacle": result.cell.obstacle or None,
        "failures": [
            {
                "about": each.probe.about,
                "expected": each.probe.expected,
                "why": each.probe.why,
                "did": each.did,
                "statement": ddl.text(each.probe.attempt.statement),
            }
            for each in result.failures
        ],
    }


def _suite(root: ElementTree.Element, name: str, tests: int, failures: int) -> ElementTree.Element:
    return ElementTree.SubElement(
        root, "testsuite", name=_xml(name), tests=str(tests), failures=str(failures), errors="0", skipped="0"
    )


def _case(suite: ElementTree.Element, place: str, name: str, message: str, text: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(place), name=_xml(name))
    if message:
        ElementTree.SubElement(case, "failure", message=_xml(message), type="red").text = _xml(text)


def _xml(text: str) -> str:
    """Without what XML cannot hold."""
    return _NO_XML.sub("?", text)
