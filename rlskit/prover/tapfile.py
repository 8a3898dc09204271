"""The cells of a proof as a plain pgTAP file: people, rows, and one test for each probe."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, LiteralString

from psycopg.sql import DEFAULT, SQL, Composable, Identifier, Literal

from rlskit import ddl, runtime
from rlskit.attempts import Attempt
from rlskit.filler.inserter import insertion
from rlskit.filler.shapes import Column
from rlskit.names import QualifiedName
from rlskit.prover import stage
from rlskit.prover.cells import Cell, Probe
from rlskit.prover.people import Person
from rlskit.prover.rehearsal import Rehearsal

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def script(rehearsal: Rehearsal) -> str:
    """The file: the people of the rehearsal, its rows, and its cells. One that could not be asked is a test that fails and says why.

    It is the same for the same people and rows, but for UUIDs that the database has drawn: these are counted.
    """
    rows, people = _Rows(rehearsal), _People(rehearsal)
    text = "\n".join(_lines(rehearsal, rows, people))
    for number, drawn in enumerate(rows.drawn, 1):
        text = text.replace(drawn, f"00000000-0000-4000-8000-{number:012}")
    return text


class _Rows:
    """The rows as plain INSERTs. What a default computes is left to it, but for what statements find their rows by."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._filler = rehearsal.filler
        self._needed: dict[QualifiedName, set[str]] = defaultdict(set)
        self.drawn: dict[str, None] = {}
        for probe in (probe for cell in rehearsal.cells for probe in cell.probes):
            self._needed[probe.attempt.table].update(probe.attempt.key, probe.afterwards or ())
        for table in dict(rehearsal.filler.made):
            for key in self._filler.shape(table).foreign_keys:
                self._needed[key.target].update(key.target_columns)

    def inserts(self) -> Iterator[str]:
        for table, row in self._filler.made:
            shape = self._filler.shape(table)
            kept = [each for each in shape.columns if each.name in row and not self._is_left_out(table, each, row)]
            drawn = [str(row[each.name]) for each in kept if _computes(each)]
            self.drawn.update((each, None) for each in drawn if _UUID.fullmatch(each))
            yield _statement("{}", insertion(shape, {each.name: row[each.name] for each in kept}))

    def said(self, attempt: Attempt) -> Composable:
        """The statement, in which what a default computes is the default."""
        computed = {each.name for each in self._filler.shape(attempt.table).columns if _computes(each)}
        computed -= self._needed[attempt.table]
        return replace(
            attempt, values={name: DEFAULT if name in computed else value for name, value in attempt.values.items()}
        ).statement

    def _is_left_out(self, table: QualifiedName, column: Column, row: Mapping[str, Any]) -> bool:
        if column.generated or (row[column.name] is None and not column.has_default):
            return True
        return _computes(column) and column.name not in self._needed[table]


def _computes(column: Column) -> bool:
    """Whether the default may give another value each time."""
    return "(" in (column.default or "")


class _People:
    """Everybody who asks, each under a name of their own: two rows have two owners."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._role, self._owners, self.signed = rehearsal.rules.role, rehearsal.owners, rehearsal.signed
        self.like_owners = {
            owner: f"rlskit_like_owner_{number}" for number, owner in enumerate(sorted({*rehearsal.owners.values()}), 1)
        }
        self.names: dict[tuple[str, str, str, bool], str] = {}
        numbers: dict[str, int] = defaultdict(int)
        for probe in (probe for cell in rehearsal.cells for probe in cell.probes):
            key = self._key(probe)
            if key not in self.names:
                numbers[probe.person.name] += 1
                number = numbers[probe.person.name]
                self.names[key] = probe.person.name if number == 1 else f"{probe.person.name} ({number})"

    def name(self, probe: Probe) -> str:
        return self.names[self._key(probe)]

    def _key(self, probe: Probe) -> tuple[str, str, str, bool]:
        """What stands in the file of whoever asks: name, role, settings, and whether he signs."""
        person = probe.person
        signs = self.signed and person.introduced and person.identity is not None
        settings = json.dumps(dict(person.settings), ensure_ascii=False)
        return (person.name, self._role_of(person, probe.attempt.table), settings, signs)

    def _role_of(self, person: Person, table: QualifiedName) -> str:
        match person.login:
            case "ordinary":
                return self._role
            case "owner":
                return self.like_owners[self._owners[table]]
            case "bypassing":
                return "none"


def _lines(rehearsal: Rehearsal, rows: _Rows, people: _People) -> Iterator[str]:
    cells = [(cell.table, list(_tests(cell, rows, people))) for cell in rehearsal.cells]
    yield runtime.script("prover/pgtap.sql")
    yield "begin;"
    yield f"select plan({sum(len(tests) for _, tests in cells)});"
    yield ""
    yield runtime.script("prover/asked.sql")
    if people.signed:
        yield runtime.script("prover/signed.sql")
    yield from _introductions(people)
    yield ""
    yield "-- Their rows, and what these rest on."
    yield from rows.inserts()
    rules = {each.name: str(each) for each in rehearsal.rules.tables}
    for table, of_table in groupby(cells, key=lambda each: each[0]):
        yield ""
        yield ddl.comment(f"{table}: {rules[table]}")
        for _, tests in of_table:
            yield from tests
    yield ""
    yield "select * from finish();"
    yield "rollback;"
    yield ""


def _introductions(people: _People) -> Iterator[str]:
    for owner, role in people.like_owners.items():
        yield ddl.comment(f"Has the rights of {owner}, who owns tables, and is bound as any owner is.")
        yield _statement("create role {} in role {}", Identifier(role), Identifier(owner))
        yield ""
    yield "create temporary table people (name text primary key, role text, settings jsonb, signs boolean) on commit drop;"
    for (_, role, settings, signs), name in people.names.items():
        yield _statement(
            "insert into pg_temp.people values ({}, {}, {}, {})",
            *(Literal(name), Literal(role), _quoted(settings), Literal(signs)),
        )


def _tests(cell: Cell, rows: _Rows, people: _People) -> Iterator[str]:
    place = f"{cell.table.name}: {cell.operation} by {cell.person}"
    if cell.obstacle or not cell.probes:
        yield _statement("select fail({})", Literal(_line(f"{place}: {cell.obstacle or 'nothing could be asked'}")))
    for probe in cell.probes:
        asked = [Literal(people.name(probe)), _quoted(ddl.text(rows.said(probe.attempt)))]
        if probe.before:
            before = SQL(", ").join(_quoted(ddl.text(rows.said(each))) for each in probe.before)
            asked.append(SQL("before => array[{}]").format(before))
        if probe.attempt.blind:
            asked.append(SQL("place => {}").format(_quoted(ddl.text(probe.attempt.row))))
        if probe.afterwards is not None and probe.expected == "allowed":
            asked.append(SQL("stored => {}").format(_quoted(ddl.text(stage.stored_as(probe)))))
        told = Literal(_line(f"{place}: {probe.about}: {probe.why}"))
        yield _statement(
            "select is(pg_temp.asked({}), {},\n  {})", SQL(", ").join(asked), Literal(probe.expected), told
        )


def _statement(template: LiteralString, *parts: Composable) -> str:
    return f"{ddl.text(SQL(template).format(*parts))};"


def _quoted(text: str) -> Composable:
    """A text that holds quotes itself, readable where it can be."""
    return Literal(text) if "$" in text else SQL("$${}$$").format(SQL(text))


def _line(words: str) -> str:
    """One line, without what TAP reads as a directive."""
    return " ".join(words.split()).replace("#", "no.")
