"""Several sessions at once: whoever waits for a row goes on only if it is theirs when the wait is over."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import IsolationLevel, Rollback
from psycopg.pq import TransactionStatus

from rlskit import Identity, TableRules, allow, as_user
from tests.support import ALICE, BOB, CAROL, Database, Server, fresh_database, full

alice, bob, carol = map(full, (ALICE, BOB, CAROL))

Connection: TypeAlias = psycopg.Connection[Any]

LIMIT = 20  # seconds; the server ends a statement then, and a test fails

ONE_SNAPSHOT = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


@dataclass(frozen=True)
class Kind:
    """A table of one kind, and who gives its first row from alice to bob. Rows: 1, 2 and 4 are alice's, 3 is bob's."""

    table: str
    column: str
    giver: Identity
    rows: str
    to_bob: str
    to_carol: str

    @property
    def giving(self) -> str:
        return self.statement("update {table} set {column} = {to_bob} where id = 1")

    def statement(self, template: str) -> str:
        return template.format(table=self.table, column=self.column, to_bob=self.to_bob, to_carol=self.to_carol)


KINDS = {
    "owner": Kind(
        table="todo",
        column="owner",
        giver=ALICE,
        rows=f"(1, 'a', '{alice}'), (2, 'a', '{alice}'), (3, 'b', '{bob}'), (4, 'a', '{alice}')",
        to_bob=f"'{bob}'",
        to_carol=f"'{carol}'",
    ),
    "list": Kind(  # where bob removes alice
        table="article",
        column="editors",
        giver=BOB,
        rows=f"(1, 'a', array['{alice}', '{bob}']), (2, 'a', array['{alice}']), (3, 'b', array['{bob}']), (4, 'a', array['{alice}'])",
        to_bob=f"array['{bob}']",
        to_carol=f"array['{carol}']",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "concurrency") as database:
        database.execute(
            "create table todo (id int primary key, content text, owner text)",
            "create table article (id int primary key, content text, editors text[])",
        )
        database.apply(TableRules("todo", allow.owner()), TableRules("article", allow.owners_defined_in("editors")))
        with database.connect(autocommit=True) as admin:
            admin.execute(f"alter role {database.app} set deadlock_timeout = '50ms'")
        yield database


@pytest.fixture
def tables(shared: Database) -> Database:
    with shared.connect(autocommit=True) as admin:
        for each in KINDS.values():
            admin.execute(f"delete from {each.table}; insert into {each.table} values {each.rows}")
    return shared


class Session:
    """Somebody's transaction on a connection of its own, in which one statement may wait in a thread of its own."""

    def __init__(self, conn: Connection, monitor: Connection, who: Identity, isolation: IsolationLevel | None) -> None:
        self.conn, self.monitor = conn, monitor
        self.conn.isolation_level = isolation
        self.block = as_user(self.conn, who)
        self.block.__enter__()
        self.thread: threading.Thread | None = None
        self.result: Any = None

    def execute(self, statement: str) -> Any:
        """The rows that it returns, or how many it touches."""
        cursor = self.conn.execute(statement)
        return cursor.fetchall() if cursor.description else cursor.rowcount

    def run(self, statement: str) -> None:
        """Keep what the statement comes to, its error too."""
        try:
            self.result = self.execute(statement)
        except psycopg.Error as error:
            self.result = error

    def start(self, statement: str) -> None:
        """Run the statement in a thread, and return when the server says that it waits for a lock."""
        self.thread = threading.Thread(target=self.run, args=[statement], daemon=True)
        self.thread.start()
        until = time.monotonic() + LIMIT
        waiting = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        while self.monitor.execute(waiting, [self.conn.info.backend_pid]).fetchone() != (True,):
            assert self.thread.is_alive(), f"it did not wait: {self.result!r}"
            assert time.monotonic() < until, "it neither waited nor ended"
            time.sleep(0.002)

    def outcome(self) -> Any:
        """What the statement in the thread came to: its rows or its count, or else its error is raised."""
        assert self.thread is not None
        self.thread.join(LIMIT)
        assert not self.thread.is_alive(), "it still waits"
        if isinstance(self.result, psycopg.Error):
            raise self.result
        return self.result

    def commit(self) -> None:
        self.block.__exit__(None, None, None)

    def rollback(self) -> None:
        self.block.__exit__(Rollback, Rollback(), None)

    def close(self) -> None:
        if self.thread is not None:
            self.thread.join(LIMIT)
        if self.conn.info.transaction_status != TransactionStatus.IDLE:
            self.rollback()


Sessions = Callable[..., Session]


@pytest.fixture(scope="module")
def connections(shared: Database) -> Iterator[list[Connection]]:
    """The superuser's, who looks on, and the application's that no session uses."""
    idle = [shared.connect(autocommit=True)]
    yield idle
    for each in idle:
        each.close()


@pytest.fixture
def session(tables: Database, connections: list[Connection]) -> Iterator[Sessions]:
    """Opens sessions. In the end those that wait for none are closed first, so that the others wait no more."""
    opened: list[Session] = []

    def begin(who: Identity, isolation: IsolationLevel | None = None) -> Session:
        monitor, *idle = connections
        conn = connections.pop() if idle else tables.connect_as_app(options=f"-c statement_timeout={LIMIT}s")
        opened.append(Session(conn, monitor, who, isolation))
        return opened[-1]

    yield begin
    for each in sorted(opened, key=lambda one: one.thread is not None and one.thread.is_alive()):
        each.close()
        connections.append(each.conn)


def touched(result: Any) -> int:
    return len(result) if isinstance(result, list) else result


def stored(database: Database, kind: Kind) -> list[tuple[Any, ...]]:
    return database.rows(f"select id, content, {kind.column} from {kind.table} where id = 1")


# --- alice waits for her row, which goes to bob meanwhile -----------------------------------------------

# What her second session does to the row: it waits for the first.
LATE = {
    "update": "update {table} set content = 'late' where id = 1",
    "update returning": "update {table} set content = 'late' where id = 1 returning *",
    "update from": "update {table} set content = other.content || 'late' from {table} as other where other.id = {table}.id and {table}.id = 1",
    "update of what was locked": "with mine as (select id from {table} where id = 1 for update)"
    " update {table} set content = 'late' from mine where {table}.id = mine.id returning mine.id",
    "give to the same": "update {table} set {column} = {to_bob} where id = 1",
    "give to another": "update {table} set {column} = {to_carol} where id = 1 returning *",
    "delete": "delete from {table} where id = 1",
    "delete returning": "delete from {table} where id = 1 returning *",
    "delete using": "delete from {table} using {table} as other where other.id = 2 and {table}.id = 1 returning other.id",
    "for update": "select * from {table} where id = 1 for update",
    "for no key update": "select * from {table} where id = 1 for no key update",
    "for share": "select * from {table} where id = 1 for share",
    "locked and joined": "select one.* from {table} as one join {table} as two using (id) where id = 1 for update of one, two",
    "locked and counted": "select * from (select content from {table} where id = 1 for update) as locked",
    "merge and update": "merge into {table} using (values (1)) as given on id = given.column1 when matched then update set content = 'late'",
    "merge and give": "merge into {table} using (values (1)) as given on id = given.column1 when matched then update set {column} = {to_carol}",
    "merge and delete": "merge into {table} using (values (1)) as given on id = given.column1 when matched then delete",
}


@pytest.mark.parametrize("late", LATE)
def test_a_row_that_went_to_another_meanwhile_is_neither_changed_nor_shown(
    late: str, kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.giving)
    second.start(kind.statement(LATE[late]))

    first.commit()

    assert touched(second.outcome()) == 0
    second.commit()
    assert stored(tables, kind) == [(1, "a", bob if kind.column == "owner" else [bob])]


@pytest.mark.parametrize("late", LATE)
def test_nor_is_it_where_its_new_owner_is_noted_already(late: str, kind: Kind, session: Sessions) -> None:
    """The second session has given another row to bob before."""
    first, second = session(kind.giver), session(ALICE)
    assert second.execute(kind.statement("update {table} set {column} = {to_bob} where id = 4")) == 1
    first.execute(kind.giving)
    second.start(kind.statement(LATE[late]))

    first.commit()

    assert touched(second.outcome()) == 0


@pytest.mark.parametrize("late", LATE)
def test_a_row_that_did_not_go_after_all_is_changed_and_shown(late: str, kind: Kind, session: Sessions) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.giving)
    second.start(kind.statement(LATE[late]))

    first.rollback()

    assert touched(second.outcome()) == 1


@pytest.mark.parametrize("late", LATE)
def test_a_row_that_was_changed_and_stayed_is_changed_again(
    late: str, kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.statement("update {table} set content = 'first' where id = 1"))
    second.start(kind.statement(LATE[late]))

    first.commit()

    assert touched(second.outcome()) == 1
    second.commit()
    assert stored(tables, kind) != [(1, "a", alice if kind.column == "owner" else [alice, bob])]


@pytest.mark.parametrize("isolation", ONE_SNAPSHOT, ids=lambda each: each.name.lower())
@pytest.mark.parametrize("late", LATE)
def test_a_transaction_that_rests_on_what_was_hers_is_refused(
    late: str, isolation: IsolationLevel, kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE, isolation)
    second.execute(kind.statement("select * from {table}"))
    first.execute(kind.giving)
    second.start(kind.statement(LATE[late]))

    first.commit()

    with pytest.raises(psycopg.errors.SerializationFailure):
        second.outcome()
    assert stored(tables, kind) == [(1, "a", bob if kind.column == "owner" else [bob])]


UPSERT = "insert into {table} (id, content) values (1, 'late') on conflict (id) do update set content = 'late'"


@pytest.mark.parametrize("returning", ["", " returning *"])
def test_an_upsert_on_a_row_that_went_to_another_meanwhile_is_refused(
    returning: str, kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.giving)
    second.start(kind.statement(UPSERT + returning))

    first.commit()

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        second.outcome()
    assert stored(tables, kind) == [(1, "a", bob if kind.column == "owner" else [bob])]


@pytest.mark.parametrize("isolation", ONE_SNAPSHOT, ids=lambda each: each.name.lower())
def test_so_is_the_upsert_of_a_transaction_that_rests_on_what_was_hers(
    isolation: IsolationLevel, kind: Kind, session: Sessions
) -> None:
    first, second = session(kind.giver), session(ALICE, isolation)
    second.execute(kind.statement("select * from {table}"))
    first.execute(kind.giving)
    second.start(kind.statement(UPSERT))

    first.commit()

    with pytest.raises(psycopg.errors.SerializationFailure):
        second.outcome()


@pytest.mark.parametrize("first_does", ["give and roll back", "change and commit"])
def test_an_upsert_on_a_row_that_stayed_goes_on(first_does: str, kind: Kind, session: Sessions) -> None:
    first, second = session(kind.giver), session(ALICE)
    stays = first_does == "change and commit"
    first.execute(kind.statement("update {table} set content = 'first' where id = 1") if stays else kind.giving)
    second.start(kind.statement(UPSERT + " returning id, content"))

    first.commit() if stays else first.rollback()

    assert second.outcome() == [(1, "late")]


def test_an_upsert_that_does_nothing_tells_nothing_of_the_row(kind: Kind, session: Sessions) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.statement("delete from {table} where id = 1"))
    first.execute(kind.statement("insert into {table} (id) values (1)"))
    second.start(kind.statement("insert into {table} (id) values (1) on conflict do nothing returning *"))

    first.commit()

    assert second.outcome() == []


def test_a_merge_that_would_insert_instead_makes_no_second_row(kind: Kind, session: Sessions, tables: Database) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.giving)
    second.start(
        kind.statement(
            "merge into {table} using (values (1)) as given on id = given.column1"
            " when matched then update set content = 'late' when not matched then insert (id, content) values (1, 'late')"
        )
    )

    first.commit()

    with pytest.raises(psycopg.errors.UniqueViolation):
        second.outcome()
    assert stored(tables, kind) == [(1, "a", bob if kind.column == "owner" else [bob])]


def test_of_all_her_rows_those_are_changed_that_are_still_hers(kind: Kind, session: Sessions) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.giving)
    second.start(kind.statement("update {table} set content = 'late' returning id"))

    first.commit()

    assert sorted(second.outcome()) == [(2,), (4,)]


def test_a_cursor_does_not_change_a_row_that_went_to_another_meanwhile(
    kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE)
    second.execute(kind.statement("declare mine cursor for select content from {table} where id = 1"))
    assert second.execute("fetch mine") == [("a",)]
    first.execute(kind.giving)
    second.start(kind.statement("update {table} set content = 'late' where current of mine"))

    first.commit()

    assert second.outcome() == 0
    assert stored(tables, kind)[0][1] == "a"


def test_a_locking_cursor_does_not_show_a_row_that_went_to_another_meanwhile(kind: Kind, session: Sessions) -> None:
    first, second = session(kind.giver), session(ALICE)
    second.execute(kind.statement("declare mine cursor for select content from {table} order by id for update"))
    first.execute(kind.giving)
    second.start("fetch all mine")

    first.commit()

    assert second.outcome() == [("a",), ("a",)]  # the rows 2 and 4


def test_who_does_not_want_to_wait_is_told_nothing_but_that(kind: Kind, session: Sessions) -> None:
    first, second, third = session(kind.giver), session(ALICE), session(CAROL)
    first.execute(kind.giving)

    assert second.execute(kind.statement("select id from {table} where id < 4 for update skip locked")) == [(2,)]
    assert third.execute(kind.statement("select id from {table} for update nowait")) == []  # never hers: no lock
    with pytest.raises(psycopg.errors.LockNotAvailable):
        second.execute(kind.statement("select id from {table} where id = 1 for update nowait"))


@pytest.mark.parametrize(("ending", "given"), [("commit", 0), ("rollback", 1)])
def test_a_row_that_is_deleted_meanwhile_is_not_given_away(
    ending: str, given: int, kind: Kind, session: Sessions, tables: Database
) -> None:
    first, second = session(kind.giver), session(ALICE)
    first.execute(kind.statement("delete from {table} where id = 1"))
    second.start(kind.giving)

    getattr(first, ending)()

    assert second.outcome() == given
    second.commit()
    assert [row[2] for row in stored(tables, kind)] == [bob if kind.column == "owner" else [bob]] * given


# --- bob waits for the row that is to be his ---------------------------------------------------------------


def test_a_row_is_its_new_owners_from_the_commit_on_and_not_before(session: Sessions) -> None:
    first, second, repeatable = session(ALICE), session(BOB), session(BOB, IsolationLevel.REPEATABLE_READ)
    repeatable.execute("select from todo")
    first.execute(KINDS["owner"].giving)
    attempts = (
        "select id from todo where id = 1",
        "select id from todo where id = 1 for update",
        "update todo set content = 'late' where id = 1 returning id",
        f"merge into todo using (values (1)) as given on id = given.column1 when matched then update set owner = '{carol}'",
        "delete from todo where id = 1 returning id",
    )

    before = [touched(each.execute(attempt)) for attempt in attempts for each in (second, repeatable)]
    first.commit()
    as_it_was = [touched(repeatable.execute(attempt)) for attempt in attempts]
    after = [touched(second.execute(attempt)) for attempt in attempts[:4]]

    assert before == [0] * 10  # at once: nobody waits for a row that is not theirs
    assert as_it_was == [0] * 5
    assert after == [1] * 4


@pytest.mark.parametrize("returning", ["", " returning *"])
def test_an_upsert_waits_and_changes_the_row_that_is_his_by_then(
    returning: str, session: Sessions, tables: Database
) -> None:
    first, second = session(ALICE), session(BOB)
    first.execute(KINDS["owner"].giving)
    second.start(KINDS["owner"].statement(UPSERT + returning))

    first.commit()

    assert second.outcome() == ([(1, "late", bob)] if returning else 1)
    second.commit()
    assert stored(tables, KINDS["owner"]) == [(1, "late", bob)]


def test_an_upsert_waits_and_is_refused_for_the_row_that_did_not_become_his(
    session: Sessions, tables: Database
) -> None:
    first, second = session(ALICE), session(BOB)
    first.execute(KINDS["owner"].giving)
    second.start(KINDS["owner"].statement(UPSERT + " returning *"))

    first.rollback()

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        second.outcome()
    assert stored(tables, KINDS["owner"]) == [(1, "a", alice)]


@pytest.mark.parametrize("isolation", ONE_SNAPSHOT, ids=lambda each: each.name.lower())
def test_an_upsert_that_cannot_see_that_the_row_is_his_is_refused(
    isolation: IsolationLevel, session: Sessions, tables: Database
) -> None:
    first, second = session(ALICE), session(BOB, isolation)
    second.execute("select from todo")
    first.execute(KINDS["owner"].giving)
    second.start(KINDS["owner"].statement(UPSERT))

    first.commit()

    with pytest.raises(psycopg.errors.SerializationFailure):
        second.outcome()
    assert stored(tables, KINDS["owner"]) == [(1, "a", bob)]


@pytest.mark.parametrize("late", LATE)
def test_a_row_that_another_left_is_changed_by_who_stayed(late: str, session: Sessions, tables: Database) -> None:
    """Alice leaves the list while bob, whom it names before and after, waits."""
    kind = KINDS["list"]
    with tables.connect(autocommit=True) as admin:
        admin.execute(kind.statement("update {table} set {column} = {to_bob} where id = 2"))
    first, second = session(ALICE), session(BOB)
    first.execute(kind.giving)
    second.start(kind.statement(LATE[late]))

    first.commit()

    assert touched(second.outcome()) == 1


# --- two wait for each other -------------------------------------------------------------------------------


def settle(one: Session, two: Session, first: str, second: str) -> tuple[Session, Session]:
    """Run two statements that wait for each other; the session that goes on, and the one whose statement the server refused."""
    one.start(first)
    two.run(second)
    assert one.thread is not None
    one.thread.join(LIMIT)
    refused = [each for each in (one, two) if isinstance(each.result, psycopg.errors.DeadlockDetected)]
    assert len(refused) == 1, (one.result, two.result)
    return (two, one) if refused == [one] else (one, two)


def test_of_two_opposite_gifts_of_ones_own_rows_one_is_done(kind: Kind, session: Sessions, tables: Database) -> None:
    one, two = session(ALICE), session(ALICE)
    for each, key, to in ((one, 1, kind.to_bob), (two, 2, kind.to_carol)):
        assert each.execute(f"update {kind.table} set {kind.column} = {to} where id = {key}") == 1

    goes_on, refused = settle(
        one,
        two,
        kind.statement("update {table} set {column} = {to_bob} where id = 2"),
        kind.statement("update {table} set {column} = {to_carol} where id = 1"),
    )

    assert goes_on.result == 1
    refused.rollback()
    goes_on.commit()
    new_owner = kind.to_bob if goes_on is one else kind.to_carol
    given = f"select id from {kind.table} where {kind.column} = {new_owner} and id < 3 order by id"
    assert tables.rows(given) == [(1,), (2,)]


def test_of_two_who_remove_each_other_from_two_lists_one_is_removed(session: Sessions, tables: Database) -> None:
    with tables.connect(autocommit=True) as admin:
        admin.execute("update article set editors = array[%s, %s]", [alice, bob])
    one, two = session(ALICE), session(BOB)
    one.execute(f"update article set editors = array_remove(editors, '{bob}') where id = 1")
    two.execute(f"update article set editors = array_remove(editors, '{alice}') where id = 2")

    goes_on, refused = settle(
        one,
        two,
        f"update article set editors = array_remove(editors, '{bob}') where id = 2",
        f"update article set editors = array_remove(editors, '{alice}') where id = 1",
    )

    assert goes_on.result == 1
    refused.rollback()
    goes_on.commit()
    left = alice if goes_on is one else bob
    assert tables.rows("select editors from article where id < 3") == [([left],)] * 2


def test_of_two_who_exchange_rows_and_reach_for_them_neither_gets_what_did_not_come(
    session: Sessions, tables: Database
) -> None:
    """The one that the server lets go on finds a row that was not given to them after all."""
    one, two = session(ALICE), session(BOB)
    one.execute(f"update todo set owner = '{bob}' where id = 1")
    two.execute(f"update todo set owner = '{alice}' where id = 3")

    goes_on, _ = settle(
        one,
        two,
        "insert into todo (id) values (3) on conflict (id) do update set content = 'late'",
        "insert into todo (id) values (1) on conflict (id) do update set content = 'late'",
    )

    assert isinstance(goes_on.result, psycopg.errors.InsufficientPrivilege)
    one.rollback()
    two.rollback()
    assert tables.rows("select owner, content from todo where id < 4 order by id") == [
        (alice, "a"),
        (alice, "a"),
        (bob, "b"),
    ]


# --- many at once ------------------------------------------------------------------------------------------

PEOPLE = (ALICE, BOB, CAROL)
ROWS, THREADS, TRANSACTIONS = 5, 6, 200


@dataclass(frozen=True)
class Change:
    """One version of a row: who wrote it, and to whom it belongs from then on."""

    row: int
    version: int
    writer: str
    owners: tuple[str, ...]


class Worker(threading.Thread):
    """One session of one person that gives away, changes, locks, and deletes and makes again, whatever rows it has."""

    def __init__(self, database: Database, kind: str, number: int) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.lists = kind == "list"
        self.who = PEOPLE[number % len(PEOPLE)]
        self.me = full(self.who)
        self.isolation = None if number < THREADS // 2 else IsolationLevel.REPEATABLE_READ
        self.random = random.Random(f"{kind} {number}")
        self.done: list[Change] = []
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self.database.connect_as_app(options=f"-c statement_timeout={LIMIT}s") as conn:
                conn.isolation_level = self.isolation
                for _ in range(TRANSACTIONS):
                    self.transact(conn)
        except BaseException as error:
            self.failure = error

    def transact(self, conn: Connection) -> None:
        made: list[Change] = []
        try:
            with as_user(conn, self.who):
                for _ in range(self.random.randint(1, 3)):
                    made += self.act(conn)
                if self.random.random() < 0.1:
                    raise Rollback
        except (Rollback, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
            self.counts[type(error).__name__] += 1
        else:
            self.done += made

    def act(self, conn: Connection) -> list[Change]:
        mine = self.rows(conn, "select id, version, owners from stress", ())
        assert all(self.me in each.owners for each in mine), "it saw a row of somebody else"
        what = self.random.choice(["give", "give", "change", "lock", "make again"])
        row = self.random.choice(mine).row if mine else self.random.randint(1, ROWS)
        changed: list[Change] = []
        if what == "give":
            others = tuple(
                self.random.sample([full(who) for who in PEOPLE], self.random.randint(1, 2 if self.lists else 1))
            )
            changed = self.change(conn, row, others)
            assert all(each.owners == others for each in changed), "it belongs to others than it was given to"
        elif what == "change":
            changed = self.change(conn, row, None)
            assert all(self.me in each.owners for each in changed), "it changed a row of somebody else"
        elif what == "lock":
            locked = self.rows(conn, "select id, version, owners from stress where id = %s for update", [row])
            assert all(self.me in each.owners for each in locked), "it locked a row of somebody else"
            changed = self.change(conn, row, None) if locked else []
            assert len(changed) == len(locked), "what it had locked was gone"
            assert all(after.version == before.version + 1 for before, after in zip(locked, changed, strict=True))
        else:
            gone = self.rows(conn, "delete from stress where id = %s returning id, version, owners", [row])
            assert all(self.me in each.owners for each in gone), "it deleted a row of somebody else"
            for each in gone:
                changed += self.rows(
                    conn,
                    "insert into stress (id, version, last_writer) values (%s, %s, %s) returning id, version, owners",
                    [row, each.version + 1, self.me],
                )
            assert all(each.owners == (self.me,) for each in changed)
        self.counts[what] += len(changed)
        self.counts["lost"] += bool(mine) and not changed
        return changed

    def change(self, conn: Connection, row: int, owners: tuple[str, ...] | None) -> list[Change]:
        column = "editors" if self.lists else "owner"
        value: Any = owners and (list(owners) if self.lists else owners[0])
        return self.rows(
            conn,
            f"update stress set version = version + 1, last_writer = %s, {column} = coalesce(%s, {column})"
            " where id = %s returning id, version, owners",
            [self.me, value, row],
        )

    def rows(self, conn: Connection, statement: str, parameters: Any) -> list[Change]:
        owners = "editors" if self.lists else "array[owner]"
        cursor = conn.execute(statement.replace("owners", owners), parameters)
        return [Change(row, version, self.me, tuple(names)) for row, version, names in cursor]


@pytest.mark.parametrize("kind", KINDS)
def test_among_many_at_once_each_row_is_changed_by_its_owner_alone(kind: str, database: Database) -> None:
    owners, rule = (
        ("editors text[]", allow.owners_defined_in("editors")) if kind == "list" else ("owner text", allow.owner())
    )
    database.execute(f"create table stress (id int primary key, version int, last_writer text, {owners})")
    database.apply(TableRules("stress", rule))
    with database.connect(autocommit=True) as admin:
        admin.execute(f"alter role {database.app} set deadlock_timeout = '20ms'")
        value = "array[%s]" if kind == "list" else "%s"
        admin.execute(f"insert into stress select n, 0, null, {value} from generate_series(1, {ROWS}) as n", [alice])

    workers = [Worker(database, kind, number) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    until = time.monotonic() + 2 * LIMIT
    for worker in workers:
        worker.join(max(0, until - time.monotonic()))

    assert [worker.failure for worker in workers if worker.failure] == []
    assert not any(worker.is_alive() for worker in workers)
    counts = sum((worker.counts for worker in workers), Counter[str]())
    assert {"give", "change", "lock", "make again", "lost", "Rollback"} <= {
        name for name, count in counts.items() if count
    }

    column = "editors" if kind == "list" else "array[owner]"
    stored_rows = database.rows(f"select id, version, last_writer, {column} from stress")
    final = {row: (version, writer, tuple(names)) for row, version, writer, names in stored_rows}
    assert sorted(final) == list(range(1, ROWS + 1))
    changes = sorted(
        (change for worker in workers for change in worker.done), key=lambda each: (each.row, each.version)
    )
    for row, last in final.items():
        chain = [change for change in changes if change.row == row]
        assert [change.version for change in chain] == list(range(1, len(chain) + 1))
        before: tuple[str, ...] = (alice,)
        for change in chain:
            assert change.writer in before, f"{change} was made of a row of {before}"
            before = change.owners
        assert chain
        assert last == (chain[-1].version, chain[-1].writer, chain[-1].owners)
