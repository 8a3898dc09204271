"""The keys that a database accepts signatures of: listed, added, retired. For their owner; an application never reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.errors import (
    InsufficientPrivilege,
    InvalidSchemaName,
    UndefinedFunction,
    UndefinedTable,
    UniqueViolation,
)
from psycopg.rows import class_row

from rlskit.errors import PlanError, RuntimeVersionError, SigningKeyError
from rlskit.signing import SigningKey


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as a database lists it: its name, and since when it is accepted. Its secret is not read."""

    kid: str
    created_at: datetime


def known(conn: Connection[Any]) -> list[KnownKey]:
    """List the keys whose signatures are accepted, oldest first. Raises RuntimeVersionError and PlanError."""
    return _ask(conn, "select kid, created_at from rlskit.key order by created_at, kid")


def add(conn: Connection[Any], key: SigningKey) -> None:
    """Accept the signatures of ``key`` from now on, beside those of the others.

    Its secret travels as a parameter, so it stands in no statement. Raises SigningKeyError where the name is taken, RuntimeVersionError and PlanError.
    """
    try:
        _ask(conn, "call rlskit.add_key(%s, %s)", key.kid, key.secret)
    except UniqueViolation:
        raise SigningKeyError(f"there is a key `{key.kid}` already", hint="give the new one another name") from None


def retire(conn: Connection[Any], kid: str) -> None:
    """Accept no signature of the key ``kid`` any more, from now on. Raises SigningKeyError where there is none, RuntimeVersionError and PlanError."""
    if not _ask(conn, "delete from rlskit.key where kid = %s returning kid, created_at", kid):
        raise SigningKeyError(f"there is no key `{kid}`", hint="rlskit keys list names them")


def _ask(conn: Connection[Any], statement: str, *parameters: object) -> list[KnownKey]:
    try:
        with conn.transaction(), conn.cursor(row_factory=class_row(KnownKey)) as cursor:
            cursor.execute(statement.encode(), parameters, prepare=False)
            return cursor.fetchall() if cursor.description else []
    except (UndefinedTable, UndefinedFunction, InvalidSchemaName):
        raise RuntimeVersionError(
            "this database has no schema rlskit that knows keys", hint="rlskit apply, or rlskit install"
        ) from None
    except InsufficientPrivilege as error:
        raise PlanError(
            f"the keys are not this login's to see or to change: {error.diag.message_primary}",
            hint="connect as the owner of the schema rlskit",
        ) from error
