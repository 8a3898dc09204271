"""A key is read and written as one text, shows its secret nowhere else, and signs in the form that the database reads."""

from __future__ import annotations

import copy
import hmac
import json
import logging
import pickle
from base64 import b64decode, b64encode
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlskit import Identity, SigningKey
from rlskit.errors import SigningKeyError
from rlskit.gatekeeper import Terms
from rlskit.prelude import Login
from rlskit.signing import LIFETIME

SECRET = b"a secret of 32 bytes, no one more"[:32]
KEY = SigningKey("first", SECRET)
WAY_OUT = "\nhint: rlskit keys add prints one: <name>:<secret in base64>"
KIDS = st.from_regex(r"[0-9A-Za-z_-]{1,32}", fullmatch=True)


@given(KIDS, st.binary(min_size=32, max_size=64))
def test_what_was_written_is_read_again(kid: str, secret: bytes) -> None:
    key = SigningKey(kid, secret)
    assert SigningKey.parse(key.export()) == key
    assert SigningKey.parse(f"  {key.export()}\n") == key  # as a file and an environment variable hold it


def test_a_new_one_is_random() -> None:
    made = {SigningKey.generate().export() for _ in range(20)}

    assert len(made) == 20
    assert len({text.partition(":")[0] for text in made}) == 20
    assert {len(SigningKey.parse(text).secret) for text in made} == {32}
    assert SigningKey.generate("mine").kid == "mine"


ENCODED = b64encode(SECRET).decode()
NO_KEY = "this is no signing key"
TOO_SHORT = "the secret of key `first` is not 32 to 64 bytes long"
MISTAKES = {
    "nothing": ("", NO_KEY),
    "a blank": ("  ", NO_KEY),
    "no colon": (ENCODED, NO_KEY),
    "no secret": ("first:", NO_KEY),
    "no base64": ("first:Geheimnis!", NO_KEY),
    "base64 for addresses": ("first:" + b64encode(b"\xff" * 32).decode().replace("/", "_"), NO_KEY),
    "other letters": ("first:é" + ENCODED, NO_KEY),
    "base64 that is cut": ("first:" + ENCODED[:-2], NO_KEY),
    "a blank inside": ("first:" + ENCODED[:8] + " " + ENCODED[8:], NO_KEY),
    "a second colon": ("first:" + ENCODED + ":x", NO_KEY),
    "a short secret": ("first:" + b64encode(SECRET[:31]).decode(), NO_KEY),
    "a long secret": ("first:" + b64encode(SECRET * 3).decode(), NO_KEY),
    "no name": (":" + ENCODED, NO_KEY),
    "a name with a dot": ("a.b:" + ENCODED, NO_KEY),
    "a name in another script": ("é:" + ENCODED, NO_KEY),
    "a long name": ("x" * 33 + ":" + ENCODED, NO_KEY),
    "a name with a line break": ("a\n:" + ENCODED, NO_KEY),
    "the parts in the wrong order": (ENCODED + ":first", NO_KEY),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_without_the_text(mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(SigningKeyError) as caught:
        SigningKey.parse(text)

    assert str(caught.value) == message + WAY_OUT
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("secret", [b"", SECRET[:31], SECRET * 3, SECRET.decode(), bytearray(SECRET), None])
def test_a_secret_that_is_none_is_refused_without_it(secret: object) -> None:
    with pytest.raises(SigningKeyError) as caught:
        SigningKey("first", secret)  # type: ignore[arg-type]
    assert caught.value.message == TOO_SHORT


def test_it_shows_its_secret_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("application").warning("%s %r %s", KEY, KEY, {"key": KEY})
    shown = [str(KEY), repr(KEY), f"{KEY}", repr([KEY]), repr(Terms(key=KEY)), repr(Login(key=KEY)), caplog.text]

    for text in shown:
        assert "SigningKey(kid='first', secret=…)" in text
        assert not any(told in text for told in (SECRET.decode(), repr(SECRET), ENCODED, SECRET.hex()))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_carried_elsewhere(copied: object) -> None:
    with pytest.raises(TypeError, match="a signing key is not pickled"):
        copied(KEY)  # type: ignore[operator]


def test_it_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        KEY.secret = b"x" * 32  # type: ignore[misc]


def test_a_token_says_who_where_and_until_when_and_is_signed() -> None:
    alice = Identity(sub="a1f0", username="älice", claims={"email": "a@example.com"})
    text = KEY.token(alice, actor="c3d2::carol", pid=4711, now=1_700_000_000.4)
    version, kid, said, mac = text.split(".")

    assert text.isascii()
    assert (version, kid) == ("v1", "first")
    assert json.loads(b64decode(said, validate=True)) == {
        "sub": "a1f0", "username": "älice", "claims": {"email": "a@example.com"},
        "actor": "c3d2::carol", "pid": 4711, "exp": 1_700_000_000 + LIFETIME,
    }  # fmt: skip
    assert mac == hmac.digest(SECRET, f"v1.first.{said}".encode(), "sha256").hex()
