"""Row security lifted from a table's owner for a stretch of one transaction, and never longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic.operations import Operations
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Connection, event

from rlskit import ddl
from rlskit.alembic.statements import check, lent, refusals, run
from rlskit.errors import PlanError
from rlskit.names import QualifiedName
from rlskit.state import RowSecurity


@contextmanager
def suspended(operations: Operations, table: QualifiedName) -> Iterator[None]:
    """NO FORCE, the block, FORCE; nothing of it where the table's owner was not bound before.

    Raises CommandError outside of a transaction, for a commit inside, and where the transaction was ended inside all the same.
    """
    lifted = RowSecurity(table=table, forced=False)
    off, on = ([ddl.text(ddl.force(each))] for each in (lifted, RowSecurity(table=table)))
    if operations.migration_context.as_sql:
        run(operations, off)
        yield
        run(operations, on)
        return
    check(operations, table)
    connection = operations.get_bind()
    transaction, forced = _now(connection, table)
    if not forced:
        yield
        return
    run(operations, off)
    event.listen(connection, "commit", _refuse_commit)
    try:
        yield
    finally:
        event.remove(connection, "commit", _refuse_commit)
        if _may_go_on(connection):
            run(operations, on)
    with refusals():
        if _now(connection, table)[0] != transaction:
            raise PlanError(
                f"the transaction was ended while row security was lifted from table `{table}`",
                hint="it is in force again; leave COMMIT and ROLLBACK out of the block",
            )


def _now(connection: Connection, table: QualifiedName) -> tuple[str, bool]:
    """Which transaction this is, and whether row security binds the table's owner. Raises CommandError outside of a transaction."""
    with refusals(), lent(connection) as driver:
        if driver.autocommit:
            raise PlanError(
                "row security is lifted for a stretch of one transaction, and this connection has none",
                hint="leave autocommit_block() and isolation_level=AUTOCOMMIT out of it",
            )
        row = (
            driver.cursor(row_factory=tuple_row)
            .execute(
                "select pg_current_xact_id()::text, relforcerowsecurity from pg_class where oid = %s::regclass",
                [ddl.text(ddl.qualified(table))],
            )
            .fetchone()
        )
        assert row is not None
        return row


def _may_go_on(connection: Connection) -> bool:
    """Whether the transaction takes a statement; one that has failed is undone as a whole."""
    transaction = connection.get_transaction()
    if connection.invalidated or (transaction is not None and not transaction.is_active):
        return False
    with lent(connection) as driver:
        return driver.pgconn.transaction_status not in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)


def _refuse_commit(_connection: Connection) -> None:
    with refusals():
        raise PlanError(
            "a commit while row security is lifted would leave it so",
            hint="end the block `with op.rls_suspended(…)` first; autocommit_block() commits too",
        )
