"""A case of the access matrix, asked of a copy of the template: its rows are stored once for a run, and the tests' own login asks about them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from rlskit import catalog, compiler
from rlskit.filler.inserter import Filler
from rlskit.gatekeeper import Terms
from rlskit.names import QualifiedName
from rlskit.prover import rehearsal
from rlskit.prover.cells import Cell, Probe
from rlskit.prover.proof import Proof
from rlskit.prover.rehearsal import Rehearsal
from rlskit.prover.stage import LoginStage, Performed, TransactionStage
from rlskit.testing.cases import MatrixCell, cells_of
from rlskit.testing.keeper import TestServer
from rlskit.testing.places import OwnConnections
from rlskit.testing.templates import Template


@dataclass(frozen=True)
class _Rows:
    """The rows of one table, stored in ``database``, and the cells that ask about them."""

    database: str
    cells: tuple[Cell, ...]
    filler: Filler
    owners: Mapping[QualifiedName, str]
    signed: bool


@dataclass(frozen=True, slots=True)
class _Both:
    """The login's stage; what it was rightly allowed to write is written on the other once more, where it can be looked at."""

    logins: LoginStage

    def perform(self, probe: Probe) -> Performed:
        """Perform the probe as its person, and undo it."""
        performed = self.logins.perform(probe)
        if probe.afterwards is not None and performed.answer.outcome == probe.expected == "allowed":
            return self.logins.privileged.perform(probe)
        return performed


def verdict(server: TestServer, template: Template, case: MatrixCell) -> str:
    """What of a case is not as the rules say; empty where all of it is. What is asked is undone; the rows stay, for the table's other cases."""
    proof = _proof(server, template, case)
    if not proof.total:
        return f"nothing was asked, so {case} is not proved"
    return "" if proof.clean else f"{case} is red\n{proof.verdict}"


def _proof(server: TestServer, template: Template, case: MatrixCell) -> Proof:
    rows = server.kept(("matrix", template, case.table, case.values), lambda: _rows(server, template, case))
    place = OwnConnections(server.url(rows.database, template.login), Terms(key=template.key, rules=template.rules))
    with (
        closing(place.connect()) as ordinary,
        closing(server.connect(rows.database)) as privileged,
        privileged.transaction(force_rollback=True),
    ):
        past = TransactionStage(privileged, template.rules.role, rows.owners, signed=rows.signed)
        stage = _Both(LoginStage(ordinary, past, template.key))
        asked = Rehearsal(template.rules, rows.cells, stage, rows.filler, rows.owners, rows.signed)
        return Proof(tuple(asked.prove(each) for each in cells_of(case, rows.cells)))


def _rows(server: TestServer, template: Template, case: MatrixCell) -> _Rows:
    rules = template.rules
    name: str = server.kept(("matrix", template), lambda: server.create_database(template.owner.name, template.name))
    with closing(server.connect(name)) as conn, conn.transaction():
        with catalog.reading(conn):
            database = catalog.read(conn, compiler.compile(rules).tables, rules.role)
        tables = rehearsal.chosen_tables(rules, [case.table])
        values = {table: dict(columns) for table, columns in case.values}
        cells, filler = rehearsal.prepare(conn, rules, tables, database, values=values)
    owners = {each: facts.owner for each, facts in database.tables.items()}
    return _Rows(name, cells, filler, owners, database.server.signed)
