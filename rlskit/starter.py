"""A commented start for a project's rules, and what Alembic's env.py needs to know of them. Nothing is written until it is asked."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.rows import namedtuple_row

from rlskit import catalog, runtime, splicer
from rlskit.errors import PlanError, StalePlanError
from rlskit.names import QualifiedName
from rlskit.rules import Rules
from rlskit.surveyor import Environment, Model, Name, Project
from rlskit.words import counted

RULES_FILE = "rlskit.toml"

# Columns that mostly name whoever made or has a row.
_OWNER_NAMES = (
    *("owner", "owner_id", "owner_sub", "created_by", "author", "author_id", "creator", "creator_id"),
    *("user_id", "user_sub", "username", "user"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a database, and a column that may name the owners of its rows: None where there is no likely one."""

    name: QualifiedName
    owner: str | None
    is_uuid: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A file and what is to stand in it; ``name`` is as it is called in the project. ``before`` is None for one that is made."""

    path: Path
    name: str
    before: bytes | None
    after: bytes

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = ((each or b"").decode().splitlines() for each in (self.before, self.after))
        return "\n".join(unified_diff(old, new, f"a/{self.name}", f"b/{self.name}", lineterm=""))

    def write(self) -> None:
        """Write the file. Raises StalePlanError where it is not what it was; a new one overwrites none."""
        try:
            if self.before is None:
                with self.path.open("xb") as file:
                    file.write(self.after)
                return
            if self.path.read_bytes() == self.before:
                self.path.write_bytes(self.after)
                return
        except FileExistsError:
            pass
        raise StalePlanError(
            f"`{self.name}` was written by somebody else meanwhile, and is left alone", hint="run it again"
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What a project is given: a ``new`` file, where it has no rules yet, and an ``edit`` of env.py, where that does not know them.

    ``found`` says what is there, ``notes`` what is to be done by hand, ``commands`` what to run next, in the project's folder.
    """

    found: tuple[str, ...]
    new: Change | None
    edit: Change | None
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def tables(conn: Connection[Any]) -> tuple[Table, ...]:
    """The tables of a database, in the order of their names. An idle connection is idle afterwards."""
    with catalog.reading(conn):
        rows = conn.cursor(row_factory=namedtuple_row).execute(runtime.script("start/tables.sql")).fetchall()
    return tuple(_table(row) for row in rows)


def _table(row: Any) -> Table:
    name = QualifiedName(row.schema_name, row.name)
    for each in _OWNER_NAMES:
        if each in row.texts or each in row.uuids:
            return Table(name, each, each in row.uuids)
    return Table(name, None)


def start(project: Project, *, role: str, known: Sequence[Table] = ()) -> Start:
    """What ``project`` is to begin with: rules beside its models, or a rule file, with the ``known`` tables of a database.

    ``role`` is the application's. Writes nothing. Raises RuleError for what can be no role, PlanError where a file stands in the way.
    """
    Rules(role=role)
    new, rules = None, project.rules
    if rules is None:
        new, rules = _beside_models(project, role) if project.base else _rule_file(project, role, known)
    edit, notes = _env(project.environment, project, rules, made=new is not None) if project.environment else (None, [])
    return Start(
        found=tuple(_found(project, known)),
        new=new,
        edit=edit,
        notes=(*_passed_over(project), *notes),
        commands=tuple(_commands(project, rules)),
    )


def _found(project: Project, known: Sequence[Table]) -> Iterator[str]:
    if project.models:
        yield f"Found {counted(len(project.models), 'model')} of {project.base}."
    if known:
        yield f"Found {counted(len(known), 'table')}, {sum(each.owner is not None for each in known)} with a column that may name owners."
    if project.rules:
        yield f"Found rules: {project.rules}."
    if project.environment:
        known_there = ", and its env.py knows the rules" if project.environment.knows_rules else ""
        yield f"Found Alembic: {project.environment.config.name}{known_there}."


def _passed_over(project: Project) -> Iterator[str]:
    for file in project.unread:
        yield f"{file.relative_to(project.root).as_posix()} is no Python that can be read, and was passed over"
    for each in project.others:
        yield f"{each.place} is not in the start: its base is another one, or was not found"


def _commands(project: Project, rules: str) -> Iterator[str]:
    folder = project.package_root.relative_to(project.root).as_posix()
    inside = "" if folder == "." else f"PYTHONPATH={shlex.quote(folder)} "
    named = "" if rules in (RULES_FILE, "pyproject.toml") else f" --rules {shlex.quote(rules)}"
    yield f"{inside}rlskit sql{named}"
    yield f"{inside}rlskit plan{named} --dsn postgresql://…"
    if project.environment is not None:
        yield f'{inside}alembic revision --autogenerate -m "row security"'


# --- rules beside models -----------------------------------------------------------------------------------

_MODULE = '''\
"""Who may do what with whose rows. `rlskit plan --rules {rules}` says what PostgreSQL would be told; nothing here changes a database."""

{imports}

# Each model says its own rules, as Amplify's users know them:
#
#     from rlskit import Open, TableRules, Unmanaged, allow
#
{models}
#
# The other words: allow.owner_defined_in("created_by"), allow.owners_defined_in("editors").to("read", "update"), and for a model
#
#     __rls__ = TableRules(allow.owner(), columns={{"owner": allow.same().to("read", "delete")}})  # nobody gives a row away
#     __rls__ = Open(reason="reference data")     # everyone who has the role may read
#     __rls__ = Unmanaged(reason="a job's own")   # rlskit leaves the table alone
#
# Take `require_all=False` out when every model has its rules: from then on one without is an error, and none is forgotten.
rules = rules_from({base}, role={role}, require_all=False)
'''


def _beside_models(project: Project, role: str) -> tuple[Change, str]:
    """A module in the package that has the models, or beside it where it is theirs alone."""
    assert project.base is not None
    shared = _shared([each.place.module.split(".")[:-1] for each in project.models])
    if shared and shared[-1] in ("models", "model", "orm", "db", "entities"):
        shared.pop()
    folder = project.package_root.joinpath(*shared)
    name = next((each for each in ("access", "row_rules") if not (folder / f"{each}.py").exists()), None)
    if name is None:
        raise PlanError(
            "`access.py` and `row_rules.py` are there already, and hold no rules that were found",
            hint="write rules = rlskit.sqlalchemy.rules_from(…) yourself, and name it with --rules",
        )
    module = ".".join([*shared, name])
    modules = sorted({each.place.module for each in project.models} - {project.base.module})
    imports = [f"import {each}  # noqa: F401 - so that its models are known" for each in modules]
    imports = ["from rlskit.sqlalchemy import rules_from", "", *imports]
    imports.append(f"from {project.base.module} import {project.base.name}")
    text = _MODULE.format(
        rules=f"{module}:rules",
        imports="\n".join(imports),
        models="\n".join(map(_example, project.models)),
        base=project.base.name,
        role=json.dumps(role, ensure_ascii=False),
    )
    path = folder / f"{name}.py"
    return Change(path, path.relative_to(project.root).as_posix(), None, text.encode()), f"{module}:rules"


def _example(model: Model) -> str:
    said = "# has rules already" if model.ruled else "__rls__ = allow.owner()"
    return f"#     class {model.place.name}(…):  # in {model.place.module}\n#         {said}"


def _shared(packages: Sequence[list[str]]) -> list[str]:
    """The package that all of them are in."""
    shared = []
    for parts in zip(*packages, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


# --- a rule file -------------------------------------------------------------------------------------------

_TOML = """\
# Who may do what with whose rows. `rlskit plan --dsn postgresql://…` says what PostgreSQL would be told; nothing here changes a database.

# The application's role, an ordinary one: create role app_user login. Policies and privileges are given to it.
role = {role}

# A table that is not named here is not looked at. What no rule gives, nobody has.
#
#   allow = [{{ owner = "created_by" }}, {{ owners = "editors", to = ["read", "update"] }}]
#   columns.created_by = [{{ to = ["read", "delete"] }}]   # nobody gives a row away
#   open = {{ reason = "reference data" }}                 # instead of allow: everyone who has the role may read
#   unmanaged = {{ reason = "a job's own" }}               # instead of allow: rlskit leaves the table alone

{tables}
"""
_SAMPLE = '# [tables.todo]\n# allow = [{ owner = "owner" }]   # whoever the text column `owner` names; a column that is missing is added'


def _rule_file(project: Project, role: str, known: Sequence[Table]) -> tuple[Change, str]:
    text = _TOML.format(
        role=json.dumps(role, ensure_ascii=False), tables="\n\n".join(map(_section, known)) if known else _SAMPLE
    )
    return Change(project.root / RULES_FILE, RULES_FILE, None, text.encode()), RULES_FILE


def _section(table: Table) -> str:
    schema, name = table.name.schema, table.name.name
    dotted = name if schema == "public" else f"{schema}.{name}"
    lines = []
    if "." in schema + name:  # the key would be split there
        dotted, lines = name, [f"schema = {_toml(schema)}"]
    if table.owner is not None:
        claim = ', identity_claim = "sub"' if table.is_uuid else ""
        lines.append(f"allow = [{{ owner = {_toml(table.owner)}{claim} }}]")
    elif name == "alembic_version":
        lines.append('unmanaged = { reason = "alembic\'s own" }')
    else:
        lines.append('unmanaged = { reason = "not decided yet" }   # no column that looks like an owner')
    key = dotted if re.fullmatch(r"[A-Za-z0-9_-]+", dotted) else _toml(dotted)
    return "\n".join(f"# {line}" for line in [f"[tables.{key}]", *lines])


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- alembic -----------------------------------------------------------------------------------------------


def _env(environment: Environment, project: Project, rules: str, *, made: bool) -> tuple[Change | None, list[str]]:
    """The change of env.py where one is needed, and what is to be done by hand. ``made``: the rules are, and so import every model."""
    env = environment.env
    needed = f"`import rlskit.alembic`, and `rls_rules=…` with the rules of {rules} in each context.configure(…)"
    if env is None or not env.is_relative_to(project.root):
        where = "does not say where env.py is" if env is None else "has an env.py outside of this folder"
        return None, [f"{environment.config.name} {where}; it needs {needed}"]
    place = env.relative_to(project.root)
    before = env.read_bytes()
    base = project.base if re.search(rb"^target_metadata = None", before, re.MULTILINE) else None
    # Where nothing imports the models, autogenerate would drop their tables: then it is for people.
    known = base is not None and (made or {each.place.module for each in project.models} == {base.module})
    try:
        after = splicer.splice(
            before,
            lambda name: _binding(place, rules, name, base if known else None),
            metadata=f"{base.name}.metadata" if base is not None and known else None,
        )
    except (SyntaxError, ValueError):
        return None, [
            f"{place.as_posix()} is not what Alembic's templates are like, and is left alone; it needs {needed}"
        ]
    notes = []
    if base is not None and re.search(rb"^target_metadata = None", after, re.MULTILINE):
        notes.append(
            f"{place.as_posix()}: target_metadata is None; autogenerate compares models with {base.name}.metadata"
        )
    if b"engine_name" in before:
        notes.append(
            f"{place.as_posix()} serves several databases: leave `rls_rules` where the rules' tables are, and take it out elsewhere"
        )
    return (Change(env, place.as_posix(), before, after) if after != before else None), notes


def _binding(place: Path, rules: str, name: str, base: Name | None) -> Iterator[str]:
    module, colon, attribute = rules.partition(":")
    models = [f"from {base.module} import {base.name}"] if base else []
    yield ""
    if colon:
        yield "import rlskit.alembic  # noqa: F401 - Alembic knows row security by it"
        yield f"from {module} import {attribute}{'' if attribute == name else f' as {name}'}"
        yield from models
        return
    yield from ("from pathlib import Path", "", "import rlskit.alembic", *models, "")
    yield f'{name} = rlskit.load(Path(__file__).parents[{len(place.parts) - 1}] / "{rules}")'
