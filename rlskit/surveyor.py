"""What a project has: SQLAlchemy's models, Alembic's environment, rules. Read as text: nothing of the project is imported."""

from __future__ import annotations

import ast
import os
import tomllib
from collections import Counter
from collections.abc import Iterator
from configparser import Error, RawConfigParser
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

_SKIPPED = {"__pycache__", "node_modules", "site-packages", "build", "dist", "test", "tests", "migrations"}
_DECLARATIVE = {"DeclarativeBase", "DeclarativeBaseNoMeta", "declarative_base"}


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Something in a module, as it is imported from there."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Model:
    """A mapped class. ``table`` is None where the text does not say it; ``ruled`` says whether it has rules already."""

    place: Name
    file: Path
    table: str | None
    ruled: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """Alembic's: the file that configures it, and its env.py; None where the file does not say where that is."""

    config: Path
    env: Path | None

    @property
    def knows_rules(self) -> bool:
        """Whether env.py speaks of rules already."""
        return self.env is not None and b"rls_rules" in self.env.read_bytes()


@dataclass(frozen=True, slots=True)
class Project:
    """What was found below ``root``.

    ``models`` are those of ``base``, the declarative base that most derive from; ``others`` are mapped classes that have another or none that
    was found. ``package_root`` is the folder that the modules of the models are imported from. ``rules`` is what ``rlskit plan --rules`` takes: None where
    there are none yet. ``unread`` are files that are no Python.
    """

    root: Path
    package_root: Path
    base: Name | None
    models: tuple[Model, ...]
    others: tuple[Model, ...]
    environment: Environment | None
    rules: str | None
    unread: tuple[Path, ...]


def survey(root: Path) -> Project:
    """Look through the folder, but for hidden folders, virtual environments, tests, migrations and what was built. Writes nothing."""
    modules, unread = {}, []
    for file in _files(root):
        try:
            with catch_warnings():
                simplefilter("ignore")  # about the project's own text
                module = _Module(_dotted(root, file), file, ast.parse(file.read_bytes()))
        except (SyntaxError, ValueError, OSError):
            unread.append(file)
            continue
        if all(
            part.isidentifier() and not iskeyword(part) for part in module.name.split(".")
        ):  # else it cannot be imported
            modules[module.name] = module
    found = [
        (_base(modules, module, node), model)
        for module in modules.values()
        for node in module.classes.values()
        if (model := _model(module, node))
    ]
    bases = Counter(base for base, _ in found if base)
    base = max(sorted(bases), key=bases.__getitem__, default=None)
    models = tuple(sorted(model for each, model in found if base and each == base))
    return Project(
        root=root,
        package_root=_package_root(root, models[0].file) if models else root,
        base=base,
        models=models,
        others=tuple(sorted(model for each, model in found if not base or each != base)),
        environment=_environment(root),
        rules=_rules(root, modules),
        unread=tuple(unread),
    )


# --- files and modules -------------------------------------------------------------------------------------


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(each for each in folders if not _is_skipped(here / each))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("test_") and name not in ("conftest.py", "setup.py"):
                yield here / name


def _is_skipped(folder: Path) -> bool:
    """Also a virtual environment, and what Alembic made, whatever they are called."""
    marks = ("pyvenv.cfg", "script.py.mako")
    return folder.name.startswith(".") or folder.name in _SKIPPED or any((folder / each).exists() for each in marks)


def _package_root(root: Path, file: Path) -> Path:
    """The folder that the file's module is imported from: above its topmost package."""
    folder = file.parent
    while folder != root and (folder / "__init__.py").exists():
        folder = folder.parent
    if folder == file.parent and folder != root:  # no package, or one without __init__.py
        return root / "src" if folder.is_relative_to(root / "src") else root
    return folder


def _dotted(root: Path, file: Path) -> str:
    parts = file.relative_to(_package_root(root, file)).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@dataclass(frozen=True)
class _Module:
    """A parsed module: the classes, assignments and imports that stand at its top."""

    name: str
    file: Path
    tree: ast.Module
    classes: dict[str, ast.ClassDef] = field(init=False)
    assigned: dict[str, ast.expr] = field(init=False)
    imported: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        body = self.tree.body
        classes = {each.name: each for each in body if isinstance(each, ast.ClassDef)}
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "assigned", dict(_assignments(body)))
        object.__setattr__(self, "imported", dict(self._imports()))

    def _imports(self) -> Iterator[tuple[str, str]]:
        """Local name to the dotted name that it stands for."""
        for node in self.tree.body:
            if isinstance(node, ast.Import):
                for each in node.names:
                    yield (
                        each.asname or each.name.partition(".")[0],
                        each.name if each.asname else each.name.partition(".")[0],
                    )
            elif isinstance(node, ast.ImportFrom):
                source = node.module or ""
                if node.level:
                    depth = node.level - (self.file.name == "__init__.py")
                    package = self.name.split(".")[: -depth or None]
                    source = ".".join([*package, *([source] if source else [])])
                for each in node.names:
                    yield each.asname or each.name, f"{source}.{each.name}"

    def full_name(self, node: ast.expr) -> str:
        """The dotted name of what is written here, from where it was imported."""
        first, _, rest = ast.unparse(node).partition(".")
        target = self.imported.get(first, f"{self.name}.{first}")
        return f"{target}.{rest}" if rest else target


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


# --- models and rules --------------------------------------------------------------------------------------


def _model(module: _Module, node: ast.ClassDef) -> Model | None:
    body = dict(_assignments(node.body))
    mapped = any(each.arg == "table" and ast.unparse(each.value) == "True" for each in node.keywords)
    if not mapped and "__tablename__" not in body:
        return None
    table: str | None = None
    match body.get("__tablename__"):
        case ast.Constant(value=str(said)):
            table = said
        case None:
            table = node.name.lower()  # as SQLModel has it
    return Model(Name(module.name, node.name), module.file, table, "__rls__" in body)


def _base(
    modules: dict[str, _Module], module: _Module, node: ast.ClassDef, seen: frozenset[str] = frozenset()
) -> Name | None:
    """The declarative base that a class derives from, through whatever modules."""
    for each in node.bases:
        name = module.full_name(each.value if isinstance(each, ast.Subscript) else each)
        package, _, last = name.rpartition(".")
        if package.partition(".")[0] == "sqlalchemy" and last in _DECLARATIVE:
            return Name(module.name, node.name)
        if name in ("sqlmodel.SQLModel", "sqlmodel.main.SQLModel"):
            return Name("sqlmodel", "SQLModel")
        if name not in seen and (found := _base_named(modules, name, seen | {name})):
            return found
    return None


def _base_named(modules: dict[str, _Module], name: str, seen: frozenset[str]) -> Name | None:
    package, _, last = name.rpartition(".")
    module = modules.get(package)
    if module is None:
        return None
    if last in module.classes:
        return _base(modules, module, module.classes[last], seen)
    match module.assigned.get(last):
        case ast.Call(func=function) if module.full_name(function).rpartition(".")[2] == "declarative_base":
            return Name(package, last)
    elsewhere = module.imported.get(last)
    return _base_named(modules, elsewhere, seen | {elsewhere}) if elsewhere and elsewhere not in seen else None


def _rules(root: Path, modules: dict[str, _Module]) -> str | None:
    if (root / "rlskit.toml").exists():
        return "rlskit.toml"
    if "rlskit" in _tools(root):
        return "pyproject.toml"
    makers = {"rlskit.Rules", "rlskit.rules.Rules", "rlskit.load", "rlskit.loader.load", "rlskit.sqlalchemy.rules_from"}
    for module in modules.values():
        for name, value in module.assigned.items():
            if isinstance(value, ast.Call) and module.full_name(value.func) in makers:
                return f"{module.name}:{name}"
    return None


# --- alembic -----------------------------------------------------------------------------------------------


def _environment(root: Path) -> Environment | None:
    ini, pyproject = root / "alembic.ini", root / "pyproject.toml"
    parser = RawConfigParser()
    try:
        parser.read(ini, encoding="utf-8")
    except (Error, ValueError):
        return Environment(ini, None)
    options = _tools(root).get("alembic")
    if location := parser.get("alembic", "script_location", fallback=""):
        return Environment(ini, _env(root, location))
    if isinstance(options, dict) and isinstance(location := options.get("script_location"), str):
        return Environment(pyproject, _env(root, location))
    return Environment(ini, None) if ini.exists() else None


def _env(root: Path, location: str) -> Path | None:
    """Where env.py is; a location `package:folder` is below the package."""
    location = location.replace("%(here)s", str(root)).replace("%%", "%")
    package, colon, folder = location.partition(":")
    if colon and all(part.isidentifier() for part in package.split(".")):
        location = f"{package.replace('.', '/')}/{folder}"
    places = (root / location, root / "src" / location)
    return next((each / "env.py" for each in places if (each / "env.py").is_file()), None)


def _tools(root: Path) -> dict[str, Any]:
    """The section `tool` of pyproject.toml; empty where there is none that can be read."""
    try:
        tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return {}
    return tools if isinstance(tools, dict) else {}
