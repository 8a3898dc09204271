"""The pool, and what lends a connection of it to a request: in the name of its caller, or of nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, LiteralString, TypeAlias, TypeVar

from fastapi import Depends, Request
from psycopg import AsyncConnection
from psycopg.abc import Params
from psycopg.rows import class_row
from psycopg.sql import Composed
from psycopg_pool import AsyncConnectionPool

import rlskit
from rlskit import Identity, as_nobody, as_user
from todo_app.auth import caller
from todo_app.settings import Settings

Connection: TypeAlias = AsyncConnection[Any]
Pool: TypeAlias = AsyncConnectionPool[Connection]
Query: TypeAlias = LiteralString | Composed  # no text that was put together: values are parameters
Model = TypeVar("Model")


@asynccontextmanager
async def opened_pool(settings: Settings) -> AsyncIterator[Pool]:
    """The application's connections, for as long as it runs."""
    async with AsyncConnectionPool(
        settings.database_url,
        max_size=settings.pool_size,
        min_size=min(4, settings.pool_size),
        timeout=10,  # seconds that a request waits for a connection; then it is answered with 503
        reset=rlskit.scrub,  # each that comes back: nothing of one user's session reaches the next
        open=False,
    ) as pool:
        # A login that no rule binds ends the application here, and says why.
        await rlskit.guard(pool)
        yield pool


async def in_the_callers_name(
    request: Request, identity: Annotated[Identity, Depends(caller)]
) -> AsyncIterator[Connection]:
    """One transaction in which the caller asks. It commits when the route has returned, and rolls back when the route raises."""
    async with as_user(request.app.state.pool, identity) as conn:
        yield conn


async def in_nobodys_name(request: Request) -> AsyncIterator[Connection]:
    """The same for a guest: nobody sees what is open to everybody, and no row that is somebody's."""
    async with as_nobody(request.app.state.pool) as conn:
        yield conn


# With scope="function" a dependency ends before the response is sent. Without it (scope="request", the default since FastAPI 0.118) it ends
# afterwards: the client would be told 201 although the commit may still fail, could ask for its row before it is there, and would keep
# the connection for as long as it takes to read the response.
# So what runs after the response (a background task, the body of a StreamingResponse) must not use the connection: by then it may be asking for
# somebody else. It opens a block of its own, `async with as_user(pool, identity)`.
Database = Annotated[Connection, Depends(in_the_callers_name, scope="function")]
GuestDatabase = Annotated[Connection, Depends(in_nobodys_name, scope="function")]


async def rows(conn: Connection, model: type[Model], query: Query, parameters: Params | None = None) -> list[Model]:
    """All rows that the statement gives, each as a ``model``."""
    async with conn.cursor(row_factory=class_row(model)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


async def row(conn: Connection, model: type[Model], query: Query, parameters: Params | None = None) -> Model:
    """The one row that the statement gives. Raises NotVisible where there is none, and so the client gets a 404."""
    async with conn.cursor(row_factory=class_row(model)) as cursor:
        found = await rlskit.expect_row(await cursor.execute(query, parameters)).fetchone()
        assert found is not None
        return found
