"""What tests share: a database of their own, with an owner and an ordinary login, and people who ask."""

from __future__ import annotations

import io
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import rlskit
from rlskit import Identity, Rules, TableRules, as_user, cli
from rlskit.server import Running

ALICE = Identity(sub="a1f0", username="alice", claims={"email": "alice@example.com"})
BOB = Identity(sub="b2e1", username="bob", claims={"email": "bob@example.com"})
CAROL = Identity(sub="c3d2", username="carol", claims={"email": "carol@example.com"})

_numbers = count(1)


def full(who: Identity) -> str:
    return who.spellings[0]


@dataclass(frozen=True)
class Server:
    """A running server and the folder of its programs."""

    running: Running
    bin: Path

    @property
    def dsn(self) -> str:
        return self.running.dsn

    @property
    def version(self) -> str:
        return self.running.version

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


@dataclass(frozen=True)
class Database:
    """A fresh database. ``owner`` owns it and its tables, ``app`` is the application's ordinary login; a copy has them of its ``original``."""

    server: Server
    name: str
    original: str | None = None

    @property
    def owner(self) -> str:
        return f"{self.original or self.name}_owner"

    @property
    def app(self) -> str:
        return f"{self.original or self.name}_app"

    @property
    def superuser_dsn(self) -> str:
        return make_conninfo(self.server.dsn, dbname=self.name)

    @property
    def owner_dsn(self) -> str:
        return make_conninfo(self.superuser_dsn, user=self.owner)

    @property
    def app_dsn(self) -> str:
        return make_conninfo(self.superuser_dsn, user=self.app)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """As superuser: for what only an administrator may, and never to test an access."""
        return psycopg.connect(self.superuser_dsn, **options)

    def connect_as_owner(self, **options: Any) -> psycopg.Connection[Any]:
        """As the migrator, who owns the tables."""
        return psycopg.connect(self.owner_dsn, **options)

    def connect_as_app(self, **options: Any) -> psycopg.Connection[Any]:
        """As the application; refused unless row security binds the login."""
        conn = psycopg.connect(self.app_dsn, **options)
        assert_ordinary(conn)
        return conn

    def execute(self, *statements: str) -> None:
        """Run statements as the owner, each for itself."""
        with self.connect_as_owner(autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)

    def rules(self, *tables: TableRules, **options: Any) -> Rules:
        return Rules(*tables, role=self.app, **options)

    def apply(self, *tables: TableRules, **options: Any) -> Rules:
        """Apply rules as the owner, and return them."""
        rules = self.rules(*tables, **options)
        with self.connect_as_owner() as conn:
            rlskit.plan(conn, rules).apply(conn)
        return rules

    def plan(self, *tables: TableRules, **options: Any) -> rlskit.Plan:
        with self.connect_as_owner() as conn:
            return rlskit.plan(conn, self.rules(*tables, **options))

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What is really stored: read past row security."""
        with self.connect() as conn:
            return conn.execute(query, parameters).fetchall()


@dataclass
class Ran:
    """What a command ended with: the exit code, and what it wrote to each stream."""

    code: int
    out: str
    err: str


def run_command(folder: Path, *arguments: str, **environment: str) -> Ran:
    """Run `rlskit` in a folder: in the test's own process, as if each time in a new one, and nobody is there to be asked."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as here, Path(os.devnull).open() as nothing:
        here.chdir(folder)
        for name in ("DATABASE_URL", "RLSKIT_RULES"):
            here.delenv(name, raising=False)
        for name, value in environment.items():
            here.setenv(name, value)
        here.setattr(sys, "path", [*sys.path])
        here.setattr(sys, "argv", ["rlskit", *arguments])
        for name, stream in (("stdin", nothing), ("stdout", out), ("stderr", err)):
            here.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    for name, module in [*sys.modules.items()]:  # rules of the folder's own
        if folder in Path(getattr(module, "__file__", None) or "/").parents:
            del sys.modules[name]
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def assert_nobody_is_left(database: Database) -> None:
    """Fail unless every connection to the database is closed, in a moment: a server process ends a little after its client."""
    others = "select from pg_stat_activity where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    deadline = time.monotonic() + 10
    while database.rows(others):
        assert time.monotonic() < deadline, "a connection was left open"
        time.sleep(0.02)


def perform(database: Database, who: Identity, *statements: str, parameters: Sequence[object] | None = None) -> Any:
    """As the application's login, in one transaction of ``who``; what the last statement returned, or how many rows it touched."""
    with database.connect_as_app() as conn, as_user(conn, who):
        for statement in statements:
            cursor = conn.execute(statement, parameters)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else cursor.rowcount


def assert_ordinary(conn: psycopg.Connection[Any]) -> None:
    """Fail for a login that could see past the rules: such a connection would prove nothing."""
    row = conn.execute(
        "select rolname, rolsuper or rolbypassrls, exists (select from pg_class where relowner = pg_roles.oid)"
        " from pg_roles where rolname = session_user"
    ).fetchone()
    conn.rollback()
    assert row is not None
    login, bypasses, owns = row
    assert not bypasses, f"`{login}` bypasses row security: a test as this login proves nothing"
    assert not owns, f"`{login}` owns tables: a test as this login proves nothing"


@contextmanager
def fresh_database(server: Server, prefix: str) -> Iterator[Database]:
    """Make a database with its two logins, and drop all of it afterwards."""
    made = Database(server, f"{prefix}_{next(_numbers)}")
    owner, app, name = map(sql.Identifier, (made.owner, made.app, made.name))
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login").format(owner))
        conn.execute(sql.SQL("create role {} login").format(app))
        conn.execute(sql.SQL("create database {} owner {}").format(name, owner))
    with made.connect(autocommit=True) as conn:
        conn.execute(sql.SQL("alter schema public owner to {}").format(owner))
    try:
        yield made
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(name))
            for role in (owner, app):
                conn.execute(sql.SQL("drop role {}").format(role))


@contextmanager
def copy_of(database: Database) -> Iterator[Database]:
    """A copy of the database, with the same two logins: quicker than to make and apply the same once more. Nobody is connected to the original."""
    made = Database(database.server, f"{database.name}_{next(_numbers)}", database.name)
    owner, name, original = map(sql.Identifier, (made.owner, made.name, database.name))
    with psycopg.connect(database.server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} owner {} template {}").format(name, owner, original))
        yield made
        conn.execute(sql.SQL("drop database {} with (force)").format(name))
        _make_ordinary(conn, made.app)


def _make_ordinary(conn: psycopg.Connection[Any], role: str) -> None:
    """Whatever a test has given the login, beside databases."""
    name = sql.Identifier(role)
    conn.execute(sql.SQL("alter role {} nosuperuser nobypassrls noreplication nocreaterole nocreatedb").format(name))
    conn.execute(sql.SQL("alter role {} reset all").format(name))
    groups = "select roleid::regrole::text from pg_auth_members where member = %s::regrole"
    for (group,) in conn.execute(groups, [role]).fetchall():
        conn.execute(sql.SQL("revoke {} from {}").format(sql.SQL(group), name))


@contextmanager
def copied(server: Server, *, backup: Sequence[str] = (), settings: Sequence[str] = ()) -> Iterator[str]:
    """The DSN of a copy of the server, with everything that is in it, made with these arguments of pg_basebackup; stopped by its own handle."""
    assert server.running.directory is not None
    folder = Path(tempfile.mkdtemp(prefix="rlskit-copy-", dir=server.running.directory.parent))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    programs = server.bin
    if subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, check=False, cwd="/", **other
    ).returncode:
        pid = int((server.running.directory / "data" / "postmaster.pid").read_text().split()[0])
        programs = (Path("/proc") / str(pid) / "exe").resolve().parent
    data = folder / "data"
    subprocess.run(
        [programs / "pg_basebackup", "-d", server.dsn, "-D", data, "-c", "fast", *backup], check=True, cwd="/", **other
    )
    options = [part for each in ("listen_addresses=", *settings) for part in ("-c", each)]
    process = subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder, *options],
        cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **other,
    )  # fmt: skip
    dsn = make_conninfo(server.dsn, host=str(folder))
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        yield dsn
    finally:
        process.send_signal(signal.SIGINT)  # whoever is still connected
        process.wait(timeout=30)
        shutil.rmtree(folder)
