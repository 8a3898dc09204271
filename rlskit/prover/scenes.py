"""The rows that a table's rules tell apart, and who is to be asked about each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlskit import reference
from rlskit.identity import Identity
from rlskit.prover.people import NOBODY_AT_ALL, Cast, Person, introduced, others
from rlskit.rules import Open, Rule, TableRules


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write a person into an owner column: a spelling, or the value of a claim."""

    kind: Literal["spelling", "claim"]
    name: str

    @property
    def words(self) -> str:
        """The way in words: `owner by …`."""
        return {"full": "full name"}.get(self.name, self.name) if self.kind == "spelling" else f"`{self.name}`"

    def of(self, who: Identity) -> str:
        """The person, written so."""
        said = {**who.claims, "sub": who.sub, "username": who.username or "", "full": (who.spellings or ("",))[0]}
        return said[self.name]


FULL, SUB, USERNAME = (Way("spelling", name) for name in ("full", "sub", "username"))


@dataclass(frozen=True, slots=True)
class Naming:
    """An owner column, and the ways to write people into it; the first is the one that counts, or that the default writes."""

    column: str
    many: bool
    ways: tuple[Way, ...]
    nullable: bool = True

    def holding(self, *names: str) -> Any:
        """What the column holds where it names these people."""
        return list(names) if self.many else names[0]

    def naming(self, *people: Identity) -> Any:
        """The same, by the first way."""
        return self.holding(*map(self.ways[0].of, people))


def namings(rules: TableRules, narrow: Collection[str], not_null: Collection[str]) -> tuple[Naming, ...]:
    """The owner columns of the rules; ``narrow`` are those that do not hold a whole name, and ``not_null`` those that name somebody always."""
    found: dict[str, list[Rule]] = {}
    for rule in _rules(rules):
        found.setdefault(rule.column or "", []).append(rule)
    return tuple(
        Naming(column, each[0].strategy == "owners", _ways(each, column in narrow), column not in not_null)
        for column, each in found.items()
    )


def claims_of(rules: TableRules) -> frozenset[str]:
    """The claims that the rules compare, besides sub and username."""
    return frozenset(rule.claim for rule in _rules(rules) if rule.claim) - {"sub", "username"}


def uuid_claims_of(rules: TableRules, uuids: Collection[str]) -> frozenset[str]:
    """The claims that are compared with columns of type uuid."""
    return frozenset(rule.claim for rule in _rules(rules) if rule.claim and rule.column in uuids)


def _rules(rules: TableRules) -> list[Rule]:
    given = [rules.allow if isinstance(rules.allow, tuple) else (), *dict(rules.columns).values()]
    return [rule for each in given for rule in each if rule.column is not None]


def _ways(rules: list[Rule], narrow: bool) -> tuple[Way, ...]:
    """All that the rules accept, and of the others what people would expect to be: that it does not count is proved too."""
    claims = [Way("claim", rule.claim) for rule in rules if rule.claim is not None]
    if not any(rule.claim is None for rule in rules):
        return tuple(dict.fromkeys(claims if narrow else [*claims, FULL]))
    others = [each for each in claims if each.name not in ("sub", "username")]
    return tuple(dict.fromkeys([FULL, SUB, USERNAME, *others]))


# --- rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """A row, what its owner columns hold, the people around it, and who of them is to be asked about it.

    ``gives`` is what the one who is asked writes into it first, to give it away.
    """

    about: str
    owners: Mapping[str, Any]
    cast: Cast
    people: tuple[Person, ...]
    gives: Mapping[str, Any] = field(default_factory=dict)


def scenes(
    rules: TableRules,
    named: tuple[Naming, ...],
    new_cast: Callable[[], Cast],
    *,
    uuids: Collection[str] = (),
    signed: bool = False,
) -> Iterator[Scene]:
    """Yield the rows of one table; each has a cast of its own, so that it is the only one that names them.

    ``uuids`` are the claims that are UUIDs; where ``signed``, raw settings count for nothing.
    """
    if isinstance(rules.allow, Open):
        cast = new_cast()
        yield Scene("a row", {}, cast, tuple(others(cast, "", uuids, signed=signed)))
        return
    for naming in named:
        where = f" in `{naming.column}`" if len(named) > 1 else ""
        for way in naming.ways:
            cast = new_cast()
            held = way.of(cast.owner)
            owner = introduced(owner_by(naming, way), cast.owner)
            about = f"the owner's row{_spelled(naming, way)}{where}"
            stored = _rest(named, cast) | {naming.column: naming.holding(held)}
            yield Scene(about, stored, cast, (owner, *others(cast, held, uuids, signed=signed)))
        yield _given_away(rules, named, naming, new_cast(), where)
        yield from _shared(named, naming, new_cast, where)
    yield from _of_nobody(named, new_cast, uuids, signed)


def owner_by(naming: Naming, way: Way) -> str:
    """The name of the owner whom this way writes into the column."""
    return "owner" if way == naming.ways[0] else f"owner by {way.words}"


def _spelled(naming: Naming, way: Way) -> str:
    return "" if way == naming.ways[0] else f" (named by {way.words})"


def _rest(named: tuple[Naming, ...], cast: Cast) -> dict[str, Any]:
    """What the owner columns hold that are not what it is about: nothing, or a bystander where they have to hold somebody."""
    return {each.column: None if each.nullable else each.naming(cast.former) for each in named}


def _given_away(rules: TableRules, named: tuple[Naming, ...], naming: Naming, cast: Cast, where: str) -> Scene:
    """By the former owner himself where the rules let him."""
    his = {each.column: None if each.nullable else each.naming(cast.co_owner) for each in named}
    his |= {naming.column: naming.naming(cast.former)}
    gives = {naming.column: naming.naming(cast.stranger)}
    former = (introduced("former owner", cast.former),)
    if reference.update(rules, cast.former, his, gives).allowed:
        return Scene(f"the row that the former owner gave away{where}", his, cast, former, gives)
    return Scene(f"the row that was given away for the former owner{where}", his | gives, cast, former)


def _shared(named: tuple[Naming, ...], naming: Naming, new_cast: Callable[[], Cast], where: str) -> Iterator[Scene]:
    """Rows with a second person: in the same list, or in the other columns."""
    others = [each for each in named if each != naming]
    if naming.many:
        cast = new_cast()
        stored = _rest(named, cast) | {naming.column: naming.naming(cast.co_owner, cast.owner)}
        yield Scene(f"the row that lists a co-owner and the owner{where}", stored, cast, _both(cast))
    if others:
        cast = new_cast()
        stored = {each.column: each.naming(cast.co_owner) for each in others}
        about = f"the row of the owner{where} and a co-owner in {' and '.join(f'`{each.column}`' for each in others)}"
        yield Scene(about, stored | {naming.column: naming.naming(cast.owner)}, cast, _both(cast))
    if others and naming == named[0]:
        cast = new_cast()
        everywhere = {each.column: each.naming(cast.owner) for each in named}
        people = (introduced("owner", cast.owner), introduced("stranger", cast.stranger))
        yield Scene("the row of the owner in every column", everywhere, cast, people)


def _both(cast: Cast) -> tuple[Person, ...]:
    return (
        introduced("owner", cast.owner),
        introduced("co-owner", cast.co_owner),
        introduced("stranger", cast.stranger),
    )


def _of_nobody(
    named: tuple[Naming, ...], new_cast: Callable[[], Cast], uuids: Collection[str], signed: bool
) -> Iterator[Scene]:
    if not all(each.nullable for each in named):
        return
    cast = new_cast()
    nothing: dict[str, Any] = {each.column: None for each in named}
    yield Scene("nobody's row", nothing, cast, tuple(others(cast, "", uuids, signed=signed)))
    lists: dict[str, Any] = {each.column: [] for each in named if each.many}
    if lists:
        people = (introduced("stranger", cast.stranger), NOBODY_AT_ALL)
        yield Scene("nobody's row, with an empty list", nothing | lists, new_cast(), people)
