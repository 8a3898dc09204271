"""A wanted state is fitted to one database: column lists, types, partitions. What does not fit is refused here, before any change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from rlskit.errors import PlanError, UnknownColumnError, UnsupportedRuleError
from rlskit.facts import Database, TableFacts
from rlskit.names import QualifiedName, index_name
from rlskit.state import (
    AllBut,
    AnyOf,
    CallersName,
    Check,
    Column,
    Default,
    Expression,
    Grant,
    Index,
    MovingAway,
    NamesCaller,
    NamesSomebody,
    OwnerColumn,
    Policy,
    Reassigned,
    RowSecurity,
    State,
    StrangerTo,
    TableObject,
    Trigger,
    Usage,
    WellFormed,
)
from rlskit.words import did_you_mean

_FIT_TYPES = ("text", "character varying")
_NAMING_TYPES = (
    *_FIT_TYPES,
    "character",
    "citext",
    "name",
    "uuid",
)  # of columns that are meant to name somebody, fit or not


def fit(wanted: State, database: Database, role: str) -> State:
    """Return ``wanted`` as this database would have it.

    Raises UnknownColumnError, UnsupportedRuleError or PlanError for what does not fit: a role, a table or a column that is
    missing, a type that cannot hold an owner, a role that row security would not bind.
    """
    _check_role(database, role)
    families: dict[QualifiedName, list[TableFacts]] = defaultdict(list)
    for facts in database.tables.values():
        for ancestor in facts.ancestors:
            if facts.name not in wanted.tables and not facts.going:
                families[ancestor].append(facts)
    objects: list[TableObject] = []
    for table in sorted(wanted.tables):
        for part in families[table]:
            _check_owner(part, database)
            if part.kind == "foreign table":
                raise PlanError(
                    f"`{part.name}` is a part of table `{table}` and a foreign table, and PostgreSQL has no row security there",
                    hint="detach it, or keep its rows in a table of this database",
                )
        objects += _fit_table(_facts(database, table), wanted.of(table), families[table])
    objects += _leaving(wanted, database)
    return replace(wanted, objects=frozenset(objects))


def check_rights(database: Database, tables: Iterable[QualifiedName]) -> None:
    """Raise PlanError unless the connected user may carry changes to these tables out."""
    server = database.server
    if server.read_only:
        raise PlanError("this server is read-only", hint="connect to the primary, in a transaction that may write")
    for table in tables:
        facts = database.tables[table]
        if not facts.alterable:
            raise PlanError(
                f"`{server.user_name}` may not alter table `{table}`, which belongs to `{facts.owner}`",
                hint=f"connect as `{facts.owner}`, as a member of it, or as a superuser",
            )


def _check_role(database: Database, role: str) -> None:
    if not database.server.role_exists:
        raise PlanError(
            f"role `{role}` does not exist",
            hint=f'create role "{role}" nologin, and grant it to the logins of the application',
        )
    if owner := database.server.runtime_is_the_roles:
        raise PlanError(
            f"the application's role owns things in the schema rlskit, or may become `{owner}`, who does: it could rewrite who is who",
            hint="drop the schema rlskit and let the owner of the tables or a DBA install it; revoke create on the database from the application",
        )
    if database.server.role_bypasses:
        raise PlanError(
            f"role `{role}` is, or may become, a superuser or a role that reaches past row security, so no rule would bind it",
            hint=f'alter role "{role}" nosuperuser nobypassrls noreplication, revoke pg_read_all_data and its like, or name another role',
        )


def _facts(database: Database, table: QualifiedName) -> TableFacts:
    if table not in database.tables:
        raise PlanError(
            f"table `{table}` does not exist", hint="create it first: rlskit adds owner columns, but no tables"
        )
    facts = database.tables[table]
    if facts.going:
        raise PlanError(
            f"table `{table}` has rules, and the migration drops it",
            hint="take its rules out; or add it to the models, or leave it out of the comparison with include_object",
        )
    if facts.kind not in ("table", "partitioned table"):
        way_out = (
            "put the rules on its tables, and make it `with (security_invoker = true)`"
            if facts.kind == "view"
            else "leave it out"
        )
        raise PlanError(f"`{table}` is a {facts.kind}, and PostgreSQL has no row security there", hint=way_out)
    _check_owner(facts, database)
    if outside := [parent for parent in facts.parents if parent not in database.tables]:
        raise PlanError(
            f"table `{table}` is a part of `{outside[0]}`, which has no rules and could be reached in its place",
            hint=f"put the rules on `{outside[0]}`: they hold for its parts",
        )
    return facts


def _check_owner(facts: TableFacts, database: Database) -> None:
    if facts.owner in database.server.role_may_become:
        raise PlanError(
            f"the application's role owns table `{facts.name}`, or may become its owner `{facts.owner}`, who can lift the rules",
            hint=f'alter table {facts.name} owner to another role, or revoke "{facts.owner}" from the application',
        )


def _fit_table(facts: TableFacts, objects: Iterable[TableObject], family: list[TableFacts]) -> Iterator[TableObject]:
    missing = [each for each in objects if isinstance(each, Column) and each.name not in facts.columns]
    for column in missing:
        _refuse_misspelling(facts, column)
    added = {each.name: each for each in missing}
    for each in objects:
        match each:
            case Column():
                if each.name in added:
                    yield each
                elif each.type is not None:
                    _check_strategy(facts, each, each.type)
            case Policy():
                _check_storage(each, [facts, *family])
                yield replace(
                    each,
                    using=each.using and _typed(each.using, facts),
                    with_check=each.with_check and _typed(each.with_check, facts),
                )
            case Default() | Check():
                yield replace(each, expression=_typed(each.expression, facts))
            case Grant():
                listed = None if each.columns is None else _listed(each.columns, facts, added)
                grant = replace(each, columns=listed)
                if grant.columns != ():
                    yield grant
                yield from _sequences(grant, facts)
            case Index():
                yield from _indexes(each, facts, family)
            case RowSecurity():
                yield each
                for child in family:
                    yield replace(each, table=child.name, why=f"a part of {facts.name} that could be reached directly")
            case Trigger():
                trigger = _fit_guard(each, facts, added) if isinstance(each.when, StrangerTo) else each
                if trigger is None:
                    continue
                trigger = replace(trigger, when=trigger.when and _typed(trigger.when, facts))
                yield trigger
                # PostgreSQL copies a row trigger down to partitions, but not to children that inherit.
                for child in family:
                    if not child.is_partition:
                        yield replace(trigger, table=child.name)
            case _:
                yield each


def _check_storage(policy: Policy, parts: Iterable[TableFacts]) -> None:
    """What a row version has for a place before it is stored is known of PostgreSQL's own tables only."""
    for part in parts:
        if policy.lets_go and part.kind == "table" and part.access_method != "heap":
            raise UnsupportedRuleError(
                f"table `{part.name}` keeps its rows by the access method `{part.access_method}`, "
                "under which a plain UPDATE cannot give them away",
                hint='say reassign="explicit" or "never", or protect the owner column',
            )


def _fit_guard(wanted: Trigger, facts: TableFacts, added: Iterable[str]) -> Trigger | None:
    """The trigger with the columns that it guards by name; None where there is nothing to guard."""
    guarded = wanted.columns or wanted.arguments
    names = [each for each in _listed(guarded, facts, added) if each in added or not facts.columns[each].generated]
    if wanted.event == "insert":
        if isinstance(guarded, AllBut):  # whoever may create a row may say its key
            names = [each for each in names if each in added or not facts.columns[each].key]
        _refuse_fresh(names, facts)
    if not names:
        return None
    return replace(
        wanted,
        columns=tuple(names) if wanted.columns else (),
        arguments=tuple(names) if wanted.arguments else (),
    )


def _refuse_fresh(names: Iterable[str], facts: TableFacts) -> None:
    """A trigger sees values, not what was named: it takes a value that is not the default for one that was."""
    for name in names:
        if name in facts.columns and facts.columns[name].fresh:
            raise UnsupportedRuleError(
                f"column `{name}` of table `{facts.name}`: who may set it in a new row would depend on the row, "
                "and its default, which is another value each time, could not be told from a value that was set",
                hint="let nobody set it, or whoever may create: give it a column rule without create, or `allow.same()`",
            )


def _refuse_misspelling(facts: TableFacts, column: Column) -> None:
    # A column that could not name anybody, such as `done boolean`, is no other spelling of `owner`.
    meant = [
        each.name
        for each in facts.columns.values()
        if column.type is None or each.type.removesuffix("[]") in _NAMING_TYPES
    ]
    near = did_you_mean(column.name, meant)
    if column.type is None:
        raise UnknownColumnError(
            f"table `{facts.name}` has no column `{column.name}`, which a column rule names", hint=near
        )
    if near.startswith("did"):
        raise UnknownColumnError(
            f"table `{facts.name}` has no column `{column.name}`, which {column.why} names",
            hint=f"{near} otherwise add the column yourself: rlskit adds one only where no name is like it",
        )


def _check_strategy(facts: TableFacts, wanted: Column, type: str) -> None:
    found = facts.columns[wanted.name]
    is_list, asks_list = found.type.endswith("[]"), type.endswith("[]")
    place = f"column `{wanted.name}` of table `{facts.name}`"
    if is_list != asks_list:
        word = "owners_defined_in" if is_list else "owner_defined_in"
        raise UnsupportedRuleError(
            f"{place} is {found.type}, and {wanted.why} does not fit it", hint=f'write allow.{word}("{wanted.name}")'
        )
    if found.generated:
        raise UnsupportedRuleError(
            f"{place} is generated, so nobody could be written into it", hint="name an ordinary column"
        )
    if not found.deterministic:
        raise UnsupportedRuleError(
            f"{place} has a collation that takes different names for the same",
            hint=f'alter table {facts.name} alter column "{wanted.name}" type {found.type} collate "C"',
        )
    name_type = found.type.removesuffix("[]")
    if name_type not in (*_FIT_TYPES, *(() if is_list else ("uuid",))):
        raise UnsupportedRuleError(
            f"{place} is {found.type}, which cannot hold an owner exactly",
            hint=f"make it {type}, or uuid for one claim that is a uuid",
        )


def _typed(expression: Expression, facts: TableFacts) -> Expression:
    """The expression with the types that the owner columns really have."""

    def column(wanted: OwnerColumn) -> OwnerColumn:
        found = facts.columns.get(wanted.name)
        return replace(wanted, type=found.type.removesuffix("[]")) if found else wanted

    def naming(each: NamesCaller) -> NamesCaller:
        typed = replace(each, column=column(each.column))
        if typed.column.type == "uuid" and typed.claim is None:
            raise UnsupportedRuleError(
                f"column `{typed.column.name}` of table `{facts.name}` is uuid, which cannot hold <sub>::<username>",
                hint='add .identity_claim("sub") to the rule, or make the column text',
            )
        return typed

    match expression:
        case AnyOf(terms):
            return AnyOf(
                tuple(
                    MovingAway(tuple(map(column, each.columns))) if isinstance(each, MovingAway) else naming(each)
                    for each in terms
                )
            )
        case Reassigned(columns):
            return Reassigned(tuple(map(column, columns)))
        case StrangerTo(version, named):
            return StrangerTo(version, tuple(map(naming, named)))
        case NamesSomebody(columns):
            return NamesSomebody(tuple(map(column, columns)))
        case CallersName(owner_column, claim):
            return CallersName(column(owner_column), claim)
        case WellFormed(owner_column):
            return WellFormed(column(owner_column))
        case other:
            return other


def _listed(columns: tuple[str, ...] | AllBut, facts: TableFacts, added: Iterable[str]) -> tuple[str, ...]:
    known = [*facts.columns, *added]
    named = columns.columns if isinstance(columns, AllBut) else columns
    return tuple(sorted(name for name in known if (name in named) != isinstance(columns, AllBut)))


def _sequences(grant: Grant, facts: TableFacts) -> Iterator[Usage]:
    """A serial column draws its value with the inserting role's own right."""
    if grant.privilege != "insert" or not grant.columns:
        return
    for column in facts.columns.values():
        if column.sequence is not None:
            yield Usage(
                table=facts.name,
                role=grant.role,
                sequence=column.sequence,
                why=f"the default of {column.name} draws from it",
            )


def _indexes(wanted: Index, facts: TableFacts, family: list[TableFacts]) -> Iterator[Index]:
    yield from _index_of(wanted, facts)
    for child in family:
        # An index on a partitioned table reaches down to the partitions by itself.
        if not child.is_partition:
            name = index_name(child.name, wanted.column)
            yield from _index_of(replace(wanted, table=child.name, name=name), child)


def _index_of(wanted: Index, facts: TableFacts) -> Iterator[Index]:
    serving = [each for each in facts.indexes if (each.column, each.method) == (wanted.column, wanted.method)]
    if any(each.valid and not each.marked and each.name != wanted.name for each in serving):
        return  # one that the user made serves as well
    yield wanted


def _leaving(wanted: State, database: Database) -> Iterator[TableObject]:
    """Tables that bear the mark but have no rules any more stay closed; those that are unmanaged on purpose are opened."""
    for table, facts in database.tables.items():
        if facts.going or any(each in wanted.tables for each in (table, *facts.ancestors)):
            continue
        if {table, *facts.ancestors} & (wanted.unmanaged | wanted.released):
            yield RowSecurity(table=table, enabled=False, forced=False, why="left alone on purpose")
        else:
            yield from (each for each in database.state.of(table) if isinstance(each, RowSecurity))
