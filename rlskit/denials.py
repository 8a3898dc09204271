"""What the database refuses, by name: read off the driver's exception, whatever language the server speaks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from psycopg.errors import Diagnostic, InsufficientPrivilege
from psycopg.pq import DiagnosticField

from rlskit.errors import NotVisible, RlskitError
from rlskit.rules import Rules
from rlskit.vocabulary import Operation

# What is kept of PostgreSQL's report. Detail, context and internal query may hold values of rows, and are left with the driver's exception.
_KEPT = (
    *(DiagnosticField.SEVERITY, DiagnosticField.SEVERITY_NONLOCALIZED, DiagnosticField.SQLSTATE),
    *(DiagnosticField.MESSAGE_PRIMARY, DiagnosticField.MESSAGE_HINT),
    *(DiagnosticField.SCHEMA_NAME, DiagnosticField.TABLE_NAME, DiagnosticField.COLUMN_NAME),
    *(DiagnosticField.SOURCE_FILE, DiagnosticField.SOURCE_LINE, DiagnosticField.SOURCE_FUNCTION),
)

_NOT_THE_CALLERS = "no rule that names the caller in the row allows it"
_NO_PRIVILEGE = (
    "the application's role has no such privilege: a rule can give it, or whoever owns the object can grant it"
)


class Denied(RlskitError, InsufficientPrivilege):
    """What the database refused; base of the three below, and psycopg's InsufficientPrivilege besides.

    The message is PostgreSQL's own. ``table`` is the bare name of the table or view, ``operation`` one of rlskit's four, ``columns`` the refused ones;
    None and empty where PostgreSQL does not tell. ``diag`` holds names and no values, and ``__cause__`` is the driver's exception.
    """

    code = "E500"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        table: str | None = None,
        operation: Operation | None = None,
        columns: Sequence[str] = (),
        diag: Diagnostic | None = None,
    ) -> None:
        said = {each: getattr(diag, each.name.lower(), None) for each in _KEPT}
        info: dict[int, bytes | None] = {each: text.encode() for each, text in said.items() if text is not None}
        InsufficientPrivilege.__init__(self, message, info=info)
        self.hint = hint
        self.table, self.operation, self.columns = table, operation, tuple(columns)


class RowDenied(Denied):
    """Row security refused a row that was to be written, or one that stood in its way."""

    code = "E501"


class ColumnDenied(Denied):
    """The caller may not write these columns in this row."""

    code = "E502"


class TableDenied(Denied):
    """A privilege is missing, whatever the row: on the table, on a column of it, or on something else that the statement uses."""

    code = "E503"


Denial: TypeAlias = RowDenied | ColumnDenied | TableDenied


def denial(error: BaseException, rules: Rules | None = None) -> Denial | None:
    """What the database refused, by name: psycopg's exception, or one that wraps it, as RowDenied, ColumnDenied or TableDenied.

    A wrapper has it as ``orig``, as those of SQLAlchemy have, or as ``__cause__``. What is typed already is returned as it is, and None for
    anything else: then the database refused nothing, or something that is no access to data, such as SET ROLE or a RAISE of one's own.
    With ``rules`` the hint also says which rule it was.
    """
    for each in _unwrapped(error):
        if isinstance(each, Denial):
            return each
        if isinstance(each, InsufficientPrivilege):
            found = _read(each.diag)
            if found is not None:
                found.__cause__ = each
                if rules is not None and (rule := _rule(found, rules)):
                    found.hint += f"; {rule}"
            return found
    return None


def _rule(found: Denial, rules: Rules) -> str:
    """The rule that was not met, in the words of the declaration; empty where it cannot be told which table it is."""
    schema = found.diag.schema_name
    tables = [each for each in rules.tables if each.name.name == found.table and schema in (None, "", each.name.schema)]
    if found.table is None or len(tables) > 1:
        return ""
    if not tables:
        return f"no rule names table `{found.table}`"
    (table,) = tables
    columns = dict(table.columns)
    if isinstance(found, ColumnDenied) and found.columns:
        named = {each: " or ".join(map(str, columns.get(each, ()))) or "nobody" for each in found.columns}
        return "; ".join(f"column `{column}` is for {who}" for column, who in named.items())
    return f"the rules of table `{table.name}`: {table}"


class Counted(Protocol):
    """What knows how many rows a statement touched or found: a psycopg cursor, sync or async, and SQLAlchemy's result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows; negative where that is not known."""


class Fetchable(Protocol):
    """What a session of SQLAlchemy 2.1 says that it returns: whether it knows the number, its type does not tell."""

    def fetchall(self) -> Sequence[Any]:
        """The rows."""


Result = TypeVar("Result", bound=Counted | Fetchable)


def expect_row(result: Result) -> Result:
    """Return ``result`` as it is, where its statement touched or found a row: ``expect_row(conn.execute("update …"))``.

    Raises NotVisible where there was none: then the row is not there, or the caller may not reach it. Raises TypeError where the number
    of rows is not known, as for a server-side cursor, and for what the ORM selects.
    """
    count = getattr(result, "rowcount", -1)
    if count < 0:
        raise TypeError(f"`{type(result).__name__}` does not know how many rows there are")
    if count == 0:
        raise NotVisible
    return result


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    each: object = error
    while isinstance(each, BaseException) and each not in seen:
        yield each
        seen.append(each)
        inner = getattr(each, "orig", None)
        each = inner if isinstance(inner, BaseException) else each.__cause__


# --- what PostgreSQL says ------------------------------------------------------------------------------------------

# Its messages are translated, so the kind is told by the function of the server that refused. The names stand in the message alone; where they
# cannot be made out, there are none. PostgreSQL 15 and 18 have the same functions, which a test on both notices.
_PRIVILEGE = {"aclcheck_error", "nextval_internal", "currval_oid", "do_setval"}

# Of the innermost line of the context, which is translated around it.
_GUARD = re.compile(r"(?<![\w$.])rlskit\.refuse_columns\(\)", re.ASCII)

_ROW = re.compile(
    r'(?P<row>new|target) row violates row-level security policy(?: ".*?")?(?P<using> \(USING expression\))? for table "(?P<table>.*)"',
    re.DOTALL,
)
_QUOTE = re.compile('["«»]')
_TABLE = re.compile(r"permission denied for (?:table|view|materialized view|foreign table) (?P<table>.*)", re.DOTALL)
_COLUMNS = re.compile(r"permission denied to \w+ columns (?P<names>.*) of (?:this|a new) row in table ", re.DOTALL)


def _read(said: Diagnostic) -> Denial | None:
    message = said.message_primary or ""
    if said.source_function == "ExecWithCheckOptions":
        return _row(message, said)
    if said.source_function in _PRIVILEGE:
        return _privilege(message, said)
    if said.source_function == "exec_stmt_raise" and _GUARD.search((said.context or "").partition("\n")[0]):
        return _columns(message, said)
    return None


def _row(message: str, said: Diagnostic) -> RowDenied:
    if found := _ROW.fullmatch(message):
        # With USING it was a stored row: of an upsert, or of a MERGE (target), which may delete. Without, INSERT and UPDATE say the same.
        stored = bool(found["using"])
        return RowDenied(
            message,
            hint=f"{_NOT_THE_CALLERS}: the row that is stored already is not the caller's to change"
            if stored
            else f"{_NOT_THE_CALLERS}: leave the owner column to its default, or to whom it names",
            table=found["table"],
            operation="update" if stored and found["row"] == "new" else None,
            diag=said,
        )
    parts = _QUOTE.split(message)
    return RowDenied(
        message,
        hint=_NOT_THE_CALLERS,
        table=parts[1].strip() if len(parts) == 3 else None,  # of a single name it is clear what it names
        diag=said,
    )


def _privilege(message: str, said: Diagnostic) -> TableDenied:
    if found := _TABLE.fullmatch(message):
        return TableDenied(
            message,
            hint="name columns that the rules give, since `*` is every column; or let a rule give the operation",
            table=found["table"],
            diag=said,
        )
    return TableDenied(message, hint=_NO_PRIVILEGE, diag=said)


def _columns(message: str, said: Diagnostic) -> ColumnDenied:
    several = _COLUMNS.match(message)
    columns = [said.column_name] if said.column_name else several["names"].split(", ") if several else []
    return ColumnDenied(
        message,
        hint=f"{_NOT_THE_CALLERS}: leave {'these columns' if len(columns) > 1 else 'this column'} out of the statement",
        table=said.table_name,
        operation="create" if message.startswith("permission denied to set ") else "update",
        columns=columns,
        diag=said,
    )
