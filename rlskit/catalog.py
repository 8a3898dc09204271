"""A database becomes a ``State`` and a few facts, in a fixed number of queries, however many tables there are. No judgement here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedTable
from psycopg.rows import namedtuple_row

from rlskit import ddl, runtime
from rlskit.facts import ColumnFacts, Database, Foreign, IndexFacts, Server, TableFacts
from rlskit.names import QualifiedName
from rlskit.state import Check, Default, Grant, Index, Policy, RowSecurity, State, TableObject, Trigger, Usage

_KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table"}


@contextmanager
def reading(conn: Connection[Any]) -> Iterator[None]:
    """A transaction that is rolled back at the end; names print in full inside it. An idle connection is idle again."""
    with conn.transaction(force_rollback=True):
        conn.execute("set local search_path = pg_catalog, pg_temp")
        yield


def read(conn: Connection[Any], tables: Iterable[QualifiedName], role: str) -> Database:
    """Return what the database has for these tables, for those that bear rlskit's mark, and for all their partitions.

    Takes no lock but those of reading the catalogue.
    """
    wanted = sorted(tables)
    query = _Query(conn, role)
    rows = query("tables", schemas=[each.schema for each in wanted], names=[each.name for each in wanted])
    by_oid = {row.oid: QualifiedName(row.schema_name, row.table_name) for row in rows}
    query.oids = list(by_oid)
    (server,) = query("server")
    known = Server(**_tuples(server._asdict()))

    objects: list[TableObject] = [
        RowSecurity(table=by_oid[row.oid], enabled=row.enabled, forced=row.forced) for row in rows
    ]
    foreign: list[Foreign] = []
    columns, defaults = _columns(query, by_oid)
    indexes, index_objects = _indexes(query, by_oid)
    checks, check_objects = _checks(query, by_oid)
    for found, others in (_policies(query, by_oid, role), _privileges(query, by_oid, role), _triggers(query, by_oid)):
        objects += found
        foreign += others
    foreign += _views(query, by_oid, role)
    facts = {
        by_oid[row.oid]: TableFacts(
            name=by_oid[row.oid],
            kind=_KINDS[row.kind],
            is_partition=row.is_partition,
            access_method=row.access_method,
            owner=row.owner,
            alterable=row.alterable,
            has_rows=row.has_rows,
            ancestors=tuple(sorted(by_oid[oid] for oid in row.ancestors)),
            parents=tuple(QualifiedName(*parent) for parent in row.parents),
            columns=columns[row.oid],
            indexes=tuple(indexes[row.oid]),
            checks=frozenset(checks[row.oid]),
        )
        for row in rows
    }
    return Database(
        state=State(frozenset([*objects, *defaults, *index_objects, *check_objects])),
        asked=tuple(wanted),
        server=known,
        tables=facts,
        foreign=tuple(foreign),
        functions={
            row.signature.lower(): runtime.Function(row.signature.lower(), row.attributes.lower(), row.body)
            for row in query("runtime")
        },
        # What the role could have put there is not run, not even to ask for its version.
        runtime_version=None if known.runtime_is_the_roles else runtime_version(conn),
    )


def columns(conn: Connection[Any], tables: dict[int, QualifiedName]) -> dict[QualifiedName, dict[str, ColumnFacts]]:
    """Return the columns of these tables, given by their oids."""
    query = _Query(conn, role="")
    query.oids = list(tables)
    facts, _ = _columns(query, tables)
    return {tables[oid]: found for oid, found in facts.items()}


def runtime_version(conn: Connection[Any]) -> str | None:
    """The version of the runtime in this database; None where it is missing or may not be read."""
    try:
        with conn.transaction():
            row = conn.execute("select version_num from rlskit.version").fetchone()
    except (UndefinedTable, UndefinedColumn, InsufficientPrivilege):
        return None
    return str(next(iter(row.values())) if isinstance(row, dict) else row[0]) if row else None


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


class _Query:
    """Runs the files of ``sql/catalog``."""

    def __init__(self, conn: Connection[Any], role: str) -> None:
        self._cursor = conn.cursor(row_factory=namedtuple_row)
        self._role = role
        self.oids: list[int] = []

    def __call__(self, name: str, **parameters: object) -> list[Any]:
        arguments = {"oids": self.oids, "role": self._role, **parameters}
        return self._cursor.execute(runtime.script(f"catalog/{name}.sql"), arguments).fetchall()


Tables = dict[int, QualifiedName]


def _columns(query: _Query, tables: Tables) -> tuple[dict[int, dict[str, ColumnFacts]], list[Default]]:
    facts: dict[int, dict[str, ColumnFacts]] = defaultdict(dict)
    defaults = []
    for row in query("columns"):
        sequence = QualifiedName(row.sequence_schema, row.sequence_name) if row.sequence_name else None
        facts[row.table_oid][row.name] = ColumnFacts(
            name=row.name,
            type=row.type,
            deterministic=row.deterministic,
            generated=row.generated,
            key=row.key,
            fresh=row.fresh,
            sequence=sequence,
        )
        if row.default_expression and not row.generated:
            defaults.append(Default(table=tables[row.table_oid], column=row.name, expression=row.default_expression))
    return facts, defaults


def _policies(query: _Query, tables: Tables, role: str) -> tuple[list[Policy], list[Foreign]]:
    found, foreign = [], []
    for row in query("policies"):
        policy = Policy(
            table=tables[row.table_oid],
            name=row.name,
            command=row.command,
            roles=tuple(row.roles),
            using=row.using,
            with_check=row.with_check,
            permissive=row.permissive,
            mark=row.mark if ddl.is_mark(row.mark) else None,
        )
        if policy.mark:
            found.append(policy)
            continue
        undoes = row.permissive and row.binds_role
        effect = (
            f"lets `{role}` past the rules"
            if undoes
            else "narrows the rules"
            if row.binds_role
            else f"is not for `{role}`"
        )
        kind = "permissive" if row.permissive else "restrictive"
        foreign.append(
            Foreign(
                policy.table,
                f"policy {row.name}",
                f"the {kind} policy `{row.name}` is not rlskit's; it {effect}",
                undoes,
                policy,
            )
        )
    return found, foreign


def _privileges(query: _Query, tables: Tables, role: str) -> tuple[list[TableObject], list[Foreign]]:
    columns: dict[tuple[int, str, str, bool], list[str]] = defaultdict(list)
    objects: list[TableObject] = []
    foreign = []
    for row in query("privileges"):
        table = tables[row.table_oid]
        if row.level == "column":
            columns[row.table_oid, row.grantee, row.privilege, row.direct].append(row.name)
        elif row.level == "table":
            grant = Grant(table=table, role=row.grantee, privilege=row.privilege, columns=None)
            objects.append(grant) if row.direct else foreign.append(_held(grant, role))
        elif row.direct and (row.level == "sequence" or row.privilege == "usage"):
            sequence = QualifiedName(row.schema_name, row.name) if row.level == "sequence" else None
            objects.append(Usage(table=table, role=row.grantee, sequence=sequence, privilege=row.privilege))
    for (oid, grantee, privilege, direct), names in columns.items():
        grant = Grant(table=tables[oid], role=grantee, privilege=privilege, columns=tuple(sorted(names)))
        objects.append(grant) if direct else foreign.append(_held(grant, role))
    return objects, foreign


def _held(grant: Grant, role: str) -> Foreign:
    what = grant.privilege if grant.columns is None else f"{grant.privilege} ({', '.join(sorted(grant.named))})"
    holder = "PUBLIC" if grant.role == "public" else f"role `{grant.role}`, which it is in or which is in it"
    return Foreign(
        grant.table,
        f"privilege {grant.privilege} of {grant.role}",
        f"`{role}` also holds {what} through {holder}",
        True,
        grant,
    )


def _views(query: _Query, tables: Tables, role: str) -> Iterator[Foreign]:
    for row in query("views"):
        name = QualifiedName(row.schema_name, row.name)
        text = f"the {row.kind} `{name}` reads this table with the rights of `{row.owner}`, whom no rule binds, and `{role}` may read it"
        yield Foreign(tables[row.table_oid], f"view {name}", text, True)


def _checks(query: _Query, tables: Tables) -> tuple[dict[int, set[str]], list[Check]]:
    names: dict[int, set[str]] = defaultdict(set)
    found = []
    for row in query("constraints"):
        names[row.table_oid].add(row.name)
        if ddl.is_mark(row.mark):
            table = tables[row.table_oid]
            found.append(
                Check(table=table, name=row.name, expression=row.expression, validated=row.validated, mark=row.mark)
            )
    return names, found


def _triggers(query: _Query, tables: Tables) -> tuple[list[Trigger], list[Foreign]]:
    found, foreign = [], []
    for row in query("triggers"):
        arguments = bytes(row.arguments).split(b"\0")[:-1]
        trigger = Trigger(
            table=tables[row.table_oid],
            name=row.name,
            event=row.event,
            columns=tuple(row.columns),
            function=QualifiedName(row.function_schema, row.function_name),
            arguments=tuple(each.decode() for each in arguments),
            when=row.when,
            enabled=row.enabled,
            mark=row.mark if ddl.is_mark(row.mark) else None,
        )
        if trigger.mark:
            found.append(trigger)
        else:
            text = f"the trigger `{row.name}` is not rlskit's; it may change rows after the rules have let them pass"
            foreign.append(Foreign(trigger.table, f"trigger {row.name}", text, False))
    return found, foreign


def _indexes(query: _Query, tables: Tables) -> tuple[dict[int, list[IndexFacts]], list[Index]]:
    facts: dict[int, list[IndexFacts]] = defaultdict(list)
    found = []
    for row in query("indexes"):
        if row.first_column is None or not row.whole:
            continue
        marked = ddl.is_mark(row.mark)
        facts[row.table_oid].append(
            IndexFacts(row.name, row.first_column, row.method, row.valid, marked, row.parent_index)
        )
        if marked:
            table = tables[row.table_oid]
            found.append(
                Index(
                    table=table,
                    name=row.name,
                    column=row.first_column,
                    method=row.method,
                    valid=row.valid,
                    mark=row.mark,
                )
            )
    return facts, found
