"""The same without FastAPI: a route opens its block by itself, and answers after it. ``uvicorn --factory plain_starlette:create_app``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rlskit import Identity, as_user
from todo_app.auth import identified
from todo_app.database import opened_pool, row
from todo_app.errors import ANSWERED, answer
from todo_app.routes import Todo
from todo_app.settings import Settings


def caller(request: Request) -> Identity:
    """Whoever the request's token is about."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return identified(token if scheme.lower() == "bearer" else None, request.app.state.settings)


async def create_todo(request: Request) -> JSONResponse:
    """The response is made after the block, and so after the commit."""
    new = await request.json()
    async with as_user(request.app.state.pool, caller(request)) as conn:
        query = "insert into todo (content) values (%s) returning id, content, done, category"
        made = await row(conn, Todo, query, [new["content"]])
    return JSONResponse(made.model_dump(), 201)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the pool before the first request, and close it after the last."""
    async with opened_pool(app.state.settings) as app.state.pool:
        yield


def create_app(settings: Settings | None = None) -> Starlette:
    """The application with these settings, or with those of the environment."""
    app = Starlette(routes=[Route("/todos", create_todo, methods=["POST"])], lifespan=lifespan)
    app.state.settings = settings or Settings.from_environment(os.environ)
    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)
    return app
