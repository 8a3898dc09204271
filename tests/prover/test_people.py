"""Whom the rules tell apart: each is a person of his own, and raw settings mean to the database what the prover takes them for."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest

from rlskit import Identity, installer
from rlskit.identity import NOBODY
from rlskit.prover import people
from rlskit.prover.people import Cast, Person, heard
from tests.support import Server, fresh_database

CLAIMS = ("email", "tenant")


def a_cast(seed: int = 1, uuids: tuple[str, ...] = ()) -> Cast:
    return people.new_cast(CLAIMS, uuids, Random(seed))


def everybody(*, uuids: tuple[str, ...] = (), signed: bool = False) -> list[Person]:
    cast = a_cast(uuids=uuids)
    return list(people.others(cast, cast.owner.spellings[0], uuids, signed=signed))


@pytest.fixture(scope="module")
def asked(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with fresh_database(server, "people") as database:
        with database.connect_as_owner() as conn:
            installer.install(conn)
        with database.connect_as_app() as conn:
            yield conn


def test_everybody_has_a_name_of_his_own() -> None:
    names = [each.name for each in everybody(signed=True)]

    assert len(names) == len({*names})
    assert {name.partition(":")[0] for name in names} == {"stranger", "nobody", "half identity", "spoofed"}


def test_a_cast_is_never_seen_twice() -> None:
    first, second = a_cast(1), a_cast(2)

    assert {first.owner.sub, first.stranger.sub} & {second.owner.sub, second.stranger.sub} == set()
    assert a_cast(1) == first


@pytest.mark.parametrize("uuids", [(), ("tenant",), ("sub",), ("username",)], ids=["none", "claim", "sub", "username"])
def test_nobody_but_the_owner_is_the_owner(uuids: tuple[str, ...]) -> None:
    owner = a_cast(uuids=uuids).owner

    assert owner not in [each.identity for each in everybody(uuids=uuids)]
    assert dict(owner.settings()) not in [dict(each.settings) for each in everybody(uuids=uuids)]


def test_the_database_hears_what_the_prover_takes_it_to_hear(asked: psycopg.Connection[Any]) -> None:
    """Every claim and every spelling of everybody, half and spoofed ones among them, as the runtime's own functions say."""
    for person in everybody():
        who = person.identity
        expected: list[Any] = [None, None, None, None, None]
        if who is not None:
            said = {**who.claims, "sub": who.sub, "username": who.username}
            values = [said.get(name) for name in ("sub", "username", *CLAIMS)]
            expected = [list(who.spellings) or None, *(value if value and value.strip() else None for value in values)]
        with asked.transaction(force_rollback=True):
            for name, value in person.settings.items():
                asked.execute("select set_config(%s, %s, true)", [name, value])
            found = asked.execute(
                "select rlskit.identities(), rlskit.claim('sub'), rlskit.claim('username'), rlskit.claim('email'), rlskit.claim('tenant')"
            ).fetchone()

        assert list(found or ()) == expected, person.name


def test_where_identities_are_signed_raw_settings_are_nobodys() -> None:
    assert {each.identity for each in everybody(signed=True) if not each.introduced} == {None}


def test_who_is_introduced_says_what_as_user_says() -> None:
    alice = Identity(sub="a1f0", username="alice")

    assert people.introduced("alice", alice).introduced
    assert people.NOBODY_AT_ALL.introduced
    assert not Person("spoofed", None, alice.settings()).introduced


def test_who_has_no_sub_keeps_his_other_claims() -> None:
    who = heard({**NOBODY, "rlskit.username": "alice", "rlskit.claims": '{"email": "a@example.com"}'})

    assert (who.spellings, who.username, who.claims) == ((), "alice", {"email": "a@example.com"})
