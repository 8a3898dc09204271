"""What rules ask of a mapping: that the ORM sends, fetches and waits for nothing that the application's role may not.

SQLAlchemy has no public way to change how a mapped attribute is loaded, or to make a mapper forget what it remembers: what is done here by
names of its own, the tests try with the oldest and the newest release.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from sqlalchemy import Column, FetchedValue, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ColumnProperty, InstanceState, LoaderCallableStatus, Mapper, PassiveFlag, column_property
from sqlalchemy.sql.visitors import iterate

from rlskit.errors import UnsupportedRuleError
from rlskit.sqlalchemy.privileges import Privileges
from rlskit.sqlalchemy.tables import Model, full_name
from rlskit.vocabulary import Operation

_WRITES: dict[Literal["create", "update"], str] = {"create": "set", "update": "update"}  # what it does to a column


# --- what cannot work --------------------------------------------------------------------------------------


def check(model: Model, allowed: Privileges) -> None:
    """Raise UnsupportedRuleError where the ORM would read or write what the role may not, whatever the application does."""
    if allowed.may("read"):
        _check_reads(model, allowed)
    for operation in _WRITES:
        if allowed.may(operation):
            _check_writes(model, allowed, operation)
    if allowed.may("create"):
        _check_not_null(model, allowed)
        _check_returning(model, allowed)


def _check_reads(model: Model, allowed: Privileges) -> None:
    closed = {column for column in model.table.columns if column.name not in _names(model, allowed, "read")}
    for mapper in model.mappers:
        for column, what in _needed(mapper, model):
            if column in closed:
                raise UnsupportedRuleError(
                    f"{model.place}: nobody may read column `{column.name}`, {what}, and the ORM loads no row without it",
                    hint="give the column a rule with read, or none of its own",
                )
    for mapper in _neighbours(model) if closed else ():
        for attribute in mapper.column_attrs:
            expressions = [each for each in attribute.columns if not isinstance(each, Column)]
            inside = {part for each in expressions for part in iterate(each) if isinstance(part, Column)}
            if not attribute.deferred and inside & closed:
                raise UnsupportedRuleError(
                    f"`{full_name(mapper.class_)}.{attribute.key}` is loaded with every row and reads a column that nobody may read",
                    hint="leave the column out of the expression",
                )


def _neighbours(model: Model) -> set[Mapper[Any]]:
    """All that could load the table's columns."""
    return {each for mine in model.mappers for each in mine.registry.mappers}


def _needed(mapper: Mapper[Any], model: Model) -> Iterator[tuple[Column[Any], str]]:
    """The columns without which the ORM cannot tell what it has loaded."""
    for key in {*mapper.primary_key, *model.table.primary_key}:
        yield key, "of the primary key"
    if isinstance(mapper.version_id_col, Column):
        yield mapper.version_id_col, "the version counter"
    if isinstance(mapper.polymorphic_on, Column):
        yield mapper.polymorphic_on, "which tells the classes apart"


def _check_writes(model: Model, allowed: Privileges, operation: Literal["create", "update"]) -> None:
    granted = _names(model, allowed, operation)
    names = [str(each.name) for each in model.table.columns if operation == "update" or not each.primary_key]
    guarded = allowed.depends_on_row(operation, names)
    for column, how, way_out in _written(model, operation):
        if column.name not in granted or column.name in guarded:
            who = "nobody may" if column.name not in granted else f"not everybody who may {operation} a row may"
            raise UnsupportedRuleError(
                f"{model.place}: {who} {_WRITES[operation]} column `{column.name}`, and the model does it every time, by {how}",
                hint=f"{way_out}, or give {operation} to whoever may {operation} a row",
            )


def _written(model: Model, operation: Literal["create", "update"]) -> Iterator[tuple[Column[Any], str, str]]:
    """The columns that the ORM writes by itself, by what, and how to let the database do it."""
    for column in model.table.columns:
        if operation == "create" and column.default is not None:
            yield column, "`default`", "let the database do it: `server_default`"
        if operation == "update" and column.onupdate is not None:
            yield column, "`onupdate`", "let a trigger do it, and say `server_onupdate=FetchedValue()`"
    for mapper in model.mappers:
        counter, kind = mapper.version_id_col, mapper.polymorphic_on
        if isinstance(counter, Column) and counter.table is model.table and mapper.version_id_generator is not False:
            yield counter, "`version_id_col`", "let a trigger do it, and say `version_id_generator=False`"
        if operation == "create" and isinstance(kind, Column) and kind.table is model.table:
            yield kind, "`polymorphic_on`", "leave the column without a rule of its own"


def _check_not_null(model: Model, allowed: Privileges) -> None:
    known = _names(model, allowed, "create") | allowed.filled
    for column in model.table.columns:
        if (
            column.nullable
            or column.name in known
            or _has_default(column)
            or column is model.table.autoincrement_column
        ):
            continue
        raise UnsupportedRuleError(
            f"{model.place}: nobody may set column `{column.name}`, which is NOT NULL and has no default, so nobody could create a row",
            hint=f'add create to a rule of `{column.name}`: allow.same().to("create", "read"); or give it a `server_default`',
        )


def _check_returning(model: Model, allowed: Privileges) -> None:
    if not allowed.create_without_read:
        return
    for key in model.table.primary_key:
        if key.default is None:
            by_server = key.server_default is not None or key is model.table.autoincrement_column
        else:
            by_server = key.default.is_sequence or key.default.is_clause_element
        if by_server:
            raise UnsupportedRuleError(
                f"{model.place}: not everybody who may create a row may read it, and the key `{key.name}` comes from the server: "
                "INSERT … RETURNING needs read",
                hint="give read to whoever creates, or let the model make the key: default=uuid4, or autoincrement=False and a value of its own",
            )


def _has_default(column: Column[Any]) -> bool:
    return column.default is not None or column.server_default is not None


def _names(model: Model, allowed: Privileges, operation: Operation) -> frozenset[str]:
    return allowed.columns(operation, [str(each.name) for each in model.table.columns])


# --- what is brought into line -----------------------------------------------------------------------------


def adapt(model: Model, allowed: Privileges) -> None:
    """Map the owner columns that are missing, leave to the database what nobody sets, and load nothing that nobody may read.

    A second time it changes nothing. What the ORM has compiled for an engine before, it keeps.
    """
    _add_owners(model, allowed)
    _leave_defaults_to_the_database(model, allowed)
    readable = _names(model, allowed, "read")
    closed = {each for each in model.table.columns if allowed.may("read") and each.name not in readable}
    for mapper in model.roots:
        if allowed.create_without_read or any(map(_comes_back, closed)):
            mapper.base_mapper.eager_defaults = False  # or else RETURNING names them
        for below in mapper.self_and_descendants:
            below._expire_memoizations()
    for mapper in _neighbours(model) if closed else ():
        for attribute in mapper.column_attrs:
            if closed.intersection(attribute.columns):
                _close(attribute, mapper)


def _add_owners(model: Model, allowed: Privileges) -> None:
    there = {str(each.name) for each in model.table.columns}
    for name, many in allowed.owners.items():
        if name not in there:
            column = Column(name, ARRAY(Text) if many else Text, nullable=True, server_default=FetchedValue())
            model.table.append_column(column)
            for mapper in model.roots:
                _map(mapper, name, column)


def _map(mapper: Mapper[Any], name: str, column: Column[Any]) -> None:
    """Map the column by its name. A parent's or a child's attribute of that name, for its own table, becomes one with it."""
    # A concrete child has nothing of its parent's table.
    inheriting = [each for each in mapper.self_and_descendants if mapper.local_table in each.tables]
    above, *below = [each.column_attrs.get(name) for each in inheriting]
    if above is None:
        mapper.add_property(name, column)
    else:
        mapper._configure_property(name, column_property(column, *above.columns))
    for each, attribute in zip(inheriting[1:], below, strict=True):
        if attribute is not None:
            each._configure_property(name, column_property(*dict.fromkeys((*attribute.columns, column))))


def _leave_defaults_to_the_database(model: Model, allowed: Privileges) -> None:
    """Without a default the ORM sends NULL for what nobody has set."""
    names = [str(each.name) for each in model.table.columns]
    left = set(allowed.filled)
    if allowed.may("create"):
        left |= set(names) - allowed.columns("create", names) | allowed.depends_on_row("create", names)
    for column in model.table.columns:
        if column.name in left and not column.primary_key and not _has_default(column):
            column.server_default = FetchedValue()


def _comes_back(column: Column[Any]) -> bool:
    """Whether the ORM would have the column returned by INSERT or UPDATE."""
    made = [each for each in (column.default, column.onupdate) if each is not None and each.is_clause_element]
    return bool(made) or column.server_default is not None or column.server_onupdate is not None


def _close(attribute: ColumnProperty[Any], mapper: Mapper[Any]) -> None:
    """Load the attribute never: not with a row, not in a subquery, not with its group, not when it is read, which is an error."""
    attribute.deferred = attribute.raiseload = True
    attribute.group = None
    attribute._renders_in_subqueries = False  # type: ignore[attr-defined]
    attribute.strategy_key = (("deferred", True), ("instrument", attribute.instrument), ("raiseload", True))
    attribute.strategy = attribute._get_strategy(attribute.strategy_key)
    attribute.strategy.is_class_level = True
    implementation = mapper.class_manager[attribute.key].impl
    implementation.callable_ = _refusing(f"{full_name(mapper.class_)}.{attribute.key}")
    implementation.load_on_unexpire = False


def _refusing(name: str) -> Any:
    """What an attribute calls to be loaded."""

    def load(state: InstanceState[Any], passive: PassiveFlag) -> LoaderCallableStatus:
        if not state.key:
            return LoaderCallableStatus.ATTR_EMPTY
        if not passive & PassiveFlag.SQL_OK:
            return LoaderCallableStatus.PASSIVE_NO_RESULT
        raise InvalidRequestError(f"`{name}` is not loaded: by the rules nobody may read it")

    return load
