"""Who is asking: a frozen value, refused when it could be taken for somebody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from json import dumps
from types import MappingProxyType

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

    def settings(self) -> dict[str, str]:
        """The session settings that tell the database who is asking; all of them, always."""
        return {
            "rlskit.sub": self.sub,
            "rlskit.username": self.username or "",
            "rlskit.claims": dumps(dict(self.claims), ensure_ascii=False, sort_keys=True),
        }


# What stands in the settings when nobody asks.
NOBODY = {"rlskit.sub": "", "rlskit.username": "", "rlskit.claims": "{}"}


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
