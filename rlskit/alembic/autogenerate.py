"""Rules and database, compared when Alembic compares models and database: what differs becomes operations of the same revision.

Alembic's own operations come in between: first goes what rests on things that they take away, and last comes what rests on things that
they make. The downgrade is Alembic's reversal of it all, and so puts back exactly what was there.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import ARRAY, Column, Text
from sqlalchemy.types import TypeEngine

from rlskit import compiler, ddl, planner, runtime, state
from rlskit.alembic.directives import (
    CheckOp,
    DefaultOp,
    IndexOp,
    ObjectOp,
    PolicyOp,
    PrivilegesOp,
    ProofOp,
    RowSecurityOp,
    RuntimeOp,
    SignaturesOp,
    TriggerOp,
    UsageOp,
)
from rlskit.alembic.foresight import Foresight, foresee, place
from rlskit.alembic.statements import lent, refusals
from rlskit.errors import RuleError
from rlskit.facts import Database
from rlskit.names import QualifiedName
from rlskit.planner import Plan
from rlskit.rules import Rules
from rlskit.state import Grant, Index, Policy, RowSecurity, State, TableObject, Trigger, Usage
from rlskit.steps import is_callers_name, proofs, runtime_steps

_log = logging.getLogger(__name__)

_OPERATION_OF: dict[type[TableObject], type[ObjectOp]] = {
    state.RowSecurity: RowSecurityOp,
    state.Policy: PolicyOp,
    state.Default: DefaultOp,
    state.Check: CheckOp,
    state.Trigger: TriggerOp,
    state.Index: IndexOp,
}


@comparators.dispatch_for("autogenerate", priority=DispatchPriority.LAST)
def compare_rules(context: AutogenContext, upgrade_ops: ops.UpgradeOps) -> PriorityDispatchResult:
    """Add to ``upgrade_ops`` what the rules ask for. Raises CommandError, and nothing is written, for what cannot be."""
    with refusals():
        rules = _rules(context)
        if rules is not None:
            _compare(context, upgrade_ops, rules)
    return PriorityDispatchResult.CONTINUE


def _rules(context: AutogenContext) -> Rules | None:
    if "rls_rules" not in context.opts:
        raise RuleError(
            "rlskit.alembic is imported, and nobody said which rules to compare with",
            hint="context.configure(…, rls_rules=rules) in env.py, in each call of it; rls_rules=None for none",
        )
    rules = context.opts["rls_rules"]
    if rules is not None and not isinstance(rules, Rules):
        raise RuleError(
            f"`rls_rules` is a {type(rules).__name__}",
            hint='give it Rules: rules_from(Base, role=…), rlskit.load("rlskit.toml") or Rules(…)',
        )
    return rules


def _compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, rules: Rules) -> None:
    connection = context.connection
    assert connection is not None
    default = connection.dialect.default_schema_name or "public"
    wanted = compiler.compile(rules)
    seen: list[Foresight] = []

    with lent(connection) as driver:

        def after_alembic(database: Database) -> Database:
            _spare(upgrade_ops, database, wanted, default)
            seen.append(foresee(connection, driver, database, upgrade_ops.ops))
            return seen[-1].database

        made = planner.compare(driver, rules, foresee=after_alembic)
    left_out = {table for table in made.database.tables if not _is_included(context, table, default)}
    if undoing := [each for each in made.undoing if each.table not in left_out]:
        raise planner.not_in_force(undoing[0])
    made = replace(made, steps=tuple(step for step in made.steps if step.table not in left_out))
    _tell(made)
    revision = _translated(made, seen[-1], concurrently=bool(context.opts.get("rls_concurrent_indexes")))
    upgrade_ops.ops[:] = [*revision.first, *upgrade_ops.ops, *revision.last]


def _tell(made: Plan) -> None:
    """Say what was found where Alembic does: in the log."""
    for step in made.steps:
        _log.info("Detected %s: %s", step.table or "schema rlskit", step.says)
    for table in sorted({step.table for step in made.steps if step.table is not None}):
        for advice in made.wanted.advice_on(table):
            _log.warning("%s: %s", table, advice.text)


def _is_included(context: AutogenContext, name: QualifiedName, default: str) -> bool:
    """Whether ``include_name`` and ``include_object`` of env.py leave the table in."""
    schema = None if name.schema == default else name.schema
    found = [table for table in context.table_key_to_table.values() if place(table.name, table.schema, default) == name]
    return context.run_name_filters(name.name, "table", {"schema_name": schema}) and all(
        context.run_object_filters(table, table.name, "table", False, None) for table in found
    )


def _spare(upgrade_ops: ops.UpgradeOps, database: Database, wanted: State, default: str) -> None:
    """Take out what Alembic would undo of the rules, because the models do not mention it."""
    named = {(each.table, each.name) for each in wanted.objects if isinstance(each, state.Column) and each.type}
    defaults = {(each.table, each.column) for each in wanted.objects if isinstance(each, state.Default)}
    defaults |= {
        (each.table, each.column)
        for each in database.state.objects
        if isinstance(each, state.Default) and is_callers_name(each)
    }
    indexes = {(each.table.schema, each.name) for each in database.state.objects if isinstance(each, Index)}
    checks = {(each.table, each.name) for each in database.state.objects if isinstance(each, state.Check)}

    def where(
        operation: ops.DropTableOp | ops.DropColumnOp | ops.DropConstraintOp | ops.AlterColumnOp,
    ) -> QualifiedName:
        return place(operation.table_name, operation.schema, default)

    def spared(operation: ops.MigrateOperation) -> bool:
        """Whether it is to be left out; where only a part of it is, that part goes."""
        match operation:
            case ops.ModifyTableOps():
                operation.ops[:] = [each for each in operation.ops if not spared(each)]
                return not operation.ops
            case ops.DropTableOp():
                return operation.schema == runtime.SCHEMA
            case ops.DropColumnOp():
                return (where(operation), operation.column_name) in named
            case ops.DropIndexOp():
                return (operation.schema or default, operation.index_name) in indexes
            case ops.DropConstraintOp():
                return (where(operation), operation.constraint_name) in checks
            case ops.AlterColumnOp() if (where(operation), operation.column_name) in defaults:
                operation.modify_server_default = False
                return not operation.has_changes()
        return False

    def without_checks(operation: ops.MigrateOperation) -> ops.MigrateOperation:
        """On the way back a table is made without the checks: they come after it, with their marks."""
        if not isinstance(operation, ops.DropTableOp):
            return operation
        table = operation.to_table()
        table.constraints -= {each for each in table.constraints if (where(operation), each.name) in checks}
        return ops.DropTableOp.from_table(table)

    upgrade_ops.ops[:] = [without_checks(each) for each in upgrade_ops.ops if not spared(each)]


# --- steps of a plan as operations ------------------------------------------------------------------------


@dataclass
class _Revision:
    """Operations before Alembic's own, and after them."""

    first: list[ops.MigrateOperation] = field(default_factory=list)
    last: list[ops.MigrateOperation] = field(default_factory=list)


def _translated(made: Plan, foresight: Foresight, *, concurrently: bool) -> _Revision:
    revision = _Revision()
    revision.first += _runtime(made)
    revision.last += [ProofOp(made.role) for _ in proofs(made.steps, made.role)]
    changes = list(_changes(made, foresight))
    built: list[ops.MigrateOperation] = []
    for before, after in changes:
        match before, after:
            case (Grant() | Usage(), _) | (_, Grant() | Usage()):
                pass
            case None, state.Column():
                revision.last.append(_add_column(after))
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
    revision.first[:0] = built  # these commit, and so nothing may have happened before them
    return revision


def _runtime(made: Plan) -> Iterator[ops.MigrateOperation]:
    database, mode = made.database, made.rules.mode
    installing = list(runtime_steps(database))
    if installing or database.server.keys_are_open:
        yield RuntimeOp(database.runtime_version, runtime.version())
    if mode is not None and database.server.signed != (mode == "signed"):
        yield SignaturesOp(mode == "signed")


Change = tuple[TableObject | None, TableObject | None]


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
    return isinstance(after, Grant | RowSecurity)


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


def _add_column(wanted: state.Column) -> ops.AddColumnOp:
    assert wanted.type is not None
    many = wanted.type.endswith("[]")
    type_: TypeEngine[Any] = ARRAY(Text()) if many else Text()
    return ops.AddColumnOp(wanted.table.name, Column(wanted.name, type_, nullable=True), schema=_schema(wanted.table))


def _schema(table: QualifiedName) -> str | None:
    return None if table.schema == "public" else table.schema


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
    for (_, _, _), grants in sorted(taken.items(), key=lambda each: each[0]):
        if grants:
            yield PrivilegesOp(False, tuple(grants))


def _given(changes: Iterable[Change]) -> Iterator[PrivilegesOp]:
    """What the role gains, table by table; each column that is new in privileges which it has already is an operation of its own."""
    new: dict[tuple[QualifiedName, str, bool], list[Grant]] = defaultdict(list)
    more: dict[tuple[QualifiedName, str], dict[str, list[Grant]]] = defaultdict(lambda: defaultdict(list))
    for before, after in changes:
        if not isinstance(after, Grant):
            continue
        if not isinstance(before, Grant):
            new[after.table, after.role, False].append(after)
            continue
        for column in sorted(after.named - before.named):
            more[after.table, after.role][column].append(replace(after, columns=(column,)))
    for _, grants in sorted(new.items()):
        yield PrivilegesOp(True, tuple(grants))
    for _, by_column in sorted(more.items()):
        for _, grants in sorted(by_column.items()):
            yield PrivilegesOp(True, tuple(grants))
