"""Who may do what: asked of the database that the revisions make, as an ordinary login, and nothing mocked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from rlskit.testing import assert_no_leak, denied, not_visible, person, rls_matrix, row
from todos import use_cases
from todos.access import rules
from todos.database import asking
from todos.models import Category, Note, Step, Todo


@rls_matrix(rules)
def test_the_database_keeps_the_rules(cell, rlskit_db):
    """A test for each table, operation and kind of person: all that the models say, and what they do not say is refused."""
    rlskit_db.prove(cell)


# What matters most is worth a sentence of its own besides.


def test_a_todo_is_its_owners_alone(rlskit_db, assert_can, assert_cannot):
    milk = rlskit_db.insert("todo", content="milk", owner=person("alice"))

    assert_can("alice", ["read", "update", "delete"], milk, done=True)
    assert_cannot("bob", ["read", "update", "delete"], milk, done=True)
    assert_cannot(None, ["read", "update", "delete"], milk, done=True)


def test_whoever_adds_a_todo_owns_it_and_its_steps(rlskit_db, as_user):
    """The application's own function, in a session in which alice asks."""
    with as_user("alice").session() as session:
        use_cases.add_todo(session, "a birthday party", "home", ["invite friends", "bake a cake"])

    assert [each["owner"] for each in rlskit_db.stored("todo")] == ["alice-sub::alice"]
    assert [each["owner"] for each in rlskit_db.stored("step")] == ["alice-sub::alice"] * 2


def test_bobs_list_is_empty_and_no_where_says_so(rlskit_db, as_user):
    rlskit_db.insert("todo", content="milk", owner=person("alice"))

    with as_user("bob").session() as session:
        assert use_cases.todos(session) == []


def test_bob_cannot_finish_alices_todo(rlskit_db, as_user):
    """PostgreSQL raises nothing here, for the row is not there for him: it is the application that asks for one."""
    milk = rlskit_db.insert("todo", content="milk", done=False, owner=person("alice"))

    with as_user("bob").session() as session, not_visible():
        use_cases.finish_todo(session, milk["id"])
    assert rlskit_db.stored(milk) == dict(milk)


def test_nobody_gives_a_todo_away(rlskit_db, as_user):
    """This is an error: nobody has the right to write the column."""
    rlskit_db.insert("todo", owner=person("alice"))

    with as_user("alice").session() as session, denied(kind="table", table="todo"):
        session.execute(update(Todo).values(owner="bob-sub::bob"))


def test_nobody_writes_what_a_migration_or_the_database_writes(rlskit_db, as_user):
    rlskit_db.insert("todo", owner=person("alice"))

    with as_user("alice").session() as session, denied(kind="table", table="todo"):
        session.execute(update(Todo).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))
    with denied(kind="table", table="category"), as_user("alice").session() as session:
        session.add(Category(name="hers"))  # sent when the block ends


def test_a_step_on_anothers_todo_is_seen_by_whoever_made_it(rlskit_db, as_user):
    """PostgreSQL asks no rule for a foreign key. What it stores is bob's, and alice never sees it."""
    milk = rlskit_db.insert("todo", content="milk", owner=person("alice"))

    with as_user("bob").session() as session:
        session.add(Step(todo_id=milk["id"], content="his"))
    with as_user("alice").session() as session:
        assert [each.steps for each in use_cases.todos(session)] == [[]]


def test_a_coauthor_writes_the_text_and_no_more(rlskit_db, assert_can, assert_cannot):
    note = rlskit_db.insert("note", owner=person("alice"), coauthors=[person("bob")])

    assert_can("bob", ["read", "update"], note, text="tea")
    assert_cannot("bob", "update", note, title="his")
    assert_cannot("bob", "update", note, coauthors=[])
    assert_cannot("bob", "delete", note)
    assert_cannot("carol", ["read", "update", "delete"], note, text="tea")


def test_a_refusal_names_the_column(rlskit_db, as_user):
    note = rlskit_db.insert("note", owner=person("alice"), coauthors=[person("bob")])

    with as_user("bob").session() as session, denied(kind="column", columns=["title"]) as refused:
        use_cases.retitle_note(session, note["id"], "his")
    assert refused.denial.code == "E502"


@pytest.mark.rlskit(isolation="transaction")
def test_a_note_is_shared(as_user):
    """All of it in one transaction that is rolled back, whoever asks: quicker, where nothing is stored past the rules."""
    with as_user("alice").session() as session:
        note = use_cases.write_note(session, "party").id
    with as_user("bob").session() as session:
        assert session.get(Note, note) is None
    with as_user("alice").session() as session:
        use_cases.share_note(session, note, person("bob"))
    with as_user("bob").session() as session:
        use_cases.edit_note(session, note, "cake")
        assert session.get(Note, note).text == "cake"


def test_a_guest_reads_the_categories_and_no_todo(rlskit_db, as_nobody, assert_cannot):
    rlskit_db.insert("todo", owner=person("alice"))

    with as_nobody().session() as session:
        assert use_cases.categories(session) == ["errand", "home", "work"]
        assert use_cases.todos(session) == []
    assert_cannot(None, "create", row("todo", content="whose?"))


def test_the_applications_own_sessions(rlskit_db, sessions):
    with asking(sessions, person("alice")) as session:
        use_cases.add_todo(session, "milk")

    assert [each["content"] for each in rlskit_db.stored("todo")] == ["milk"]


def test_nobody_finds_on_a_connection_what_the_one_before_left(sessions):
    assert_no_leak(sessions)
