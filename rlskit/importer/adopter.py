"""The policies that others have written on a table become its rules, as far as rules say the same, and never more. Pure.

A policy is understood as a whole or not at all. What is understood becomes rules, which are compiled and compared with what was read before
they are handed out; what is not stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rlskit.compiler import COMMAND_OF, Person
from rlskit.errors import PlanError, RuleError
from rlskit.importer.deriver import NAMING, People, Reach, derive
from rlskit.importer.recognizer import Asked
from rlskit.importer.translator import FOUND_OPEN, Note, Table, Translation, never_if_writable, reach
from rlskit.rules import Open, TableRules, Unmanaged
from rlskit.state import Always, Default, Expression, Grant, OwnerColumn, Policy, Usage
from rlskit.vocabulary import OPERATIONS, Operation

_EVERYONE: Literal["everyone"] = "everyone"
Who: TypeAlias = People | Literal["everyone"]
_JOINED = "sub::username"


@dataclass(frozen=True, slots=True)
class Says:
    """What a permissive policy says of one operation: whose rows it reaches, and who has to be named in a new version of them."""

    reaches: Who
    names: Who


def adopt(table: Table) -> Translation:
    """Return the rules that give what the policies and privileges of a table without rlskit's give; or leave it as it is."""
    return _Adoption(table).translation()


@dataclass
class _Adoption:
    """A table without a policy of rlskit's, on its way to rules: policies are read, and kept where they contradict what rules can say."""

    table: Table
    read: dict[str, dict[Operation, Says]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    shown_to_all: bool = False  # by a policy that is kept

    def translation(self) -> Translation:
        """The rules that give the same; or none, and the table stays as it is."""
        table = self.table
        if table.facts.owner in table.database.server.role_may_become:
            return self._left_alone(f"`{table.role}` owns it, or may become its owner, who can lift every rule")
        if not table.policies:
            return self._without_policies()
        for policy in table.policies:
            says = self._reading(policy)
            if isinstance(says, str):
                self.kept[policy.name] = says
            else:
                self.read[policy.name] = says
        while found := self._contradiction():
            names, why = found
            for name in names:
                self.shown_to_all |= _is_everyones(self.read[name].get("read"))
                del self.read[name]
                self.kept[name] = why
        rules = self._rules()
        if isinstance(rules, str):
            return self._left_alone(rules)
        return Translation(rules, tuple(self._notes(rules)))

    def _without_policies(self) -> Translation:
        table = self.table
        if not table.row_security.enabled:
            operations = [each for each in OPERATIONS if table.held.get(each)]
            if not operations:
                return Translation(None, ())
            return Translation(
                None,
                (table.note("open", f"row security is off: `{table.role}` has {', '.join(operations)} on every row"),),
            )
        closed = f"no policy lets `{table.role}` in"
        return self._unmanaged(
            f"found closed by rlskit import: {closed}", table.note("understood", f"{closed}: left alone, and closed")
        )

    def _left_alone(self, why: str) -> Translation:
        """Nothing is lost and nothing opened: a table that rlskit never touched stays what it is when it is unmanaged."""
        table = self.table
        notes = [table.note("kept", f"policy `{name}` stays: {reason}") for name, reason in self.kept.items()]
        notes.append(table.note("kept", f"the whole table stays as it is: {why}"))
        return self._unmanaged(f"kept by rlskit import: {why}", *notes)

    def _unmanaged(self, reason: str, *notes: Note) -> Translation:
        """The table is left alone; but where rlskit's rules hold for a part of it, to be unmanaged would lift them there."""
        if ruled := self.table.ruled_parts:
            text = f"rlskit's rules hold for its part `{ruled[0]}`, and are not known of the whole: write rules for it"
            return Translation(None, (*notes, self.table.note("kept", text)))
        return Translation(TableRules(Unmanaged(reason=reason)).at(self.table.name), notes)

    # --- reading ---

    def _reading(self, policy: Policy) -> dict[Operation, Says] | str:
        """What a policy says of each operation; or why it is not understood."""
        if not policy.permissive:
            return "it is restrictive: it goes on narrowing what rules give"
        if not self.table.is_for_role(policy):
            return f"it is for {_listed(policy.roles)}, and not for everybody who has `{self.table.role}`"
        found: dict[Operation, Says] = {}
        for operation in OPERATIONS:
            if policy.command not in ("all", COMMAND_OF[operation]):
                continue
            names = policy.with_check if policy.with_check is not None else policy.using
            reaches = policy.with_check if policy.command == "insert" else policy.using
            who = [self._who(each) for each in (names if operation == "create" else reaches, names)]
            for each in who:
                if isinstance(each, str) and each != _EVERYONE:
                    return each
            found[operation] = Says(who[0], who[1] if operation == "update" else who[0])  # type: ignore[arg-type]
        return found

    def _who(self, condition: Expression | None) -> Who | str:
        """Whom a condition names; or why that is not understood."""
        arms = self.table.recognized.arms(self.table.name, condition)
        if arms is None or not all(isinstance(each, Asked | Always) for each in arms):
            return "its condition is not understood"
        if Always() in arms:
            return _EVERYONE
        people: list[Person] = []
        for arm in arms:
            assert isinstance(arm, Asked)
            if why := _unfit(arm):
                return why
            if (claim := self.table.claims.get(arm.source)) is None:
                return f'it asks `{arm.source}`, and nobody has said which claim that is: --claim "{arm.source}=…"'
            people.append(_person(arm.column, claim))
        return tuple(dict.fromkeys(people))

    # --- what rules cannot say ---

    def _contradiction(self) -> tuple[list[str], str] | None:
        """Policies that were understood and that no rule can stand for beside the others, and why."""
        open_to_all = [name for name, says in self.read.items() if any(map(_is_everyones, says.values()))]
        if open_to_all and (len(open_to_all) < len(self.read) or self._is_open_in_part()):
            return open_to_all, "it is for everybody, and a table has either owner rules or is open"
        if not open_to_all:
            updating = [name for name, says in self.read.items() if "update" in says]
            reaching, named = self._everybody("update"), self._named_after_update()
            if updating and named != _EVERYONE and set(named) != set(reaching):
                return updating, "whose rows may be updated and whom they may name afterwards are different people"
            unread = [each for each in self._unread() if not self._may_read_all]
            if blind := [
                name
                for name, says in self.read.items()
                if any(
                    person in says[operation].reaches
                    for operation in ("update", "delete")
                    if operation in says
                    for person in unread
                )
            ]:
                return blind, "it lets people write rows that they are not known to read"
        return None

    def _is_open_in_part(self) -> bool:
        return any(
            each.names != _EVERYONE or each.reaches != _EVERYONE
            for says in self.read.values()
            for each in says.values()
        )

    def _everybody(self, operation: Operation) -> People:
        """The people of all policies, in one order for all operations."""
        said = [each.get(operation) for each in self.read.values()]
        reached = {person for each in said if each and each.reaches != _EVERYONE for person in each.reaches}
        return tuple(person for person in self._order if person in reached)

    @property
    def _order(self) -> list[Person]:
        """Everybody whom a policy names, as they come."""
        return list(
            dict.fromkeys(
                person
                for says in self.read.values()
                for each in says.values()
                for who in (each.reaches, each.names)
                if who != _EVERYONE
                for person in who
            )
        )

    def _named_after_update(self) -> Who:
        said = [each["update"].names for each in self.read.values() if "update" in each]
        if _EVERYONE in said:
            return _EVERYONE
        return tuple(dict.fromkeys(person for each in said for person in each if isinstance(person, Person)))

    def _unread(self) -> list[Person]:
        """Who may update or delete, and is not known to read."""
        readers = self._everybody("read") if self._holds("read") else ()
        writers = [
            person
            for operation in OPERATIONS
            if operation in ("update", "delete") and self._holds(operation)
            for person in self._everybody(operation)
        ]
        return [each for each in dict.fromkeys(writers) if each not in readers]

    @property
    def _may_read_all(self) -> bool:
        return self.shown_to_all and self._holds("read")

    def _holds(self, operation: Operation) -> bool:
        return bool(self.table.held.get(operation))

    # --- rules ---

    def _rules(self) -> TableRules | str:
        """The rules that give what the policies that are read give; or why there are none."""
        if not self.read:
            return "no policy of it was understood"
        people = {operation: each for operation in OPERATIONS if (each := self._given(operation))}
        to = tuple(
            each for each in OPERATIONS if self._holds(each) and any(each in says for says in self.read.values())
        )
        is_open = not self._order
        given: Iterable[Operation] = to if is_open else people
        if not given:
            return f"`{self.table.role}` holds no privilege that a policy would let it use"
        for policy in self.table.policies:
            if policy.permissive and policy.name in self.kept and self.table.is_for_role(policy):
                for operation in OPERATIONS:
                    if (
                        policy.command in ("all", COMMAND_OF[operation])
                        and self._holds(operation)
                        and operation not in given
                    ):
                        return f"`{policy.name}` needs the privilege to {operation}, which no rule would give"
        if any(name == f"rlskit_{command}" for name in self.kept for command in COMMAND_OF.values()):
            return "a policy that is kept bears a name that rlskit needs"
        keep = {f"policy {name}": f"kept by rlskit import: {why}" for name, why in self.kept.items()}
        try:
            return self._open(to, keep) if is_open else self._ruled(people, keep)
        except (RuleError, PlanError) as error:
            return error.message

    def _given(self, operation: Operation) -> People:
        """Who may do it by policies and by privileges both."""
        if not self._holds(operation):
            return ()
        if operation == "read" and self.shown_to_all:
            return tuple(self._order)
        return tuple(each for each in self._everybody(operation) if operation != "create" or self._creates(each))

    def _creates(self, person: Person) -> bool:
        """Whether rows could be created that name the person: the column may be named, or its default names the same."""
        source = self.table.defaults_to(person.column.name)
        same = source is not None and self.table.claims.get(source) == (person.claim or _JOINED)
        return same or person.column.name in self.table.held["create"]

    def _open(self, to: Sequence[Operation], keep: Mapping[str, str]) -> TableRules | str:
        narrow = [each for each in to if self.table.held[each] != frozenset(self.table.facts.columns)]
        if narrow:
            return f"everybody may {' and '.join(narrow)}, but not every column, which `open` cannot say"
        rules = TableRules(Open(reason=FOUND_OPEN, to=tuple(to)), keep=keep).at(self.table.name)
        self.table.fitted(rules)
        return rules

    def _ruled(self, people: Mapping[Operation, People], keep: Mapping[str, str]) -> TableRules | str:
        columns = {each: self.table.held[each] for each in NAMING if each in people}
        gives_away = "update" in people and self._named_after_update() == _EVERYONE
        reassign = never_if_writable(people, columns)
        wanted = Reach(people, columns, (), "explicit" if gives_away and reassign == "never" else reassign)
        failure = "no rules give the same"
        for rules in derive(self.table.facts, wanted, keep):
            try:
                made = reach(self.table.fitted(rules))
            except (RuleError, PlanError) as error:
                failure = error.message
                continue
            named = {each: made.columns[each] for each in columns if each in made.columns}
            if (made.people, named, made.guards, made.reassign) == (people, columns, (), wanted.reassign):
                return rules
        return failure

    # --- notes ---

    def _notes(self, rules: TableRules) -> Iterator[Note]:
        table, role = self.table, self.table.role
        for policy in table.policies:
            if policy.name in self.kept:
                yield table.note("kept", f"policy `{policy.name}` stays: {self.kept[policy.name]}")
                continue
            others = "" if policy.roles == (role.name,) else ", and others lose it too when it is dropped"
            yield table.note(
                "understood",
                f"policy `{policy.name}` for {policy.command} to {_listed(policy.roles)} became rules{others}",
            )
        for each in table.foreign:
            if isinstance(each.drop, Grant) and each.undoes:
                yield table.note("changes", f"{each.text}, and others lose it too when it is dropped")
        if not table.row_security.enabled:
            yield table.note(
                "changes", "row security is off, and these policies are not in force: apply switches it on"
            )
        made = table.fitted(rules)
        if lost := sorted(
            {each.privilege for each in table.grants} - {each.privilege for each in made if isinstance(each, Grant)}
        ):
            yield table.note("changes", f"`{role}` loses {', '.join(lost)}: no rule gives it")
        for usage in made:
            if isinstance(usage, Usage) and usage.sequence is not None and usage not in table.objects:
                yield table.note("changes", f"`{role}` may draw keys from `{usage.sequence}`")
        if isinstance(rules.allow, tuple):
            yield from self._notes_on_owners(rules)

    @property
    def _defaults(self) -> set[str]:
        return {each.column for each in self.table.objects if isinstance(each, Default)}

    def _notes_on_owners(self, rules: TableRules) -> Iterator[Note]:
        assert isinstance(rules.allow, tuple)
        table = self.table
        for column in dict.fromkeys(str(rule.column) for rule in rules.allow if "create" in rule.operations):
            source = table.defaults_to(column)
            claims = {rule.claim or _JOINED for rule in rules.allow if rule.column == column}
            if source is None or table.claims.get(source) not in claims:
                instead = ", and no more to whom its default named" if column in self._defaults else ""
                yield table.note(
                    "changes", f"a row that is inserted without `{column}` belongs to whoever inserts it{instead}"
                )
        if rules.reassign == "explicit":
            yield table.note("changes", "a row may be given away as before, but no more left without an owner")


def _person(column: OwnerColumn, claim: str) -> Person:
    return Person(column, None, ("full",)) if claim == _JOINED else Person(column, claim, None)


def _unfit(arm: Asked) -> str | None:
    """Why a comparison is none that a rule could stand for, where that is so."""
    column = arm.column
    if column.type not in ("text", "character varying") and (column.type != "uuid" or column.many):
        return f"column `{column.name}` is {column.type}{'[]' * column.many}, which cannot hold an owner"
    if arm.respelled:
        return f"it compares `{column.name}` as another type, for which capitals count otherwise: compare a uuid as uuid, and text as text"
    return None


def _is_everyones(says: Says | None) -> bool:
    return says is not None and says.reaches == _EVERYONE


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
