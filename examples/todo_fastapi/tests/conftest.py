"""The application on the test's own database. Who asks is whom the token names, and here a token is a name."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials
from httpx import ASGITransport, AsyncClient
from jwt import PyJWKSet

from rlskit import Identity
from rlskit.testing import person
from todo_app.app import create_app
from todo_app.auth import bearer, caller
from todo_app.settings import Settings

NO_PROVIDER = {"keys": PyJWKSet.from_dict({"keys": [{"kty": "oct", "k": "bm9uZQ"}]}), "issuer": "", "audience": ""}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def app(rlskit_db):
    """With a pool of its own, as it has in production: the DSN is an ordinary login's."""
    made = create_app(Settings(database_url=rlskit_db.dsn, pool_size=2, **NO_PROVIDER))
    made.dependency_overrides[caller] = named
    async with made.router.lifespan_context(made):
        yield made


def named(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> Identity:
    return person(credentials.credentials)


@pytest.fixture
def browser(app):
    """``browser("alice")`` asks the application in her name."""

    def opened(who):
        return AsyncClient(
            transport=ASGITransport(app), base_url="http://todo", headers={"Authorization": f"Bearer {who}"}
        )

    return opened
