"""How a table's owner columns spell people, in counts. No name leaves the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import namedtuple_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from rlskit import catalog, ddl, runtime
from rlskit.errors import PlanError, UnknownColumnError, UnsupportedRuleError
from rlskit.names import QualifiedName
from rlskit.rules import Rule, Rules, TableRules, checked_table
from rlskit.vocabulary import SPELLINGS, Spelling
from rlskit.words import counted, did_you_mean

KINDS = (*SPELLINGS, "other")


@dataclass(frozen=True, slots=True)
class Names:
    """How many names there are of each spelling; ``other`` are bare ones, known neither as a sub nor as a username."""

    full: int = 0
    sub: int = 0
    username: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.full + self.sub + self.username + self.other

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, kind):,} {kind}" for kind in KINDS if getattr(self, kind))


@dataclass(frozen=True, slots=True)
class ColumnAudit:
    """What one owner column holds.

    ``accepts`` are the spellings that its rules compare, and ``claims`` the claims that some compare instead; without ``accepts`` nothing
    is spelled there, and ``names`` are all zero. ``nobody`` counts rows: NULL, or an empty list (``many``). The others count names:
    ``malformed`` are those that nobody could have, ``named`` all the rest; of ``names``, ``unmatched`` are those by which no rule
    finds anybody, and ``shared`` those that several known people go by, so that each of them reaches the row.
    """

    name: str
    many: bool
    accepts: tuple[Spelling, ...]
    claims: tuple[str, ...]
    nobody: int
    named: int
    malformed: int
    names: Names
    unmatched: Names
    shared: int

    @property
    def reusable(self) -> int:
        """How many names are, or may be, bare usernames that the rules accept: they pass to whoever has the username next."""
        return self.names.username + self.names.other if "username" in self.accepts else 0


@dataclass(frozen=True, slots=True)
class Audit:
    """What the owner columns of ``table`` hold, in counts.

    ``rows`` are all of them. ``nobody``, ``unmatched`` and ``malformed`` are those that no rule reaches: nobody is named; people are
    named, but in no spelling that the rules accept; what is there could be nobody's name. The rules that read decide that, or
    all of them where none reads.
    """

    table: QualifiedName
    rows: int
    nobody: int
    unmatched: int
    malformed: int
    columns: tuple[ColumnAudit, ...]

    @property
    def unreachable(self) -> int:
        """How many rows no rule reaches."""
        return self.nobody + self.unmatched + self.malformed

    @property
    def clean(self) -> bool:
        """Whether every row is reached by a rule, and by everybody who is named in it."""
        return not self.findings

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, in sentences; empty when the audit is clean."""
        return tuple(_findings(self))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not wrong, but a risk; in sentences."""
        return tuple(_notes(self))


def audit(
    conn: Connection[Any], rules: Rules, table: str | QualifiedName, *, people: str | QualifiedName | None = None
) -> Audit:
    """Count how the owner columns of ``table`` spell people, in one scan, under no lock but that of reading.

    ``rules`` has owner rules for ``table``; they need not be applied yet. Whether a bare name is a sub or a username is told by the full names
    in these columns, and by ``people``, a table or view with columns ``sub`` and ``username``. An idle connection is idle afterwards.

    Raises PlanError for a table that is missing or has no owner rules and for a login that row security binds there,
    UnknownColumnError and UnsupportedRuleError for an owner column that is missing or cannot hold an owner.
    """
    with reading(conn):
        return count(conn, subject(conn, rules, table, people))


# --- what is asked about -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owners:
    """An owner column: its rules, the type of one name, and how many characters that may have."""

    name: str
    rules: tuple[Rule, ...]
    type: str = "text"
    length: int | None = None

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return self.rules[0].strategy == "owners"

    @property
    def reads(self) -> bool:
        """Whether somebody may read a row because this column names them."""
        return any("read" in each.operations for each in self.rules)

    @property
    def accepts(self) -> tuple[Spelling, ...]:
        """The spellings that reach a row; a rule on the claim ``sub`` or ``username`` accepts that spelling alone."""
        found = {each for rule in self._deciding for each in rule.spellings or (rule.claim,)}
        return tuple(each for each in SPELLINGS if each in found)

    @property
    def claims(self) -> tuple[str, ...]:
        """The claims that are compared and are no part of a spelling."""
        return tuple(sorted({each.claim for each in self._deciding if each.claim is not None} - {*SPELLINGS}))

    @property
    def _deciding(self) -> list[Rule]:
        return [each for each in self.rules if "read" in each.operations or not self.reads]


@dataclass(frozen=True, slots=True)
class Subject:
    """A table, its owner columns, and the table or view that says who is who."""

    table: QualifiedName
    columns: tuple[Owners, ...]
    people: QualifiedName | None


@contextmanager
def reading(conn: Connection[Any]) -> Iterator[None]:
    """A transaction that writes nothing, and in which row security is an error instead of a smaller count."""
    with catalog.reading(conn):
        conn.execute("set local transaction_read_only = on; set local row_security = off")
        try:
            yield
        except InsufficientPrivilege as error:
            raise PlanError(
                str(error.diag.message_primary), hint="connect as a role that may read the whole table"
            ) from error


def subject(
    conn: Connection[Any], rules: Rules, table: str | QualifiedName, people: str | QualifiedName | None
) -> Subject:
    """Find what is asked about. Raises as ``audit`` does."""
    ruled = rules_of(rules, table)
    if not isinstance(ruled.allow, tuple):
        raise PlanError(f"table `{ruled.name}` is {ruled.allow}", hint="only a table with owner rules has owners")
    found = relation(conn, ruled.name, rules)
    if found[0].kind not in ("r", "p"):
        raise PlanError(
            f"`{ruled.name}` is no table, and PostgreSQL has no row security there", hint="put the rules on its tables"
        )
    there = {each.name: each for each in found if each.name is not None}
    columns = tuple(_fitted(ruled.name, each, there) for each in _owner_columns(ruled))
    return Subject(ruled.name, columns, None if people is None else known_people(conn, rules, people))


def rules_of(rules: Rules, table: str | QualifiedName) -> TableRules:
    """The rules of the table, which may be named without the schema that the rules have. Raises PlanError where it has none."""
    for each in rules.tables:
        if table in (each.name, str(each.name)) or (each.name.schema, each.name.name) == (rules.schema, table):
            return each
    known = [each.name.name if each.name.schema == rules.schema else str(each.name) for each in rules.tables]
    raise PlanError(
        f"table `{table}` has no rules",
        hint=did_you_mean(str(table), known) or "the rules say which columns name owners: write them first",
    )


def _owner_columns(rules: TableRules) -> Iterator[Owners]:
    assert isinstance(rules.allow, tuple)
    everything = [*rules.allow, *(each for _, given in rules.columns for each in given)]
    for name in sorted({each.column for each in everything if each.column is not None}):
        yield Owners(name, tuple(each for each in everything if each.column == name))


def known_people(conn: Connection[Any], rules: Rules, people: str | QualifiedName) -> QualifiedName:
    """Find the table or view that says who is who. Raises PlanError, UnknownColumnError for one without ``sub`` and ``username``."""
    place = people if isinstance(people, QualifiedName) else checked_table(people, None)
    place = place if isinstance(place, QualifiedName) else QualifiedName(rules.schema, place)
    there = [each.name for each in relation(conn, place, rules) if each.name is not None]
    for name in ("sub", "username"):
        if name not in there:
            raise UnknownColumnError(
                f"`{place}` has no column `{name}`, which people are known by",
                hint=f"a view can give them the names `sub` and `username`; {did_you_mean(name, there)}",
            )
    return place


def relation(conn: Connection[Any], place: QualifiedName, rules: Rules) -> list[Any]:
    """What ``sql/owners/relation.sql`` says: a line for each column. Raises PlanError where nothing is, or not every row would be counted."""
    cursor = conn.cursor(row_factory=namedtuple_row)
    names = {"schema": place.schema, "name": place.name}
    found: list[Any] = cursor.execute(runtime.script("owners/relation.sql"), names).fetchall()
    if not found:
        others: list[Any] = cursor.execute(runtime.script("owners/relations.sql"), names).fetchall()
        near = did_you_mean(place.name, [each.name for each in others])
        raise PlanError(
            f"table `{place}` does not exist",
            hint=near if near.startswith("did") else f"schema `{place.schema}` has no table or view of a similar name",
        )
    if found[0].bound:
        bypass = f"`{rules.bypass_role}`, " if rules.bypass_role else ""
        raise PlanError(
            f"row security binds `{found[0].login}` on table `{place}`, so not every row would be counted",
            hint=f"connect as {bypass}a superuser or a role with BYPASSRLS",
        )
    return found


def _fitted(table: QualifiedName, wanted: Owners, there: dict[str, Any]) -> Owners:
    rule, place = wanted.rules[0], f"column `{wanted.name}` of table `{table}`"
    if wanted.name not in there:
        near = did_you_mean(wanted.name, there)
        raise UnknownColumnError(
            f"table `{table}` has no column `{wanted.name}`, which {rule} names",
            hint=near if near.startswith("did") else "apply the rules first: that adds it, and it names nobody yet",
        )
    found = there[wanted.name]
    type_ = found.type.removesuffix("[]")
    if wanted.many != found.type.endswith("[]"):
        word = "owner_defined_in" if wanted.many else "owners_defined_in"
        raise UnsupportedRuleError(
            f"{place} is {found.type}, and {rule} does not fit it", hint=f'write allow.{word}("{wanted.name}")'
        )
    if type_ == "uuid" and any(each.claim is None for each in wanted.rules):
        raise UnsupportedRuleError(
            f"{place} is uuid, which cannot hold <sub>::<username>",
            hint='add .identity_claim("sub") to the rule, or make the column text',
        )
    if type_ not in ("text", "character varying", *(() if wanted.many else ("uuid",))) or not found.exact:
        raise UnsupportedRuleError(
            f"{place} cannot hold an owner exactly", hint="`rlskit plan` says why: make it an ordinary text column"
        )
    return Owners(wanted.name, wanted.rules, type_, found.length)


# --- counting ----------------------------------------------------------------------------------------------

_LIST = SQL('({column}::text[]) collate "default" as {name}')
_LIST_OF_ONE = SQL('(case when {column} is not null then array[{column}::text] end) collate "default" as {name}')
_PEOPLE = SQL("""
  union all
  select sub::text || '::' || username::text, true from {}""")


def names(asked: Subject, *, trusted: bool) -> Composable:
    """The head of a query: every name, how it is spelled and whom it means.

    ``trusted`` says whether the full names in the table's own columns tell whom a bare name means; else they tell only who else might be meant.
    """
    lists, columns = [], []
    for number, each in enumerate(asked.columns, 1):
        column, name = SQL("stored.{}").format(Identifier(each.name)), Identifier(f"list_{number}")
        lists.append((_LIST if each.many else _LIST_OF_ONE).format(column=column, name=name))
        columns.append(SQL("({}, held.{}, {})").format(Literal(each.name), name, Literal(bool(each.accepts))))
    return SQL(runtime.script("owners/names.sql").rstrip()).format(
        table=ddl.qualified(asked.table),
        lists=SQL(",\n    ").join(lists),
        numbers=SQL(", ").join(map(Literal, range(1, len(lists) + 1))),
        columns=SQL(",\n      ").join(columns),
        trusted=Literal(trusted),
        people=SQL("") if asked.people is None else _PEOPLE.format(ddl.qualified(asked.people)),
    )


def count(conn: Connection[Any], asked: Subject) -> Audit:
    """Run the one query of an audit, inside of ``reading``."""
    some_read = any(each.reads for each in asked.columns)
    rules = [
        SQL("({}, {}, {}::text[], {})").format(
            *map(Literal, (each.name, each.reads or not some_read, list(each.accepts), bool(each.claims)))
        )
        for each in asked.columns
    ]
    query = SQL(runtime.script("owners/audit.sql")).format(
        names=names(asked, trusted=True), rules=SQL(",\n    ").join(rules)
    )
    lines: list[Any] = conn.cursor(row_factory=namedtuple_row).execute(query).fetchall()
    reach = {each.spelling: each.times for each in lines if each.column_name is None}
    return Audit(
        table=asked.table,
        rows=sum(reach.values()),
        nobody=reach.get("nobody", 0),
        unmatched=reach.get("unmatched", 0),
        malformed=reach.get("malformed", 0),
        columns=tuple(
            _column(owners, [each for each in lines if each.column_name == owners.name]) for owners in asked.columns
        ),
    )


def _column(owners: Owners, lines: list[Any]) -> ColumnAudit:
    malformed = sum(each.times for each in lines if each.spelling == "malformed" and not each.accepted)
    nobody = sum(each.times for each in lines if each.spelling == "nobody")
    return ColumnAudit(
        name=owners.name,
        many=owners.many,
        accepts=owners.accepts,
        claims=owners.claims,
        nobody=nobody,
        named=sum(each.times for each in lines) - nobody - malformed,
        malformed=malformed,
        names=_by_kind(lines),
        unmatched=_by_kind(each for each in lines if not each.accepted),
        shared=sum(each.times for each in lines if each.shared),
    )


def _by_kind(lines: Iterable[Any]) -> Names:
    found = dict.fromkeys(KINDS, 0)
    for each in lines:
        if each.spelling in found:
            found[each.spelling] += each.times
    return Names(**found)


# --- in words ----------------------------------------------------------------------------------------------


def _findings(made: Audit) -> Iterator[str]:
    for number, why in (
        (made.nobody, "no owner is named"),
        (made.unmatched, "owners are named, but in no spelling that the rules accept"),
        (made.malformed, "what is there could be nobody's name"),
    ):
        if number:
            yield f"{counted(number, 'row')} {'belongs' if number == 1 else 'belong'} to nobody: {why}"
    for each in made.columns:
        if each.unmatched.total:
            yield (
                f"{each.name}: {counted(each.unmatched.total, 'name')} ({each.unmatched}) in a spelling that its rules do not accept;"
                f" they accept {' and '.join(each.accepts)}, and --backfill {each.accepts[0]} writes a script"
            )
        if each.malformed:
            yield f"{each.name}: {counted(each.malformed, 'name')} that nobody could have: empty, NULL in a list, more than one `::`, or the like"


def _notes(made: Audit) -> Iterator[str]:
    for each in made.columns:
        if each.reusable:
            yield (
                f"{each.name}: {counted(each.reusable, 'name')} that may be bare usernames: whoever is given such a username next"
                ' is given the rows too; --backfill full, and then match = "full", ends that'
            )
        if each.shared:
            yield f"{each.name}: {counted(each.shared, 'bare name')} that more than one person goes by: each of them reaches the row"
        if each.names.other:
            yield f"{each.name}: {counted(each.names.other, 'bare name')} known neither as a sub nor as a username: --people tells who is who"
