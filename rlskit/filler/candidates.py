"""Values that a column may take, the likeliest first: by its type, and by the constants in the conditions that it has to meet."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice, pairwise
from random import Random
from typing import TypeAlias
from uuid import UUID

from rlskit.filler import patterns
from rlskit.filler.shapes import Type
from rlskit.filler.wishes import Constant, Wish

Value: TypeAlias = str | list[str]  # as PostgreSQL writes it, but for arrays of texts

MOST = 24  # candidates of one column


def candidates(kind: Type, modifier: int, wish: Wish) -> list[Value]:
    """Return values for a column of this type; empty for a type that nothing is known of."""
    found: list[Value] = []
    for each in _of(kind, modifier, wish):
        if each not in found:
            found.append(each)
        if len(found) == MOST:
            break
    return found


def _of(kind: Type, modifier: int, wish: Wish) -> Iterator[Value]:
    match kind.kind:
        case "domain":
            assert kind.inner is not None
            yield from _of(kind.inner, modifier if modifier >= 0 else kind.modifier, wish)
        case "enum":
            meant = [each.text for each in wish.constants if each.text in kind.labels]
            yield from wish.turned(meant)
            yield from wish.turned(kind.labels)
        case "array":
            yield from _arrays(kind, modifier, wish)
        case "range" | "multirange":
            yield from _exact(kind, wish)
            yield from _ranges(kind, wish)
        case "composite":
            yield _composite([next(iter(_of(each, -1, wish.plainly())), None) for each in kind.fields])
            yield _composite([None] * len(kind.fields))
        case "base":
            yield from _base(kind, modifier, wish)


def _exact(kind: Type, wish: Wish) -> list[str]:
    """The constants that say to be of this very type, or say nothing and are not numbers."""
    said = [each for each in wish.constants if each.type == kind.name or (each.type is None and each.number is None)]
    return wish.turned([each.text for each in said])


def _base(kind: Type, modifier: int, wish: Wish) -> Iterator[str]:
    name = kind.name.rpartition(".")[2].strip('"')
    if kind.category == "S" or name == "char":
        yield from (_fitting(each, kind, modifier) for each in _texts(wish, _length(kind, modifier)))
    elif (whole := _WHOLE.get(name)) is not None:
        yield from (str(each) for each in _whole_numbers(wish, *whole))
    elif name in ("numeric", "real", "double precision", "money"):
        yield from _numerics(wish, modifier if name == "numeric" else -1)
    elif name in ("date", "timestamp without time zone", "timestamp with time zone"):
        yield from _moments(wish, kind, only_date=name == "date")
    elif name in ("bit", "bit varying"):
        yield from _exact(kind, wish)
        size = modifier if modifier > 0 else 1 if name == "bit" else 32
        yield f"{wish.number if wish.distinct else 0:b}".rjust(size, "0")[-size:]
        yield "1".rjust(size, "0")
    elif name in ("json", "jsonb"):
        yield from _documents(wish)
    elif (simple := _SIMPLE.get(name)) is not None:
        yield from _exact(kind, wish)
        yield from simple(wish)
    else:
        yield from _exact(kind, wish)


# --- texts -------------------------------------------------------------------------------------------------


def token(number: int) -> str:
    """The number in letters: those of the next number differ at the end."""
    letters: list[str] = []
    while number or not letters:
        number, digit = divmod(number, 26)
        letters.append(string.ascii_lowercase[digit])
    return "".join(reversed(letters))


def _length(kind: Type, modifier: int) -> int | None:
    """How many characters a text may have."""
    if kind.name == '"char"':
        return 1
    if kind.name == "name":
        return 63
    return modifier - 4 if modifier >= 4 else None


def _fitting(text: str, kind: Type, modifier: int) -> str:
    length = _length(kind, modifier)
    return text if length is None else text[:length]


def _cut(text: str, length: int | None) -> str:
    """The end of the text, which tells it from others."""
    return text if length is None else text[-length:]


def _texts(wish: Wish, most: int | None) -> Iterator[str]:
    word = token(wish.number)
    lengths = wish.lengths()
    for constant in wish.constants:
        yield from _patterned(constant, wish.random, [*lengths, most])
    yield from wish.turned(wish.texts())
    for length in lengths:
        padded = word.rjust(length, "a")[-length:]
        yield from (padded, f"{wish.number}".rjust(length, "0")[-length:], padded.upper())
    yield _cut(word, most)
    for text in wish.texts():
        yield from (f"{text}{word}", f"{word}{text}", f"{word}{text}{word}")
    if wish.constants:
        yield from (f"{word}@example.com", f"https://{word}.example.com/", _cut(word.upper(), most))
        yield from (_cut(f"{wish.number:08}", most), f"+1555{wish.number % 10**7:07}", "{}", "12:00", "2030-01-01")


def _patterned(constant: Constant, random: Random, lengths: Sequence[int | None]) -> Iterator[str]:
    """Texts that a pattern takes; short and long ones, and none that is longer than any length that is told."""
    most = max((each for each in lengths if each is not None), default=None)
    for more in (6, most or 20):
        made = (_matching(constant, random, more) for _ in range(8))
        yield from islice((each for each in made if each is not None and (most is None or len(each) <= most)), 3)


def _matching(constant: Constant, random: Random, more: int) -> str | None:
    match constant.operator:
        case "~~" | "~~*":
            return patterns.like(constant.text, random)
        case "~" | "~*":
            return patterns.matching(constant.text, random, more)
        case "similar_to_escape(":
            return patterns.matching(constant.text.replace("%", ".*").replace("_", "."), random, more)
        case None if re.search(r"[\^$\[\\]", constant.text):  # the argument of a function, it seems
            return patterns.matching(constant.text, random, more)
    return None


# --- numbers -----------------------------------------------------------------------------------------------

_WHOLE = {
    "smallint": (10_000, 32_000, -(2**15), 2**15 - 1),
    "integer": (10**9, 2 * 10**9, -(2**31), 2**31 - 1),
    "bigint": (10**12, 10**15, -(2**63), 2**63 - 1),
    "oid": (10**9, 2 * 10**9, 0, 2**32 - 1),
}


def _whole_numbers(wish: Wish, first: int, last: int, least: int, most: int) -> Iterator[int]:
    """``first`` to ``last`` are those that are likely free."""
    said = [int(each) for each in wish.numbers() if least < each < most]
    fresh = first + wish.number % (last - first)
    if wish.distinct:
        yield fresh
        if len(said) > 1:
            yield wish.random.randint(said[0], said[-1])
    yield from _turned(wish, [1, *_around(said)] if not wish.distinct else _around(said))
    yield from (1, fresh, 0, 2, -1, 10, 100, 1000)


def _turned(wish: Wish, numbers: Iterable[int]) -> Iterator[int]:
    yield from (int(each) for each in wish.turned([str(each) for each in numbers]))


def _around(said: Sequence[int]) -> list[int]:
    between = [(low + high) // 2 for low, high in pairwise(said)]
    return [*between, *(near for each in said for near in (each + 1, each, each - 1))]


def _numerics(wish: Wish, modifier: int) -> Iterator[str]:
    scale = ((modifier - 4) & 0x7FF ^ 1024) - 1024 if modifier >= 0 else 6
    digits = ((modifier - 4) >> 16 & 0xFFFF) - scale if modifier >= 0 else 9
    fresh = (
        Decimal(wish.number % 10 ** max(digits + scale, 1)).scaleb(-scale) if modifier >= 0 else Decimal(wish.number)
    )
    said = wish.numbers()
    between = [(low + high) / 2 for low, high in pairwise(said)]
    near = [*between, *(near for each in said for near in (each + 1, each, each - 1))]
    if wish.distinct:
        yield f"{fresh:f}"
        if len(said) > 1:
            share = Decimal(wish.random.randrange(1, 10**6)) / 10**6
            yield f"{said[0] + (said[-1] - said[0]) * share:f}"
    small = [Decimal(each) for each in (1, 0)]
    for each in [
        *small[:1],
        *near,
        fresh,
        *small,
        Decimal("0.5"),
        Decimal("0.1"),
        Decimal(2),
        Decimal(-1),
        Decimal(10),
        Decimal(100),
    ]:
        if modifier < 0 or abs(each) < Decimal(10) ** digits:
            yield f"{each:f}"


# --- moments -----------------------------------------------------------------------------------------------


_DATE = r"\d{4}-\d\d-\d\d"


def _day(text: str) -> datetime | None:
    """The day that a constant begins with; None for one that has no neighbours, such as the last of the year 9999."""
    with suppress(ValueError):
        if (found := re.match(_DATE, text)) and "1000" <= found[0] < "3000":
            return datetime.fromisoformat(found[0])
    return None


def _moments(wish: Wish, kind: Type, *, only_date: bool) -> Iterator[str]:
    zone = "+00" if kind.name.endswith("with time zone") else ""

    def written(moment: datetime) -> str:
        return moment.date().isoformat() if only_date else f"{moment:%Y-%m-%d %H:%M:%S}{zone}"

    past = datetime(1990, 1, 1)
    fresh = past + (timedelta(days=wish.number % 12_000) if only_date else timedelta(seconds=wish.number % 10**9))
    said = sorted({day for each in wish.constants if (day := _day(each.text)) is not None})
    near = [moment + timedelta(days=step) for moment in said for step in (0, 1, -1)]
    if wish.distinct:
        yield written(fresh)
        if len(said) > 1:
            near.insert(0, said[0] + (fresh - past) % (said[-1] - said[0]))
    yield from map(written, [*near, fresh, datetime(2090, 1, 1) + (fresh - past) / 2])
    yield from map(written, [datetime(2000, 1, 1), datetime(2100, 1, 1)])
    yield from (each.text for each in wish.constants if re.match(_DATE, each.text))


# --- what is made of others --------------------------------------------------------------------------------


def _arrays(kind: Type, modifier: int, wish: Wish) -> Iterator[Value]:
    assert kind.inner is not None
    sizes = [int(each) for each in wish.numbers() if 0 < each <= 20 and each == int(each)]
    written: Callable[[list[str]], Value] = list if kind.is_text_array else _array
    found = candidates(kind.inner, modifier, wish)
    elements = [each if isinstance(each, str) else _array(each) for each in found]
    if not wish.distinct:
        yield written([])
    for each in elements:
        yield written([each])
    yield from [] if kind.is_text_array else _exact(kind, wish)
    plain = [_one(kind.inner, modifier, wish.plainly(wish.number + turn)) for turn in range(max(sizes, default=2) + 1)]
    for size in (*(near for each in sizes for near in (each, each + 1)), 2):
        yield written([each for each in plain[:size] if each is not None])


def _one(kind: Type, modifier: int, wish: Wish) -> str | None:
    made = next(iter(_of(kind, modifier, wish)), None)
    return _array(made) if isinstance(made, list) else made


def _array(elements: Iterable[str]) -> str:
    return "{" + ",".join(map(_quoted, elements)) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ranges(kind: Type, wish: Wish) -> Iterator[str]:
    assert kind.inner is not None
    if kind.kind == "multirange":
        for each in _ranges(Type(kind.name, "range", "R", kind.inner), wish):
            yield "{}" if each == "empty" else f"{{{each}}}"
        return
    low, high = (_one(kind.inner, -1, wish.plainly(wish.number + step)) for step in (0, 1))
    if low is not None and high is not None:
        yield f"[{_quoted(low)},{_quoted(high)})"
    yield from ("empty", "(,)")


def _composite(fields: Iterable[Value | None]) -> str:
    written = ("" if each is None else _quoted(each if isinstance(each, str) else _array(each)) for each in fields)
    return f"({','.join(written)})"


def _documents(wish: Wish) -> Iterator[str]:
    if wish.distinct:
        yield json.dumps({"number": wish.number})
    if keys := wish.texts():
        contents: tuple[object, ...] = ("text", 1, True, [], {})
        yield from (json.dumps(dict.fromkeys(keys, each)) for each in contents)
        yield from (json.dumps({keys[0]: each}) for each in keys[1:])
    yield from ("{}", "[]", '{"a": 1}', "[1]", '"text"', "1", "true")


# --- the others --------------------------------------------------------------------------------------------


def _address(number: int) -> str:
    return "10." + ".".join(str(number >> shift & 255) for shift in (16, 8, 0))


def _bytes(number: int, size: int) -> str:
    return "\\x" + f"{number:016x}".rjust(2 * size, "0")[-2 * size :] if size else "\\x"


def _mac(number: int, size: int) -> str:
    return "02:" + ":".join(f"{number >> shift & 255:02x}" for shift in range(8 * (size - 2), -1, -8))


_SIMPLE: dict[str, Callable[[Wish], Sequence[str]]] = {
    "boolean": lambda wish: wish.turned(["false", "true"]),
    "uuid": lambda wish: [str(UUID(int=wish.random.getrandbits(128), version=4))],
    "bytea": lambda wish: [_bytes(wish.number, size) for size in (8, *wish.lengths(), 0)],
    "time without time zone": lambda wish: [str(timedelta(seconds=wish.number % 86_400)), "00:00:00", "23:59:59"],
    "time with time zone": lambda wish: [f"{timedelta(seconds=wish.number % 86_400)}+00", "00:00:00+00"],
    "interval": lambda wish: [
        f"{wish.number} seconds" if wish.distinct else "1 hour",
        "1 day",
        "30 days",
        "0",
        "1 minute",
    ],
    "inet": lambda wish: [_address(wish.number), "2001:db8::1"],
    "cidr": lambda wish: [f"{_address(wish.number)}/32", "10.0.0.0/8"],
    "macaddr": lambda wish: [_mac(wish.number, 6)],
    "macaddr8": lambda wish: [_mac(wish.number, 8)],
    "xml": lambda wish: [f"<row>{wish.number}</row>"],
    "tsvector": lambda wish: [token(wish.number)],
    "tsquery": lambda wish: [token(wish.number)],
    "point": lambda wish: [f"({wish.number},0)", "(0,0)"],
    "line": lambda wish: [f"{{1,1,{wish.number}}}"],
    "lseg": lambda wish: [f"[({wish.number},0),({wish.number},1)]"],
    "box": lambda wish: [f"(({wish.number}.5,1),({wish.number},0))"],
    "path": lambda wish: [f"[({wish.number},0),({wish.number},1)]"],
    "polygon": lambda wish: [f"(({wish.number},0),({wish.number},1),({wish.number}.5,0))"],
    "circle": lambda wish: [f"<({wish.number},0),0.25>"],
    "hstore": lambda wish: [f'"number"=>"{wish.number}"', ""],
    "ltree": lambda wish: [token(wish.number)],
    "pg_lsn": lambda wish: [f"0/{wish.number:X}"],
    "xid8": lambda wish: [f"{wish.number}"],
    "jsonpath": lambda wish: [f"$.{token(wish.number)}"],
}
