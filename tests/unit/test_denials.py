"""What PostgreSQL says of a refusal, read in every language that it speaks, and without a value of a row."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from psycopg.pq import DiagnosticField

from rlskit import ColumnDenied, RowDenied, TableDenied, denial
from rlskit.denials import Denial, Denied
from rlskit.errors import RlskitError

ROW, PRIVILEGE, RAISE = "ExecWithCheckOptions", "aclcheck_error", "exec_stmt_raise"
GUARD = "PL/pgSQL function rlskit.refuse_columns() line 37 at RAISE"
SECRET = "SECRET-value"


def said(message: str, function: str | None, **fields: str) -> InsufficientPrivilege:
    """The driver's exception, as it makes one of a server's report."""
    fields = {"sqlstate": "42501", "severity": "ERROR", "message_primary": message, **fields}
    if function is not None:
        fields["source_function"] = function
    info: dict[int, bytes | None] = {DiagnosticField[name.upper()]: text.encode() for name, text in fields.items()}
    return InsufficientPrivilege(message, info=info)


def read(error: BaseException) -> Denial:
    found = denial(error)
    assert found is not None
    return found


# --- a row -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "table", "operation"),
    [
        ('new row violates row-level security policy for table "todo"', "todo", None),
        ('new row violates row-level security policy (USING expression) for table "todo"', "todo", "update"),
        ('target row violates row-level security policy (USING expression) for table "todo"', "todo", None),
        ('new row violates row-level security policy "own" for table "todo"', "todo", None),
        ('new row violates row-level security policy "own" (USING expression) for table "todo"', "todo", "update"),
        ('new row violates row-level security policy for table "Odd " na"me"', 'Odd " na"me', None),
        ('new row violates row-level security policy for table "«» (USING expression)"', "«» (USING expression)", None),
        ('new row violates row-level security policy for table "a\nb"', "a\nb", None),
        ("nothing that anybody has ever read", None, None),
        ("", None, None),
    ],
)
def test_a_row(message: str, table: str | None, operation: str | None) -> None:
    error = read(said(message, ROW))

    assert (type(error), error.table, error.operation, error.columns) == (RowDenied, table, operation, ())
    assert error.message == message


# From the catalogues of PostgreSQL 15.
TRANSLATED = [
    "neue Zeile verletzt Policy für Sicherheit auf Zeilenebene für Tabelle »{}«",
    "Zielzeile verletzt Policy für Sicherheit auf Zeilenebene (USING-Ausdruck) für Tabelle »{}«",
    "el nuevo registro viola la política de seguridad de registros (expresión USING) para la tabla «{}»",
    "la nouvelle ligne viole la politique de sécurité au niveau ligne pour la table «\xa0{}\xa0»",
    'la nuova riga viola la regola di sicurezza per riga per la tabella "{}"',
    '新しい行はテーブル"{}"の行レベルセキュリティポリシに違反しています',
    'ახალი მწკრივი ცხრილისთვის "{}" მწკრივის-დონის უსაფრთხოების პოლიტიკა არღვევს',
    '새 자료가 "{}" 테이블의 로우 단위 보안 정책(USING 절 사용)을 위반했습니다.',
    'новая строка нарушает политику защиты на уровне строк для таблицы "{}"',
    'ny rad bryter mot radsäkerhetspolicy (USING-uttryck) i tabell "{}"',
    'новий рядок порушує політику захисту на рівні рядків для таблиці "{}"',
    '新行违背了表"{}"的行级安全策略',
]
TRANSLATED_WITH_A_POLICY = [
    "neue Zeile verletzt Policy für Sicherheit auf Zeilenebene »own« für Tabelle »todo«",
    '新しい行はテーブル"todo"行レベルセキュリティポリシ"own"に違反しています',
    '新行违背了表"own"的行级安全策略"todo"（USING expression）',  # its two names have changed places
]


@pytest.mark.parametrize("message", TRANSLATED)
@pytest.mark.parametrize("table", ["todo", "日本 todo"])
def test_a_row_in_another_language(message: str, table: str) -> None:
    error = read(said(message.format(table), ROW))

    assert (type(error), error.table, error.operation) == (RowDenied, table, None)


@pytest.mark.parametrize("message", TRANSLATED_WITH_A_POLICY)
def test_which_of_two_names_is_the_tables_is_not_guessed(message: str) -> None:
    error = read(said(message, ROW))

    assert (type(error), error.table) == (RowDenied, None)


# --- a privilege -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "table"),
    [
        ("permission denied for table todo", "todo"),
        ('permission denied for table Odd " na"me', 'Odd " na"me'),
        ("permission denied for view mine", "mine"),
        ("permission denied for materialized view mine", "mine"),
        ("permission denied for foreign table far", "far"),
        ("permission denied for schema hidden", None),
        ("permission denied for function f", None),
        ("permission denied for type mood", None),
        ("must be owner of table todo", None),
        ("keine Berechtigung für Tabelle todo", None),
        ("テーブル todo へのアクセスが拒否されました", None),
    ],
)
def test_a_privilege(message: str, table: str | None) -> None:
    error = read(said(message, PRIVILEGE))

    assert (type(error), error.table, error.operation, error.columns) == (TableDenied, table, None, ())


@pytest.mark.parametrize("function", ["nextval_internal", "currval_oid", "do_setval"])
def test_a_sequence(function: str) -> None:
    error = read(said("permission denied for sequence todo_id_seq", function))

    assert (type(error), error.table) == (TableDenied, None)


# --- a column of this row --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "column", "operation", "columns"),
    [
        ("permission denied to update column title of this row in table item", "title", "update", ("title",)),
        ("permission denied to set column a, b of a new row in table item", "a, b", "create", ("a, b",)),
        ("permission denied to set columns price, title of a new row in table item", "", "create", ("price", "title")),
        (
            "permission denied to update columns price, title of this row in table item",
            "",
            "update",
            ("price", "title"),
        ),
        ("permission denied to update a column of this row in table item", "", "update", ()),
    ],
)
def test_columns_of_a_row(message: str, column: str, operation: str, columns: tuple[str, ...]) -> None:
    fields = {"schema_name": "app", "table_name": "item", "column_name": column, "context": GUARD}
    error = read(said(message, RAISE, **fields))

    assert (type(error), error.table, error.operation, error.columns) == (ColumnDenied, "item", operation, columns)
    assert error.diag.schema_name == "app"


@pytest.mark.parametrize(
    "context",
    [
        "PL/pgSQL-Funktion rlskit.refuse_columns() Zeile 37 bei RAISE",
        "PL/pgSQL関数rlskit.refuse_columns()の37行目 - RAISE",
        'PL/pgSQL 함수 "rlskit.refuse_columns()" 의 37번째 RAISE',
        "在RAISE的第37行的PL/pgSQL函数rlskit.refuse_columns()",
        GUARD
        + '\nSQL statement "update item set title = 1"\nPL/pgSQL function inline_code_block line 1 at SQL statement',
    ],
)
def test_the_guard_is_known_in_every_language(context: str) -> None:
    message = "permission denied to update column title of this row in table item"

    assert type(denial(said(message, RAISE, context=context, table_name="item", column_name="title"))) is ColumnDenied


@pytest.mark.parametrize(
    "context",
    [
        "PL/pgSQL function app.refuse_columns() line 37 at RAISE",
        "PL/pgSQL function my_rlskit.refuse_columns() line 37 at RAISE",
        "PL/pgSQL function x() line 1 at RAISE\n" + GUARD,
        "",
    ],
)
def test_what_another_function_raises_is_its_own(context: str) -> None:
    message = "permission denied to update column title of this row in table item"

    assert denial(said(message, RAISE, context=context, table_name="item", column_name="title")) is None


# --- anything else ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        said('permission denied to set role "postgres"', "call_string_check_hook"),
        said('query would be affected by row-level security policy for table "todo"', "check_enable_rls"),
        said("permission denied for table todo", None),
        InsufficientPrivilege("of one's own"),
        psycopg.errors.CheckViolation("new row", info={DiagnosticField.SOURCE_FUNCTION: b"ExecWithCheckOptions"}),
        psycopg.OperationalError("the connection is gone"),
        ZeroDivisionError(),
        KeyboardInterrupt(),
    ],
)
def test_anything_else_is_none(error: BaseException) -> None:
    assert denial(error) is None


# --- wrappers --------------------------------------------------------------------------------------------------------


class WrapperError(Exception):
    """As SQLAlchemy's DBAPIError."""

    def __init__(self, orig: object) -> None:
        self.orig = orig


def caused(by: BaseException) -> Exception:
    error = RuntimeError("of the application")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "wrap", [WrapperError, caused, lambda error: caused(WrapperError(error)), lambda error: WrapperError(caused(error))]
)
def test_a_wrapper_is_looked_into(wrap: Callable[[BaseException], BaseException]) -> None:
    driver = said("permission denied for table todo", PRIVILEGE)
    error = read(wrap(driver))

    assert type(error) is TableDenied
    assert error.__cause__ is driver
    assert denial(wrap(error)) is error


def test_what_only_happened_before_is_no_cause() -> None:
    error = ZeroDivisionError()
    error.__context__ = said("permission denied for table todo", PRIVILEGE)

    assert denial(error) is None


def test_a_circle_has_an_end() -> None:
    first, second = RuntimeError(), WrapperError("no exception")
    first.__cause__, second.__cause__ = second, first

    assert denial(first) is None


def test_what_is_typed_is_returned_as_it_is() -> None:
    error = read(said("permission denied for table todo", PRIVILEGE))

    assert denial(error) is error


# --- what they are ---------------------------------------------------------------------------------------------------

KINDS: list[type[Any]] = [RowDenied, ColumnDenied, TableDenied]


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_ours_and_the_drivers(kind: type[Denied]) -> None:
    assert issubclass(kind, (RlskitError, InsufficientPrivilege))
    assert issubclass(kind, RlskitError)
    assert (kind.sqlstate, psycopg.errors.lookup("42501")) == ("42501", InsufficientPrivilege)


@pytest.mark.parametrize("kind", KINDS)
def test_one_may_be_made_by_hand(kind: type[Denied]) -> None:
    error = kind("no way", hint="go back", table="todo", operation="update", columns=["title"])

    assert (str(error), error.table, error.operation, error.columns) == (
        "no way\nhint: go back",
        "todo",
        "update",
        ("title",),
    )
    assert error.diag.sqlstate is None
    assert (kind("no way").table, kind("no way").operation, kind("no way").columns) == (None, None, ())


REFUSED = [
    said('new row violates row-level security policy for table "todo"', ROW),
    said("permission denied for table todo", PRIVILEGE),
    said(
        "permission denied to update column title of this row in table todo",
        RAISE,
        context=GUARD,
        schema_name="public",
        table_name="todo",
        column_name="title",
    ),
]


@pytest.mark.parametrize("error", REFUSED)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_they_come_through_to_another_process(error: InsufficientPrivilege, way: Callable[[Denial], Denial]) -> None:
    before = read(error)
    after = way(before)

    for each in (before, after):
        assert (type(each), str(each), each.hint, each.code) == (type(before), str(before), before.hint, before.code)
        assert (each.table, each.operation, each.columns) == ("todo", before.operation, before.columns)
        assert each.diag.message_primary == error.diag.message_primary
        assert (each.diag.sqlstate, each.diag.source_function) == ("42501", error.diag.source_function)
        assert (each.diag.schema_name, each.diag.column_name) == (error.diag.schema_name, error.diag.column_name)


@pytest.mark.parametrize("error", REFUSED)
def test_they_have_a_way_out_on_one_line(error: InsufficientPrivilege) -> None:
    hint = read(error).hint

    assert hint
    assert (len(hint.splitlines()), hint[-1] in ".!", hint[0].islower()) == (1, False, True)


@pytest.mark.parametrize("error", REFUSED)
def test_they_carry_no_value_of_a_row(error: InsufficientPrivilege) -> None:
    diag = error.diag
    told = said(
        str(diag.message_primary),
        str(diag.source_function),
        message_detail=f"Failing row contains ({SECRET}).",
        context=f"{diag.context}\nSQL statement \"insert into todo values ('{SECRET}')\"",
        internal_query=f"insert into todo values ('{SECRET}')",
        schema_name=diag.schema_name or "",
        table_name=diag.table_name or "",
        column_name=diag.column_name or "",
    )
    found = read(InsufficientPrivilege(f"{diag.message_primary}\nDETAIL: {SECRET}", info=told._info))

    kept = {name: getattr(found.diag, name) for name in dir(found.diag) if not name.startswith("_")}
    for text in (str(found), repr(found), repr(found.args), repr(vars(found)), repr(kept)):
        assert SECRET not in text
    assert SECRET.encode() not in pickle.dumps(found)
    assert found.pgresult is None
    assert SECRET in repr(found.__cause__.args if found.__cause__ else ())  # where it was
