"""SQL that Alembic hands on as it is, to the server or into the output of ``--sql``; and what is looked at before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from alembic.operations import Operations
from alembic.util import CommandError
from psycopg import AsyncConnection, Connection, errors
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection as SqlConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.util import immutabledict

from rlskit import ddl, runtime
from rlskit.errors import ForeignObjectError, PlanError, RlskitError, RuntimeVersionError
from rlskit.names import QualifiedName

# Kept for the transaction, so that what a migration itself has set is put back; no operator of anybody's gets into a policy meanwhile.
_KEEP_PATH = "select set_config('rlskit.search_path', current_setting('search_path'), true)"
_OUR_PATH = "set local search_path = pg_catalog, pg_temp"
_GIVE_PATH_BACK = "select set_config('search_path', current_setting('rlskit.search_path'), true)"


class Verbatim(ExecutableDDLElement):
    """A statement, or a script of them, that stays as it is: ``text()`` reads ``:`` as a parameter, and doubles ``%`` offline."""

    _execution_options = immutabledict({"no_parameters": True})

    def __init__(self, sql: str) -> None:
        self.sql = sql


@compiles(Verbatim)
def _as_it_is(element: Verbatim, _compiler: object, **_options: object) -> str:
    return element.sql


def run(operations: Operations, statements: Iterable[str], *, alone: bool = False) -> None:
    """Run the statements in the migration's transaction, or print them offline. ``alone``: outside of any, and names as they are.

    Raises CommandError for a connection without a transaction, for what the database refuses for want of a right or of the runtime, and
    for a table that is in use; everything else stays the driver's.
    """
    impl = operations.migration_context.impl
    framed = statements if alone else [_KEEP_PATH, _OUR_PATH, *statements, _GIVE_PATH_BACK]
    if operations.migration_context.as_sql:
        for statement in framed:  # past Alembic, which would make spaces of a tab in a name
            impl.static_output(statement.strip() + impl.command_terminator)
        return
    with refusals():
        if not alone:
            _check_transaction(operations)
        try:
            for statement in framed:
                impl.execute(Verbatim(statement))
        except DBAPIError as error:
            match error.orig:
                case errors.ObjectInUse() as busy:
                    raise PlanError(str(busy.diag.message_primary), hint=_SETTLE) from error
                case errors.InsufficientPrivilege() as refused:
                    raise PlanError(str(refused.diag.message_primary), hint=_AS_OWNER) from error
                case (errors.UndefinedFunction() | errors.InvalidSchemaName()) as missing if "rlskit" in str(missing):
                    raise RuntimeVersionError(str(missing.diag.message_primary), hint=_INSTALL) from error
            raise


def _check_transaction(operations: Operations) -> None:
    """Half of what a directive does would stay, and ``set local`` would do nothing. Raises PlanError."""
    with lent(operations.get_bind()) as conn:
        if conn.autocommit:
            raise PlanError(
                "the directives of rlskit run in a transaction, and this connection has none",
                hint="leave isolation_level=AUTOCOMMIT out of env.py, and the directive out of autocommit_block()",
            )


@contextmanager
def refusals() -> Iterator[None]:
    """Errors of rlskit's as Alembic's own: its command line prints them in two lines, and they stop it before anything is written."""
    try:
        yield
    except RlskitError as error:
        raise CommandError(f"{error.code} {error}") from error


def check(
    operations: Operations,
    table: QualifiedName | None = None,
    roles: Iterable[str] = (),
    *,
    new_policy: str | None = None,
    runtime_needed: bool = False,
) -> None:
    """Look, before anything is changed, whether the directive can be carried out; offline nothing is looked at.

    Raises CommandError, from: PlanError for a table or a role that does not exist and for a user who may not alter the table,
    RuntimeVersionError where the schema rlskit is needed and not installed, ForeignObjectError where ``new_policy`` is there already.
    """
    if operations.migration_context.as_sql:
        return
    with refusals(), lent(operations.get_bind()) as conn:
        row: Any = (
            conn.cursor(row_factory=namedtuple_row)
            .execute(
                runtime.script("catalog/preflight.sql"),
                {
                    "schema": table.schema if table else "",
                    "name": table.name if table else "",
                    "roles": sorted(roles),
                    "policy": new_policy or "",
                },
            )
            .fetchone()
        )
        assert row is not None
        if runtime_needed and not row.installed:
            raise RuntimeVersionError("the schema rlskit is not in this database", hint=_INSTALL)
        if row.missing_role is not None:
            raise PlanError(
                f"role `{row.missing_role}` does not exist",
                hint=f'create role "{row.missing_role}" nologin, and grant it to the logins of the application',
            )
        if table is None:
            return
        if row.owner is None:
            raise PlanError(
                f"table `{table}` does not exist", hint="a table outside of public says its schema: schema=…"
            )
        if not row.alterable:
            raise PlanError(
                f"`{row.user_name}` may not alter table `{table}`, which belongs to `{row.owner}`",
                hint=f"run migrations as `{row.owner}`, or as a member of it",
            )
        if row.policy_comment is not None:
            whose = "is there already" if ddl.is_mark(row.policy_comment) else "is not rlskit's, but bears this name"
            raise ForeignObjectError(
                f"table `{table}`: the policy `{new_policy}` {whose}",
                hint=f'look what it allows; then drop it in a revision: op.drop_policy("{new_policy}", "{table.name}")',
            )


@contextmanager
def lent(connection: SqlConnection) -> Iterator[Connection[Any]]:
    """What psycopg has below SQLAlchemy's connection, as a synchronous connection; of an asynchronous one another view of the same.

    Raises PlanError for another driver.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, Connection):
        yield driver
        return
    if not isinstance(driver, AsyncConnection):
        raise PlanError(
            f"the driver `{connection.dialect.driver}` does not speak rlskit's language",
            hint="run migrations with postgresql+psycopg://; the application may keep its own driver",
        )
    hears = driver.pgconn.notice_handler
    view: Connection[Any] = Connection(driver.pgconn)
    view.prepare_threshold = None  # names of prepared statements are the other's
    try:
        yield view
    finally:
        driver.pgconn.notice_handler = hears
        del view.pgconn  # or else the view would warn that it was never closed


_AS_OWNER = "run migrations as the owner of the table, or as a member of it"
_SETTLE = 'what is deferred waits for the table: op.execute("set constraints all immediate") first, after the data'
_INSTALL = (
    "op.install_rlskit(…) comes first: autogenerate writes it, and a branch beside that revision depends on it, "
    "alembic revision --depends-on; or let a DBA run `rlskit install`"
)
