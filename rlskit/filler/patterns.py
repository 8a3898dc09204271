"""Texts that a pattern takes: a regular expression of PostgreSQL's, or one of LIKE."""

from __future__ import annotations

import string
from random import Random

_ALNUM = string.ascii_lowercase + string.digits + string.ascii_uppercase
_PRINTABLE = _ALNUM + "_-. " + "".join(each for each in string.punctuation if each not in "_-.")
_SPACE = " \t"
_SHORTHANDS = {"d": string.digits, "w": _ALNUM + "_", "s": _SPACE}
_CLASSES = {
    "alpha": string.ascii_letters,
    "digit": string.digits,
    "alnum": _ALNUM,
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "space": _SPACE,
    "blank": _SPACE,
    "punct": string.punctuation,
    "xdigit": string.digits + "abcdef",
    "print": _PRINTABLE,
    "graph": _PRINTABLE.replace(" ", ""),
    "word": _ALNUM + "_",
}
_NO_WIDTH = "AmMyYZ"


def like(pattern: str, random: Random) -> str:
    """A text that ``like pattern`` takes."""
    made, escaped = [], False
    for each in pattern:
        if escaped or each not in "%_\\":
            made.append(each)
        elif each != "\\":
            made.append(_letters(random, 3 if each == "%" else 1))
        escaped = not escaped and each == "\\"
    return "".join(made)


def matching(pattern: str, random: Random, more: int = 6) -> str | None:
    """A text that ``~ pattern`` likely takes; None for what is not understood: look-around, back references, options.

    ``more``: how often more than it must a part may be repeated.
    """
    try:
        return _Sampler(pattern, random, more).whole()
    except (LookupError, ValueError):
        return None


def _letters(random: Random, number: int) -> str:
    return "".join(random.choices(string.ascii_lowercase, k=number))


class _Sampler:
    """Reads an expression from left to right, and writes what it takes."""

    def __init__(self, pattern: str, random: Random, more: int) -> None:
        self._rest = list(reversed(pattern))
        self._random, self._more = random, more

    def whole(self) -> str:
        made = self._either()
        if self._rest:
            raise ValueError
        return made

    def _next(self, *wanted: str) -> bool:
        """Take the next sign where it is one of these."""
        if self._rest and self._rest[-1] in wanted:
            self._rest.pop()
            return True
        return False

    def _either(self) -> str:
        branches = [self._branch()]
        while self._next("|"):
            branches.append(self._branch())
        return self._random.choice(branches)

    def _branch(self) -> str:
        made = []
        while self._rest and self._rest[-1] not in "|)":
            made.append(self._repeated())
        return "".join(made)

    def _repeated(self) -> str:
        """A part as often as its quantifier says, each time another."""
        start, parts = self._rest.copy(), [self._atom()]
        low, high = self._quantifier()
        number, rest = self._random.randint(low, min(high, low + self._more)), self._rest
        while len(parts) < number:
            self._rest = start.copy()
            parts.append(self._atom())
        self._rest = rest
        return "".join(parts[:number])

    def _quantifier(self) -> tuple[int, int]:
        low, high = 1, 1
        if self._next("*"):
            low, high = 0, self._more
        elif self._next("+"):
            low, high = 1, 1 + self._more
        elif self._next("?"):
            low, high = 0, 1
        elif self._rest and self._rest[-1] == "{":
            self._rest.pop()
            least, comma, most = self._until("}").partition(",")
            low = int(least)
            high = int(most) if most else low + (self._more if comma else 0)
        else:
            return low, high
        self._next("?")  # as little as it can
        return low, high

    def _until(self, end: str) -> str:
        found = []
        while (each := self._rest.pop()) != end:
            found.append(each)
        return "".join(found)

    def _atom(self) -> str:
        match self._rest.pop():
            case "(":
                if self._next("?") and not self._next(":"):
                    raise ValueError
                made = self._either()
                if not self._next(")"):
                    raise ValueError
                return made
            case "[":
                return self._random.choice(self._set())
            case "\\":
                escaped = self._rest.pop()
                if escaped.lower() in _SHORTHANDS:
                    return self._random.choice(_shorthand(escaped))
                if escaped in _NO_WIDTH:
                    return ""
                if escaped.isalnum():
                    raise ValueError
                return escaped
            case ".":
                return self._random.choice(_ALNUM)
            case "^" | "$":
                return ""
            case "*" | "+" | "?":
                raise ValueError
            case other:
                return other

    def _set(self) -> str:
        """The characters between brackets."""
        negated, members = self._next("^"), ""
        first = True
        while first or not self._next("]"):
            first = False
            each = self._rest.pop()
            if each == "[" and self._rest[-1] == ":":
                members += _CLASSES[self._until("]").strip(":")]
                continue
            if each == "\\":
                each = self._rest.pop()
                if each.lower() in _SHORTHANDS:
                    members += _shorthand(each)
                    continue
            if self._rest[-1] == "-" and self._rest[-2] != "]":
                self._rest.pop()
                last = self._rest.pop()
                if last == "\\":
                    last = self._rest.pop()
                members += "".join(map(chr, range(ord(each), ord(last) + 1)))
                continue
            members += each
        left = "".join(each for each in _PRINTABLE if each not in members) if negated else members
        # Letters and digits are the likelier to be meant.
        return "".join(each for each in left if each in _ALNUM) or left


def _shorthand(letter: str) -> str:
    members = _SHORTHANDS[letter.lower()]
    return members if letter.islower() else "".join(each for each in _PRINTABLE if each not in members)
