"""The access matrix of the rules, as a proof against a real database: every operation of every kind of person, on rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from psycopg import Connection

from rlskit import catalog, preflight, runtime
from rlskit.connections import check_idle
from rlskit.names import QualifiedName
from rlskit.preflight import Finding
from rlskit.prover import mutants, mutator, tapfile
from rlskit.prover.cells import Cell, Probe
from rlskit.prover.mutants import Mutant
from rlskit.prover.mutator import Mutation, Mutations
from rlskit.prover.people import Person
from rlskit.prover.proof import Failure, Proof, Result
from rlskit.prover.rehearsal import Rehearsal, Values, chosen_tables, rehearse
from rlskit.rules import Rules, TableRules

__all__ = [
    "Cell",
    "Failure",
    "Mutant",
    "Mutation",
    "Mutations",
    "Person",
    "Probe",
    "Proof",
    "Rehearsal",
    "Result",
    "mutate",
    "pgtap",
    "prove",
    "rehearse",
]


def prove(
    conn: Connection[Any],
    rules: Rules,
    *tables: str | QualifiedName,
    values: Values | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Proof:
    """Ask the database as everybody whom the rules tell apart, about rows made for it, and compare what it does with what the rules say.

    ``conn`` is an idle connection of a superuser. Everything happens in one transaction, which is rolled back: rows are stored past the rules,
    and the questions are asked as an ordinary login in the rules' role that is made in it. Sequences advance, as they do in every transaction
    that is rolled back. Where the role, the runtime, a table or its policies are missing, nothing is asked. ``tables`` are those to prove, without them all that have rules. ``values`` say what cannot be made up for columns:
    table -> column -> text. ``say`` hears how far it is.

    Raises PlanError for a table without rules and for any other login; TransactionInProgressError for a connection in a transaction.
    """
    check_idle(conn)
    chosen = chosen_tables(rules, tables)
    found = preflight.findings(conn, rules)
    said = tuple((each.name, str(each)) for each in chosen)
    if any(_stops(each, chosen) for each in found):
        return Proof((), found, said, asked=False)
    beside = () if tables or found else preflight.unruled(conn, rules)
    with rehearse(conn, rules, *(each.name for each in chosen), values=values) as rehearsal:
        return Proof(_results(rehearsal, say), found, said, beside=beside)


def mutate(
    conn: Connection[Any],
    rules: Rules,
    *tables: str | QualifiedName,
    values: Values | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Mutations:
    """Weaken each protection of the tables once, and see whether a cell of the proof turns red. Where one is red without that, nothing is weakened.

    All of it is DDL in the one transaction that is rolled back, and takes the strongest locks on the tables: for a copy of the database. Parameters
    and errors are those of ``prove``.
    """
    check_idle(conn)
    chosen = chosen_tables(rules, tables)
    found = preflight.findings(conn, rules)
    said = tuple((each.name, str(each)) for each in chosen)
    if found:
        return Mutations(Proof((), found, said, asked=False))
    names = [each.name for each in chosen]
    with rehearse(conn, rules, *names, values=values) as rehearsal:
        proof = Proof(_results(rehearsal, say), found, said)
        if not proof.clean:
            return Mutations(proof)
        with catalog.reading(conn):
            database = catalog.read(conn, names, rules.role)
        weakened = tuple(mutants.mutants(database, names, rules.role))
        return Mutations(proof, mutator.mutate(conn, rehearsal, weakened, say=say))


def pgtap(
    conn: Connection[Any],
    rules: Rules,
    *tables: str | QualifiedName,
    values: Values | None = None,
    seed: int = 0,
) -> str:
    """The cells of the proof as a plain pgTAP file, whose people and rows are drawn from ``seed``: the same file each time, for the same tables.

    Sequences are moved inside the transaction that is rolled back, which locks them: for a copy of the database. Parameters and errors are those
    of ``prove``.
    """
    check_idle(conn)
    with conn.transaction(force_rollback=True):
        conn.execute(runtime.script("prover/far_sequences.sql").encode())
        with rehearse(conn, rules, *tables, values=values, seed=seed) as rehearsal:
            return tapfile.script(rehearsal)


def _stops(finding: Finding, chosen: Collection[TableRules]) -> bool:
    """Whether nothing that is asked could come out as the rules say: they have not been applied."""
    concerned = finding.table is None or any(each.name == finding.table for each in chosen)
    return concerned and finding.kind in ("no role", "runtime", "missing", "no policies")


def _results(rehearsal: Rehearsal, say: Callable[[str], None]) -> list[Result]:
    results = []
    for number, cell in enumerate(rehearsal.cells):
        if number == 0 or cell.table != rehearsal.cells[number - 1].table:
            say(f"{cell.table}: {sum(each.table == cell.table for each in rehearsal.cells)} cells")
        results.append(rehearsal.prove(cell))
    return results
