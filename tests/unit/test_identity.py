"""`Identity`: what is accepted, what is refused and in which words, and that nothing of it gets into logs."""

from __future__ import annotations

import copy
import json
import traceback
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlskit import Identity
from rlskit.errors import IdentityError, InvalidIdentityError
from rlskit.identity import NOBODY

SUB = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
OTHER_SUB = "7f9619ff-8b86-4d01-b42d-00cf4fc964ff"

# Few letters, so that two names are often nearly the same.
NAMES = st.text(":ab", min_size=1, max_size=4)


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"sub": SUB}, id="a UUID as sub"),
        pytest.param({"sub": "auth0|5f7c8ec7"}, id="any other sub"),
        pytest.param({"sub": "a"}, id="one character"),
        pytest.param({"sub": "ü" * 256}, id="256 characters, not bytes"),
        pytest.param({"sub": "a:b"}, id="a single colon"),
        pytest.param({"sub": ":a", "username": "b:"}, id="colons where the two do not meet"),
        pytest.param({"sub": " alice "}, id="spaces around a name"),
        pytest.param({"sub": SUB, "username": None}, id="no username"),
        pytest.param({"sub": SUB, "username": "alice"}, id="a username"),
        pytest.param({"sub": SUB, "username": "u" * 256}, id="a username of 256 characters"),
        pytest.param({"sub": SUB, "username": "Zoë 🦉"}, id="a username in Unicode"),
        pytest.param({"sub": SUB, "username": SUB}, id="one's own sub as username"),
        pytest.param({"sub": "alice", "username": "alice"}, id="the same name twice"),
        pytest.param({"sub": SUB, "username": SUB.replace("-", "")}, id="a username like a UUID without hyphens"),
        pytest.param({"sub": SUB, "username": f"{OTHER_SUB}x"}, id="a username that begins like a UUID"),
        pytest.param({"sub": SUB, "claims": {"email": "a@example.org"}}, id="a claim"),
        pytest.param({"sub": SUB, "claims": {"email": ""}}, id="an empty claim"),
        pytest.param({"sub": SUB, "claims": {"joined": "a::b"}}, id="a claim with a double colon"),
        pytest.param({"sub": SUB, "claims": {"address": "a\nb"}}, id="a claim of two lines"),
        pytest.param({"sub": SUB, "claims": {"long": "x" * 257}}, id="a long claim"),
    ],
)
def test_is_accepted(fields: dict[str, Any]) -> None:
    alice = Identity(**fields)

    assert (alice.sub, alice.username, dict(alice.claims)) == (
        fields["sub"],
        fields.get("username"),
        fields.get("claims", {}),
    )


# --- what is refused -------------------------------------------------------------------------------------------------

AS_GIVEN = "pass the claim as the identity provider gives it"
IS_EMPTY = "for a guest use as_nobody(…): nobody sees no rows, and gets no error"
SEPARATES = "such a name could spell another user's"
LOOKS_LIKE_SUB = "`username` looks like a sub and is not the user's own"
LEAVE_OUT = "it would match the rows of the user who has that sub: use another name, or leave username out"

# What is wrong with one value, for sub and username alike; {} is the one's name.
VALUES = [
    pytest.param("", "`{}` is empty", IS_EMPTY, id="empty"),
    pytest.param(" ", "`{}` is empty", IS_EMPTY, id="a space"),
    pytest.param("\t\n", "`{}` is empty", IS_EMPTY, id="white space"),
    pytest.param("\u2003", "`{}` is empty", IS_EMPTY, id="white space of Unicode"),
    pytest.param(
        "x" * 257, "`{}` is 257 characters long, the limit is 256", "pass the claim, not the token", id="257 characters"
    ),
    pytest.param(
        "secret::admin",
        "`{}` holds `::`, which separates sub and username in a stored owner",
        SEPARATES,
        id="two colons",
    ),
    pytest.param(
        "::", "`{}` holds `::`, which separates sub and username in a stored owner", SEPARATES, id="only two colons"
    ),
    pytest.param(
        "secret:::", "`{}` holds `::`, which separates sub and username in a stored owner", SEPARATES, id="three colons"
    ),
    pytest.param("secret\0", "`{}` holds a control character", AS_GIVEN, id="NUL"),
    pytest.param("secret\n", "`{}` holds a control character", AS_GIVEN, id="a newline at the end"),
    pytest.param("sec\x1bret", "`{}` holds a control character", AS_GIVEN, id="escape"),
    pytest.param("sec\x7fret", "`{}` holds a control character", AS_GIVEN, id="delete"),
    pytest.param("sec\x85ret", "`{}` holds a control character", AS_GIVEN, id="a C1 control"),
    pytest.param(
        "secret\ud800",
        "`{}` is not text that PostgreSQL can hold",
        "it holds half of a surrogate pair",
        id="half of a pair",
    ),
    pytest.param(4711, "`{}` is not text", AS_GIVEN, id="a number"),
    pytest.param(b"secret", "`{}` is not text", AS_GIVEN, id="bytes"),
    pytest.param(["secret"], "`{}` is not text", AS_GIVEN, id="a list"),
]


def refusal(**fields: Any) -> InvalidIdentityError:
    with pytest.raises(InvalidIdentityError) as caught:
        Identity(**fields)
    return caught.value


@pytest.mark.parametrize(("value", "message", "hint"), VALUES)
def test_a_sub_is_refused(value: object, message: str, hint: str) -> None:
    error = refusal(sub=value, username="alice")

    assert (error.message, error.hint) == (message.format("sub"), hint)


@pytest.mark.parametrize(("value", "message", "hint"), VALUES)
def test_a_username_is_refused(value: object, message: str, hint: str) -> None:
    error = refusal(sub=SUB, username=value)

    assert (error.message, error.hint) == (message.format("username"), hint)


def test_a_missing_sub_is_refused() -> None:
    error = refusal(sub=None)

    assert (error.message, error.hint) == ("`sub` is not text", AS_GIVEN)


@pytest.mark.parametrize(
    ("sub", "username"),
    [
        pytest.param(SUB, OTHER_SUB, id="another's sub"),
        pytest.param(SUB, OTHER_SUB.upper(), id="another's sub in capitals"),
        pytest.param(SUB, SUB.upper(), id="one's own sub in capitals"),
        pytest.param("alice", OTHER_SUB, id="a sub that is no UUID"),
    ],
)
def test_a_username_that_looks_like_anothers_sub_is_refused(sub: str, username: str) -> None:
    error = refusal(sub=sub, username=username)

    assert (error.message, error.hint) == (LOOKS_LIKE_SUB, LEAVE_OUT)


@pytest.mark.parametrize(
    ("claims", "message", "hint"),
    [
        pytest.param(
            {"level": 3},
            "claim `level` is not text",
            "claims map names to texts: turn the value into text first",
            id="a number",
        ),
        pytest.param(
            {"email": None},
            "claim `email` is not text",
            "claims map names to texts: turn the value into text first",
            id="None",
        ),
        pytest.param(
            {"groups": ["a"]},
            "claim `groups` is not text",
            "claims map names to texts: turn the value into text first",
            id="a list",
        ),
        pytest.param(
            {7: "secret"},
            "claim `7` is not text",
            "claims map names to texts: turn the value into text first",
            id="a name that is no text",
        ),
        pytest.param(
            {"email": "secret\0"},
            "claim `email` holds a NUL character",
            "PostgreSQL cannot hold it",
            id="NUL in the value",
        ),
        pytest.param(
            {"e\0mail": "secret"},
            "claim `e\0mail` holds a NUL character",
            "PostgreSQL cannot hold it",
            id="NUL in the name",
        ),
    ],
)
def test_a_claim_is_refused(claims: dict[Any, Any], message: str, hint: str) -> None:
    error = refusal(sub=SUB, claims=claims)

    assert (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"sub": "s-1:"}, "`sub` ends with `:`", id="sub"),
        pytest.param({"sub": "s-1:", "username": "alice"}, "`sub` ends with `:`", id="sub before a username"),
        pytest.param({"sub": "s-1", "username": ":alice"}, "`username` begins with `:`", id="username"),
    ],
)
def test_a_colon_where_sub_and_username_meet_is_refused(fields: dict[str, Any], message: str) -> None:
    error = refusal(**fields)

    assert (error.message, error.hint) == (message, "joined by `::` it could spell another user's name")


@pytest.mark.parametrize("claims", [{"email": "\ud800"}, {"\ud800": "x"}], ids=["the value", "the name"])
def test_a_claim_that_postgresql_cannot_hold_is_refused(claims: dict[str, str]) -> None:
    """The same as of sub and username: without this the driver fails with a UnicodeEncodeError in the middle of a request."""
    error = refusal(sub=SUB, claims=claims)

    assert error.message.endswith("is not text that PostgreSQL can hold")


@pytest.mark.parametrize("claims", [None, ["email"], "email"], ids=["None", "a list", "text"])
def test_claims_that_are_no_mapping_are_refused(claims: object) -> None:
    error = refusal(sub=SUB, claims=claims)

    assert "claims" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"sub": "s3cr3t::"}, id="sub with colons"),
        pytest.param({"sub": "s3cr3t\n"}, id="sub with a control character"),
        pytest.param({"sub": "s3cr3t" * 50}, id="a long sub"),
        pytest.param({"sub": "s3cr3t\ud800"}, id="sub with half of a pair"),
        pytest.param({"sub": ["s3cr3t"]}, id="sub that is no text"),
        pytest.param({"sub": "alice", "username": "s3cr3t::"}, id="username with colons"),
        pytest.param({"sub": "alice", "username": b"s3cr3t"}, id="username that is no text"),
        pytest.param({"sub": "alice", "claims": {"email": ["s3cr3t"]}}, id="a claim that is no text"),
        pytest.param({"sub": "alice", "claims": {"email": "s3cr3t\0"}}, id="a claim with NUL"),
    ],
)
def test_no_refusal_holds_a_value(fields: dict[str, Any]) -> None:
    error = refusal(**fields)

    assert "s3cr3t" not in "".join(traceback.format_exception_only(error)) + repr(error) + str(vars(error))


def test_the_traceback_of_a_refusal_holds_no_value() -> None:
    error = refusal(sub="".join(["s3c", "r3t", "\ud800"]))

    assert "s3cr3t" not in "".join(traceback.format_exception(error))


def test_a_refusal_is_an_identity_error_and_a_value_error() -> None:
    error = refusal(sub="")

    assert (isinstance(error, IdentityError), isinstance(error, ValueError)) == (True, True)


def test_identity_takes_no_positional_arguments() -> None:
    with pytest.raises(TypeError):
        Identity(SUB)  # type: ignore[call-arg]


# --- a value ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sub", "username", "claims"])
def test_it_is_frozen(name: str) -> None:
    alice = Identity(sub=SUB)

    with pytest.raises(FrozenInstanceError):
        setattr(alice, name, "mallory")


def test_its_claims_are_frozen() -> None:
    alice = Identity(sub=SUB, claims={"email": "a@example.org"})

    with pytest.raises(TypeError, match="does not support item assignment"):
        alice.claims["email"] = "b@example.org"  # type: ignore[index]


def test_its_claims_are_not_the_callers_mapping() -> None:
    claims = {"email": "a@example.org"}
    alice = Identity(sub=SUB, claims=claims)

    claims["email"] = "b@example.org"

    assert alice.claims == {"email": "a@example.org"}


def test_claims_may_be_any_mapping() -> None:
    alice = Identity(sub=SUB, claims=MappingProxyType({"email": "a@example.org"}))

    assert alice == Identity(sub=SUB, claims={"email": "a@example.org"})


def test_the_same_identity_is_equal_and_has_the_same_hash() -> None:
    one = Identity(sub=SUB, username="alice", claims={"a": "1", "b": "2"})
    other = Identity(sub=SUB, username="alice", claims={"b": "2", "a": "1"})

    assert (one, hash(one)) == (other, hash(other))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"sub": "other", "username": "alice", "claims": {"a": "1"}}, id="another sub"),
        pytest.param({"sub": SUB, "username": "bob", "claims": {"a": "1"}}, id="another username"),
        pytest.param({"sub": SUB, "claims": {"a": "1"}}, id="no username"),
        pytest.param({"sub": SUB, "username": "alice", "claims": {"a": "2"}}, id="another claim"),
        pytest.param({"sub": SUB, "username": "alice"}, id="no claims"),
    ],
)
def test_another_identity_is_not_equal(other: dict[str, Any]) -> None:
    alice = Identity(sub=SUB, username="alice", claims={"a": "1"})

    assert len({alice, Identity(**other)}) == 2


def test_it_can_be_copied() -> None:
    alice = Identity(sub=SUB, username="alice", claims={"a": "1"})

    assert copy.deepcopy(alice) == alice


@pytest.mark.parametrize(
    ("alice", "text"),
    [
        pytest.param(Identity(sub=SUB), "Identity(sub=…, username=None, claims=0)", id="sub alone"),
        pytest.param(Identity(sub=SUB, username="alice"), "Identity(sub=…, username=…, claims=0)", id="username"),
        pytest.param(
            Identity(sub=SUB, claims={"a": "1", "b": "2"}), "Identity(sub=…, username=None, claims=2)", id="claims"
        ),
    ],
)
def test_its_repr_shows_no_value(alice: Identity, text: str) -> None:
    assert (repr(alice), str(alice), f"{[alice]}") == (text, text, f"[{text}]")


# --- spellings and settings ------------------------------------------------------------------------------------------


def test_the_spellings_are_full_sub_and_username() -> None:
    assert Identity(sub="s-1", username="alice").spellings == ("s-1::alice", "s-1", "alice")


def test_without_a_username_there_are_no_spellings() -> None:
    assert Identity(sub="s-1").spellings == ()


@settings(deadline=None)
@given(sub=NAMES, username=NAMES, other_sub=NAMES, other_username=NAMES)
@example(sub="a:", username="b", other_sub="a", other_username=":b")
def test_no_two_identities_spell_their_full_names_alike(
    sub: str, username: str, other_sub: str, other_username: str
) -> None:
    """The parts of `<sub>::<username>` can be told apart, or else one user owns the other's rows."""
    try:
        one, other = Identity(sub=sub, username=username), Identity(sub=other_sub, username=other_username)
    except InvalidIdentityError:
        return

    assert (one.spellings[0] == other.spellings[0]) == ((sub, username) == (other_sub, other_username))


@pytest.mark.parametrize(
    ("alice", "settings"),
    [
        pytest.param(
            Identity(sub="s-1"),
            {"rlskit.sub": "s-1", "rlskit.username": "", "rlskit.claims": "{}"},
            id="sub alone",
        ),
        pytest.param(
            Identity(sub="s-1", username="alice"),
            {"rlskit.sub": "s-1", "rlskit.username": "alice", "rlskit.claims": "{}"},
            id="sub and username",
        ),
        pytest.param(
            Identity(sub="s-1", claims={"b": 'say "ü"', "a": ""}),
            {"rlskit.sub": "s-1", "rlskit.username": "", "rlskit.claims": '{"a": "", "b": "say \\"ü\\""}'},
            id="claims in the order of their names",
        ),
    ],
)
def test_settings_tell_all_of_it(alice: Identity, settings: dict[str, str]) -> None:
    assert alice.settings() == settings


def test_nobody_sets_what_somebody_sets() -> None:
    assert dict.fromkeys(Identity(sub="s-1").settings(), "") | {"rlskit.claims": "{}"} == NOBODY


@settings(deadline=None)
@given(
    claims=st.dictionaries(
        st.text().filter(lambda name: "\0" not in name), st.text().filter(lambda value: "\0" not in value)
    )
)
def test_claims_come_through_json_unchanged(claims: dict[str, str]) -> None:
    settings = Identity(sub="s-1", claims=claims).settings()

    assert json.loads(settings["rlskit.claims"]) == claims


# --- from a token, and through a queue -------------------------------------------------------------------------------

ID_TOKEN = {
    "sub": SUB,
    "cognito:username": "alice",
    "email": "alice@example.org",
    "email_verified": True,
    "custom:tenant": "t-1",
    "cognito:groups": ["admins"],
    "exp": 1789999999,
    "token_use": "id",
}
ACCESS_TOKEN = {"sub": SUB, "username": "alice", "client_id": "x", "token_use": "access"}


@pytest.mark.parametrize("token", [ID_TOKEN, ACCESS_TOKEN], ids=["id", "access"])
def test_both_of_cognitos_tokens_name_the_same_user(token: dict[str, object]) -> None:
    assert Identity.from_claims(token) == Identity(sub=SUB, username="alice")


def test_further_claims_are_carried_where_they_are_asked_for_and_there() -> None:
    made = Identity.from_claims(ID_TOKEN, claims=["email", "custom:tenant", "phone_number"])

    assert made.claims == {"email": "alice@example.org", "custom:tenant": "t-1"}


@pytest.mark.parametrize(
    ("verified", "carried"),
    [(True, True), ("true", True), ("True", True), (False, False), ("false", False), (None, False), ("", False)],
)
def test_an_email_that_is_not_verified_is_nobodys(verified: object, carried: bool) -> None:
    made = Identity.from_claims(ID_TOKEN | {"email_verified": verified}, claims=["email"])

    assert ("email" in made.claims) == carried


def test_an_email_of_a_token_that_does_not_speak_of_it_is_carried() -> None:
    assert Identity.from_claims({"sub": "s", "email": "a@example.org"}, claims=["email"]).claims == {
        "email": "a@example.org"
    }


def test_the_claim_of_the_username_may_be_named() -> None:
    token = {"sub": "auth0|1", "nickname": "al", "username": "alice"}

    assert Identity.from_claims(token, username="nickname").username == "al"
    assert Identity.from_claims(token, username="preferred_username").username is None


@pytest.mark.parametrize(
    ("token", "options", "message"),
    [
        ({}, {}, "`sub` is empty"),
        ({"sub": 7}, {}, "claim `sub` is not text"),
        ({"sub": "s", "username": ["alice"]}, {}, "claim `username` is not text"),
        (ID_TOKEN, {"claims": ["cognito:groups"]}, "claim `cognito:groups` is not text"),
        ({"sub": "s", "username": f"{SUB}::alice"}, {}, "`username` holds `::`"),
    ],
)
def test_a_token_that_names_nobody_is_refused(
    token: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidIdentityError) as caught:
        Identity.from_claims(token, **options)  # type: ignore[arg-type]

    assert caught.value.message.startswith(message)
    assert "alice" not in str(caught.value)


@pytest.mark.parametrize(
    "identity", [Identity(sub="s"), Identity(sub="s", username="ü", claims={"email": "a@example.org"})]
)
def test_an_identity_goes_through_json_and_comes_back(identity: Identity) -> None:
    assert Identity.from_dict(json.loads(json.dumps(identity.to_dict()))) == identity


@pytest.mark.parametrize(
    "given",
    [{}, {"sub": "s"}, {"sub": "s", "username": None, "claims": {}, "role": "admin"}, None, "s", [("sub", "s")]],
    ids=str,
)
def test_what_is_no_identity_does_not_come_back(given: object) -> None:
    with pytest.raises(InvalidIdentityError, match="no identity that `to_dict` gave"):
        Identity.from_dict(given)  # type: ignore[arg-type]


def test_what_comes_back_is_checked_as_always() -> None:
    with pytest.raises(InvalidIdentityError, match="holds `::`"):
        Identity.from_dict({"sub": "s", "username": "a::b", "claims": {}})
    with pytest.raises(InvalidIdentityError, match="is not text"):
        Identity.from_dict({"sub": "s", "username": "a", "claims": {"level": 7}})
