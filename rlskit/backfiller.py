"""A script that brings a table's owner columns to one spelling: for review and for psql, never run from here. It holds no name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import namedtuple_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from rlskit import auditor, ddl, runtime
from rlskit.auditor import KINDS, Audit, Owners, Subject
from rlskit.errors import PlanError
from rlskit.names import QualifiedName
from rlskit.rules import Rules
from rlskit.vocabulary import SPELLINGS, Spelling
from rlskit.words import counted, did_you_mean


@dataclass(frozen=True, slots=True)
class Change:
    """Of the names in ``column`` that have this ``spelling``: how many the script would change, and how many it would leave."""

    column: str
    spelling: str
    changes: int
    stays: int


@dataclass(frozen=True, slots=True)
class Backfill:
    """A script, ``sql``, that brings names to the spelling ``to``; and how things stood when it was written.

    ``changes`` tells what it would do, column by column and spelling by spelling; ``notes`` what to know before it is run.
    """

    audit: Audit
    to: Spelling
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    sql: str


def backfill(
    conn: Connection[Any],
    rules: Rules,
    table: str | QualifiedName,
    to: Spelling,
    *,
    people: str | QualifiedName | None = None,
) -> Backfill:
    """Write a script that brings the names in the owner columns of ``table`` to the spelling ``to``. Nothing is changed.

    The script looks up whom a name means when it is run, and changes it only where that is one person and nobody else goes by the new
    name. Who is who is told by ``people``, a table or view with columns ``sub`` and ``username``. Without it the full names in the table's
    own columns tell; users may have written those, so a bare name can then become a full one, which narrows it, and nothing else.

    Takes and raises what ``auditor.audit`` does, and PlanError where no column could hold the spelling.
    """
    if to not in SPELLINGS:
        raise PlanError(f"`{to}` is no spelling of an owner", hint=did_you_mean(to, SPELLINGS))
    with auditor.reading(conn):
        asked = auditor.subject(conn, rules, table, people)
        changing = [each for each in asked.columns if each.accepts and not each.claims and each.type != "uuid"]
        if not changing:
            raise PlanError(
                f"no owner column of table `{asked.table}` could be spelled otherwise",
                hint="what is compared with another claim, or is uuid, has one spelling only",
            )
        audited = auditor.count(conn, asked)
        spellings = _spellings(asked, changing, to)
        changes = tuple(_changes(conn, asked, changing, spellings))
    notes = tuple(_notes(asked, changing, changes, to))
    script = SQL(runtime.script("owners/backfill.sql")).format(
        head=SQL("\n").join(SQL(ddl.comment(line).rstrip()) for line in _head(audited, changes, notes, to)),
        spellings=spellings,
        table=ddl.qualified(asked.table),
        assignments=SQL(",\n  ").join(map(_assignment, changing)),
        changing=SQL("\n  or ").join(map(_condition, changing)),
        sound=SQL("\n  and ").join(_sound(each) for each in asked.columns if each.type != "uuid"),
    )
    return Backfill(audited, to, changes, notes, ddl.text(script))


# --- what changes ------------------------------------------------------------------------------------------

_BECOMES = {
    "full": SQL("meant.sub || '::' || meant.username"),
    "sub": SQL("meant.sub"),
    "username": SQL("meant.username"),
}


def _spellings(asked: Subject, changing: list[Owners], to: Spelling) -> Composable:
    """The query of what becomes of each name. The same text counts now and works when the script is run."""
    # Users may have written the names in the table. A forged pair of sub and username gives nobody a row in the full spelling,
    # because the caller has to be both; in a bare one it would, so only `people` may tell whose bare name another bare name is.
    trusted = to == "full" and asked.people is None
    # Somebody who is not among the people any more has left a username that may be another's by now.
    only_listed = to == "username" and asked.people is not None
    return SQL(runtime.script("owners/spellings.sql").rstrip()).format(
        names=auditor.names(asked, trusted=trusted),
        full_username=SQL("case when listed then full_username end" if only_listed else "full_username"),
        changing=SQL(", ").join(Literal(each.name) for each in changing),
        others=SQL(", ").join(Literal(each) for each in KINDS if each != to),
        becomes=_BECOMES[to],
    )


_COUNTED = SQL("""\
select column_name, spelling,
  coalesce(sum(times) filter (where becomes is not null), 0)::bigint as changes,
  coalesce(sum(times) filter (where becomes is null), 0)::bigint as stays,
  max(length(becomes)) as longest
from ({}) as changed
group by column_name, spelling
order by column_name, spelling""")


def _changes(conn: Connection[Any], asked: Subject, changing: list[Owners], spellings: Composable) -> Iterator[Change]:
    lines: list[Any] = conn.cursor(row_factory=namedtuple_row).execute(_COUNTED.format(spellings)).fetchall()
    room = {each.name: each.length for each in changing}
    for each in lines:
        length = room[each.column_name]
        if length is not None and (each.longest or 0) > length:
            raise PlanError(
                f"column `{each.column_name}` of table `{asked.table}` has room for {length} characters, and a name would have {each.longest}",
                hint="make the column text first",
            )
        yield Change(each.column_name, each.spelling, each.changes, each.stays)


# --- the update --------------------------------------------------------------------------------------------

# The table's triggers need the session's own search_path, so what could be found in it is named in full or cast to text.
_CONDITION = SQL("""\
exists (
    select from pg_temp.rlskit_name as known
    where known.column_name = {name} and known.name = {column}::text and known.becomes is not null
  )""")
_CONDITION_ON_LIST = SQL("""\
exists (
    select from pg_catalog.unnest({column}::text[]) as given (name)
    join pg_temp.rlskit_name as known on known.column_name = {name} and known.name = given.name
    where known.becomes is not null
  )""")
_ASSIGNMENT = SQL("""\
{target} = coalesce((
    select known.becomes from pg_temp.rlskit_name as known where known.column_name = {name} and known.name = {column}::text
  ), {column})""")
_ASSIGNMENT_OF_LIST = SQL("""\
{target} = case when {condition} then array(
    -- In their order, and each once: two spellings of one person may have stood there.
    select coalesce(known.becomes, given.name)
    from pg_catalog.unnest({column}::text[]) with ordinality as given (name, place)
    left join pg_temp.rlskit_name as known on known.column_name = {name} and known.name = given.name
    group by 1
    order by pg_catalog.min(given.place)
  ) else {column} end""")
_SOUND = SQL("{column}::text is distinct from ''")
_SOUND_LIST = SQL(
    "pg_catalog.array_position({column}::text[], null) is null and '' <> all (coalesce({column}::text[], '{{}}'))"
)


def _column(owners: Owners) -> Composable:
    return SQL("stored.{}").format(Identifier(owners.name))


def _condition(owners: Owners) -> Composable:
    condition = _CONDITION_ON_LIST if owners.many else _CONDITION
    return condition.format(name=Literal(owners.name), column=_column(owners))


def _assignment(owners: Owners) -> Composable:
    assignment = _ASSIGNMENT_OF_LIST if owners.many else _ASSIGNMENT
    return assignment.format(
        target=Identifier(owners.name),
        name=Literal(owners.name),
        column=_column(owners),
        condition=_condition(owners),
    )


def _sound(owners: Owners) -> Composable:
    return (_SOUND_LIST if owners.many else _SOUND).format(column=_column(owners))


# --- in words ----------------------------------------------------------------------------------------------

_SPELLED = {"full": "<sub>::<username>", "sub": "the bare sub", "username": "the bare username"}


def _notes(asked: Subject, changing: list[Owners], changes: tuple[Change, ...], to: Spelling) -> Iterator[str]:
    for each in asked.columns:
        if each.accepts and each not in changing:
            why = f"compared with the claim {each.claims[0]}, too" if each.claims else "uuid"
            yield f"column {each.name} stays as it is, because it is {why}"
    for each in changing:
        if to not in each.accepts:
            accepted = " and ".join(each.accepts)
            yield f"the rules of column {each.name} accept {accepted} and not {to}: what is spelled so is nobody's until they do"
    if to == "username":
        yield "whoever is given such a username next is given the rows too; the full spelling is safe from that"
    if to == "sub" and any("username" in each.accepts for each in changing):
        yield 'whoever is given a username that equals one of these subs is given its rows; UUIDs are refused as such, for others say match = ["full", "sub"]'
    if any(each.spelling == "username" and each.changes for each in changes):
        yield "a bare username is taken for whoever goes by it as far as is known; where it was somebody else's before, so are the rows of that time"
    if asked.people is None:
        yield "who is who was told by the full names in these columns alone, which users may have written; --people knows better, also who was renamed"
    if asked.people is None and to != "full":
        yield "bare names stay as they are: whose they are, only --people can tell"


def _head(audited: Audit, changes: tuple[Change, ...], notes: tuple[str, ...], to: Spelling) -> Iterator[str]:
    yield f"Brings the owners in table {audited.table} to one spelling: {_SPELLED[to]}. Written by rlskit, for review."
    yield "Run it as a role that row security does not bind:"
    yield "  psql -v ON_ERROR_STOP=1 -f FILE"
    yield ""
    yield f"When it was written, the names in {counted(audited.rows, 'row')} were:"
    for each in changes:
        yield f"  {each.column}: {each.changes:,} {each.spelling} to change, {each.stays:,} to leave, because it cannot be told whom they mean"
    if not changes:
        yield "  all of them spelled so already"
    yield ""
    yield from (f"Note: {each}." for each in notes)
    yield ""
    yield "It is one UPDATE in one transaction. A row that changes stays locked until the end, is written anew, and fires the table's"
    yield "triggers. Where that is too much at once, add a range of the key to the WHERE of the UPDATE and run the script for one range"
    yield "after the other. What is spelled right is not touched, so it may be run again."
