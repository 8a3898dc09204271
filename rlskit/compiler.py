"""What a rule means in PostgreSQL: the only place that knows. Pure: rules in, a wanted state out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from rlskit.errors import UnsupportedRuleError
from rlskit.names import QualifiedName, fitted, index_name
from rlskit.rules import Open, Rule, Rules, TableRules, Unmanaged
from rlskit.state import (
    Advice,
    AllBut,
    Always,
    AnyOf,
    CallersName,
    Check,
    Column,
    Command,
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
from rlskit.vocabulary import Operation

# The two vocabularies, and the only place where one is turned into the other.
COMMAND_OF: dict[Operation, Command] = {"create": "insert", "read": "select", "update": "update", "delete": "delete"}

# Triggers of the same event fire in the order of their names: this one sees what the others have made of the row.
REASSIGN_TRIGGER = "zz_rlskit_reassign"
REASSIGN_FUNCTION = QualifiedName("rlskit", "note_new_owner")

# And these see what the statement says, before the others have made anything of it.
GUARD_TRIGGER = "00_rlskit_{operation}"
GUARD_FUNCTION = QualifiedName("rlskit", "refuse_columns")
# Whose row it is, the stored one says, and of a new row the new one.
GUARDED: tuple[tuple[Operation, Literal["old", "new"]], ...] = (("create", "new"), ("update", "old"))


def compile(rules: Rules) -> State:
    """Return the state that ``rules`` ask of a database.

    Column lists may still say "all but", and owner columns count as ``text``: what a database must be asked for is fitted by
    ``plan``. Raises UnsupportedRuleError for what PostgreSQL cannot enforce exactly.
    """
    objects: list[TableObject] = []
    advice: list[Advice] = []
    for table in rules.tables:
        if isinstance(table.allow, Open):
            objects += _open(table.name, table.allow, rules.role)
        elif not isinstance(table.allow, Unmanaged):
            access = Access(table)
            objects += _ruled(access, rules.role)
            advice += _advice(access)
    unmanaged = frozenset(table.name for table in rules.tables if isinstance(table.allow, Unmanaged))
    return State(frozenset(objects), unmanaged=unmanaged, advice=tuple(advice))


class Person(NamedTuple):
    """Whom a rule names: the column's content, compared with one claim or with these spellings of the caller."""

    column: OwnerColumn
    claim: str | None
    spellings: tuple[str, ...] | None

    @property
    def condition(self) -> NamesCaller:
        """What is true of a row that names the caller so."""
        return NamesCaller(self.column, self.claim, self.spellings)


@dataclass(frozen=True)
class Access:
    """One table's rules, asked column by column: a column's rules replace the table's for that column."""

    rules: TableRules

    @property
    def table(self) -> QualifiedName:
        """The table."""
        return self.rules.name

    @property
    def table_rules(self) -> tuple[Rule, ...]:
        """The rules of the table itself."""
        assert isinstance(self.rules.allow, tuple)
        return self.rules.allow

    @cached_property
    def ruled_columns(self) -> dict[str, tuple[Rule, ...]]:
        """The columns that have rules of their own."""
        return dict(self.rules.columns)

    def on_table(self, operation: Operation) -> tuple[Person, ...]:
        """Who may do it to the columns that have no rules of their own."""
        return _people(rule for rule in self.table_rules if operation in rule.operations)

    def on_column(self, column: str, operation: Operation) -> tuple[Person, ...]:
        """Who may do it to this column."""
        if column not in self.ruled_columns:
            return self.on_table(operation)
        rules: list[Rule] = []
        for rule in self.ruled_columns[column]:
            if operation in rule.operations:
                rules += self.table_rules_with(operation) if rule.strategy == "same" else [rule]
        return _people(rules)

    def table_rules_with(self, operation: Operation) -> list[Rule]:
        """The table's rules that have the operation."""
        return [rule for rule in self.table_rules if operation in rule.operations]

    def on_row(self, operation: Operation) -> tuple[Person, ...]:
        """Whose rows a command reaches: who may do it to any column; to delete a row, to every one."""
        per_column = [self.on_column(column, operation) for column in self.ruled_columns]
        if operation == "delete":
            return tuple(each for each in self.on_table(operation) if all(each in people for people in per_column))
        return tuple(dict.fromkeys([*self.on_table(operation), *(each for people in per_column for each in people)]))

    def columns(self, operation: Operation) -> tuple[str, ...] | AllBut:
        """The columns that the operation may name in at least some row. Raises UnsupportedRuleError where reading depends on the row."""
        if operation == "read":
            for column, _ in self.narrower(operation):
                raise self._read_depends_on_row(column)
        ruled = {column: self.on_column(column, operation) for column in self.ruled_columns}
        if self.on_table(operation):
            return AllBut(tuple(sorted(column for column, people in ruled.items() if not people)))
        return tuple(sorted(column for column, people in ruled.items() if people))

    def narrower(self, operation: Operation) -> Iterator[tuple[str | None, tuple[Person, ...]]]:
        """The columns (None: all without rules of their own) that are for some only of those who reach a row, and for whom."""
        reaching = set(self.on_row(operation))
        for column, people in [
            *((column, self.on_column(column, operation)) for column in self.ruled_columns),
            (None, self.on_table(operation)),
        ]:
            if people and set(people) != reaching:
                yield column, people

    def _read_depends_on_row(self, column: str | None) -> UnsupportedRuleError:
        what = f"column `{column}`" if column else "the columns without rules of their own"
        return UnsupportedRuleError(
            f"table `{self.table}`: who may read {what} would depend on the row",
            hint="PostgreSQL shows a column of every row or of none: let whoever reads the row read the column (`allow.same().to(…)`), "
            "or nobody, or move the column to a table of its own",
        )

    @cached_property
    def owner_columns(self) -> tuple[OwnerColumn, ...]:
        """The columns that name owners, in the order of the rules."""
        rules = [*self.table_rules, *(rule for given in self.ruled_columns.values() for rule in given)]
        return tuple(dict.fromkeys(person.column for person in _people(rules)))

    @cached_property
    def reassignable(self) -> tuple[OwnerColumn, ...]:
        """The owner columns that somebody may write in an existing row."""
        return tuple(column for column in self.owner_columns if self.on_column(column.name, "update"))

    @property
    def may_be_left(self) -> bool:
        """Whether who updates a row may write himself out of it."""
        return bool(self.reassignable) and self.rules.reassign != "never"

    @property
    def moves(self) -> bool:
        """Whether a row may be handed to somebody else by a plain UPDATE."""
        return bool(self.reassignable) and self.rules.reassign == "plain"

    def why(self, operation: Operation, column: str | None = None) -> str:
        """The rules that give the operation on the table or on a column, for the reader."""
        own = [rule for rule in self.ruled_columns.get(column or "", ()) if operation in rule.operations]
        return " or ".join(map(str, own or self.table_rules_with(operation))) or "its columns' rules"


def _people(rules: Iterable[Rule]) -> tuple[Person, ...]:
    people: dict[Person, None] = {}
    for rule in rules:
        if rule.column is not None:
            people[Person(OwnerColumn(rule.column, rule.strategy == "owners"), rule.claim, rule.spellings)] = None
    return tuple(people)


def _ruled(access: Access, role: str) -> list[TableObject]:
    table = access.table
    objects: list[TableObject] = [
        RowSecurity(table=table, why="only the rows that a rule names"),
        Usage(table=table, role=role),
    ]
    for operation in COMMAND_OF:
        if people := access.on_row(operation):
            objects += [_policy(access, operation, people, role), _grant(access, operation, role)]
    creators = access.on_row("create")
    for column in access.owner_columns:
        rule = next(str(rule) for rule in _all_rules(access) if rule.column == column.name)
        objects.append(Column(table=table, name=column.name, type=column.type + "[]" * column.many, why=rule))
        objects.append(
            Check(
                table=table,
                name=owner_check(column.name),
                expression=WellFormed(column),
                column=column.name,
                why="an empty name would be nobody's",
            )
        )
        method = "gin" if column.many else "btree"
        index = index_name(table, column.name)
        objects.append(
            Index(table=table, name=index, column=column.name, method=method, why="rows are looked up by it")
        )
        if creator := next((each for each in creators if each.column == column), None):
            name = CallersName(column, creator.claim)
            objects.append(
                Default(table=table, column=column.name, expression=name, why="whoever creates a row owns it")
            )
    objects += _guards(access)
    named = {column.name for column in access.owner_columns}
    objects += [
        Column(table=table, name=column, type=None, why="a rule names it")
        for column in access.ruled_columns
        if column not in named
    ]
    if access.moves:
        objects.append(
            Trigger(
                table=table,
                name=REASSIGN_TRIGGER,
                event="update",
                columns=(),
                function=REASSIGN_FUNCTION,
                arguments=tuple(column.name for column in access.owner_columns),
                when=Reassigned(access.reassignable),
                why="a row may be given away",
            )
        )
    return objects


def owner_check(column: str) -> str:
    """The name of the check that keeps names which would be nobody's out of an owner column."""
    return fitted(f"rlskit_{column}_check")


def _guards(access: Access) -> Iterator[Trigger]:
    """Column privileges are the same for every row; what depends on the row is refused by a trigger."""
    for operation, version in GUARDED:
        for column, people in access.narrower(operation):
            name = GUARD_TRIGGER.format(operation=operation)
            columns = AllBut(tuple(sorted(access.ruled_columns))) if column is None else (column,)
            yield Trigger(
                table=access.table,
                name=name if column is None else fitted(f"{name}_{column}"),
                event=COMMAND_OF[operation],
                # What an UPDATE names is seen by UPDATE OF; what an INSERT names, by values that are not the default.
                columns=columns if operation == "update" else (),
                function=GUARD_FUNCTION,
                arguments=columns if operation == "create" or column else (),
                when=StrangerTo(version, tuple(person.condition for person in people)),
                why=access.why(operation, column),
            )


def _policy(access: Access, operation: Operation, people: tuple[Person, ...], role: str) -> Policy:
    names = tuple(person.condition for person in people)
    using: Expression | None = AnyOf(names)
    with_check: Expression | None = None
    match operation:
        case "create":
            using, with_check = None, AnyOf(names)
        case "read" if access.moves:
            using = AnyOf((*names, MovingAway(access.owner_columns)))
        case "update":
            with_check = NamesSomebody(access.owner_columns) if access.may_be_left else AnyOf(names)
    return Policy(
        table=access.table,
        name=f"rlskit_{COMMAND_OF[operation]}",
        command=COMMAND_OF[operation],
        roles=(role,),
        using=using,
        with_check=with_check,
        why=access.why(operation),
    )


def _grant(access: Access, operation: Operation, role: str) -> Grant:
    columns = None if operation == "delete" else access.columns(operation)
    return Grant(
        table=access.table, role=role, privilege=COMMAND_OF[operation], columns=columns, why=access.why(operation)
    )


def _open(table: QualifiedName, rule: Open, role: str) -> list[TableObject]:
    objects: list[TableObject] = [RowSecurity(table=table, why=str(rule)), Usage(table=table, role=role)]
    for operation in rule.to:
        command = COMMAND_OF[operation]
        everyone = Always()
        objects.append(
            Policy(
                table=table,
                name=f"rlskit_{command}",
                command=command,
                roles=(role,),
                using=None if operation == "create" else everyone,
                with_check=everyone if operation in ("create", "update") else None,
                why=str(rule),
            )
        )
        columns = None if operation == "delete" else AllBut()
        objects.append(Grant(table=table, role=role, privilege=command, columns=columns, why=str(rule)))
    return objects


def _all_rules(access: Access) -> list[Rule]:
    return [*access.table_rules, *(rule for given in access.ruled_columns.values() for rule in given)]


def _advice(access: Access) -> list[Advice]:
    found = []
    columns = ", ".join(f"`{column.name}`" for column in access.reassignable)
    if access.may_be_left and not access.moves:
        found.append(f"who may update a row may give it away by writing {columns} with rlskit.reassign(…)")
    if access.moves:
        found.append(
            f"who may update a row may give it away by writing {columns}, and reads cost more for it. "
            'To keep rows with their owners protect the column: allow.same().to("read", "delete")'
        )
    for column in access.reassignable:
        others = [person for person in access.on_column(column.name, "update") if person.column != column]
        if others and not column.many:
            who = ", ".join(f"`{person.column.name}`" for person in others)
            found.append(f"whoever {who} names may write `{column.name}` too, and so take a row over")
    claims = {
        column: {person.claim for person in _people(_all_rules(access)) if person.column == column}
        for column in access.owner_columns
    }
    for column, compared in claims.items():
        if len(compared) > 1:
            found.append(f"`{column.name}` is compared with different claims: one user's claim could be another's name")
    if access.on_table("delete") and not access.on_row("delete"):
        found.append(f"nobody may delete a row, because {_delete_is_held_by(access)}")
    return [Advice(access.table, text) for text in found]


def _delete_is_held_by(access: Access) -> str:
    def listed(columns: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in columns)

    closed = [name for name in access.ruled_columns if not access.on_column(name, "delete")]
    return (
        f"nobody may delete {listed(closed)}"
        if closed
        else f"no rule has delete on all of {listed(access.ruled_columns)}"
    )
