"""The application, put together: ``uvicorn --factory todo_app.app:create_app``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from todo_app.database import opened_pool
from todo_app.errors import ANSWERED, answer
from todo_app.routes import router
from todo_app.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with these settings, or with those of the environment."""
    app = FastAPI(title="Todos", lifespan=lifespan)
    app.state.settings = settings or Settings.from_environment(os.environ)
    app.include_router(router)
    # Also for what a dependency raises at its end, as as_user does: it ends before the response is sent.
    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool before the first request, and close it after the last."""
    async with opened_pool(app.state.settings) as app.state.pool:
        yield
