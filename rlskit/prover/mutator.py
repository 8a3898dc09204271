"""Each protection of a database weakened once: cells that stay green all the same would not have noticed its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import scalar_row

from rlskit import ddl
from rlskit.prover.cells import Cell
from rlskit.prover.mutants import Mutant
from rlskit.prover.proof import Proof
from rlskit.prover.rehearsal import Rehearsal
from rlskit.state import Grant, RowSecurity, Trigger, Usage
from rlskit.words import counted


@dataclass(frozen=True, slots=True)
class Mutation:
    """What came of a mutant. ``caught_by`` is the first cell that turned red.

    ``behind`` names what else protects, where the server has shown that the mutant makes no difference as long as that stands. ``obstacle`` is what
    the server said where the mutant could not be made.
    """

    mutant: Mutant
    caught_by: Cell | None = None
    behind: str = ""
    obstacle: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing has noticed, and nothing else is known to protect."""
        return self.caught_by is None and not self.behind


@dataclass(frozen=True)
class Mutations:
    """What came of all mutants; ``proof`` is what came of the cells without any, and where that is not clean nothing was weakened."""

    proof: Proof
    results: Sequence[Mutation] = ()

    @property
    def caught(self) -> tuple[Mutation, ...]:
        """Those that a cell has noticed."""
        return tuple(each for each in self.results if each.caught_by is not None)

    @property
    def behind(self) -> tuple[Mutation, ...]:
        """Those that make no difference as long as another protection stands."""
        return tuple(each for each in self.results if each.caught_by is None and each.behind)

    @property
    def survivors(self) -> tuple[Mutation, ...]:
        """Those that nothing has noticed."""
        return tuple(each for each in self.results if each.survived)

    @property
    def clean(self) -> bool:
        """Whether all cells are proved, and there is at least one mutant and no survivor."""
        return self.proof.clean and bool(self.results) and not self.survivors

    def __str__(self) -> str:
        return "\n".join(_story(self))

    def to_dict(self) -> dict[str, object]:
        """The mutants as JSON can hold them."""
        return {
            "clean": self.clean,
            "proved": self.proof.clean,
            "findings": self.proof.to_dict()["findings"],
            "mutants": len(self.results),
            "caught": len(self.caught),
            "survivors": len(self.survivors),
            "results": [
                {
                    "table": str(each.mutant.table),
                    "mutant": each.mutant.what,
                    "statements": list(each.mutant.statements),
                    "matters": each.mutant.matters,
                    "caught_by": _cell(each.caught_by) if each.caught_by else None,
                    "behind": each.behind or None,
                    "obstacle": each.obstacle or None,
                }
                for each in self.results
            ],
        }


def mutate(
    conn: Connection[Any],
    rehearsal: Rehearsal,
    mutants: Sequence[Mutant],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Mutation, ...]:
    """Make each mutant in the rehearsal's transaction, ask the cells of its table until one turns red, and undo it.

    ``conn`` may alter the tables. All cells have to be proved without any mutant. ``say`` hears of each mutant.
    """
    conn.execute("set constraints all immediate")  # or else the rows that were made hinder ALTER TABLE
    return tuple(_Run(conn, rehearsal, mutants, say).results())


@dataclass(frozen=True, slots=True)
class _Other:
    """Another protection, in words, and what takes it away."""

    what: str
    statements: tuple[str, ...]


class _Run:
    """One run over all mutants. It remembers which cell noticed what, and asks that one first when the like comes again."""

    def __init__(
        self, conn: Connection[Any], rehearsal: Rehearsal, mutants: Sequence[Mutant], say: Callable[[str], None]
    ) -> None:
        self._conn, self._rehearsal, self._mutants, self._say = conn, rehearsal, mutants, say
        self._noticed: dict[object, tuple[str, str]] = {}

    def results(self) -> Iterator[Mutation]:
        for number, mutant in enumerate(self._mutants, 1):
            self._say(f"mutant {number} of {len(self._mutants)}: {mutant.table}, {mutant.what}")
            yield self._result(mutant)

    def _result(self, mutant: Mutant) -> Mutation:
        with self._conn.transaction(force_rollback=True):
            try:
                self._make(mutant.statements)
            except psycopg.DatabaseError as error:
                return Mutation(mutant, obstacle=error.diag.message_primary or type(error).__name__)
            if also := self._held_besides(mutant):
                return Mutation(mutant, behind=also)
            if cell := self._first_red(mutant):
                return Mutation(mutant, caught_by=cell)
        return Mutation(mutant, behind=self._behind(mutant))

    def _make(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self._conn.execute(statement.encode())

    def _first_red(self, mutant: Mutant) -> Cell | None:
        like = (type(mutant.object), mutant.matters, mutant.operations)
        for cell in self._cells(mutant, self._noticed.get(like)):
            if self._is_red(cell):
                self._noticed[like] = (cell.operation, cell.person)
                return cell
        return None

    def _is_red(self, cell: Cell) -> bool:
        """Whether one of its probes fails: the first one is enough."""
        return any(not self._rehearsal.prove(replace(cell, probes=(probe,))).proved for probe in cell.probes)

    def _cells(self, mutant: Mutant, first: tuple[str, str] | None = None) -> list[Cell]:
        """The cells of the mutant's table, the likeliest to notice first."""

        def place(cell: Cell) -> tuple[bool, ...]:
            asks = any(probe.attempt.table == mutant.object.table for probe in cell.probes)
            return (cell.operation, cell.person) != first, not asks, cell.operation not in mutant.operations

        return sorted((each for each in self._rehearsal.cells if each.table == mutant.table), key=place)

    def _held_besides(self, mutant: Mutant) -> str:
        """Whether the role has the privilege all the same, through PUBLIC or another role, as the server says."""
        match mutant.object:
            case Usage(role=role, table=table, sequence=None):
                query, name = "select has_schema_privilege(%s, %s, 'usage')", table.schema
            case Usage(role=role, sequence=sequence) if sequence is not None:
                query = "select has_sequence_privilege(%s, %s, 'usage, update')"
                name = ddl.text(ddl.qualified(sequence))
            case _:
                return ""
        row = self._conn.cursor(row_factory=scalar_row).execute(query, (role, name)).fetchone()
        return "the same privilege, which the role has through PUBLIC or another role" if row else ""

    def _behind(self, mutant: Mutant) -> str:
        """What else stands before the object: without it as well, a cell answers otherwise than without it alone.

        Only what holds for every statement counts: a privilege that nobody has; and for a privilege, that no policy gives what it would. Which of two
        policies decides depends on what a statement reads.
        """
        for other in self._mutants:
            if other.table != mutant.table or other.effect != "opens" or other.object == mutant.object:
                continue
            match mutant.object, other.object:
                case _, Grant() if {*mutant.operations} & {*other.operations}:
                    found = f"a privilege that nobody has: {other.what}"
                case Grant(), RowSecurity(table=table) if table == mutant.object.table:
                    found = "row security, by which nobody may do that"
                case _:
                    continue
            if self._decides(mutant, [_Other(found, other.statements)]):
                return found
        return self._behind_several(mutant)

    def _behind_several(self, mutant: Mutant) -> str:
        """The same of several at once, which the server has to show as well: missing grants and guard triggers."""
        guards = list(self._guards(mutant))
        if not self._decides(mutant, guards):
            return ""
        return " and ".join(each.what for each in self._needed(mutant, guards))

    def _guards(self, mutant: Mutant) -> Iterator[_Other]:
        for other in self._mutants:
            if other.object.table != mutant.object.table or other.effect != "opens" or other.object == mutant.object:
                continue
            if not {*mutant.operations} & {*other.operations}:
                continue
            match other.object:
                case Grant(columns=None):
                    yield _Other(f"a privilege that nobody has ({other.object.privilege})", other.statements)
                case Trigger(name=name) if other.what.endswith(": dropped"):
                    yield _Other(f"trigger {name}", other.statements)

    def _needed(self, mutant: Mutant, others: Sequence[_Other]) -> list[_Other]:
        """Those of the others without which the mutant would make a difference: what is named is what it stands behind."""
        needed = list(others)
        for each in others:
            fewer = [other for other in needed if other is not each]
            if self._decides(mutant, fewer):
                needed = fewer
        return needed

    def _decides(self, mutant: Mutant, others: Sequence[_Other]) -> bool:
        """Whether the mutant makes a difference where the others are taken away before it. What cannot be taken away shows nothing."""
        if not others:
            return False  # alone it made none
        try:
            return self._makes_a_difference(mutant, others)
        except psycopg.DatabaseError:
            return False

    def _makes_a_difference(self, mutant: Mutant, others: Sequence[_Other]) -> bool:
        with self._conn.transaction(force_rollback=True):
            for other in others:
                self._make(other.statements)
            for cell in (each for each in self._cells(mutant) if each.operation in mutant.operations):
                alone = self._rehearsal.prove(cell)
                with self._conn.transaction(force_rollback=True):
                    self._make(mutant.statements)
                    if self._rehearsal.prove(cell) != alone:
                        return True
        return False


# --- what is printed -------------------------------------------------------------------------------------------------


def _cell(cell: Cell) -> dict[str, str]:
    return {"operation": cell.operation, "person": cell.person}


def _story(mutations: Mutations) -> Iterator[str]:
    if not mutations.proof.clean:
        yield "nothing was weakened: the proof is red without any mutant"
        yield str(mutations.proof)
        return
    if not mutations.results:
        yield "0 mutants: nothing that these tables have could be weakened"
        return
    for table, results in groupby(mutations.results, key=lambda each: each.mutant.table):
        yield str(table)
        for each in results:
            yield f"  {each.mutant.what:60} {_fate(each)}"
        yield ""
    for each in mutations.survivors:
        yield f"survived: {each.mutant.table}, {each.mutant.what}"
        yield f"  without this protection {each.mutant.matters}, and no cell turns red"
        yield from (f"  could not be made: {each.obstacle}" for _ in (each.obstacle,) if each.obstacle)
        yield from (f"  {line}" for statement in each.mutant.statements for line in statement.splitlines())
    yield _sum(mutations)


def _fate(mutation: Mutation) -> str:
    if mutation.caught_by is not None:
        return f"{mutation.caught_by.operation}, {mutation.caught_by.person}"
    return f"behind {mutation.behind}" if mutation.behind else "SURVIVED"


def _sum(mutations: Mutations) -> str:
    parts = [f"{len(mutations.caught):,} of {counted(len(mutations.results), 'mutant')} caught"]
    if mutations.behind:
        parts.append(f"{len(mutations.behind):,} behind another protection")
    if mutations.survivors:
        parts.append(f"{len(mutations.survivors):,} survived")
    return ", ".join(parts)
