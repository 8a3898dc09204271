"""Amplify's words, checked; and the right word for what people write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

from rlskit.errors import RuleError
from rlskit.words import did_you_mean

Operation: TypeAlias = Literal["create", "read", "update", "delete"]
Spelling: TypeAlias = Literal["full", "sub", "username"]
Reassign: TypeAlias = Literal["plain", "explicit", "never"]
Mode: TypeAlias = Literal["plain", "signed"]

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
SPELLINGS: tuple[Spelling, ...] = get_args(Spelling)
REASSIGN: tuple[Reassign, ...] = get_args(Reassign)
MODES: tuple[Mode, ...] = get_args(Mode)

# Words that people bring along, and the word that rlskit has for the same thing.
_GUESSED_OPERATIONS = {
    "select": "read",
    "insert": "create",
    "write": "update",
    "remove": "delete",
}
_PARTS_OF_READ = {"get", "list", "sync", "listen", "search"}
_STRATEGIES = ("owner", "owner_defined_in", "owners_defined_in", "same")
_GUESSED_STRATEGIES = {
    "owners": 'allow.owners_defined_in("owners")',
    "ownerDefinedIn": "allow.owner_defined_in(column)",
    "ownersDefinedIn": "allow.owners_defined_in(column)",
    "identityClaim": "allow.owner().identity_claim(claim)",
}
_OTHER_STRATEGIES = {
    *("group", "groups", "group_defined_in", "groups_defined_in", "groupDefinedIn", "groupsDefinedIn"),
    *("guest", "authenticated", "private", "public", "public_api_key", "publicApiKey", "custom", "resource"),
}


def checked_operations(operations: Sequence[object]) -> tuple[Operation, ...]:
    """Return the operations in their fixed order. Raises RuleError for none, an unknown one, and one said twice."""
    if not operations:
        raise RuleError(
            "`to` names no operation",
            hint="leave `to` out for every operation; in a column's rules an empty list means nobody",
        )
    for each in operations:
        if each in OPERATIONS:
            continue
        if str(each) in _PARTS_OF_READ:
            raise RuleError(
                f"`{each}` alone cannot be told apart by PostgreSQL",
                hint="`read` covers get, list, sync, listen and search",
            )
        if each == "all":
            raise RuleError("`all` is no operation", hint="leave `.to()` out")
        word = str(each).lower()
        guess = word if word in OPERATIONS else _GUESSED_OPERATIONS.get(word)
        near = did_you_mean(word, OPERATIONS)
        raise RuleError(
            f"`{each}` is no operation",
            hint=f"did you mean `{guess}`?"
            if guess
            else near
            if near.startswith("did")
            else f"{near}; the role stands in `Rules(role=…)`",
        )
    if len({str(each) for each in operations}) < len(operations):
        raise RuleError(f"`to` names an operation twice: {', '.join(map(str, operations))}", hint="name each once")
    return tuple(each for each in OPERATIONS if each in operations)


def checked_match(spellings: Sequence[object]) -> tuple[Spelling, ...]:
    """Return the spellings in their fixed order; ``any`` stands for all three. Raises RuleError."""
    if list(spellings) == ["any"]:
        return SPELLINGS
    if "any" in spellings:
        raise RuleError("`any` stands for every spelling", hint="name no other beside it")
    for each in spellings:
        if each not in SPELLINGS:
            raise RuleError(f"`{each}` is no spelling of an owner", hint=did_you_mean(str(each), ("any", *SPELLINGS)))
    if "full" not in spellings:
        raise RuleError(
            "`match` without `full` would not match what the default writes",
            hint='add `full`; for the sub alone or the username alone write `identity_claim("sub")`',
        )
    return tuple(each for each in SPELLINGS if each in spellings)


def unknown_strategy(name: str) -> RuleError:
    """The error for ``allow.<name>``, with the word that is meant or the way to do without."""
    if name in _GUESSED_STRATEGIES:
        return RuleError(f"there is no `allow.{name}`", hint=f"write `{_GUESSED_STRATEGIES[name]}`")
    if name in _OTHER_STRATEGIES:
        return RuleError(
            f"`allow.{name}` is not an owner rule, and rlskit has owner and multi-owner rules only",
            hint="for rows that everyone with the role may reach, write `Open(reason=…)`; groups need policies of your own",
        )
    return RuleError(f"there is no `allow.{name}`", hint=did_you_mean(name, _STRATEGIES))


def flat(given: Iterable[object]) -> list[object]:
    """Words given one by one, as lists, or both, in one list; what is no word and no list of them is left for the check."""
    return [each for item in given for each in (item if isinstance(item, list | tuple | set | frozenset) else [item])]
