"""One table as the application's role meets it, and the rules that rlskit has applied to it, told from what they became. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from rlskit import compiler, fitter
from rlskit.compiler import COMMAND_OF, GUARD_FUNCTION, GUARD_TRIGGER, GUARDED, REASSIGN_TRIGGER, Person
from rlskit.errors import PlanError, RuleError
from rlskit.facts import Database, Foreign, TableFacts
from rlskit.importer.deriver import Guard, People, Reach, derive
from rlskit.importer.recognizer import Arm, Recognized
from rlskit.names import QualifiedName
from rlskit.rules import Open, Rules, TableRules
from rlskit.state import (
    Always,
    AnyOf,
    Default,
    Expression,
    Grant,
    MovingAway,
    NamesCaller,
    NamesSomebody,
    Policy,
    RowSecurity,
    StrangerTo,
    TableObject,
    Trigger,
)
from rlskit.vocabulary import OPERATIONS, Operation, Reassign

Kind: TypeAlias = Literal["understood", "check", "changes", "open", "kept"]

_OPERATION_OF = {command: operation for operation, command in COMMAND_OF.items()}
FOUND_OPEN = "found so by rlskit import"


@dataclass(frozen=True, slots=True)
class Note:
    """What the reader should know of one table, or of all of them (None).

    ``understood`` became rules, ``check`` rests on a guess, ``changes`` will be otherwise once the rules are applied, ``open`` has no row
    security, ``kept`` was not understood and stays as it is.
    """

    table: QualifiedName | None
    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Translation:
    """The rules of one table, or None where there are none to be written; and the notes."""

    rules: TableRules | None
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """The application's role, the roles whose policies and privileges are its own too, and the schemas that it may use."""

    name: str
    holders: frozenset[str]
    schemas: frozenset[str]

    def __str__(self) -> str:
        return self.name

    def is_meant(self, name: str) -> bool:
        """Whether what is given to ``name`` is given to the role, whoever logs in with it."""
        return name == "public" or name in self.holders


@dataclass(frozen=True)
class Table:
    """One table of the database, as the application's role meets it; ``claims`` says which claim each source of identity stands for."""

    facts: TableFacts
    database: Database
    recognized: Recognized
    role: Role
    claims: Mapping[str, str]

    @property
    def name(self) -> QualifiedName:
        """The table's name."""
        return self.facts.name

    @cached_property
    def objects(self) -> tuple[TableObject, ...]:
        """What belongs to the table, and to the role."""
        return self.database.state.of(self.name)

    @cached_property
    def foreign(self) -> tuple[Foreign, ...]:
        """What rlskit did not make on the table."""
        return tuple(each for each in self.database.foreign if each.table == self.name)

    @cached_property
    def row_security(self) -> RowSecurity:
        """Whether it is on, and forced."""
        return next(each for each in self.objects if isinstance(each, RowSecurity))

    @cached_property
    def own_policies(self) -> tuple[Policy, ...]:
        """Those that rlskit made."""
        return tuple(each for each in self.objects if isinstance(each, Policy))

    @cached_property
    def ruled_parts(self) -> list[QualifiedName]:
        """The partitions and children that bear policies of rlskit's."""
        return [
            name
            for name, each in self.database.tables.items()
            if self.name in each.ancestors and any(isinstance(one, Policy) for one in self.database.state.of(name))
        ]

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """Those that it did not make, and that are for the role."""
        return tuple(
            each.drop
            for each in self.foreign
            if isinstance(each.drop, Policy) and (each.undoes or self.is_for_role(each.drop))
        )

    @cached_property
    def grants(self) -> tuple[Grant, ...]:
        """All that the role holds, by itself and through others."""
        others = [
            each.drop for each in self.foreign if isinstance(each.drop, Grant) and self.role.is_meant(each.drop.role)
        ]
        return (*(each for each in self.objects if isinstance(each, Grant)), *others)

    @cached_property
    def held(self) -> dict[Operation, frozenset[str]]:
        """The columns that the role may name in each operation; all of them where it may delete."""
        held: dict[Operation, frozenset[str]] = {}
        for grant in self.grants if self.name.schema in self.role.schemas else ():
            if operation := _OPERATION_OF.get(grant.privilege):  # type: ignore[call-overload]
                columns = grant.named if grant.columns is not None else frozenset(self.facts.columns)
                held[operation] = held.get(operation, frozenset()) | columns
        return held

    def is_for_role(self, policy: Policy) -> bool:
        """Whether the policy is for the role, and not only for some that are in it."""
        return any(map(self.role.is_meant, policy.roles))

    def defaults_to(self, column: str) -> str | None:
        """The source of identity that the column's default stores."""
        found = [each for each in self.objects if isinstance(each, Default) and each.column == column]
        return self.recognized.source_of_default(found[0]) if found else None

    def fitted(self, rules: TableRules) -> tuple[TableObject, ...]:
        """What the rules would make of the table. Raises RuleError or PlanError where they do not fit."""
        family = {name: each for name, each in self.database.tables.items() if self.name in (name, *each.ancestors)}
        alone = replace(self.database, tables=family)
        return fitter.fit(compiler.compile(Rules(rules, role=self.role.name)), alone, self.role.name).of(self.name)

    def note(self, kind: Kind, text: str) -> Note:
        """A note on this table."""
        return Note(self.name, kind, text)


def applied(table: Table) -> Translation:
    """Return the rules that rlskit has applied to a table that bears its policies; none where something was changed by hand."""
    keep = {each.name: _KEPT for each in _family_of(table) if each.undoes}
    keep |= {f"policy {each.name}": _KEPT for each in table.policies if not each.permissive and table.is_for_role(each)}
    notes = [table.note("kept", f"{what} is not rlskit's, and is kept") for what in keep]
    found = _lifted(table)
    wanted = None if found is None else _compared(found)
    for rules in _candidates(table, found, keep):
        try:
            same = _compared(table.fitted(rules)) == wanted
        except (RuleError, PlanError):
            continue
        if same:
            return Translation(rules, (table.note("understood", "rlskit applied these rules"), *notes))
    text = "what rlskit made here was changed by hand, and its rules cannot be told: write them, or else a plan closes the table"
    return Translation(None, (table.note("kept", text),))


_KEPT = "kept by rlskit import: it was there"


def _family_of(table: Table) -> Iterator[Foreign]:
    for each in table.database.foreign:
        if table.name in (each.table, *table.database.tables[each.table].ancestors):
            yield each


def _lifted(table: Table) -> list[TableObject] | None:
    """The table's policies, guards and privileges with their conditions as the compiler would have them; None where one is not understood."""
    found: list[TableObject] = []
    for each in table.objects:
        match each:
            case Policy():
                using = _condition(table.recognized.arms(table.name, each.using))
                with_check = _condition(table.recognized.arms(table.name, each.with_check))
                if (using is None) != (each.using is None) or (with_check is None) != (each.with_check is None):
                    return None
                found.append(replace(each, using=using, with_check=with_check))
            case Trigger(function=function) if function == GUARD_FUNCTION:
                strangers = table.recognized.strangers(table.name, each.when)
                version = next((version for operation, version in GUARDED if COMMAND_OF[operation] == each.event), None)
                if strangers is None or version is None:
                    return None
                terms = tuple(arm for arm in strangers if isinstance(arm, NamesCaller))
                found.append(replace(each, when=StrangerTo(version, terms)))
            case Grant() | Trigger():
                found.append(each)
    return found


def _condition(arms: tuple[Arm, ...] | None) -> Expression | None:
    if arms is None:
        return None
    if arms == (Always(),):
        return Always()
    terms = tuple(each for each in arms if isinstance(each, NamesCaller | MovingAway))
    if terms == arms:
        return AnyOf(terms)
    columns = [column for each in arms if isinstance(each, NamesSomebody) for column in each.columns]
    return NamesSomebody(tuple(columns)) if len(columns) == len(arms) else None


def _compared(objects: Iterable[TableObject]) -> set[object]:
    """What decides an access; the trigger that notes a new owner counts by its name and its columns."""
    return {
        (each.name, each.arguments) if isinstance(each, Trigger) and each.function != GUARD_FUNCTION else each
        for each in objects
        if isinstance(each, Policy | Trigger | Grant)
    }


def _candidates(table: Table, found: list[TableObject] | None, keep: Mapping[str, str]) -> Iterator[TableRules]:
    if found is None:
        return
    policies = [each for each in found if isinstance(each, Policy)]
    if all(Always() in (each.using, each.with_check) for each in policies):
        to = tuple(
            operation for operation in OPERATIONS if any(each.command == COMMAND_OF[operation] for each in policies)
        )
        yield TableRules(Open(reason=FOUND_OPEN, to=to), keep=keep).at(table.name)
        return
    yield from derive(table.facts, reach(found), keep)


def reach(objects: Iterable[TableObject]) -> Reach:
    """Who reaches what, by the policies, privileges and guards of one table."""
    people: dict[Operation, People] = {}
    columns: dict[Operation, frozenset[str]] = {}
    guards: list[Guard] = []
    noted = explicit = False
    for each in objects:
        match each:
            case Policy(command=command, using=using, with_check=with_check) if command in _OPERATION_OF:
                people[_OPERATION_OF[command]] = _people(with_check if command == "insert" else using)
                explicit = explicit or isinstance(with_check, NamesSomebody)
            case Grant(privilege=privilege) if privilege in _OPERATION_OF:
                columns[_OPERATION_OF[privilege]] = each.named
            case Trigger(function=function, when=StrangerTo(terms=terms)) if function == GUARD_FUNCTION:
                operation: Operation = "create" if each.event == "insert" else "update"
                listed = each.columns or each.arguments
                assert isinstance(listed, tuple)
                own = each.name != GUARD_TRIGGER.format(operation=operation)
                guards.append(Guard(operation, frozenset(listed), _people(AnyOf(terms)), own))
            case Trigger(name=name):
                noted = noted or name == REASSIGN_TRIGGER
    given = {operation: each for operation, each in people.items() if operation in columns}
    reassign: Reassign = "plain" if noted else "explicit" if explicit else never_if_writable(given, columns)
    return Reach(given, columns, tuple(guards), reassign)


def never_if_writable(people: Mapping[Operation, People], columns: Mapping[Operation, frozenset[str]]) -> Reassign:
    """Where nobody may write an owner column, there is nothing to be said of reassigning."""
    owners = {person.column.name for each in people.values() for person in each}
    return "never" if "update" in people and owners & columns.get("update", frozenset()) else "plain"


def _people(condition: Expression | None) -> People:
    terms = condition.terms if isinstance(condition, AnyOf) else ()
    return tuple(Person(each.column, each.claim, each.spellings) for each in terms if isinstance(each, NamesCaller))
