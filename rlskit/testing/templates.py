"""A template database: prepared, loaded, held to the rules, and proved to be one in which a green test means something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection
from psycopg.errors import DuplicateObject, InsufficientPrivilege

from rlskit import gatekeeper, keyring, planner, preflight
from rlskit.errors import KitError
from rlskit.names import QualifiedName
from rlskit.rules import Rules
from rlskit.signing import SigningKey
from rlskit.testing.keeper import Account, TestServer

Load: TypeAlias = str | Path | Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a test database is made of.

    ``prepare`` are SQL files that a superuser runs first, ``load`` what the tables' owner runs then: SQL files, or functions (or ``"module:function"``) that
    are called with the owner's DSN. ``apply`` says whether the rules are applied after that, or checked; None: applied where nothing of rlskit's was left.
    ``login`` is the user's own, which asks instead of one that the kit makes. Files are relative to ``root``.
    """

    rules: Rules
    load: tuple[Load, ...] = ()
    prepare: tuple[str | Path, ...] = ()
    apply: bool | None = None
    login: str | None = None
    root: Path = Path()


@dataclass(frozen=True, slots=True)
class Template:
    """A database that others are copied from; ``login`` is whom the tests ask as, and ``key`` what signs for them where it has to be."""

    name: str
    rules: Rules
    owner: Account
    login: Account
    key: SigningKey | None


def template(server: TestServer, recipe: Recipe) -> Template:
    """Make the template of a recipe, once for a run. Raises KitError with what is wrong, and what plan, apply and guard raise."""
    return server.kept(recipe, lambda: _made(server, recipe))


def _made(server: TestServer, recipe: Recipe) -> Template:
    rules, owner = recipe.rules, server.account("owner")
    name = server.create_database(owner.name)
    owners_dsn = server.url(name, owner)
    with server.alone():
        for file in recipe.prepare:
            with closing(server.connect(name)) as conn:
                _run(conn, recipe.root / file)
        server.require_role(rules.role)
        for each in recipe.load:
            _load(each, recipe.root, owners_dsn)
    with closing(psycopg.connect(owners_dsn, autocommit=True)) as conn:
        _apply_where_due(conn, recipe)
        key = _key(conn) if rules.mode == "signed" else None
    with closing(server.connect(name)) as conn:
        _check_meaning(conn, recipe)
    login = _login(server, recipe)
    _check_login(server.url(name, login), key, rules)
    return Template(name, rules, owner, login, key)


def _login(server: TestServer, recipe: Recipe) -> Account:
    if recipe.login is not None:
        return server.named_account(recipe.login)
    return server.account(f"as_{recipe.rules.role}", member_of=recipe.rules.role)


# --- what it is made of ------------------------------------------------------------------------------------


def _load(each: Load, root: Path, owners_dsn: str) -> None:
    if isinstance(each, Path) or (isinstance(each, str) and not _is_function(each, root)):
        with closing(psycopg.connect(owners_dsn, autocommit=True)) as conn:
            _run(conn, root / each)
    else:
        (_function(each, root) if isinstance(each, str) else each)(owners_dsn)


def _run(conn: Connection[Any], file: Path) -> None:
    """Run a file's statements, in one transaction unless they bring their own."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KitError(
            f"`{file}` cannot be read: {type(error).__name__}",
            hint="SQL files are UTF-8 text, relative to pytest's rootdir",
        ) from error
    try:
        conn.execute(text.encode())
    except psycopg.Error as error:
        position = int(error.diag.statement_position or 0)
        place = f"{file.name}, line {text.count(chr(10), 0, position - 1) + 1}" if position else file.name
        raise KitError(
            f"{place}: {error.diag.message_primary or type(error).__name__}", hint=_way_out(error)
        ) from error


def _way_out(error: psycopg.Error) -> str:
    if isinstance(error, InsufficientPrivilege):
        return "rlskit_load runs as the tables' owner; what needs a superuser (extensions, roles) belongs in rlskit_prepare"
    if isinstance(error, DuplicateObject):
        return (
            "roles are the whole server's: make one only where it is missing, with a DO block that looks into pg_roles"
        )
    return "the file is plain SQL, as psql -f would run it without its own commands, the backslashed ones, and without COPY FROM STDIN"


def _is_function(each: str, root: Path) -> bool:
    return ":" in each and not each.endswith(".sql") and not (root / each).exists()


def _function(named: str, root: Path) -> Callable[[str], object]:
    module, _, name = named.partition(":")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        found: Callable[[str], object] = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise KitError(
            f"there is no `{named}` to load with: {error}", hint="name a SQL file, or module:function"
        ) from error
    return found


# --- what it has to be -------------------------------------------------------------------------------------


def _apply_where_due(conn: Connection[Any], recipe: Recipe) -> None:
    """Apply the rules, unless what was loaded has left anything of rlskit's: then it is that which is tested."""
    row = conn.execute("select to_regnamespace('rlskit') is null").fetchone()
    if recipe.apply or (recipe.apply is None and row == (True,)):
        planner.plan(conn, recipe.rules).apply(conn)


def _key(conn: Connection[Any]) -> SigningKey:
    """A key of this run alone, for rules that take signed identities only."""
    key = SigningKey.generate()
    keyring.add(conn, key)
    return key


def _check_meaning(conn: Connection[Any], recipe: Recipe) -> None:
    """Raise KitError with everything for which a green test would mean nothing, each difference from the rules among it."""
    texts, hints = [], []
    for each in preflight.findings(conn, recipe.rules):
        if each.kind == "differences":
            plan = planner.compare(conn, recipe.rules)
            texts += [f"{_place(step.table)} differs from the rules: {step.says}" for step in plan.steps]
            texts += [f"table `{foreign.table}`: {foreign.text}" for foreign in plan.undoing]
            hints.append(_DIFFERS)
        elif each.kind == "missing" and not recipe.load:
            texts.append(each.text)
            hints.append("nothing is loaded, so the test database is empty: rlskit_load names what makes your tables")
        else:
            texts.append(each.text)
            hints.append(each.hint)
    if texts:
        raise KitError(
            f"a green test would mean nothing in this database: {'; '.join(texts)}",
            hint="; ".join(dict.fromkeys(filter(None, hints))),
        )


def _place(table: QualifiedName | None) -> str:
    return f"table `{table}`" if table else "the schema rlskit"


_DIFFERS = (
    "what was loaded holds something of rlskit's, so it is tested as it is: write what the rules say into your migrations, "
    "or let the kit apply them on top: rlskit.testing.database(…, apply=True)"
)


def _check_login(dsn: str, key: SigningKey | None, rules: Rules) -> None:
    try:
        conn = psycopg.connect(dsn)
    except psycopg.OperationalError as error:
        raise KitError(
            f"the login for the tests cannot connect: {' '.join(str(error).split())}",
            hint="a login that was on the server before needs its way in: pg_hba.conf, or a password that libpq finds, as in ~/.pgpass",
        ) from None
    with closing(conn):
        gatekeeper.guard(conn, key=key, rules=rules)
        if conn.execute("select pg_has_role(session_user, %s, 'usage')", [rules.role]).fetchone() != (True,):
            raise KitError(
                f"login `{conn.info.user}` does not have the role `{rules.role}`, so nothing that it cannot do proves anything",
                hint=f"grant {rules.role} to {conn.info.user}, in what rlskit_prepare or rlskit_load names",
            )
