"""The vocabulary: what each word means, that rules are values, and every refusal in its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlskit import Open, Rule, Rules, TableRules, Unmanaged, allow
from rlskit.errors import RuleError
from rlskit.names import QualifiedName
from rlskit.vocabulary import OPERATIONS, SPELLINGS

ALL = OPERATIONS


def refusal(declare: Callable[[], object]) -> tuple[str, str]:
    """Message and hint of the RuleError that ends ``declare``."""
    with pytest.raises(RuleError) as caught:
        declare()
    assert type(caught.value) is RuleError
    return caught.value.message, caught.value.hint


def only(rules: TableRules) -> Rule:
    """The one rule of a table."""
    assert isinstance(rules.allow, tuple)
    (rule,) = rules.allow
    return rule


def columns(rules: TableRules) -> dict[str, tuple[Rule, ...]]:
    return dict(rules.columns)


# --- what the words mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "meaning"),
    [
        pytest.param(allow.owner(), ("owner", "owner", ALL, None, None), id="owner"),
        pytest.param(allow.owner_defined_in("author"), ("owner", "author", ALL, None, None), id="owner_defined_in"),
        pytest.param(
            allow.owners_defined_in("editors"), ("owners", "editors", ALL, None, None), id="owners_defined_in"
        ),
        pytest.param(allow.same(), ("same", None, ALL, None, None), id="same"),
        pytest.param(allow.owner().to("read"), ("owner", "owner", ("read",), None, None), id="to one operation"),
        pytest.param(
            allow.owner().to("delete", "read"),
            ("owner", "owner", ("read", "delete"), None, None),
            id="to in a fixed order",
        ),
        pytest.param(
            allow.owner().to(["create", "read"]), ("owner", "owner", ("create", "read"), None, None), id="to a list"
        ),
        pytest.param(
            allow.owner().to(frozenset(["read"])), ("owner", "owner", ("read",), None, None), id="to any iterable"
        ),
        pytest.param(
            allow.owner().to("create", ["read"]), ("owner", "owner", ("create", "read"), None, None), id="to both"
        ),
        pytest.param(allow.owner().to(*ALL), ("owner", "owner", ALL, None, None), id="to all"),
        pytest.param(allow.same().to("read"), ("same", None, ("read",), None, None), id="same to"),
        pytest.param(
            allow.owner().identity_claim("email"), ("owner", "owner", ALL, "email", None), id="identity_claim"
        ),
        pytest.param(allow.owner().identity_claim("sub"), ("owner", "owner", ALL, "sub", None), id="sub is a claim"),
        pytest.param(
            allow.owner().identity_claim("sub::username"),
            ("owner", "owner", ALL, None, None),
            id="sub::username is none",
        ),
        pytest.param(
            allow.owners_defined_in("e").identity_claim("email"),
            ("owners", "e", ALL, "email", None),
            id="owners by a claim",
        ),
        pytest.param(allow.owner().match("full"), ("owner", "owner", ALL, None, ("full",)), id="match"),
        pytest.param(
            allow.owner().match("username", "full"),
            ("owner", "owner", ALL, None, ("full", "username")),
            id="match in a fixed order",
        ),
        pytest.param(
            allow.owner().match(["full", "sub"]), ("owner", "owner", ALL, None, ("full", "sub")), id="match a list"
        ),
        pytest.param(
            allow.owner().match("full", "full"), ("owner", "owner", ALL, None, ("full",)), id="match twice the same"
        ),
        pytest.param(allow.owner().match("any"), ("owner", "owner", ALL, None, SPELLINGS), id="match any"),
        pytest.param(
            allow.owner().match("full", "sub", "username"),
            ("owner", "owner", ALL, None, SPELLINGS),
            id="match all three",
        ),
    ],
)
def test_a_rule_means(rule: Rule, meaning: tuple[object, ...]) -> None:
    assert (rule.strategy, rule.column, rule.operations, rule.claim, rule.spellings) == meaning


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        pytest.param(allow.owner(), "allow.owner()", id="owner"),
        pytest.param(allow.owner_defined_in("owner"), "allow.owner()", id="owner by its long name"),
        pytest.param(allow.owner_defined_in("author"), 'allow.owner_defined_in("author")', id="owner_defined_in"),
        pytest.param(allow.owners_defined_in("owner"), 'allow.owners_defined_in("owner")', id="owners_defined_in"),
        pytest.param(allow.same(), "allow.same()", id="same"),
        pytest.param(allow.owner().to("update", "read"), 'allow.owner().to("read", "update")', id="to"),
        pytest.param(allow.owner().to(*ALL), "allow.owner()", id="to all"),
        pytest.param(allow.same().to("read", "delete"), 'allow.same().to("read", "delete")', id="same to"),
        pytest.param(
            allow.owner().identity_claim("email"), 'allow.owner().identity_claim("email")', id="identity_claim"
        ),
        pytest.param(allow.owner().match("full"), 'allow.owner().match("full")', id="match"),
        pytest.param(allow.owner().match("any"), "allow.owner()", id="match any"),
        pytest.param(
            allow.owners_defined_in("editors").identity_claim("email").to("read"),
            'allow.owners_defined_in("editors").identity_claim("email").to("read")',
            id="all of it",
        ),
    ],
)
def test_a_rule_reads_as_it_is_written(rule: Rule, text: str) -> None:
    assert (str(rule), repr(rule)) == (text, text)


def test_allow_reads_as_it_is_written() -> None:
    assert repr(allow) == "allow"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(allow.owner(), allow.owner_defined_in("owner"), id="owner is the column owner"),
        pytest.param(
            allow.owner().to("read", "create"), allow.owner().to(["create", "read"]), id="the order of operations"
        ),
        pytest.param(allow.owner().to(*ALL), allow.owner(), id="all operations"),
        pytest.param(
            allow.owner().match("sub", "full"), allow.owner().match("full", "sub"), id="the order of spellings"
        ),
        pytest.param(allow.owner().match("any"), allow.owner().match("full", "sub", "username"), id="any"),
        pytest.param(allow.owner().identity_claim("sub::username"), allow.owner(), id="sub::username"),
        pytest.param(
            allow.owner().to("read").match("full"), allow.owner().match("full").to("read"), id="the order of words"
        ),
        pytest.param(
            TableRules("todo", allow.owner()), TableRules("todo", allow.owner(), match="any"), id="match any on a table"
        ),
        pytest.param(
            TableRules("app.todo", allow.owner()),
            TableRules("todo", allow.owner(), schema="app"),
            id="two spellings of a schema",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"a": [], "b": []}),
            TableRules("todo", allow.owner(), columns={"b": [], "a": []}),
            id="the order of columns",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"a": allow.same()}),
            TableRules("todo", allow.owner(), columns={"a": [allow.same()]}),
            id="a column's one rule",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), keep={"policy a": "x", "policy b": "y"}),
            TableRules("todo", allow.owner(), keep={"policy b": "y", "policy a": "x"}),
            id="the order of keep",
        ),
        pytest.param(
            Open(reason="x", to=("update", "read")), Open(reason="x", to=("read", "update")), id="the order in Open"
        ),
        pytest.param(
            Rules(TableRules("a", allow.owner()), TableRules("b", allow.owner()), role="app"),
            Rules(TableRules("public.b", allow.owner()), TableRules("a", allow.owner()), role="app"),
            id="the order of tables",
        ),
    ],
)
def test_the_same_said_otherwise_is_equal(one: object, other: object) -> None:
    assert (one, hash(one)) == (other, hash(other))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(allow.owner_defined_in("author"), id="another column"),
        pytest.param(allow.owners_defined_in("owner"), id="another strategy"),
        pytest.param(allow.owner().to("read"), id="other operations"),
        pytest.param(allow.owner().identity_claim("sub"), id="another claim"),
        pytest.param(allow.owner().match("full"), id="other spellings"),
        pytest.param(allow.same(), id="same"),
    ],
)
def test_another_rule_is_not_equal(other: Rule) -> None:
    assert other != allow.owner()


# --- rules are values ------------------------------------------------------------------------------------------------

VALUES = [
    pytest.param(allow.owner(), ["strategy", "column", "operations", "claim", "spellings"], id="Rule"),
    pytest.param(Open(reason="x"), ["reason", "to"], id="Open"),
    pytest.param(Unmanaged(reason="x"), ["reason"], id="Unmanaged"),
    pytest.param(
        TableRules("todo", allow.owner()), ["table", "allow", "columns", "reassign", "keep", "match"], id="TableRules"
    ),
    pytest.param(Rules(role="app"), ["tables", "role", "bypass_role", "schema", "mode"], id="Rules"),
]


@pytest.mark.parametrize(("value", "names"), VALUES)
def test_a_declaration_is_frozen(value: object, names: list[str]) -> None:
    for name in names:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, "mallory")


@pytest.mark.parametrize(("value", "names"), VALUES)
def test_a_declaration_has_these_fields_and_no_others(value: Any, names: list[str]) -> None:
    assert list(type(value).__slots__) == names


@pytest.mark.parametrize(
    "refine",
    [
        pytest.param(lambda rule: rule.to("read"), id="to"),
        pytest.param(lambda rule: rule.identity_claim("email"), id="identity_claim"),
        pytest.param(lambda rule: rule.match("full"), id="match"),
    ],
)
def test_refining_a_rule_leaves_it_as_it_is(refine: Callable[[Rule], Rule]) -> None:
    rule = allow.owner()

    refined = refine(rule)

    assert (rule == allow.owner(), refined == rule) == (True, False)


def test_a_declaration_does_not_follow_what_it_was_made_of() -> None:
    column_rules: dict[str, list[Rule]] = {"title": []}
    keep = {"policy a": "x"}
    rules = TableRules("todo", allow.owner(), columns=column_rules, keep=keep)

    column_rules["title"].append(allow.same())
    keep["policy b"] = "y"

    assert (rules.columns, rules.keep) == ((("title", ()),), (("policy a", "x"),))


# --- words that are none ---------------------------------------------------------------------------------------------

NO_OWNER_RULE = (
    "for rows that everyone with the role may reach, write `Open(reason=…)`; groups need policies of your own"
)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("owners", 'write `allow.owners_defined_in("owners")`'),
        ("ownerDefinedIn", "write `allow.owner_defined_in(column)`"),
        ("ownersDefinedIn", "write `allow.owners_defined_in(column)`"),
        ("identityClaim", "write `allow.owner().identity_claim(claim)`"),
        ("ownr", "did you mean `owner`?"),
        ("owner_defined", "did you mean `owner_defined_in`?"),
        ("owners_definedin", "did you mean `owners_defined_in`?"),
        ("sane", "did you mean `same`?"),
        ("xyz", "known: `owner`, `owner_defined_in`, `owners_defined_in`, `same`"),
    ],
)
def test_a_guessed_strategy_is_answered_with_the_right_word(name: str, hint: str) -> None:
    assert refusal(lambda: getattr(allow, name)) == (f"there is no `allow.{name}`", hint)


@pytest.mark.parametrize(
    "name",
    [
        *("group", "groups", "group_defined_in", "groups_defined_in", "groupDefinedIn", "groupsDefinedIn"),
        *("guest", "authenticated", "private", "public", "public_api_key", "publicApiKey", "custom", "resource"),
    ],
)
def test_amplifys_other_strategies_are_refused(name: str) -> None:
    message = f"`allow.{name}` is not an owner rule, and rlskit has owner and multi-owner rules only"

    assert refusal(lambda: getattr(allow, name)) == (message, NO_OWNER_RULE)


def test_python_may_ask_allow_for_what_it_lacks() -> None:
    assert getattr(allow, "__wrapped__", "nothing") == "nothing"


KNOWN = "known: `create`, `read`, `update`, `delete`; the role stands in `Rules(role=…)`"
COVERS = "`read` covers get, list, sync, listen and search"

WRONG_OPERATIONS = [
    pytest.param("select", "`select` is no operation", "did you mean `read`?", id="select"),
    pytest.param("INSERT", "`INSERT` is no operation", "did you mean `create`?", id="INSERT"),
    pytest.param("write", "`write` is no operation", "did you mean `update`?", id="write"),
    pytest.param("remove", "`remove` is no operation", "did you mean `delete`?", id="remove"),
    pytest.param("all", "`all` is no operation", "leave `.to()` out", id="all"),
    pytest.param("updates", "`updates` is no operation", "did you mean `update`?", id="updates"),
    pytest.param("reed", "`reed` is no operation", "did you mean `read`?", id="reed"),
    pytest.param("Read", "`Read` is no operation", "did you mean `read`?", id="Read"),
    pytest.param("READ", "`READ` is no operation", "did you mean `read`?", id="READ"),
    pytest.param("app_user", "`app_user` is no operation", KNOWN, id="a role"),
    pytest.param("", "`` is no operation", KNOWN, id="empty"),
    pytest.param(3, "`3` is no operation", KNOWN, id="a number"),
    pytest.param(None, "`None` is no operation", KNOWN, id="None"),
    pytest.param(True, "`True` is no operation", KNOWN, id="a truth value"),
    pytest.param([["read"]], "`['read']` is no operation", "did you mean `read`?", id="a list in a list"),
    pytest.param([{}], "`{}` is no operation", KNOWN, id="a mapping in a list"),
    *(
        pytest.param(part, f"`{part}` alone cannot be told apart by PostgreSQL", COVERS, id=part)
        for part in ("get", "list", "sync", "listen", "search")
    ),
]


@pytest.mark.parametrize(("operation", "message", "hint"), WRONG_OPERATIONS)
def test_a_wrong_operation_is_refused(operation: Any, message: str, hint: str) -> None:
    assert refusal(lambda: allow.owner().to(operation)) == (message, hint)


@pytest.mark.parametrize(("operation", "message", "hint"), WRONG_OPERATIONS)
def test_a_wrong_operation_of_open_is_refused(operation: Any, message: str, hint: str) -> None:
    assert refusal(lambda: Open(reason="reference data", to=operation)) == (message, hint)


NO_OPERATION = "leave `to` out for every operation; in a column's rules an empty list means nobody"


@pytest.mark.parametrize(
    ("declare", "message", "hint"),
    [
        pytest.param(lambda: allow.owner().to(), "`to` names no operation", NO_OPERATION, id="to nothing"),
        pytest.param(lambda: allow.owner().to([]), "`to` names no operation", NO_OPERATION, id="to an empty list"),
        pytest.param(lambda: Open(reason="x", to=()), "`to` names no operation", NO_OPERATION, id="Open to nothing"),
        pytest.param(
            lambda: allow.owner().to("read", "read"),
            "`to` names an operation twice: read, read",
            "name each once",
            id="an operation twice",
        ),
        pytest.param(
            lambda: allow.owner().to("read", ["update", "read"]),
            "`to` names an operation twice: read, update, read",
            "name each once",
            id="an operation twice in two places",
        ),
        pytest.param(
            lambda: Open(reason="x", to=("read", "read")),
            "`to` names an operation twice: read, read",
            "name each once",
            id="Open to an operation twice",
        ),
        pytest.param(
            lambda: allow.owner().to("read").to("update"),
            '`allow.owner().to("read")` already says its operations',
            "put them all into one `.to(…)`",
            id="to twice",
        ),
    ],
)
def test_a_wrong_to_is_refused(declare: Callable[[], object], message: str, hint: str) -> None:
    assert refusal(declare) == (message, hint)


def test_a_table_of_truth_values_is_no_list_of_operations() -> None:
    """`{"read": False}` would otherwise count as `["read"]`."""
    with pytest.raises(RuleError):
        allow.owner().to({"read": False})


# --- claims and spellings --------------------------------------------------------------------------------------------

CLAIM_OR_MATCH = "a claim is one value and has no other spellings: keep one of the two"


@pytest.mark.parametrize(
    ("declare", "message", "hint"),
    [
        pytest.param(
            lambda: allow.owner().identity_claim("email").match("full"),
            "`match` and `identity_claim` cannot stand on one rule",
            CLAIM_OR_MATCH,
            id="match after identity_claim",
        ),
        pytest.param(
            lambda: allow.owner().match("full").identity_claim("email"),
            "`match` and `identity_claim` cannot stand on one rule",
            CLAIM_OR_MATCH,
            id="identity_claim after match",
        ),
        pytest.param(
            lambda: allow.owner().match("any").identity_claim("sub::username"),
            "`match` and `identity_claim` cannot stand on one rule",
            CLAIM_OR_MATCH,
            id="sub::username after match",
        ),
        pytest.param(
            lambda: allow.owner().identity_claim("email").identity_claim("sub"),
            '`allow.owner().identity_claim("email")` already says its claim',
            "a rule compares one claim: write two rules",
            id="identity_claim twice",
        ),
        pytest.param(
            lambda: allow.same().identity_claim("email"),
            "`allow.same()` takes the claims of the table's rules",
            "name the owner column to choose a claim",
            id="same with identity_claim",
        ),
        pytest.param(
            lambda: allow.same().match("full"),
            "`allow.same()` takes the spellings of the table's rules",
            "put `match` on the table",
            id="same with match",
        ),
        pytest.param(
            lambda: allow.owner().identity_claim(""),
            "`''` cannot be the name of a claim",
            "a claim is named by text that is not empty",
            id="an empty claim",
        ),
        pytest.param(
            lambda: allow.owner().identity_claim("e\0"),
            "`'e\\x00'` cannot be the name of a claim",
            "a claim is named by text that is not empty",
            id="NUL in a claim",
        ),
        pytest.param(
            lambda: allow.owner().identity_claim(["email"]),  # type: ignore[arg-type]
            "`['email']` cannot be the name of a claim",
            "a claim is named by text that is not empty",
            id="a claim that is no text",
        ),
        pytest.param(
            lambda: allow.owner().identity_claim("sub::email"),
            "joined claims such as `sub::email` are not compared part by part",
            "put the joined value into one claim and name that claim",
            id="joined claims",
        ),
    ],
)
def test_a_wrong_claim_is_refused(declare: Callable[[], object], message: str, hint: str) -> None:
    assert refusal(declare) == (message, hint)


WITHOUT_FULL = (
    "`match` without `full` would not match what the default writes",
    'add `full`; for the sub alone or the username alone write `identity_claim("sub")`',
)
NO_SPELLING = "known: `any`, `full`, `sub`, `username`"

WRONG_MATCHES = [
    pytest.param("sub", *WITHOUT_FULL, id="sub alone"),
    pytest.param("username", *WITHOUT_FULL, id="username alone"),
    pytest.param(["sub", "username"], *WITHOUT_FULL, id="sub and username"),
    pytest.param([], *WITHOUT_FULL, id="nothing"),
    pytest.param("fulll", "`fulll` is no spelling of an owner", "did you mean `full`?", id="a slip"),
    pytest.param("email", "`email` is no spelling of an owner", NO_SPELLING, id="a claim"),
    pytest.param("", "`` is no spelling of an owner", NO_SPELLING, id="empty"),
    pytest.param(["any", "full"], "`any` is no spelling of an owner", "did you mean `any`?", id="any among others"),
    pytest.param(3, "`3` is no spelling of an owner", NO_SPELLING, id="a number"),
    pytest.param(["full", {}], "`{}` is no spelling of an owner", NO_SPELLING, id="a mapping in a list"),
]


@pytest.mark.parametrize(
    ("match", "message", "hint"), [each for each in WRONG_MATCHES if each.id != "any among others"]
)
def test_a_wrong_match_is_refused(match: Any, message: str, hint: str) -> None:
    assert refusal(lambda: allow.owner().match(match)) == (message, hint)


@pytest.mark.parametrize(
    ("match", "message", "hint"), [each for each in WRONG_MATCHES if each.id != "any among others"]
)
def test_a_wrong_match_of_a_table_is_refused(match: Any, message: str, hint: str) -> None:
    assert refusal(lambda: TableRules("todo", allow.owner(), match=match)) == (message, hint)


def test_any_stands_alone() -> None:
    """To mean `any` by `any` cannot be the way out."""
    message, hint = refusal(lambda: allow.owner().match("any", "full"))

    assert (message, hint) != ("`any` is no spelling of an owner", "did you mean `any`?")


def test_match_twice_is_refused() -> None:
    """As `to` and `identity_claim` are: the second would silently widen the first."""
    with pytest.raises(RuleError):
        allow.owner().match("full").match("any")


def test_a_table_of_truth_values_is_no_list_of_spellings() -> None:
    with pytest.raises(RuleError):
        allow.owner().match({"full": False})


@pytest.mark.parametrize(
    ("rules", "spellings"),
    [
        pytest.param(TableRules("todo", allow.owner()), SPELLINGS, id="without match every spelling"),
        pytest.param(TableRules("todo", allow.owner(), match="full"), ("full",), id="the table's match"),
        pytest.param(
            TableRules("todo", allow.owner(), match=["full", "sub"]), ("full", "sub"), id="the table's match as a list"
        ),
        pytest.param(
            TableRules("todo", allow.owner().match("any"), match="full"), SPELLINGS, id="a rule's own match goes first"
        ),
        pytest.param(
            TableRules("todo", allow.owner().identity_claim("email"), match="full"), None, id="a claim has no spellings"
        ),
        pytest.param(
            TableRules("todo", allow.owner().to("read"), match="full"), ("full",), id="whatever the operations"
        ),
    ],
)
def test_a_tables_match_settles_its_rules(rules: TableRules, spellings: tuple[str, ...] | None) -> None:
    assert only(rules).spellings == spellings


@pytest.mark.parametrize(
    ("rules", "spellings"),
    [
        pytest.param(
            TableRules("todo", allow.owner(), columns={"title": allow.owner()}),
            SPELLINGS,
            id="without match every spelling",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"title": allow.owner()}, match="full"),
            ("full",),
            id="the table's match",
        ),
        pytest.param(
            TableRules("todo", allow.owner().match("full"), columns={"title": allow.owner()}),
            ("full",),
            id="the match of the rule of that column",
        ),
        pytest.param(
            TableRules("todo", allow.owner().match("full"), columns={"title": allow.owner()}, match=["full", "sub"]),
            ("full",),
            id="the rule goes before the table",
        ),
        pytest.param(
            TableRules("todo", allow.owner().match("full"), columns={"title": allow.owner().match("any")}),
            SPELLINGS,
            id="its own goes first",
        ),
        pytest.param(
            TableRules(
                "todo",
                allow.owner().match("full"),
                columns={"title": allow.owner_defined_in("author")},
                match=["full", "sub"],
            ),
            ("full", "sub"),
            id="another owner column takes the table's",
        ),
        pytest.param(
            TableRules(
                "todo",
                allow.owner().match("full"),
                allow.owner().match("full", "sub").to("read"),
                columns={"title": allow.owner()},
                match="any",
            ),
            SPELLINGS,
            id="two rules of that column settle nothing",
        ),
        pytest.param(
            TableRules("todo", allow.owner().identity_claim("email"), columns={"title": allow.owner()}, match="full"),
            ("full",),
            id="a claim settles nothing",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"title": allow.same()}, match="full"),
            None,
            id="same is settled by the table",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"title": allow.owner().identity_claim("email")}, match="full"),
            None,
            id="a column's claim",
        ),
    ],
)
def test_a_columns_rule_takes_over_the_match(rules: TableRules, spellings: tuple[str, ...] | None) -> None:
    (rule,) = columns(rules)["title"]

    assert rule.spellings == spellings


# --- a table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "table"),
    [
        pytest.param(TableRules(allow.owner()), None, id="no name: a model's"),
        pytest.param(TableRules("todo", allow.owner()), "todo", id="a bare name"),
        pytest.param(TableRules("app.todo", allow.owner()), QualifiedName("app", "todo"), id="a dotted name"),
        pytest.param(
            TableRules("todo", allow.owner(), schema="app"), QualifiedName("app", "todo"), id="the schema apart"
        ),
        pytest.param(
            TableRules("to.do", allow.owner(), schema="app"),
            QualifiedName("app", "to.do"),
            id="a dot in a name, the schema apart",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), schema="a.b"), QualifiedName("a.b", "todo"), id="a dot in the schema"
        ),
        pytest.param(TableRules("Select", allow.owner()), "Select", id="a name that SQL would fold"),
    ],
)
def test_a_table_is_named(rules: TableRules, table: object) -> None:
    assert rules.table == table


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param({}, {}, id="none"),
        pytest.param({"title": []}, {"title": ()}, id="an empty list is nobody"),
        pytest.param({"title": ()}, {"title": ()}, id="an empty tuple is nobody"),
        pytest.param({"title": allow.same()}, {"title": (allow.same(),)}, id="one rule"),
        pytest.param({"title": [allow.same().to("read")]}, {"title": (allow.same().to("read"),)}, id="a list"),
        pytest.param({"b": [], "a": []}, {"a": (), "b": ()}, id="by name"),
    ],
)
def test_columns_have_rules(given: Any, kept: dict[str, tuple[Rule, ...]]) -> None:
    rules = TableRules("todo", allow.owner(), columns=given)

    assert rules.columns == tuple(kept.items())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(Open(reason="reference data"), "open to read: reference data", id="Open reads"),
        pytest.param(Open(reason="a wiki", to=("update", "read")), "open to read, update: a wiki", id="Open to"),
        pytest.param(Open(reason="a wiki", to="read"), "open to read: a wiki", id="Open to one word"),  # type: ignore[arg-type]
        pytest.param(Unmanaged(reason="another team's"), "unmanaged: another team's", id="Unmanaged"),
    ],
)
def test_a_table_without_owners_says_why(body: Open | Unmanaged, text: str) -> None:
    rules = TableRules("todo", body)

    assert (rules.allow, str(rules.allow)) == (body, text)


def test_an_open_table_is_open_for_reading_only() -> None:
    assert Open(reason="reference data").to == ("read",)


def test_a_row_may_be_given_away_unless_the_rules_say_never() -> None:
    plain, never = TableRules("todo", allow.owner()), TableRules("todo", allow.owner(), reassign="never")

    assert (plain.reassign, never.reassign) == ("plain", "never")


def test_kept_objects_have_reasons() -> None:
    rules = TableRules(
        "todo",
        allow.owner(),
        keep={"view app.totals": "sums", "privilege select of reporting": "reports", "policy auditors": "audits"},
    )

    assert rules.keep == (
        ("policy auditors", "audits"),
        ("privilege select of reporting", "reports"),
        ("view app.totals", "sums"),
    )


def test_rules_without_a_name_have_no_table() -> None:
    rules = TableRules(allow.owner())

    assert refusal(lambda: rules.name) == (
        "these rules do not name their table yet",
        'write TableRules("todo", allow.owner())',
    )


def test_rules_are_put_at_a_table() -> None:
    rules = TableRules(allow.owner(), columns={"title": []}, reassign="never", keep={"policy a": "x"})

    there = rules.at(QualifiedName("app", "todo"))

    assert there == TableRules(
        "app.todo", allow.owner(), columns={"title": []}, reassign="never", keep={"policy a": "x"}
    )


NO_RULE = "rules begin with `allow.`: allow.owner()"
READ_TOO = "add read: PostgreSQL cannot find the row that it may not read"
JOIN = "join them: one rule with all its operations"
ONE_OF = "a table has exactly one of rules, `Open`, `Unmanaged`"
CHOOSE = "choose one of the two rules"

WRONG_TABLES = [
    pytest.param(
        lambda: TableRules("todo"),
        "table `todo` has no rule, so nobody could reach it",
        "give it a rule, `Open(reason=…)` or `Unmanaged(reason=…)`",
        id="no rule",
    ),
    pytest.param(
        lambda: TableRules(),
        "the table has no rule, so nobody could reach it",
        "give it a rule, `Open(reason=…)` or `Unmanaged(reason=…)`",
        id="neither name nor rule",
    ),
    pytest.param(lambda: TableRules("todo", "read"), "table `todo`: `'read'` is no rule", NO_RULE, id="text as a rule"),
    pytest.param(
        lambda: TableRules("todo", [allow.owner()]),  # type: ignore[arg-type]
        "table `todo`: `[allow.owner()]` is no rule",
        NO_RULE,
        id="a list as a rule",
    ),
    pytest.param(lambda: TableRules("todo", allow), "table `todo`: `allow` is no rule", NO_RULE, id="allow itself"),  # type: ignore[arg-type]
    pytest.param(lambda: TableRules(None, allow.owner()), "the table: `None` is no rule", NO_RULE, id="None as a name"),  # type: ignore[arg-type]
    pytest.param(
        lambda: TableRules("todo", allow.owner(), Open(reason="x")),
        "table `todo` mixes rules with `Open` or `Unmanaged`",
        ONE_OF,
        id="a rule and Open",
    ),
    pytest.param(
        lambda: TableRules("todo", Open(reason="x"), Unmanaged(reason="y")),
        "table `todo` mixes rules with `Open` or `Unmanaged`",
        ONE_OF,
        id="Open and Unmanaged",
    ),
    pytest.param(
        lambda: TableRules("todo", Open(reason="x"), Open(reason="x")),
        "table `todo` mixes rules with `Open` or `Unmanaged`",
        ONE_OF,
        id="Open twice",
    ),
    pytest.param(
        lambda: TableRules("todo", Open(reason="x"), columns={"title": []}),
        "table `todo` is open to read: x; it takes neither column rules nor `match`",
        "give the table owner rules, or leave them out",
        id="Open with column rules",
    ),
    pytest.param(
        lambda: TableRules("todo", Unmanaged(reason="x"), match="full"),
        "table `todo` is unmanaged: x; it takes neither column rules nor `match`",
        "give the table owner rules, or leave them out",
        id="Unmanaged with match",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.same()),
        "table `todo`: `allow.same()` says nothing on a table",
        "it belongs in a column's rules",
        id="same",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), allow.owner()),
        "table `todo` has the same rule twice: `allow.owner()`",
        JOIN,
        id="the same rule twice",
    ),
    pytest.param(
        lambda: TableRules("app.todo", allow.owner().to("read"), allow.owner().to("read", "update")),
        'table `app.todo` has the same rule twice: `allow.owner().to("read", "update")`',
        JOIN,
        id="the same rule with other operations",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), allow.owner_defined_in("owner").match("any")),
        "table `todo` has the same rule twice: `allow.owner()`",
        JOIN,
        id="the same rule in other words",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), columns={"title": [allow.same(), allow.same().to("read")]}),
        'table `todo`, column `title` has the same rule twice: `allow.same().to("read")`',
        JOIN,
        id="the same rule twice on a column",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner().to("update")),
        'table `todo`: `allow.owner().to("update")` has update without read',
        READ_TOO,
        id="update without read",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner().to("create", "delete")),
        'table `todo`: `allow.owner().to("create", "delete")` has delete without read',
        READ_TOO,
        id="delete without read",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner().to("delete", "update")),
        'table `todo`: `allow.owner().to("update", "delete")` has update and delete without read',
        READ_TOO,
        id="update and delete without read",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), allow.owners_defined_in("editors").to("update")),
        'table `todo`: `allow.owners_defined_in("editors").to("update")` has update without read',
        READ_TOO,
        id="read by others only",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), columns={"title": allow.owner_defined_in("author").to("update")}),
        'table `todo`: `allow.owner_defined_in("author").to("update")` has update without read',
        READ_TOO,
        id="update of a column without read",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner().to("read"), allow.owner().identity_claim("email").to("update")),
        'table `todo`: `allow.owner().identity_claim("email").to("update")` has update without read',
        READ_TOO,
        id="read by another claim",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), allow.owners_defined_in("owner")),
        "table `todo`: column `owner` cannot be one owner and a list of owners",
        CHOOSE,
        id="one owner and a list",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), columns={"title": allow.owners_defined_in("owner")}),
        "table `todo`: column `owner` cannot be one owner and a list of owners",
        CHOOSE,
        id="one owner and a list in a column's rules",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), reassign="nevr"),  # type: ignore[arg-type]
        "table `todo`: `nevr` is no way to reassign",
        "did you mean `never`?",
        id="a slip in reassign",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), reassign=False),  # type: ignore[arg-type]
        "table `todo`: `False` is no way to reassign",
        "known: `plain`, `explicit`, `never`",
        id="a truth value as reassign",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), keep={"auditors": "audits"}),
        "table `todo`: `keep` does not know `auditors`",
        "write `policy NAME`, `privilege select of ROLE` or `view SCHEMA.NAME`",
        id="keep what",
    ),
    pytest.param(
        lambda: TableRules("todo", allow.owner(), keep={"privilege reporting": "reports"}),
        "table `todo`: `keep` does not know `privilege reporting`",
        "write `policy NAME`, `privilege select of ROLE` or `view SCHEMA.NAME`",
        id="keep whose privilege",
    ),
]


@pytest.mark.parametrize(("declare", "message", "hint"), WRONG_TABLES)
def test_a_wrong_table_is_refused(declare: Callable[[], object], message: str, hint: str) -> None:
    assert refusal(declare) == (message, hint)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(
            [allow.owner().to("read"), allow.owner().match("full").to("create")],
            id="other spellings are another person",
        ),
        pytest.param([allow.owner(), allow.owner().identity_claim("email")], id="a claim is another person"),
        pytest.param([allow.owner(), allow.owner_defined_in("author")], id="two owner columns"),
        pytest.param([allow.owner(), allow.owners_defined_in("editors")], id="an owner and editors"),
        pytest.param([allow.owner().to("create")], id="create without read"),
    ],
)
def test_these_rules_stand_together(rules: list[Rule]) -> None:
    table = TableRules("todo", *rules)

    assert isinstance(table.allow, tuple)
    assert len(table.allow) == len(rules)


def test_update_needs_read_in_the_same_spellings() -> None:
    """Who may read only rows of the full spelling cannot find those of another one for an update."""
    with pytest.raises(RuleError):
        TableRules("todo", allow.owner().match("full").to("read"), allow.owner().to("update"))


def test_reading_another_column_is_enough_to_find_the_row() -> None:
    rules = TableRules("todo", allow.owner().to("read"), columns={"title": allow.owner().to("update")})

    assert columns(rules) == {"title": (allow.owner().to("update").match("any"),)}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        pytest.param("text", "`'t'` is no rule", id="text"),
        pytest.param(["read"], "`'read'` is no rule", id="an operation"),
        pytest.param([None], "`None` is no rule", id="None in a list"),
        pytest.param([[allow.owner()]], "`[allow.owner()]` is no rule", id="a list in a list"),
        pytest.param([Open(reason="x")], "`Open(reason='x', to=('read',))` is no rule", id="Open in a list"),
        pytest.param(Open(reason="x"), "`Open(reason='x', to=('read',))` is no rule", id="Open"),
        pytest.param(None, "`None` is no rule", id="None"),
        pytest.param(3, "`3` is no rule", id="a number"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_column(given: Any, text: str) -> None:
    message = refusal(lambda: TableRules("todo", allow.owner(), columns={"title": given}))

    assert message == (text, "a column takes rules or a list of them; an empty list means nobody")


def test_a_schema_without_a_table_is_refused() -> None:
    """A model brings its schema along; one that stands here would be left out without a word."""
    with pytest.raises(RuleError):
        TableRules(allow.owner(), schema="app")


# --- reasons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", "  ", "\n", None, 3, ["x"]], ids=repr)
@pytest.mark.parametrize(
    ("declare", "what"),
    [
        pytest.param(lambda reason: Open(reason=reason), "Open", id="Open"),
        pytest.param(lambda reason: Unmanaged(reason=reason), "Unmanaged", id="Unmanaged"),
        pytest.param(
            lambda reason: TableRules("todo", allow.owner(), keep={"policy a": reason}),
            "keep of `policy a`",
            id="keep a policy",
        ),
        pytest.param(
            lambda reason: TableRules("todo", allow.owner(), keep={"privilege select of b": reason}),
            "keep of `privilege select of b`",
            id="keep a privilege",
        ),
    ],
)
def test_an_exception_needs_a_reason(declare: Callable[[Any], object], what: str, reason: object) -> None:
    expected = (f"{what} needs a reason in words", 'say why, for the next reader: reason="reference data"')

    assert refusal(lambda: declare(reason)) == expected


# --- names -----------------------------------------------------------------------------------------------------------

NOT_EMPTY = "a name is not empty and holds no NUL"
SHORTEN = "shorten the name: PostgreSQL would cut it, and a cut name is another one"

WRONG_NAMES = [
    pytest.param("", "`''` cannot be the name of a {}", NOT_EMPTY, id="empty"),
    pytest.param("a\0b", "`'a\\x00b'` cannot be the name of a {}", NOT_EMPTY, id="NUL"),
    pytest.param("x" * 64, f"the {{}} name `{'x' * 64}` is 64 bytes long, PostgreSQL keeps 63", SHORTEN, id="64 bytes"),
    pytest.param(
        "ü" * 32,
        f"the {{}} name `{'ü' * 32}` is 64 bytes long, PostgreSQL keeps 63",
        SHORTEN,
        id="32 characters of two bytes",
    ),
    pytest.param(
        "🦉" * 16,
        f"the {{}} name `{'🦉' * 16}` is 64 bytes long, PostgreSQL keeps 63",
        SHORTEN,
        id="16 characters of four bytes",
    ),
]

NAMED = [
    pytest.param(lambda name: allow.owner_defined_in(name), "column", id="owner_defined_in"),
    pytest.param(lambda name: allow.owners_defined_in(name), "column", id="owners_defined_in"),
    pytest.param(lambda name: TableRules(name, allow.owner()), "table", id="a table"),
    pytest.param(lambda name: TableRules(f"app.{name}", allow.owner()), "table", id="a table behind a dot"),
    pytest.param(lambda name: TableRules(f"{name}.todo", allow.owner()), "schema", id="a schema before a dot"),
    pytest.param(lambda name: TableRules(name, allow.owner(), schema="app"), "table", id="a table beside its schema"),
    pytest.param(lambda name: TableRules("todo", allow.owner(), schema=name), "schema", id="a schema beside its table"),
    pytest.param(lambda name: TableRules("todo", allow.owner(), columns={name: []}), "column", id="a ruled column"),
    pytest.param(lambda name: Rules(role=name), "role", id="role"),
    pytest.param(lambda name: Rules(role="app", bypass_role=name), "role", id="bypass_role"),
    pytest.param(lambda name: Rules(role="app", schema=name), "schema", id="schema"),
]


@pytest.mark.parametrize(("name", "message", "hint"), WRONG_NAMES)
@pytest.mark.parametrize(("declare", "what"), NAMED)
def test_a_wrong_name_is_refused(
    declare: Callable[[str], object], what: str, name: str, message: str, hint: str
) -> None:
    assert refusal(lambda: declare(name)) == (message.format(what), hint)


@pytest.mark.parametrize(("declare", "what"), NAMED)
def test_a_name_that_is_no_utf_8_is_refused(declare: Callable[[str], object], what: str) -> None:
    with pytest.raises(RuleError) as caught:
        declare("half of a pair \ud800")

    assert what in caught.value.message


@pytest.mark.parametrize(
    "name", ["x" * 63, "ü" * 31 + "x", "we ird", 'we"ird; drop', "select", "Ünï", "\\", "$rlskit$", "%s", "{}", "a\nb"]
)
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda name: allow.owner_defined_in(name).column, id="owner_defined_in"),
        pytest.param(lambda name: allow.owners_defined_in(name).column, id="owners_defined_in"),
        pytest.param(lambda name: TableRules(name, allow.owner()).table, id="a table"),
        pytest.param(lambda name: TableRules(f"app.{name}", allow.owner()).name.name, id="a table behind a dot"),
        pytest.param(lambda name: TableRules(f"{name}.todo", allow.owner()).name.schema, id="a schema before a dot"),
        pytest.param(
            lambda name: TableRules("todo", allow.owner(), schema=name).name.schema, id="a schema beside its table"
        ),
        pytest.param(
            lambda name: TableRules("todo", allow.owner(), columns={name: []}).columns[0][0], id="a ruled column"
        ),
        pytest.param(lambda name: Rules(role=name).role, id="role"),
        pytest.param(lambda name: Rules(role="app", bypass_role=name).bypass_role, id="bypass_role"),
        pytest.param(lambda name: Rules(role="app", schema=name).schema, id="schema"),
    ],
)
def test_any_other_name_is_kept_as_it_is(kept: Callable[[str], object], name: str) -> None:
    assert kept(name) == name


@pytest.mark.parametrize("name", [None, 3, b"owner", ["owner"]], ids=repr)
@pytest.mark.parametrize(
    ("declare", "what"),
    [
        pytest.param(lambda name: allow.owner_defined_in(name), "column", id="owner_defined_in"),
        pytest.param(lambda name: allow.owners_defined_in(name), "column", id="owners_defined_in"),
        pytest.param(lambda name: Rules(role=name), "role", id="role"),
        pytest.param(lambda name: Rules(role="app", schema=name), "schema", id="schema"),
    ],
)
def test_a_name_that_is_no_text_is_refused(declare: Callable[[Any], object], what: str, name: object) -> None:
    assert refusal(lambda: declare(name)) == (f"the name of a {what} must be text, got `{name!r}`", "put it in quotes")


@pytest.mark.parametrize("name", ["a.b.c", "..", "a..b", ".a.b"])
def test_a_name_with_two_dots_is_refused(name: str) -> None:
    expected = (f"`{name}` has more than one dot", "give the schema apart, and the table's bare name")

    assert refusal(lambda: TableRules(name, allow.owner())) == expected


# --- all tables ------------------------------------------------------------------------------------------------------


def test_tables_without_a_schema_are_in_that_of_the_rules() -> None:
    rules = Rules(TableRules("todo", allow.owner()), TableRules("crm.contact", allow.owner()), role="app", schema="app")

    assert [str(each.name) for each in rules.tables] == ["app.todo", "crm.contact"]


def test_the_schema_is_public_unless_said_otherwise() -> None:
    rules = Rules(TableRules("todo", allow.owner()), role="app")

    assert (rules.schema, rules.tables[0].name) == ("public", QualifiedName("public", "todo"))


def test_rules_may_have_no_table() -> None:
    rules = Rules(role="app")

    assert (rules.tables, rules.role, rules.bypass_role) == ((), "app", None)


def test_rules_know_both_roles() -> None:
    rules = Rules(role="app", bypass_role="support")

    assert (rules.role, rules.bypass_role) == ("app", "support")


NO_ROLE = "create a role of its own, without SUPERUSER and BYPASSRLS"
TWICE = "one `TableRules` holds all rules of a table"


@pytest.mark.parametrize(
    ("declare", "message", "hint"),
    [
        *(
            pytest.param(
                lambda role=role: Rules(role=role),
                f"`{role}` cannot be the application's role",
                NO_ROLE,
                id=f"role {role}",
            )
            for role in ("public", "PUBLIC", "none", "current_user", "CURRENT_ROLE", "session_user")
        ),
        pytest.param(
            lambda: Rules(role="app", bypass_role="app"),
            "`role` and `bypass_role` are the same role",
            "rules bind the one and not the other",
            id="the same role twice",
        ),
        pytest.param(
            lambda: Rules(TableRules("todo", allow.owner()), TableRules("todo", Unmanaged(reason="x")), role="app"),
            "table `public.todo` has rules twice",
            TWICE,
            id="a table twice",
        ),
        pytest.param(
            lambda: Rules(
                TableRules("todo", allow.owner()), TableRules("app.todo", allow.owner()), role="app", schema="app"
            ),
            "table `app.todo` has rules twice",
            TWICE,
            id="a table twice, once with its schema",
        ),
        pytest.param(
            lambda: Rules(TableRules(allow.owner()), role="app"),
            "these rules do not name their table yet",
            'write TableRules("todo", allow.owner())',
            id="a table without a name",
        ),
    ],
)
def test_wrong_rules_are_refused(declare: Callable[[], object], message: str, hint: str) -> None:
    assert refusal(declare) == (message, hint)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([TableRules("todo", allow.owner())], id="a list of tables"),
        pytest.param(allow.owner(), id="a rule"),
        pytest.param("todo", id="a name"),
        pytest.param(None, id="None"),
    ],
)
def test_what_is_no_table_is_refused(given: Any) -> None:
    with pytest.raises(RuleError):
        Rules(given, role="app")


# --- whatever is said, it is a rule or refused -----------------------------------------------------------------------

WORDS = st.sampled_from([*OPERATIONS, "full", "sub", "list", "select", "", "email"])
LISTS = st.lists(WORDS, max_size=5)


@settings(deadline=None)
@given(operations=LISTS, match=LISTS | st.none(), claim=WORDS | st.none(), column=st.text("aü ", max_size=40))
def test_whatever_is_said_is_a_rule_or_refused(
    operations: Iterable[Any], match: Iterable[str] | None, claim: str | None, column: str
) -> None:
    """And what is a rule reads as it is written: its text is the Python that makes the same rule."""
    try:
        rule = allow.owner_defined_in(column).to(operations)
        rule = rule.match(match) if match is not None else rule
        rule = rule.identity_claim(claim) if claim is not None else rule
    except RuleError:
        return

    assert eval(str(rule), {"allow": allow}) == rule
