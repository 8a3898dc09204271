"""What a test stores past the rules, and what it says of who can do what: with what is missing and what is extra, and never about nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg.errors import NotNullViolation

from rlskit import Rules, TableRules, allow
from rlskit.errors import KitError, PlanError
from rlskit.testing import Row, TestDatabase, TestServer, factories, person, row
from rlskit.testing.templates import Recipe
from tests.kit.conftest import ROLE

ALICE = person("alice", email="alice@example.com")


@pytest.fixture
def todo(db: TestDatabase) -> Row:
    return db.insert("todo", content="milk", owner=person("alice"))


# --- rows ------------------------------------------------------------------------------------------------------------


def test_what_a_row_needs_is_filled_in(db: TestDatabase, todo: Row) -> None:
    (category,) = db.stored("category")

    assert dict(todo) == {"id": 1, "content": "milk", "category": category["name"], "owner": "alice-sub::alice"}


def test_a_person_is_named_as_the_column_names_him(db: TestDatabase) -> None:
    board = db.insert("board", owners=[ALICE, "somebody"])

    assert board["owners"] == ["alice@example.com", "somebody"]


def test_a_person_without_the_claim_of_the_column_is_told(db: TestDatabase) -> None:
    with pytest.raises(KitError, match="holds the claim `email`, and this identity has none"):
        db.insert("board", owners=[person("bob")])


def test_what_is_stored_is_seen_past_the_rules(db: TestDatabase, todo: Row) -> None:
    assert db.stored(todo) == dict(todo)
    with db.as_user("alice") as conn:
        conn.execute("update todo set content = 'beer'")
    assert db.stored("public.todo") == [{**todo, "content": "beer"}]
    with db.as_user("alice") as conn:
        conn.execute("delete from todo")
    assert (db.stored(todo), db.stored("todo")) == (None, [])


def test_a_row_is_printed_by_its_key_alone(todo: Row) -> None:
    assert (str(todo), "milk" in repr(todo)) == ("todo id=1", False)


def test_a_row_of_nothing_is_refused() -> None:
    with pytest.raises(KitError, match="any row"):
        row("todo")


def test_a_table_that_is_missing_is_told(db: TestDatabase) -> None:
    with pytest.raises(PlanError, match=r"table `public\.tdo` does not exist"):
        db.insert("tdo")


# --- who can do what -------------------------------------------------------------------------------------------------


def test_what_somebody_can_do(db: TestDatabase, todo: Row) -> None:
    db.assert_can("alice", ["read", "update", "delete"], todo, content="beer")
    db.assert_can(person("alice"), "read", row("todo", id=1), row("todo", content="milk"))
    db.assert_can("bob", "create", row("todo", content="bread", category=todo["category"]))
    db.assert_cannot("bob", ("read", "update", "delete"), todo, content="beer")
    db.assert_cannot(None, "read", todo)
    db.assert_cannot(None, ["create"], row("todo", content="bread"), category=todo["category"])
    db.assert_cannot("alice", "update", todo, owner="bob")

    assert (db.can("alice", "read", todo), db.can("bob", "read", todo)) == (True, False)
    assert db.stored("todo") == [dict(todo)]


def said(check: object, *arguments: object, **values: object) -> str:
    with pytest.raises(AssertionError) as caught:
        check(*arguments, **values)  # type: ignore[operator]
    return str(caught.value)


def test_the_message_says_what_is_missing(db: TestDatabase, todo: Row) -> None:
    assert said(db.assert_can, "alice", "update", todo, owner="bob") == (
        "alice cannot update todo id=1: refused: permission denied for table todo; missing: update"
    )
    assert said(db.assert_can, "bob", ["read", "update"], todo, owner="bob").splitlines() == [
        "bob cannot do 2 of these 2; missing:",
        "  read todo id=1    not visible: no row was reached",
        "  update todo id=1  refused: permission denied for table todo",
    ]
    assert said(db.assert_can, None, "create", row("todo", content="secret"), category=todo["category"]) == (
        'nobody cannot create todo (content, category): refused: new row violates row-level security policy for table "todo"; missing: create'
    )


def test_the_message_says_what_is_extra(db: TestDatabase, todo: Row) -> None:
    assert said(db.assert_cannot, "alice", "read", todo) == "alice can read todo id=1; extra: read"
    assert said(db.assert_cannot, person("alice"), ["read", "delete"], todo).splitlines() == [
        "this identity can do 2 of these 2; extra:",
        "  read todo id=1    allowed",
        "  delete todo id=1  allowed",
    ]


@pytest.mark.parametrize("check", ["assert_can", "assert_cannot", "can"])
def test_a_row_that_is_not_there_proves_nothing(db: TestDatabase, check: str) -> None:
    with pytest.raises(KitError, match="there is no row todo id=7, so it proves nothing"):
        getattr(db, check)("alice", "read", row("todo", id=7))


@pytest.mark.parametrize(
    ("operation", "rows", "values", "reason"),
    [
        ("read", (), {}, "no row is asked about"),
        ("look", (row("todo", id=1),), {}, "`look` is no operation"),
        ([], (row("todo", id=1),), {}, "no operation is asked about"),
        ("update", (row("todo", id=1),), {}, "an update sets something"),
        ("read", (row("todo", id=1),), {"content": "beer"}, "a read takes no values"),
    ],
    ids=["no row", "no operation of ours", "no operation", "no values", "too many values"],
)
def test_what_cannot_be_asked_is_refused(
    db: TestDatabase, operation: object, rows: tuple[Row, ...], values: dict[str, object], reason: str
) -> None:
    with pytest.raises(KitError, match=reason):
        db.assert_cannot("alice", operation, *rows, **values)  # type: ignore[arg-type]


def test_a_row_that_is_found_by_what_nobody_may_read_proves_nothing(kit: TestServer, recipe: Recipe) -> None:
    hidden = Rules(TableRules("todo", allow.owner(), columns={"id": allow.same().to("delete")}), role=ROLE)
    with factories.for_test(kit, replace(recipe, rules=hidden), "database") as db:
        milk = db.insert("todo", content="milk", owner=person("alice"))

        with pytest.raises(KitError, match="is found by `id`, which the login may not read"):
            db.assert_cannot("alice", "read", milk)
        db.assert_can("alice", "read", row("todo", content="milk"))


def test_a_row_that_is_stored_is_not_created(db: TestDatabase, todo: Row) -> None:
    with pytest.raises(KitError, match="todo id=1 is there already"):
        db.assert_cannot("bob", "create", todo)


def test_an_error_that_is_no_access_is_the_tests_own(db: TestDatabase, todo: Row) -> None:
    with pytest.raises(NotNullViolation):
        db.assert_can("alice", "create", row("todo", category=todo["category"]))


def test_in_a_rolled_back_transaction_what_can_be_done_is_proved(rolled_back: TestDatabase) -> None:
    with rolled_back.as_user(ALICE) as conn:
        conn.execute("insert into board (content) values ('plan')")
    plan = row("board", content="plan")

    rolled_back.assert_can(ALICE, ["read", "update"], plan, content="more")
    assert said(rolled_back.assert_can, "bob", "read", plan).startswith("bob cannot read board")
    rolled_back.assert_cannot("bob", "create", row("board", content="mine", owners=["alice"]))
    with pytest.raises(KitError, match="sees nothing of the test's one transaction"):
        rolled_back.assert_cannot("bob", "read", plan)
