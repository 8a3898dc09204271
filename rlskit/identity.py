"""Who is asking: a frozen value, refused when it could be taken for somebody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json import dumps
from types import MappingProxyType
from typing import Any

from rlskit.errors import InvalidIdentityError

MAX_LENGTH = 256  # characters; the same limit stands in sql/runtime.sql

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NO_TEXT = "it holds half of a surrogate pair"
_MEETING = "joined by `::` it could spell another user's name"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LOOKS_LIKE_SUB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, repr=False)
class Identity:
    """The user for whom the application asks the database.

    ``sub`` is the subject as the identity provider gives it, ``username`` the user's name or None, ``claims`` further claims, name to
    text. A rule compares only what it needs: the spellings of an owner need both ``sub`` and ``username``, a claim rule its claim.
    Whoever lacks it, or has it empty, is nobody to that rule.

    Raises InvalidIdentityError for a ``sub`` or ``username`` that is empty, longer than 256 characters, holds a control character or ``::``,
    or has a ``:`` where the two meet; and for a username that looks like a sub (a UUID) without being one's own. The database refuses the same.
    """

    sub: str
    username: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("sub", self.sub)
        if self.sub.endswith(":"):
            raise InvalidIdentityError("`sub` ends with `:`", hint=_MEETING)
        if self.username is not None:
            _check("username", self.username)
            if self.username.startswith(":"):
                raise InvalidIdentityError("`username` begins with `:`", hint=_MEETING)
            if self.username != self.sub and _LOOKS_LIKE_SUB.fullmatch(self.username):
                raise InvalidIdentityError(
                    "`username` looks like a sub and is not the user's own",
                    hint="it would match the rows of the user who has that sub: use another name, or leave username out",
                )
        if not isinstance(self.claims, Mapping):
            raise InvalidIdentityError("`claims` is no mapping", hint="claims map names to texts")
        for name, value in self.claims.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidIdentityError(
                    f"claim `{name}` is not text", hint="claims map names to texts: turn the value into text first"
                )
            if "\0" in name + value:
                raise InvalidIdentityError(f"claim `{name}` holds a NUL character", hint="PostgreSQL cannot hold it")
            if _SURROGATE.search(name + value):
                raise InvalidIdentityError(f"claim `{name!a}` is not text that PostgreSQL can hold", hint=_NO_TEXT)
        object.__setattr__(self, "claims", MappingProxyType(dict(self.claims)))

    def __hash__(self) -> int:
        return hash((self.sub, self.username, tuple(sorted(self.claims.items()))))

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (self.sub, self.username, dict(self.claims)))

    def __repr__(self) -> str:
        # People's names do not belong in logs and tracebacks.
        return f"Identity(sub=…, username={'…' if self.username is not None else None}, claims={len(self.claims)})"

    @property
    def spellings(self) -> tuple[str, ...]:
        """What an owner column may hold for this user: ``<sub>::<username>``, sub, username; empty where one is missing."""
        return () if self.username is None else (f"{self.sub}::{self.username}", self.sub, self.username)

    @classmethod
    def from_claims(
        cls, token: Mapping[str, object], *, username: str | None = None, claims: Iterable[str] = ()
    ) -> Identity:
        """The user whom a verified token is about. ``token`` is its payload, as the framework that verified it gives it.

        ``sub`` is the claim of that name. ``username`` names the claim that holds the username; without it, as Amplify has it, that is
        ``username`` or else ``cognito:username``. Of an OIDC token name one that its user cannot change. ``claims`` are further ones to carry,
        for rules with ``identity_claim``: what the token lacks is left out, and so is an ``email`` that it says is not verified; whoever
        lacks a claim is nobody to the rule that compares it.

        Raises InvalidIdentityError for a token without ``sub``, and for what an Identity refuses.
        """
        named = (username,) if username is not None else ("username", "cognito:username")
        unverified = str(token.get("email_verified", True)).lower() != "true"  # Cognito writes it as text
        carried = {each for each in claims if each in token and not (each == "email" and unverified)}
        return cls(
            sub=_text(token, "sub") or "",
            username=next((_text(token, each) for each in named if token.get(each)), None),
            claims={each: _text(token, each) or "" for each in sorted(carried)},
        )

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Identity:
        """What ``to_dict`` gave, on the other side of a queue. Raises InvalidIdentityError for anything else."""
        known = ("sub", "username", "claims")
        if not isinstance(given, Mapping) or set(given) != set(known):
            raise InvalidIdentityError(
                "this is no identity that `to_dict` gave", hint=f"it has the keys {', '.join(known)} and no other"
            )
        values: dict[str, Any] = dict(given)
        return cls(**values)

    def to_dict(self) -> dict[str, object]:
        """The identity as JSON can hold it, for a job that another process does for this user."""
        return {"sub": self.sub, "username": self.username, "claims": dict(self.claims)}

    def settings(self) -> dict[str, str]:
        """The session settings that tell the database who is asking; all of them, always."""
        return {
            "rlskit.sub": self.sub,
            "rlskit.username": self.username or "",
            "rlskit.claims": dumps(dict(self.claims), ensure_ascii=False, sort_keys=True),
        }


# What stands in the settings when nobody asks.
NOBODY = {"rlskit.sub": "", "rlskit.username": "", "rlskit.claims": "{}"}


def _text(token: Mapping[str, object], claim: str) -> str | None:
    value = token.get(claim)
    if value is not None and not isinstance(value, str):
        raise InvalidIdentityError(
            f"claim `{claim}` is not text", hint="a rule compares one text: name a claim that holds one"
        )
    return value


def _restored(sub: str, username: str | None, claims: Mapping[str, str]) -> Identity:
    return Identity(sub=sub, username=username, claims=claims)


def _check(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidIdentityError(f"`{what}` is not text", hint="pass the claim as the identity provider gives it")
    if not value or value.isspace():
        raise InvalidIdentityError(
            f"`{what}` is empty", hint="for a guest use as_nobody(…): nobody sees no rows, and gets no error"
        )
    if len(value) > MAX_LENGTH:
        raise InvalidIdentityError(
            f"`{what}` is {len(value)} characters long, the limit is {MAX_LENGTH}", hint="pass the claim, not the token"
        )
    if "::" in value:
        raise InvalidIdentityError(
            f"`{what}` holds `::`, which separates sub and username in a stored owner",
            hint="such a name could spell another user's",
        )
    if _CONTROL.search(value):
        raise InvalidIdentityError(
            f"`{what}` holds a control character", hint="pass the claim as the identity provider gives it"
        )
    if _SURROGATE.search(value):
        raise InvalidIdentityError(f"`{what}` is not text that PostgreSQL can hold", hint=_NO_TEXT)
