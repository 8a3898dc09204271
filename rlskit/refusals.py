"""Why row security does not bind a login, each reason in words: judged by what ``sql/catalog/login.sql`` found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Facts: TypeAlias = Mapping[str, str | None]  # as PostgreSQL writes them


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason. ``text`` is what is said of the login, after its name; ``hint`` is empty where an ordinary login is the way out.

    ``of_session`` says whether it is so in this session alone, whatever the login is.
    """

    kind: str
    text: str
    hint: str = ""
    of_session: bool = False


def refusals(found: Facts) -> Iterator[Refusal]:
    """The reasons, the gravest first; none where row security binds the login."""
    login = found["login"]
    if is_true(found, "preset"):
        yield Refusal(
            "identity",
            "comes with an identity of its own",
            "reset the settings rlskit.* of the login and of the connection",
            of_session=True,
        )
    if (setting := found["own_setting"]) is not None:
        yield Refusal(
            "setting",
            f"has a setting of its own for {setting}, which it could have written itself",
            f'alter role "{login}" reset {setting}; set it for the database, or in the connection string',
        )
    superuser, bypasser, owner = found["superuser"], found["bypasses"], found["owner"]
    if superuser == login:
        yield Refusal("superuser", "is a superuser, so no rule binds it")
        return  # who is all the rest as well
    if superuser is not None:
        yield Refusal(
            "member of superuser", f"is a member of `{superuser}`, a superuser, and may become one, so no rule binds it"
        )
    if bypasser == login:
        yield Refusal("bypassrls", "has BYPASSRLS, so no rule binds it")
    elif bypasser is not None:
        yield Refusal(
            "member of bypassrls",
            f"is a member of `{bypasser}`, which has BYPASSRLS, and may take it on, so no rule binds it",
        )
    if found["reads_past"] is not None:
        yield Refusal("reads past", f"has {found['reads_past']}, which reaches past row security")
    if owner == login:
        yield Refusal("owner", f"owns {found['owns']}, and can lift the rules")
    elif owner is not None:
        yield Refusal("member of owner", f"is a member of `{owner}`, which owns {found['owns']} and can lift the rules")
    if is_true(found, "owns_runtime"):
        yield Refusal("runtime owner", "owns the schema rlskit, or may become its owner, who could rewrite who is who")
    if is_true(found, "reaches_keys"):
        yield Refusal(
            "keys",
            "has a privilege on rlskit.key, and could sign as anybody",
            "rlskit apply takes it away, and so does rlskit install",
        )
    if is_true(found, "signed") and found["makes"] is not None:
        yield Refusal(
            "creator",
            f"has {found['makes']}: what SQL injection leaves there, the statements of others fall into",
            "where identities are signed, the application's login creates and owns nothing: revoke it, or give it to the tables' owner",
        )
    if found["row_security"] != "on":
        yield Refusal(
            "row_security",
            f"has row_security = {found['row_security']}",
            "reset row_security: it has to be on",
            of_session=True,
        )


def is_true(found: Facts, fact: str) -> bool:
    """Whether a fact that PostgreSQL answers with yes or no is so."""
    return found[fact] == "t"
