"""Where probes are performed: in one transaction that is rolled back, or on an ordinary login's own connection."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from psycopg import ClientCursor, Connection, DatabaseError
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import scalar_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from rlskit import attempts, ddl, keyring, prelude
from rlskit.attempts import Answer
from rlskit.errors import BypassingRoleError, PlanError
from rlskit.names import QualifiedName
from rlskit.prelude import Asker
from rlskit.prover.cells import Probe
from rlskit.prover.people import Person
from rlskit.signing import SigningKey

MADE = "rlskit_proof_"  # what the names of logins and databases begin with that a proof makes
_SAVEPOINT = "savepoint rlskit_probe"
_CONNECTED = _SAVEPOINT + "; select pg_catalog.set_config('session_authorization', %s, true)"
_PLACE = SQL(  # a statement that goes by a cursor looks for every partition in it
    "reset session authorization; set local enable_partition_pruning = off; set local constraint_exclusion = off; declare rlskit_row cursor for {}; move next from rlskit_row; "
    "select pg_catalog.set_config('session_authorization', {}, true)"
)
_RAW = "select pg_catalog.set_config(name, value, true) from unnest(%s::text[], %s::text[]) as said (name, value)"


@dataclass(frozen=True, slots=True)
class Performed:
    """What became of a probe. ``ready`` is whether what goes before it succeeded, ``kept`` whether its owners are stored as they have to be."""

    answer: Answer
    ready: bool = True
    kept: bool = True


class Stage(Protocol):
    """Where a probe is performed. What it did is undone afterwards."""

    def perform(self, probe: Probe) -> Performed:
        """Perform the probe as its person. Raises what the server raises for anything but an access."""


class TransactionStage:
    """The transaction of one connection that bypasses row security: each probe asks in a savepoint, under another session authorization.

    The logins are made in that transaction, and are gone with it: an ordinary one in ``role``, and one for each owner of a table, which has his
    rights and is bound as he is, be he a superuser. ``owners`` names who owns each table; ``signed`` says whether identities have to be signed: by
    a key that is made in the transaction as well. Raises PlanError where ``conn`` may not do all that.
    """

    def __init__(
        self, conn: Connection[Any], role: str, owners: Mapping[QualifiedName, str], *, signed: bool = False
    ) -> None:
        self._conn, self._owners = conn, owners
        self._bypassing = str(conn.cursor(row_factory=scalar_row).execute("select session_user").fetchone())
        self._key = SigningKey.generate(MADE + secrets.token_hex(4)) if signed else None
        try:
            if self._key is not None:
                keyring.add(conn, self._key)
            self._ordinary = self._make_login(role)
            self._like_owners = {owner: self._make_login(owner) for owner in sorted({*owners.values()})}
            for schema, owner in sorted({(table.schema, owner) for table, owner in owners.items()}):
                self._let_in(schema, self._like_owners[owner])
            self._check_ordinary()
        except InsufficientPrivilege as error:
            raise PlanError(
                f"`{conn.info.user}` may not make a login to ask with: {error.diag.message_primary}",
                hint="a proof needs a superuser: it stores rows past the rules and asks as logins that it makes, all in one transaction that is rolled back",
            ) from error

    def perform(self, probe: Probe) -> Performed:
        """Perform the probe as its person. Raises what the server raises for anything but an access."""
        watched = probe.afterwards is not None
        already = self._count(probe) if watched and probe.attempt.operation == "create" else 0
        login = self._login_of(probe)
        try:
            say(self._conn, probe.person, self._key, login=login)
            performed = _prepared(self._conn, probe)
            if performed is None:
                self._place(probe, login)
                performed = Performed(attempts.make(self._conn, probe.attempt, keep=watched))
            if watched and performed.answer.outcome == "allowed":
                self._finish()
                self._conn.execute("reset session authorization")
                return replace(performed, kept=self._count(probe) == already + 1)
            return performed
        finally:
            self._conn.execute("rollback to rlskit_probe; release rlskit_probe")

    def _finish(self) -> None:
        """Let deferred triggers do now what they would do to the row when it is committed. What they refuse is never committed, and gives nothing away."""
        with suppress(DatabaseError), self._conn.transaction():
            self._conn.execute("set constraints all immediate")

    def _place(self, probe: Probe, login: str) -> None:
        """Put the cursor on the row of an attempt that is blind, past the rules."""
        if probe.attempt.blind:
            self._conn.execute(_PLACE.format(probe.attempt.row, Literal(login)))

    def _login_of(self, probe: Probe) -> str:
        match probe.person.login:
            case "ordinary":
                return self._ordinary
            case "owner":
                return self._like_owners[self._owners[probe.attempt.table]]
            case "bypassing":
                return self._bypassing

    def _make_login(self, role: str) -> str:
        """A login that is in the role."""
        name = MADE + secrets.token_hex(6)
        self._conn.execute(SQL("create role {} login in role {}").format(Identifier(name), Identifier(role)))
        return name

    def _let_in(self, schema: str, login: str) -> None:
        """Who owns a table may still lack the way to it. Where he has it nothing is granted, which would hold others up who grant something."""
        query = "select has_schema_privilege(%s, %s, 'usage')"
        if not self._conn.cursor(row_factory=scalar_row).execute(query, [login, schema]).fetchone():
            self._conn.execute(SQL("grant usage on schema {} to {}").format(Identifier(schema), Identifier(login)))

    def _check_ordinary(self) -> None:
        """Raise BypassingRoleError unless row security binds whoever asks. A proof that asks as a superuser proves nothing."""
        with self._conn.transaction(force_rollback=True):
            self._conn.execute("select set_config('session_authorization', %s, true)", [self._ordinary])
            bound = (
                self._conn.cursor(row_factory=scalar_row)
                .execute(
                    "select session_user = %s and current_user = session_user and not rolsuper and not rolbypassrls"
                    " and current_setting('is_superuser') = 'off' and current_setting('row_security') = 'on'"
                    " from pg_catalog.pg_roles where rolname = current_user",
                    [self._ordinary],
                )
                .fetchone()
            )
        if not bound:
            raise BypassingRoleError(
                "the connection cannot ask as an ordinary login, so a proof on it would mean nothing",
                hint="connect as a superuser, and leave row_security on",
            )

    def _count(self, probe: Probe) -> int:
        query = stored_as(probe)
        return int(self._conn.cursor(row_factory=scalar_row).execute(query).fetchone() or 0)


@dataclass(frozen=True, slots=True)
class LoginStage:
    """Two connections: an ordinary login's own, on which everybody asks, and one that bypasses row security, for the others and for what is blind.

    The rows have to be committed. ``key`` signs where identities have to be signed. The owners of a create or an update are not looked at: nobody
    else sees what is never committed.
    """

    ordinary: Connection[Any]
    privileged: TransactionStage
    key: SigningKey | None = None

    def perform(self, probe: Probe) -> Performed:
        """Perform the probe as its person, in a transaction that is rolled back. Raises what the server raises for anything but an access."""
        if probe.person.login != "ordinary" or probe.attempt.blind:
            return self.privileged.perform(probe)
        with self.ordinary.transaction(force_rollback=True):
            say(self.ordinary, probe.person, self.key)
            return _prepared(self.ordinary, probe) or Performed(attempts.make(self.ordinary, probe.attempt))


def _prepared(conn: Connection[Any], probe: Probe) -> Performed | None:
    """Make and keep what goes before; None where all of it succeeded."""
    for each in probe.before:
        answer = attempts.make(conn, each, keep=True)
        if answer.outcome != "allowed":
            return Performed(answer, ready=False)
    return None


def say(conn: Connection[Any], person: Person, key: SigningKey | None, *, login: str = "") -> None:
    """Open the savepoint ``rlskit_probe``, and say in it who asks: as ``as_user`` and ``as_nobody`` do, or raw where that would be refused.

    With a ``login`` it is he who is connected from there on. All in one message.
    """
    cursor = ClientCursor(conn)
    statement: str = _RAW
    values: Sequence[Any] = [list(person.settings), list(person.settings.values())]
    if person.introduced:
        pid = conn.cursor(row_factory=scalar_row).execute("select pg_catalog.pg_backend_pid()").fetchone() if key else 0
        known = prelude.Login(key=key, signed=key is not None)
        statement, values = prelude.introduction(Asker(person.identity), known, int(pid or 0))
    said = "; ".join((_CONNECTED if login else _SAVEPOINT, statement))
    cursor.execute(said.encode(), [*([login] if login else []), *values])


def stored_as(probe: Probe) -> Composed:
    """Counts the rows that are stored as the probe's have to be afterwards. For whoever bypasses row security."""
    wanted = {**probe.attempt.key, **(probe.afterwards or {})}
    terms = [
        SQL("{} is not distinct from {}").format(Identifier(name), Literal(value)) for name, value in wanted.items()
    ]
    condition = SQL(" and ").join(terms) if terms else SQL("true")
    return SQL("select count(*) from {} where {}").format(ddl.qualified(probe.attempt.table), condition)
