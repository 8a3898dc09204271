"""What a value is wanted for, and the constants in the conditions that it has to meet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from random import Random

_TEXTS = {"text", "character varying", "character", "bpchar", "name", None}
_CONSTANT = re.compile(
    r"""(?P<operator>!?~~\*?|!?~\*?|similar_to_escape\()?\s*\(?
        (?:'(?P<quoted>(?:[^']|'')*)'(?:::(?P<type>(?:[a-z_0-9. ]|"[^"]*")+(?:\[\])?))?
          | (?<![\w"'.$])(?P<number>-?\d+(?:\.\d+)?)(?![\w"']))""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant in a condition: its text, its type where it says one, and the operator of patterns before it."""

    text: str
    type: str | None = None
    operator: str | None = None

    @property
    def number(self) -> Decimal | None:
        """The constant as a number, or None."""
        return Decimal(self.text) if _NUMBER.fullmatch(self.text) else None


@lru_cache(maxsize=1024)  # the same conditions are met row by row
def constants(definition: str) -> tuple[Constant, ...]:
    """The constants of a condition, as the server writes it."""
    found = []
    for each in _CONSTANT.finditer(definition):
        if each["number"] is not None:
            found.append(Constant(each["number"]))
        else:
            type_ = each["type"].strip() if each["type"] else None
            found.append(Constant(each["quoted"].replace("''", "'"), type_, each["operator"]))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a value is wanted for. ``number`` is another one each time; ``distinct``: no other row may have the value."""

    constants: tuple[Constant, ...]
    number: int
    distinct: bool
    random: Random

    def plainly(self, number: int | None = None) -> Wish:
        """The same for a part of the value: a distinct one, whatever the conditions say."""
        return Wish((), self.number if number is None else number, True, self.random)

    def texts(self) -> list[str]:
        """The constants that are texts and no patterns."""
        return [each.text for each in self.constants if each.type in _TEXTS and not each.operator and each.text]

    def numbers(self) -> list[Decimal]:
        """The constants that are numbers."""
        return sorted({each.number for each in self.constants if each.number is not None})

    def lengths(self) -> list[int]:
        """How long a value may have to be, if the numbers are about that."""
        said = [int(each) for each in self.numbers() if 0 < each <= 1000 and each == int(each)]
        return [each for length in said for each in (length, length + 1, length - 1) if each > 0]

    def turned(self, values: Sequence[str]) -> list[str]:
        """The values, beginning with another one each time where the same may not be twice."""
        start = self.number % len(values) if self.distinct and values else 0
        return [*values[start:], *values[:start]]
