"""A table as whoever stores a row in it has to know it: columns and their types, keys, and what its rows have to meet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from psycopg import Connection
from psycopg.rows import namedtuple_row

from rlskit import catalog, runtime
from rlskit.errors import PlanError
from rlskit.names import QualifiedName

TypeKind: TypeAlias = Literal["base", "enum", "domain", "array", "range", "multirange", "composite"]
LimitKind: TypeAlias = Literal["check", "domain", "partition", "unique", "exclusion"]


@dataclass(frozen=True, slots=True)
class Check:
    """A condition by its name, and the server's own text of it."""

    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Type:
    """A type, and what it is made of: ``inner`` is a domain's base, an array's element, a range's bound; ``fields`` are a composite's.

    ``name`` is the server's, without a length; ``modifier`` is a domain's own, as the catalogue has it; ``category`` is PostgreSQL's letter.
    """

    name: str
    kind: TypeKind
    category: str
    inner: Type | None = None
    modifier: int = -1
    not_null: bool = False
    labels: tuple[str, ...] = ()
    fields: tuple[Type, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def base(self) -> Type:
        """What a domain is a domain over; any other type is its own base."""
        return self.inner.base if self.kind == "domain" and self.inner else self

    @property
    def is_text_array(self) -> bool:
        """Whether its values are lists of texts."""
        base = self.base
        return base.kind == "array" and base.inner is not None and base.inner.base.category == "S"

    @property
    def is_not_null(self) -> bool:
        """Whether it is a domain that takes no NULL, or over one."""
        return self.kind == "domain" and (self.not_null or (self.inner is not None and self.inner.is_not_null))

    def all_checks(self) -> tuple[Check, ...]:
        """The checks of the domains in it, however deep."""
        parts = (*((self.inner,) if self.inner else ()), *self.fields)
        return (*self.checks, *(check for part in parts for check in part.all_checks()))


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``default`` is the expression that gives the value where nobody names one; an identity column has one too."""

    name: str
    kind: Type = field(repr=False)
    modifier: int
    not_null: bool
    default: str | None
    generated: bool
    identity: Literal["a", "d"] | None

    @property
    def type(self) -> str:
        """The name of its type, without a length."""
        return self.kind.name

    @property
    def has_default(self) -> bool:
        """Whether it gets a value where nobody names one."""
        return self.default is not None

    @property
    def writable(self) -> bool:
        """Whether an INSERT may name it without more ado."""
        return not self.generated and self.identity != "a"

    @property
    def required(self) -> bool:
        """Whether an INSERT has to name it."""
        return self.not_null and not self.has_default and not self.generated


@dataclass(frozen=True, slots=True)
class Limit:
    """What rows have to meet in these columns: a check, a domain's check, the bounds of partitions, an index that takes nothing twice."""

    kind: LimitKind
    name: str
    columns: tuple[str, ...]
    definition: str = ""

    @property
    def is_search(self) -> bool:
        """Whether it is met by other values, and not by fresh ones."""
        return self.kind in ("check", "domain", "partition")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """``columns`` name a row of ``target`` by its ``target_columns``. ``deferred`` says that it is looked at when the transaction ends."""

    name: str
    columns: tuple[str, ...]
    target: QualifiedName
    target_columns: tuple[str, ...]
    deferrable: bool
    deferred: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A table. ``key`` finds a row: the primary key, or else columns that are never NULL nor twice the same; empty where there are none.

    ``unique`` are the sets of columns that no two rows have in common, the primary key among them.
    """

    table: QualifiedName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]
    limits: tuple[Limit, ...] = field(default=(), repr=False)

    def column(self, name: str) -> Column | None:
        """The column of this name, or None."""
        return next((each for each in self.columns if each.name == name), None)

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that an INSERT has to name."""
        return tuple(each.name for each in self.columns if each.required)


def read(conn: Connection[Any], table: QualifiedName) -> dict[QualifiedName, Shape]:
    """Return the shape of ``table`` and of every table that foreign keys lead to from it, in a fixed number of queries.

    Raises PlanError for a table that is missing, and where row security binds the login at any of them.
    """
    with catalog.reading(conn):
        conn.execute(
            "set local jit = off"
        )  # the planner takes the recursive queries for long ones, and compiles for longer
        query = _Query(conn)
        tables = query("tables", schema=table.schema, name=table.name)
        names = {row.oid: QualifiedName(row.schema_name, row.table_name) for row in tables}
        if table not in names.values():
            raise PlanError(
                f"table `{table}` does not exist", hint="only tables take rows: no views, no foreign tables"
            )
        if bound := sorted(names[row.oid] for row in tables if row.bound):
            raise PlanError(
                f"row security binds `{conn.info.user}` at `{bound[0]}`, so it stores no rows past the rules",
                hint="connect as a superuser, or as a role with BYPASSRLS",
            )
        query.oids = list(names)
        columns, limits, unique = _columns(query), query("limits"), defaultdict(list)
        for row in limits:
            if row.kind == "unique" and row.own and row.whole:
                unique[row.table_oid].append(tuple(row.columns))
        foreign_keys = query("foreign_keys")
    return {
        names[row.oid]: Shape(
            table=names[row.oid],
            columns=columns[row.oid],
            key=tuple(row.key) or _key(columns[row.oid], unique[row.oid]),
            unique=tuple(unique[row.oid]),
            foreign_keys=tuple(_foreign_key(each, names) for each in foreign_keys if each.table_oid == row.oid),
            limits=(
                *(_limit(each) for each in limits if each.table_oid == row.oid),
                *_domain_limits(columns[row.oid]),
            ),
        )
        for row in tables
    }


class _Query:
    """Runs the files of ``sql/prover``."""

    def __init__(self, conn: Connection[Any]) -> None:
        self._cursor = conn.cursor(row_factory=namedtuple_row)
        self.oids: list[int] = []

    def __call__(self, script: str, **parameters: object) -> list[Any]:
        arguments = {"oids": self.oids, **parameters}
        return self._cursor.execute(runtime.script(f"filler/{script}.sql"), arguments).fetchall()


def _columns(query: _Query) -> dict[int, tuple[Column, ...]]:
    types = _Types(query("types"))
    found: dict[int, list[Column]] = defaultdict(list)
    for row in query("columns"):
        kind = types[row.type_oid]
        found[row.table_oid].append(
            Column(
                name=row.name,
                kind=kind,
                modifier=row.modifier,
                not_null=row.not_null or kind.is_not_null,
                default=row.default_expression,
                generated=row.generated,
                identity=row.identity,
            )
        )
    return defaultdict(tuple, {oid: tuple(each) for oid, each in found.items()})


class _Types(dict[int, Type]):
    """Types by oid, each made of others when it is asked for."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = {row.oid: row for row in rows}

    def __missing__(self, oid: int) -> Type:
        row = self._rows[oid]
        self[oid] = made = Type(
            name=row.name,
            kind=row.kind,
            category=row.category,
            inner=self[row.inner_oid] if row.kind in ("domain", "array", "range", "multirange") else None,
            modifier=row.modifier,
            not_null=row.not_null,
            labels=tuple(row.labels),
            fields=tuple(self[each] for each in row.fields),
            checks=tuple(Check(*each) for each in row.checks),
        )
        return made


def _limit(row: Any) -> Limit:
    return Limit(row.kind, row.name or "", tuple(row.columns or ()), row.definition)


def _domain_limits(columns: Iterable[Column]) -> Iterable[Limit]:
    for column in columns:
        for check in column.kind.all_checks():
            yield Limit("domain", check.name, (column.name,), check.definition)


def _foreign_key(row: Any, names: dict[int, QualifiedName]) -> ForeignKey:
    return ForeignKey(
        name=row.name,
        columns=tuple(row.columns),
        target=names[row.target_oid],
        target_columns=tuple(row.target_columns),
        deferrable=row.deferrable,
        deferred=row.deferred,
    )


def _key(columns: Iterable[Column], unique: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    never_null = {each.name for each in columns if each.not_null}
    return next((each for each in unique if never_null.issuperset(each)), ())
