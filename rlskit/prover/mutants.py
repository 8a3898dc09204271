"""What can be weakened of a database's protections, one at a time: each policy, grant, check, default, trigger, row security. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from rlskit import ddl, steps
from rlskit.compiler import COMMAND_OF, REASSIGN_FUNCTION, owner_check
from rlskit.facts import Database, TableFacts
from rlskit.names import QualifiedName
from rlskit.state import (
    Always,
    Check,
    Command,
    Default,
    Grant,
    Policy,
    RowSecurity,
    TableObject,
    Trigger,
    Usage,
)
from rlskit.vocabulary import Operation

Effect: TypeAlias = Literal["opens", "closes"]

_OPERATION_OF: dict[str, Operation] = {command: operation for operation, command in COMMAND_OF.items()}
_TRUE = ddl.text(ddl.expression(Always()))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One object of a database, weakened by ``statements``.

    ``table`` is the one whose cells have to notice, and ``object`` what it is about: as it is in the database, or as it would be where it was not
    there. ``what`` says the change, ``matters`` what it would mean, ``effect`` whether it lets somebody in or shuts somebody out. ``operations`` are
    those that it is about.
    """

    table: QualifiedName
    what: str
    object: TableObject
    statements: tuple[str, ...]
    matters: str
    effect: Effect
    operations: tuple[Operation, ...]


# An object as it is after the change, None where it is gone; what is said of it, what it means, and its effect.
_Weakening: TypeAlias = tuple[TableObject | None, str, str, Effect]


def mutants(database: Database, tables: Collection[QualifiedName], role: str) -> Iterator[Mutant]:
    """Yield what can be weakened of the protections that ``database`` has on these tables, their partitions and children, for ``role``.

    What would change nothing is not among them: a condition that is true already, a privilege on columns that are all granted.
    """
    schemas: set[str] = set()
    for table, facts in sorted(database.tables.items()):
        managed = facts.ancestors[0] if facts.ancestors else table
        if managed not in tables:
            continue
        objects = [each for each in database.state.of(table) if _is_weakened_here(each, facts, role)]
        for each in objects:
            if isinstance(each, Usage) and each.sequence is None:
                if table.schema in schemas:
                    continue  # one privilege for all tables of the schema
                schemas.add(table.schema)
            for after, what, matters, effect in _weakened(each):
                yield _mutant(managed, each, after, what, matters, effect)
        for given in _further_grants(table, facts, objects, role):
            yield _granting(managed, given)


def _is_weakened_here(each: TableObject, facts: TableFacts, role: str) -> bool:
    match each:
        case Default():
            return steps.is_callers_name(each) and not facts.ancestors
        case Check():
            # A part has it from the table above, and only there it can be dropped; a uuid is never empty.
            never_empty = [name for name, column in facts.columns.items() if column.type == "uuid"]
            return not facts.ancestors and each.name not in map(owner_check, never_empty)
        case Usage():
            return each.role == role and each.privilege == "usage" and not facts.ancestors
        case Grant():
            return each.role == role and each.privilege in get_args(Command)
    return True


def _weakened(each: TableObject) -> Iterator[_Weakening]:
    match each:
        case RowSecurity():
            if each.enabled:
                yield replace(each, enabled=False), "disabled", "no policy binds anybody", "opens"
            if each.forced:
                yield replace(each, forced=False), "no longer forced", "the table's owner reads and writes all", "opens"
        case Policy():
            yield from _weakened_policy(each)
        case Grant():
            yield None, "revoked", "nobody can do what the rules give", "closes"
        case Usage():
            yield None, "revoked", "what the rules give is out of reach", "closes"
        case Check():
            yield None, "dropped", "a name that is nobody's can be stored", "opens"
        case Default():
            yield None, "dropped", "a new row that names no owner is not its creator's", "closes"
            someone = replace(each, expression=_constant(each))
            yield someone, "the same name for everybody", "a new row belongs to somebody else", "closes"
        case Trigger():
            lost: tuple[str, Effect] = ("columns are written in rows where no rule lets the caller", "opens")
            if each.function == REASSIGN_FUNCTION:
                lost = ("a row cannot be given away", "closes")
            yield None, "dropped", *lost
            if each.enabled != "D" and each.event in _OPERATION_OF:
                yield replace(each, enabled="D"), "disabled", *lost


def _weakened_policy(policy: Policy) -> Iterator[_Weakening]:
    verb = _operation(policy.command)
    if policy.using not in (None, _TRUE):
        yield replace(policy, using=Always()), "USING is true", f"others' rows are open to {verb}", "opens"
    if policy.with_check not in (None, _TRUE):
        yield replace(policy, with_check=Always()), "WITH CHECK is true", "a row can be stored as anybody's", "opens"
    yield None, "dropped", f"nobody can {verb}", "closes"


def _constant(default: Default) -> str:
    """The name of nobody in particular, in a form that the column takes: the server's text of the default tells which."""
    text = str(default.expression)
    if text.startswith("rlskit.as_uuid("):
        return "'00000000-0000-4000-8000-000000000000'"
    return "'{somebody}'" if text.startswith("rlskit.list_of(") else "'somebody'"


def _further_grants(
    table: QualifiedName, facts: TableFacts, objects: Collection[TableObject], role: str
) -> Iterator[Grant]:
    """What the role does not hold, each privilege and each column by itself, and the whole table."""
    for privilege in get_args(Command):
        held = [each for each in objects if isinstance(each, Grant) and each.privilege == privilege]
        whole = Grant(table=table, role=role, privilege=privilege, columns=None)
        if any(each.columns is None for each in held):
            continue
        named = {column for each in held for column in each.named}
        # What is generated nobody writes, whatever is granted.
        missing = [
            name
            for name, column in facts.columns.items()
            if name not in named and not (column.generated and privilege != "select")
        ]
        if not held:
            yield whole
        elif missing:
            yield whole
            if len(missing) > 1:
                yield from (replace(whole, columns=(name,)) for name in missing)


def _granting(managed: QualifiedName, given: Grant) -> Mutant:
    what = f"granted on {', '.join(sorted(given.named)) or 'the whole table'}"
    return _mutant(managed, None, given, what, "the role may do what no rule gives", "opens")


def _mutant(
    managed: QualifiedName,
    before: TableObject | None,
    after: TableObject | None,
    what: str,
    matters: str,
    effect: Effect,
) -> Mutant:
    some = before or after
    assert some is not None
    part = f" of part {some.table}" if some.table != managed else ""
    return Mutant(
        managed,
        f"{_name(some)}{part}: {what}",
        some,
        tuple(map(ddl.text, ddl.change(before, after))),
        matters,
        effect,
        _operations(some),
    )


def _name(some: TableObject) -> str:
    match some:
        case Policy() | Check() | Trigger():
            return f"{some.kind} {some.name}"
        case Default():
            return f"default of {some.column}"
        case Grant():
            return f"grant {some.privilege}"
        case Usage():
            return f"usage on {f'sequence {some.sequence.name}' if some.sequence else f'schema {some.table.schema}'}"
    return some.kind


def _operation(command: str) -> str:
    return _OPERATION_OF.get(command, command)


def _operations(some: TableObject) -> tuple[Operation, ...]:
    """The operations that an object is about, the likeliest to notice first."""
    match some:
        case Policy(command=command) | Grant(privilege=command) | Trigger(event=command) if command in _OPERATION_OF:
            return (_OPERATION_OF[command],)
        case Default() | Usage(sequence=QualifiedName()):
            return ("create",)
        case Check():
            return ("create", "update")
    return ("read",)
