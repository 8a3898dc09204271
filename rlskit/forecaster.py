"""What row security would hide from whom, in counts, asked of the server before it is switched on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.errors import DataError
from psycopg.rows import namedtuple_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from rlskit import auditor, catalog, compiler, ddl, fitter, runtime, steps
from rlskit.errors import MissingIdentityError, PlanError, RuntimeVersionError, SigningKeyError
from rlskit.facts import Database
from rlskit.identity import Identity
from rlskit.names import QualifiedName
from rlskit.rules import Rules, TableRules, Unmanaged
from rlskit.state import Always, AnyOf, Column, Command, Expression, NamesCaller, OwnerColumn, Policy, State
from rlskit.words import counted


@dataclass(frozen=True, slots=True)
class Share:
    """What would be left of a table to one person: so many of its ``rows`` to read, and of those so many to update and to delete.

    ``lacks`` is what rules of the table compare and the person was given without: what such rules would show is not counted.
    """

    who: Identity
    rows: int
    read: int
    update: int
    delete: int
    lacks: tuple[str, ...]

    @property
    def hidden(self) -> int:
        """How many rows the person would no longer see."""
        return self.rows - self.read

    @property
    def name(self) -> str:
        """The person as an owner column spells one, or the sub alone."""
        return next(iter(self.who.spellings), self.who.sub)


@dataclass(frozen=True, slots=True)
class Crowd:
    """What would be left of a table to all people of a list, in counts.

    Of ``people``, ``losing`` would no longer see some of the ``rows``, and ``blind`` none; ``median`` and ``most`` are how many rows
    would be hidden from one of them. ``unread`` counts the rows that none of them would see. ``nameless`` people have no name that
    the rules could compare. ``lacks`` are the claims that rules compare and the list has no column for: what such rules would show is not counted.
    """

    rows: int
    unread: int
    people: int
    nameless: int
    losing: int
    blind: int
    median: int
    most: int
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableForecast:
    """What the rules of one table would hide: from each person who was named, and from the crowd, where one was."""

    table: QualifiedName
    shares: tuple[Share, ...]
    crowd: Crowd | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What rules would hide, table by table; ``people`` is the list of the crowd. ``str()`` tells it in sentences."""

    tables: tuple[TableForecast, ...]
    people: QualifiedName | None

    @property
    def clean(self) -> bool:
        """Whether each row would be seen by somebody of the crowd; without a crowd nobody has asked that."""
        return not any(each.crowd and each.crowd.unread for each in self.tables)

    def __str__(self) -> str:
        return "\n".join(_story(self))

    def to_dict(self) -> dict[str, object]:
        """The forecast as JSON can hold it."""
        return {
            "clean": self.clean,
            "people": str(self.people) if self.people else None,
            "tables": [
                {
                    "table": str(each.table),
                    "persons": [_share_as_dict(share) for share in each.shares],
                    "crowd": _crowd_as_dict(each.crowd) if each.crowd else None,
                }
                for each in self.tables
            ],
        }


def shadow(
    conn: Connection[Any],
    rules: Rules,
    *tables: str | QualifiedName,
    identities: Iterable[Identity] = (),
    people: str | QualifiedName | None = None,
) -> Forecast:
    """Count what ``rules`` would hide from people, whether they are applied or not, under no lock but that of reading. Nothing is changed.

    Without ``tables`` it is all that have rules. For each of ``identities`` the server evaluates the conditions of the policies themselves, in one
    scan of the table. ``people`` is a table or view with columns ``sub`` and ``username``, and one for each further claim that rules compare; for all of
    them together there is one scan, and no name leaves the database. An idle connection is idle afterwards.

    Raises MissingIdentityError where nobody is named; PlanError for a table or a list that is missing or without rules, and for a login
    that row security binds there; RuntimeVersionError where the schema rlskit is not the one that the policies would rest on; SigningKeyError for a
    database that takes signed identities only; and for rules that do not fit the database what ``compare`` raises.
    """
    named = tuple(identities)
    if not named and people is None:
        raise MissingIdentityError(
            "nobody is named whose rows are to be counted",
            hint="name a list of people (--people TABLE) or persons (--as SUB::USERNAME); `rlskit owners` counts the rows that no rule reaches",
        )
    chosen = _chosen(rules, tables)
    with auditor.reading(conn):
        # How many names there are cannot be estimated, and JIT would take longer than most counts.
        conn.execute("set local jit = off")
        database, wanted = _wanted(conn, rules, chosen)
        _check_runtime(database)
        place = None if people is None else auditor.known_people(conn, rules, people)
        carried = [] if place is None else [each.name for each in auditor.relation(conn, place, rules)]
        found = []
        for each in chosen:
            auditor.relation(conn, each.name, rules)
            asked = _Asked(each.name, wanted.of(each.name))
            crowd = None if place is None else _crowd(conn, asked, place, carried)
            found.append(TableForecast(each.name, tuple(_share(conn, asked, who) for who in named), crowd))
    return Forecast(tuple(found), place)


def _chosen(rules: Rules, tables: Iterable[str | QualifiedName]) -> list[TableRules]:
    chosen = list(dict.fromkeys(auditor.rules_of(rules, each) for each in tables))
    if left_alone := [each for each in chosen if isinstance(each.allow, Unmanaged)]:
        raise PlanError(
            f"table `{left_alone[0].name}` is {left_alone[0].allow}", hint="nothing is hidden there: ask about another"
        )
    chosen = chosen or [each for each in rules.tables if not isinstance(each.allow, Unmanaged)]
    if not chosen:
        raise PlanError("no table has rules", hint="write what is to be counted: nothing is hidden without")
    return chosen


def _wanted(conn: Connection[Any], rules: Rules, chosen: Sequence[TableRules]) -> tuple[Database, State]:
    """What an apply would want of these tables here."""
    compiled = compiler.compile(Rules(*chosen, role=rules.role, bypass_role=rules.bypass_role, schema=rules.schema))
    database = catalog.read(conn, compiled.tables, rules.role)
    return database, fitter.fit(compiled, database, rules.role)


def _check_runtime(database: Database) -> None:
    if missing := next(steps.runtime_steps(database), None):
        raise RuntimeVersionError(
            f"the policies would rest on another schema rlskit than this database has: {missing.says}",
            hint="`rlskit install` does that, and touches no table",
        )
    if database.server.signed:
        raise SigningKeyError(
            "this database takes signed identities only, and nobody signs here",
            hint="ask a copy of it, where `rlskit install --mode plain` was run",
        )


# --- what is asked about -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A table, and what it would have: the policies, and the owner columns that are still missing."""

    table: QualifiedName
    objects: Sequence[object]

    def condition(self, command: Command) -> Expression | None:
        """Which rows the command would reach; None where nobody may run it."""
        return next((each.using for each in self.objects if isinstance(each, Policy) and each.command == command), None)

    @property
    def conditions(self) -> dict[str, Composable]:
        """The same as SQL, by operation."""
        found = {
            "read": self.condition("select"),
            "update": self.condition("update"),
            "delete": self.condition("delete"),
        }
        return {name: SQL("false") if each is None else ddl.expression(each) for name, each in found.items()}

    def naming(self, *commands: Command) -> list[NamesCaller]:
        """The terms that name a person, of these commands."""
        conditions = [each for command in commands if isinstance(each := self.condition(command), AnyOf)]
        return [term for each in conditions for term in each.terms if isinstance(term, NamesCaller)]

    @property
    def readers(self) -> dict[OwnerColumn, list[NamesCaller]]:
        """By whom rows are read: the owner columns, and how each names people."""
        terms = self.naming("select")
        return {
            column: [each for each in terms if each.column == column] for column in sorted({t.column for t in terms})
        }

    @property
    def stored(self) -> Composable:
        """The rows as the conditions name their columns. A column that an apply would add is NULL in each."""
        missing = {each.name: each.type for each in self.objects if isinstance(each, Column)}
        owners = sorted({term.column.name for term in self.naming("select", "update", "delete")})
        columns: list[Composable] = [
            SQL("null::{} as {}").format(SQL(missing[name] or "text"), Identifier(name))
            if name in missing
            else SQL("whole.{}").format(Identifier(name))
            for name in owners
        ]
        listed = SQL(", ").join([*columns, SQL("whole.ctid"), SQL("whole.tableoid")])
        return SQL("(select {} from {} as whole) as stored").format(listed, ddl.qualified(self.table))


# --- counting ----------------------------------------------------------------------------------------------


def _share(conn: Connection[Any], asked: _Asked, who: Identity) -> Share:
    """One scan, under the settings of the person."""
    cursor = conn.cursor(row_factory=namedtuple_row)
    said = who.settings()
    cursor.execute(
        "select set_config(name, value, true) from unnest(%s::text[], %s::text[]) as said (name, value)",
        [list(said), list(said.values())],
    )
    query = SQL(runtime.script("shadow/person.sql")).format(stored=asked.stored, **asked.conditions)
    found: Any = cursor.execute(query).fetchone()
    terms = asked.naming("select", "update", "delete")
    unnamed = (
        {"username"} if who.username is None and any(each.claim in (None, "username") for each in terms) else set()
    )
    lacks = sorted(unnamed | _claims(terms) - who.claims.keys())
    return Share(who, found.rows, found.read, found.update, found.delete, tuple(lacks))


def _crowd(conn: Connection[Any], asked: _Asked, people: QualifiedName, carried: Sequence[str]) -> Crowd:
    """One scan of the table and one of the people."""
    readers = asked.readers
    claims = _claims(asked.naming("select"))
    lists: list[Composable] = []
    columns: list[Composable] = []
    for number, column in enumerate(readers, 1):
        name = Identifier(f"list_{number}")
        listed = "stored.{}::text[] as {}" if column.many else "array[stored.{}::text] as {}"
        lists.append(SQL(listed).format(Identifier(column.name), name))
        columns.append(SQL("({}, held.{})").format(Literal(number), name))
    query = SQL(runtime.script("shadow/people.sql")).format(
        names=SQL(", ").join(map(_every_name, readers.values())),
        claims=SQL(", ").join(
            SQL("{}, {}::text").format(Literal(each), Identifier(each)) for each in sorted(claims & {*carried})
        ),
        people=ddl.qualified(people),
        # Where nobody is named, all rows are one line.
        lists=SQL(",\n    ").join(lists or [SQL("null::text[] as list_0")]),
        stored=asked.stored,
        numbers=SQL(", ").join(map(Literal, range(1, max(len(lists), 1) + 1))),
        columns=SQL(",\n      ").join(columns or [SQL("(0, held.list_0)")]),
        open=Literal(asked.condition("select") == Always()),
    )
    try:
        found: Any = conn.cursor(row_factory=namedtuple_row).execute(query).fetchone()
    except DataError as error:  # it would quote the value
        raise PlanError(
            f"`{people}` cannot be read: its own expressions fail ({type(error).__name__})",
            hint="select from it yourself",
        ) from None
    nameless = found.nameless if readers else 0
    return Crowd(**{**found._asdict(), "nameless": nameless}, lacks=tuple(sorted(claims - {*carried})))


def _every_name(terms: Sequence[NamesCaller]) -> Composable:
    lists = [SQL("coalesce({}, '{{}}')").format(ddl.callers_names(each)) for each in terms]
    return SQL("array_remove({}, null)").format(SQL(" || ").join(lists))


def _claims(terms: Iterable[NamesCaller]) -> set[str]:
    """The claims that are no part of a spelling."""
    return {each.claim for each in terms if each.claim is not None} - {"sub", "username"}


# --- in words ----------------------------------------------------------------------------------------------


def _story(made: Forecast) -> Iterator[str]:
    for each in made.tables:
        yield str(each.table)
        for share in each.shares:
            yield (
                f"  {share.name}: of {counted(share.rows, 'row')} {share.hidden:,} hidden;"
                f" {share.read:,} to read, {share.update:,} to update, {share.delete:,} to delete"
            )
            if share.lacks:
                yield f"  note: {share.name} is given without {_listed(share.lacks)}: what rules on it would show is not counted"
        if each.crowd:
            yield from (f"  {line}" for line in _about(each.crowd, made.people))
    if made.people and made.clean:
        yield f"Every row would be read by somebody of {made.people}."


def _about(crowd: Crowd, people: QualifiedName | None) -> Iterator[str]:
    yield (
        f"{crowd.people:,} of {people}: of {counted(crowd.rows, 'row')} some hidden from {crowd.losing:,}, all from {crowd.blind:,};"
        f" hidden from one {crowd.median:,} (median), at most {crowd.most:,}"
    )
    if crowd.unread:
        yield f"{counted(crowd.unread, 'row')} would be read by nobody of {people}"
    if crowd.nameless:
        yield f"note: {crowd.nameless:,} of {people} {'has' if crowd.nameless == 1 else 'have'} no name that these rules compare"
    if crowd.lacks:
        yield f"note: {people} has no column {_listed(crowd.lacks)}: what rules on it would show is not counted"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"`{each}`" for each in names)


def _share_as_dict(share: Share) -> dict[str, object]:
    counts = {name: getattr(share, name) for name in ("rows", "hidden", "read", "update", "delete")}
    return {"sub": share.who.sub, "username": share.who.username, **counts, "lacks": list(share.lacks)}


def _crowd_as_dict(crowd: Crowd) -> dict[str, object]:
    names = ("rows", "unread", "people", "nameless", "losing", "blind", "median", "most")
    return {**{name: getattr(crowd, name) for name in names}, "lacks": list(crowd.lacks)}
