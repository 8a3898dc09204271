"""What Alembic's own comparison would undo of the rules is taken out of its operations."""

from __future__ import annotations

import logging
from typing import Any

from alembic.operations import ops
from sqlalchemy import Column, FetchedValue

from rlskit import runtime, state
from rlskit.alembic.foresight import Places
from rlskit.compiler import owner_check
from rlskit.facts import Database
from rlskit.names import QualifiedName
from rlskit.state import State
from rlskit.steps import is_callers_name

_log = logging.getLogger("alembic.autogenerate.rlskit")


def spare(upgrade_ops: ops.UpgradeOps, database: Database, wanted: State, places: Places) -> None:
    """Take out of ``upgrade_ops`` what Alembic would undo because the models do not mention it. A warning tells of owner columns that go all the same."""
    named = {(each.table, each.name) for each in wanted.objects if isinstance(each, state.Column) and each.type}
    defaults = {(each.table, each.column) for each in wanted.objects if isinstance(each, state.Default)}
    defaults |= {
        (each.table, each.column)
        for each in database.state.objects
        if isinstance(each, state.Default) and is_callers_name(each)
    }
    indexes = {(each.table, each.name) for each in database.state.objects if isinstance(each, state.Index)}
    indexes |= {
        (table, index.name)
        for table, facts in database.tables.items()
        for index in facts.indexes
        if any((parent, index.parent) in indexes for parent in facts.ancestors)
    }
    checks = {(each.table, each.name) for each in database.state.objects if isinstance(each, state.Check)}

    def where(
        operation: ops.CreateTableOp
        | ops.DropTableOp
        | ops.AddColumnOp
        | ops.DropColumnOp
        | ops.DropConstraintOp
        | ops.DropIndexOp
        | ops.AlterColumnOp,
    ) -> QualifiedName:
        return places.of(operation.table_name or "", operation.schema)

    def without_fetched(operation: ops.CreateTableOp | ops.AddColumnOp, column: Column[Any]) -> Column[Any]:
        """What the database fills in, a revision does not say: of an owner column the rules do, by a directive of their own."""
        if type(column.server_default) is FetchedValue and (where(operation), column.name) in named:
            column = column._copy()  # the one that is given is the model's own
            column.server_default = None
        return column

    def spared(operation: ops.MigrateOperation) -> bool:
        """Whether it is to be left out; where only a part of it is, that part goes."""
        match operation:
            case ops.ModifyTableOps():
                operation.ops[:] = [each for each in operation.ops if not spared(each)]
                return not operation.ops
            case ops.CreateTableOp():
                operation.columns = [
                    without_fetched(operation, each) if isinstance(each, Column) else each for each in operation.columns
                ]
            case ops.AddColumnOp():
                operation.column = without_fetched(operation, operation.column)
            case ops.DropTableOp():
                return operation.schema == runtime.SCHEMA
            case ops.DropColumnOp():
                table, column = where(operation), operation.column_name
                if (table, column) in named:
                    return True
                if (table, owner_check(column)) in checks:
                    _log.warning(
                        "%s: column `%s` goes with the owners that it names: neither a rule nor a model names it any more. "
                        "To keep it declare it in the model",
                        *(table, column),
                    )
            case ops.DropIndexOp():
                return (where(operation), operation.index_name) in indexes
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
