"""What a PostgreSQL database has, wanted or existing, in PostgreSQL's words: frozen values that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import ClassVar, Literal, TypeAlias

from rlskit.names import QualifiedName

Command: TypeAlias = Literal["select", "insert", "update", "delete"]


# --- expressions: wanted ones are built of these, existing ones are the server's own text ------------------


@dataclass(frozen=True, slots=True, order=True)
class OwnerColumn:
    """A column that names one owner, or a list of them (``many``). ``type`` is that of one name."""

    name: str
    many: bool = False
    type: str = "text"


@dataclass(frozen=True, slots=True)
class NamesCaller:
    """True when ``column`` names the caller: by this claim alone, or else in one of these spellings."""

    column: OwnerColumn
    claim: str | None
    spellings: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class MovingAway:
    """True only for a row version that is not stored yet and that the running UPDATE hands to somebody else.

    No stored row ever matches, whatever the settings say; without it PostgreSQL refuses to give a row away, because
    an UPDATE that reads columns also holds the new row against the SELECT policy.
    """

    columns: tuple[OwnerColumn, ...]


@dataclass(frozen=True, slots=True)
class NamesSomebody:
    """True when at least one of the columns names an owner."""

    columns: tuple[OwnerColumn, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True when one of the terms is."""

    terms: tuple[NamesCaller | MovingAway, ...]


@dataclass(frozen=True, slots=True)
class StrangerTo:
    """True when none of the terms names the caller in this version of a row; for triggers, where a row has an old and a new one."""

    version: Literal["old", "new"]
    terms: tuple[NamesCaller, ...]


@dataclass(frozen=True, slots=True)
class Reassigned:
    """True when an UPDATE changes one of the columns, by itself or through another trigger."""

    columns: tuple[OwnerColumn, ...]


@dataclass(frozen=True, slots=True)
class Always:
    """True."""


@dataclass(frozen=True, slots=True)
class CallersName:
    """The caller's name as ``column`` stores it: this claim, or else ``<sub>::<username>``; NULL for nobody."""

    column: OwnerColumn
    claim: str | None


@dataclass(frozen=True, slots=True)
class WellFormed:
    """True when the column holds no empty name, no NULL inside a list and no list of lists."""

    column: OwnerColumn


Expression: TypeAlias = AnyOf | StrangerTo | Reassigned | Always | NamesSomebody | CallersName | WellFormed | str


@dataclass(frozen=True, slots=True)
class AllBut:
    """Every column of the table except these; known by name only in one database."""

    columns: tuple[str, ...] = ()


# --- objects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TableObject:
    """Something that belongs to a table. ``why`` names the rule that wants it; ``mark`` is rlskit's comment on an existing one."""

    table: QualifiedName
    why: str = field(default="", compare=False)
    mark: str | None = field(default=None, compare=False)

    kind: ClassVar[str]

    @property
    def key(self) -> tuple[str, ...]:
        """What stays the same when the object is altered."""
        return (self.kind, self.table.schema, self.table.name, *self._own_key())

    def _own_key(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(TableObject):
    """A column that has to be there. ``type`` is PostgreSQL's name of it; where it is None, any will do, and the column is not added."""

    name: str
    type: str | None

    kind: ClassVar[str] = "column"

    def _own_key(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSecurity(TableObject):
    """ENABLE and FORCE ROW LEVEL SECURITY."""

    enabled: bool = True
    forced: bool = True

    kind: ClassVar[str] = "row security"


@dataclass(frozen=True, slots=True, kw_only=True)
class Default(TableObject):
    """A column's DEFAULT."""

    column: str
    expression: Expression

    kind: ClassVar[str] = "default"

    def _own_key(self) -> tuple[str, ...]:
        return (self.column,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(TableObject):
    """A CHECK constraint. ``column`` is the one that a wanted one guards."""

    name: str
    expression: Expression
    validated: bool = True
    column: str = field(default="", compare=False)

    kind: ClassVar[str] = "check"

    def _own_key(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger(TableObject):
    """A BEFORE … FOR EACH ROW trigger. ``enabled`` is PostgreSQL's letter: O, always on for ordinary sessions.

    ``columns`` are those of UPDATE OF, ``arguments`` what the function is given; here they are names of columns.
    """

    name: str
    event: Literal["insert", "update"] | str
    columns: tuple[str, ...] | AllBut
    function: QualifiedName
    arguments: tuple[str, ...] | AllBut = ()
    when: Expression | None = None
    enabled: str = "O"

    kind: ClassVar[str] = "trigger"

    def _own_key(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(TableObject):
    """A row security policy."""

    name: str
    command: Command | str
    roles: tuple[str, ...]
    using: Expression | None = None
    with_check: Expression | None = None
    permissive: bool = True

    kind: ClassVar[str] = "policy"

    @property
    def lets_go(self) -> bool:
        """Whether it rests on telling a row version that is not stored yet, so that an UPDATE may hand a row to somebody else."""
        return isinstance(self.using, AnyOf) and any(isinstance(term, MovingAway) for term in self.using.terms)

    def _own_key(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(TableObject):
    """One privilege of one role, on these columns or, where ``columns`` is None, on the whole table."""

    role: str
    privilege: str
    columns: tuple[str, ...] | AllBut | None

    kind: ClassVar[str] = "grant"

    @property
    def named(self) -> frozenset[str]:
        """The columns by name; none for the whole table. A list that says "all but" has to be fitted to a database first."""
        assert not isinstance(self.columns, AllBut)
        return frozenset(self.columns or ())

    def _own_key(self) -> tuple[str, ...]:
        return (self.role, self.privilege, "table" if self.columns is None else "columns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(TableObject):
    """A privilege, as a rule USAGE, on the table's schema or, where it is named, on a sequence that the table owns."""

    role: str
    sequence: QualifiedName | None = None
    privilege: str = "usage"

    kind: ClassVar[str] = "usage"

    def _own_key(self) -> tuple[str, ...]:
        return (self.role, self.privilege, *((self.sequence.schema, self.sequence.name) if self.sequence else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Index(TableObject):
    """An index on one owner column. ``valid`` is false for what an interrupted build left behind."""

    name: str
    column: str
    method: Literal["btree", "gin"] | str
    valid: bool = True

    kind: ClassVar[str] = "index"

    def _own_key(self) -> tuple[str, ...]:
        return (self.name,)


# Before and after; None on one side means that it is made, or taken away.
Change: TypeAlias = tuple[TableObject | None, TableObject | None]


@dataclass(frozen=True, slots=True, order=True)
class Advice:
    """Something about a table's rules that the reader should know before applying them."""

    table: QualifiedName
    text: str


@dataclass(frozen=True)
class State:
    """All that belongs to the managed tables.

    ``unmanaged`` are those that the rules leave alone on purpose; ``released`` those whose row security is asked to be off.
    """

    objects: frozenset[TableObject] = frozenset()
    unmanaged: frozenset[QualifiedName] = frozenset()
    released: frozenset[QualifiedName] = frozenset()
    advice: tuple[Advice, ...] = field(default=(), compare=False)

    def __iter__(self) -> Iterator[TableObject]:
        """The objects, table by table, in an order that is always the same."""
        return iter(sorted(self.objects, key=lambda each: (each.table, each.key)))

    @property
    def tables(self) -> Set[QualifiedName]:
        """The tables that have at least one object."""
        return self._by_table.keys()

    def of(self, table: QualifiedName) -> tuple[TableObject, ...]:
        """The objects of one table, in their order."""
        return self._by_table.get(table, ())

    def advice_on(self, table: QualifiedName) -> tuple[Advice, ...]:
        """What the reader should know about one table."""
        return self._advice_by_table.get(table, ())

    @cached_property
    def _advice_by_table(self) -> dict[QualifiedName, tuple[Advice, ...]]:
        return {table: tuple(each) for table, each in groupby(sorted(self.advice), lambda one: one.table)}

    @cached_property
    def _by_table(self) -> dict[QualifiedName, tuple[TableObject, ...]]:
        return {table: tuple(each) for table, each in groupby(self, lambda one: one.table)}
