"""`rlskit.filler`: a row for every kind of table, made up where nobody says it, and repeated in plain SQL; what cannot be made up is said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from rlskit import TableRules, allow, ddl
from rlskit.errors import PlanError, UnfillableError, UnknownColumnError
from rlskit.filler import patterns
from rlskit.filler.inserter import Filler, insertion
from rlskit.names import QualifiedName
from tests.support import ALICE, BOB, Database, Server, fresh_database, full, perform

ZOO = (Path(__file__).parent / "zoo.sql").read_text(encoding="utf-8")


def named(written: str) -> QualifiedName:
    schema, _, name = written.rpartition(".")
    return QualifiedName(schema or "public", name.strip('"').replace('""', '"'))


# In a partitioned table the partition of the first row is filled too; the tables of a parent are all found by this.
TABLES = [
    named(each) for each in re.findall(r'^create table ((?:\w+\.)?(?:\w+|"(?:[^"]|"")+"))', ZOO, flags=re.MULTILINE)
]
PLAIN = [each for each in TABLES if not re.search(r"_(eu|24|1|0|may)$", each.name)]


@pytest.fixture(scope="module")
def zoo(server: Server) -> Iterator[Database]:
    with fresh_database(server, "zoo") as database:
        with database.connect() as conn:
            conn.execute(ZOO)
        yield database


@pytest.fixture(scope="module")
def shared(zoo: Database) -> Iterator[psycopg.Connection[Any]]:
    """One connection for many tests; nothing is ever committed."""
    with zoo.connect() as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def conn(shared: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """As superuser, in a transaction that is rolled back: no access is tested here."""
    yield shared
    shared.rollback()


def count(conn: psycopg.Connection[Any], table: QualifiedName) -> int:
    row = conn.execute(SQL("select count(*) from {}").format(ddl.qualified(table))).fetchone()
    assert row is not None
    return int(row[0])


def contents(conn: psycopg.Connection[Any], table: QualifiedName) -> list[Any]:
    rows = conn.execute(SQL("select row_.*::text from {} as row_").format(ddl.qualified(table))).fetchall()
    return sorted(str(row) for row in rows)


# --- every kind of table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_any_table_is_filled(conn: psycopg.Connection[Any], table: QualifiedName) -> None:
    """Three rows that are stored, and a fourth whose values are taken when an INSERT names them."""
    filler = Filler(conn)

    for _ in range(3):
        filler.insert(table, {})
    before = count(conn, table)
    new = filler.new(table, {})
    tried = count(conn, table)
    conn.execute(insertion(filler.shape(table), new))
    conn.execute("set constraints all immediate")

    assert (tried - before, count(conn, table) - before) == (0, 1)


def test_what_was_made_is_repeated_in_plain_sql(conn: psycopg.Connection[Any]) -> None:
    filler = Filler(conn)
    for table in PLAIN:
        filler.insert(table, {})
        filler.insert(table, {})
    conn.execute("set constraints all immediate")
    before = {table: contents(conn, table) for table in PLAIN}

    conn.execute(SQL("truncate {}").format(SQL(", ").join(map(ddl.qualified, PLAIN))))
    conn.execute("set constraints all deferred")
    for table, row in filler.made:
        conn.execute(insertion(filler.shape(table), row))
    conn.execute("set constraints all immediate")

    assert {table: contents(conn, table) for table in PLAIN} == before
    assert all(len(rows) >= 2 for rows in before.values())


def test_any_random_schema_is_filled(zoo: Database) -> None:
    """Columns, conditions and keys in any combination that has rows."""
    random = Random(6)
    kinds = [
        "int check ({0} > 3)", "text check (length({0}) between 2 and 9)", "mood", "numeric(6, 2) check ({0} between 1 and 50)", "date",
        "uuid default gen_random_uuid()", "text check ({0} in ('a', 'b'))", "timestamptz check ({0} > '2020-02-02')", "text[] check (cardinality({0}) > 0)",
        "varchar(4)", "email", "boolean", "jsonb", "char(3) check ({0} ~ '^[A-Z]+$')",
    ]  # fmt: skip
    with zoo.connect() as conn:
        conn.execute("create schema random")
        for number in range(30):
            parts = [
                "id int generated always as identity primary key" if random.random() < 0.5 else "id uuid primary key"
            ]
            parts[0] = random.choice(
                ["id int generated always as identity primary key", "id int primary key", "id serial primary key"]
            )
            for place in range(random.randint(1, 6)):
                column = f"c{place}"
                rest = random.choice(["", " not null"])
                parts.append(f"{column} {random.choice(kinds).format(column)}{rest}")
            for place in range(random.randint(0, 3) if number else 0):
                unique = random.choice(["", " unique"])
                parts.append(
                    f"p{place} int{random.choice(['', ' not null'])}{unique} references t{random.randrange(number)}"
                )
            conn.execute(
                f"set local search_path = random, public; create table t{number} ({', '.join(parts)})".encode()
            )
        filler = Filler(conn)

        for number in range(30):
            for _ in range(3):
                filler.insert(QualifiedName("random", f"t{number}"), {})

            assert count(conn, QualifiedName("random", f"t{number}")) >= 3
        conn.rollback()


# --- what is given ---------------------------------------------------------------------------------------------------


def test_what_is_given_is_stored(conn: psycopg.Connection[Any]) -> None:
    row = Filler(conn).insert(
        QualifiedName("public", "texts"), {"a": 'alice\'s \\ "own"', "optional": None, "filled": "%s"}
    )

    assert (row["a"], row["optional"], row["filled"]) == ('alice\'s \\ "own"', None, "%s")


def test_values_come_back_as_postgresql_writes_them(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "create table mixed (id int primary key, owner uuid, editors text[], tags varchar(9)[], at timestamptz, numbers int[])"
    )
    given = {"id": 7, "editors": ["a,b", 'c"d', None], "tags": [], "numbers": [1, 2]}

    row = Filler(conn).insert(QualifiedName("public", "mixed"), given)

    assert row == {
        "id": "7",
        "owner": None,
        "editors": ["a,b", 'c"d', None],
        "tags": [],
        "at": None,
        "numbers": "{1,2}",
    }


def test_the_row_that_a_given_value_names_is_made(conn: psycopg.Connection[Any]) -> None:
    """An owner column may be a foreign key: the person is there before his row."""
    person, alice = QualifiedName("public", "person"), "0b1f5c2e-8f0a-4f6e-9a43-7d1f6f2c9e11"
    filler = Filler(conn)

    filler.insert(QualifiedName("public", "remark"), {"person": alice})
    filler.insert(QualifiedName("public", "remark"), {"person": alice})
    filler.new(QualifiedName("public", "remark"), {"person": alice})

    assert [row["id"] for table, row in filler.made if table == person] == [alice]


def test_a_part_of_a_key_that_is_given_is_the_parents_too(conn: psycopg.Connection[Any]) -> None:
    filler = Filler(conn)
    tenants = [filler.insert(QualifiedName("public", "tenant"), {})["id"] for _ in range(2)]

    rows = [filler.insert(QualifiedName("public", "doc"), {"tenant_id": each}) for each in tenants]

    assert [row["tenant_id"] for row in rows] == tenants
    assert len({row["author"] for row in rows}) == 2


def test_a_parent_is_shared_unless_the_column_is_unique(conn: psycopg.Connection[Any]) -> None:
    filler = Filler(conn)

    for _ in range(4):
        filler.insert(QualifiedName("forum", "topic"), {})
        filler.insert(QualifiedName("public", "person"), {})
    made = [table.name for table, _ in filler.made]

    assert (made.count("board"), made.count("account"), made.count("city"), made.count("country")) == (1, 1, 4, 1)


def test_parents_are_made_until_two_of_them_fit(conn: psycopg.Connection[Any]) -> None:
    """Two people, the lesser first, and no two twice, where who is lesser is a matter of luck."""
    filler, friends = Filler(conn), QualifiedName("public", "friends")

    for _ in range(40):
        filler.insert(friends, {})

    assert count(conn, friends) == 40


def test_columns_that_are_not_asked_for_are_left_out(conn: psycopg.Connection[Any]) -> None:
    """A check may ask for one that is nullable or has a default, and then it is named."""
    filler = Filler(conn)

    assert set(filler.new(QualifiedName("forum", "account"), {})) == {"handle"}
    assert set(filler.new(QualifiedName("shop", "purchase"), {})) == {"customer_id", "number"}
    assert set(filler.new(QualifiedName("shop", "purchase"), {"status": "paid"})) == {
        "customer_id",
        "number",
        "paid_at",
    }
    assert len(set(filler.new(QualifiedName("public", "remark"), {})) & {"doc_id", "person"}) == 1


@pytest.mark.parametrize(
    ("table", "column", "default"),
    [
        pytest.param("texts", "filled", "x", id="has a default"),
        pytest.param("texts", "optional", None, id="may be NULL"),
        pytest.param("texts", "a", None, id="is required"),
        pytest.param("demands", "filled", "bad", id="has a check"),
        pytest.param("person", "boss", None, id="is a foreign key"),
        pytest.param("switch", "off", "false", id="has two values"),
    ],
)
def test_a_value_that_is_not_the_default_is_made_up(
    conn: psycopg.Connection[Any], table: str, column: str, default: str | None
) -> None:
    conn.execute("create table switch (id serial primary key, off boolean not null default false)")
    filler, place = Filler(conn), QualifiedName("public", table)

    value = filler.value(place, column)

    assert value not in (default, None)
    assert count(conn, place) == (1 if column == "boss" else 0)
    assert filler.insert(place, {column: value})[column] == value


def test_rows_that_are_there_already_are_in_nobodys_way(conn: psycopg.Connection[Any]) -> None:
    """A sequence that was left behind, and letters of which there are few."""
    conn.execute("create table old (id serial primary key, letter char(1) not null unique)")
    conn.execute("insert into old select number, chr(96 + number) from generate_series(1, 20) as number")
    filler = Filler(conn)

    for _ in range(4):
        filler.insert(QualifiedName("public", "old"), {})

    assert count(conn, QualifiedName("public", "old")) == 24


def test_a_trigger_has_the_last_word(conn: psycopg.Connection[Any]) -> None:
    filler = Filler(conn)

    row = filler.insert(QualifiedName("public", "stamped"), {"name": "milk"})

    assert (row["shouted"], row["stamp"][:10]) == ("MILK", "2020-01-01")
    assert filler.made[-1] == (QualifiedName("public", "stamped"), row)


def test_rows_are_stored_past_the_rules(database: Database) -> None:
    """Where nobody asks, the default of an owner column is NULL, and a column that takes none is made up like others."""
    database.execute(
        "create table note (id serial primary key, text text not null, owner text not null, editors text[])"
    )
    database.apply(TableRules("note", allow.owner(), allow.owners_defined_in("editors").to("read")))
    note = QualifiedName("public", "note")

    with database.connect() as conn:
        filler = Filler(conn)
        mine, another = filler.insert(note, {"owner": full(ALICE), "editors": [full(BOB)]}), filler.insert(note, {})
        conn.commit()

    assert (mine["owner"], mine["editors"], bool(another["owner"])) == (full(ALICE), [full(BOB)], True)
    assert perform(database, ALICE, "select id::text from note") == [(mine["id"],)]
    assert perform(database, BOB, "select id::text from note") == [(mine["id"],)]


def test_values_say_what_cannot_be_guessed(conn: psycopg.Connection[Any]) -> None:
    conn.execute("create table riddle (id serial primary key, answer text not null check (md5(answer) = md5('42')))")

    row = Filler(conn, values={"riddle": {"answer": "42"}}).insert(QualifiedName("public", "riddle"), {})

    assert row["answer"] == "42"


def test_the_shape_says_what_a_table_is_like(conn: psycopg.Connection[Any]) -> None:
    filler = Filler(conn)
    numbers, booking, line = (
        filler.shape(each)
        for each in (
            QualifiedName("public", "numbers"),
            QualifiedName("public", "booking"),
            QualifiedName("shop", "line"),
        )
    )
    id_, doubled = numbers.columns[0], numbers.columns[-1]

    assert (id_.type, id_.not_null, id_.has_default, id_.identity, id_.writable) == ("bigint", True, True, "a", False)
    assert (doubled.generated, doubled.writable, doubled.required) == (True, False, False)
    assert numbers.required == ("a", "b", "c", "d", "e", "f", "g", "h", "i")
    assert (numbers.key, booking.key, line.key) == (("id",), (), ("purchase_id", "sku"))
    assert line.unique == (("purchase_id", "sku"),)
    assert [(each.columns, str(each.target), each.target_columns) for each in line.foreign_keys] == [
        (("purchase_id",), "shop.purchase", ("id",)),
        (("sku",), "shop.product", ("sku",)),
    ]


@pytest.mark.parametrize("table", ["country", "remark"])
def test_a_schema_is_read_by_the_same_few_queries(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A table that stands alone, and one whose keys lead to many."""
    asked: list[str] = []
    execute = psycopg.Cursor.execute

    def noting(cursor: Any, query: Any, *rest: Any, **options: Any) -> Any:
        asked.append(str(query))
        return execute(cursor, query, *rest, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)
    Filler(conn).shape(QualifiedName("public", table))

    assert len([each for each in asked if "from pg_" in each]) == 5


# --- patterns --------------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    "^[A-Z]{2}-[0-9]{4,6}$", r"^\d{3}(-\d{4})?$", "^(open|closed)$", "^[^@ ]+@[^@ ]+[.][a-z]{2,}$", "^[[:alpha:]][[:alnum:]_]*$", r"^\+?[1-9]\d{1,14}$",
    "^(?:a|b(c|d)){2}$", "^#[0-9a-f]{6}$", r"^[\w.-]+$", "x.y", r"^\(\d+\)$", "^[]a]+$", "^[^]a-z]$", "^a*b+?c{3}$", r"^[A-HJ-NP-Z2-9]{8}$", r"^\S+\s\S+$", "", "^$",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_text_matches_the_expression_that_it_is_made_for(conn: psycopg.Connection[Any], expression: str) -> None:
    random = Random(1)
    texts = [patterns.matching(expression, random) for _ in range(20)]

    assert (
        conn.execute(
            "select text from unnest(%s::text[]) as text where (text ~ %s) is not true", [texts, expression]
        ).fetchall()
        == []
    )


@pytest.mark.parametrize("pattern", ["%@%", "inv-____", "100\\%", "a%b_c", "\\_%", ""])
def test_a_text_is_like_the_pattern_that_it_is_made_for(conn: psycopg.Connection[Any], pattern: str) -> None:
    row = conn.execute("select %s::text like %s", [patterns.like(pattern, Random(1)), pattern]).fetchone()

    assert row == (True,)


@pytest.mark.parametrize("expression", [r"(?=a)b", r"(a)\1", "(?i)a", "(", "[a", "a{", "*", "[[:none:]]", "a)"])
def test_an_expression_that_is_not_understood_gives_no_text(expression: str) -> None:
    assert patterns.matching(expression, Random(1)) is None


# --- what cannot be made up ------------------------------------------------------------------------------------------

HINT = 'say what it takes: "public.odd" = {{ {} }} in `values`, or in the file of --values'
REFUSED = {
    "a condition that no guess meets": (
        "create table odd (answer text not null constraint riddle check (md5(answer) = 'x'))",
        "`answer` of `public.odd` finds no value that is taken because of `riddle`",
        HINT.format('"answer" = "…"'),
    ),
    "conditions that contradict each other": (
        "create table odd (a int not null, b int, constraint more check (a > b and b > a and b is not null))",
        "`a`, `b` of `public.odd` finds no value that is taken because of `more`",
        HINT.format('"a" = "…", "b" = "…"'),
    ),
    "a domain's condition": (
        "create domain riddle as text constraint riddle check (md5(value) = 'x'); create table odd (a riddle not null)",
        "`a` of `public.odd` finds no value that is taken because of `riddle`",
        HINT.format('"a" = "…"'),
    ),
    "a type that nothing is known of": (
        "create table odd (a int, b pg_snapshot not null)",
        "`b` of `public.odd` is of a type whose values are not made up",
        HINT.format('"b" = "…"'),
    ),
    "a column that a trigger empties": (
        "create table odd (a int not null); create function empty() returns trigger language plpgsql as 'begin new.a := null; return new; end';"
        "create trigger t before insert on odd for each row execute function empty()",
        "`a` of `public.odd` finds no value that is taken",
        HINT.format('"a" = "…"'),
    ),
    "a trigger that refuses": (
        "create table odd (a text not null); create function no() returns trigger language plpgsql as 'begin raise ''no %'', new.a; end';"
        "create trigger t before insert on odd for each row execute function no()",
        "`public.odd` takes no row that is made up (RaiseException, SQLSTATE P0001)",
        HINT.format('"column" = "…"'),
    ),
    "a trigger that leaves the row out": (
        "create table odd (a text not null); create function drop() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger t before insert on odd for each row execute function drop()",
        "`public.odd` stores no row: a trigger or a rule of its own leaves it out",
        HINT.format('"column" = "…"'),
    ),
    "no place for another row": (
        "create table odd (a boolean primary key); insert into odd values (true), (false)",
        "`a` of `public.odd` finds no value that is taken because of `odd_pkey`",
        HINT.format('"a" = "…"'),
    ),
    "a partitioned table without partitions": (
        "create table odd (a int not null) partition by list (a)",
        "`a` of `public.odd` finds no value that is taken",
        HINT.format('"a" = "…"'),
    ),
    "tables that need each other's rows first": (
        "create table even (id int primary key, odd int not null); create table odd (id int primary key, even int not null references even);"
        "alter table even add foreign key (odd) references odd",
        "the foreign keys of `public.even` and of the tables that they lead to need each other's rows first",
        'name a row that is there: "public.even" = { "id" = "…" } in `values`, or in the file of --values; or make one of the keys deferrable',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_made_up_is_said(conn: psycopg.Connection[Any], schema: str, message: str, hint: str) -> None:
    conn.execute(schema.encode())

    with pytest.raises(UnfillableError) as caught:
        Filler(conn).insert(QualifiedName("public", "odd"), {})

    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # the server's own words hold values
    assert conn.execute("select 1").fetchone() == (1,)


def test_a_given_value_that_is_not_taken_is_not_repeated_in_the_error(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(UnfillableError) as caught:
        Filler(conn).insert(QualifiedName("public", "words"), {"a": "secret"})

    assert caught.value.message == "`a` of `public.words` finds no value that is taken because of `words_a_check`"


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        pytest.param({"bb": "1"}, UnknownColumnError, "table `public.numbers` has no column `bb`", id="unknown"),
        pytest.param({"doubled": "1"}, UnfillableError, "`public.numbers.doubled` is generated", id="generated"),
    ],
)
def test_a_column_that_cannot_be_given_is_refused(
    conn: psycopg.Connection[Any], given: dict[str, str], kind: type[Exception], message: str
) -> None:
    table = QualifiedName("public", "numbers")

    with pytest.raises(kind, match=re.escape(message)):
        Filler(conn).insert(table, given)
    with pytest.raises(kind, match=re.escape(message)):
        Filler(conn, values={"numbers": given}).shape(table)


@pytest.mark.parametrize("name", ["missing", "view"])
def test_only_a_table_takes_rows(conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute("create view view as select 1 as one")

    with pytest.raises(PlanError, match=f"table `public.{name}` does not exist"):
        Filler(conn).insert(QualifiedName("public", name), {})


def test_a_login_that_row_security_binds_is_refused(zoo: Database) -> None:
    """Also where it is bound only at a table that the row would need."""
    with zoo.connect() as conn:
        conn.execute("alter table tenant enable row level security")
        conn.execute(SQL("grant all on all tables in schema public to {}").format(Identifier(zoo.app)))
        conn.execute(SQL("set local role {}").format(Identifier(zoo.app)))

        with pytest.raises(PlanError, match=r"row security binds .* at `public\.tenant`"):
            Filler(conn).insert(QualifiedName("public", "doc"), {})
        conn.rollback()


def test_rows_outside_of_a_transaction_are_refused(zoo: Database) -> None:
    with zoo.connect(autocommit=True) as conn:
        filler, country = Filler(conn), QualifiedName("public", "country")

        with pytest.raises(PlanError, match="outside of a transaction"):
            filler.insert(country, {})
        with conn.transaction(force_rollback=True):
            filler.insert(country, {})

        assert count(conn, country) == 0


def test_nothing_is_committed(zoo: Database) -> None:
    """Not even on a connection that was idle, where a savepoint would be a transaction of its own."""
    country = QualifiedName("public", "country")
    with zoo.connect() as conn, zoo.connect() as other:
        filler = Filler(conn)
        filler.insert(country, {})
        filler.new(QualifiedName("public", "city"), {})

        assert (count(conn, country), count(other, country)) == (2, 0)
        conn.rollback()


def test_a_name_with_quotes_stays_a_name(conn: psycopg.Connection[Any]) -> None:
    conn.execute('create table "drop ""x"" %s" ("a b" text not null check ("a b" <> $$a\'b"$$), "%(c)s" int default 4)')
    table = QualifiedName("public", 'drop "x" %s')

    row = Filler(conn).insert(table, {"%(c)s": "5"})
    found = conn.execute(
        SQL("select 1 from {} where {} = {}").format(ddl.qualified(table), Identifier("a b"), Literal(row["a b"]))
    )

    assert (row["%(c)s"], found.fetchone()) == ("5", (1,))
