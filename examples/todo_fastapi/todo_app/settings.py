"""What an installation of the application has to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jwt import PyJWKSet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the database is, and whose tokens count.

    ``database_url`` is of the application's ordinary login, which owns nothing. ``keys`` are the public keys of the identity provider,
    ``issuer`` its address as its tokens have it, ``audience`` the client for which they are issued. ``token_use`` is for Cognito, which issues
    two kinds of tokens: "id" or "access", and None elsewhere.
    """

    database_url: str = field(repr=False)
    keys: PyJWKSet
    issuer: str
    audience: str
    token_use: str | None = None
    pool_size: int = 10

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read ``DATABASE_URL``, ``TOKEN_KEYS`` (a file), ``TOKEN_ISSUER``, ``TOKEN_AUDIENCE``, perhaps ``TOKEN_USE``, ``POOL_SIZE``."""
        return cls(
            database_url=environment["DATABASE_URL"],
            keys=PyJWKSet.from_json(Path(environment["TOKEN_KEYS"]).read_text(encoding="utf-8")),
            issuer=environment["TOKEN_ISSUER"],
            audience=environment["TOKEN_AUDIENCE"],
            token_use=environment.get("TOKEN_USE"),
            pool_size=int(environment.get("POOL_SIZE", "10")),
        )
