"""One row that is being made up: which columns it names, and with which values; what the server refuses moves it on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from random import Random
from typing import Any, TypeAlias

from psycopg import DataError, Error
from psycopg.errors import (
    CheckViolation,
    ExclusionViolation,
    ForeignKeyViolation,
    NotNullViolation,
    UniqueViolation,
)

from rlskit.filler.candidates import Value, candidates
from rlskit.filler.shapes import Column, ForeignKey, Limit, Shape
from rlskit.filler.wishes import Constant, Wish, constants

MOST_FRESH = 50  # times that other fresh values are tried where a row like this is there already

MOST_RESTARTS = 3  # times that all choices are gone through again with other values


class Out(Enum):
    """A column that is left out of the INSERT."""

    OUT = "left out"


@dataclass(frozen=True, slots=True)
class Parent:
    """The value is that of a parent row: the first, second, third of those that are shared."""

    number: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server did not take: a constraint, or something in these columns; both are empty where it does not say."""

    columns: tuple[str, ...] = ()
    constraint: str = ""


Option: TypeAlias = Value | Parent | Out | None
OUT = Out.OUT
_CAST = re.compile(r"""\((?:[a-z_]\w*|"[^"]+")\)::(?!text|character)""")  # of a column, to what not every text is
_PARENTS = (Parent(0), Parent(1), Parent(2))


class Draft:
    """A row of ``shape`` that has the values ``fixed``, and others that are still looked for.

    ``known`` are the places of options that did before. ``fresh`` are the foreign keys that need a parent of their own; it grows, and is shared by
    the drafts of a table. ``asked`` are columns that are not left out, though they may be.
    """

    def __init__(
        self,
        shape: Shape,
        fixed: Mapping[str, Any],
        numbers: Iterator[int],
        *,
        known: Mapping[str, int],
        fresh: set[str],
        asked: Iterable[str] = (),
    ) -> None:
        self.shape, self.fixed, self.fresh = shape, dict(fixed), fresh
        self.refused = Refusal()
        self._numbers, self._random = numbers, Random(next(numbers))  # noqa: S311 - keeps no secret
        self._open = {each.name: each for each in shape.columns if each.name not in self.fixed and not each.generated}
        self._brought = set(asked)
        self._drawn: dict[str, list[Value]] = {}
        self._places = {name: place for name, place in known.items() if name in self._open}
        self._searched = [limit for limit in shape.limits if limit.is_search and self._open.keys() & set(limit.columns)]
        self._groups = _connected([self._open.keys() & set(limit.columns) for limit in self._searched])
        self._moves: dict[frozenset[str], Iterator[tuple[int, ...]]] = {}
        self._renewed = self._restarts = self._turns = 0

    # --- what the row is now ---------------------------------------------------------------------------------

    @property
    def places(self) -> dict[str, int]:
        """Which options are chosen, for the next draft."""
        return dict(self._places)

    def chosen(self) -> dict[str, Value | Parent | None]:
        """What is chosen for the columns that are not fixed; a column that is left out is not in it."""
        found: dict[str, Value | Parent | None] = {}
        for name, column in self._open.items():
            if self._needs(column) or any(name in group for group in self._groups):
                options = self._options(column)
                option = options[self._places.get(name, 0) % len(options)] if options else None
                if not isinstance(option, Out):
                    found[name] = option
        return found

    def unknown(self) -> str | None:
        """A column that needs a value, and is of a type that none is known of."""
        return next((name for name, each in self._open.items() if self._needs(each) and not self._options(each)), None)

    def value(self, name: str) -> Value | None:
        """A value for a column that nobody asked for."""
        return next(iter(self._candidates(self._open[name])), None)

    def binds(self, key: ForeignKey) -> bool:
        """Whether each of the key's columns has a value, as far as it is fixed or has to be named."""
        return all(self._has(each) for each in key.columns)

    def _has(self, name: str) -> bool:
        return (
            self.fixed[name] is not None if name in self.fixed else name in self._open and self._needs(self._open[name])
        )

    def _needs(self, column: Column) -> bool:
        return column.required or column.name in self._brought

    def _options(self, column: Column) -> list[Option]:
        options: list[Option] = [] if self._needs(column) else [OUT]
        options += _PARENTS if self._has_parent(column) else self._candidates(column)
        if not column.not_null and column.has_default:
            options.append(None)
        return options

    def _has_parent(self, column: Column) -> bool:
        """Whether the value is a parent's: not where a column that goes with it stays NULL."""
        return any(
            column.name in key.columns
            and all(self.fixed.get(each, "") is not None for each in key.columns)
            and (not self._needs(column) or self.binds(key))
            for key in self.shape.foreign_keys
        )

    def _candidates(self, column: Column) -> list[Value]:
        if column.name not in self._drawn:
            self._drawn[column.name] = self._draw(column)
        return self._drawn[column.name]

    def _draw(self, column: Column) -> list[Value]:
        number = next(self._numbers)
        distinct = any(column.name in limit.columns for limit in self.shape.limits if not limit.is_search)
        said: dict[Constant, None] = {}
        for limit in self.shape.limits:
            if limit.is_search and column.name in limit.columns:
                said |= dict.fromkeys(constants(limit.definition))
        return candidates(column.kind, column.modifier, Wish(tuple(said), number, distinct, self._random))

    # --- what was wrong with it ------------------------------------------------------------------------------

    def moves_on(self, error: Error) -> bool:
        """Change the row because of what the server raised; False where nothing is left to change."""
        name = error.diag.constraint_name or ""
        self.refused = Refusal((), name)
        match error:
            case NotNullViolation():
                self.refused = Refusal((error.diag.column_name,) if error.diag.column_name else ())
                return self._bring_in(self.refused.columns)
            case ForeignKeyViolation():
                key = next((each for each in self.shape.foreign_keys if each.name == name), None)
                self.refused = Refusal(key.columns if key else (), name)
                return self._bring_in(self.refused.columns)
            case UniqueViolation() | ExclusionViolation():
                limit = self._limit(lambda each: not each.is_search and each.name == name)
                return limit is not None and self._renew(limit)
            case CheckViolation():
                kind = "domain" if error.diag.datatype_name else "check" if name else "partition"
                limit = self._limit(lambda each: each.kind == kind and each.name == name)
                if limit is not None and limit.kind == "partition" and not limit.definition:
                    return self._renew(limit)  # by a hash
                return limit is not None and self._advance_for(limit)
            case DataError():
                return self._try_others()
        return False

    def _limit(self, is_meant: Callable[[Limit], bool]) -> Limit | None:
        limit = next(filter(is_meant, self.shape.limits), None)
        if limit is not None:
            self.refused = Refusal(limit.columns, limit.name)
        return limit

    def _bring_in(self, names: Iterable[str]) -> bool:
        """Name columns that were left out."""
        more = {
            each for each in names if each in self._open and not self._needs(self._open[each])
        } - self.chosen().keys()
        self._brought |= more
        self._moves.clear()  # there are fewer options now
        return bool(more)

    def _renew(self, limit: Limit) -> bool:
        """Take values that are not there yet, and at last a parent that has no such row yet."""
        names = [each for each in limit.columns if each in self._open]
        self._renewed += 1
        if not names or self._renewed > MOST_FRESH:
            return False
        self._bring_in(names)
        for each in names:
            self._drawn.pop(each, None)
        first = {column: key.name for key in reversed(self.shape.foreign_keys) for column in key.columns}
        self.fresh |= {first[each] for each in [name for name in names if name in first][-1:]}
        return True

    def _advance_for(self, limit: Limit) -> bool:
        group = next((each for each in self._groups if each & set(limit.columns)), None)
        return group is not None and self._advance(group)

    def _advance(self, group: frozenset[str]) -> bool:
        """The next choice for columns that conditions connect, those near the beginning of each one's options first."""
        names = sorted(group, key=list(self._open).index)
        now = tuple(self._places.get(each, 0) for each in names)
        moves = self._moves.get(group) or self._start(group, names)
        places = next((each for each in moves if each != now), None)
        if places is None and self._restarts < MOST_RESTARTS:
            self._restarts += 1
            self._redraw(group)
            places = next(self._start(group, names), None)
        if places is None:
            return False
        self._places |= dict(zip(names, places, strict=True))
        return True

    def _start(self, group: frozenset[str], names: list[str]) -> Iterator[tuple[int, ...]]:
        self._moves[group] = _diagonally([len(self._options(self._open[each])) for each in names])
        return self._moves[group]

    def _redraw(self, group: frozenset[str]) -> None:
        """Other values at random, for patterns and the like; and where one parent is a fresh one, fresh ones for all."""
        for each in group:
            self._drawn.pop(each, None)
        keys = {key.name for key in self.shape.foreign_keys if group & set(key.columns)}
        if keys & self.fresh:
            self.fresh |= keys

    def _try_others(self) -> bool:
        """A value could not even be looked at, and the server does not say which one."""
        casting = [each for each in self._searched if _CAST.search(each.definition)]
        groups = [each for each in self._groups if any(each & set(limit.columns) for limit in casting)] or self._groups
        self._turns += 1
        return bool(groups) and self._advance(groups[self._turns % len(groups)])


def _connected(sets: Iterable[set[str]]) -> list[frozenset[str]]:
    """The sets, those joined that have something in common."""
    groups: list[frozenset[str]] = []
    for each in sets:
        touched = [group for group in groups if group & each]
        groups = [*(group for group in groups if group not in touched), frozenset(chain(each, *touched))]
    return groups


def _diagonally(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Every choice of one place in each, by the sum of the places."""
    for total in range(sum(sizes) - len(sizes) + 1):
        yield from _summing_to(total, sizes)


def _summing_to(total: int, sizes: list[int]) -> Iterator[tuple[int, ...]]:
    first, *others = sizes
    if not others:
        if total < first:
            yield (total,)
        return
    for place in range(min(total, first - 1) + 1):
        for rest in _summing_to(total - place, others):
            yield (place, *rest)
