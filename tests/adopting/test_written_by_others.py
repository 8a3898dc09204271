"""Policies as others write them: what is understood, what is kept, and that nobody gets more than he had."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rlskit import Identity, as_nobody, as_user, importer, plan
from tests.support import Database, Server, fresh_database

ALICE = Identity(sub="a1f0a1f0-0000-4000-8000-000000000001", username="alice", claims={"email": "alice@example.com"})
BOB = Identity(sub="b2e1b2e1-0000-4000-8000-000000000002", username="bob", claims={"email": "bob@example.com"})

SUPABASE = (
    "create schema auth",
    "grant usage on schema auth to public",
    "create function auth.jwt() returns jsonb language sql stable as"
    " $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$",
    "create function auth.uid() returns uuid language sql stable as $$ select (auth.jwt() ->> 'sub')::uuid $$",
    "create function public.me() returns text language sql stable as $$ select auth.jwt() ->> 'sub' $$",
)
TABLE = "create table {} (id int primary key, content text, owner {} {}, editors text[])"

# --- conditions ------------------------------------------------------------------------------------------------------

JWT = "current_setting('request.jwt.claims', true)"
OWNER, EDITORS = 'allow.owner().identity_claim("{}")', 'allow.owners_defined_in("editors").identity_claim("{}")'

# A condition, the type of the column `owner`, and the rule that it becomes.
UNDERSTOOD = {
    "a setting": ("owner = current_setting('app.user_id', true)", "text", OWNER.format("sub")),
    "a setting that has to be there": ("owner = current_setting('app.user_id')", "text", OWNER.format("sub")),
    "the other way round": ("current_setting('app.user_id', true) = owner", "text", OWNER.format("sub")),
    "a sub-select": ("owner = (select current_setting('app.user_id', true))", "text", OWNER.format("sub")),
    "nullif": ("owner = nullif(current_setting('app.user_id', true), '')", "text", OWNER.format("sub")),
    "varchar": ("owner = current_setting('app.user_id', true)", "varchar(80)", OWNER.format("sub")),
    "a cast": ("owner = current_setting('app.user_id', true)::text", "text", OWNER.format("sub")),
    "a uuid": ("owner = current_setting('app.user_id', true)::uuid", "uuid", OWNER.format("sub")),
    "a uuid and nullif": ("owner = nullif(current_setting('app.user_id', true), '')::uuid", "uuid", OWNER.format("sub")),
    "a sub-select inside a cast": ("owner = (select current_setting('app.user_id', true))::uuid", "uuid", OWNER.format("sub")),
    "a cast inside a sub-select": ("owner = (select nullif(current_setting('app.user_id', true), '')::uuid)", "uuid", OWNER.format("sub")),
    "IN with one": ("owner in (current_setting('app.user_id', true))", "text", OWNER.format("sub")),
    "PostGraphile": ("owner = nullif(current_setting('jwt.claims.user_id', true), '')::uuid", "uuid", OWNER.format("sub")),
    "PostgREST": ("owner = current_setting('request.jwt.claim.email', true)", "text", OWNER.format("email")),
    "a claim in JSON": (f"owner = {JWT}::json ->> 'sub'", "text", OWNER.format("sub")),
    "a claim in jsonb": (f"owner = (select nullif({JWT}, '')::jsonb ->> 'email')", "text", OWNER.format("email")),
    "a claim in JSON as uuid": (f"owner = ({JWT}::json ->> 'sub')::uuid", "uuid", OWNER.format("sub")),
    "auth.uid()": ("owner = auth.uid()", "uuid", OWNER.format("sub")),
    "auth.uid() asked once": ("(select auth.uid()) = owner", "uuid", OWNER.format("sub")),
    "auth.jwt()": ("(select auth.jwt() ->> 'email') = owner", "text", OWNER.format("email")),
    "auth.jwt() asked once": ("owner = (select auth.jwt()) ->> 'sub'", "text", OWNER.format("sub")),
    "a claim of another name": ("owner = current_setting('app.tenant', true)", "text", OWNER.format("tenant")),
    "a setting with a quote": ("owner = current_setting('app.o''id', true)", "text", OWNER.format("o'id")),
    "any of a list": ("current_setting('app.user_id', true) = any (editors)", "text", EDITORS.format("sub")),
    "a list that contains": (f"editors @> array[{JWT}::json ->> 'sub']", "text", EDITORS.format("sub")),
    "contained in a list": ("array[current_setting('app.user_id', true)] <@ editors", "text", EDITORS.format("sub")),
    "lists that overlap": ("editors && array[(select auth.jwt() ->> 'sub')]", "text", EDITORS.format("sub")),
    "the other list first": ("array[current_setting('app.user_id', true)] && editors", "text", EDITORS.format("sub")),
    "OR": (
        "owner = auth.uid() or (select auth.jwt() ->> 'sub') = any (editors)",
        "uuid",
        f"{OWNER.format('sub')} or {EDITORS.format('sub')}",
    ),
    "everybody": ("true", "text", "open to create, read, update, delete: found so by rlskit import"),
}  # fmt: skip

NOT_UNDERSTOOD = {
    "a sub-query": ("exists (select from pg_class where relname = owner)", "text", "its condition is not understood"),
    "AND": ("owner = current_setting('app.user_id', true) and id > 3", "text", "its condition is not understood"),
    "or nobody's": ("owner = current_setting('app.user_id', true) or owner is null", "text", "its condition is not understood"),
    "or nobody asks": ("owner = auth.uid() or auth.uid() is null", "uuid", "its condition is not understood"),
    "not": ("owner <> current_setting('app.user_id', true)", "text", "its condition is not understood"),
    "distinct": ("owner is not distinct from current_setting('app.user_id', true)", "text", "its condition is not understood"),
    "a literal": ("owner = 'alice'", "text", "its condition is not understood"),
    "two columns": ("owner = content", "text", "its condition is not understood"),
    "folded": ("lower(owner) = current_setting('app.user_id', true)", "text", "its condition is not understood"),
    "an operator of somebody's own": ("owner operator(public.=) current_setting('app.user_id', true)", "text", "its condition is not understood"),
    "a number": ("owner = current_setting('app.user_id', true)::int", "int", "column `owner` is integer, which cannot hold an owner"),
    "a uuid as text": ("owner::text = current_setting('app.user_id', true)", "uuid", "for which capitals count otherwise"),
    "text as a uuid": ("owner = auth.uid()::text", "text", "for which capitals count otherwise"),
    "text by way of a uuid": ("owner = current_setting('app.user_id', true)::uuid::text", "text", "for which capitals count otherwise"),
    "a login": ("owner = current_user", "text", 'it asks `current_user`, and nobody has said which claim that is: --claim "current_user=…"'),
    "a session's login": ("session_user = owner", "text", "it asks `session_user`"),
    "a function of somebody's own": ("owner = public.me()", "text", "it asks `public.me()`"),
}  # fmt: skip


def owned(database: Database, *statements: str) -> None:
    """As the owner of the tables; ``{app}`` is the application's role."""
    database.execute(*(each.replace("{app}", f'"{database.app}"') for each in statements))


def read(database: Database, **options: Any) -> importer.Imported:
    with database.connect_as_owner() as conn:
        return importer.read(conn, role=database.app, **options)


@pytest.fixture(scope="module")
def conditions(server: Server) -> Iterator[dict[str, tuple[str, list[str]]]]:
    """For each condition above: what its table became, and what was said of it."""
    with fresh_database(server, "conditions") as database:
        operator = "create operator public.= (leftarg = text, rightarg = text, function = pg_catalog.textne)"
        owned(database, *SUPABASE, operator)
        given = {**UNDERSTOOD, **NOT_UNDERSTOOD}
        for number, (condition, type, _) in enumerate(given.values()):
            owned(
                database,
                TABLE.format(f"item_{number}", type, ""),
                f"alter table item_{number} enable row level security",
                f"grant select, insert, update, delete on item_{number} to {{app}}",
                f"create policy mine on item_{number} using ({condition})",
            )
        imported = read(database)
        rules = {table.name.name: table.allow for table in imported.rules.tables}
        notes = {
            name: [str(each) for each in imported.notes if each.table and each.table.name == name] for name in rules
        }
        yield {
            condition: (" or ".join(map(str, body)) if isinstance(body, tuple) else str(body), notes[f"item_{number}"])
            for number, condition in enumerate(given)
            for body in [rules[f"item_{number}"]]
        }


@pytest.mark.parametrize("condition", UNDERSTOOD)
def test_a_condition_becomes_a_rule(condition: str, conditions: dict[str, tuple[str, list[str]]]) -> None:
    rule, notes = conditions[condition]

    assert rule == UNDERSTOOD[condition][2]
    assert [note for note in notes if note.startswith("kept")] == []


@pytest.mark.parametrize("condition", NOT_UNDERSTOOD)
def test_what_is_not_understood_stays_as_it_is(condition: str, conditions: dict[str, tuple[str, list[str]]]) -> None:
    rule, notes = conditions[condition]

    assert rule == "unmanaged: kept by rlskit import: no policy of it was understood"
    assert NOT_UNDERSTOOD[condition][2] in notes[0]
    assert notes[0].startswith("kept: policy `mine` stays: ")


# --- whole tables ----------------------------------------------------------------------------------------------------

MINE = "owner = current_setting('app.user_id', true)"
EDITED = "current_setting('app.user_id', true) = any (editors)"
ALL = "grant select, insert, update, delete on {t} to {app}"
OWN = f"create policy own on {{t}} using ({MINE})"
SHOWN = "create policy shown on {t} for select using (true)"
UNOWNED = {"insert without owner"}  # a rule's default names whoever inserts


@dataclass(frozen=True)
class Situation:
    """What is done to a table; what it becomes; and which outcomes are otherwise, as the notes say."""

    given: tuple[str, ...]
    becomes: str
    otherwise: set[str] = field(default_factory=set)
    type: str = "text"
    default: str = ""
    row_security: bool = True


LEFT_ALONE = "unmanaged: kept by rlskit import: "
SUB = 'allow.owner().identity_claim("sub")'
SITUATIONS = {
    "an owner": Situation((ALL, OWN), f'{SUB}, reassign="never"', UNOWNED),
    "an owner by uuid, command by command": Situation(
        (
            "grant all on {t} to {app}",
            "create policy a on {t} for select using ((select auth.uid()) = owner)",
            "create policy b on {t} for insert with check ((select auth.uid()) = owner)",
            "create policy c on {t} for update using ((select auth.uid()) = owner) with check ((select auth.uid()) = owner)",
            "create policy d on {t} for delete using ((select auth.uid()) = owner)",
        ),
        f'{SUB}, reassign="never"', type="uuid", default="default auth.uid()",
    ),
    "an owner, and editors by a policy of their own": Situation(
        (ALL, OWN, f"create policy r on {{t}} for select using ({EDITED})", f"create policy u on {{t}} for update using ({EDITED})"),
        f'{SUB}, allow.owners_defined_in("editors").identity_claim("sub").to("read", "update"), reassign="never"',
        UNOWNED,
    ),
    "everybody reads": Situation((ALL, OWN, SHOWN), f'{SUB}, reassign="never"', UNOWNED),
    "everybody reads, and only creating is the owner's": Situation(
        ("grant select, insert on {t} to {app}", SHOWN, f"create policy c on {{t}} for insert with check ({MINE})"),
        f'{SUB}.to("create", "read")', UNOWNED,
    ),
    "everybody reads and creates": Situation(
        (ALL, OWN, "create policy c on {t} for insert with check (true)"), f'{SUB}, reassign="never"'
    ),
    "everybody": Situation((ALL, SHOWN), "open to read: found so by rlskit import"),
    "everybody, but not every column": Situation(
        ("grant select (id) on {t} to {app}", SHOWN), LEFT_ALONE + "everybody may read, but not every column, which `open` cannot say"
    ),
    "columns": Situation(
        ("grant select (id, owner), insert (id, content, owner), update (content), delete on {t} to {app}", OWN),
        'allow.owner().identity_claim("sub").to("create", "read", "delete"), columns={'
        '"content": [allow.owner().identity_claim("sub").to("create", "update", "delete")], '
        '"editors": [allow.same().to("delete")]}',
        UNOWNED,
    ),
    "an owner whom nobody may write": Situation(
        ("grant select, delete, insert (id, content), update (content) on {t} to {app}", OWN),
        'allow.owner().identity_claim("sub").to("read", "delete"), '
        'columns={"content": [allow.owner().identity_claim("sub").to("read", "update", "delete")]}',
    ),
    "an owner whom only the default writes": Situation(
        ("grant select, delete, insert (id, content), update (content) on {t} to {app}", OWN),
        'allow.owner().identity_claim("sub").to("read", "delete"), columns={'
        '"content": [allow.owner().identity_claim("sub")], '
        '"id": [allow.owner().identity_claim("sub").to("create", "read", "delete")]}',
        UNOWNED,  # nobody's, which the setting's '' was before
        default="default current_setting('app.user_id', true)",
    ),
    "no privilege to delete": Situation(
        ("grant select, insert, update on {t} to {app}", OWN), f'{SUB}.to("create", "read", "update"), reassign="never"', UNOWNED
    ),
    "no privilege at all": Situation((OWN,), LEFT_ALONE + "`{role}` holds no privilege that a policy would let it use"),
    "rows that are given away": Situation(
        (ALL, f"create policy r on {{t}} for select using ({MINE})", f"create policy u on {{t}} for update using ({MINE}) with check (true)"),
        f'{SUB}.to("read", "update"), reassign="explicit"',
        {"update owner to nobody, all"},
    ),
    "rows that are given away where all is shown": Situation(
        (ALL, SHOWN, f"create policy u on {{t}} for update using ({MINE}) with check (true)"),
        f'{SUB}.to("read", "update"), reassign="explicit"',
        {"update owner to nobody", "update owner to nobody, all"},
    ),
    "rows that go to somebody else": Situation(
        (ALL, f"create policy r on {{t}} for select using ({MINE})", f"create policy u on {{t}} for update using ({MINE}) with check ({EDITED})"),
        LEFT_ALONE + "`u` needs the privilege to update, which no rule would give",
    ),
    "writing without reading": Situation(
        (ALL, f"create policy w on {{t}} for update using ({MINE})"), LEFT_ALONE + "no policy of it was understood"
    ),
    "reading that is not understood": Situation(
        (ALL, "create policy r on {t} for select using (content like 'p%')", f"create policy w on {{t}} for delete using ({MINE})"),
        LEFT_ALONE + "no policy of it was understood",
    ),
    "a policy that is not understood beside one that is": Situation(
        (ALL, OWN, "create policy shared on {t} for select using (content like 'p%')"), f'{SUB}, reassign="never"', UNOWNED
    ),
    "a policy that is not understood, and needs what no rule gives": Situation(
        (ALL, f"create policy r on {{t}} for select using ({MINE})", "create policy purge on {t} for delete using (content like 'p%')"),
        LEFT_ALONE + "`purge` needs the privilege to delete, which no rule would give",
    ),
    "a restrictive policy": Situation(
        (ALL, OWN, "create policy live on {t} as restrictive for select using (content like 'p%')"), f'{SUB}, reassign="never"', UNOWNED
    ),
    "a restrictive policy that looks like a rule": Situation(
        (ALL, OWN, f"create policy live on {{t}} as restrictive using ({EDITED})"), f'{SUB}, reassign="never"'
    ),
    "everybody may take a row over": Situation(
        (ALL, SHOWN, f"create policy u on {{t}} for update using (true) with check ({MINE})"), LEFT_ALONE + "no policy of it was understood"
    ),
    "a default that names somebody else": Situation(
        ("grant select, insert (id, content) on {t} to {app}", OWN), 'allow.owner().identity_claim("sub").to("read")',
        default="default current_setting('app.tenant', true)",
    ),
    "a default that spells otherwise": Situation(
        ("grant select, insert (id, content) on {t} to {app}", OWN), 'allow.owner().identity_claim("sub").to("read")',
        default="default auth.uid()::text",
        otherwise=UNOWNED,
    ),
    "a name that rlskit needs": Situation(
        (ALL, OWN, "create policy rlskit_select on {t} for select using (content like 'p%')"),
        LEFT_ALONE + "a policy that is kept bears a name that rlskit needs",
    ),
    "through PUBLIC": Situation(
        ("grant select, insert on {t} to public", "create policy own on {t} to public using (" + MINE + ")"), f'{SUB}.to("create", "read")', UNOWNED
    ),
    "for another role": Situation(
        (ALL, f"create policy own on {{t}} to pg_monitor using ({MINE})"), "unmanaged: found closed by rlskit import: no policy lets `{role}` in"
    ),
    "through a role that it is in": Situation(
        ("grant select, delete on {t} to {group}", f"create policy own on {{t}} to {{group}} using ({MINE})"), f'{SUB}.to("read", "delete")'
    ),
    "for a login that is in the role": Situation(
        (ALL, OWN, "create policy admin on {t} to {login} using (true)"), f'{SUB}, reassign="never"', UNOWNED
    ),
    "a schema that it may not use": Situation(
        ("create schema closed", "alter table {t} set schema closed", "grant select on closed.{t} to {app}",
         f"create policy own on closed.{{t}} using ({MINE})"),
        LEFT_ALONE + "`{role}` holds no privilege that a policy would let it use",
    ),
    "no policy": Situation((ALL,), "unmanaged: found closed by rlskit import: no policy lets `{role}` in"),
    "row security that is off": Situation(
        (ALL, OWN), f'{SUB}, reassign="never"', {"everything"}, row_security=False
    ),
}  # fmt: skip
PROBES = {
    "select": "select id from {t}",
    "select everything": "select id, content, owner, editors from {t}",
    "insert as mine": "insert into {t} (id, content, owner) values (9, 'new', '{me}')",
    "insert as another's": "insert into {t} (id, content, owner) values (9, 'new', '{other}')",
    "insert for editors": "insert into {t} (id, content, owner, editors) values (9, 'new', '{other}', array['{me}'])",
    "insert without owner": "insert into {t} (id, content) values (9, 'new')",
    "update everything": "update {t} set content = 'changed'",
    **{f"update {key}": f"update {{t}} set content = 'changed' where id = {key}" for key in (1, 2, 3, 4)},
    "update owner to another": "update {t} set owner = '{other}' where id = 1",
    "update owner to another, all": "update {t} set owner = '{other}'",
    "update owner to me": "update {t} set owner = '{me}' where id = 3",
    "update owner to nobody": "update {t} set owner = null where id = 1",
    "update owner to nobody, all": "update {t} set owner = null",
    "update editors": "update {t} set editors = array['{me}'] where id = 1",
    **{f"delete {key}": f"delete from {{t}} where id = {key}" for key in (1, 2, 3, 4)},
}
Outcomes = dict[tuple[str, str, str], object]  # table, person, probe


def as_before(conn: psycopg.Connection[Any], who: Identity | None) -> AbstractContextManager[object]:
    """A transaction of somebody, as the application said it until now."""
    conn.execute("select set_config('app.user_id', %s, false)", [who.sub if who else ""])
    claims = json.dumps({"sub": who.sub, **who.claims}) if who else ""
    conn.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    return conn.transaction()


@contextmanager
def as_after(conn: psycopg.Connection[Any], who: Identity | None) -> Iterator[None]:
    """The same with rlskit. What is kept goes on asking the settings that it asked."""
    with as_before(conn, who):
        pass
    with as_user(conn, who) if who else as_nobody(conn):
        yield


def outcomes(database: Database, asking: Callable[..., AbstractContextManager[object]]) -> Outcomes:
    """What the application's login gets for every probe, each undone again: rows, a number of them, or nothing, in whatever way."""
    found: Outcomes = {}
    with database.connect_as_app(autocommit=True) as conn:
        for person, who, other in (("alice", ALICE, BOB), ("bob", BOB, ALICE), ("nobody", None, BOB)):
            with asking(conn, who):
                for number, situation in enumerate(SITUATIONS):
                    for probe, statement in PROBES.items():
                        text = statement.format(t=f"item_{number}", me=who.sub if who else ALICE.sub, other=other.sub)
                        try:
                            with conn.transaction(force_rollback=True):
                                cursor = conn.execute(text)  # type: ignore[call-overload]
                                got: Any = (
                                    sorted(map(str, cursor.fetchall())) if cursor.description else cursor.rowcount
                                )
                        except psycopg.Error:
                            got = None
                        found[situation, person, probe] = got or "nothing"
    return found


@dataclass(frozen=True)
class Adopted:
    """The situations of one database: what became of them, and what people got before and after."""

    imported: importer.Imported
    role: str
    before: Outcomes
    after: Outcomes


@pytest.fixture(scope="module")
def adopted(server: Server) -> Iterator[Adopted]:
    with fresh_database(server, "adopted") as database:
        group, login = f"{database.name}_group", f"{database.name}_login"
        with database.connect(autocommit=True) as conn:
            for role in (group, login):
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(database.app)))
            conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(database.app), sql.Identifier(login)))
        owned(database, *SUPABASE)
        for number, each in enumerate(SITUATIONS.values()):
            table = f"item_{number}"
            owned(
                database,
                TABLE.format(table, each.type, each.default),
                f"insert into {table} values (1, 'p1', '{ALICE.sub}', null), (2, 'p2', '{BOB.sub}', null),"
                f" (3, 'q3', '{ALICE.sub}', '{{{BOB.sub}}}'), (4, 'q4', null, null)",
                *([f"alter table {table} enable row level security"] if each.row_security else []),
                *(
                    line.replace("{t}", table).replace("{group}", group).replace("{login}", login)
                    for line in each.given
                ),
            )
        was = outcomes(database, as_before)
        imported = read(database, schemas=["public", "closed"])
        with database.connect_as_owner() as conn:
            plan(conn, imported.rules).apply(conn, prune_foreign=True)
        yield Adopted(imported, database.app, was, outcomes(database, as_after))
        with database.connect(autocommit=True) as conn:
            for role in (group, login):
                conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nobody_gets_more_than_before_and_everybody_the_same_but_for_what_is_said(
    situation: str, adopted: Adopted
) -> None:
    number, said = list(SITUATIONS).index(situation), SITUATIONS[situation]
    rules = next(each for each in adopted.imported.rules.tables if each.name.name == f"item_{number}")
    pairs = {
        (person, probe): (adopted.before[it, person, probe], got)
        for (it, person, probe), got in adopted.after.items()
        if it == situation
    }
    differing = {probe for (_, probe), (was, got) in pairs.items() if was != got}

    assert str(rules) == said.becomes.replace("{role}", adopted.role)
    assert (set(PROBES) if said.otherwise == {"everything"} else said.otherwise) >= differing
    assert said.otherwise <= {"everything"} or said.otherwise == differing
    more = {key for key, (was, got) in pairs.items() if gets_more(was, got)}
    assert {probe for _, probe in more} <= UNOWNED


def gets_more(was: object, got: object) -> bool:
    match was, got:
        case _, "nothing":
            return False
        case list(), list():
            return not set(got) <= set(was)
        case int(), int():
            return got > was
    return True


def test_what_became_of_a_policy_is_said(adopted: Adopted) -> None:
    assert {str(each) for each in adopted.imported.notes if each.table is None} == {
        "check: `app.tenant` is taken for the claim `tenant`; if it is another: --claim \"app.tenant=…\"",
        "check: `app.user_id` is taken for the claim `sub`; if it is another: --claim \"app.user_id=…\"",
        "check: `auth.uid()` is taken for the claim `sub`; if it is another: --claim \"auth.uid()=…\"",
    }  # fmt: skip
