"""Whether a database is such that a proof or a green test means anything: what of it would let everybody past the rules, or is not as they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import tuple_row

from rlskit import catalog, compiler, gatekeeper, planner, runtime
from rlskit.errors import PlanError, RuleError
from rlskit.facts import Database
from rlskit.names import QualifiedName
from rlskit.refusals import refusals
from rlskit.rules import Rules
from rlskit.state import Policy, RowSecurity
from rlskit.words import counted

_APPLY = "rlskit apply"
_NAMED = 3  # differences; the others are counted
_ORDINARY = "name an ordinary role in the rules: not superuser, no BYPASSRLS, no owner of a table, and a member of none"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a green test would mean nothing; ``table`` is None where it concerns all of them.

    ``kind`` is stable. Of the role: "superuser", "bypassrls", "owner", the same after "member of ", and whatever else ``guard`` refuses a login for; of
    a table: "missing", "no policies", "off", "not forced"; of the database: "identity", "runtime", "impossible" (the rules do not fit it), "differences".
    """

    table: QualifiedName | None
    kind: str
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.text}\nhint: {self.hint}"


def findings(conn: Connection[Any], rules: Rules) -> tuple[Finding, ...]:
    """Return why a green test on this database would mean nothing, the gravest first; none where it would.

    ``conn`` is a superuser's: the role of the rules is judged as ``guard`` judges a login, in its place. Reads only, in a transaction that is
    rolled back; an idle connection is idle afterwards. Raises PlanError for anybody else's connection.
    """
    compiled = compiler.compile(rules)
    with catalog.reading(conn):
        database = catalog.read(conn, compiled.tables, rules.role)
    if not database.server.role_exists:
        return (
            Finding(
                None,
                "no role",
                f"role `{rules.role}` does not exist",
                f'create role "{rules.role}" nologin, and grant it to the logins of the application',
            ),
        )
    found = [
        *_of_role(conn, rules.role, database),
        *_of_settings(conn),
        *_of_runtime(database),
        *(each for table in sorted(compiled.tables) for each in _of_table(table, database)),
    ]
    return (*found, *_of_plan(conn, rules, found))


@dataclass(frozen=True, slots=True)
class Unruled:
    """A table that no rule names, and what the role may do there all the same."""

    table: QualifiedName
    privileges: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.table} ({', '.join(self.privileges)})"


def unruled(conn: Connection[Any], rules: Rules) -> tuple[Unruled, ...]:
    """Return the tables that the role of the rules reaches and no rule names; nothing of them is proved. Reads only; an idle connection is idle afterwards."""
    names = [each.name for each in rules.tables]
    asked = {
        "role": rules.role,
        "schemas": [each.schema for each in names],
        "tables": [each.name for each in names],
    }
    with catalog.reading(conn):
        cursor = conn.cursor(row_factory=tuple_row)
        found = cursor.execute(runtime.script("catalog/unruled.sql"), asked).fetchall()
    return tuple(Unruled(QualifiedName(schema, name), tuple(privileges)) for schema, name, privileges in found)


def _of_role(conn: Connection[Any], role: str, database: Database) -> Iterator[Finding]:
    with catalog.reading(conn):
        try:
            conn.execute("select set_config('session_authorization', %s, true)", [role])
        except InsufficientPrivilege as error:
            raise PlanError(
                f"`{database.server.user_name}` may not look at the database as role `{role}`",
                hint="connect as a superuser, who may SET SESSION AUTHORIZATION",
            ) from error
        with conn.lock:
            facts = conn.wait(gatekeeper.facts(conn))
    for refusal in refusals(facts):
        if not refusal.of_session:
            yield Finding(None, refusal.kind, f"role `{role}` {refusal.text}", refusal.hint or _ORDINARY)


def _of_settings(conn: Connection[Any]) -> Iterator[Finding]:
    """Whom the database makes of everybody who says nothing: a proof says of nobody that he is nobody."""
    with catalog.reading(conn):
        for name, where in conn.cursor(row_factory=tuple_row).execute(_SAID).fetchall():
            text = f"{name} is set for everybody who connects: whoever says nothing is somebody"
            yield Finding(None, "identity", text, f"alter {where} reset {name}")


_SAID = """
    select split_part(given, '=', 1), coalesce(format('database %I', datname), 'role all')
    from pg_db_role_setting left join pg_database on oid = setdatabase, unnest(setconfig) as given
    where setrole = 0 and coalesce(datname = current_database(), true)
      and given ~* '^rlskit[.](sub|username|claims|actor|token)=.'
    order by 1
"""


def _of_runtime(database: Database) -> Iterator[Finding]:
    version = database.runtime_version
    if database.server.runtime_is_the_roles:
        return  # it was not read, and of the role it was said
    if version is None:
        yield Finding(None, "runtime", "this database has no schema rlskit", f"{_APPLY}, or rlskit install")
    elif version < runtime.version():
        text = f"the schema rlskit has version {version}, and this package needs {runtime.version()}"
        yield Finding(None, "runtime", text, f"{_APPLY}, or rlskit install, by its owner")


def _of_table(table: QualifiedName, database: Database) -> Iterator[Finding]:
    if table not in database.tables:
        yield Finding(table, "missing", f"table `{table}` does not exist", "run the application's migrations first")
        return
    security = [each for each in database.state.of(table) if isinstance(each, RowSecurity)]
    policies = [each for each in database.state.of(table) if isinstance(each, Policy)]
    others = [each for each in database.foreign if each.table == table and isinstance(each.drop, Policy)]
    enabled, forced = any(each.enabled for each in security), any(each.forced for each in security)
    if not policies and not others:
        yield Finding(table, "no policies", f"table `{table}` has no policies", _APPLY)
    elif not enabled:
        text = f"table `{table}` has policies, and its row security is off: they bind nobody"
        yield Finding(table, "off", text, f"alter table {table} enable row level security, or {_APPLY}")
    elif not forced:
        text = f"row security of table `{table}` is not forced: it does not bind the owner of the table"
        yield Finding(table, "not forced", text, f"alter table {table} force row level security, or {_APPLY}")


def _of_plan(conn: Connection[Any], rules: Rules, found: list[Finding]) -> Iterator[Finding]:
    """What else differs."""
    told = {each.table: each.kind for each in found}
    try:
        plan = planner.compare(conn, rules)
    except (PlanError, RuleError) as error:
        # Of a role or a table that cannot be it would only say again what was found.
        if {each.kind for each in found} <= {"identity", "runtime", "no policies", "off", "not forced"}:
            yield Finding(None, "impossible", error.message, error.hint)
        return
    steps = [
        each
        for each in plan.steps
        if told.get(each.table) not in ("no policies", "runtime")
        and not (each.table in told and isinstance(each.after, RowSecurity))
    ]
    differences = [
        *(f"{each.table or 'the schema rlskit'}: {each.says}" for each in steps),
        *(f"{each.table}: {each.text}" for each in plan.undoing),
    ]
    if number := len(differences):
        others = counted(number, "other difference" if found else "difference")
        more = [f"and {number - _NAMED:,} more"] if number > _NAMED else []
        named = "; ".join([*differences[:_NAMED], *more])
        text = f"the database is not as the rules say: {others}: {named}"
        yield Finding(None, "differences", text, "rlskit check tells all of it, and rlskit apply mends it")
