"""The SQL files that ship with rlskit: the runtime, its upgrades, and the catalogue queries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SHIPPED = Path(__file__).parent  # in a wheel: _sql, _migrations
_CHECKOUT = Path(__file__).parent.parent  # in a checkout: sql, migrations

SCHEMA = "rlskit"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the runtime: its signature, how it is declared, and its body."""

    signature: str
    attributes: str
    body: str


def directory() -> Path:
    """The folder that holds the SQL files."""
    return _folder("sql")


def migrations() -> Path:
    """The Alembic environment that installs, upgrades and removes the runtime: the ``script_location`` for it."""
    return _folder("migrations")


def _folder(name: str) -> Path:
    shipped = _SHIPPED / f"_{name}"
    return shipped if shipped.is_dir() else _CHECKOUT / name


@cache
def script(name: str) -> str:
    """The text of one SQL file, named from the folder: ``runtime.sql``, ``catalog/tables.sql``."""
    return (directory() / name).read_text(encoding="utf-8")


@cache
def upgrades() -> dict[str, str]:
    """Version to file name of every upgrade, oldest first: ``{"0001": "upgrade/0001_runtime.sql"}``."""
    return {path.name[:4]: f"upgrade/{path.name}" for path in sorted((directory() / "upgrade").glob("[0-9]*.sql"))}


def upgrade(found: str) -> str:
    """One transaction that brings a database from version ``found`` to the present one, and says so in ``rlskit.version``."""
    newer = [script(name) for number, name in upgrades().items() if number > found]
    return "\n".join(["begin;", *newer, f"update rlskit.version set version_num = '{version()}';", "commit;"])  # noqa: S608


def bringing_up(found: str | None) -> str:
    """The script that brings a database from version ``found`` (None: nothing there) to the present one, or restores the present one."""
    return upgrade(found) if found is not None and found < version() else script("runtime.sql")


def inside(script: str) -> str:
    """The script for the inside of a transaction: without the ``begin`` and the ``commit`` that it brings along."""
    return re.sub(r"^(begin|commit);\n", "", script, flags=re.MULTILINE).strip()


def requirement(*, signed: bool) -> str:
    """The statement that says whether identities have to be signed in a database."""
    return f"call rlskit.require_signatures({str(signed).lower()})"


def version() -> str:
    """The version of the runtime that this package ships and needs."""
    return max(upgrades())


_FUNCTION = re.compile(
    r"create or replace (?:function|procedure) rlskit\.(?P<signature>\w+\([^)]*\))\n"
    r"(?:returns \S+\n)?"
    r"language (?P<declared>[^\n]+)\n"
    r"(?P<settings>(?:set \w+ = [^\n]+\n)+)"
    r"as \$rlskit\$(?P<body>.*?)\$rlskit\$;",
    re.DOTALL,
)


@cache
def functions() -> dict[str, Function]:
    """The functions of ``runtime.sql`` by signature, as a database that has it shows them."""
    found = {}
    for each in _FUNCTION.finditer(script("runtime.sql")):
        language, *declared = each["declared"].split(" ", 1)
        words = declared[0] if declared else ""
        volatility = words.split(" ")[0] if words.startswith(("stable", "immutable")) else "volatile"
        parallel = next((each for each in ("parallel safe", "parallel restricted") if each in words), "parallel unsafe")
        rights = "security definer " if "security definer" in words else ""
        settings = " ".join(
            line.removeprefix("set ").replace(" = ", "=", 1).replace("'", "") for line in each["settings"].splitlines()
        )
        attributes = f"{language} {volatility} {parallel} {rights}{settings}"
        found[each["signature"]] = Function(each["signature"], attributes.lower(), each["body"])
    return found
