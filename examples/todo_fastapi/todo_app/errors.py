"""What a client is told when the database says no."""

from __future__ import annotations

import logging

import psycopg
from fastapi import Request
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout

from rlskit import NotVisible
from rlskit.denials import Denied

log = logging.getLogger(__name__)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The response to what left a route or, with the commit, its dependency.

    A client gets the code, and rlskit's hint, which is a fixed sentence. It does not get PostgreSQL's message, which names tables and columns,
    and may be in the server's language, nor its detail, which quotes rows where no row security is. The log gets the message.
    """
    match error:
        case Denied():
            # TableDenied is seldom the caller's fault: a statement asks for more than the rules ever give. That should be looked at.
            log.warning("%s %s: %s %s", request.method, request.url.path, error.code, error.message)
            return _problem(403, "you may not do this", code=error.code, hint=error.hint)
        case NotVisible():
            # Of another's row, and of none at all. To answer 403 to the one would tell that it exists.
            return _problem(404, "no such thing, or not yours", code=error.code, hint=error.hint)
        case psycopg.IntegrityError():
            log.info("%s %s: %s %s", request.method, request.url.path, error.sqlstate, error.diag.constraint_name)
            return _problem(409, "this does not go with what is there", code=error.sqlstate)
        case psycopg.DataError():
            return _problem(422, "the database cannot hold this value")
        case PoolTimeout():
            return _problem(503, "too busy, try again", headers={"Retry-After": "5"})
    raise error


ANSWERED = (Denied, NotVisible, psycopg.IntegrityError, psycopg.DataError, PoolTimeout)


def _problem(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: str | None) -> JSONResponse:
    return JSONResponse({"detail": detail, **more}, status, headers)
