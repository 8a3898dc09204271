"""Rules out of SQLAlchemy's models."""

from __future__ import annotations

from collections.abc import Iterable

from rlskit.compiler import compile
from rlskit.names import checked_name
from rlskit.rules import Rules
from rlskit.sqlalchemy import mapping
from rlskit.sqlalchemy.declarations import declared
from rlskit.sqlalchemy.privileges import Privileges
from rlskit.sqlalchemy.tables import Models, models_of
from rlskit.vocabulary import Mode


def rules_from(
    models: Models,
    *,
    role: str,
    bypass_role: str | None = None,
    mode: Mode | None = None,
    schema: str = "public",
    schemas: Iterable[str] | None = None,
    require_all: bool = True,
) -> Rules:
    """Return the rules that models say beside themselves, and map them so that the ORM keeps to the privileges. Once, when all are defined.

    ``models`` is a declarative base class, SQLModel's too, a registry or a MetaData: all tables of the one MetaData count, and every class
    that is mapped to one. ``schema`` is that of tables that name none, ``schemas`` narrows to these, ``require_all=False`` passes over tables
    that say nothing; the others are those of ``Rules``.

    A missing owner column becomes a column of the table and an attribute of its classes. What nobody sets, the ORM leaves to the database;
    what nobody may read, it never loads. Do this before the first statement: what an engine has compiled, it keeps.

    Raises RuleError for a table that says nothing, twice something else, or what cannot be meant; UnknownColumnError for a column that the
    model lacks; UnsupportedRuleError for what the ORM could not keep to. Nothing is mapped then.
    """
    checked_name(schema, "schema", key="schema")
    said = declared(models_of(models, schema, schemas), schema, require_all=require_all)
    rules = Rules(*said.values(), role=role, bypass_role=bypass_role, mode=mode, schema=schema)
    wanted = compile(rules)
    allowed = {model: Privileges(wanted.of(model.name)) for model in said if wanted.of(model.name)}
    for model, privileges in allowed.items():
        mapping.check(model, privileges)
    for model, privileges in allowed.items():
        mapping.adapt(model, privileges)
    return rules
