"""What a directive does when a revision runs: a look whether it can be done, then the statements of ``rlskit.ddl``."""

from __future__ import annotations

from alembic.operations import Operations
from psycopg.rows import scalar_row

from rlskit import canary, catalog, ddl, installer, runtime
from rlskit.alembic.directives import (
    IndexOp,
    ObjectOp,
    PrivilegesOp,
    ProofOp,
    RevokeAllOp,
    RuntimeOp,
    SignaturesOp,
    UsageOp,
)
from rlskit.alembic.statements import check, lent, refusals, run
from rlskit.errors import PlanError, RuntimeVersionError
from rlskit.names import QualifiedName
from rlskit.state import Default, Grant, Index, Policy, Usage


@Operations.implementation_for(ObjectOp)
def _object(operations: Operations, operation: ObjectOp) -> None:
    before, after = operation.before, operation.after
    policy = after if isinstance(after, Policy) else None
    check(
        operations,
        operation.some.table,
        policy.roles if policy else (),
        new_policy=policy.name if policy is not None and before is None else None,
        runtime_needed=isinstance(after, ddl.Marked | Default),
    )
    run(operations, map(ddl.text, ddl.change(before, after)))


@Operations.implementation_for(IndexOp)
def _index(operations: Operations, operation: IndexOp) -> None:
    index = operation.after
    if not operation.concurrently or not isinstance(index, Index):
        _object(operations, operation)
        return
    check(operations, index.table)
    statements = [*ddl.drop_index_concurrently(index), *ddl.create_index_concurrently(index)]
    run(operations, map(ddl.text, statements), alone=True)


@Operations.implementation_for(PrivilegesOp)
def _privileges(operations: Operations, operation: PrivilegesOp) -> None:
    change = ddl.create if operation.given else ddl.drop
    check(operations, operation.grants[0].table, [operation.grants[0].role])
    run(operations, [ddl.text(statement) for each in operation.grants for statement in change(each)], alone=True)


@Operations.implementation_for(RevokeAllOp)
def _revoke_all(operations: Operations, operation: RevokeAllOp) -> None:
    table, role = operation.table, operation.role
    check(operations, table, [role])
    sequences = [QualifiedName(table.schema, each) for each in operation.sequences]
    held = [
        Grant(table=table, role=role, privilege="all", columns=None),
        *(Usage(table=table, role=role, privilege="all", sequence=each) for each in sequences),
    ]
    run(operations, [ddl.text(statement) for each in held for statement in ddl.drop(each)], alone=True)


@Operations.implementation_for(UsageOp)
def _usage(operations: Operations, operation: UsageOp) -> None:
    check(operations, roles=[operation.usage.role])
    statements = ddl.create(operation.usage) if operation.given else ddl.drop(operation.usage)
    run(operations, map(ddl.text, statements), alone=True)


@Operations.implementation_for(RuntimeOp)
def _runtime(operations: Operations, operation: RuntimeOp) -> None:
    offline = operations.migration_context.as_sql
    if operation.after is None:
        if not offline:
            with refusals(), lent(operations.get_bind()) as conn:
                installer.check_unused(conn, "take the rules off first, and autogenerate a revision")
        run(operations, [runtime.inside(runtime.script("uninstall.sql"))])
        return
    with refusals():
        if operation.after > runtime.version():
            raise RuntimeVersionError(
                f"this revision needs version {operation.after} of the schema rlskit, and this package knows {runtime.version()}",
                hint="pip install --upgrade rlskit",
            )
    found = None
    if not offline:
        with lent(operations.get_bind()) as conn:
            found = catalog.runtime_version(conn)
    if found is None or found <= runtime.version():  # a newer one serves older policies
        run(operations, [runtime.inside(runtime.bringing_up(found))])


@Operations.implementation_for(SignaturesOp)
def _signatures(operations: Operations, operation: SignaturesOp) -> None:
    check(operations, runtime_needed=True)
    run(operations, [runtime.requirement(signed=operation.required)])


@Operations.implementation_for(ProofOp)
def _proof(operations: Operations, operation: ProofOp) -> None:
    if not operation.forwards:
        return
    check(operations, roles=[operation.role], runtime_needed=True)
    if not operations.migration_context.as_sql:
        with refusals(), lent(operations.get_bind()) as conn:
            may = conn.cursor(row_factory=scalar_row).execute(
                "select has_database_privilege(current_database(), 'TEMPORARY')"
            )
            if not may.fetchone():
                raise PlanError(
                    "this user may not create temporary tables, and so cannot prove that rows can be given away here",
                    hint='grant temporary on the database to it, or say reassign = "explicit" or "never"',
                )
    run(operations, [canary.script(operation.role, inside=True)])
