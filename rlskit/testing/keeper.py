"""What the kit does with privileges on one server: databases and logins for the tests, and nothing left of them afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, LiteralString, TypeVar
from urllib.parse import quote, urlencode

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DependentObjectsStillExist, ObjectInUse
from psycopg.sql import SQL, Identifier, Literal

from rlskit.errors import KitError, RlskitError
from rlskit.names import fitted
from rlskit.prover.copies import carry_over
from rlskit.server import Dsn, Running

Made = TypeVar("Made")

_APPLICATION = "rlskit.testing"
_MARK = "made by rlskit.testing for a test run, and dropped when the last one ends"
# Numbers of advisory locks, "rlst" and "rlsu" in ASCII: whoever is at work on this server shares the first; databases are made one at a time.
_AT_WORK, _MAKING = 0x726C7374, 0x726C7375
_HOST = re.compile(r"[\w.-]+")
_EMPTY = "template1"  # the server's own


@dataclass(frozen=True, slots=True)
class Account:
    """A login and its password; None where the server lets it in without one, or libpq knows it."""

    name: str
    password: str | None = field(default=None, repr=False)


class TestServer:
    """The server of this run: `version` as in "18.6", and `provider`, where it came from. What it can do more is the kit's own business.

    It holds a superuser's connection, which no test is given.
    """

    __test__ = False  # nothing for pytest to collect

    def __init__(self, running: Running, admin: Connection[Any], worker: str) -> None:
        self.version, self.provider = running.version, running.provider
        self._dsn, self._admin = running.dsn, admin
        self._prefix = "_".join(filter(None, ["rlskit_test", worker, str(os.getpid()), secrets.token_hex(3)]))
        self._numbers = count(1)
        self._accounts: dict[str, Account] = {}
        self._kept: dict[object, Any] = {}

    def told(self) -> str:
        """What a test run says of it at its end."""
        logins = [each.name for purpose, each in self._accounts.items() if purpose != "owner"]
        asked = f"asked as {', '.join(logins)}, made for the run and dropped; " if logins else ""
        return f"PostgreSQL {self.version} ({self.provider}); {asked}no test had a superuser's connection"

    def kept(self, what: object, make: Callable[[], Made]) -> Made:
        """What was made before of ``what``, or is made now: templates are made once. Raises the RlskitError that it failed with, then and ever after."""
        if what not in self._kept:
            try:
                self._kept[what] = make()
            except RlskitError as error:
                self._kept[what] = error
        made: Made | RlskitError = self._kept[what]
        if isinstance(made, RlskitError):
            raise made.with_traceback(None)
        return made

    # --- databases ---

    def create_database(self, owner: str, template: str = _EMPTY) -> str:
        """Make a database, a copy of another one where a template is named; its name."""
        name = f"{self._prefix}_{next(self._numbers)}"
        self._execute("create database {} template {} owner {}", name, template, owner)
        self._admin.execute(SQL("comment on database {} is {}").format(Identifier(name), Literal(_MARK)))
        if template != _EMPTY:
            carry_over(self._admin, name, template)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._execute("drop database if exists {} with (force)", name)

    def connect(self, database: str) -> Connection[Any]:
        """The privileged connection to a database, for the kit alone: what it makes and stores past the rules."""
        return psycopg.connect(self._dsn, dbname=database, application_name=_APPLICATION, autocommit=True)

    def url(self, database: str, account: Account) -> str:
        """The URI that libpq takes; with another scheme SQLAlchemy does too."""
        parts = {name: str(value) for name, value in conninfo_to_dict(self._dsn).items()}
        for ours in ("user", "password", "dbname", "application_name"):
            parts.pop(ours, None)
        host = parts.pop("host") if _HOST.fullmatch(parts.get("host", "")) else ""
        port = f":{parts.pop('port')}" if host and "port" in parts else ""
        password = "" if account.password is None else f":{quote(account.password, safe='')}"
        query = urlencode(parts, quote_via=quote)
        return f"postgresql://{quote(account.name, safe='')}{password}@{host}{port}/{quote(database, safe='')}?{query}".rstrip(
            "?"
        )

    # --- roles ---

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While databases and roles are prepared, nobody else does so on this server; roles that appear meanwhile go when the last run ends."""
        self._admin.execute("select pg_advisory_lock(%s)", [_MAKING])
        try:
            before = self._roles()
            try:
                yield
            finally:
                for role in self._roles() - before:
                    self._mark(role)
        finally:
            self._admin.execute("select pg_advisory_unlock(%s)", [_MAKING])

    def require_role(self, name: str) -> None:
        """Make the role that the rules are for, one that cannot log in, where it is missing."""
        if name not in self._roles():
            self._execute("create role {} nologin", name)
            self._mark(name)

    def account(self, purpose: str, *, member_of: str | None = None) -> Account:
        """An ordinary login of this run with a random password, in a role; always the same for the same purpose. Raises KitError for a missing role."""
        if purpose not in self._accounts:
            if member_of is not None and member_of not in self._roles():
                raise KitError(
                    f"there is no role `{member_of}`", hint="make it in what rlskit_prepare or rlskit_load names"
                )
            made = Account(fitted(f"{self._prefix}_{purpose}"), secrets.token_urlsafe(24))
            self._execute("create role {} login", made.name)
            self._mark(made.name)
            self._set_password(made)
            if member_of is not None:
                self._execute("grant {} to {}", member_of, made.name)
            self._accounts[purpose] = made
        return self._accounts[purpose]

    def named_account(self, name: str) -> Account:
        """The user's own login. One that appeared in a test run is given a password; one that was there before has to have its way in."""
        made = Account(name, hashlib.sha256(f"{_shared_secret()}\0{name}".encode()).hexdigest())
        if name not in self._roles():
            raise KitError(
                f"there is no login `{name}`", hint="rlskit_login names one that rlskit_prepare or rlskit_load makes"
            )
        if not self._is_marked(name):
            return Account(name)
        self._set_password(made)
        return made

    def clean(self) -> None:
        """Drop what this run has made; and where no other run is at work here, all that was ever left of one. A server of this run alone ends with it."""
        if self.provider != Dsn.name:
            return
        self._drop_marked(self._prefix)
        self._admin.execute("select pg_advisory_unlock_shared(%s)", [_AT_WORK])
        if self._ask("select pg_try_advisory_lock(%s)", [_AT_WORK]) == [(True,)]:
            try:
                if not self._ask(_OTHERS, [_APPLICATION]):
                    self._drop_marked("")
            finally:
                self._admin.execute("select pg_advisory_unlock(%s)", [_AT_WORK])

    def _drop_marked(self, prefix: str) -> None:
        for kind, name in self._ask(_MARKED, [_MARK, _MARK]):
            if not name.startswith(prefix):
                continue
            if kind == "database":
                self.drop_database(name)
            else:
                with suppress(DependentObjectsStillExist, ObjectInUse):  # somebody has come to need it
                    self._execute("drop role if exists {}", name)

    # --- by the privileged connection ---

    def _roles(self) -> set[str]:
        return {name for (name,) in self._ask("select rolname::text from pg_roles")}

    def _is_marked(self, role: str) -> bool:
        return ("role", role) in self._ask(_MARKED, [_MARK, _MARK])

    def _mark(self, role: str) -> None:
        self._admin.execute(SQL("comment on role {} is {}").format(Identifier(role), Literal(_MARK)))

    def _set_password(self, account: Account) -> None:
        """As the server keeps it: its log never sees the password itself."""
        assert account.password is not None
        kept = self._admin.pgconn.encrypt_password(account.password.encode(), account.name.encode())
        self._admin.execute(SQL("alter role {} password {}").format(Identifier(account.name), Literal(kept.decode())))

    def _execute(self, statement: LiteralString, *names: str) -> None:
        self._admin.execute(SQL(statement).format(*map(Identifier, names)))

    def _ask(self, query: LiteralString, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._admin.execute(query, parameters).fetchall()


@contextmanager
def at_work(running: Running, worker: str = "") -> Iterator[TestServer]:
    """The server, for the length of a test run. ``worker`` tells runs apart that share it. Raises KitError for a DSN that is no superuser's."""
    with psycopg.connect(running.dsn, autocommit=True, application_name=_APPLICATION) as admin:
        row = admin.execute("select rolsuper, rolname from pg_roles where rolname = current_user").fetchone()
        if row is None or not row[0]:
            raise KitError(
                f"the server's login `{admin.info.user}` is no superuser",
                hint="the kit makes databases and logins, and stores rows past the rules: give it a superuser's DSN; no test gets a connection of it",
            )
        admin.execute("select pg_advisory_lock_shared(%s)", [_AT_WORK])
        server = TestServer(running, admin, worker)
        try:
            yield server
        finally:
            server.clean()


def _shared_secret() -> str:
    """What the workers of one run know and nobody else does: each has to say the same password for a login that they share."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID") or _ALONE


_ALONE = secrets.token_hex(16)

_OTHERS: LiteralString = "select from pg_stat_activity where application_name = %s and pid <> pg_backend_pid()"
_MARKED: LiteralString = """
    select 'database', datname::text from pg_database where shobj_description(oid, 'pg_database') = %s
    union all
    select 'role', rolname::text from pg_roles where shobj_description(oid, 'pg_authid') = %s
    order by 1, 2
"""
