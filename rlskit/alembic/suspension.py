"""Row security lifted from a table's owner for a stretch of one transaction, and never longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic.operations import Operations
from psycopg.errors import InvalidSavepointSpecification
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row
from sqlalchemy import Connection, event

from rlskit import ddl
from rlskit.alembic.statements import check, lent, refusals, run
from rlskit.errors import PlanError
from rlskit.names import QualifiedName
from rlskit.state import RowSecurity

_SAVE, _RELEASE, _GO_BACK = (f"{word} rlskit_suspended" for word in ("savepoint", "release", "rollback to"))


@contextmanager
def suspended(operations: Operations, table: QualifiedName) -> Iterator[None]:
    """NO FORCE, the block, FORCE; nothing of it where the table's owner was not bound before. An error undoes the whole block.

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
    if not _is_forced(connection, table):
        yield
        return
    # A savepoint that was set inside could be gone back to later, and with it to where nothing bound the owner: it goes with this one.
    run(operations, [_SAVE], alone=True)
    try:
        run(operations, off)
        with _commits_refused(connection):
            yield
        run(operations, on)
        run(operations, [_RELEASE], alone=True)
    except BaseException as error:
        if _listens(connection) and not _undone(connection):
            _force(connection, table)
            with refusals():
                raise PlanError(
                    f"the transaction was ended while row security was lifted from table `{table}`",
                    hint="it is in force again; leave COMMIT and ROLLBACK out of the block",
                ) from error
        raise


def _is_forced(connection: Connection, table: QualifiedName) -> bool:
    """Whether row security binds the table's owner. Raises CommandError outside of a transaction."""
    with refusals(), lent(connection) as driver:
        if driver.autocommit:
            raise PlanError(
                "row security is lifted for a stretch of one transaction, and this connection has none",
                hint="leave autocommit_block() and isolation_level=AUTOCOMMIT out of it",
            )
        return bool(
            driver.cursor(row_factory=scalar_row)
            .execute(
                "select relforcerowsecurity from pg_class where oid = %s::regclass", [ddl.text(ddl.qualified(table))]
            )
            .fetchone()
        )


@contextmanager
def _commits_refused(connection: Connection) -> Iterator[None]:
    def refuse(_connection: Connection) -> None:  # one for each block: SQLAlchemy would take the same one for one
        with refusals():
            raise PlanError(
                "a commit while row security is lifted would leave it so",
                hint="end the block `with op.rls_suspended(…)` first; autocommit_block() commits too",
            )

    event.listen(connection, "commit", refuse)
    try:
        yield
    finally:
        event.remove(connection, "commit", refuse)


def _listens(connection: Connection) -> bool:
    """Whether the server takes another statement; what it was told before a connection was lost, it undoes by itself."""
    if connection.invalidated:
        return False
    with lent(connection) as driver:
        known = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
        return driver.pgconn.transaction_status in known


def _undone(connection: Connection) -> bool:
    """Go back to where the block began; not where the transaction is another one by now."""
    with lent(connection) as driver:
        try:
            driver.execute(_GO_BACK)
            driver.execute(_RELEASE)
        except InvalidSavepointSpecification:
            return False
        return True


def _force(connection: Connection, table: QualifiedName) -> None:
    """Bind the owner again, and commit: the migration is about to fail, and would take it back."""
    with lent(connection) as driver:
        driver.rollback()
        driver.execute(ddl.force(RowSecurity(table=table)))
        driver.commit()
