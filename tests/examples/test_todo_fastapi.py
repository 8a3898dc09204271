"""The example application over real HTTP: two people at once, tokens that do not count, and a commit that comes before the answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import shlex
import socket
import textwrap
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.types import ASGIApp

import plain_starlette
import rlskit
from rlskit import Identity, as_user
from rlskit.errors import BypassingRoleError
from tests.support import ALICE, BOB, Database, full
from todo_app.app import create_app
from todo_app.auth import caller, verified
from todo_app.database import Connection, Pool, in_the_callers_name, rows
from todo_app.database import Database as Lent
from todo_app.routes import Todo
from todo_app.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "todo_fastapi"
PAGE = ROOT / "docs" / "how-to" / "fastapi.md"

ISSUER, AUDIENCE = "https://issuer.example", "todo"
POOL_SIZE = 3


# --- tokens ----------------------------------------------------------------------------------------------------------


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_set() -> jwt.PyJWKSet:
    """What the identity provider publishes."""
    return jwt.PyJWKSet.from_dict(
        {
            "keys": [
                {"kid": "rsa", **RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True)},
                {"kid": "ec", **ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True)},
            ]
        }
    )


def claims_of(who: Identity, **changed: Any) -> dict[str, Any]:
    """As the provider issues them; a claim that is None is left out."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, "sub": who.sub, "username": who.username}
    return {name: value for name, value in {**claims, **changed}.items() if value is not None}


def token(who: Identity, *, key: Any = None, algorithm: str = "RS256", kid: str | None = "rsa", **changed: Any) -> str:
    headers = {"kid": kid} if kid else {}
    return jwt.encode(claims_of(who, **changed), key or rsa_key(), algorithm=algorithm, headers=headers)


def by_hand(header: Mapping[str, str], claims: Mapping[str, Any], secret: bytes | None) -> str:
    """A token as no library makes it: not signed, or signed with what is no secret."""
    head, body = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, claims))
    signature = hmac.digest(secret, head + b"." + body, hashlib.sha256) if secret else b""
    return b".".join([head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def public_pem() -> bytes:
    return (
        rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


# --- the application at work -------------------------------------------------------------------------------------------


@pytest.fixture
def ruled(database: Database) -> Database:
    """A database with the example's own tables and rules, for the role of this test."""
    database.execute((EXAMPLE / "schema.sql").read_text(encoding="utf-8"))
    rules = tomllib.loads((EXAMPLE / "rlskit.toml").read_text(encoding="utf-8")) | {"role": database.app}
    with database.connect_as_owner() as conn:
        rlskit.plan(conn, rlskit.load(rules)).apply(conn)
    with database.connect_as_app():  # which is refused, were it no ordinary login
        return database


@pytest.fixture
def settings(ruled: Database) -> Settings:
    return Settings(database_url=ruled.app_dsn, keys=key_set(), issuer=ISSUER, audience=AUDIENCE, pool_size=POOL_SIZE)


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve it on a free port of the loopback, and stop it by its own handle."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@dataclass(frozen=True)
class Client:
    """What a person's browser does: a token with every request."""

    base_url: str
    who: Identity | None
    token: str | None = field(default=None, repr=False)

    @property
    def options(self) -> dict[str, Any]:
        bearer = self.token or (token(self.who) if self.who else None)
        return {
            "base_url": self.base_url,
            "headers": {"Authorization": f"Bearer {bearer}"} if bearer else {},
            "timeout": 30,
        }

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        with httpx.Client(**self.options) as client:
            return client.request(method, path, **({"json": body} if body else {}))

    def get(self, path: str) -> Any:
        response = self.ask("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def make(self, path: str, **body: Any) -> Any:
        response = self.ask("POST", path, **body)
        assert response.status_code == 201, response.text
        return response.json()


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as address:
        yield address


@pytest.fixture
def alice(url: str) -> Client:
    return Client(url, ALICE)


@pytest.fixture
def bob(url: str) -> Client:
    return Client(url, BOB)


@pytest.fixture
def guest(url: str) -> Client:
    return Client(url, None)


# --- who sees what -----------------------------------------------------------------------------------------------------


def test_two_people_at_once_see_each_their_own(alice: Client, bob: Client, ruled: Database) -> None:
    """Many more requests than connections, interleaved; whatever one made, the other cannot reach meanwhile."""

    async def work(number: int, mine: httpx.AsyncClient, others: httpx.AsyncClient, name: str) -> None:
        made = await mine.post("/todos", json={"content": f"{name} {number}"})
        assert made.status_code == 201, made.text
        path = f"/todos/{made.json()['id']}"
        statuses = await asyncio.gather(
            mine.get(path),
            others.get(path),
            others.patch(path, json={"content": "taken over"}),
            others.delete(path),
            mine.patch(path, json={"done": True}),
        )
        assert [each.status_code for each in statuses] == [200, 404, 404, 404, 200]
        for client, own in ((mine, name), (others, {"alice": "bob", "bob": "alice"}[name])):
            listed = (await client.get("/todos")).json()
            assert {each["content"].split()[0] for each in listed} <= {own}

    async def scenario() -> None:
        async with httpx.AsyncClient(**alice.options) as a, httpx.AsyncClient(**bob.options) as b:
            await asyncio.gather(
                *(work(each, a, b, "alice") if each % 2 else work(each, b, a, "bob") for each in range(24))
            )

    asyncio.run(asyncio.wait_for(scenario(), 120))
    assert ruled.rows("select owner, count(*), bool_and(done), bool_or(content = 'taken over') from todo group by 1 order by 1") == [
        (full(ALICE), 12, True, False),
        (full(BOB), 12, True, False),
    ]  # fmt: skip


def test_a_todo_that_was_deleted_is_gone(alice: Client) -> None:
    path = f"/todos/{alice.make('/todos', content='milk')['id']}"

    assert [alice.ask("DELETE", path).status_code for _ in range(2)] == [204, 404]


def test_a_checklist_is_shared_and_unshared(alice: Client, bob: Client) -> None:
    path = f"/checklists/{alice.make('/checklists', title='party')['id']}"
    before = bob.ask("GET", path).status_code
    shared = alice.ask("PUT", f"{path}/editors/{bob.get('/me')['sub']}").json()
    changed = bob.ask("PATCH", path, entries=["cake"])
    alice.ask("DELETE", f"{path}/editors/{BOB.sub}")

    assert (before, shared["editors"], bob.ask("GET", path).status_code) == (404, [BOB.sub], 404)
    assert changed.json() == {**shared, "entries": ["cake"]} == {**alice.get(path), "editors": [BOB.sub]}


def test_a_checklist_is_not_shared_by_a_username_that_may_be_somebody_elses_tomorrow(
    alice: Client, bob: Client
) -> None:
    path = f"/checklists/{alice.make('/checklists', title='party')['id']}"
    alice.ask("PUT", f"{path}/editors/bob")

    assert bob.ask("GET", path).status_code == 404


def test_a_guest_reads_what_is_open_and_nothing_else(guest: Client) -> None:
    refused = guest.ask("GET", "/todos")

    assert guest.get("/categories") == [{"name": "errand"}, {"name": "home"}, {"name": "work"}]
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_who_has_no_name_owns_nothing(url: str) -> None:
    nameless = Client(url, ALICE, token(ALICE, username=None))
    refused = nameless.ask("POST", "/todos", content="whose?")

    assert (nameless.get("/todos"), refused.status_code, refused.json()["code"]) == ([], 403, "E501")


STATEMENTS = {
    "E503": (403, "update todo set owner = 'b2e1::bob' where content = 'secret'"),
    "E503 twice": (403, "insert into todo (content, owner) values ('secret', 'a1f0::alice')"),
    "E502": (403, "update checklist set title = 'secret'"),
    "E501": (403, "insert into strict (content, owner) values ('secret', 'bob')"),
    "E600": (404, "delete from todo where content = 'secret of somebody'"),
    "23503": (409, "update todo set category = 'secret'"),
    "23502": (409, "update todo set content = null"),
    "23505": (409, "insert into unruled (content) values ('secret')"),
}


def test_a_refusal_has_its_status_and_tells_neither_names_nor_values(ruled: Database, settings: Settings) -> None:
    """Also the refusals that no route of the example can provoke."""
    ruled.execute(
        "create table strict (content text, owner text)",
        "create table unruled (content text unique)",  # of which PostgreSQL would quote the row
        "insert into unruled values ('secret')",
        f"grant select, insert on unruled to {ruled.app}",
    )
    rules = tomllib.loads((EXAMPLE / "rlskit.toml").read_text(encoding="utf-8")) | {"role": ruled.app}
    rules["tables"]["strict"] = {"allow": [{"owner": "owner"}]}
    with ruled.connect_as_owner() as conn:
        rlskit.plan(conn, rlskit.load(rules)).apply(conn)
    app = create_app(settings)

    @app.post("/statements/{name}")
    async def perform(name: str, db: Lent) -> None:
        rlskit.expect_row(await db.execute(STATEMENTS[name][1].encode()))

    with serving(app) as url:
        alice, bob = Client(url, ALICE), Client(url, BOB)
        alice.make("/todos", content="secret")
        bob.ask("PUT", f"/checklists/{bob.make('/checklists', title='secret')['id']}/editors/{ALICE.sub}")
        answers = {name: alice.ask("POST", f"/statements/{name}") for name in STATEMENTS}

    assert {name: (each.status_code, each.json()["code"]) for name, each in answers.items()} == {
        name: (status, name.split()[0]) for name, (status, _) in STATEMENTS.items()
    }
    for each in answers.values():
        assert each.json().keys() <= {"detail", "code", "hint"}
        assert not re.search("secret|todo|checklist|strict|unruled|title|constraint|permission|alice|bob", each.text)


BODIES = {
    "an owner of one's choice": {"content": "milk", "owner": "bob"},
    "no content": {"content": ""},
    "a character that PostgreSQL cannot hold": {"content": "a\0b"},
    "a content that is no text": {"content": None},
}


def test_a_body_that_cannot_be_meant_is_refused(alice: Client) -> None:
    path = f"/todos/{alice.make('/todos', content='milk')['id']}"

    assert {name: alice.ask("POST", "/todos", **body).status_code for name, body in BODIES.items()} == dict.fromkeys(
        BODIES, 422
    )
    assert {name: alice.ask("PATCH", path, **body).status_code for name, body in BODIES.items()} == dict.fromkeys(
        BODIES, 422
    )
    assert httpx.patch(alice.base_url + path, json={}, headers=alice.options["headers"]).status_code == 422
    assert [each["content"] for each in alice.get("/todos")] == ["milk"]


def test_who_waits_too_long_for_a_connection_is_told_to_come_again(settings: Settings, ruled: Database) -> None:
    app = create_app(settings)

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        ):
            app.state.pool.timeout = 0.2
            taken = [await app.state.pool.getconn() for _ in range(POOL_SIZE)]
            response = await client.get("/categories")
            for each in taken:
                await app.state.pool.putconn(each)
            return response

    response = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


# --- tokens that do not count ------------------------------------------------------------------------------------------


FORGED: dict[str, Callable[[], str]] = {
    "expired": lambda: token(ALICE, exp=time.time() - 60),
    "not yet": lambda: token(ALICE, nbf=time.time() + 60),
    "for somebody else": lambda: token(ALICE, aud="another"),
    "by somebody else": lambda: token(ALICE, iss="https://another.example"),
    "for ever": lambda: token(ALICE, exp=None),
    "for everybody": lambda: token(ALICE, aud=None),
    "by nobody": lambda: token(ALICE, iss=None),
    "about nobody": lambda: token(ALICE, sub=None),
    "about a name that spells another's": lambda: token(ALICE, username="b2e1::bob"),
    "about two": lambda: token(ALICE, username=["alice", "bob"]),
    "not signed": lambda: by_hand({"alg": "none", "kid": "rsa"}, claims_of(ALICE), None),
    "signed with the public key": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, claims_of(ALICE), public_pem()),
    "signed with the wrong key": lambda: token(ALICE, key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "signed with an unknown key": lambda: token(ALICE, kid="another"),
    "signed with a key that it does not name": lambda: token(ALICE, kid=None),
    "signed otherwise than the key": lambda: token(ALICE, key=ec_key(), algorithm="ES256"),
    "signed with an algorithm that is not ours": lambda: token(ALICE, algorithm="RS384"),
    "cut": lambda: token(ALICE)[:-1],
    "with another body": lambda: ".".join(
        [token(ALICE).split(".")[0], token(BOB).split(".")[1], token(ALICE).split(".")[2]]
    ),
    "no token": lambda: "milk",
}  # fmt: skip


def test_a_token_that_does_not_count_is_refused(url: str, guest: Client) -> None:
    answers = {name: Client(url, None, make()).ask("GET", "/todos") for name, make in FORGED.items()}
    answers["another scheme"] = httpx.get(f"{url}/todos", auth=("alice", "secret"))

    assert {name: each.status_code for name, each in answers.items()} == dict.fromkeys(answers, 401)
    assert {each.headers["WWW-Authenticate"] for name, each in answers.items() if name != "another scheme"} == {
        'Bearer error="invalid_token"'
    }
    assert {each.text for each in answers.values()} == {guest.ask("GET", "/todos").text}


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_token_of_either_key_counts(kid: str, url: str) -> None:
    key, algorithm = {"rsa": (rsa_key(), "RS256"), "ec": (ec_key(), "ES256")}[kid]
    client = Client(url, None, token(ALICE, key=key, algorithm=algorithm, kid=kid))

    assert client.get("/me") == {"sub": ALICE.sub, "username": "alice"}


COGNITO: dict[str, dict[str, Any]] = {
    "id": {"token_use": "id", "username": None, "cognito:username": "alice"},
    "access": {"token_use": "access", "aud": None, "client_id": AUDIENCE},
    "access of another": {"token_use": "access", "aud": None, "client_id": "another"},
    "access with an audience": {"token_use": "access", "aud": AUDIENCE},
    "neither": {},
}


@pytest.mark.parametrize("use", ["id", "access"])
def test_of_cognitos_two_tokens_the_one_counts_that_was_asked_for(use: str) -> None:
    settings = Settings(database_url="", keys=key_set(), issuer=ISSUER, audience=AUDIENCE, token_use=use)
    counted = {}
    for name, claims in COGNITO.items():
        try:
            counted[name] = Identity.from_claims(verified(token(ALICE, **claims), settings)).username
        except jwt.PyJWTError:
            continue

    assert counted == {use: "alice"}


def test_a_signature_that_the_provider_never_makes_does_not_count_whatever_its_keys_are() -> None:
    secret = base64.urlsafe_b64encode(b"a secret among the public keys, by mistake").rstrip(b"=").decode()
    keys = jwt.PyJWKSet.from_dict({"keys": [{"kty": "oct", "k": secret, "kid": "oct"}]})
    settings = Settings(database_url="", keys=keys, issuer=ISSUER, audience=AUDIENCE)
    with pytest.raises(jwt.InvalidAlgorithmError):
        verified(token(ALICE, key=keys["oct"].key, algorithm="HS256", kid="oct"), settings)


# --- the commit comes before the answer --------------------------------------------------------------------------------


AT_COMMIT = "alter table todo add constraint once unique (content) deferrable initially deferred"


def test_a_commit_that_fails_is_told_to_the_client(alice: Client, ruled: Database) -> None:
    ruled.execute(AT_COMMIT)
    answers = [alice.ask("POST", "/todos", content="milk") for _ in range(2)]

    assert [each.status_code for each in answers] == [201, 409]
    assert (answers[1].json()["code"], "milk" in answers[1].text) == ("23505", False)
    assert len(alice.get("/todos")) == 1


def test_what_was_answered_is_there(alice: Client, ruled: Database) -> None:
    """However long the commit takes."""
    ruled.execute(
        "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return null; end'",
        "create constraint trigger slow after insert on todo deferrable initially deferred"
        " for each row execute function slow()",
    )
    alice.make("/todos", content="milk")

    assert ruled.rows("select content from todo") == [("milk",)]


def test_without_the_scope_a_client_would_be_told_what_did_not_happen(settings: Settings, ruled: Database) -> None:
    """What the page warns of, as FastAPI does it; were it otherwise, the page would have to say so."""
    ruled.execute(AT_COMMIT)
    app = create_app(settings)

    @app.post("/trapped", status_code=201)
    async def create(db: Annotated[Connection, Depends(in_the_callers_name)]) -> None:
        await db.execute("insert into todo (content) values ('milk')")

    with serving(app) as url:
        answers = [Client(url, ALICE).ask("POST", "/trapped").status_code for _ in range(2)]

    assert (answers, ruled.rows("select count(*) from todo")) == ([201, 201], [(1,)])


def test_a_route_that_raises_has_done_nothing(settings: Settings, ruled: Database) -> None:
    app = create_app(settings)

    @app.post("/teapots")
    async def create(db: Lent) -> None:
        await db.execute("insert into todo (content) values ('tea')")
        raise HTTPException(418)

    with serving(app) as url:
        assert Client(url, ALICE).ask("POST", "/teapots").status_code == 418
    assert ruled.rows("select * from todo") == []


# --- connections ---------------------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_leaves_nothing_on_the_connection(settings: Settings, ruled: Database) -> None:
    """One connection for everybody: whatever the one left on it, the next would find."""
    with serving(create_app(replace(settings, pool_size=1))) as url:
        alice, bob = Client(url, ALICE), Client(url, BOB)
        path = f"/todos/{alice.make('/todos', content='milk')['id']}"
        with ruled.connect() as holding:
            holding.execute("select from todo for update")
            calling = started(alice, "PATCH", path, b'{"done": true}')
            until(
                lambda: ruled.rows(
                    "select from pg_stat_activity where usename = %s and wait_event_type = 'Lock'", [ruled.app]
                )
            )
            calling.close()
        started(alice, "PATCH", path, b'{"done": fal', length=100).close()

        assert (bob.get("/todos"), bob.get("/me")["sub"]) == ([], BOB.sub)
        assert ruled.rows("select done from todo") == [
            (True,)
        ]  # who hangs up does not undo: the route went on to its end
        until(lambda: sessions(ruled) == [("idle", "discard all")])


def started(client: Client, method: str, path: str, body: bytes, length: int | None = None) -> socket.socket:
    """A request that was sent, perhaps not to its end, and whose answer nobody has read."""
    address = httpx.URL(client.base_url)
    made = socket.create_connection((address.host, address.port))
    head = f"{method} {path} HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}\r\n"
    made.sendall(f"{head}Authorization: {client.options['headers']['Authorization']}\r\n\r\n".encode() + body)
    return made


def sessions(database: Database) -> list[tuple[Any, ...]]:
    return database.rows(
        "select state, split_part(query, ' --', 1) from pg_stat_activity where usename = %s", [database.app]
    )


@pytest.mark.parametrize("login", ["superuser_dsn", "owner_dsn"])
def test_an_application_whose_login_no_rule_binds_does_not_start(
    login: str, settings: Settings, ruled: Database
) -> None:
    app = create_app(replace(settings, database_url=getattr(ruled, login)))

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it runs")

    with pytest.raises(BypassingRoleError):
        asyncio.run(asyncio.wait_for(scenario(), 60))


# --- what the pages show -------------------------------------------------------------------------------------------------


def test_a_test_of_ones_own_puts_somebody_in_the_place_of_the_token(settings: Settings) -> None:
    def run(scenario: Callable[[FastAPI], Awaitable[None]]) -> None:
        asyncio.run(asyncio.wait_for(scenario(create_app(settings)), 60))

    async def scenario(app: FastAPI) -> None:
        app.dependency_overrides[caller] = lambda: Identity(sub="77aa", username="bob")  # in place of a token
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),  # opens the pool, as an ordinary login
            httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        ):
            assert (await client.post("/todos", json={"content": "milk"})).status_code == 201
            assert (await client.get("/todos")).json()[0]["content"] == "milk"

    run(scenario)


def test_what_runs_after_the_answer_opens_a_block_of_its_own(settings: Settings) -> None:
    app, counted = create_app(settings), []

    async def count(pool: Pool, identity: Identity) -> None:
        async with as_user(pool, identity) as conn:
            counted.append(await rows(conn, Todo, "select id, content, done, category from todo"))

    @app.post("/count")
    async def start(request: Request, identity: Annotated[Identity, Depends(caller)], tasks: BackgroundTasks) -> None:
        tasks.add_task(count, request.app.state.pool, identity)

    with serving(app) as url:
        for who in (ALICE, BOB):
            Client(url, who).make("/todos", content=f"{who.username}'s")
            assert Client(url, who).ask("POST", "/count").status_code == 200
            until(lambda who=who: counted and counted[-1][0].content == f"{who.username}'s")

    assert [len(each) for each in counted] == [1, 1]


def test_starlette_alone_answers_the_same(settings: Settings, ruled: Database) -> None:
    ruled.execute(AT_COMMIT)
    with serving(plain_starlette.create_app(settings)) as url:
        answers = [Client(url, ALICE).ask("POST", "/todos", content="milk") for _ in range(2)]
        refused = [
            Client(url, None).ask("POST", "/todos", content="milk"),
            Client(url, ALICE, token(ALICE, username=None)).ask("POST", "/todos", content="whose?"),
        ]

    assert [each.status_code for each in answers + refused] == [201, 409, 401, 403]
    assert ruled.rows("select content, owner from todo") == [("milk", full(ALICE))]


def test_the_readmes_requests_have_the_readmes_answers(settings: Settings) -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    asked = re.findall(r"^\$ ask (.*)\n(.*)", readme, re.MULTILINE)
    people = {"$ALICE": Identity(sub="5d1c", username="alice"), "$BOB": Identity(sub="77aa", username="bob")}
    with serving(create_app(settings)) as url:
        given = [(line, answered(url, people, *shlex.split(line))) for line, _ in asked]

    assert given == asked
    assert len(asked) > 8


def answered(url: str, people: Mapping[str, Identity], who: str, path: str, *rest: str) -> str:
    """As the README's `ask` prints it, with curl's words: `--json` makes it a POST, `-X` something else."""
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    body = json.loads(options["--json"]) if "--json" in options else {}
    method = options.get("-X", "POST" if body else "GET")
    response = Client(url, people.get(who)).ask(method, path, **body)
    return f"{response.text} {response.status_code}"


def test_the_pages_code_is_the_examples() -> None:
    blocks = re.findall(r"```(python|toml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    sources = [
        path.read_text(encoding="utf-8") for path in (*EXAMPLE.rglob("*.py"), *EXAMPLE.glob("*.toml"), Path(__file__))
    ]
    elsewhere = [
        part
        for _, block in blocks
        for part in block.split("\n\n\n")
        if not any(
            textwrap.indent(part.strip("\n"), indent) in each for each in sources for indent in ("", " " * 4, " " * 8)
        )
    ]

    assert len(blocks) > 5
    assert elsewhere == []


def test_a_link_of_the_pages_leads_somewhere() -> None:
    links = [
        (page, target)
        for page in (PAGE, EXAMPLE / "README.md")
        for target in re.findall(r"\]\((?!https://)([^)#]+)", page.read_text(encoding="utf-8"))
    ]

    assert links
    assert [target for page, target in links if not (page.parent / target).exists()] == []
