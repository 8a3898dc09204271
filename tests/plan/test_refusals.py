"""What does not fit a database is refused by `plan`, before anything is changed, with the reason and the way out."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from rlskit import Rules, TableRules, allow, as_user, guard, plan
from rlskit.errors import (
    BypassingRoleError,
    ForeignObjectError,
    PlanError,
    RuleError,
    RuntimeVersionError,
    StalePlanError,
    UnknownColumnError,
    UnsupportedRuleError,
)
from rlskit.planner import compare
from tests.support import ALICE, BOB, Database


def test_a_table_that_does_not_exist(database: Database) -> None:
    with pytest.raises(PlanError) as caught:
        database.plan(TableRules("todo", allow.owner()))

    assert str(caught.value) == (
        "table `public.todo` does not exist\nhint: create it first: rlskit adds owner columns, but no tables"
    )


def test_a_role_that_does_not_exist(database: Database) -> None:
    with database.connect_as_owner() as conn, pytest.raises(PlanError) as caught:
        plan(conn, Rules(role="no_such_role"))

    assert str(caught.value) == (
        "role `no_such_role` does not exist\n"
        'hint: create role "no_such_role" nologin, and grant it to the logins of the application'
    )


def test_a_role_that_row_security_does_not_bind(database: Database) -> None:
    with database.connect_as_owner() as conn, pytest.raises(PlanError) as caught:
        plan(conn, Rules(role="postgres"))

    assert (
        caught.value.message
        == "role `postgres` is, or may become, a superuser or a role that reaches past row security, so no rule would bind it"
    )


@pytest.mark.parametrize("how", ["owns it", "may become its owner"])
def test_a_role_that_could_lift_the_rules(how: str, database: Database) -> None:
    database.execute("create table todo (id int)")
    role = database.owner
    if how == "may become its owner":
        role = database.app
        with database.connect(autocommit=True) as admin:
            admin.execute(f"grant {database.owner} to {database.app}")
    with database.connect_as_owner() as conn, pytest.raises(PlanError) as caught:
        plan(conn, Rules(TableRules("todo", allow.owner()), role=role))

    assert caught.value.message == (
        f"the application's role owns table `public.todo`, or may become its owner `{database.owner}`, who can lift the rules"
    )


def test_a_schema_rlskit_that_the_application_made_is_not_trusted_and_not_run(database: Database) -> None:
    """Whoever owns the functions says who is who; and a view in place of the version would run code as whoever plans."""
    with database.connect(autocommit=True) as admin:
        admin.execute(f"grant create on database {database.name} to {database.app}")
    with database.connect_as_app(autocommit=True) as app:
        app.execute("create schema rlskit")
        app.execute(
            "create function rlskit.trap() returns text language plpgsql as $$ begin raise exception 'it was run'; end $$"
        )
        app.execute("create view rlskit.version as select rlskit.trap() as version_num")
        app.execute("grant usage on schema rlskit to public; grant select on rlskit.version to public")
        with pytest.raises(BypassingRoleError, match="owns the schema rlskit"):
            guard(app)
    with pytest.raises(PlanError) as caught:
        database.plan()

    assert caught.value.message == (
        f"the application's role owns things in the schema rlskit, or may become `{database.app}`, who does: it could rewrite who is who"
    )


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        ("create view todo as select 1 as id", "view"),
        ("create materialized view todo as select 1 as id", "materialized view"),
    ],
)
def test_what_is_no_table(make: str, kind: str, database: Database) -> None:
    database.execute(make)
    with pytest.raises(PlanError) as caught:
        database.plan(TableRules("todo", allow.owner()))

    assert caught.value.message == f"`public.todo` is a {kind}, and PostgreSQL has no row security there"


@pytest.mark.parametrize(
    ("column", "rule", "message", "hint"),
    [
        pytest.param(
            "owner text[]", allow.owner(), "column `owner` of table `public.todo` is text[], and allow.owner() does not fit it",
            'write allow.owners_defined_in("owner")', id="an owner rule on a list",
        ),
        pytest.param(
            "owners text", allow.owners_defined_in("owners"),
            'column `owners` of table `public.todo` is text, and allow.owners_defined_in("owners") does not fit it',
            'write allow.owner_defined_in("owners")', id="an owners rule on a single value",
        ),
        pytest.param(
            "owner integer", allow.owner(), "column `owner` of table `public.todo` is integer, which cannot hold an owner exactly",
            "make it text, or uuid for one claim that is a uuid", id="a number",
        ),
        pytest.param(
            "owner char(40)", allow.owner(), "column `owner` of table `public.todo` is character, which cannot hold an owner exactly",
            "make it text, or uuid for one claim that is a uuid", id="char(n) pads with blanks",
        ),
        pytest.param(
            "owner name", allow.owner(), "column `owner` of table `public.todo` is name, which cannot hold an owner exactly",
            "make it text, or uuid for one claim that is a uuid", id="name cuts in silence",
        ),
        pytest.param(
            "owner uuid", allow.owner(), "column `owner` of table `public.todo` is uuid, which cannot hold <sub>::<username>",
            'add .identity_claim("sub") to the rule, or make the column text', id="uuid without a claim",
        ),
        pytest.param(
            "a text, owner text generated always as (a) stored", allow.owner(),
            "column `owner` of table `public.todo` is generated, so nobody could be written into it", "name an ordinary column", id="generated",
        ),
    ],
)  # fmt: skip
def test_a_column_that_cannot_name_an_owner(
    column: str, rule: object, message: str, hint: str, database: Database
) -> None:
    database.execute(f"create table todo (id int, {column})")
    with pytest.raises(UnsupportedRuleError) as caught:
        database.plan(TableRules("todo", rule))  # type: ignore[arg-type]

    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_collation_that_takes_different_names_for_the_same(database: Database) -> None:
    if database.server.major == 18:  # this build has no ICU: the same fact, as the catalogue would tell it
        database.execute("create table todo (id int, owner text)")
        with database.connect(autocommit=True) as admin:
            admin.execute(
                "create collation blind from \"C\"; update pg_collation set collisdeterministic = false where collname = 'blind'"
            )
        database.execute("alter table todo alter owner type text collate blind")
    else:
        database.execute(
            "create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "create table todo (id int, owner text collate blind)",
        )
    with pytest.raises(UnsupportedRuleError) as caught:
        database.plan(TableRules("todo", allow.owner()))

    assert (
        caught.value.message
        == "column `owner` of table `public.todo` has a collation that takes different names for the same"
    )


def test_a_misspelt_owner_column_is_not_added(database: Database) -> None:
    database.execute("create table todo (id int, ownr text)")
    with pytest.raises(UnknownColumnError) as caught:
        database.plan(TableRules("todo", allow.owner()))

    assert str(caught.value) == (
        "table `public.todo` has no column `owner`, which allow.owner() names\n"
        "hint: did you mean `ownr`? otherwise add the column yourself: rlskit adds one only where no name is like it"
    )


def test_a_column_that_can_name_nobody_is_no_other_spelling_of_owner(database: Database) -> None:
    database.execute("create table todo (id serial, content text, done boolean)")

    database.apply(TableRules("todo", allow.owner()))

    assert database.rows("select attname::text from pg_attribute where attrelid = 'todo'::regclass and attnum = 4") == [
        ("owner",)
    ]


def test_a_column_rule_for_a_column_that_does_not_exist(database: Database) -> None:
    database.execute("create table todo (id int, content text)")
    with pytest.raises(UnknownColumnError) as caught:
        database.plan(TableRules("todo", allow.owner(), columns={"contents": allow.same().to("read")}))

    assert str(caught.value) == (
        "table `public.todo` has no column `contents`, which a column rule names\nhint: did you mean `content`?"
    )


@pytest.mark.parametrize(
    "default", ["serial", "int generated by default as identity", "uuid default gen_random_uuid()"]
)
def test_a_value_that_is_new_each_time_cannot_be_told_from_one_that_was_set(default: str, database: Database) -> None:
    database.execute(f"create table todo (id int, ticket {default})")
    editors = allow.owners_defined_in("editors")
    rules = TableRules("todo", allow.owner(), editors, columns={"ticket": [allow.owner(), editors.to("read")]})
    with pytest.raises(UnsupportedRuleError) as caught:
        database.plan(rules)

    assert caught.value.message.startswith("column `ticket` of table `public.todo`: who may set it in a new row")


@pytest.mark.parametrize(
    "attribute",
    ["superuser", "bypassrls", "replication", "in role pg_read_all_data", "in role pg_execute_server_program"],
)
def test_a_role_that_may_become_one_that_no_rule_binds(attribute: str, database: Database) -> None:
    powerful = f"{database.name}_powerful"
    with database.connect(autocommit=True) as admin:
        admin.execute(f"create role {powerful} {attribute}")
        admin.execute(f"grant {powerful} to {database.app}")
    try:
        with pytest.raises(PlanError, match="may become, a superuser or a role that reaches past row security"):
            database.plan()
    finally:
        with database.connect(autocommit=True) as admin:
            admin.execute(f"drop role {powerful}")


def test_a_partition_that_the_application_owns(database: Database) -> None:
    database.execute(
        "create table todo (id int, owner text) partition by list (id)",
        "create table todo_1 partition of todo for values in (1)",
    )
    with database.connect(autocommit=True) as admin:
        admin.execute(f"alter table todo_1 owner to {database.app}")
    with pytest.raises(PlanError, match=r"the application's role owns table `public\.todo_1`"):
        database.plan(TableRules("todo", allow.owner()))


@pytest.mark.parametrize("part", ["partition of todo for values in (1)", "() inherits (todo)"])
def test_rules_on_a_part_of_a_table_that_has_none(part: str, database: Database) -> None:
    how = " partition by list (id)" if part.startswith("partition") else ""
    database.execute(f"create table todo (id int, owner text){how}", f"create table todo_1 {part}")
    with pytest.raises(PlanError) as caught:
        database.plan(TableRules("todo_1", allow.owner()))

    assert str(caught.value) == (
        "table `public.todo_1` is a part of `public.todo`, which has no rules and could be reached in its place\n"
        "hint: put the rules on `public.todo`: they hold for its parts"
    )


def test_operators_of_the_application_do_not_get_into_policies(database: Database) -> None:
    database.execute(
        "create table todo (id int, owner varchar(100), editors text[])", "grant create on schema public to public"
    )
    with database.connect_as_app(autocommit=True) as app:
        app.execute("create function public.yes(varchar, text) returns bool language sql immutable as 'select true'")
        app.execute("create function public.yes(text[], text[]) returns bool language sql immutable as 'select true'")
        app.execute("create operator public.= (leftarg = varchar, rightarg = text, function = public.yes)")
        app.execute("create operator public.&& (leftarg = text[], rightarg = text[], function = public.yes)")
    rules = database.apply(TableRules("todo", allow.owner(), allow.owners_defined_in("editors")))
    with database.connect_as_app() as conn:
        with as_user(conn, BOB):
            conn.execute("insert into todo (id) values (1)")
        with as_user(conn, ALICE):
            assert conn.execute("select * from todo").fetchall() == []
    assert database.plan(*rules.tables).conforms


def test_missing_rights(database: Database) -> None:
    database.execute("create table todo (id int)")
    with database.connect_as_app() as conn, pytest.raises(PlanError) as caught:
        plan(conn, Rules(TableRules("todo", allow.owner()), role=database.app))

    assert (
        caught.value.message
        == f"`{database.app}` may not alter table `public.todo`, which belongs to `{database.owner}`"
    )


def test_missing_rights_to_create_the_runtime(database: Database) -> None:
    with database.connect_as_app() as conn, pytest.raises(PlanError) as caught:
        plan(conn, Rules(role=database.app))

    assert caught.value.message == f"`{database.app}` may not create the schema rlskit in database `{database.name}`"


def test_rows_with_an_empty_owner_are_counted_and_refused(database: Database) -> None:
    database.execute(
        "create table todo (id int, owner text)", "insert into todo values (1, ''), (2, ''), (3, 'alice'), (4, null)"
    )
    with pytest.raises(PlanError) as caught:
        database.plan(TableRules("todo", allow.owner()))

    assert str(caught.value) == (
        "there are 2 rows in table `public.todo` with an empty name in column `owner`\n"
        "hint: an empty name would be nobody's: set it to NULL, or to the owner's name, and plan again"
    )


def test_rows_that_row_security_hides_from_the_owner_are_found_when_the_check_is_validated(database: Database) -> None:
    database.execute("create table todo (id int, owner text)", "insert into todo values (1, '')")
    database.execute("alter table todo enable row level security", "alter table todo force row level security")
    with pytest.raises(PlanError) as caught:
        database.apply(TableRules("todo", allow.owner()))
    assert str(caught.value) == (
        'table `public.todo`: check constraint "rlskit_owner_check" of relation "todo" is violated by some row\n'
        "hint: the rules are in force; set the empty names to NULL or to an owner's, and apply again"
    )
    assert [step.says for step in database.plan(TableRules("todo", allow.owner())) if "validate" in step.says] == [
        "validate check rlskit_owner_check"
    ]
    with database.connect(autocommit=True) as admin:
        admin.execute("update todo set owner = null")
    database.apply(TableRules("todo", allow.owner()))


def test_a_column_is_added_with_the_number_of_rows_that_will_be_nobodys(database: Database) -> None:
    database.execute("create table todo (id int)", "insert into todo values (1), (2)")
    (step,) = [each for each in database.plan(TableRules("todo", allow.owner())) if "add column" in each.says]

    assert step.why == "allow.owner(); the 2 rows that are there will name nobody in it until somebody does"


def test_a_newer_runtime(database: Database) -> None:
    database.apply()
    database.execute("update rlskit.version set version_num = '9000'")
    with pytest.raises(RuntimeVersionError) as caught:
        database.plan()

    assert str(caught.value) == (
        "the schema rlskit has version 9000, and this package knows 0001\nhint: pip install --upgrade rlskit"
    )


def test_a_plan_for_a_database_that_changed_since(database: Database) -> None:
    database.execute("create table todo (id int)")
    with database.connect_as_owner() as conn:
        made = plan(conn, database.rules(TableRules("todo", allow.owner())))
        database.execute("alter table todo add column content text")
        with pytest.raises(StalePlanError):
            made.apply(conn)

    assert database.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(False,)]


def test_a_connection_in_a_transaction(database: Database) -> None:
    with database.connect_as_owner() as conn:
        made = plan(conn, database.rules())
        conn.execute("select 1")
        with pytest.raises(PlanError, match="the connection is in a transaction"):
            made.apply(conn)


def test_another_apply_at_work(database: Database) -> None:
    with database.connect_as_owner(autocommit=True) as other, database.connect_as_owner() as conn:
        other.execute("select pg_advisory_lock(%s)", [0x726C736B])
        with pytest.raises(PlanError, match="another apply is at work"):
            plan(conn, database.rules()).apply(conn)


def test_a_lock_that_cannot_be_had(database: Database) -> None:
    database.execute("create table todo (id int)")
    rules = database.rules(TableRules("todo", allow.owner()))
    with database.connect_as_owner() as other, database.connect_as_owner() as conn:
        other.execute("lock table todo in access share mode")
        with pytest.raises(PlanError) as caught:
            plan(conn, rules).apply(conn, lock_timeout=0.1, retries=0)
        assert caught.value.message == "no lock on table `public.todo` within 0.1 seconds"
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        other.rollback()
        plan(conn, rules).apply(conn)
        assert plan(conn, rules).conforms


def test_a_table_that_does_not_exist_is_not_released(database: Database) -> None:
    with database.connect_as_owner() as conn, pytest.raises(PlanError, match=r"table `public\.tood` does not exist"):
        plan(conn, database.rules(), release=["tood"])


def test_a_table_with_rules_is_not_released(database: Database) -> None:
    database.execute("create table todo (id int)")
    with database.connect_as_owner() as conn, pytest.raises(RuleError, match="has rules, so it cannot be released"):
        plan(conn, database.rules(TableRules("todo", allow.owner())), release=["todo"])


# --- what rlskit did not make ---------------------------------------------------------------------------

RULES = TableRules("todo", allow.owner())
UNDOING = {
    "a permissive policy for the role": (
        "create policy legacy on todo for select to {app} using (true)",
        "policy legacy",
    ),
    "a permissive policy for everybody": ("create policy legacy on todo using (true)", "policy legacy"),
    "a permissive policy for a role that it is in": (
        "create policy legacy on todo to {group} using (true)",
        "policy legacy",
    ),
    "a privilege through PUBLIC": ("grant truncate on todo to public", "privilege truncate of public"),
    "a privilege on a column through PUBLIC": ("grant update (owner) on todo to public", "privilege update of public"),
    "a privilege through a role that it is in": ("grant select on todo to {group}", "privilege select of {group}"),
    "a privilege of a login that is in the role": (
        "grant truncate on todo to {login}",
        "privilege truncate of {login}",
    ),
    "a policy for a login that is in the role": (
        "create policy legacy on todo to {login} using (true)",
        "policy legacy",
    ),
    "a policy of the same name": (
        "create policy rlskit_select on todo for select to {app} using (true)",
        "policy rlskit_select",
    ),
}


@pytest.fixture
def todo(database: Database) -> Iterator[Database]:
    """A table, a group that the application's role is in, and a login that is in the role."""
    group = f"{database.name}_group"
    database.execute("create table todo (id int, owner text)")
    with database.connect(autocommit=True) as admin:
        admin.execute(f"create role {group}")
        admin.execute(f"grant {group} to {database.app}")
        admin.execute(f"create role {database.name}_login in role {database.app}")
    yield database
    with database.connect(autocommit=True) as admin:
        for role in (group, f"{database.name}_login"):
            admin.execute(f"drop owned by {role}")
            admin.execute(f"drop role {role}")


def named(text: str, database: Database) -> str:
    names = {"{app}": database.app, "{group}": f"{database.name}_group", "{login}": f"{database.name}_login"}
    for name, real in names.items():
        text = text.replace(name, real)
    return text


@pytest.mark.parametrize("what", UNDOING)
def test_what_undoes_the_rules_is_told_and_refused(what: str, todo: Database) -> None:
    todo.execute(named(UNDOING[what][0], todo))
    rules = todo.rules(RULES)
    with todo.connect_as_owner() as conn:
        made = plan(conn, rules)
        assert [each.name for each in made.undoing] == [named(UNDOING[what][1], todo)]
        with pytest.raises(ForeignObjectError) as caught:
            made.apply(conn)
        assert "--prune-foreign" in caught.value.hint
        assert not compare(conn, rules).conforms


@pytest.mark.parametrize("what", UNDOING)
def test_it_is_dropped_when_that_is_asked(what: str, todo: Database) -> None:
    todo.execute(named(UNDOING[what][0], todo))
    rules = todo.rules(RULES)
    with todo.connect_as_owner() as conn:
        plan(conn, rules).apply(conn, prune_foreign=True)

        assert (plan(conn, rules).conforms, plan(conn, rules).foreign) == (True, ())


@pytest.mark.parametrize("what", [each for each in UNDOING if each != "a policy of the same name"])
def test_it_is_kept_when_that_is_allowed_by_name_with_a_reason(what: str, todo: Database) -> None:
    statement, name = (named(each, todo) for each in UNDOING[what])
    todo.execute(statement)
    todo.apply(TableRules("todo", allow.owner(), keep={name: "reviewed"}))

    (kept,) = todo.plan(TableRules("todo", allow.owner(), keep={name: "reviewed"})).foreign
    assert (kept.undoes, kept.text.endswith("kept: reviewed")) == (False, True)


def test_what_only_narrows_is_told_and_left(todo: Database) -> None:
    todo.execute(
        f"create policy office_hours on todo as restrictive to {todo.app} using (true)",
        f"create policy auditors on todo for select to {todo.owner} using (true)",
        "create function noop() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger audit before update on todo for each row execute function noop()",
    )
    todo.apply(RULES)

    assert sorted(each.text for each in todo.plan(RULES).foreign) == [
        f"the permissive policy `auditors` is not rlskit's; it is not for `{todo.app}`",
        "the restrictive policy `office_hours` is not rlskit's; it narrows the rules",
        "the trigger `audit` is not rlskit's; it may change rows after the rules have let them pass",
    ]
