"""What a database will have when Alembic's own operations have run: facts of tables and columns that are not there yet, or going."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from alembic.operations import ops
from psycopg import Connection
from psycopg.errors import UndefinedFunction, UndefinedObject
from psycopg.rows import scalar_row
from sqlalchemy import Column, Enum, MetaData, Table, Text
from sqlalchemy.engine import Connection as SqlConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from rlskit import catalog, ddl
from rlskit.errors import PlanError
from rlskit.facts import ColumnFacts, Database, TableFacts
from rlskit.names import QualifiedName


@dataclass(frozen=True, slots=True)
class Foresight:
    """The database as it will be. From ``reshaped`` tables a column goes, or changes its type; ``retyped`` are those of the latter.

    ``added`` are the columns that are not there yet. ``default_schema`` is where Alembic's tables are that say none.
    """

    database: Database
    reshaped: frozenset[QualifiedName]
    retyped: frozenset[tuple[QualifiedName, str]]
    added: frozenset[tuple[QualifiedName, str]]
    default_schema: str


def flat(operations: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    """The operations one by one, out of their containers."""
    for each in operations:
        if isinstance(each, ops.OpContainer):
            yield from flat(each.ops)
        else:
            yield each


def place(name: str, schema: str | None, default: str) -> QualifiedName:
    """Where a table of Alembic's is."""
    return QualifiedName(schema or default, name)


def foresee(
    connection: SqlConnection, driver: Connection[Any], database: Database, operations: Iterable[ops.MigrateOperation]
) -> Foresight:
    """Return what the operations will make of the database. New columns are tried on temporary tables, in the transaction that reads.

    Raises PlanError where that cannot be done: no right to make temporary tables, or types that are not in the database yet.
    """
    default = connection.dialect.default_schema_name or "public"
    tables = dict(database.tables)
    reshaped: set[QualifiedName] = set()
    retyped: set[tuple[QualifiedName, str]] = set()
    added: set[tuple[QualifiedName, str]] = set()
    for each in flat(operations):
        match each:
            case ops.CreateTableOp():
                name = place(each.table_name, each.schema, default)
                made = each.to_table()
                found = _tried(connection, driver, database, name, made.columns)
                kind = "partitioned table" if made.dialect_options["postgresql"].get("partition_by") else "table"
                tables[name] = _new(name, kind, found, database)
                added |= {(name, column) for column in found}
            case ops.DropTableOp():
                name = place(each.table_name, each.schema, default)
                if name in tables:
                    tables[name] = replace(tables[name], going=True)
            case ops.AddColumnOp():
                name = place(each.table_name, each.schema, default)
                if name in tables:
                    found = _tried(connection, driver, database, name, [each.column])
                    tables[name] = replace(tables[name], columns={**tables[name].columns, **found})
                    added.add((name, each.column.name))
            case ops.DropColumnOp():
                name = place(each.table_name, each.schema, default)
                if name in tables:
                    left = {column: fact for column, fact in tables[name].columns.items() if column != each.column_name}
                    indexes = tuple(index for index in tables[name].indexes if index.column != each.column_name)
                    tables[name] = replace(tables[name], columns=left, indexes=indexes)
                    reshaped.add(name)
            case ops.AlterColumnOp(modify_type=type_) if type_ is not None:
                name = place(each.table_name, each.schema, default)
                if name in tables and each.column_name in tables[name].columns:
                    found = _tried(connection, driver, database, name, [Column(each.column_name, type_)])
                    now = tables[name].columns[each.column_name]
                    new = found[each.column_name]
                    column = replace(now, type=new.type, deterministic=new.deterministic)
                    tables[name] = replace(tables[name], columns={**tables[name].columns, column.name: column})
                    reshaped.add(name)
                    retyped.add((name, column.name))
    return Foresight(
        replace(database, tables=tables), frozenset(reshaped), frozenset(retyped), frozenset(added), default
    )


def _new(name: QualifiedName, kind: str, columns: dict[str, ColumnFacts], database: Database) -> TableFacts:
    return TableFacts(
        name=name,
        kind=kind,
        is_partition=False,
        access_method="heap",
        owner=database.server.user_name,
        alterable=True,
        has_rows=False,
        ancestors=(),
        parents=(),
        columns=columns,
    )


def _tried(
    connection: SqlConnection,
    driver: Connection[Any],
    database: Database,
    name: QualifiedName,
    columns: Iterable[Column[Any]],
) -> dict[str, ColumnFacts]:
    """Make the columns on a temporary table of the same name, read them, and drop it."""
    if not database.server.may_make_temporary or database.server.read_only:
        raise PlanError(
            f"table `{name}` is changed by this migration, and what its columns will be cannot be tried here",
            hint=f'grant temporary on database "{database.server.database}" to "{database.server.user_name}", on a server that may be written',
        )
    copies = [each._copy() for each in columns]
    enums = {each.name for each in copies if isinstance(each.type, Enum)}
    for each in copies:
        each.index = each.unique = None
        if each.name in enums:  # its type may be made by the same migration, and is nothing that a rule could rest on
            each.type, each.server_default = Text(), None
    twin = Table(name.name, MetaData(), *copies, prefixes=["TEMPORARY"])
    try:
        connection.execute(CreateTable(twin, include_foreign_key_constraints=[]))
    except DBAPIError as error:
        if not isinstance(error.orig, UndefinedObject | UndefinedFunction):
            raise
        raise PlanError(
            f"table `{name}`: {error.orig.diag.message_primary}, which a new column needs",
            hint="make it in a revision before this one",
        ) from error
    temporary = QualifiedName("pg_temp", name.name)
    cursor = driver.cursor(row_factory=scalar_row)
    oid = cursor.execute("select %s::regclass::oid", [ddl.text(ddl.qualified(temporary))]).fetchone()
    assert oid is not None
    found = catalog.columns(driver, {oid: name})[name]
    driver.execute(ddl.drop_temporary(name.name))
    return {
        column: replace(
            fact,
            sequence=QualifiedName(name.schema, fact.sequence.name) if fact.sequence else None,
            type="an enum" if column in enums else fact.type,
        )
        for column, fact in found.items()
    }
