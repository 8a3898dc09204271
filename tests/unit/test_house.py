"""How the package is built: arrows of import in one direction, one door to each dependency, names and docstrings."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType

import pytest

import rlskit

PACKAGE = Path(rlskit.__file__).parent

# A module imports only from those above it. A package inside the package stands after its own modules.
ORDER = [
    "errors",
    "words",
    "names",
    "vocabulary",
    "identity",
    "signing",
    "rules",
    "reference",
    "state",
    "runtime",
    "facts",
    "loader",
    "compiler",
    "ddl",
    "canary",
    "catalog",
    "fitter",
    "normalizer",
    "importer.recognizer",
    "importer.deriver",
    "importer.translator",
    "importer.adopter",
    "importer.renderer",
    "importer.reader",
    "importer",
    "stages",
    "steps",
    "applier",
    "planner",
    "installer",
    "scripter",
    "auditor",
    "backfiller",
    "forecaster",
    "keyring",
    "denials",
    "connections",
    "prelude",
    "refusals",
    "gatekeeper",
    "janitor",
    "blocks",
    "session",
    "attempts",
    "preflight",
    "sqlalchemy.transactions",
    "sqlalchemy.watch",
    "sqlalchemy.sessions",
    "sqlalchemy.tables",
    "sqlalchemy.declarations",
    "sqlalchemy.privileges",
    "sqlalchemy.mapping",
    "sqlalchemy.models",
    "sqlalchemy",
    "alembic.statements",
    "alembic.suspension",
    "alembic.directives",
    "alembic.op",
    "alembic.execution",
    "alembic.rendering",
    "alembic.foresight",
    "alembic.sparing",
    "alembic.composer",
    "alembic.autogenerate",
    "alembic",
    "__init__",
    "_reaper",
    "server",
    "demo",
    "containers",
    "surveyor",
    "splicer",
    "starter",
    "filler.shapes",
    "filler.patterns",
    "filler.wishes",
    "filler.candidates",
    "filler.drafts",
    "filler.inserter",
    "filler",
    "prover.people",
    "prover.scenes",
    "prover.cells",
    "prover.ground",
    "prover.standing",
    "prover.creating",
    "prover.parts",
    "prover.questions",
    "prover.stage",
    "prover.proof",
    "prover.rehearsal",
    "prover.mutants",
    "prover.mutator",
    "prover.tapfile",
    "prover.copies",
    "prover",
    "testing.expectations",
    "testing.strategies",
    "testing.leaks",
    "testing.rows",
    "testing.servers",
    "testing.keeper",
    "testing.templates",
    "testing.orm",
    "testing.places",
    "testing.held",
    "testing.access",
    "testing.cases",
    "testing.proving",
    "testing.databases",
    "testing.factories",
    "testing.matrix",
    "testing",
    "cli.shared",
    "cli.story",
    "cli.rules",
    "cli.proving",
    "cli.owners",
    "cli.adopting",
    "cli.runtime",
    "cli.keys",
    "cli",
    "__main__",
]

# Each dependency, and the modules, or whole packages, that may import it; what is not here may not be imported at all.
DOORS = {
    "psycopg": {
        "__init__",
        *("ddl", "canary", "catalog", "normalizer", "applier", "planner", "installer", "scripter"),
        *("importer", "auditor", "backfiller", "forecaster", "keyring", "server", "demo", "starter", "cli"),
        *("connections", "prelude", "gatekeeper", "janitor", "blocks", "session", "attempts", "sqlalchemy", "alembic"),
        *("preflight", "containers", "filler", "prover", "testing"),
        "denials",  # what it makes of the driver's exceptions is caught as they are
    },
    "sqlalchemy": {"sqlalchemy", "alembic", "testing"},
    "alembic": {"alembic"},
    "testcontainers": {"containers"},
    "docker": {"containers"},
    "hypothesis": {"testing"},
    "pytest": {"testing"},
    "typer": {"cli"},
    "rich": {"cli"},
}

# Modules that write SQL around names: ddl, and those that may besides. The auditor and the backfiller fill the queries of `sql/owners`, the forecaster
# those of `sql/shadow`; an attempt is one statement on one row, and the filler stores such rows; the recognizer writes the conditions that it tries on a temporary table.
MAY_WRITE_NAMES = {
    "ddl",
    "scripter",
    "normalizer",
    "demo",
    "importer.recognizer",
    "auditor",
    "backfiller",
    "forecaster",
    "attempts",
    "filler.inserter",
    "prover.stage",
    "prover.copies",
    "prover.tapfile",
    "testing.keeper",
}


@cache
def paths() -> dict[str, Path]:
    """The dotted name of each module below `rlskit`, and its file; a package has its own name, and `rlskit` itself is `__init__`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        *folders, stem = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(folders if folders and stem == "__init__" else [*folders, stem])] = path
    return found


def modules() -> list[str]:
    return sorted(paths())


def door(module: str) -> str:
    """The package inside `rlskit` that a module belongs to, or the module."""
    return module.partition(".")[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(paths()[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Every import of a module, wherever it stands: the dotted module, and the name taken from it or an empty text."""
    for node in ast.walk(tree(module)):
        match node:
            case ast.Import(names=names):
                yield from ((each.name, "") for each in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                assert (level, bool(source)) == (0, True), f"{module} has a relative import"
                yield from ((source or "", each.name) for each in names)


def imported_modules(module: str) -> set[str]:
    """The modules of rlskit that a module imports; the package itself is `__init__`."""
    found = set()
    for source, name in imports(module):
        package, _, inner = source.partition(".")
        if package == "rlskit":
            named = f"{inner}.{name}".strip(".")
            found.add(named if named in paths() else inner or "__init__")
    return found


def imported_packages(module: str) -> set[str]:
    """What a module imports from outside of rlskit and of the standard library."""
    packages = {source.partition(".")[0] for source, _ in imports(module)}
    return packages - sys.stdlib_module_names - {"rlskit"}


# --- arrows ----------------------------------------------------------------------------------------------------------


def test_every_module_has_its_place() -> None:
    assert modules() == sorted(ORDER)


@pytest.mark.parametrize("module", modules())
def test_arrows_point_one_way(module: str) -> None:
    above = ORDER[: ORDER.index(module)] if module in ORDER else []

    assert imported_modules(module) - set(above) == set()


@pytest.mark.parametrize("module", ["errors", "runtime", "_reaper"])
def test_a_module_at_the_bottom_imports_nothing_of_rlskit(module: str) -> None:
    assert imported_modules(module) == set()


def test_the_commands_are_imported_by_nobody_else() -> None:
    importers = {
        door(module) for module in modules() if {door(each) for each in imported_modules(module)} & {"cli", "demo"}
    }

    assert importers == {"cli", "__main__"}


def test_nothing_is_imported_behind_the_back_of_these_tests() -> None:
    """By name at run time only where it is meant: the loader and the kit import the user's module, and two packages what they need seldom."""
    found = set()
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "importlib.import_module",
                "import_module",
                "__import__",
            ):
                found.add(module)

    assert found == {"loader", "__init__", "testing", "testing.templates"}


# --- doors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", modules())
def test_a_dependency_is_imported_through_its_door(module: str) -> None:
    wrong = {package for package in imported_packages(module) if door(module) not in DOORS.get(package, ())}

    assert wrong == set()


@pytest.mark.parametrize("package", DOORS)
def test_every_door_is_used(package: str) -> None:
    users = {door(module) for module in modules() if package in imported_packages(module)}

    assert users == DOORS[package]


HEAVY = ["typer", "click", "rich", "sqlalchemy", "alembic", "pydantic", "pytest", "testcontainers"]
HEAVY += ["hypothesis", "psycopg_pool"]


def test_importing_rlskit_loads_psycopg_alone() -> None:
    """Of what is installed; and neither the command line nor the servers of rlskit itself."""
    code = "import json, sys; before = set(sys.modules); import rlskit; print(json.dumps(sorted(set(sys.modules) - before)))"
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    loaded = json.loads(result.stdout)

    assert ("psycopg" in loaded, [each for each in loaded if each.partition(".")[0] in HEAVY]) == (True, [])
    assert [each for each in loaded if each in ("rlskit.cli", "rlskit.demo", "rlskit.server", "rlskit._reaper")] == []


def test_rules_are_written_and_compiled_without_psycopg() -> None:
    """What is pure stays pure: rules, identities and the compiler know no driver."""
    pure = ORDER[: ORDER.index("compiler") + 1]

    assert [module for module in pure if imported_packages(module)] == []


# --- names -----------------------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """What __init__ imports or defines, as its text says; modules that Python hangs onto the package are not among them."""
    names = [
        each.asname or each.name
        for node in ast.walk(tree("__init__"))  # also what type checkers see and the rest gets when it asks
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlskit.")
        for each in node.names
    ]
    names += [node.name for node in tree("__init__").body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [each for each in names if not each.startswith("_")]


def test_all_is_sorted() -> None:
    assert rlskit.__all__ == sorted(rlskit.__all__)


def test_all_is_complete() -> None:
    assert sorted(rlskit.__all__) == sorted(public_names())


def test_who_only_says_who_is_asking_never_imports_what_plans() -> None:
    script = "import rlskit, sys; print(*sorted(m for m in sys.modules if m.startswith('rlskit.')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert {"rlskit.planner", "rlskit.compiler", "rlskit.state", "rlskit.loader"} & set(loaded) == set()


def test_what_type_checkers_see_is_what_there_is() -> None:
    assert [name for name in rlskit.__all__ if not hasattr(rlskit, name)] == []
    with pytest.raises(AttributeError, match="module `rlskit` has no `nothing`"):
        rlskit.nothing  # noqa: B018


def test_no_module_has_the_name_of_something_public() -> None:
    """Or else `rlskit.plan` would be the one or the other, depending on what was imported last."""
    assert set(modules()) & set(rlskit.__all__) == set()


@pytest.mark.parametrize("name", rlskit.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert not inspect.ismodule(getattr(rlskit, name))


# --- docstrings ------------------------------------------------------------------------------------------------------


def documented(thing: object) -> bool:
    """Whether it has a docstring of its own; the signature that dataclass writes is none."""
    text = getattr(thing, "__doc__", None) or ""
    return bool(text.strip()) and not text.startswith(f"{getattr(thing, '__name__', '')}(")


@pytest.mark.parametrize("name", rlskit.__all__)
def test_a_public_object_says_what_it_is(name: str) -> None:
    thing = getattr(rlskit, name)

    assert documented(thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing))


@pytest.mark.parametrize("name", rlskit.__all__)
def test_the_methods_of_a_public_object_say_what_they_do(name: str) -> None:
    thing = getattr(rlskit, name)
    kind = thing if inspect.isclass(thing) else type(thing)
    members = {} if kind is FunctionType else vars(kind)
    methods = {
        member: each for member, each in members.items() if inspect.isfunction(each) or isinstance(each, property)
    }

    assert [member for member, each in methods.items() if not member.startswith("_") and not documented(each)] == []


@pytest.mark.parametrize("module", modules())
def test_a_module_opens_with_its_purpose(module: str) -> None:
    assert ast.get_docstring(tree(module))


# --- SQL around names ------------------------------------------------------------------------------------------------


def test_names_are_put_into_sql_by_few() -> None:
    writers = {module for module in modules() if ("psycopg.sql", "Identifier") in imports(module)}

    assert writers == MAY_WRITE_NAMES


def test_sql_is_composed_by_few() -> None:
    """Besides them the canary writes a role, as a literal."""
    composers = {module for module in modules() if ("psycopg.sql", "SQL") in imports(module)}

    assert composers == MAY_WRITE_NAMES | {"canary"}


@pytest.mark.parametrize("module", modules())
def test_psycopg_sql_is_imported_by_name(module: str) -> None:
    """Or else the two tests above would see nothing."""
    assert not {("psycopg.sql", ""), ("psycopg", "sql"), ("psycopg.sql", "*")} & set(imports(module))


def formatted(node: ast.expr) -> bool:
    """Whether a text is put together: an f-string, `%` or `.format` of text; a sum and a cast are looked through."""
    match node:
        case ast.JoinedStr() | ast.BinOp(left=ast.Constant(), op=ast.Mod()):
            return True
        case ast.BinOp(left=left, right=right):
            return formatted(left) or formatted(right)
        case ast.Call(func=ast.Name(id="cast"), args=[_, inner]):
            return formatted(inner)
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="format")):
            return True
    return False


def test_no_statement_is_put_together_by_formatting_text() -> None:
    """What is given to `execute` or to `SQL` is a literal, a file, or composed; but for one number."""
    found = {}
    for module in modules():
        calls = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and node.args]
        statements = [
            node.args[0]
            for node in calls
            if ast.unparse(node.func).rpartition(".")[2] in ("execute", "executemany", "SQL")
        ]
        found[module] = [ast.unparse(each) for each in statements if formatted(each)]

    assert {module: texts for module, texts in found.items() if texts} == {
        "applier": ["f'{how} lock_timeout = {int(seconds * 1000)}'"]
    }
