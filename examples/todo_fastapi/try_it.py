"""The application on a throwaway PostgreSQL, with tokens for alice and bob: ``python try_it.py``. For trying out, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jwt
import psycopg
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from psycopg.conninfo import make_conninfo

import rlskit
import rlskit.server
from todo_app.app import create_app
from todo_app.settings import Settings

HERE = Path(__file__).parent
PORT = int(os.environ.get("PORT", "8000"))
ISSUER, AUDIENCE = "https://issuer.example", "todo"
PEOPLE = {"alice": "5d1c", "bob": "77aa"}


def prepare(dsn: str) -> str:
    """Make the login, the tables and the rules, as the owner of the tables; return the application's DSN."""
    with psycopg.connect(dsn) as conn:
        conn.execute("create role todo_app login")
        conn.execute((HERE / "schema.sql").read_bytes())
        conn.commit()
        rlskit.plan(conn, rlskit.load(HERE / "rlskit.toml")).apply(conn)
    return make_conninfo(dsn, user="todo_app")


def token(key: ec.EllipticCurvePrivateKey, username: str, sub: str) -> str:
    """What an identity provider would issue; it holds for an hour."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 3600, "sub": sub, "username": username}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": "try"})


def main() -> None:
    """Serve until Ctrl-C."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = {"kid": "try", **json.loads(ECAlgorithm.to_jwk(key.public_key()))}
    with rlskit.server.start() as running:
        settings = Settings(
            database_url=prepare(running.dsn),
            keys=jwt.PyJWKSet.from_dict({"keys": [public]}),
            issuer=ISSUER,
            audience=AUDIENCE,
        )
        for username, sub in PEOPLE.items():
            print(f"export {username.upper()}={token(key, username, sub)}")
        uvicorn.run(create_app(settings), port=PORT)


if __name__ == "__main__":
    main()
