"""The exception tree: drawn in the module's docstring, and the same in its classes."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from rlskit import denials, errors
from rlskit.errors import NotVisible, RlskitError, RuleFileError

# What is the driver's besides stands in a module of its own, and in the same drawing.
CLASSES = cast(
    list[type[RlskitError]],
    [
        each
        for module in (errors, denials)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__ and issubclass(each, Exception)
    ],
)
OURS = {each.__name__ for each in CLASSES}


def made(kind: type[RlskitError], message: str = "no way", hint: str = "") -> RlskitError:
    return RuleFileError(message, hint=hint, path="rlskit.toml") if kind is RuleFileError else kind(message, hint=hint)


def drawn() -> Iterator[tuple[str, str | None, str | None, str]]:
    """The lines of the drawing: name, name of the parent, base that is not ours, code (empty for the root)."""
    above: list[str] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        if found := re.fullmatch(
            r"    (?P<branch>[│├└─ ]*)(?P<name>\w+)(?: \((?P<base>\w+)\))? +(?P<rest>[E.].*)", line
        ):
            depth = len(found["branch"]) // 3
            del above[depth:]
            code = found["rest"][:4] if found["rest"].startswith("E") else ""
            yield found["name"], above[-1] if above else None, found["base"], code
            above.append(found["name"])


def declared() -> Iterator[tuple[str, str | None, str | None, str]]:
    """The same of the classes."""
    for each in CLASSES:
        names = [base.__name__ for base in each.__bases__]
        ours = [name for name in names if name in OURS]
        builtin = [name for name in names if name not in OURS and name != "Exception"]
        code = each.code if each is not RlskitError else ""
        yield each.__name__, ours[0] if ours else None, builtin[0] if builtin else None, code


def test_the_drawing_is_the_tree() -> None:
    drawing = sorted(drawn(), key=lambda line: line[0])

    assert drawing == sorted(declared(), key=lambda line: line[0])


def test_the_drawing_is_in_the_order_of_the_codes() -> None:
    codes = [code for _, _, _, code in drawn()]

    assert codes == sorted(codes)


def test_codes_are_stable() -> None:
    codes = {each.__name__: each.code for each in CLASSES}

    assert codes == {
        "RlskitError": "E000",
        "RuleError": "E100",
        "UnknownColumnError": "E101",
        "UnsupportedRuleError": "E102",
        "RuleFileError": "E103",
        "PlanError": "E200",
        "StalePlanError": "E201",
        "RuntimeVersionError": "E202",
        "ForeignObjectError": "E203",
        "UnfillableError": "E204",
        "IdentityError": "E300",
        "InvalidIdentityError": "E301",
        "MissingIdentityError": "E302",
        "IdentityConflictError": "E303",
        "TransactionInProgressError": "E304",
        "BypassingRoleError": "E305",
        "ServerError": "E400",
        "Denied": "E500",
        "RowDenied": "E501",
        "ColumnDenied": "E502",
        "TableDenied": "E503",
        "NotVisible": "E600",
        "KitError": "E700",
        "SigningKeyError": "E306",
        "BypassError": "E307",
        "OpenCursorError": "E308",
    }


def test_every_class_says_its_own_code() -> None:
    inherited = [each.__name__ for each in CLASSES if "code" not in vars(each)]

    assert inherited == []


def test_no_two_classes_share_a_code() -> None:
    codes = [each.code for each in CLASSES]

    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_hint_stands_on_a_line_of_its_own(kind: type[RlskitError]) -> None:
    error = made(kind, "no way", hint="go back")

    assert str(error) == f"{error.message}\nhint: go back"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_without_a_hint_an_error_is_its_message(kind: type[RlskitError]) -> None:
    error = made(kind, "no way")

    assert (str(error), error.hint) == (error.message, "")


@pytest.mark.parametrize(
    "kind", [each for each in CLASSES if each is not RuleFileError], ids=lambda kind: kind.__name__
)
def test_the_message_is_what_was_said(kind: type[RlskitError]) -> None:
    assert made(kind, "no way", hint="go back").message == "no way"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_comes_through_to_another_process(kind: type[RlskitError]) -> None:
    error = made(kind, "no way", hint="go back")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.hint) == (kind, str(error), "go back")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        pytest.param({}, "rlskit.toml: no way", id="the file"),
        pytest.param({"key": "role"}, "rlskit.toml: role: no way", id="a key of the file"),
        pytest.param({"table": "todo"}, "rlskit.toml: tables.todo: no way", id="a table"),
        pytest.param(
            {"table": "todo", "key": "allow[0].to"},
            "rlskit.toml: tables.todo.allow[0].to: no way",
            id="a key of a table",
        ),
        pytest.param(
            {"table": "app.todo", "key": "match"},
            "rlskit.toml: tables.app.todo.match: no way",
            id="a table with its schema",
        ),
    ],
)
def test_a_rule_file_error_begins_with_its_place(place: dict[str, str], text: str) -> None:
    error = RuleFileError("no way", path="rlskit.toml", hint="go back", **place)

    assert (error.message, str(error)) == (text, f"{text}\nhint: go back")


def test_a_rule_file_error_has_its_place_in_parts() -> None:
    error = RuleFileError("no way", path="rlskit.toml", table="todo", key="allow[0]")

    assert (error.path, error.table, error.key) == ("rlskit.toml", "todo", "allow[0]")


def test_a_rule_file_error_without_table_and_key_says_none() -> None:
    error = RuleFileError("no way", path="rlskit.toml")

    assert (error.table, error.key) == (None, None)


def test_what_the_user_declares_wrongly_is_a_value_error() -> None:
    values = {each.__name__ for each in CLASSES if issubclass(each, ValueError)}

    assert values == {
        "RuleError",
        "UnknownColumnError",
        "UnsupportedRuleError",
        "RuleFileError",
        "InvalidIdentityError",
    }


def test_every_code_has_a_section_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "errors.md").read_text()
    documented = re.findall(r"^## (E\d+) (\w+)$", page, re.MULTILINE)

    assert documented == [(code, name) for name, _, _, code in drawn() if code]


def test_what_is_not_visible_says_so_by_itself() -> None:
    error = NotVisible()

    assert str(error) == (
        "no such row, or none that the caller may reach\n"
        "hint: it is not there, or no rule that names the caller in it allows this: the database does not tell which"
    )
    assert isinstance(error, LookupError)
