"""The steps of a plan become the operations of one revision, in two parts: before Alembic's own, and after them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from alembic.operations import ops
from sqlalchemy import ARRAY, Column, Text
from sqlalchemy.types import TypeEngine

from rlskit import compiler, ddl, runtime, state
from rlskit.alembic.directives import (
    CheckOp,
    DefaultOp,
    IndexOp,
    ObjectOp,
    PolicyOp,
    PrivilegesOp,
    ProofOp,
    RevokeAllOp,
    RowSecurityOp,
    RuntimeOp,
    SignaturesOp,
    TriggerOp,
    UsageOp,
)
from rlskit.alembic.foresight import Foresight, Places
from rlskit.facts import Database, TableFacts
from rlskit.names import QualifiedName
from rlskit.planner import Plan
from rlskit.state import Change, Grant, Index, Policy, RowSecurity, TableObject, Trigger, Usage
from rlskit.steps import proofs, runtime_steps

_OPERATION_OF: dict[type[TableObject], type[ObjectOp]] = {
    state.RowSecurity: RowSecurityOp,
    state.Policy: PolicyOp,
    state.Default: DefaultOp,
    state.Check: CheckOp,
    state.Trigger: TriggerOp,
    state.Index: IndexOp,
}


@dataclass
class Revision:
    """Operations before Alembic's own, and after them."""

    first: list[ops.MigrateOperation] = field(default_factory=list)
    last: list[ops.MigrateOperation] = field(default_factory=list)


def compose(made: Plan, foresight: Foresight, where: Places, *, concurrently: bool) -> Revision:
    """Return the operations for the steps of a plan. ``concurrently`` builds the indexes of existing columns while others write."""
    revision = Revision()
    revision.first += _runtime(made)
    revision.last += [ProofOp(made.role) for _ in proofs(made.steps, made.role)]
    revision.last += [_closed(foresight.database.tables[each], made.role) for each in sorted(foresight.made)]
    changes = list(_changes(made, foresight))
    built: list[ops.MigrateOperation] = []
    for before, after in changes:
        match before, after:
            case (Grant() | Usage(), _) | (_, Grant() | Usage()):
                pass
            case None, state.Column():
                revision.last.append(_add_column(after, where))
            case None, Index() if concurrently and _may_be_built_first(after, foresight):
                built.append(IndexOp(None, after, concurrently=True))
            case _, None:
                assert before is not None
                revision.first.append(_OPERATION_OF[type(before)](before, None))
            case _, after if after is not None:
                revision.last.append(_OPERATION_OF[type(after)](before, after))
    revision.first += _taken(changes, made.database)
    revision.first += [UsageOp(False, each) for each in _usages(before for before, _ in changes)]
    revision.last += [UsageOp(True, each) for each in _usages(after for _, after in changes)]
    revision.last += _given(changes)
    # What is dropped is made again on the way back, and closed before anything is given.
    revision.first += [
        _closed(each, made.role).reverse() for _, each in sorted(foresight.database.tables.items()) if each.going
    ]
    revision.first[:0] = built  # these commit, and so nothing may have happened before them
    return revision


def _runtime(made: Plan) -> Iterator[ops.MigrateOperation]:
    database, mode = made.database, made.rules.mode
    installing = list(runtime_steps(database))
    if installing or database.server.keys_are_open:
        yield RuntimeOp(database.runtime_version, runtime.version())
    if mode is not None and database.server.signed != (mode == "signed"):
        yield SignaturesOp(mode == "signed")


def _changes(made: Plan, foresight: Foresight) -> Iterator[Change]:
    """What differs, as before and after. What cannot be altered, or not while a column below it changes, is taken away and made again."""
    whole: dict[tuple[str, ...], Change] = {}
    for step in made.steps:
        some = step.after or step.before
        if some is not None:  # what takes two steps of an apply, such as a check that is validated later, is one here
            whole[some.key] = (whole[some.key][0] if some.key in whole else step.before, step.after)
    for before, after in whole.values():
        if before is None or after is None or _is_alterable(before, after, foresight):
            yield before, after
        else:
            yield before, None
            yield None, after
    # PostgreSQL does not change the type of a column that a policy or a trigger looks at.
    resting = {table for table, column in foresight.retyped if column in _looked_at(made, table)}
    wanted = {each.key: each for each in made.wanted.objects}
    for each in made.database.state:
        if (
            each.table in resting
            and isinstance(each, Policy | Trigger)
            and each.key in wanted
            and each.key not in whole
        ):
            yield each, None
            yield None, wanted[each.key]


def _is_alterable(before: TableObject, after: TableObject, foresight: Foresight) -> bool:
    if isinstance(before, Policy) and isinstance(after, Policy):
        return before.table not in foresight.reshaped and ddl.alterable(before, after)
    if isinstance(after, state.Default):
        return before.table not in foresight.reshaped
    return isinstance(after, Grant | RowSecurity) or ddl.is_renamed(before, after)


def _looked_at(made: Plan, table: QualifiedName) -> set[str]:
    found = {each.name for each in compiler.compile(made.rules).of(table) if isinstance(each, state.Column)}
    for each in made.wanted.of(table):
        if isinstance(each, Trigger) and isinstance(each.columns, tuple):
            found |= set(each.columns)
    return found


def _may_be_built_first(index: Index, foresight: Foresight) -> bool:
    table = foresight.database.tables[index.table]
    return (
        table.kind == "table" and index.column in table.columns and (index.table, index.column) not in foresight.added
    )


def _closed(table: TableFacts, role: str) -> RevokeAllOp:
    sequences = {each.sequence.name for each in table.columns.values() if each.sequence is not None}
    return RevokeAllOp(table.name, role, tuple(sorted(sequences)))


def _add_column(wanted: state.Column, where: Places) -> ops.AddColumnOp:
    assert wanted.type is not None
    type_: TypeEngine[Any] = ARRAY(Text()) if wanted.type.endswith("[]") else Text()
    schema = None if wanted.table.schema == where.default == "public" else wanted.table.schema
    return ops.AddColumnOp(wanted.table.name, Column(wanted.name, type_, nullable=True), schema=schema)


def _usages(objects: Iterable[TableObject | None]) -> Iterable[Usage]:
    """Each once: a schema's USAGE is asked for by all of its tables."""
    found = [each for each in objects if isinstance(each, Usage)]
    return {(each.role, each.privilege, each.sequence or each.table.schema): each for each in found}.values()


# --- privileges -----------------------------------------------------------------------------------------


def _taken(changes: Iterable[Change], database: Database) -> Iterator[PrivilegesOp]:
    """What the role loses, table by table: first of the whole table, then of columns."""
    taken: dict[tuple[QualifiedName, str, bool], list[Grant]] = defaultdict(list)
    for before, after in changes:
        if not isinstance(before, Grant):
            continue
        if before.columns is None:
            taken[before.table, before.role, False].append(before)
            # With the privilege on the table go those on its columns, which were of no use beside it.
            taken[before.table, before.role, True] += [
                each
                for each in database.state.of(before.table)
                if isinstance(each, Grant)
                and each.columns
                and (each.role, each.privilege) == (before.role, before.privilege)
            ]
        elif lost := before.named - (after.named if isinstance(after, Grant) else frozenset()):
            taken[before.table, before.role, True].append(replace(before, columns=tuple(sorted(lost))))
    for _, grants in sorted(taken.items()):
        if grants:
            yield PrivilegesOp(False, tuple(grants))


def _given(changes: Iterable[Change]) -> Iterator[PrivilegesOp]:
    """What the role gains, table by table; each column that is new in privileges which it has already is an operation of its own."""
    new: dict[tuple[QualifiedName, str], list[Grant]] = defaultdict(list)
    more: dict[tuple[QualifiedName, str], dict[str, list[Grant]]] = defaultdict(lambda: defaultdict(list))
    for before, after in changes:
        if not isinstance(after, Grant):
            continue
        if not isinstance(before, Grant):
            new[after.table, after.role].append(after)
            continue
        for column in sorted(after.named - before.named):
            more[after.table, after.role][column].append(replace(after, columns=(column,)))
    for _, grants in sorted(new.items()):
        yield PrivilegesOp(True, tuple(grants))
    for _, by_column in sorted(more.items()):
        for _, grants in sorted(by_column.items()):
            yield PrivilegesOp(True, tuple(grants))
