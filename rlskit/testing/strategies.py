"""Hypothesis' door: people with awkward names, rows that name them in every way, and settings that only look like theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("rlskit.testing.strategies needs Hypothesis; pip install hypothesis") from error

from rlskit.errors import InvalidIdentityError
from rlskit.identity import MAX_LENGTH, Identity
from rlskit.rules import Rule, TableRules

Owner: TypeAlias = str | list[str] | None

# What is a name all the same: for quoting, for arrays, for JSON, for whoever folds, trims or pads.
_ODD = (
    *("alice", "bob", "Alice", "alice ", " alice", "alice bob", "0", "-1", "a:b", "auth0|5d1c", "a@b.example"),
    *("O'Brien", "''", '"alice"', "back\\slash", "{alice}", "{}", '{"a","b"}', "a,b", "(,)", "%s", "$1", "NULL", "null", "--", "/*", ";"),
    *("zo\u00eb", "zoe\u0308", "\u00c5", "\u212b", "ß", "İ", "ı", "日本", "👩‍👧", "\u0430lice", "\u202ealice", "a\u200blice"),
    *("00000000-0000-0000-0000-000000000007", "0000000a-0000-0000-0000-00000000000A", "x" * MAX_LENGTH, "日" * MAX_LENGTH),
)  # fmt: skip
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12)
_NAMES = st.sampled_from(_ODD) | _TEXT
_STRANGER = "somebody-else"


def _is_accepted(sub: str, username: str | None = None) -> bool:
    try:
        Identity(sub=sub, username=username)
    except InvalidIdentityError:
        return False
    return True


_SUBS = _NAMES.filter(_is_accepted)
_USERNAMES = _NAMES.filter(lambda name: _is_accepted("a", name))


def identities(*, claims: Iterable[str] = ("email",)) -> st.SearchStrategy[Identity]:
    """Anybody whom ``Identity`` accepts: odd names, sometimes no username, sometimes the sub for one; with some of these ``claims``, which may be blank."""
    values = st.sampled_from(("", " ", *_ODD)) | _TEXT
    carried = st.fixed_dictionaries({}, optional=dict.fromkeys(claims, values))
    different = st.builds(Identity, sub=_SUBS, username=st.none() | _USERNAMES, claims=carried)
    same = st.builds(
        lambda name, claims: Identity(sub=name, username=name, claims=claims),
        _SUBS.filter(lambda name: _is_accepted(name, name)),
        carried,
    )
    return different | same


@st.composite
def people(
    draw: st.DrawFn, *, min_size: int = 2, max_size: int = 4, claims: Collection[str] = ("email",)
) -> tuple[Identity, ...]:
    """Different people, some of whom share a name: one's username may be another's, or his sub, or his claim."""
    found: list[Identity] = []
    for each in draw(st.lists(identities(claims=claims), min_size=min_size, max_size=max_size, unique=True)):
        taken = [name for before in found for name in _called(before)]
        borrowed = draw(st.sampled_from((None, *taken)))
        if borrowed is not None and _is_accepted(each.sub, borrowed):
            changed = Identity(sub=each.sub, username=borrowed, claims=each.claims)
            found.append(changed if changed not in found else each)
        else:
            found.append(each)
    return tuple(found)


def rows(table: TableRules, people: Sequence[Identity]) -> st.SearchStrategy[dict[str, Owner]]:
    """The owner columns of a row of ``table``, as the rules name them: owned by one of ``people`` in any spelling, by several, by nobody, or almost.

    All of them can be stored in columns of text and of text[]; the other columns of the row are yours. A table without owner rules has none.
    """
    anything = st.sampled_from(tuple(dict.fromkeys(_names_for(people))))
    columns: dict[str, st.SearchStrategy[Owner]] = {}
    for column, rules in _owner_rules(table).items():
        meant = [name for who in people for rule in rules for name in _compared(rule, who)]
        names = st.sampled_from(meant) | anything if meant else anything
        columns[column] = (st.lists(names, max_size=3) if rules[0].strategy == "owners" else names) | st.none()
    return st.fixed_dictionaries(columns)


def spoofed_settings(victim: Identity) -> st.SearchStrategy[Mapping[str, str]]:
    """What a session might say to be taken for ``victim``, and what no Identity says: to every rule it has to be nobody he knows.

    The settings rlskit.sub, rlskit.username and rlskit.claims, for ``set_config``: his name spelled out in one half, control characters, a colon
    where the halves meet, too long a name, claims that are no text.
    """
    known = victim.spellings or (victim.sub,)
    subs = [
        *known,
        victim.sub + "::",
        victim.sub + ":",
        "::" + victim.sub,
        victim.sub + "\n",
        " ",
        victim.sub.ljust(257),
    ]
    usernames = [*known, "::" + known[-1], ":" + known[-1], known[-1] + "\r", "\t", known[-1].rjust(257)]
    other = st.sampled_from(("", "mallory"))
    claims = st.sampled_from(("", "{}", "[]", '"text"', '{"email": {"is": "nested"}}', '{"sub": "mallory"}'))
    wrong_sub = st.sampled_from([each for each in subs if not _is_accepted(each)])
    wrong_username = st.sampled_from([each for each in usernames if not _is_accepted("mallory", each)])
    halves = st.tuples(wrong_sub, other) | st.tuples(other, wrong_username) | st.tuples(wrong_sub, wrong_username)
    return st.builds(
        lambda halves, said: {"rlskit.sub": halves[0], "rlskit.username": halves[1], "rlskit.claims": said},
        halves,
        claims,
    )


def _owner_rules(table: TableRules) -> dict[str, list[Rule]]:
    """The rules that name each owner column."""
    given = [table.allow if isinstance(table.allow, tuple) else (), *(rules for _, rules in table.columns)]
    found: dict[str, list[Rule]] = {}
    for rule in (rule for rules in given for rule in rules):
        if rule.column is not None:
            found.setdefault(rule.column, []).append(rule)
    return found


def _compared(rule: Rule, who: Identity) -> Iterator[str]:
    """What of this person the rule compares."""
    if rule.claim is None:
        yield from who.spellings
    else:
        value = {**who.claims, "sub": who.sub, "username": who.username}.get(rule.claim)
        if value and not value.isspace():
            yield value


def _called(who: Identity) -> Iterator[str]:
    yield from (*who.spellings, who.sub)
    if who.username is not None:
        yield who.username
    yield from (value for value in who.claims.values() if value and not value.isspace())


def _names_for(people: Sequence[Identity]) -> Iterator[str]:
    for who in people:
        yield from _called(who)
    yield _STRANGER
    for who in people:
        for name in _called(who):
            yield from (name + " ", name.swapcase(), name + "::", "{" + name + "}")
        yield from (f"{who.sub}::{other.username}" for other in people if other.username is not None)
