"""What a database will have when Alembic's own operations have run: facts of tables and columns that are not there yet, or going."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from alembic.operations import ops
from psycopg import Connection, ProgrammingError
from psycopg.rows import scalar_row, tuple_row
from sqlalchemy import ARRAY, Column, Enum, Index, MetaData, PrimaryKeyConstraint, Table, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql.named_types import NamedType
from sqlalchemy.engine import Connection as SqlConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

from rlskit import catalog, ddl, runtime
from rlskit.errors import PlanError
from rlskit.facts import ColumnFacts, Database, IndexFacts, TableFacts
from rlskit.names import QualifiedName


@dataclass(frozen=True, slots=True)
class Places:
    """Where tables are that name no schema: where the search_path finds them, or else in ``default``, where it makes them."""

    search_path: str
    default: str
    visible: Mapping[str, str]

    def of(self, name: str, schema: str | None) -> QualifiedName:
        """Where a table of Alembic's is."""
        return QualifiedName(schema or self.visible.get(name, self.default), name)


def places(connection: SqlConnection, driver: Connection[Any]) -> Places:
    """Return where this session, with its search_path, finds tables."""
    path = driver.cursor(row_factory=scalar_row).execute("select current_setting('search_path')").fetchone()
    rows = driver.cursor(row_factory=tuple_row).execute(runtime.script("catalog/visible.sql")).fetchall()
    return Places(str(path), connection.dialect.default_schema_name or "public", dict(rows))


@dataclass(frozen=True, slots=True)
class Foresight:
    """The database as it will be. From ``reshaped`` tables a column goes, or changes its type; ``retyped`` are those of the latter.

    ``made`` are the tables, and ``added`` the columns, that are not there yet.
    """

    database: Database
    made: frozenset[QualifiedName]
    reshaped: frozenset[QualifiedName]
    retyped: frozenset[tuple[QualifiedName, str]]
    added: frozenset[tuple[QualifiedName, str]]


def flat(operations: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    """The operations one by one, out of their containers."""
    for each in operations:
        if isinstance(each, ops.OpContainer):
            yield from flat(each.ops)
        else:
            yield each


def foresee(
    connection: SqlConnection,
    driver: Connection[Any],
    database: Database,
    operations: Iterable[ops.MigrateOperation],
    places: Places,
) -> Foresight:
    """Return what the operations will make of the tables that have rules. New columns are tried on temporary tables, in the transaction that reads.

    Raises PlanError where that cannot be done: no right to make temporary tables, or something that is not in the database yet.
    """
    tables = dict(database.tables)
    made: set[QualifiedName] = set()
    reshaped: set[QualifiedName] = set()
    retyped: set[tuple[QualifiedName, str]] = set()
    added: set[tuple[QualifiedName, str]] = set()

    def tried(name: QualifiedName, columns: Iterable[Column[Any]]) -> dict[str, ColumnFacts]:
        return _tried(connection, driver, database, name, columns, places.search_path)

    for each in flat(operations):
        if getattr(each, "table_name", None) is None:
            continue
        name = places.of(each.table_name, each.schema)  # type: ignore[attr-defined]
        if isinstance(each, ops.CreateTableOp) and name in database.asked:
            table = each.to_table()
            tables[name] = _new(name, table, tried(name, table.columns), database)
            made.add(name)
            added |= {(name, column) for column in tables[name].columns}
        if name not in tables:
            continue
        facts = tables[name]
        match each:
            case ops.DropTableOp():
                facts = replace(facts, going=True)
            case ops.AddColumnOp(column=column):
                facts = replace(facts, columns={**facts.columns, **tried(name, [column])})
                added.add((name, column.name))
            case ops.DropColumnOp(column_name=gone):
                left = {column: fact for column, fact in facts.columns.items() if column != gone}
                indexes = tuple(index for index in facts.indexes if index.column != gone)
                facts = replace(facts, columns=left, indexes=indexes)
                reshaped.add(name)
            case ops.AlterColumnOp(column_name=column, modify_type=type_) if type_ is not None:
                if column in facts.columns:
                    new = tried(name, [Column(column, type_)])[column]
                    now = replace(facts.columns[column], type=new.type, deterministic=new.deterministic)
                    facts = replace(facts, columns={**facts.columns, column: now})
                    reshaped.add(name)
                    retyped.add((name, column))
            case ops.CreateIndexOp():
                facts = replace(facts, indexes=(*facts.indexes, *_serving(each.to_index())))
            case ops.CreateUniqueConstraintOp() | ops.CreatePrimaryKeyOp():
                facts = replace(facts, indexes=(*facts.indexes, *_serving(each.to_constraint())))
            case ops.DropIndexOp(index_name=gone) | ops.DropConstraintOp(constraint_name=gone):
                facts = replace(facts, indexes=tuple(index for index in facts.indexes if index.name != gone))
        tables[name] = facts
    return Foresight(
        replace(database, tables=tables), frozenset(made), frozenset(reshaped), frozenset(retyped), frozenset(added)
    )


def _new(name: QualifiedName, table: Table, columns: dict[str, ColumnFacts], database: Database) -> TableFacts:
    return TableFacts(
        name=name,
        kind="partitioned table" if table.dialect_options["postgresql"].get("partition_by") else "table",
        is_partition=False,
        access_method="heap",
        owner=database.server.user_name,
        alterable=True,
        has_rows=False,
        ancestors=(),
        parents=(),
        columns=columns,
        indexes=tuple(index for each in table.constraints for index in _serving(each)),
    )


def _serving(made: object) -> Iterator[IndexFacts]:
    """What an index, or a constraint that has one, will be, where it leads with a column and serves every row."""
    match made:
        case Index(expressions=[Column() as column, *_]):
            options = made.dialect_options["postgresql"]
            if options.get("where") is None:
                method = options.get("using") or "btree"
                yield IndexFacts(str(made.name), column.name, method, valid=True, marked=False, parent=None)
        case PrimaryKeyConstraint() | UniqueConstraint() if made.columns:
            column = next(iter(made.columns))
            yield IndexFacts(str(made.name), column.name, "btree", valid=True, marked=False, parent=None)


def _tried(
    connection: SqlConnection,
    driver: Connection[Any],
    database: Database,
    name: QualifiedName,
    columns: Iterable[Column[Any]],
    search_path: str,
) -> dict[str, ColumnFacts]:
    """Make the columns on a temporary table of the same name, as the migration will find their types and defaults; read them, and drop it."""
    if not database.server.may_make_temporary or database.server.read_only:
        raise PlanError(
            f"table `{name}` is changed by this migration, and what its columns will be cannot be tried here",
            hint=f'grant temporary on database "{database.server.database}" to "{database.server.user_name}", on a server that may be written',
        )
    twin = Table(name.name, MetaData(), *(each._copy() for each in columns), prefixes=["TEMPORARY"])
    named = {each.name for each in twin.columns if _is_named(each.type)}
    computed = {each.name for each in twin.columns if each.computed is not None}
    twin.constraints = {twin.primary_key}
    for each in twin.columns:
        each.constraints = set()
        if each.name in named:  # its type may be made by the same migration, and is nothing that a rule could rest on
            each.type = Text()
        # A default of that type; an expression of columns that may be on the table already.
        if each.name in named | computed:
            each.server_default = each.computed = None
    try:
        _look_up_in(driver, search_path)
        connection.execute(CreateTable(twin, include_foreign_key_constraints=[]))
        _look_up_in(driver, "pg_catalog, pg_temp")
    except DBAPIError as error:
        if not isinstance(error.orig, ProgrammingError):
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
            type="a named type" if column in named else fact.type,
            generated=column in computed,
        )
        for column, fact in found.items()
    }


def _is_named(type_: TypeEngine[Any]) -> bool:
    """Whether it is an enum or a domain, or made of one."""
    while isinstance(type_, ARRAY | TypeDecorator):
        type_ = type_.item_type if isinstance(type_, ARRAY) else type_.impl_instance
    return isinstance(type_, Enum | NamedType)


def _look_up_in(driver: Connection[Any], search_path: str) -> None:
    driver.execute("select set_config('search_path', %s, true)", [search_path])
