"""A row as a test speaks of it: its table, what finds it there, and what else is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rlskit.errors import KitError


@dataclass(frozen=True, slots=True, eq=False)
class Row(Mapping[str, Any]):
    """A row of ``table``, a name as the rules have it: ``row["id"]`` is a value of it, and ``key`` what finds it.

    What `insert` gives is stored, knows every column and is found by its primary key; what `row` makes is found by all that it was given.
    """

    table: str
    values_: Mapping[str, Any] = field(repr=False)
    key: Mapping[str, Any] = field(repr=False)
    is_stored: bool = False

    def __getitem__(self, column: str) -> Any:
        return self.values_[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def __str__(self) -> str:
        """The row by its key alone: no other value of it belongs in a report."""
        return " ".join([self.table, *(f"{name}={value}" for name, value in self.key.items())])


def row(table: str, **values: Any) -> Row:
    """A row of ``table`` that these values find, or that a create is to make: ``row("todo", id=1)``. Raises KitError without a value."""
    if not values:
        raise KitError("a row without a value is any row", hint='say what finds it: row("todo", id=1)')
    given = MappingProxyType(dict(values))
    return Row(table, given, given)
