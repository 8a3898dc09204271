"""What is asked about new rows: who may create one, in whose name, with which columns. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg.sql import DEFAULT

from rlskit import reference
from rlskit.attempts import Attempt
from rlskit.prover.cells import Probe
from rlskit.prover.ground import Ground, malformed, own_name
from rlskit.prover.ground import closed as closed_to_all
from rlskit.prover.people import Cast, Person, introduced, others
from rlskit.prover.scenes import Naming, Way, owner_by
from rlskit.reference import Decision


def probes(ground: Ground) -> Iterator[Probe]:
    """Everything that is asked about new rows of one table."""
    ways = [(naming, way) for naming in ground.named for way in naming.ways]
    for (naming, way), cast in zip(ways, ground.casts, strict=False):
        owner = _Creating(ground, introduced(owner_by(naming, way), cast.owner), cast)
        if way == naming.ways[0]:
            yield from owner.by_himself(naming)
        else:
            yield from owner.naming_owner(naming, way)
    cast = ground.casts[0]
    held = ways[0][1].of(cast.owner) if ways else ""
    for person in others(cast, held, ground.uuids, signed=ground.signed):
        yield from _Creating(ground, person, cast).besides()


@dataclass(frozen=True)
class _Creating:
    """One person who creates a row, for himself or in the name of the cast's owner."""

    ground: Ground
    person: Person
    cast: Cast

    @cached_property
    def base(self) -> dict[str, Any]:
        """What has to be named whoever the owner is."""
        filled = self.ground.filled_in(self.cast.owner)
        return {name: value for name, value in self.ground.new.items() if name not in filled}

    def by_himself(self, naming: Naming) -> Iterator[Probe]:
        """The owner: for himself, for another, for nobody, and with each of the columns."""
        own, other = (naming.ways[0].of(each) for each in (self.cast.owner, self.cast.co_owner))
        yield from self.left_out()
        yield from self.naming("oneself", naming, naming.holding(own))
        yield from self.naming("another", naming, naming.holding(other))
        yield from self.naming("nobody", naming, None)
        if naming.many:
            yield from self.naming("nobody, with an empty list", naming, [])
            yield from self.naming("oneself and another", naming, [own, other])
        for words, value in malformed(naming, own, self.ground):
            yield from self.naming(words, naming, value)
        yield from self.columns(closed=naming == self.ground.named[0])

    def besides(self) -> Iterator[Probe]:
        """Anybody else: for himself, and in the owner's name, however that is written."""
        yield from self.left_out()
        yield from self.columns(closed=True)
        for naming in self.ground.named:
            own = own_name(self.person.identity, naming)
            if own is not None:
                yield from self.naming("oneself", naming, naming.holding(own))
            for way in naming.ways:
                yield from self.naming_owner(naming, way)

    def naming_owner(self, naming: Naming, way: Way) -> Iterator[Probe]:
        """The owner is named this way, by himself or by another."""
        whom = "oneself" if self.person.identity == self.cast.owner else "the owner"
        by = "" if way == naming.ways[0] else f" by {way.words}"
        yield from self.naming(whom + by, naming, naming.holding(way.of(self.cast.owner)))

    def left_out(self) -> Iterator[Probe]:
        """Nobody is named, so that the default says whose row it is."""
        yield from self.create({}, ", the owner left to the default" if self.ground.named else "")

    def naming(self, whom: str, naming: Naming, value: Any) -> Iterator[Probe]:
        yield from self.create({naming.column: value}, f", `{naming.column}` naming {whom}")

    def columns(self, *, closed: bool) -> Iterator[Probe]:
        """All other columns at once; those that are closed to everybody, each; and those whose right depends on the row, with a value of their own."""
        ground, owners = self.ground, {each.column for each in self.ground.named}
        free = [name for name in ground.writable if name not in self.base and name not in owners]
        may = ground.open_to("create", free)
        if may:
            yield from self.create(dict.fromkeys(may, DEFAULT), ", every other column named")
        for name in free:
            if name not in may and closed:
                yield from self.create({name: DEFAULT}, f", `{name}` named")
        for name, value in ground.told_apart.items():
            if name in may:
                yield from self.create({name: value}, f", `{name}` set")

    def create(self, said: Mapping[str, Any], about: str) -> Iterator[Probe]:
        """The probe; none where the table itself refuses what the rules allow."""
        values = {**self.base, **said}
        decision = self.decision(values)
        if self.ground.fits(decision.row):
            attempt = Attempt("create", self.ground.table, values=values)
            afterwards = self.ground.owners_of(decision.row)
            yield Probe(
                f"a new row{about}", self.person, attempt, decision.outcome, decision.why, afterwards=afterwards
            )

    def decision(self, values: Mapping[str, Any]) -> Decision:
        """By the reference; a column that is named as its default is not told from one that is left out, but for the privilege."""
        for column in values:
            if not reference.granted(self.ground.rules, "create", column):
                return closed_to_all("create", column)
        return reference.create(
            self.ground.rules,
            self.person.identity,
            {name: value for name, value in values.items() if value is not DEFAULT},
            defaults=dict.fromkeys(self.ground.columns),
            key=self.ground.shape.key,
        )
