"""Who is asking: told for one transaction, never to another, and never through a login that the rules do not bind."""

from __future__ import annotations

import gc
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from rlskit import Identity, TableRules, allow, as_nobody, as_user, guard
from rlskit.errors import (
    BypassingRoleError,
    IdentityConflictError,
    InvalidIdentityError,
    MissingIdentityError,
    OpenCursorError,
    RuntimeVersionError,
    TransactionInProgressError,
)
from tests.support import ALICE, BOB, Database, Server, copy_of, fresh_database, full


@pytest.fixture(scope="module")
def original(server: Server) -> Iterator[Database]:
    with fresh_database(server, "as_user") as database:
        yield prepared(database)


@pytest.fixture
def todo(original: Database) -> Iterator[Database]:
    with copy_of(original) as database:
        yield database


def prepared(database: Database) -> Database:
    database.execute("create table todo (id serial, content text)")
    database.apply(TableRules("todo", allow.owner()))
    return database


@pytest.fixture(params=[False, True], ids=["", "autocommit"])
def app(request: pytest.FixtureRequest, todo: Database) -> Any:
    with todo.connect_as_app(autocommit=request.param) as conn:
        yield conn


def count(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select count(*) from todo").fetchone()
    assert row is not None
    return int(row[0])


def test_each_sees_their_own_and_nobody_sees_nothing(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")
        assert count(conn) == 1
    with as_user(app, BOB) as conn:
        assert count(conn) == 0
    with as_nobody(app) as conn:
        assert count(conn) == 0


def test_it_commits_at_the_end_and_leaves_the_connection_idle(app: psycopg.Connection[Any], todo: Database) -> None:
    with as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")

    assert app.info.transaction_status == TransactionStatus.IDLE
    assert todo.rows("select owner from todo") == [(full(ALICE),)]


def test_an_error_rolls_back_and_goes_its_way(app: psycopg.Connection[Any], todo: Database) -> None:
    with pytest.raises(ZeroDivisionError), as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")
        raise ZeroDivisionError

    assert app.info.transaction_status == TransactionStatus.IDLE
    assert todo.rows("select count(*) from todo") == [(0,)]


@pytest.mark.parametrize("how", ["committed", "rolled back", "failed"])
def test_the_next_transaction_of_the_connection_knows_nobody(how: str, app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")
    try:
        with as_user(app, ALICE) as conn:
            if how == "rolled back":
                raise KeyError
            if how == "failed":
                conn.execute("select 1 / 0")
    except (psycopg.errors.DivisionByZero, KeyError):
        pass

    assert count(app) == 0
    assert app.execute("select current_setting('rlskit.sub', true)").fetchone() == ("",)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("insert into todo (content) values ('nobody')")


HALVES = {
    "no username": {"rlskit.sub": "a1f0"},
    "no sub": {"rlskit.username": "alice"},
    "empty sub": {"rlskit.sub": "", "rlskit.username": "alice"},
    "empty username": {"rlskit.sub": "a1f0", "rlskit.username": ""},
    "both empty": {"rlskit.sub": "", "rlskit.username": ""},
    "a username that spells a stored owner": {"rlskit.sub": "evil", "rlskit.username": "a1f0::alice"},
    "a sub that spells a stored owner": {"rlskit.sub": "a1f0::alice", "rlskit.username": "evil"},
    "a username that looks like another's sub": {
        "rlskit.sub": "evil",
        "rlskit.username": "0b0f2b1e-3c4d-4e5f-8a9b-0c1d2e3f4a5b",
    },
    "a control character": {"rlskit.sub": "a1f0", "rlskit.username": "alice\n"},
    "over-long": {"rlskit.sub": "a1f0", "rlskit.username": "a" * 257},
}


@pytest.mark.parametrize("half", HALVES)
def test_half_an_identity_and_an_impossible_one_are_nobody(half: str, todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        for owner in (
            "a1f0::alice",
            "a1f0",
            "alice",
            "::",
            "::alice",
            "a1f0::",
            "0b0f2b1e-3c4d-4e5f-8a9b-0c1d2e3f4a5b",
            None,
        ):
            admin.execute("insert into todo (owner) values (%s)", [owner])
    with todo.connect_as_app() as app:
        for name, value in HALVES[half].items():
            app.execute("select set_config(%s, %s, true)", [name, value])
        assert count(app) == 0
        assert app.execute("update todo set content = 'x'").rowcount == 0
        assert app.execute("delete from todo").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("insert into todo (content) values ('x')")


def test_a_username_that_is_ones_own_sub_is_somebody(todo: Database) -> None:
    sub = "0b0f2b1e-3c4d-4e5f-8a9b-0c1d2e3f4a5b"
    with todo.connect_as_app() as app, as_user(app, Identity(sub=sub, username=sub)) as conn:
        assert conn.execute("insert into todo (content) values ('x') returning owner").fetchone() == (f"{sub}::{sub}",)


def test_a_claim_needs_nothing_but_itself(database: Database) -> None:
    database.execute("create table invoice (id int, payer text)")
    database.apply(TableRules("invoice", allow.owner_defined_in("payer").identity_claim("email")))
    with database.connect_as_app() as app:
        with as_user(app, Identity(sub="x", claims={"email": "a@example.com"})) as conn:
            assert conn.execute("insert into invoice (id) values (1) returning payer").fetchone() == ("a@example.com",)
        for other in (
            Identity(sub="x", username="y"),
            Identity(sub="x", claims={"email": ""}),
            Identity(sub="x", claims={"mail": "a@example.com"}),
        ):
            with as_user(app, other) as conn:
                assert conn.execute("select * from invoice").fetchall() == []


# --- refusals ----------------------------------------------------------------------------------------


def test_none_is_refused(app: psycopg.Connection[Any]) -> None:
    with pytest.raises(MissingIdentityError) as caught:
        as_user(app, None)  # type: ignore[arg-type]

    assert str(caught.value) == (
        "`as_user` needs an Identity\nhint: for a guest write as_nobody(conn): nobody sees no rows, and gets no error"
    )


def test_a_connection_in_a_transaction_is_refused_and_left_as_it_is(todo: Database) -> None:
    with todo.connect_as_app() as conn:
        guard(conn)
        conn.execute("select 1")
        with pytest.raises(TransactionInProgressError) as caught, as_user(conn, ALICE):
            pass
        assert conn.info.transaction_status == TransactionStatus.INTRANS

    assert caught.value.message == "the connection is already in a transaction"


def test_another_identity_inside_is_refused_and_the_outer_one_stays(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")
        with pytest.raises(IdentityConflictError), as_user(app, BOB):
            pass
        with pytest.raises(IdentityConflictError), as_nobody(app):
            pass
        assert count(conn) == 1


def test_the_same_identity_inside_is_a_savepoint(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")
        with pytest.raises(ZeroDivisionError), as_user(app, ALICE):
            conn.execute("insert into todo (content) values ('bread')")
            raise ZeroDivisionError
        assert count(conn) == 1


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_drivers_own_end_of_the_transaction_is_refused_inside(ending: str, app: psycopg.Connection[Any]) -> None:
    with pytest.raises(TransactionInProgressError) as caught, as_user(app, ALICE) as conn:
        getattr(conn, ending)()

    assert str(caught.value) == (
        "the block's transaction cannot be ended inside it\n"
        "hint: leave commit and rollback to the block: it commits at its end, and rolls back on an error"
    )
    app.rollback()


def test_an_end_of_the_transaction_as_a_statement_is_told(todo: Database) -> None:
    with todo.connect_as_app(autocommit=True) as app:
        with pytest.raises(TransactionInProgressError) as caught, as_user(app, ALICE) as conn:
            conn.execute("commit")
            assert count(conn) == 0
        assert app.info.transaction_status == TransactionStatus.IDLE

    assert caught.value.message == "the block's transaction was ended inside it, and what came after had no identity"


def test_one_block_is_not_entered_twice_and_may_be_used_again(app: psycopg.Connection[Any], todo: Database) -> None:
    block = as_user(app, ALICE)
    with block as conn:
        conn.execute("insert into todo (content) values ('milk')")
        with pytest.raises(IdentityConflictError), block:
            pass
    with block as conn:
        conn.execute("insert into todo (content) values ('bread')")

    assert app.info.transaction_status == TransactionStatus.IDLE
    assert todo.rows("select count(*) from todo") == [(2,)]
    app.commit()


def test_two_threads_on_one_connection_never_share_an_identity(todo: Database) -> None:
    """The second one is refused, however close they come; nobody's block ever runs as somebody else."""
    with todo.connect_as_app() as app:
        guard(app)
        seen: list[tuple[str, str]] = []
        both = threading.Barrier(2, timeout=30)

        def ask(who: Identity) -> None:
            for _ in range(100):
                both.wait()
                try:
                    with as_user(app, who) as conn:
                        row = conn.execute("select current_setting('rlskit.username')").fetchone()
                        seen.append((who.username or "", row[0] if row else ""))
                except (TransactionInProgressError, IdentityConflictError, psycopg.Error):
                    pass

        threads = [threading.Thread(target=ask, args=[who], daemon=True) for who in (ALICE, BOB)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)

    assert seen
    assert {mine for mine in seen if mine[0] != mine[1]} == set()


def test_a_transaction_left_open_inside_does_not_keep_the_identity(app: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.Error), as_user(app, ALICE) as conn:
        conn.transaction().__enter__()

    assert app.closed or app.info.transaction_status == TransactionStatus.IDLE
    assert app.closed or app.execute("select current_setting('rlskit.sub', true)").fetchone() == ("",)


def test_a_stream_that_is_read_half_way_does_not_hang_the_block(todo: Database) -> None:
    with todo.connect_as_app() as app:
        with pytest.raises(TransactionInProgressError, match="still being read"), as_user(app, ALICE) as conn:
            stream = conn.cursor().stream("select * from generate_series(1, 100000)")
            next(stream)
        assert app.closed


@pytest.mark.parametrize("block", [partial(as_user, identity=BOB), as_nobody], ids=["somebody", "nobody"])
@pytest.mark.parametrize("pipeline", [False, True])
def test_a_cursor_that_outlives_its_block_is_refused_by_the_next_one_and_closed(
    block: Callable[..., Any], pipeline: bool, todo: Database
) -> None:
    with todo.connect_as_app() as app:
        with as_user(app, ALICE) as conn:
            conn.execute("insert into todo (content) values ('hers')")
            conn.execute("declare kept cursor with hold for select content from todo")
        with pytest.raises(OpenCursorError), block(app, pipeline=pipeline) as conn:
            conn.execute("select 1")
        assert app.info.transaction_status == TransactionStatus.IDLE
        with block(app) as conn, pytest.raises(psycopg.errors.InvalidCursorName), conn.transaction():
            conn.execute("fetch all from kept")


def test_a_cursor_of_the_block_itself_is_its_own(app: psycopg.Connection[Any]) -> None:
    with as_user(app, ALICE) as conn, conn.cursor("named") as cursor:
        cursor.execute("select 1")
        with as_user(conn, ALICE):
            assert cursor.fetchone() == (1,)


def test_an_identity_that_the_connection_cannot_spell_is_refused(todo: Database) -> None:
    with todo.connect_as_app(client_encoding="latin1") as app:
        unspeakable = Identity(sub="日本", username="x")
        with pytest.raises(InvalidIdentityError, match="cannot be said in the connection's"), as_user(app, unspeakable):
            pass
        assert app.info.transaction_status == TransactionStatus.IDLE
        with as_user(app, Identity(sub="é", username="'\\")) as conn:
            assert conn.execute("select rlskit.identities()").fetchone() == (["é::'\\", "é", "'\\"],)


def test_a_block_is_not_entered_while_something_is_still_being_read(todo: Database) -> None:
    with todo.connect_as_app() as app:
        guard(app)
        stream = app.cursor().stream("select * from generate_series(1, 100000)")
        next(stream)
        with pytest.raises(TransactionInProgressError, match="still being read"), as_user(app, ALICE):
            pass
        stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["_open", "_close"])
def test_interrupted_between_two_steps_the_next_transaction_is_nobodys(
    moment: str, app: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(as_user, moment)

    def interrupted(block: Any) -> None:
        monkeypatch.setattr(as_user, moment, original)
        original(block)
        raise KeyboardInterrupt

    monkeypatch.setattr(as_user, moment, interrupted)
    with pytest.raises(KeyboardInterrupt), as_user(app, ALICE) as conn:
        conn.execute("insert into todo (content) values ('milk')")

    assert app.info.transaction_status == TransactionStatus.IDLE
    assert "commit" not in vars(app)
    assert count(app) == 0
    assert app.execute("select current_setting('rlskit.sub', true)").fetchone() == ("",)


def test_a_savepoint_that_could_not_be_made_takes_the_connection_with_it(
    app: psycopg.Connection[Any], todo: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg may count it all the same, and refuse every commit from then on."""
    with (
        pytest.raises(psycopg.OperationalError, match="nothing of it is stored"),
        as_user(app, ALICE) as conn,
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
    ):
        conn.execute("insert into todo (content) values ('milk')")
        patch.setattr(psycopg.Transaction, "__enter__", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        as_user(app, ALICE).__enter__()

    assert app.closed
    assert todo.rows("select count(*) from todo") == [(0,)]


@pytest.mark.parametrize("pipeline", [False, True])
def test_an_error_that_is_swallowed_inside_is_told_at_the_end(
    pipeline: bool, app: psycopg.Connection[Any], todo: Database
) -> None:
    """PostgreSQL has given the transaction up, and would answer the commit with a rollback, without a word."""
    with (
        pytest.raises(TransactionInProgressError, match="nothing of it is stored"),
        as_user(app, ALICE, pipeline=pipeline) as conn,
    ):
        conn.execute("insert into todo (content) values ('milk')")
        with suppress(psycopg.errors.DivisionByZero):
            conn.execute("select 1 / 0").fetchall()

    assert app.info.transaction_status == TransactionStatus.IDLE
    assert todo.rows("select count(*) from todo") == [(0,)]
    with as_user(app, ALICE) as conn:
        assert count(conn) == 0


def test_a_closed_connection_is_said_to_be_closed(app: psycopg.Connection[Any]) -> None:
    guard(app)
    app.close()
    for pipeline in (False, True):
        with pytest.raises(psycopg.OperationalError, match="closed"), as_user(app, ALICE, pipeline=pipeline):
            pass


def test_it_is_no_decorator(app: psycopg.Connection[Any]) -> None:
    with pytest.raises(TypeError):
        as_user(app, ALICE)(print)  # type: ignore[operator]


def test_a_role_is_taken_on_for_the_transaction(database: Database) -> None:
    group = f"{database.name}_group"
    with database.connect(autocommit=True) as admin:
        admin.execute(f"create role {group}")
        admin.execute(f"grant {group} to {database.app}")
    try:
        database.apply()
        with database.connect_as_app() as app:
            with as_user(app, ALICE, role=group) as conn:
                assert conn.execute("select current_user::text").fetchone() == (group,)
            assert app.execute("select current_user::text").fetchone() == (database.app,)
    finally:
        with database.connect(autocommit=True) as admin:
            admin.execute(f"drop role {group}")


def test_a_role_that_cannot_be_taken_on_leaves_the_connection_idle(app: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), as_user(app, ALICE, role="postgres"):
        pass

    assert app.info.transaction_status == TransactionStatus.IDLE


# --- what the connection says holds --------------------------------------------------------------------


def test_isolation_read_only_and_deferrable_hold(todo: Database) -> None:
    with todo.connect_as_app() as app:
        app.isolation_level = IsolationLevel.SERIALIZABLE
        app.read_only = True
        app.deferrable = True
        with as_user(app, ALICE) as conn:
            row = conn.execute(
                "select current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
                " current_setting('transaction_deferrable')"
            ).fetchone()

    assert row == ("serializable", "on", "on")


def test_any_row_factory_will_do(todo: Database) -> None:
    with psycopg.connect(todo.app_dsn, row_factory=dict_row) as app, as_user(app, ALICE) as conn:
        assert conn.execute("select 1 as one").fetchone() == {"one": 1}


def test_the_identity_costs_no_round_trip_of_its_own(todo: Database) -> None:
    with todo.connect_as_app() as app:
        guard(app)
        with round_trips(app) as plain, app.transaction():
            app.execute("select 1")
        with round_trips(app) as identified, as_user(app, ALICE) as conn:
            conn.execute("select 1")

    assert (plain, identified) == ([3], [3])


@contextmanager
def round_trips(conn: psycopg.Connection[Any]) -> Iterator[list[int]]:
    """How often the client sent something and then waited for an answer, as libpq's own trace tells it."""
    counted: list[int] = []
    with tempfile.TemporaryFile("w+") as file:
        conn.pgconn.trace(file.fileno())
        yield counted
        conn.pgconn.untrace()
        file.seek(0)
        directions = [line.split("\t")[1] for line in file if "\t" in line]
    counted.append(sum(before == "F" and after == "B" for before, after in pairwise(directions)))


def test_a_connection_is_forgotten_when_it_is_gone(todo: Database) -> None:
    app = todo.connect_as_app()
    with as_user(app, ALICE):
        pass
    app.close()
    gone = weakref.ref(app)
    del app
    gc.collect()

    assert gone() is None


# --- the guard ---------------------------------------------------------------------------------------


def test_a_superuser_is_refused(todo: Database) -> None:
    with todo.connect() as conn:
        with pytest.raises(BypassingRoleError) as caught, as_user(conn, ALICE):
            pass
        assert conn.info.transaction_status == TransactionStatus.IDLE

    assert str(caught.value) == (
        "login `postgres` is a superuser, so no rule binds it\n"
        "hint: connect with an ordinary login: not superuser, no BYPASSRLS, and no owner of a table"
    )


def test_a_superuser_that_plays_an_ordinary_role_is_refused_too(todo: Database) -> None:
    with todo.connect() as conn:
        conn.execute(f"set role {todo.app}")
        conn.commit()
        with pytest.raises(BypassingRoleError, match="is a superuser"):
            guard(conn)


def test_the_owner_of_a_table_is_refused(todo: Database) -> None:
    with todo.connect_as_owner() as conn, pytest.raises(BypassingRoleError) as caught:
        guard(conn)

    assert caught.value.message == f"login `{todo.owner}` owns table public.todo, and can lift the rules"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("superuser", "`{login}` is a member of `{top}`, a superuser, and may become one"),
        ("bypassrls", "`{login}` is a member of `{top}`, which has BYPASSRLS, and may take it on"),
        ("", "`{login}` is a member of `{top}`, which owns table public.todo and can lift the rules"),
    ],
)
def test_whoever_may_become_one_of_them_is_refused(attribute: str, message: str, todo: Database) -> None:
    middle, login = f"{todo.name}_middle", f"{todo.name}_login"
    top = f"{todo.name}_top" if attribute else todo.owner
    with todo.connect(autocommit=True) as admin:
        if attribute:
            admin.execute(f"create role {top} {attribute}")
        admin.execute(f"create role {middle}")
        admin.execute(f"create role {login} login noinherit")
        admin.execute(f"grant {top} to {middle}")
        admin.execute(f"grant {middle} to {login}")
    try:
        with (
            psycopg.connect(make_conninfo(todo.superuser_dsn, user=login)) as conn,
            pytest.raises(BypassingRoleError, match=message.format(login=login, top=top)),
        ):
            guard(conn)
    finally:
        with todo.connect(autocommit=True) as admin:
            for role in (login, middle, *([top] if attribute else [])):
                admin.execute(f"drop role {role}")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("superuser", "may become one"), ("in role pg_read_all_data", "pg_read_all_data"), ("in role pg_read_server_files", "pg_read_server_files")],
)  # fmt: skip
def test_a_role_that_may_be_taken_on_is_looked_at_too(attribute: str, message: str, todo: Database) -> None:
    powerful = f"{todo.name}_powerful"
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"create role {powerful} {attribute}")
        admin.execute(f"grant {powerful} to {todo.app}")
    try:
        with todo.connect_as_app() as conn, pytest.raises(BypassingRoleError, match=message):
            guard(conn)
    finally:
        with todo.connect(autocommit=True) as admin:
            admin.execute(f"drop role {powerful}")


def test_a_login_that_may_replicate_is_refused(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter role {todo.app} replication")
    with todo.connect_as_app() as conn, pytest.raises(BypassingRoleError, match="REPLICATION"):
        guard(conn)


def test_a_login_that_may_make_itself_a_member_of_the_owner_is_refused(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter role {todo.app} createrole")
    with todo.connect_as_app() as conn:
        if todo.server.major < 16:  # later, CREATEROLE alone gives no membership
            with pytest.raises(BypassingRoleError, match="CREATEROLE"):
                guard(conn)
        else:
            guard(conn)


def test_the_owner_of_a_partition_is_refused(database: Database) -> None:
    database.execute(
        "create table todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of todo for values in (1)",
    )
    database.apply(TableRules("todo", allow.owner()))
    with database.connect(autocommit=True) as admin:
        admin.execute(f"alter table todo_1 owner to {database.app}")
    with psycopg.connect(database.app_dsn) as conn, pytest.raises(BypassingRoleError, match=r"owns table public\.todo"):
        guard(conn)


def test_the_owner_of_the_schema_is_refused(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter schema public owner to {todo.app}")
    with (
        todo.connect_as_app() as conn,
        pytest.raises(BypassingRoleError, match=r"owns the schema of table public\.todo"),
    ):
        guard(conn)


def test_a_login_that_comes_with_an_identity_is_refused(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter role {todo.app} set rlskit.sub = 'a1f0'")
    with todo.connect_as_app() as conn, pytest.raises(BypassingRoleError, match="comes with an identity of its own"):
        guard(conn)


@pytest.mark.parametrize(
    "setting",
    [
        *("search_path = theirs", "row_security = on", "role = none", "rlskit.moving_to = 'x'"),
        *("standard_conforming_strings = off", "log_parameter_max_length_on_error = -1"),
    ],
)
@pytest.mark.parametrize("place", ["", "in database {}"], ids=["everywhere", "in one database"])
def test_a_login_with_settings_of_its_own_is_refused(setting: str, place: str, todo: Database) -> None:
    name = setting.partition(" ")[0]
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter role {todo.app} {place.format(todo.name)} set {setting}")
    with todo.connect_as_app() as app, pytest.raises(BypassingRoleError) as caught, as_user(app, ALICE):
        pass

    assert caught.value.message == (
        f"login `{todo.app}` has a setting of its own for {name}, which it could have written itself"
    )


def test_settings_of_the_database_and_others_of_the_login_are_fine(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"alter database {todo.name} set search_path = public")
        admin.execute(f"alter role {todo.app} set statement_timeout = '1min'")
    with todo.connect_as_app() as app, as_user(app, ALICE) as conn:
        assert count(conn) == 0


def test_row_security_off_is_refused(todo: Database) -> None:
    dsn = make_conninfo(todo.app_dsn, options="-c row_security=off")
    with psycopg.connect(dsn) as conn, pytest.raises(BypassingRoleError, match="row_security = off"):
        guard(conn)


def test_a_database_without_the_runtime_is_refused(database: Database) -> None:
    with database.connect_as_app() as conn, pytest.raises(RuntimeVersionError, match="no schema rlskit"):
        guard(conn)


def test_the_guard_looks_once_for_each_connection(todo: Database) -> None:
    with todo.connect_as_app() as conn:
        guard(conn)
        with round_trips(conn) as counted:
            guard(conn)

    assert counted == [0]


@pytest.mark.parametrize("how", ["commit", "rollback", "commit; begin", "rollback and chain"])
@pytest.mark.parametrize("pipeline", [False, True])
def test_a_transaction_that_is_ended_inside_is_told_whatever_follows(
    how: str, pipeline: bool, app: psycopg.Connection[Any]
) -> None:
    """What follows has no identity, and sees nothing."""
    with (
        pytest.raises(
            (TransactionInProgressError, psycopg.errors.SyntaxError)
        ),  # a flight takes one statement at a time
        as_user(app, ALICE, pipeline=pipeline) as conn,
    ):
        conn.execute(how.encode())
        conn.execute("select * from todo")
    assert app.info.transaction_status == TransactionStatus.IDLE


def test_a_block_may_change_its_time_zone(app: psycopg.Connection[Any]) -> None:
    for pipeline in (False, True):
        with as_user(app, ALICE, pipeline=pipeline) as conn:
            conn.execute("set local timezone = 'Asia/Kathmandu'")
            conn.execute("set local datestyle = 'German'")


def test_a_login_that_is_only_assumed_is_refused(todo: Database) -> None:
    """It can be given back: RESET SESSION AUTHORIZATION, and DISCARD ALL does the same."""
    with todo.connect(autocommit=True) as conn:
        conn.execute(f"set session authorization {todo.app}")
        with pytest.raises(BypassingRoleError, match="says that it is"):
            guard(conn)


@pytest.mark.parametrize("name", ["bob‾", "b¥b"])
def test_a_name_that_an_encoding_makes_another_is_refused(name: str, app: psycopg.Connection[Any]) -> None:
    app.execute("set client_encoding = SJIS")
    app.commit()
    for pipeline in (False, True):
        with pytest.raises(InvalidIdentityError), as_user(app, Identity(sub="b", username=name), pipeline=pipeline):
            pass
    assert app.info.transaction_status == TransactionStatus.IDLE


def test_a_runtime_that_is_older_than_the_package_is_refused(todo: Database) -> None:
    with todo.connect(autocommit=True) as admin:
        admin.execute("update rlskit.version set version_num = '0000'")
    with todo.connect_as_app() as app, pytest.raises(RuntimeVersionError, match="has version 0000"):
        guard(app)


def test_a_login_that_may_switch_triggers_off_is_refused(todo: Database) -> None:
    """They guard the columns that depend on the row."""
    with todo.connect(autocommit=True) as admin:
        admin.execute(f"grant set on parameter session_replication_role to {todo.app}")
        try:
            with todo.connect_as_app() as conn, pytest.raises(BypassingRoleError, match="session_replication_role"):
                guard(conn)
        finally:
            admin.execute(f"revoke set on parameter session_replication_role from {todo.app}")
