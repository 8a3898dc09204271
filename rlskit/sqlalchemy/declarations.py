"""What models say about access: ``__rls__`` on classes, ``info`` on tables and columns, as rules that hold the columns' own names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ARRAY, Column, Enum, String, Uuid, inspect
from sqlalchemy.orm import ColumnProperty, Mapper
from sqlalchemy.types import TypeDecorator, TypeEngine

from rlskit.errors import RuleError, UnknownColumnError
from rlskit.names import QualifiedName
from rlskit.rules import Open, Rule, TableRules, Unmanaged, checked_rules
from rlskit.sqlalchemy.tables import Model, full_name
from rlskit.words import did_you_mean

_KEY = "rls"  # in the info of a table or of a column
_SAY_SO = (
    "give each its rules in `__rls__`, or a table without a class in its info; or say Open(reason=…) or "
    "Unmanaged(reason=…) there"
)


def column_rules(*rules: Rule) -> dict[Any, Any]:
    """Return the ``info`` of a column with rules of its own, which replace the table's for it; without a rule they mean nobody.

    ``mapped_column(info=column_rules(allow.same().to("read")))``. Raises RuleError for what is no rule.
    """
    return {_KEY: checked_rules(rules)}


def declared(models: Iterable[Model], schema: str, *, require_all: bool) -> dict[Model, TableRules]:
    """Return the rules of every model that says some, named, and with the columns' own names.

    Raises RuleError, UnknownColumnError and UnsupportedRuleError with the place, and one RuleError for all tables that say nothing.
    """
    said = {model: _declared(model, schema) for model in models}
    if require_all and (silent := [_silence(model) for model, rules in said.items() if rules is None]):
        raise RuleError(f"nothing says who may do what to {', '.join(silent)}", hint=_SAY_SO)
    return {model: rules for model, rules in said.items() if rules is not None}


# --- what one table says -----------------------------------------------------------------------------------


def _declared(model: Model, schema: str) -> TableRules | None:
    said = _said(model, schema)
    beside = {str(each.name): each.info[_KEY] for each in model.table.columns if _KEY in each.info}
    if said is None:
        for column in beside:
            raise RuleError(f"{model.place} has rules for column `{column}` and none for its table", hint=_SAY_SO)
        return None
    names = _Names(model)
    try:
        allow = tuple(map(names.in_rule, said.allow)) if isinstance(said.allow, tuple) else (said.allow,)
        by_word = [(word, tuple(map(names.in_rule, rules))) for word, rules in said.columns]
        columns = {names.of_column(word): rules for word, rules in by_word}  # which may be an owner's that is missing
        for column, rules in beside.items():
            if column in columns:
                raise RuleError(
                    f"column `{column}` has rules beside it and in `columns`", hint="keep the one or the other"
                )
            columns[column] = tuple(map(names.in_rule, checked_rules(rules)))
        return TableRules(
            model.name.name,
            *allow,
            columns=columns,
            match=said.match,
            schema=model.name.schema,
            reassign=said.reassign,
            keep=dict(said.keep),
        )
    except RuleError as error:
        raise _placed(model.place, error) from None


def _said(model: Model, schema: str) -> TableRules | None:
    """The one set of rules that the table's classes and its info say, perhaps more than once."""
    said = [
        (f"class `{full_name(mapper.class_)}`", _table_rules(model, mapper.class_.__rls__, schema))
        for mapper in model.mappers
        if _speaks(mapper)
    ]
    if _KEY in model.table.info:
        said.append((f"the info of table `{model.name}`", _table_rules(model, model.table.info[_KEY], schema)))
    for place, rules in said[1:]:
        if rules != said[0][1]:
            raise RuleError(
                f"{place} says other rules than {said[0][0]}, for the same table",
                hint="a table has one set of rules: say it in one place",
            )
    return said[0][1] if said else None


def _table_rules(model: Model, value: object, schema: str) -> TableRules:
    """The value of ``__rls__``, or of a table's info, as rules that name no table."""
    if isinstance(value, TableRules):
        named = QualifiedName(schema, value.table) if isinstance(value.table, str) else value.table
        if named not in (None, model.name):
            raise RuleError(
                f"{model.place} is table `{model.name}`, and its rules name table `{named}`",
                hint="leave the name out: TableRules(allow.owner())",
            )
        return value
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    for each in given:
        if not isinstance(each, Rule | Open | Unmanaged):
            raise RuleError(
                f"{model.place}: `__rls__` holds a `{full_name(type(each))}`, which is no rule of rlskit's",
                hint="rules begin with `allow.`: allow.owner(); keep another library's declarations under another name",
            )
    try:
        return TableRules(*given)
    except RuleError as error:
        raise _placed(model.place, error) from None


def _speaker(mapper: Mapper[Any]) -> type | None:
    """The class whose ``__rls__`` a mapped class has: itself, a mixin, an abstract base or a mapped parent."""
    return next((each for each in mapper.class_.__mro__ if "__rls__" in vars(each)), None)


def _speaks(mapper: Mapper[Any]) -> bool:
    """Whether the rules that a mapped class has are for its table; those of a parent with another table are not."""
    speaker = _speaker(mapper)
    parent: Mapper[Any] | None = inspect(speaker, raiseerr=False) if speaker else None
    return speaker is not None and (parent is None or parent.local_table is mapper.local_table)


def _silence(model: Model) -> str:
    """A table of which nothing is said, and why its parent's rules do not count."""
    if not model.mappers:
        return f"`{model.name}`"
    mapper = model.mappers[0]
    parent = _speaker(mapper)
    inherits = (
        f", which has a table of its own and does not inherit the rules of `{full_name(parent)}`" if parent else ""
    )
    return f"`{model.name}` ({model.place}{inherits})"


def _placed(place: str, error: RuleError) -> RuleError:
    return type(error)(f"{place}: {error.message}", hint=error.hint, key=error.key)


# --- names -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """The words that a model's rules have for columns, each turned into the column's own name. ``used`` are those of one declaration."""

    model: Model
    used: dict[str, str] = field(default_factory=dict)

    def of_column(self, word: str) -> str:
        """The name of the column that a column rule is for. Raises RuleError and UnknownColumnError."""
        name = self._named(word)
        if name is None and word in self.used:
            return word
        if name is None:
            raise UnknownColumnError(
                f"there is no column `{word}`, which a column rule names",
                hint=did_you_mean(word, sorted(self.model.words)),
            )
        return name

    def in_rule(self, rule: Rule) -> Rule:
        """The rule with the name of its owner column, which may be missing where no name is like it. Raises RuleError and UnknownColumnError."""
        if rule.column is None:
            return rule
        name = self._named(rule.column)
        if name is None:
            self._refuse_misspelling(rule, rule.column)
            self._refuse_attribute(rule.column)
            self.used[rule.column] = rule.column
            return rule
        return replace(rule, column=name)

    def _named(self, word: str) -> str | None:
        meant = self.model.words.get(word, {})
        if len(meant) > 1:
            columns = " and ".join(f"`{each}`" for each in sorted(meant))
            raise RuleError(
                f"`{word}` could be the columns {columns}: it is the name of an attribute and of another column",
                hint="name the attribute otherwise, or the column",
            )
        name = next(iter(meant), None)
        if name is not None and self.used.setdefault(name, word) != word:
            raise RuleError(
                f"column `{name}` has two names in these rules, `{self.used[name]}` and `{word}`",
                hint="write one of them everywhere",
            )
        return name

    def _refuse_misspelling(self, rule: Rule, word: str) -> None:
        meant = [each for each, columns in self.model.words.items() if any(map(_names_somebody, columns.values()))]
        near = did_you_mean(word, sorted(meant))
        if near.startswith("did"):
            raise UnknownColumnError(
                f"there is no column `{word}`, which {rule} names",
                hint=f"{near} otherwise declare the column: rlskit adds one only where no name is like it",
            )

    def _refuse_attribute(self, word: str) -> None:
        """The column that is added needs an attribute; one that is a column of another table's, it shares."""
        for mapper in {below for root in self.model.roots for below in root.self_and_descendants}:
            mapped = mapper.attrs.get(word)
            if not isinstance(mapped, ColumnProperty) and hasattr(mapper.class_, word):
                raise RuleError(
                    f"`{full_name(mapper.class_)}.{word}` is no column, so the owner column `{word}` cannot have that name",
                    hint="name another column: allow.owner_defined_in(…); or declare it under another attribute, "
                    f'mapped_column("{word}", server_default=FetchedValue())',
                )


def _names_somebody(column: Column[Any]) -> bool:
    """Whether the column could name somebody. One that could not, such as `done boolean`, is no other spelling of `owner`."""
    kind: TypeEngine[Any] = column.type
    while isinstance(kind, ARRAY | TypeDecorator):
        kind = kind.item_type if isinstance(kind, ARRAY) else kind.impl_instance
    return isinstance(kind, String | Uuid) and not isinstance(kind, Enum)
