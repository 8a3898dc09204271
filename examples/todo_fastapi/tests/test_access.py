"""Who may do what: asked of the database itself, as an ordinary login, and nothing mocked."""

from __future__ import annotations

from rlskit.testing import denied, not_visible, person, rls_matrix, row


@rls_matrix("rlskit.toml")
def test_the_database_keeps_the_rules(cell, rlskit_db):
    """A test for each table, operation and kind of person: all that the rules say, and what they do not say is refused."""
    rlskit_db.prove(cell)


# What matters most is worth a sentence of its own besides.


def test_a_todo_is_its_owners_alone(rlskit_db, assert_can, assert_cannot):
    milk = rlskit_db.insert("todo", content="milk", owner=person("alice"))

    assert_can("alice", ["read", "update", "delete"], milk, done=True)
    assert_cannot("bob", ["read", "update", "delete"], milk, done=True)
    assert_cannot(None, ["read", "update", "delete"], milk, done=True)


def test_whoever_creates_a_todo_is_its_owner(rlskit_db, as_user):
    with as_user("alice") as conn:
        conn.execute("insert into todo (content) values ('milk')")

    assert [each["owner"] for each in rlskit_db.stored("todo")] == ["alice-sub::alice"]


def test_bob_changes_none_of_alices_todos(rlskit_db, as_user):
    """PostgreSQL raises nothing here: the row is not there for him."""
    milk = rlskit_db.insert("todo", content="milk", owner=person("alice"))

    with as_user("bob") as conn:
        not_visible(conn.execute("update todo set content = 'beer'"))
        not_visible(conn.execute("delete from todo"))
    assert rlskit_db.stored(milk) == dict(milk)


def test_nobody_gives_a_todo_away(rlskit_db, as_user):
    """This is an error: nobody has the right to write the column."""
    rlskit_db.insert("todo", owner=person("alice"))

    with as_user("alice") as conn, denied(kind="table", table="todo"):
        conn.execute("update todo set owner = 'bob-sub::bob'")


def test_an_editor_writes_the_entries_and_no_more(rlskit_db, assert_can, assert_cannot):
    party = rlskit_db.insert("checklist", title="party", owner=person("alice"), editors=["bob-sub"])

    assert_can("bob", ["read", "update"], party, entries=["cake"])
    assert_cannot("bob", "update", party, title="his party")
    assert_cannot("bob", "update", party, editors=["bob-sub", "carol-sub"])
    assert_cannot("bob", "delete", party)


def test_a_refusal_names_the_column(rlskit_db, as_user):
    rlskit_db.insert("checklist", title="party", owner=person("alice"), editors=["bob-sub"])

    with as_user("bob") as conn, denied(kind="column", columns=["title"]) as refused:
        conn.execute("update checklist set title = 'his party'")
    assert refused.denial.code == "E502"


def test_a_guest_reads_the_categories_and_no_todo(rlskit_db, as_nobody, assert_cannot):
    rlskit_db.insert("todo", owner=person("alice"))

    with as_nobody() as conn:
        assert conn.execute("select name from category order by name").fetchall() == [("errand",), ("home",), ("work",)]
        assert conn.execute("select id from todo").fetchall() == []
    assert_cannot(None, "create", row("todo", content="whose?"))
