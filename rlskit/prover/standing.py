"""What is asked about rows that are there: read, update, delete; and of those whom no policy is for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rlskit import reference
from rlskit.attempts import Attempt
from rlskit.prover.cells import Probe
from rlskit.prover.ground import Ground, Stored, malformed, own_name
from rlskit.prover.ground import closed as closed_to_all
from rlskit.prover.people import PAST_THE_RULES, TABLE_OWNER, Person, introduced
from rlskit.prover.scenes import Naming
from rlskit.reference import Decision
from rlskit.rules import TableRules


def probes(ground: Ground) -> Iterator[Probe]:
    """Everything that is asked about the rows of one table."""
    asked: set[str] = (
        set()
    )  # privileges are the same for every row: whether a column is closed is asked of one row for each person
    for stored in ground.stored:
        for person in stored.scene.people:
            about = _Asked(ground, stored, person, closed=person.name not in asked)
            asked.add(person.name)
            yield from about.reads()
            yield from about.writes()
    yield from _past_the_rules(ground)


@dataclass(frozen=True)
class _Asked:
    """One person who is asked about one row; ``closed``: about the columns that are closed to everybody too.

    ``blind``: without a WHERE, which would read the row; a cursor finds it. Then the command's own policy decides alone, and not that for reading
    before it.
    """

    ground: Ground
    stored: Stored
    person: Person
    closed: bool
    blind: bool = False

    @cached_property
    def key(self) -> dict[str, Any]:
        """What finds the row as it is."""
        return self._key_in(self.row)

    def _key_in(self, row: Mapping[str, Any]) -> dict[str, Any]:
        key = self.ground.key(self.stored.row, self.ground.columns if self.blind else self.ground.readable)
        return {each: row[each] for each in key}

    @cached_property
    def before(self) -> tuple[Attempt, ...]:
        gives = self.stored.scene.gives
        find = replace(self, blind=False)._key_in(self.stored.row)
        return (Attempt("update", self.ground.table, find, gives),) if gives else ()

    @cached_property
    def row(self) -> dict[str, Any]:
        """As it is when the person asks."""
        return {**self.stored.row, **self.stored.scene.gives}

    @cached_property
    def found(self) -> bool:
        """Whether a statement that names the key sees the row."""
        return reference.read(self.ground.rules, self.person.identity, self.row).allowed

    def probe(self, attempt: Attempt, decision: Decision, about: str = "", *, watch: bool = False) -> Probe:
        told = ", found by a cursor and not by WHERE" if attempt.blind else ""
        return Probe(
            about=f"{self.stored.scene.about}{about}{told}",
            person=self.person,
            attempt=attempt,
            expected=decision.outcome,
            why=decision.why,
            before=self.before,
            afterwards=self.ground.owners_of(decision.row) if watch else None,
        )

    def reads(self) -> Iterator[Probe]:
        ground, table = self.ground, self.ground.table
        decision = reference.read(ground.rules, self.person.identity, self.row)
        if ground.readable:
            yield self.probe(Attempt("read", table, self.key, columns=ground.readable), decision)
        for column in ground.columns:
            if self.closed and column not in ground.readable:
                attempt = Attempt("read", table, self.key, columns=(column,))
                yield self.probe(attempt, closed_to_all("read", column), f", `{column}`")

    def writes(self) -> Iterator[Probe]:
        """Whoever does not see the row asks blindly, or else it would only be proved once more that he does not see it."""
        seen = self.found and bool(self.key)
        asked = self if seen else replace(self, blind=True)
        yield from asked.updates()
        yield from asked.deletes()
        if seen:
            yield from self.given_away([each for each in self.ground.named if not self.granted(each)])
            yield from replace(self, blind=True).given_away(self.ground.named)
            if len(self.ground.named) > 1:
                stranger = self.stored.scene.cast.stranger
                everything = {each.column: each.naming(stranger) for each in self.ground.named}
                yield self.update(everything, ", every owner set to another")

    def granted(self, naming: Naming) -> bool:
        return reference.granted(self.ground.rules, "update", naming.column)

    def given_away(self, named: Iterable[Naming]) -> Iterator[Probe]:
        for naming in named:
            for to, value in (("another", naming.naming(self.stored.scene.cast.stranger)), ("nobody", None)):
                if self.ground.fits(self.updated({naming.column: value}).row):
                    yield self.update({naming.column: value}, f", `{naming.column}` set to {to}")

    def updates(self) -> Iterator[Probe]:
        ground = self.ground
        same = {name: self.row[name] for name in ground.writable}
        may = ground.open_to("update", same)
        decisions = {name: self.updated({name: same[name]}) for name in may}
        together = {name: same[name] for name in may if decisions[name].outcome != "refused"}
        if together:
            yield self.update(together)
        for name, value in same.items():
            if name not in together and (name in may or self.closed):
                yield self.update({name: value}, f", `{name}`")
        for naming in ground.named:
            if naming.column in may:
                yield from self.reassigned(naming)

    def reassigned(self, naming: Naming) -> Iterator[Probe]:
        """The row given away, taken over, and given to what is no name."""
        own = own_name(self.person.identity, naming)
        stranger = naming.ways[0].of(self.stored.scene.cast.stranger)
        words = f"`{naming.column}`"
        if self.updated({naming.column: self.row[naming.column]}).outcome == "not visible":
            if own is not None and self.person == introduced("stranger", self.stored.scene.cast.stranger):
                yield self.update({naming.column: naming.holding(own)}, f", taken over in {words}")
            return
        given: list[tuple[str, Any]] = [("another", naming.holding(stranger)), ("nobody", None)]
        if naming.many:
            given.append(("an empty list", []))
        if own is not None and naming.many:
            given += [("oneself and another", [own, stranger]), ("another and oneself", [stranger, own])]
        for to, value in given:
            if self.ground.fits(self.updated({naming.column: value}).row):
                yield self.update({naming.column: value}, f", {words} set to {to}")
        for what, value in malformed(naming, own or stranger, self.ground):
            yield self.update({naming.column: value}, f", {words} set to {what}")

    def update(self, changes: Mapping[str, Any], about: str = "") -> Probe:
        attempt = Attempt("update", self.ground.table, self.key, changes, blind=self.blind)
        return self.probe(attempt, self.updated(changes), about, watch=True)

    def updated(self, changes: Mapping[str, Any]) -> Decision:
        """Composed of the reference and of what WHERE reads: privileges come first, then whether the row is found, then the row."""
        rules = self.ground.rules
        for column in changes:
            if not reference.granted(rules, "update", column):
                return closed_to_all("update", column)
        if not self.blind and not self.found:
            return Decision("not visible", "no rule with read names the caller in the row")
        if self.blind and isinstance(rules.allow, tuple) and rules.reassign == "explicit":
            # An UPDATE that reads no column is not held against the SELECT policy.
            rules = TableRules(*rules.allow, columns=dict(rules.columns)).at(rules.name)
        return reference.update(rules, self.person.identity, self.row, changes)

    def deletes(self) -> Iterator[Probe]:
        decision = reference.delete(self.ground.rules, self.person.identity, self.row)
        if decision.outcome == "allowed" and not self.blind and not self.found:
            decision = Decision("not visible", "no rule with read names the caller in the row")
        yield self.probe(Attempt("delete", self.ground.table, self.key, blind=self.blind), decision)


def _past_the_rules(ground: Ground) -> Iterator[Probe]:
    """The checks bind everybody; FORCE binds the owner of the table."""
    stored = ground.stored[0]
    key = ground.key(stored.row, ground.columns)
    decision = Decision("not visible", "row security is forced: the owner of a table is bound by it")
    if ground.owner_may_read:
        decision = reference.read(ground.rules, None, stored.row)
    about = f"{stored.scene.about}, asked for by nobody"
    read = Attempt("read", ground.table, key, columns=ground.columns)
    yield Probe(about, TABLE_OWNER, read, decision.outcome, decision.why)
    stranger = ground.casts[0].stranger
    for naming in ground.named:
        name = naming.ways[0].of(stranger)
        for words, value in malformed(naming, name, ground):
            why = f"`{naming.column}` would hold what is no name"
            about = f"`{naming.column}` set to {words}"
            rest = {each.column: None if each.nullable else each.naming(stranger) for each in ground.named}
            values = {**ground.new, **rest, naming.column: value}
            create = Attempt("create", ground.table, values=values)
            yield Probe(f"a new row, {about}", PAST_THE_RULES, create, "refused", why)
            update = Attempt("update", ground.table, key, {naming.column: value})
            yield Probe(f"{stored.scene.about}, {about}", PAST_THE_RULES, update, "refused", why)
