"""What the database makes of the settings, whoever wrote them: it accepts exactly what `Identity` accepts."""

from __future__ import annotations

from itertools import product

import pytest

from rlskit import Identity
from rlskit.errors import InvalidIdentityError
from tests.support import Database

UUID, OTHER = "0b2d8a3e-1f5c-4e0a-9f7b-6c1d2e3f4a5b", "77aa1b2c-1f5c-4e0a-9f7b-6c1d2e3f4a5b"
VALUES = [
    *("", " ", "\t", "\u3000", "a", "a b", " a", "NULL", "{}", "'", '"', "\\", "%", "é", "e\u0301", "日本", "x" * 256, "x" * 257),
    *(":", "::", ":::", "a:", ":a", "a:b", "a::b", "::a", "a::", "a\nb", "a\x7f", "a\x85b", "a\u200bb"),
    *(UUID, UUID.upper(), OTHER, UUID.replace("-", ""), f"{{{UUID}}}", f"{UUID}x", f" {UUID}"),
]  # fmt: skip


def spellings(sub: str, username: str) -> list[str] | None:
    try:
        return list(Identity(sub=sub, username=username).spellings)
    except InvalidIdentityError:
        return None


def test_the_database_and_identity_accept_the_same_names(database: Database) -> None:
    database.apply()
    wrong, accepted = [], 0
    with database.connect_as_app(autocommit=True) as conn:
        for sub, username in product(VALUES, VALUES):
            conn.execute(
                "select set_config('rlskit.sub', %s, false), set_config('rlskit.username', %s, false)", [sub, username]
            )
            found = conn.execute(
                "select rlskit.identities(), rlskit.identity(), array[rlskit.claim('sub'), rlskit.claim('username')]"
            ).fetchone()
            assert found is not None
            expected = spellings(sub, username)
            accepted += expected is not None
            pair = [sub, username] if expected else found[2]
            if found != (expected, expected[0] if expected else None, pair) or (not expected and None not in pair):
                wrong.append((sub, username, found))

    assert wrong == []
    assert 0 < accepted < len(VALUES) ** 2


@pytest.mark.parametrize(
    ("narrowed", "positions"),
    [
        ("'full'", [0]),
        ("'sub'", [1]),
        ("'full', 'username'", [0, 2]),
        ("'username', 'sub'", [1, 2]),
        ("'other'", []),
        ("variadic '{}'", []),
    ],
)
def test_spellings_are_narrowed_in_their_order(narrowed: str, positions: list[int], database: Database) -> None:
    database.apply()
    query = f"select rlskit.identities({narrowed})"
    with database.connect_as_app(autocommit=True) as conn:
        assert conn.execute(query.encode()).fetchone() == (None,)
        conn.execute("select set_config('rlskit.sub', 's', false), set_config('rlskit.username', 'n', false)")
        everything = ["s::n", "s", "n"]

        assert conn.execute(query.encode()).fetchone() == ([everything[each] for each in positions],)


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_an_empty_claim_is_none(value: str, database: Database) -> None:
    database.apply()
    with database.connect_as_app() as conn:
        conn.execute("select set_config('rlskit.claims', jsonb_build_object('email', %s::text)::text, true)", [value])

        assert conn.execute("select rlskit.claim('email'), rlskit.claim('other')").fetchone() == (None, None)
