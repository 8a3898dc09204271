"""Three doors to the same rules: a TOML file, a mapping, `module:attribute`; and every mistake with its place."""

from __future__ import annotations

import itertools
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlskit import Open, Rules, TableRules, Unmanaged, allow, load
from rlskit.errors import RuleFileError

EVERY_KEY = """\
role = "app_user"
bypass_role = "support"
schema = "app"
match = ["full", "sub"]

[tables.todo]
allow = [
  { owner = "owner" },
  { owners = "editors", to = ["read", "update"], match = "any" },
  { owner = "author", identity_claim = "email", to = "create" },
]
reassign = "never"

[tables.todo.columns]
owner = { to = ["read", "delete"] }
secret = []
status = [{ owner = "owner" }, { owners = "editors", to = "read" }]

[tables.todo.keep]
"policy auditors" = "the auditors read everything"
"privilege select of reporting" = "nightly reports"
"view app.totals" = "sums of all rows"

[tables."crm.contact"]
match = "full"
allow = { owner = "owner" }

[tables."to.do"]
schema = "old"
allow = [{ owners = "owners" }]

[tables.country]
open = { reason = "reference data" }

[tables.wiki]
open = { reason = "everyone writes it", to = ["update", "read"] }

[tables.audit]
unmanaged = { reason = "the audit trail has policies of its own" }
"""

EVERY_WORD = Rules(
    TableRules(
        "todo",
        allow.owner(),
        allow.owners_defined_in("editors").to("read", "update").match("any"),
        allow.owner_defined_in("author").identity_claim("email").to("create"),
        match=["full", "sub"],
        reassign="never",
        columns={
            "owner": allow.same().to("read", "delete"),
            "secret": [],
            "status": [allow.owner(), allow.owners_defined_in("editors").to("read")],
        },
        keep={
            "policy auditors": "the auditors read everything",
            "privilege select of reporting": "nightly reports",
            "view app.totals": "sums of all rows",
        },
    ),
    TableRules("crm.contact", allow.owner(), match="full"),
    TableRules("to.do", allow.owners_defined_in("owners"), schema="old", match=["full", "sub"]),
    TableRules("country", Open(reason="reference data")),
    TableRules("wiki", Open(reason="everyone writes it", to=("read", "update"))),
    TableRules("audit", Unmanaged(reason="the audit trail has policies of its own")),
    role="app_user",
    bypass_role="support",
    schema="app",
)

MODULE_NUMBERS = itertools.count(1)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a module into the working directory and returns its name, which no other test has."""
    names: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])

    def write(text: str, name: str = "") -> str:
        names.append(name or f"rules_of_test_{next(MODULE_NUMBERS)}")
        path = tmp_path / f"{names[-1].replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return names[-1]

    yield write
    for name in [each for each in sys.modules if each.partition(".")[0] in names]:
        del sys.modules[name]


def written(directory: Path, text: str, name: str = "rlskit.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(source: Any) -> RuleFileError:
    with pytest.raises(RuleFileError) as caught:
        load(source)
    assert type(caught.value) is RuleFileError
    return caught.value


# --- three doors -----------------------------------------------------------------------------------------------------


def test_a_toml_file_is_the_same_as_python(tmp_path: Path) -> None:
    assert load(written(tmp_path, EVERY_KEY)) == EVERY_WORD


def test_the_path_may_be_text(tmp_path: Path) -> None:
    assert load(str(written(tmp_path, EVERY_KEY))) == EVERY_WORD


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    assert load(written(tmp_path, EVERY_KEY, "access:rules.toml")) == EVERY_WORD


def test_a_mapping_is_the_same_as_python() -> None:
    assert load(tomllib.loads(EVERY_KEY)) == EVERY_WORD


def test_a_section_of_pyproject_is_the_same_as_python(tmp_path: Path) -> None:
    section = EVERY_KEY.replace("[tables.", "[tool.rlskit.tables.")
    text = f'[project]\nname = "shop"\n\n[tool.rlskit]\n{section}\n[tool.ruff]\nline-length = 120\n'

    assert load(written(tmp_path, text, "pyproject.toml")) == EVERY_WORD


def test_an_attribute_of_a_module_is_itself(module: Callable[..., str]) -> None:
    text = 'from rlskit import Rules, TableRules, allow\nmine = Rules(TableRules("todo", allow.owner()), role="app_user")\n'
    name = module(text)

    assert load(f"{name}:mine") == Rules(TableRules("todo", allow.owner()), role="app_user")


def test_a_module_may_lie_in_a_package(module: Callable[..., str]) -> None:
    name = module('from rlskit import Rules\nrules = Rules(role="app_user")\n', "package_of_test.access")

    assert load(f"{name}:rules") == Rules(role="app_user")


def test_a_file_may_have_no_tables(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'role = "app_user"\n')) == Rules(role="app_user")


def test_the_files_match_leaves_open_tables_alone() -> None:
    rules = load({"role": "app_user", "match": "full", "tables": {"country": {"open": {"reason": "reference data"}}}})

    assert rules == Rules(TableRules("country", Open(reason="reference data")), role="app_user")


def test_the_files_match_leaves_claims_alone() -> None:
    rules = load(
        {
            "role": "app_user",
            "match": "full",
            "tables": {"todo": {"allow": {"owner": "owner", "identity_claim": "email"}}},
        }
    )

    assert rules == Rules(TableRules("todo", allow.owner().identity_claim("email")), role="app_user")


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        pytest.param({"allow": [{"owner": "owner"}]}, TableRules("todo", allow.owner()), id="owner"),
        pytest.param({"allow": {"owner": "owner"}}, TableRules("todo", allow.owner()), id="one rule without a list"),
        pytest.param({"allow": ({"owner": "owner"},)}, TableRules("todo", allow.owner()), id="a tuple, from Python"),
        pytest.param({"allow": [{"owners": "e"}]}, TableRules("todo", allow.owners_defined_in("e")), id="owners"),
        pytest.param(
            {"allow": [{"owner": "o", "to": "read"}]},
            TableRules("todo", allow.owner_defined_in("o").to("read")),
            id="to a word",
        ),
        pytest.param(
            {"allow": [{"owner": "o", "to": ["read"]}]},
            TableRules("todo", allow.owner_defined_in("o").to("read")),
            id="to a list",
        ),
        pytest.param(
            {"allow": [{"owner": "o", "identity_claim": "sub::username"}]},
            TableRules("todo", allow.owner_defined_in("o")),
            id="sub::username",
        ),
        pytest.param(
            {"allow": [{"owner": "o"}], "match": "any"}, TableRules("todo", allow.owner_defined_in("o")), id="match"
        ),
        pytest.param(
            {"allow": {"owner": "o"}, "columns": {"a": []}},
            TableRules("todo", allow.owner_defined_in("o"), columns={"a": []}),
            id="nobody",
        ),
        pytest.param(
            {"allow": {"owner": "o"}, "columns": {"a": {}}},
            TableRules("todo", allow.owner_defined_in("o"), columns={"a": allow.same()}),
            id="same",
        ),
        pytest.param(
            {"allow": {"owner": "o"}, "columns": {}, "keep": {}},
            TableRules("todo", allow.owner_defined_in("o")),
            id="empty tables",
        ),
        pytest.param(
            {"allow": {"owner": "o"}, "reassign": "plain"},
            TableRules("todo", allow.owner_defined_in("o")),
            id="reassign plain",
        ),
        pytest.param(
            {"open": {"reason": "x", "to": "create"}},
            TableRules("todo", Open(reason="x", to=("create",))),
            id="open to a word",
        ),
        pytest.param(
            {"open": {"reason": "x"}, "keep": {"policy a": "y"}},
            TableRules("todo", Open(reason="x"), keep={"policy a": "y"}),
            id="open and keep",
        ),
    ],
)
def test_a_table_means(body: dict[str, Any], rules: TableRules) -> None:
    assert load({"role": "app", "tables": {"todo": body}}) == Rules(rules, role="app")


# --- files and modules that are not there ----------------------------------------------------------------------------

FILE_OR_MODULE = "name a TOML file or `module:attribute` with --rules"
LOOKED_FOR = "it is looked for in the working directory and where Python finds modules"
WRITE = "write rules = rlskit.Rules(…, role=…) and name it here"


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "rlskit.toml"

    error = refusal(path)

    assert (error.path, error.message, error.hint) == (str(path), f"{path}: there is no such file", FILE_OR_MODULE)


def test_a_missing_file_with_a_colon_in_its_name(tmp_path: Path) -> None:
    path = f"{tmp_path}/a:b.toml"

    assert refusal(path).message == f"{path}: there is no such file"


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == f"{tmp_path}: cannot be read: IsADirectoryError"


@pytest.mark.parametrize("name", ["a\0b.toml", "a\0b"])
def test_a_path_that_no_file_can_have(name: str) -> None:
    assert refusal(name).path == name


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "rlskit.toml"
    path.write_bytes('role = "Zoë"'.encode("latin-1"))

    error = refusal(path)

    assert (error.message, error.hint) == (f"{path}: cannot be read: UnicodeDecodeError", "rule files are UTF-8 text")


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = written(tmp_path, 'role: "app_user"\n')
    with pytest.raises(tomllib.TOMLDecodeError) as reason:
        tomllib.loads(path.read_text())

    error = refusal(path)

    said = str(reason.value)
    assert error.message == f"{path}: is not TOML: {said[0].lower()}{said[1:]}"


def test_a_pyproject_without_the_section(tmp_path: Path) -> None:
    path = written(tmp_path, "[tool.ruff]\nline-length = 120\n", "pyproject.toml")

    error = refusal(path)

    assert (error.message, error.hint) == (
        f"{path}: has no section [tool.rlskit]",
        "add it, or keep the rules in rlskit.toml",
    )


@pytest.mark.parametrize(
    "text",
    [
        "tool = 3",
        'tool = "rlskit"',
        "tool = []",
        "[tool]\nrlskit = 3",
        "[tool]\nrlskit = true",
        "[tool]\nrlskit = []",
        '[tool]\nrlskit = "x"',
    ],
)
def test_a_pyproject_whose_section_is_no_table(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text, "pyproject.toml")

    error = refusal(path)

    assert (error.path, "there is no such key" in error.message, "`role` is missing" in error.message) == (
        str(path),
        False,
        False,
    )


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        pytest.param("no_such_module:rules", "there is no module `no_such_module`", LOOKED_FOR, id="a module"),
        pytest.param("no_such.module:rules", "there is no module `no_such`", LOOKED_FOR, id="a package"),
        pytest.param(
            "email.no_such:rules", "there is no module `email.no_such`", LOOKED_FOR, id="a module of a package"
        ),
        pytest.param(
            "tomllib.no_such.deeper:rules", "there is no module `tomllib.no_such`", LOOKED_FOR, id="a module in between"
        ),
    ],
)
def test_a_missing_module(source: str, message: str, hint: str) -> None:
    error = refusal(source)

    assert (error.path, error.message, error.hint) == (source, f"{source}: {message}", hint)


@pytest.mark.parametrize(
    "source", [":rules", ".relative:rules", "..relative:rules", ":", "no such.:rules", "a..b:rules"]
)
def test_what_can_be_no_module(source: str) -> None:
    assert refusal(source).path == source


@pytest.mark.parametrize(
    ("attribute", "hint"),
    [
        pytest.param("rule", "did you mean `rules`?", id="a slip"),
        pytest.param("xyz", "known: `rules`, `other`", id="another word"),
        pytest.param("", "known: `rules`, `other`", id="nothing"),
        pytest.param("rules.role", "did you mean `rules`?", id="a path"),
    ],
)
def test_a_missing_attribute(module: Callable[..., str], attribute: str, hint: str) -> None:
    name = module("rules = other = None\n_hidden = None\n")

    error = refusal(f"{name}:{attribute}")

    assert (error.message, error.hint) == (f"{name}:{attribute}: module `{name}` has no `{attribute}`", hint)


@pytest.mark.parametrize("value", ["None", "3", "{'role': 'app_user'}", "[]", "lambda: None"])
def test_an_attribute_that_holds_no_rules(module: Callable[..., str], value: str) -> None:
    name = module(f"rules = {value}\n")

    error = refusal(f"{name}:rules")

    assert (error.message, error.hint) == (f"{name}:rules: does not hold `Rules`", WRITE)


def test_a_modules_own_failure_comes_through(module: Callable[..., str]) -> None:
    name = module("raise ZeroDivisionError('its own')\n")

    with pytest.raises(ZeroDivisionError, match=r"^its own$"):
        load(f"{name}:rules")


def test_a_modules_own_missing_import_comes_through(module: Callable[..., str]) -> None:
    name = module("import no_such_dependency\n")

    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_dependency'$"):
        load(f"{name}:rules")


def test_a_modules_own_missing_import_of_a_like_name_comes_through(module: Callable[..., str]) -> None:
    """`shop_rules` is there; `shop`, which it imports, is not."""
    name = module("import shop_of_test\n", "shop_of_test_rules")

    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'shop_of_test'$"):
        load(f"{name}:rules")


def test_a_modules_wrong_rules_come_through(module: Callable[..., str]) -> None:
    name = module("from rlskit import allow\nrules = allow.groups\n")

    with pytest.raises(ValueError, match=r"^`allow\.groups` is not an owner rule"):
        load(f"{name}:rules")


def test_the_working_directory_is_put_on_the_path_once(module: Callable[..., str]) -> None:
    name = module('from rlskit import Rules\nrules = Rules(role="app_user")\n')

    load(f"{name}:rules")
    load(f"{name}:rules")

    assert sys.path.count(str(Path.cwd())) == 1


# --- mistakes, each with its place -----------------------------------------------------------------------------------


def table(**body: Any) -> dict[str, Any]:
    return {"role": "app", "tables": {"todo": body}}


def rule(**keys: Any) -> dict[str, Any]:
    return table(allow=[keys])


def with_columns(rules: Any) -> dict[str, Any]:
    return table(allow=[{"owner": "owner"}], columns=rules)


FILE_KEYS = "known: `role`, `bypass_role`, `schema`, `mode`, `match`, `tables`"
TABLE_KEYS = "known: `allow`, `columns`, `match`, `schema`, `reassign`, `keep`, `open`, `unmanaged`"
RULE_KEYS = "known: `owner`, `owners`, `to`, `identity_claim`, `match`"
SAY_ROLE = 'say whom policies and privileges are given to: role = "app_user"'
EXACTLY_ONE = 'for example allow = [{ owner = "owner" }]'
NOT_EMPTY = "a name is not empty and holds no NUL"
REASON = 'say why, for the next reader: reason="reference data"'
READ_TOO = "add read: PostgreSQL cannot find the row that it may not read"
NO_OPERATION = "leave `to` out for every operation; in a column's rules an empty list means nobody"
WITHOUT_FULL = "`match` without `full` would not match what the default writes"
ADD_FULL = 'add `full`; for the sub alone or the username alone write `identity_claim("sub")`'
QUOTED = 'a table whose name holds a dot is quoted: [tables."app.todo"]'

# id, source, table, key, text, hint
MISTAKES: list[tuple[str, dict[str, Any], str | None, str | None, str, str]] = [
    # the file
    ("no role", {}, None, None, "`role` is missing", SAY_ROLE),
    ("no role, but tables", {"tables": {}}, None, None, "`role` is missing", SAY_ROLE),
    ("a slip in a key of the file", {"rol": "app"}, None, "rol", "there is no such key", "did you mean `role`?"),
    ("an unknown key of the file", {"xyz": 1, "role": "app"}, None, "xyz", "there is no such key", FILE_KEYS),
    (
        "a mode that there is not",
        {"role": "app", "mode": "sign"},
        None,
        "mode",
        "`mode` is `sign`",
        "did you mean `signed`?",
    ),
    ("the role is a number", {"role": 1}, None, "role", "must be text, got `1`", "put it in quotes"),
    ("the role is a list", {"role": ["app"]}, None, "role", "must be text, got `['app']`", "put it in quotes"),
    ("the role is empty", {"role": ""}, None, "role", "`''` cannot be the name of a role", NOT_EMPTY),
    (
        "the role is PUBLIC",
        {"role": "PUBLIC"},
        None,
        "role",
        "`PUBLIC` cannot be the application's role",
        "create a role of its own, without SUPERUSER and BYPASSRLS",
    ),
    (
        "bypass_role is a truth value",
        {"role": "app", "bypass_role": True},
        None,
        "bypass_role",
        "must be text, got `True`",
        "put it in quotes",
    ),
    (
        "bypass_role is empty",
        {"role": "app", "bypass_role": ""},
        None,
        "bypass_role",
        "`''` cannot be the name of a role",
        NOT_EMPTY,
    ),
    (
        "bypass_role is the role",
        {"role": "app", "bypass_role": "app"},
        None,
        "bypass_role",
        "`role` and `bypass_role` are the same role",
        "rules bind the one and not the other",
    ),
    (
        "the schema is a number",
        {"role": "app", "schema": 1.5},
        None,
        "schema",
        "must be text, got `1.5`",
        "put it in quotes",
    ),
    (
        "the schema is empty",
        {"role": "app", "schema": ""},
        None,
        "schema",
        "`''` cannot be the name of a schema",
        NOT_EMPTY,
    ),
    (
        "tables is a list",
        {"role": "app", "tables": []},
        None,
        "tables",
        "must be a table of keys, got `[]`",
        "write { key = value } or a [section]",
    ),
    (
        "tables is text",
        {"role": "app", "tables": "todo"},
        None,
        "tables",
        "must be a table of keys, got `'todo'`",
        "write { key = value } or a [section]",
    ),
    (
        "the file's match is a number",
        {"role": "app", "match": 3},
        None,
        "match",
        "`3` is no spelling of an owner",
        "known: `any`, `full`, `sub`, `username`",
    ),
    (
        "a slip in the file's match",
        {"role": "app", "match": "fulll"},
        None,
        "match",
        "`fulll` is no spelling of an owner",
        "did you mean `full`?",
    ),
    ("the file's match without full", {"role": "app", "match": ["sub"]}, None, "match", WITHOUT_FULL, ADD_FULL),
    ("the file's match is empty", {"role": "app", "match": []}, None, "match", WITHOUT_FULL, ADD_FULL),
    # a table
    ("a slip in a key of a table", table(alow=[]), "todo", "alow", "there is no such key", "did you mean `allow`?"),
    ("an unknown key of a table", table(xyz=1), "todo", "xyz", "there is no such key", TABLE_KEYS),
    (
        "a table without rules",
        table(),
        "todo",
        None,
        "a table has exactly one of `allow`, `open`, `unmanaged`; here is none of them",
        EXACTLY_ONE,
    ),
    (
        "a table with two kinds of rules",
        table(unmanaged={"reason": "x"}, allow=[]),
        "todo",
        None,
        "a table has exactly one of `allow`, `open`, `unmanaged`; here is `allow` and `unmanaged`",
        EXACTLY_ONE,
    ),
    (
        "an empty list of rules",
        table(allow=[]),
        "todo",
        None,
        "table `todo` has no rule, so nobody could reach it",
        "give it a rule, `Open(reason=…)` or `Unmanaged(reason=…)`",
    ),
    (
        "allow is text",
        table(allow="owner"),
        "todo",
        "allow",
        "must be a list of rules",
        'for example [{ owner = "owner" }]',
    ),
    (
        "allow is a number",
        table(allow=1),
        "todo",
        "allow",
        "must be a list of rules",
        'for example [{ owner = "owner" }]',
    ),
    (
        "the same rule twice",
        table(allow=[{"owner": "owner"}, {"owner": "owner", "to": "read"}]),
        "todo",
        None,
        'table `todo` has the same rule twice: `allow.owner().to("read")`',
        "join them: one rule with all its operations",
    ),
    (
        "same on a table",
        table(allow=[{"to": "read"}]),
        "todo",
        None,
        "table `todo`: `allow.same()` says nothing on a table",
        "it belongs in a column's rules",
    ),
    (
        "update without read",
        rule(owner="o", to="update"),
        "todo",
        None,
        'table `todo`: `allow.owner_defined_in("o").to("update")` has update without read',
        READ_TOO,
    ),
    (
        "match on an open table",
        table(open={"reason": "x"}, match="full"),
        "todo",
        None,
        "table `todo` is open to read: x; it takes neither column rules nor `match`",
        "give the table owner rules, or leave them out",
    ),
    (
        "a table's match is a number",
        table(allow=[{"owner": "o"}], match=3),
        "todo",
        "match",
        "`3` is no spelling of an owner",
        "known: `any`, `full`, `sub`, `username`",
    ),
    (
        "a table's match without full",
        table(allow=[{"owner": "o"}], match="username"),
        "todo",
        "match",
        WITHOUT_FULL,
        ADD_FULL,
    ),
    (
        "a table's schema is a number",
        table(allow=[{"owner": "o"}], schema=1),
        "todo",
        "schema",
        "must be text, got `1`",
        "put it in quotes",
    ),
    (
        "a table's schema is empty",
        table(allow=[{"owner": "o"}], schema=""),
        "todo",
        "schema",
        "`''` cannot be the name of a schema",
        NOT_EMPTY,
    ),
    (
        "a slip in reassign",
        table(allow=[{"owner": "o"}], reassign="nevr"),
        "todo",
        "reassign",
        "table `todo`: `nevr` is no way to reassign",
        "did you mean `never`?",
    ),
    (
        "reassign is a truth value",
        table(allow=[{"owner": "o"}], reassign=False),
        "todo",
        "reassign",
        "table `todo`: `False` is no way to reassign",
        "known: `plain`, `explicit`, `never`",
    ),
    (
        "keep what",
        table(allow=[{"owner": "o"}], keep={"auditors": "x"}),
        "todo",
        "keep",
        "table `todo`: `keep` does not know `auditors`",
        "write `policy NAME`, `privilege select of ROLE` or `view SCHEMA.NAME`",
    ),
    (
        "keep without a reason",
        table(allow=[{"owner": "o"}], keep={"policy a": ""}),
        "todo",
        "keep",
        "keep of `policy a` needs a reason in words",
        REASON,
    ),
    (
        "keep with a number as reason",
        table(allow=[{"owner": "o"}], keep={"policy a": 1}),
        "todo",
        "keep",
        "keep of `policy a` needs a reason in words",
        REASON,
    ),
    (
        "a table's name is empty",
        {"role": "app", "tables": {"": {"allow": {"owner": "o"}}}},
        "",
        None,
        "`''` cannot be the name of a table",
        NOT_EMPTY,
    ),
    (
        "a table's name has two dots",
        {"role": "app", "tables": {"a.b.c": {"allow": {"owner": "o"}}}},
        "a.b.c",
        None,
        "`a.b.c` has more than one dot",
        "give the schema apart, and the table's bare name",
    ),
    (
        "a table twice",
        {"role": "app", "tables": {"todo": {"allow": {"owner": "o"}}, "public.todo": {"allow": {"owner": "o"}}}},
        None,
        None,
        "table `public.todo` has rules twice",
        "one `TableRules` holds all rules of a table",
    ),
    # a rule
    (
        "a slip in a key of a rule",
        rule(ownr="owner"),
        "todo",
        "allow[0].ownr",
        "there is no such key",
        "did you mean `owner`?",
    ),
    ("an unknown key of a rule", rule(xyz=1), "todo", "allow[0].xyz", "there is no such key", RULE_KEYS),
    (
        "Amplify's name of a key",
        rule(owner="o", identityClaim="email"),
        "todo",
        "allow[0].identityClaim",
        "there is no such key",
        "did you mean `identity_claim`?",
    ),
    (
        "a mistake in the second rule",
        table(allow=[{"owner": "o"}, {"owners": "e", "too": []}]),
        "todo",
        "allow[1].too",
        "there is no such key",
        "did you mean `to`?",
    ),
    (
        "owner and owners",
        rule(owner="o", owners="e"),
        "todo",
        "allow[0]",
        "names both `owner` and `owners`",
        "write two rules",
    ),
    (
        "owner is a number",
        rule(owner=1),
        "todo",
        "allow[0]",
        "the name of a column must be text, got `1`",
        "put it in quotes",
    ),
    (
        "owner is a list",
        rule(owner=["a"]),
        "todo",
        "allow[0]",
        "the name of a column must be text, got `['a']`",
        "put it in quotes",
    ),
    (
        "owners is a truth value",
        rule(owners=True),
        "todo",
        "allow[0]",
        "the name of a column must be text, got `True`",
        "put it in quotes",
    ),
    ("owner is empty", rule(owner=""), "todo", "allow[0]", "`''` cannot be the name of a column", NOT_EMPTY),
    ("to is empty", rule(owner="o", to=[]), "todo", "allow[0]", "`to` names no operation", NO_OPERATION),
    (
        "to is a number",
        rule(owner="o", to=3),
        "todo",
        "allow[0]",
        "`3` is no operation",
        "known: `create`, `read`, `update`, `delete`; the role stands in `Rules(role=…)`",
    ),
    (
        "a guessed operation",
        rule(owner="o", to=["select"]),
        "todo",
        "allow[0]",
        "`select` is no operation",
        "did you mean `read`?",
    ),
    (
        "an operation in a list in a list",
        rule(owner="o", to=[["read"]]),
        "todo",
        "allow[0]",
        "`['read']` is no operation",
        "did you mean `read`?",
    ),
    (
        "a part of read",
        rule(owner="o", to="list"),
        "todo",
        "allow[0]",
        "`list` alone cannot be told apart by PostgreSQL",
        "`read` covers get, list, sync, listen and search",
    ),
    (
        "an operation twice",
        rule(owner="o", to=["read", "read"]),
        "todo",
        "allow[0]",
        "`to` names an operation twice: read, read",
        "name each once",
    ),
    (
        "a claim is a number",
        rule(owner="o", identity_claim=1),
        "todo",
        "allow[0]",
        "`1` cannot be the name of a claim",
        "a claim is named by text that is not empty",
    ),
    (
        "joined claims",
        rule(owner="o", identity_claim="a::b"),
        "todo",
        "allow[0]",
        "joined claims such as `a::b` are not compared part by part",
        "put the joined value into one claim and name that claim",
    ),
    (
        "match and a claim",
        rule(owner="o", identity_claim="email", match="full"),
        "todo",
        "allow[0]",
        "`match` and `identity_claim` cannot stand on one rule",
        "a claim is one value and has no other spellings: keep one of the two",
    ),
    (
        "a rule's match is a number",
        rule(owner="o", match=3),
        "todo",
        "allow[0]",
        "`3` is no spelling of an owner",
        "known: `any`, `full`, `sub`, `username`",
    ),
    ("a rule's match without full", rule(owner="o", match=["sub"]), "todo", "allow[0]", WITHOUT_FULL, ADD_FULL),
    (
        "same with a claim",
        with_columns({"title": {"identity_claim": "email"}}),
        "todo",
        "columns.title[0]",
        "`allow.same()` takes the claims of the table's rules",
        "name the owner column to choose a claim",
    ),
    # a column
    (
        "a column's rules are text",
        with_columns({"title": "owner"}),
        "todo",
        "columns.title",
        "must be a list of rules",
        'for example [{ owner = "owner" }]',
    ),
    (
        "a column's rules are a number",
        with_columns({"title": 0}),
        "todo",
        "columns.title",
        "must be a list of rules",
        'for example [{ owner = "owner" }]',
    ),
    (
        "a slip in a column's rule",
        with_columns({"title": [{"ownr": "o"}]}),
        "todo",
        "columns.title[0].ownr",
        "there is no such key",
        "did you mean `owner`?",
    ),
    (
        "a wrong operation in a column",
        with_columns({"title": [{}, {"to": "reed"}]}),
        "todo",
        "columns.title[1]",
        "`reed` is no operation",
        "did you mean `read`?",
    ),
    (
        "a column's same rule twice",
        with_columns({"title": [{}, {"to": "read"}]}),
        "todo",
        None,
        'table `todo`, column `title` has the same rule twice: `allow.same().to("read")`',
        "join them: one rule with all its operations",
    ),
    (
        "a column's name is empty",
        with_columns({"": []}),
        "todo",
        None,
        "`''` cannot be the name of a column",
        NOT_EMPTY,
    ),
    # open and unmanaged
    (
        "a slip in a key of open",
        table(open={"reasn": "x"}),
        "todo",
        "open.reasn",
        "there is no such key",
        "did you mean `reason`?",
    ),
    (
        "unmanaged has no to",
        table(unmanaged={"reason": "x", "to": ["read"]}),
        "todo",
        "unmanaged.to",
        "there is no such key",
        "known: `reason`",
    ),
    ("open without a reason", table(open={}), "todo", "open", "Open needs a reason in words", REASON),
    ("open with a number as reason", table(open={"reason": 1}), "todo", "open", "Open needs a reason in words", REASON),
    (
        "unmanaged with an empty reason",
        table(unmanaged={"reason": " "}),
        "todo",
        "unmanaged",
        "Unmanaged needs a reason in words",
        REASON,
    ),
    ("open to nobody", table(open={"reason": "x", "to": []}), "todo", "open", "`to` names no operation", NO_OPERATION),
    (
        "open to a guessed operation",
        table(open={"reason": "x", "to": "select"}),
        "todo",
        "open",
        "`select` is no operation",
        "did you mean `read`?",
    ),
    (
        "open to a list in a list",
        table(open={"reason": "x", "to": [["read"]]}),
        "todo",
        "open",
        "`['read']` is no operation",
        "did you mean `read`?",
    ),
]


@pytest.mark.parametrize(
    ("source", "table", "key", "text", "hint"), [pytest.param(*each[1:], id=each[0]) for each in MISTAKES]
)
def test_a_mistake_is_told_with_its_place(
    source: dict[str, Any], table: str | None, key: str | None, text: str, hint: str
) -> None:
    error = refusal(source)

    assert (error.path, error.table, error.key, error.args[0], error.hint) == ("the mapping", table, key, text, hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("rol = 1", "rol: there is no such key\nhint: did you mean `role`?", id="the file"),
        pytest.param(
            'role = "app"\n[tables.todo]\nalow = []',
            "tables.todo.alow: there is no such key\nhint: did you mean `allow`?",
            id="a table",
        ),
        pytest.param(
            'role = "app"\n[tables."app.todo"]\nallow = [{ ownr = "owner" }]',
            "tables.app.todo.allow[0].ownr: there is no such key\nhint: did you mean `owner`?",
            id="a rule",
        ),
        pytest.param(
            'role = "app"\n[tables.todo]\nallow = { owner = "owner" }\ncolumns.title = [{ to = "reed" }]',
            "tables.todo.columns.title[0]: `reed` is no operation\nhint: did you mean `read`?",
            id="a column's rule",
        ),
        pytest.param(
            'role = "app"\n[tables.todo.open]\nto = ["read"]',
            f"tables.todo.open: Open needs a reason in words\nhint: {REASON}",
            id="open",
        ),
    ],
)
def test_a_mistake_in_a_file_reads(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)

    assert str(refusal(path)) == f"{path}: {message}"


# --- a table with a dot in its name, and values of another type ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param('[tables.app.todo]\nallow = [{ owner = "owner" }]', "todo", id="a table"),
        pytest.param('[tables.app.todo]\nopen = { reason = "x" }', "todo", id="an open table"),
        pytest.param("[tables]\napp.todo.allow = []", "todo", id="dotted keys"),
        pytest.param("[tables.app.todo]", "todo", id="an empty table"),
    ],
)
def test_a_dotted_table_is_quoted(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, f'role = "app"\n{text}\n')

    error = refusal(path)

    assert (error.table, error.key, error.hint) == ("app", key, QUOTED)


NO_TABLES_OF_KEYS = [
    pytest.param(table(allow=[3]), "allow[0]", "3", id="a rule is a number"),
    pytest.param(table(allow=["owner"]), "allow[0]", "'owner'", id="a rule is text"),
    pytest.param(table(allow=[{"owner": "o"}, []]), "allow[1]", "[]", id="a rule is a list"),
    pytest.param(with_columns([]), "columns", "[]", id="columns is a list"),
    pytest.param(with_columns("title"), "columns", "'title'", id="columns is text"),
    pytest.param(with_columns(1), "columns", "1", id="columns is a number"),
    pytest.param(with_columns({"title": [1]}), "columns.title[0]", "1", id="a column's rule is a number"),
    pytest.param(with_columns({"title": ["owner"]}), "columns.title[0]", "'owner'", id="a column's rule is text"),
    pytest.param(table(open=True), "open", "True", id="open is a truth value"),
    pytest.param(table(open="reference data"), "open", "'reference data'", id="open is text"),
    pytest.param(table(unmanaged=[]), "unmanaged", "[]", id="unmanaged is a list"),
    pytest.param(table(allow=[{"owner": "o"}], keep=["policy a"]), "keep", "['policy a']", id="keep is a list"),
]


@pytest.mark.parametrize(("source", "key", "value"), NO_TABLES_OF_KEYS)
def test_what_is_no_table_of_keys_is_refused(source: dict[str, Any], key: str, value: str) -> None:
    error = refusal(source)

    assert (error.table, error.key, error.args[0]) == ("todo", key, f"must be a table of keys, got `{value}`")


@pytest.mark.parametrize(("source", "key", "value"), NO_TABLES_OF_KEYS)
def test_dots_are_spoken_of_only_where_there_are_some(source: dict[str, Any], key: str, value: str) -> None:
    assert refusal(source).hint != QUOTED


@pytest.mark.parametrize("body", [3, "owner", [], True], ids=repr)
def test_a_table_that_is_no_table_is_refused(body: object) -> None:
    error = refusal({"role": "app", "tables": {"todo": body}})

    assert (error.table, error.key, error.args[0]) == ("todo", None, f"must be a table of keys, got `{body!r}`")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(rule(owner="o", to={"read": False}), id="to"),
        pytest.param(rule(owner="o", match={"full": False}), id="a rule's match"),
        pytest.param(table(allow={"owner": "o"}, match={"full": False}), id="a table's match"),
        pytest.param(table(open={"reason": "x", "to": {"update": False}}), id="open to"),
        pytest.param({"role": "app", "match": {"full": False}}, id="the file's match"),
    ],
)
def test_a_table_is_no_list(source: dict[str, Any]) -> None:
    """`to = { read = false }` must not count as `to = ["read"]`."""
    assert refusal(source).path == "the mapping"


@pytest.mark.parametrize("key", [3, None, ("a",)], ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda key: {key: 1, "role": "app"}, id="the file"),
        pytest.param(lambda key: {"role": "app", "tables": {key: {"allow": {"owner": "o"}}}}, id="tables"),
        pytest.param(lambda key: table(allow={"owner": "o"}, columns={key: []}), id="columns"),
        pytest.param(lambda key: table(allow={"owner": "o"}, columns={key: [], "a": []}), id="columns, beside another"),
        pytest.param(lambda key: table(allow={"owner": "o"}, keep={key: "x"}), id="keep"),
        pytest.param(lambda key: table(allow=[{key: "o"}]), id="a rule"),
    ],
)
def test_a_key_that_is_no_text_is_refused(place: Callable[[object], dict[Any, Any]], key: object) -> None:
    """TOML has none, but a mapping may."""
    assert refusal(place(key)).path == "the mapping"


# --- whatever stands in a file, it is rules or a RuleFileError -------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.times()
    | st.datetimes()
)
WORDS = st.sampled_from(
    [
        *[
            "owner",
            "owners",
            "read",
            "create",
            "update",
            "delete",
            "list",
            "full",
            "sub",
            "username",
            "any",
            "app.todo",
            "a.b.c",
            "public",
            "email",
            "a::b",
            "sub::username",
            "never",
            "plain",
        ],
        *("policy a", "privilege select of b", "", "x" * 64),
    ]
)
JUNK = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def mostly(sensible: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs here; sometimes anything else."""
    return st.integers(1, 20).flatmap(lambda number: JUNK if number == 13 else sensible)


def keys(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A table of these keys; sometimes with another one, sometimes something else altogether."""
    table = st.fixed_dictionaries(required, optional=optional)
    return mostly(
        table | st.tuples(table, st.dictionaries(WORDS, JUNK, max_size=1)).map(lambda both: both[0] | both[1])
    )


OPERATIONS = mostly(
    st.sampled_from(["read", "create", ["read", "update"], ["read"], ["create", "read", "update", "delete"]])
)
SPELLINGS = mostly(st.sampled_from(["any", "full", ["full", "sub"], ["full", "username", "sub"]]))
CLAIM = mostly(st.just("email"))
COLUMN = mostly(st.sampled_from(["owner", "author"]))
RULE = st.one_of(
    keys({"owner": COLUMN}, {"to": OPERATIONS, "match": SPELLINGS}),
    keys({"owner": COLUMN}, {"to": OPERATIONS, "identity_claim": CLAIM}),
    keys({"owners": mostly(st.just("editors"))}, {"to": OPERATIONS}),
)
COLUMN_RULE = keys({}, {"to": OPERATIONS}) | RULE
WHY = mostly(st.just("reference data"))
KEEP = mostly(st.dictionaries(mostly(st.sampled_from(["policy a", "privilege select of b"])).map(str), WHY, max_size=2))
TABLE = st.one_of(
    keys(
        {"allow": mostly(st.lists(RULE, min_size=1, max_size=2))},
        {
            "columns": keys({}, {"title": mostly(st.lists(COLUMN_RULE, max_size=1)), "owner": COLUMN_RULE}),
            "match": SPELLINGS,
            "reassign": mostly(st.sampled_from(["plain", "never"])),
            "keep": KEEP,
        },
    ),
    keys({"open": keys({"reason": WHY}, {"to": OPERATIONS})}, {"keep": KEEP}),
    keys({"unmanaged": keys({"reason": WHY}, {})}, {"schema": mostly(st.just("crm"))}),
)
FILE = keys(
    {"role": mostly(st.just("app_user"))},
    {
        "bypass_role": mostly(st.just("support")),
        "schema": mostly(st.just("app")),
        "match": SPELLINGS,
        "tables": mostly(
            st.dictionaries(mostly(st.sampled_from(["todo", "app.todo", "crm.contact"])).map(str), TABLE, max_size=2)
        ),
    },
).filter(lambda content: isinstance(content, dict))


@settings(deadline=None, max_examples=500)
@given(content=FILE)
@example(content={"role": "app", "tables": {"todo": {"allow": [{"owner": "owner", "to": [["read"]]}]}}})
def test_whatever_stands_in_a_file_is_rules_or_a_mistake(content: dict[str, Any]) -> None:
    try:
        outcome = str(type(load(content)))
    except RuleFileError as error:
        outcome = str(error)

    assert outcome.startswith(("<class 'rlskit.rules.Rules'>", "the mapping: "))


def test_the_fuzz_reaches_both_ends() -> None:
    """Or else the test above could not fail."""
    seen: set[str] = set()

    @settings(deadline=None, max_examples=500, database=None, derandomize=True)
    @given(content=FILE)
    def run(content: dict[str, Any]) -> None:
        try:
            seen.add("rules" if load(content).tables else "no tables")
        except RuleFileError as error:
            seen.add("a mistake in a table" if error.table else "a mistake in the file")

    run()

    assert seen == {"rules", "no tables", "a mistake in a table", "a mistake in the file"}
