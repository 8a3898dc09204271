"""The tables of a MetaData, each with the classes that are mapped to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Column, MetaData, Table
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.mapper import _all_registries  # nothing public tells which classes the tables of a MetaData have

from rlskit.errors import RuleError
from rlskit.names import QualifiedName
from rlskit.words import did_you_mean


class HasMetaData(Protocol):
    """A declarative base class, SQLModel's too, or a registry."""

    @property
    def metadata(self) -> MetaData:
        """The tables that it makes."""


Models: TypeAlias = HasMetaData | MetaData


@dataclass(frozen=True, eq=False)
class Model:
    """A table and the mappers that keep their rows in it: none for a plain table, several for single-table inheritance."""

    table: Table
    name: QualifiedName
    mappers: tuple[Mapper[Any], ...]

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"class `{full_name(self.mappers[0].class_)}`" if self.mappers else f"table `{self.name}`"

    @property
    def roots(self) -> tuple[Mapper[Any], ...]:
        """The mappers that get the table's columns from no other."""
        return tuple(each for each in self.mappers if each.inherits not in self.mappers)

    @cached_property
    def words(self) -> dict[str, dict[str, Column[Any]]]:
        """Every word that a rule may have for a column, an attribute's or the column's own, and the columns that it could mean."""
        found: dict[str, dict[str, Column[Any]]] = {}
        for column in self.table.columns:
            for word in (str(column.name), column.key):
                found.setdefault(word, {})[str(column.name)] = column
        for mapper in self.mappers:
            for attribute in mapper.column_attrs:
                for each in attribute.columns:
                    if isinstance(each, Column) and each.table is self.table:
                        found.setdefault(attribute.key, {})[str(each.name)] = each
        return found


def models_of(source: Models, schema: str, schemas: Iterable[str] | None) -> list[Model]:
    """Return the tables of a MetaData, or of the one that a base class or a registry has, with their classes; parents before children.

    ``schema`` is that of tables that name none; ``schemas`` narrows. Raises RuleError for another source, for a schema without a table,
    and for rules of a class that is mapped to no table.
    """
    metadata = source if isinstance(source, MetaData) else getattr(source, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise RuleError(
            f"`{full_name(type(source))}` has no tables",
            hint="give the declarative base class, a registry or a MetaData",
        )
    mappers: dict[object, list[Mapper[Any]]] = {table: [] for table in metadata.tables.values()}
    managers = (each for registry in _all_registries() for each in registry._managers)
    for mapper in sorted((each.mapper for each in managers if each.is_mapped), key=_order):
        if mapper.local_table in mappers:
            mappers[mapper.local_table].append(mapper)
        elif (
            not isinstance(mapper.local_table, Table)
            and mappers.keys() & set(mapper.tables)
            and "__rls__" in vars(mapper.class_)
        ):
            raise RuleError(
                f"class `{full_name(mapper.class_)}` is mapped to no table of its own, and rules are for tables",
                hint="put `__rls__` on the classes of its tables",
            )
    for registry in {mapper.registry for found in mappers.values() for mapper in found}:
        registry.configure(cascade=True)
    models = [Model(table, qualified(table, schema), tuple(mappers[table])) for table in metadata.tables.values()]
    if schemas is not None:
        there = sorted({model.name.schema for model in models})
        schemas = [schemas] if isinstance(schemas, str) else list(schemas)
        for missing in [each for each in schemas if each not in there]:
            raise RuleError(f"no table is in schema `{missing}`", hint=did_you_mean(missing, there), key="schemas")
        models = [model for model in models if model.name.schema in schemas]
    return sorted(models, key=lambda model: (_order(model.mappers[0])[0] if model.mappers else 0, model.name))


def qualified(table: Table, schema: str) -> QualifiedName:
    """The table's name, in this schema where it names none."""
    return QualifiedName(str(table.schema or schema), str(table.name))


def full_name(kind: type) -> str:
    """A class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _order(mapper: Mapper[Any]) -> tuple[int, str]:
    """Parents before children."""
    return len(list(mapper.iterate_to_root())), full_name(mapper.class_)
