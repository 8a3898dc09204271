"""What somebody can and cannot do, tried and undone: the questions, the answers, and the message where they are not as expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, TypeAlias

from psycopg import Connection

from rlskit import attempts
from rlskit.attempts import Answer, Attempt
from rlskit.compiler import COMMAND_OF
from rlskit.errors import KitError
from rlskit.names import QualifiedName
from rlskit.prelude import Asker
from rlskit.testing.places import Place, Who, identity_of
from rlskit.testing.rows import Row
from rlskit.vocabulary import OPERATIONS, Operation

Asked: TypeAlias = Operation | Iterable[Operation]


@dataclass(frozen=True, slots=True)
class Question:
    """One operation on one row, as a test puts it."""

    row: Row
    attempt: Attempt

    def __str__(self) -> str:
        if self.attempt.operation == "create":
            return f"create {self.row.table} ({', '.join(self.attempt.values)})"
        return f"{self.attempt.operation} {self.row}"


def questions(
    operation: Asked, rows: Sequence[Row], values: Mapping[str, Any], place: Callable[[str], QualifiedName]
) -> list[Question]:
    """Each operation on each row. ``values`` are what an update sets, and what a create names beside the row's own.

    Raises KitError for what cannot be asked: no row, an unknown operation, an update of nothing, values that none of them takes.
    """
    operations = (operation,) if isinstance(operation, str) else tuple(operation)
    unknown = [each for each in operations if each not in OPERATIONS]
    if unknown or not operations:
        named = f"`{unknown[0]}` is no operation" if unknown else "no operation is asked about"
        raise KitError(named, hint=f"one of {', '.join(OPERATIONS)}, or a list of them")
    if not rows:
        raise KitError(
            "no row is asked about", hint='assert_can("alice", "read", row); a new one is row("todo", content="…")'
        )
    if "create" in operations and (stored := next((each for each in rows if each.is_stored), None)):
        raise KitError(f"{stored} is there already", hint='a create is about a new row: row("todo", content="…")')
    if "update" in operations and not values:
        raise KitError("an update sets something", hint='say what: assert_can("alice", "update", row, content="…")')
    if values and not {"create", "update"} & {*operations}:
        raise KitError(
            f"a {operations[0]} takes no values", hint="they are what an update sets, and what a create names"
        )
    return [Question(row, _attempt(each, row, values, place(row.table))) for row in rows for each in operations]


def _attempt(operation: Operation, row: Row, values: Mapping[str, Any], table: QualifiedName) -> Attempt:
    match operation:
        case "create":
            return Attempt("create", table, values={**row.values_, **values})
        case "update":
            return Attempt("update", table, key=row.key, values=values)
        case _:
            return Attempt(operation, table, key=row.key)


def answers(place: Place, who: Who | None, asked: Sequence[Question]) -> list[Answer]:
    """What the database does about each, in one transaction of ``who`` (None: nobody) that leaves nothing behind."""
    asker = Asker(None if who is None else identity_of(who))
    with place.asking(asker) as conn:
        for each in asked:
            _require_readable_key(conn, each)
        return [attempts.make(conn, each.attempt) for each in asked]


def _require_readable_key(conn: Connection[Any], question: Question) -> None:
    """Raise KitError where the row is looked for by what the login may not read: that would be refused, whatever it may do to the row."""
    attempt = question.attempt
    if attempt.operation == "create":
        return
    parameters = {
        "key": [*attempt.key],
        "schema": attempt.table.schema,
        "table": attempt.table.name,
        "privilege": COMMAND_OF[attempt.operation],
    }
    row = conn.execute(_UNREADABLE, parameters).fetchone()
    if row is not None:
        raise KitError(
            f"{question.row} is found by `{row[0]}`, which the login may not read, so it proves nothing that it is refused",
            hint=f'name the row by columns that it may read: row("{question.row.table}", …)',
        )


# Where the login holds the privilege at all; else the refusal is just that.
_UNREADABLE: LiteralString = """
    select attname::text
    from pg_catalog.pg_class
    join pg_catalog.pg_namespace on pg_namespace.oid = relnamespace
    join pg_catalog.pg_attribute on attrelid = pg_class.oid and attname = any (%(key)s)
    where nspname = %(schema)s and relname = %(table)s
      and case %(privilege)s
        when 'delete' then pg_catalog.has_table_privilege(pg_class.oid, 'delete')
        else pg_catalog.has_any_column_privilege(pg_class.oid, %(privilege)s)
      end
      and not pg_catalog.has_column_privilege(pg_class.oid, attnum, 'select')
    order by attnum
    limit 1
"""


def verdict(who: Who | None, asked: Sequence[Question], given: Sequence[Answer], *, expected: bool) -> str:
    """What is not as expected, in a table; empty where everything is."""
    wrong = [
        (str(question), _told(answer))
        for question, answer in zip(asked, given, strict=True)
        if (answer.outcome == "allowed") != expected
    ]
    if not wrong:
        return ""
    name = "nobody" if who is None else who if isinstance(who, str) else "this identity"
    does, kind = ("cannot", "missing") if expected else ("can", "extra")
    if len(asked) == 1:
        told = f": {wrong[0][1]}" if expected else ""
        return f"{name} {does} {wrong[0][0]}{told}; {kind}: {asked[0].attempt.operation}"
    width = max(len(question) for question, _ in wrong)
    head = f"{name} {does} do {len(wrong)} of these {len(asked)}; {kind}:"
    return "\n".join([head, *(f"  {question:<{width}}  {told}" for question, told in wrong)])


def _told(answer: Answer) -> str:
    """The outcome in words; of the server's message what holds names and no values."""
    if answer.outcome == "refused" and answer.error is not None:
        return f"refused: {answer.error.diag.message_primary}"
    if answer.outcome == "not visible":
        return "not visible: no row was reached"
    return "allowed"
