"""A row is given away by a plain UPDATE: its old owner sees it no more, its new one does, and nothing else comes to light."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
import pytest
from psycopg import Rollback

from rlskit import Identity, TableRules, allow, as_user
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full, perform

alice, bob, carol = map(full, (ALICE, BOB, CAROL))

TODO = TableRules("todo", allow.owner())
ARTICLE = TableRules("article", allow.owners_defined_in("editors"))
NOTE = TableRules("note", allow.owner(), allow.owners_defined_in("editors"))
LETTER = TableRules("letter", allow.owner(), allow.owners_defined_in("editors").to("read", "update"), reassign="never")

TABLES = (
    "create table todo (id int primary key, content text, owner text)",
    "create table article (id int primary key, content text, editors text[])",
    "create table note (id int primary key, content text, owner text, editors text[])",
    "create table letter (id int primary key, content text, owner text, editors text[])",
)

ROWS = (
    "delete from todo; delete from article; delete from note; delete from letter",
    f"insert into todo values (1, 'a', '{alice}'), (2, 'a', '{alice}'), (3, 'a', '{alice}'), (4, 'b', '{bob}'), (5, 'c', '{carol}')",
    f"insert into article values (1, 'a', '{{{alice}}}'), (4, 'b', '{{{bob}}}'), (5, 'c', '{{{carol}}}')",
    f"insert into note values (1, 'a', '{alice}', '{{{bob}}}'), (4, 'b', '{bob}', null), (5, 'c', null, '{{{carol}}}')",
    f"insert into letter values (1, 'a', '{alice}', '{{{bob}}}')",
)


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "reassignment") as database:
        database.execute(*TABLES)
        database.apply(TODO, ARTICLE, NOTE, LETTER)
        yield database


@pytest.fixture
def tables(shared: Database) -> Database:
    """The four tables with the same few rows for every test."""
    with shared.connect(autocommit=True) as admin:
        admin.execute("; ".join(ROWS))
    return shared


def seen(database: Database, table: str = "todo", people: Sequence[Identity] = (ALICE, BOB, CAROL)) -> list[list[int]]:
    """The keys of the rows that each of them sees."""
    keys = []
    with database.connect_as_app() as conn:
        for who in people:
            with as_user(conn, who):
                keys.append([row[0] for row in conn.execute(f"select id from {table} order by id")])
    return keys


# --- one owner ---------------------------------------------------------------------------------------

GIVEN = [(1, "a", bob)]
WAYS: dict[str, tuple[str, object]] = {
    "by its key": (f"update todo set owner = '{bob}' where id = 1", 1),
    "returning it": (f"update todo set owner = '{bob}' where id = 1 returning *", GIVEN),
    "by a bare username": ("update todo set owner = 'bob' where id = 1 returning owner", [("bob",)]),
    "by a bare sub": (f"update todo set owner = '{BOB.sub}' where id = 1 returning owner", [(BOB.sub,)]),
    "with the rest of the row": (f"update todo set (content, owner) = ('x', '{bob}') where id = 1", 1),
    "by its old owner's name": (f"update todo set owner = '{bob}' where owner = '{alice}' and id = 1 returning *", GIVEN),
    "from a list of values": (
        f"update todo set owner = given.owner from (values (1, '{bob}'), (4, '{alice}')) as given (id, owner)"
        " where given.id = todo.id returning todo.*",
        GIVEN,
    ),
    "from the table itself": (
        f"update todo set owner = '{bob}' from todo as other where other.id = todo.id and other.id = 1 returning todo.*, other.owner",
        [(1, "a", bob, alice)],
    ),
    "where a subquery says": (f"update todo set owner = '{bob}' where id in (select min(id) from todo) returning *", GIVEN),
    "to a subquery's name": (f"update todo set owner = (select '{bob}') where id = 1 returning *", GIVEN),
    "in a merge": (f"merge into todo using (values (1)) as given (id) on given.id = todo.id when matched then update set owner = '{bob}'", 1),
    "in an upsert": (f"insert into todo (id) values (1) on conflict (id) do update set owner = '{bob}' returning *", GIVEN),
    "in an upsert of its own value": (
        f"insert into todo (id, content) values (1, '{bob}') on conflict (id) do update set owner = excluded.content",
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_given_away(way: str, tables: Database) -> None:
    statement, result = WAYS[way]

    assert perform(tables, ALICE, statement) == result
    assert seen(tables) == [[2, 3], [1, 4], [5]]


def test_a_row_is_given_away_at_a_cursor(tables: Database) -> None:
    moved = perform(
        tables,
        ALICE,
        "declare mine cursor for select * from todo where id = 1",
        "fetch mine",
        f"update todo set owner = '{bob}' where current of mine",
    )

    assert moved == 1
    assert seen(tables) == [[2, 3], [1, 4], [5]]


def test_rows_are_given_away_by_prepared_statements_and_their_generic_plans(tables: Database) -> None:
    with tables.connect_as_app(prepare_threshold=0) as conn:
        for plan in ("force_custom_plan", "force_generic_plan"):
            for who, other in ((ALICE, bob), (BOB, alice)):
                with as_user(conn, who):
                    conn.execute(f"set local plan_cache_mode = {plan}")
                    moved = conn.execute("update todo set owner = %s where id = %s returning id, owner", [other, 1])
                    assert moved.fetchall() == [(1, other)]

    assert seen(tables) == [[1, 2, 3], [4], [5]]


def test_returning_shows_the_new_row_once_and_the_old_one_where_postgresql_can(tables: Database) -> None:
    shown, values = ("old.owner, new.owner", (alice, bob)) if tables.server.major >= 18 else ("owner", (bob,))

    assert perform(tables, ALICE, f"update todo set owner = '{bob}' where id < 3 returning {shown}") == [values] * 2
    assert perform(tables, ALICE, f"update todo set owner = '{carol}' where id < 3 returning {shown}") == []


def test_several_rows_are_given_to_one(tables: Database) -> None:
    given = perform(tables, ALICE, f"update todo set owner = '{bob}' where id < 3 or owner = '{carol}' returning id")

    assert sorted(given) == [(1,), (2,)]
    assert seen(tables) == [[3], [1, 2, 4], [5]]


def test_without_a_condition_ones_own_rows_are_given_away_and_no_others(tables: Database) -> None:
    assert perform(tables, ALICE, f"update todo set owner = '{bob}'") == 3
    assert perform(tables, ALICE, "update todo set content = 'x'") == 0
    assert perform(tables, ALICE, "delete from todo") == 0
    assert seen(tables) == [[], [1, 2, 3, 4], [5]]


def test_several_rows_are_given_to_different_people_by_one_statement(tables: Database) -> None:
    given = perform(
        tables,
        ALICE,
        f"update todo set owner = case id when 1 then '{bob}' when 2 then '{carol}' else owner end where id < 9 returning id, owner",
    )

    assert sorted(given) == [(1, bob), (2, carol), (3, alice)]
    assert seen(tables) == [[3], [1, 4], [2, 5]]


def test_several_statements_of_one_transaction_give_to_different_people(tables: Database) -> None:
    perform(
        tables,
        ALICE,
        f"update todo set owner = '{bob}' where id = 1",
        f"update todo set owner = '{carol}' where id = 2",
        "update todo set content = 'x' where id = 3",
    )

    assert seen(tables) == [[3], [1, 4], [2, 5]]


def test_a_statement_that_gives_away_shows_nothing_of_the_new_owners_other_rows(tables: Database) -> None:
    """What it reads is as it was before; what the next one reads, as it is after."""
    read_again = perform(
        tables,
        ALICE,
        f"with moved as (update todo set owner = '{bob}' where id = 1 returning *)"
        " select moved.id, todo.id, todo.owner from moved, todo order by todo.id",
    )
    returned = perform(
        tables,
        ALICE,
        f"update todo set owner = '{bob}' where id = 2 returning id, (select array_agg(id) from todo where owner = '{bob}'),"
        " array(select id from todo as other order by id), exists (select from todo where id = 4)",
    )

    assert read_again == [(1, 1, alice), (1, 2, alice), (1, 3, alice)]
    assert returned == [(2, None, [2, 3], False)]
    assert seen(tables) == [[3], [1, 2, 4], [5]]


def test_two_parts_of_one_statement_give_to_different_people(tables: Database) -> None:
    given = perform(
        tables,
        ALICE,
        f"with one as (update todo set owner = '{bob}' where id = 1 returning *),"
        f" two as (update todo set owner = '{carol}' where id = 2 returning *)"
        " select id, owner from one union all select id, owner from two order by id",
    )

    assert given == [(1, bob), (2, carol)]
    assert seen(tables) == [[3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "statement",
    [
        f"update todo set owner = '{alice}' where id = 4",
        f"update todo set owner = '{alice}' where id = 4 returning *",
        f"update todo set owner = '{alice}' where owner = '{bob}'",
        f"update todo set owner = '{alice}' from todo as mine where mine.id = 1 and todo.id = 4",
        f"merge into todo using (values (4)) as given (id) on given.id = todo.id when matched then update set owner = '{alice}'",
        "merge into todo using (values (4)) as given (id) on given.id = todo.id when matched then delete",
        f"with moved as (update todo set owner = '{alice}' where id = 4 returning *) select * from moved",
    ],
)
def test_anothers_row_is_not_taken(statement: str, tables: Database) -> None:
    assert perform(tables, ALICE, statement) in (0, [])
    assert tables.rows("select owner from todo where id = 4") == [(bob,)]


@pytest.mark.parametrize("returning", ["", " returning *"])
@pytest.mark.parametrize("change", [f"owner = '{alice}'", "owner = excluded.owner", "content = 'x'"])
def test_an_upsert_on_anothers_row_is_refused(change: str, returning: str, tables: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        perform(tables, ALICE, f"insert into todo (id) values (4) on conflict (id) do update set {change}{returning}")

    assert tables.rows("select content, owner from todo where id = 4") == [("b", bob)]


def test_a_merge_that_finds_anothers_row_does_not_change_it(tables: Database) -> None:
    """It is no match for her, and the key is taken all the same."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        perform(
            tables,
            ALICE,
            "merge into todo using (values (1), (4)) as given (id) on given.id = todo.id"
            f" when matched then update set owner = '{carol}' when not matched then insert (id) values (given.id)",
        )

    assert tables.rows("select id, owner from todo where id in (1, 4) order by id") == [(1, alice), (4, bob)]


def test_nobody_is_no_new_owner(tables: Database) -> None:
    for nobody in ("null", "nullif('x', 'x')"):
        for rest in ("", " where id = 1", " where id = 1 returning *"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                perform(tables, ALICE, f"update todo set owner = {nobody}{rest}")
    with pytest.raises(psycopg.errors.CheckViolation):
        perform(tables, ALICE, "update todo set owner = '' where id = 1")

    assert tables.rows("select count(*) from todo where owner = %s", [alice]) == [(3,)]


def test_what_is_rolled_back_was_not_given_away(tables: Database) -> None:
    with tables.connect_as_app() as conn, as_user(conn, ALICE):
        with conn.transaction():
            conn.execute(f"update todo set owner = '{bob}' where id = 1")
            raise Rollback
        assert conn.execute("select owner from todo where id = 1").fetchall() == [(alice,)]
        with conn.transaction():
            conn.execute(f"update todo set owner = '{carol}' where id = 1")

    assert seen(tables) == [[2, 3], [4], [1, 5]]


def test_the_next_transaction_does_not_know_to_whom_a_row_went(tables: Database) -> None:
    with tables.connect_as_app() as conn:
        with as_user(conn, ALICE):
            conn.execute(f"update todo set owner = '{bob}' where id = 1")
        with as_user(conn, ALICE):
            assert conn.execute("select current_setting('rlskit.moving_to', true)").fetchall() == [("",)]


# --- lists of owners ---------------------------------------------------------------------------------

# who has the row, who changes it, how, and who has it then
LISTS: dict[str, tuple[list[str], Identity, str, list[str]]] = {
    "given away": ([alice], ALICE, f"array['{bob}']", [bob]),
    "given to several": ([alice], ALICE, f"array['{bob}', '{carol}']", [bob, carol]),
    "given to several, in another order": ([alice], ALICE, f"'{{{carol},{bob}}}'", [carol, bob]),
    "given to the same twice": ([alice], ALICE, f"array['{bob}', '{bob}']", [bob, bob]),
    "given to a bare username": ([alice], ALICE, "array['bob']", ["bob"]),
    "a co-owner is added": ([alice], ALICE, f"array_append(editors, '{bob}')", [alice, bob]),
    "a co-owner is added in front": ([alice], ALICE, f"array_prepend('{bob}', editors)", [bob, alice]),
    "two co-owners are added": ([alice], ALICE, f"editors || array['{bob}', '{carol}']", [alice, bob, carol]),
    "a co-owner is removed": ([alice, bob], ALICE, f"array_remove(editors, '{bob}')", [alice]),
    "one leaves": ([alice, bob], ALICE, f"array_remove(editors, '{alice}')", [bob]),
    "one leaves two": ([bob, alice, carol], ALICE, f"array_remove(editors, '{alice}')", [bob, carol]),
    "a co-owner removes who made it": ([alice, bob], BOB, f"array_remove(editors, '{alice}')", [bob]),
    "a co-owner puts another in the maker's place": ([alice, bob], BOB, f"array_replace(editors, '{alice}', '{carol}')", [carol, bob]),
}  # fmt: skip


LIST_WAYS = (
    "update article set editors = {value} where id = 1",
    "update article set editors = {value} where id = 2 returning id",
    "with moved as (update article set editors = {value} where id = 3 returning *) select id from moved",
    "merge into article using (values (4)) as given on id = given.column1 when matched then update set editors = {value}",
    "insert into article (id) values (5) on conflict (id) do update set editors = {value}",
)


@pytest.mark.parametrize("change", LISTS)
def test_a_list_of_owners_changes(change: str, tables: Database) -> None:
    before, who, value, after = LISTS[change]
    with tables.connect(autocommit=True) as admin:
        admin.execute("delete from article")
        admin.execute("insert into article select n, 'a', %s from generate_series(1, 5) as n", [before])
        admin.execute("insert into article values (6, 'd', '{dave}')")

    with tables.connect_as_app() as conn:
        for way in LIST_WAYS:
            # DO UPDATE knows the column of two rows, so the table has to be named
            given = way.format(value=value.replace("editors", "article.editors"))
            with as_user(conn, who):
                assert conn.execute(given).rowcount == 1

    assert tables.rows("select editors from article order by id") == [(after,)] * 5 + [(["dave"],)]
    for keys, person in zip(seen(tables, "article"), (ALICE, BOB, CAROL), strict=True):
        assert keys == [1, 2, 3, 4, 5] * bool(set(person.spellings) & set(after))


@pytest.mark.parametrize("change", LISTS)
def test_a_list_of_owners_changes_without_a_condition(change: str, tables: Database) -> None:
    before, who, value, after = LISTS[change]
    with tables.connect(autocommit=True) as admin:
        admin.execute("delete from article")
        admin.execute("insert into article values (1, 'a', %s), (6, 'd', '{dave}')", [before])

    assert perform(tables, who, f"update article set editors = {value}") == 1
    assert tables.rows("select editors from article order by id") == [(after,), (["dave"],)]


EMPTY_LISTS = [
    "'{}'",
    "null",
    f"array_remove(editors, '{alice}')",
    "array[null]",
    f"array[null, '{bob}']",
    "array['']",
    f"array['{bob}', '']",
    f"array[array['{bob}']]",
]


@pytest.mark.parametrize("value", EMPTY_LISTS)
def test_a_list_that_names_nobody_or_an_impossible_name_is_refused(value: str, tables: Database) -> None:
    for rest in ("", " where id = 1", " where id = 1 returning *"):
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)):
            perform(tables, ALICE, f"update article set editors = {value}{rest}")

    assert tables.rows("select editors from article where id = 1") == [([alice],)]


# --- an owner and a list on one table ----------------------------------------------------------------

# who changes the row of alice that bob may edit, how, and who sees it then
BOTH: dict[str, tuple[Identity, str, list[Identity]]] = {
    "the owner leaves and an editor stays": (ALICE, "owner = null", [BOB]),
    "the owner leaves to another editor": (ALICE, f"owner = null, editors = '{{{carol}}}'", [CAROL]),
    "the list is emptied and the owner stays": (ALICE, "editors = '{}'", [ALICE]),
    "the list is gone and the owner stays": (ALICE, "editors = null", [ALICE]),
    "another owner, the editor stays": (ALICE, f"owner = '{carol}'", [BOB, CAROL]),
    "another owner, and no editor": (ALICE, f"owner = '{carol}', editors = '{{}}'", [CAROL]),
    "another owner, and another editor": (ALICE, f"owner = '{bob}', editors = '{{{carol}}}'", [BOB, CAROL]),
    "the owner becomes an editor": (ALICE, f"owner = '{bob}', editors = '{{{alice}}}'", [ALICE, BOB]),
    "the editor leaves": (BOB, "editors = '{}'", [ALICE]),
    "the editor gives his place to another": (BOB, f"editors = '{{{carol}}}'", [ALICE, CAROL]),
    "the editor takes the row over": (BOB, f"owner = '{bob}', editors = null", [BOB]),
    "the editor gives the row to a third": (BOB, f"owner = '{carol}', editors = '{{}}'", [CAROL]),
}


@pytest.mark.parametrize("change", BOTH)
def test_an_owner_and_a_list_change_on_one_table(change: str, tables: Database) -> None:
    who, values, after = BOTH[change]

    assert perform(tables, who, f"update note set {values} where id = 1 returning id") == [(1,)]
    assert seen(tables, "note") == [
        [1] * (ALICE in after),
        [1] * (BOB in after) + [4],
        [1] * (CAROL in after) + [5],
    ]


@pytest.mark.parametrize("who", [ALICE, BOB], ids=["by its owner", "by its editor"])
@pytest.mark.parametrize("nobody", ["'{}'", "null"])
def test_a_row_that_would_name_nobody_at_all_is_refused(nobody: str, who: Identity, tables: Database) -> None:
    for rest in ("", " where id = 1", " where id = 1 returning *"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            perform(tables, who, f"update note set owner = null, editors = {nobody}{rest}")

    assert tables.rows("select owner, editors from note where id = 1") == [(alice, [bob])]


# --- names, types and shapes of tables ---------------------------------------------------------------

AWKWARD = [
    "o'brien", 'quo"te', "back\\slash", "{curly}", "comma, and", "  blank", "Ünï→😀", "%s %(x)s", "NULL", "a:b", "{", '"', "\\", "x" * 250
]  # fmt: skip


def test_a_row_is_given_to_people_whatever_their_names(tables: Database) -> None:
    with tables.connect_as_app() as conn:
        for number, username in enumerate(AWKWARD, start=10):
            who = Identity(sub="5'\"\\{,", username=username)
            for table, column, key, owner in (
                ("todo", "owner", number, full(who)),
                ("article", "editors", number + 100, [full(who)]),
                ("article", "editors", number + 200, [full(who), bob]),
            ):
                with as_user(conn, ALICE):
                    conn.execute(f"insert into {table} (id) values (%s)", [key])
                    given = conn.execute(
                        f"update {table} set {column} = %s where id = %s returning {column}", [owner, key]
                    )
                    assert given.fetchall() == [(owner,)]
            with as_user(conn, who):
                assert conn.execute("select id from todo").fetchall() == [(number,)]
                assert sorted(conn.execute("select id from article")) == [(number + 100,), (number + 200,)]
            with as_user(conn, Identity(sub="5'\"\\{,", username="x" + username[:200])):
                assert conn.execute("select id from todo").fetchall() == []

    assert seen(tables, people=[ALICE]) + seen(tables, "article", [ALICE]) == [[1, 2, 3], [1]]


def test_a_row_moves_to_its_new_owners_partition(database: Database) -> None:
    """By list and by hash, and into a partition whose columns stand in another order."""
    database.execute(
        "create table by_list (dropped int, id int, content text, owner text) partition by list (owner)",
        "alter table by_list drop column dropped",
        f"create table by_list_alice partition of by_list for values in ('{alice}')",
        f"create table by_list_bob (owner text, dropped int, content text, id int, check (owner = '{bob}'))",
        "alter table by_list_bob drop column dropped",
        f"alter table by_list attach partition by_list_bob for values in ('{bob}')",
        "create table by_list_rest partition of by_list default",
        "create table by_hash (id int, content text, owner text) partition by hash (owner)",
        *(
            f"create table by_hash_{n} partition of by_hash for values with (modulus 4, remainder {n})"
            for n in range(4)
        ),
    )
    database.apply(TableRules("by_list", allow.owner()), TableRules("by_hash", allow.owner()))
    names = [f"a{n}" for n in range(8)]
    for table in ("by_list", "by_hash"):
        perform(database, BOB, f"insert into {table} (id) values (100)")
        perform(database, ALICE, f"insert into {table} (id) select generate_series(1, 10)")

        given = f"update {table} set owner = '{bob}' where id = 1 returning *"
        assert perform(database, ALICE, given) == [(1, None, bob)]
        merged = f"merge into {table} using (values (2)) as given on id = given.column1 when matched then update set owner = '{carol}'"
        assert perform(database, ALICE, merged) == 1
        for number, name in enumerate(names, start=3):
            assert perform(database, ALICE, f"update {table} set owner = '{name}' where id = {number}") == 1
        assert perform(database, ALICE, f"update {table} set owner = '{alice}' where id = 1") == 0
        assert seen(database, table) == [[], [1, 100], [2]]
        assert seen(database, table, [Identity(sub="x", username=name) for name in names]) == [
            [n] for n in range(3, 11)
        ]

    assert database.rows("select tableoid::regclass::text, id from by_list where id < 3 order by id") == [
        ("by_list_bob", 1),
        ("by_list_rest", 2),
    ]
    assert database.rows("select count(distinct tableoid) > 1 from by_hash") == [(True,)]


def test_a_row_of_a_child_that_inherits_is_given_away(database: Database) -> None:
    database.execute(
        "create table todo (id int, content text, owner text)",
        "create table archive (archived date) inherits (todo)",
        "create table old_archive (dropped int) inherits (archive)",
        "alter table old_archive drop column dropped, add column shelf text default 'top'",
    )
    database.apply(TODO)
    with database.connect(autocommit=True) as admin:
        for key, table in enumerate(("todo", "archive", "old_archive"), start=1):
            admin.execute(f"insert into {table} (id, owner) values ({key}, '{alice}'), ({key * 10}, '{bob}')")

    given = perform(database, ALICE, f"update todo set owner = '{bob}' where id < 3 returning id, owner")
    merged = perform(
        database,
        ALICE,
        f"merge into todo using (values (3), (30)) as given on id = given.column1 when matched then update set owner = '{carol}'",
    )

    assert sorted(given) == [(1, bob), (2, bob)]
    assert merged == 1
    assert seen(database) == [[], [1, 2, 10, 20, 30], [3]]


def test_varchar_columns_are_given_away(database: Database) -> None:
    database.execute("create table todo (id int, owner varchar(300), editors varchar(300)[])")
    database.apply(NOTE.at(database.rules(TODO).tables[0].name))
    perform(database, ALICE, "insert into todo (id) select generate_series(1, 3)")

    for values, row in (
        (f"owner = '{bob}', editors = '{{}}'", (1, bob, [])),
        (f"owner = null, editors = '{{{bob},{carol}}}'", (2, None, [bob, carol])),
    ):
        assert perform(database, ALICE, f"update todo set {values} where id = {row[0]} returning *") == [row]

    assert seen(database) == [[3], [1, 2], [2]]


def test_uuid_columns_are_given_away(database: Database) -> None:
    first, second = (Identity(sub=f"{n}b0f2b1e-3c4d-4e5f-8a9b-0c1d2e3f4a5b", username="u") for n in (1, 2))
    database.execute("create table todo (id int, owner uuid)")
    database.apply(TableRules("todo", allow.owner().identity_claim("sub")))
    perform(database, first, "insert into todo (id) values (1), (2)")

    given = f"update todo set owner = '{second.sub}' where id = 1 returning id, owner::text"
    assert perform(database, first, given) == [(1, second.sub)]
    assert seen(database, people=[first, second]) == [[2], [1]]
    assert perform(database, first, given) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        perform(database, first, "update todo set owner = null where id = 2")


def test_names_that_need_quoting_and_a_claim_are_given_away(database: Database) -> None:
    database.execute('create table "we""ird" (id int, "Own er" text, "select" text[])')
    rule = TableRules(
        'we"ird',
        allow.owner_defined_in("Own er").identity_claim("email"),
        allow.owners_defined_in("select").identity_claim("email").to("read", "update"),
    )
    database.apply(rule)
    perform(database, ALICE, 'insert into "we""ird" (id) values (1), (2)')

    perform(database, ALICE, """update "we""ird" set "Own er" = 'bob@example.com' where id = 1""")
    perform(database, ALICE, """update "we""ird" set "Own er" = null, "select" = '{bob@example.com}' where id = 2""")

    assert seen(database, '"we""ird"') == [[], [1, 2], []]


def test_triggers_and_columns_of_the_tables_own_are_no_hindrance(database: Database) -> None:
    """In PL/pgSQL and in C, before ours and after it, a stored column, and a value that is kept outside of the row."""
    database.execute(
        "create table todo (id int primary key, body text, words tsvector, length int generated always as (length(body)) stored)",
        "create trigger aa_words before insert or update on todo for each row execute function tsvector_update_trigger(words, 'pg_catalog.simple', body)",
        "create function stamp() returns trigger language plpgsql as $$ begin new.body := new.body || tg_argv[0]; return new; end $$",
        "create function shrink() returns trigger language plpgsql as $$ begin new.owner := lower(new.owner); return new; end $$",
        "create trigger aa_shrink before update on todo for each row execute function shrink()",
        "create trigger aa_stamp before update on todo for each row execute function stamp('<')",
        "create trigger zzz_stamp before update on todo for each row execute function stamp('>')",
        "create trigger zzz_words before update on todo for each row execute function tsvector_update_trigger(words, 'pg_catalog.simple', body)",
    )
    database.apply(TODO)
    perform(database, ALICE, "insert into todo (id, body) values (1, 'one'), (2, repeat('two ', 100000))")

    given = perform(
        database, ALICE, f"update todo set owner = '{bob.upper()}' where id < 9 returning id, length, owner"
    )

    assert sorted(given) == [(1, 5, bob), (2, 400002, bob)]
    assert seen(database) == [[], [1, 2], []]


@pytest.mark.parametrize("value", ['"\\u0000"', "1e999999"])
def test_a_row_is_given_away_whatever_json_it_holds(value: str, database: Database) -> None:
    """The type json stores texts that jsonb cannot."""
    database.execute("create table todo (id int, data json)")
    database.apply(TODO)
    perform(database, ALICE, f"insert into todo (id, data) values (1, '{value}')")

    assert perform(database, ALICE, f"update todo set owner = '{bob}' where id = 1") == 1


# --- what is written by hand -------------------------------------------------------------------------

# Whoever could run code in the application's session might write the note of the new owner: it opens nothing.
SPOOFED = {
    "for the transaction": f"select set_config('rlskit.moving_to', '{bob}', true)",
    "for the session": f"select set_config('rlskit.moving_to', '{bob}', false)",
    "by a row that was given away": f"update todo set owner = '{bob}' where id = 3",
}

# Each is performed by alice, who has the row 1 of todo, and returns nothing of bob's.
PEEKS = {
    "select": "select owner from todo",
    "select by owner": f"select owner from todo where owner = '{bob}'",
    "select for update": "select owner from todo for update",
    "select for share": f"select owner from todo where owner = '{bob}' for share",
    "select for key share": "select owner from todo for key share",
    "at the place of no row": "select owner from todo where ctid = '(4294967295,0)'::tid",
    "at every place": "select owner from todo where ctid = any (array(select format('(0,%s)', n)::tid from generate_series(1, 99) as n))",
    "in a range of places": "select owner from todo where ctid > '(0,0)' and ctid < '(4294967295,0)'",
    "a sample": "select owner from todo tablesample system (100)",
    "join": "select other.owner from todo join todo as other on true",
    "lateral": "select other.owner from todo, lateral (select * from todo as inside where inside.id > todo.id offset 0) as other",
    "count": "select owner from (select count(*) as n from todo) as counted, todo where n > 3",
    "exists": f"select 'bob' where exists (select from todo where owner = '{bob}')",
    "window": "select lead(owner) over (order by id) from todo where id < 9",
    "update": "update todo set content = 'x' returning owner",
    "update by key": "update todo set content = 'x' where id = 4 returning owner",
    "update and take": f"update todo set owner = '{alice}' where id = 4 returning 'bob'",
    "update from": "update todo set content = other.content from todo as other where other.id = 4 returning other.owner",
    "update returning others": f"update todo set content = 'x' where id = 1 returning (select max(owner) from todo where owner = '{bob}')",
    "delete": "delete from todo where id > 1 returning owner",
    "delete using": "delete from todo using todo as other where other.id = 4 returning other.owner",
    "upsert that does nothing": "insert into todo (id) values (4) on conflict do nothing returning owner",
    "in a cte": f"with spoof as materialized (select set_config('rlskit.moving_to', '{bob}', true)) select owner from spoof, todo",
    "in the target list": f"select owner, set_config('rlskit.moving_to', '{bob}', true) from todo",
    "in a condition": f"select owner from todo where set_config('rlskit.moving_to', '{bob}', true) is not null",
    "in a changing cte": "with gone as (delete from todo where id <> 1 returning owner) select owner from gone",
    "merge": "merge into todo using (values (4)) as given (id) on given.id = todo.id when matched then delete",
}


@pytest.fixture
def spoofed(tables: Database) -> Database:
    """Whole-table privileges besides, as from an administrator in a hurry: system columns can be read, and rows are hidden by policies alone."""
    with tables.connect(autocommit=True) as admin:
        admin.execute(f"grant select, insert, update, delete on todo to {tables.app}")
    return tables


@pytest.mark.parametrize("peek", PEEKS)
@pytest.mark.parametrize("spoof", SPOOFED)
def test_a_note_written_by_hand_shows_and_changes_nothing(spoof: str, peek: str, spoofed: Database) -> None:
    others = "select * from todo where owner <> %s and id <> 3 order by id"
    stored = spoofed.rows(others, [alice])
    with spoofed.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute(SPOOFED[spoof])
        cursor = conn.execute(PEEKS[peek])
        shown = {row[0] for row in cursor} if cursor.description else set()

    assert shown <= {alice, None}
    assert spoofed.rows(others, [alice]) == stored


def test_a_note_written_by_hand_opens_neither_cursor_nor_copy_nor_prepared_statement(spoofed: Database) -> None:
    with spoofed.connect_as_app(prepare_threshold=0) as conn, as_user(conn, ALICE):
        conn.execute("set local plan_cache_mode = force_generic_plan")
        conn.execute("declare before cursor for select owner from todo order by id")
        assert conn.execute("select owner from todo where id > %s", [0]).fetchall() == [(alice,)] * 3
        conn.execute(SPOOFED["for the transaction"])
        conn.execute("declare after cursor for select owner from todo order by id")
        assert conn.execute("fetch all before").fetchall() == [(alice,)] * 3
        assert conn.execute("fetch all after").fetchall() == [(alice,)] * 3
        assert conn.execute("select owner from todo where id > %s", [0]).fetchall() == [(alice,)] * 3
        with conn.cursor().copy("copy (select owner from todo) to stdout") as copied:
            assert sorted(copied.rows()) == [(alice,)] * 3


@pytest.mark.parametrize("scan", ["seqscan", "indexscan", "bitmapscan", "tidscan"])
def test_a_note_written_by_hand_opens_no_kind_of_scan(scan: str, spoofed: Database) -> None:
    with spoofed.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute(SPOOFED["for the transaction"])
        for other in ("seqscan", "indexscan", "indexonlyscan", "bitmapscan", "tidscan"):
            conn.execute(f"set local enable_{other} = {'on' if other == scan else 'off'}")
        for where in ("", f"where owner = '{bob}'", "where id = 4", "where ctid = '(4294967295,0)'"):
            assert set(conn.execute(f"select owner from todo {where}")) <= {(alice,)}


@pytest.mark.parametrize(
    "statement",
    [
        f"insert into todo values (9, 'x', '{bob}')",
        f"insert into todo values (9, 'x', '{bob}') returning *",
        f"insert into todo values (9, 'x', '{bob}') on conflict do nothing",
        f"insert into todo values (9, 'x', '{bob}') on conflict (id) do update set content = 'x'",
        f"insert into todo select 9, content, '{bob}' from todo where id = 1",
        f"with made as (insert into todo values (9, 'x', '{bob}') returning *) select * from made",
        f"merge into todo using (values (9)) as given (id) on given.id = todo.id when not matched then insert values (9, 'x', '{bob}')",
        "insert into todo (id) values (4) on conflict (id) do update set content = 'x'",
        "insert into todo (id) values (4) on conflict (id) do update set content = 'x' returning *",
    ],
)
def test_a_note_written_by_hand_makes_no_row_for_another(statement: str, spoofed: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        perform(spoofed, ALICE, SPOOFED["for the transaction"], statement)

    assert spoofed.rows("select content from todo where owner = %s", [bob]) == [("b",)]


def test_a_note_written_by_hand_opens_no_list(tables: Database) -> None:
    for table in ("article", "note"):
        with tables.connect_as_app() as conn, as_user(conn, ALICE):
            conn.execute(SPOOFED["for the transaction"])
            for statement in (
                f"select id from {table}",
                f"select id from {table} where editors && array['{bob}'] or id = 4",
                f"update {table} set content = 'x' returning id",
                f"select id from {table} for update",
                f"update {table} set editors = array['{alice}'] where id = 4 returning 4",
                f"delete from {table} where id = 4 returning 4",
            ):
                assert set(conn.execute(statement)) <= {(1,)}
            owners = (
                f"editors) values (9, '{{{bob}}}')"
                if table == "article"
                else f"owner, editors) values (9, '{bob}', null)"
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"), conn.transaction():
                conn.execute(f"insert into {table} (id, {owners} returning id")


def test_a_note_written_by_hand_is_overwritten_by_the_row_that_really_goes(tables: Database) -> None:
    given = perform(
        tables,
        ALICE,
        f"select set_config('rlskit.moving_to', '{carol}', false)",
        f"update todo set owner = '{bob}' where id = 1 returning *",
    )

    assert given == GIVEN
    assert seen(tables) == [[2, 3], [1, 4], [5]]


# --- indexes -----------------------------------------------------------------------------------------


def test_rows_are_found_by_index_though_they_may_be_given_away(database: Database) -> None:
    database.execute(*TABLES)
    database.apply(TODO, ARTICLE, NOTE)
    with database.connect(autocommit=True) as admin:
        admin.execute("insert into todo select n, 'x', 'user' || n % 500 from generate_series(1, 5000) as n")
        admin.execute("insert into article select n, 'x', array['user' || n % 500] from generate_series(1, 5000) as n")
        admin.execute(
            "insert into note select n, 'x', 'user' || n % 500, array['user' || n % 499] from generate_series(1, 5000) as n"
        )
        admin.execute("vacuum analyze")
    somebody = Identity(sub="7f", username="user7")

    for table, indexes in (
        ("todo", ["todo__owner_rlskit"]),
        ("article", ["article__editors_rlskit"]),
        ("note", ["note__owner_rlskit", "note__editors_rlskit"]),
    ):
        for statement, used in (
            (f"select * from {table}", indexes),
            (f"select count(*) from {table}", indexes),
            (f"select * from {table} where content = 'x'", indexes),
            (f"update {table} set content = 'y'", indexes),
            (f"delete from {table}", indexes),
            (f"select * from {table} for update", indexes),
            (f"select * from {table} where id = 7", [f"{table}_pkey"]),
            (f"update {table} set content = 'y' where id = 7 returning *", [f"{table}_pkey"]),
            (f"delete from {table} where id = 7", [f"{table}_pkey"]),
        ):
            explained = "\n".join(row[0] for row in perform(database, somebody, f"explain {statement}"))
            assert "Seq Scan" not in explained, f"{statement}\n{explained}"
            assert [index for index in used if index not in explained] == []
    assert perform(database, somebody, "select count(*) from todo") == [(10,)]


# --- reassign="never" --------------------------------------------------------------------------------


def test_where_nothing_may_be_given_away_whoever_changes_a_row_stays_in_it(tables: Database) -> None:
    for who, values in (
        (ALICE, f"owner = '{bob}'"),
        (ALICE, f"owner = '{carol}', editors = '{{{bob}}}'"),
        (ALICE, "owner = null"),
        (ALICE, "owner = null, editors = null"),
        (BOB, "editors = '{}'"),
        (BOB, f"editors = '{{{carol}}}'"),
        (BOB, f"editors = array_replace(editors, '{bob}', '{alice}')"),
        (BOB, f"owner = '{carol}', editors = '{{{alice}}}'"),
    ):
        for rest in ("", " where id = 1", " where id = 1 returning *"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                perform(tables, who, SPOOFED["for the transaction"], f"update letter set {values}{rest}")

    assert tables.rows("select * from letter") == [(1, "a", alice, [bob])]


@pytest.mark.parametrize(
    ("who", "values"),
    [
        (ALICE, "content = 'x'"),
        (BOB, "content = 'x'"),
        (ALICE, "owner = owner"),
        (ALICE, "owner = 'alice'"),
        (ALICE, f"editors = '{{{bob},{carol}}}'"),
        (ALICE, "editors = '{}'"),
        (ALICE, f"owner = '{bob}', editors = '{{{alice}}}'"),
        (BOB, f"editors = '{{{bob},{carol}}}'"),
        (BOB, f"owner = '{bob}', editors = null"),
        (BOB, f"owner = '{carol}'"),
    ],
)
def test_where_nothing_may_be_given_away_a_change_that_keeps_its_maker_is_made(
    who: Identity, values: str, tables: Database
) -> None:
    assert perform(tables, who, f"update letter set {values} where id = 1 returning id") == [(1,)]
    assert seen(tables, "letter", [who]) == [[1]]


def test_where_nothing_may_be_given_away_there_is_nothing_that_would_let_it_go(tables: Database) -> None:
    assert tables.rows("select tgrelid::regclass::text from pg_trigger where not tgisinternal order by 1") == [
        ("article",),
        ("note",),
        ("todo",),
    ]
    assert tables.rows(
        "select tablename::text from pg_policies where qual like '%%moving_to%%' or with_check like '%%moving_to%%' order by 1"
    ) == [("article",), ("note",), ("todo",)]


def test_a_new_row_for_whom_one_has_given_a_row_is_returned_until_the_transaction_ends(database: Database) -> None:
    """Whoever inserts it has said it all: the note of the gift shows no row that is stored, hers or another's."""
    database.execute("create table todo (id int)")
    database.apply(TableRules("todo", allow.owner(), allow.owner_defined_in("author").to("create")))
    new = "insert into todo (id, author, owner) values (2, 'alice', 'bob') returning id"
    perform(database, ALICE, "insert into todo (id) values (1)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        perform(database, ALICE, new)

    with database.connect_as_app() as conn, as_user(conn, ALICE):
        conn.execute("update todo set owner = 'bob' where id = 1")
        assert conn.execute(new).fetchall() == [(2,)]
        assert conn.execute("select * from todo").fetchall() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        perform(database, ALICE, new)
