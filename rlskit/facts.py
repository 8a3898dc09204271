"""What one database says about itself: the values that a wanted state is fitted to and compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlskit.names import QualifiedName
from rlskit.runtime import Function
from rlskit.state import State, TableObject


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column as it is: its type without length, whether its collation tells all texts apart, and a serial's sequence.

    ``key`` says whether it is of the primary key, ``fresh`` whether its default is another value each time it is asked for.
    """

    name: str
    type: str
    deterministic: bool
    generated: bool
    key: bool
    fresh: bool
    sequence: QualifiedName | None


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """An index that leads with ``column`` and serves every row."""

    name: str
    column: str
    method: str
    valid: bool
    marked: bool
    parent: str | None


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something on a managed table that rlskit did not make. ``undoes`` says whether it lets the role past the rules."""

    table: QualifiedName
    name: str
    text: str
    undoes: bool
    drop: TableObject | None = None


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is. ``ancestors`` are the managed tables that it is a partition or a child of; ``parents`` the direct ones.

    ``going`` says that a migration drops it, where the facts are those that the migration will leave.
    """

    name: QualifiedName
    kind: str
    is_partition: bool
    access_method: str | None
    owner: str
    alterable: bool
    has_rows: bool
    ancestors: tuple[QualifiedName, ...]
    parents: tuple[QualifiedName, ...]
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    indexes: tuple[IndexFacts, ...] = ()
    checks: frozenset[str] = frozenset()
    going: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """The database, the connected user, what the application's role is, and whether identities have to be signed.

    ``keys_are_open`` says whether anybody but their owner has a privilege on the keys that they are signed with.
    """

    database: str
    user_name: str
    read_only: bool
    may_make_temporary: bool
    may_create: bool
    role_exists: bool
    role_bypasses: bool
    role_may_become: tuple[str, ...]
    runtime_owners: tuple[str, ...]
    signed: bool
    keys_are_open: bool

    @property
    def runtime_is_the_roles(self) -> str | None:
        """An owner of something in the schema rlskit that the role may become; None, as it should be, where there is none."""
        return next((each for each in self.runtime_owners if each in self.role_may_become), None)


@dataclass(frozen=True, slots=True)
class Database:
    """What was read: the state, and the facts that a wanted state is fitted to."""

    state: State
    server: Server
    asked: tuple[QualifiedName, ...]
    tables: dict[QualifiedName, TableFacts]
    foreign: tuple[Foreign, ...]
    functions: dict[str, Function]
    runtime_version: str | None

    def same_as(self, other: Database) -> bool:
        """Whether this is the same database, and nothing that a plan rests on has changed."""
        return (self.server.database, self.state, self.tables, self.foreign, self.functions) == (
            *(other.server.database, other.state, other.tables, other.foreign, other.functions),
        )
