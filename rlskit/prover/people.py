"""Whom the rules of a table tell apart: an owner, those around him, and those who try to be somebody else. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias
from uuid import UUID

from rlskit.errors import InvalidIdentityError
from rlskit.identity import NOBODY, Identity

Login: TypeAlias = Literal["ordinary", "owner", "bypassing"]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who asks. ``identity`` is who that is to the rules (None: nobody), ``settings`` what the session says, name to raw text.

    The two differ for whoever tries to be somebody else. ``login`` is who is connected: an ordinary login in the rules' role; one that has the
    rights of the table's owner; or one that bypasses row security.
    """

    name: str
    identity: Identity | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: dict(NOBODY))
    login: Login = "ordinary"

    @property
    def introduced(self) -> bool:
        """Whether the settings are those that ``as_user`` and ``as_nobody`` say; else they are said as they stand, and never signed."""
        return self.settings == (NOBODY if self.identity is None else self.identity.settings())


NOBODY_AT_ALL = Person("nobody")
TABLE_OWNER = Person("the table's owner", login="owner")
PAST_THE_RULES = Person("whoever bypasses the rules", login="bypassing")


@dataclass(frozen=True, slots=True)
class Cast:
    """The owner of one row and those around him; nobody else has their names."""

    owner: Identity
    co_owner: Identity
    former: Identity
    stranger: Identity


def introduced(name: str, identity: Identity) -> Person:
    """Somebody who says who he is, as ``as_user`` does."""
    return Person(name, identity, identity.settings())


def new_cast(claims: Collection[str], uuids: Collection[str], chance: Random) -> Cast:
    """Four people whom nobody has seen yet, each with all ``claims``; the values of those in ``uuids`` are UUIDs."""
    return Cast(*(_new_identity(role, claims, uuids, chance) for role in ("owner", "co-owner", "former", "stranger")))


def _new_identity(role: str, claims: Collection[str], uuids: Collection[str], chance: Random) -> Identity:
    sub = _uuid(chance)
    name = f"{role}-{chance.getrandbits(32):08x}"
    return Identity(
        sub=sub,
        username=sub if "username" in uuids else name,
        claims={
            claim: f"{name}@example.com" if "mail" in claim and claim not in uuids else _uuid(chance)
            for claim in sorted(claims)
        },
    )


def _uuid(chance: Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))


# --- everybody but the owner -------------------------------------------------------------------------------


def others(cast: Cast, held: str, uuids: Collection[str], *, signed: bool) -> Iterator[Person]:
    """Everybody who is to be asked about the owner's row, which holds ``held`` as his name: strangers, nobody, half identities, spoofed ones.

    Where identities have to be signed, whoever says raw settings is nobody.
    """
    yield introduced("stranger", cast.stranger)
    yield NOBODY_AT_ALL
    said = [*_half(cast.owner), *_spoofed(cast.owner, cast.stranger, uuids)]
    for name, identity in said:
        if isinstance(identity, Identity):
            yield introduced(name, identity)
        else:
            yield _raw(name, identity, signed)
    moving = {**cast.stranger.settings(), "rlskit.moving_to": held}
    yield Person("spoofed: a row on its way", None if signed else cast.stranger, moving)
    if signed:
        yield Person("spoofed: the owner without a signature", None, cast.owner.settings())


_Said: TypeAlias = Identity | Mapping[str, str]  # what Identity would refuse is said raw


def _half(owner: Identity) -> Iterator[tuple[str, _Said]]:
    name, claims = owner.username or "", owner.settings()["rlskit.claims"]
    yield "half identity: no username", Identity(sub=owner.sub, claims=owner.claims)
    yield "half identity: a blank username", {"sub": owner.sub, "username": "  ", "claims": claims}
    yield "half identity: no sub", {"sub": "", "username": name, "claims": claims}
    for claim in owner.claims:
        rest = {each: value for each, value in owner.claims.items() if each != claim}
        yield f"half identity: no `{claim}`", Identity(sub=owner.sub, username=name, claims=rest)
        yield f"half identity: a blank `{claim}`", Identity(sub=owner.sub, username=name, claims={**rest, claim: " "})


def _spoofed(owner: Identity, own: Identity, uuids: Collection[str]) -> Iterator[tuple[str, _Said]]:
    """Those who would be the owner if texts were joined, split, folded, trimmed or interpolated somewhere on the way."""
    full, sub, username = owner.spellings
    own_name = own.username or ""
    yield "spoofed: the full name as username", {"sub": own.sub, "username": full}
    yield "spoofed: the full name as sub", {"sub": full, "username": own_name}
    if username != sub:
        yield "spoofed: the sub as username", {"sub": own.sub, "username": sub}
    yield "spoofed: a colon after the sub", {"sub": f"{sub}:", "username": username}
    yield "spoofed: a colon before the username", {"sub": sub, "username": f":{username}"}
    broken = _changed(owner, own, uuids, "{}\n".format)
    yield "spoofed: a line break at the end", {**broken, "claims": json.dumps(broken["claims"])}
    everything = json.dumps([full, sub, username, *owner.claims.values()])
    yield "spoofed: claims that are no object", {"sub": own.sub, "username": own_name, "claims": everything}
    claims = {**own.claims, "sub": sub, "username": username, "sub::username": full}
    yield "spoofed: sub and username as claims", Identity(sub=own.sub, username=own_name, claims=claims)
    changes: dict[str, Callable[[str], str]] = {
        "in capitals": str.upper,
        "a blank at the end": "{} ".format,
        "a list of the name": "{{{}}}".format,
        "a pattern": lambda value: "%",
        "SQL in the name": lambda value: "' or true --",
    }
    for name, change in changes.items():
        identity = Identity(**_changed(owner, own, uuids, change))
        if identity != own:
            yield f"spoofed: {name}", identity


def _changed(owner: Identity, own: Identity, uuids: Collection[str], change: Callable[[str], str]) -> dict[str, Any]:
    """The owner's names, changed; one's own where they are UUIDs, which are compared as such and not as text."""
    kept = {*uuids, "sub"} if "username" in uuids else {*uuids}
    return {
        "sub": own.sub if "sub" in kept else change(owner.sub),
        "username": own.username if "username" in kept else change(owner.username or ""),
        "claims": {name: own.claims[name] if name in kept else change(value) for name, value in owner.claims.items()},
    }


# --- what the rules make of raw settings -------------------------------------------------------------------


class _WithoutSub(Identity):
    """Somebody without a ``sub`` that counts: he has no spelling, and each of his claims stands for itself."""

    def __post_init__(self) -> None:
        """What is missing cannot be checked."""

    @property
    def spellings(self) -> tuple[str, ...]:
        """None."""
        return ()


def _raw(name: str, said: Mapping[str, str], signed: bool) -> Person:
    settings = {**NOBODY, **{f"rlskit.{each}": value for each, value in said.items()}}
    return Person(name, None if signed else heard(settings), settings)


def heard(settings: Mapping[str, str]) -> Identity:
    """Whom the rules take settings for that nobody has checked: what Identity would refuse of them counts as missing."""
    sub, username = settings["rlskit.sub"], settings["rlskit.username"]
    claims = json.loads(settings["rlskit.claims"])
    named = username if _counts(sub if _counts(sub) else "somebody", username) else None
    kind = Identity if _counts(sub) else _WithoutSub
    return kind(sub=sub if kind is Identity else "", username=named, claims=claims if isinstance(claims, dict) else {})


def _counts(sub: str, username: str | None = None) -> bool:
    try:
        Identity(sub=sub, username=username)
    except InvalidIdentityError:
        return False
    return True
