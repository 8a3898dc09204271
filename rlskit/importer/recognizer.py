"""What the conditions of policies mean, told by the server: candidates are put into its normal form, and compared with what is there.

Nothing is parsed. A condition is taken apart at its outermost OR; each arm is understood when it is to the letter what the server makes of a
candidate, and otherwise not at all. What stands in an arm only decides which candidates are worth a try.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, LiteralString, TypeAlias

from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from rlskit import ddl, normalizer, runtime
from rlskit.compiler import REASSIGN_TRIGGER
from rlskit.facts import Database, TableFacts
from rlskit.names import QualifiedName
from rlskit.state import (
    Always,
    AnyOf,
    Default,
    Expression,
    MovingAway,
    NamesCaller,
    NamesSomebody,
    OwnerColumn,
    Policy,
    StrangerTo,
    Trigger,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """True when ``column`` names whom ``source`` says: ``app.user_id``, ``request.jwt.claims->>sub``, ``auth.uid()``, ``current_user``.

    ``respelled`` says that it is compared as another type than rlskit would, a uuid as text or the other way round: then capitals count otherwise.
    """

    column: OwnerColumn
    source: str
    respelled: bool = False


Arm: TypeAlias = NamesCaller | MovingAway | NamesSomebody | Always | Asked


@dataclass(frozen=True)
class Recognized:
    """The arms of one database's conditions that were understood, by their table and text."""

    known: Mapping[tuple[QualifiedName, str], Arm]

    def arms(self, table: QualifiedName, condition: Expression | None) -> tuple[Arm, ...] | None:
        """The arms of a condition; None where one of them was not understood, or there is no condition."""
        return None if condition is None else self._all(table, arms(str(condition)))

    def strangers(self, table: QualifiedName, condition: Expression | None) -> tuple[Arm, ...] | None:
        """The same for the condition of a trigger that refuses strangers."""
        return None if condition is None else self._all(table, _strangers(str(condition)))

    def source_of_default(self, default: Default) -> str | None:
        """Whom a column's default names."""
        found = self.known.get((default.table, _as_comparison(default)))
        return found.source if isinstance(found, Asked) and not found.respelled else None

    def _all(self, table: QualifiedName, texts: Iterable[str]) -> tuple[Arm, ...] | None:
        found = [self.known.get((table, text)) for text in texts]
        understood = [each for each in found if each is not None]
        return tuple(understood) if len(understood) == len(found) else None


def recognize(conn: Connection[Any], database: Database) -> Recognized:
    """Return what the conditions and defaults of these tables mean, as far as they are understood.

    Needs a transaction that may write, in ``catalog.reading``, and the TEMP privilege. The real tables are not touched.
    """
    known = _in_rlskits_words(conn, database) if database.runtime_version is not None else {}
    questions: dict[tuple[OwnerColumn, str], list[QualifiedName]] = defaultdict(list)
    for table, text in _foreign_arms(database):
        if text == "true":
            known[table, text] = Always()
        for column in _columns(database.tables[table], text):
            questions[column, text].append(table)
    for (column, text), asked in _in_the_fields_words(conn, questions).items():
        for table in questions[column, text]:
            known.setdefault((table, text), asked)
    return Recognized(known)


def arms(condition: str) -> tuple[str, ...]:
    """The arms of a condition in the server's normal form, which puts every one of several into parentheses."""
    inner = _unwrapped(condition)
    parts = _split(inner, " OR ")
    return tuple(map(_unwrapped, parts)) if len(parts) > 1 else (inner,)


def _strangers(condition: str) -> tuple[str, ...]:
    inner = _unwrapped(condition)
    return arms(inner.removesuffix(" IS NOT TRUE")) if inner.endswith(" IS NOT TRUE") else (inner,)


def _unwrapped(text: str) -> str:
    """Without the parentheses around the whole of it."""
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    return text


def _closing(text: str) -> int | None:
    """Where the first parenthesis is closed."""
    return next((place for place, depth in _depths(text) if depth == 0 and text[place] == ")"), None)


def _split(text: str, separator: str) -> list[str]:
    """At each separator that stands outside of parentheses and quotes."""
    outside = {place for place, depth in _depths(text) if depth == 0}
    cuts = [each.start() for each in re.finditer(re.escape(separator), text) if each.start() in outside]
    starts = [0, *(cut + len(separator) for cut in cuts)]
    return [text[start:end] for start, end in zip(starts, [*cuts, len(text)], strict=True)]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Each place outside of quotes, and how many parentheses are open behind it. A quote inside of quotes is doubled, so it opens anew."""
    depth, quote = 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
            continue
        if character in "'\"":
            quote = character
            continue
        depth += (character in "([") - (character in ")]")
        yield place, depth


# --- what rlskit itself has written ----------------------------------------------------------------------------------

_CLAIM = re.compile(r"rlskit\.claim\('((?:[^']|'')*)'::text\)")
_MATCHES: tuple[tuple[str, ...], ...] = (
    ("full",),
    ("full", "sub"),
    ("full", "username"),
    ("full", "sub", "username"),
)


def _in_rlskits_words(conn: Connection[Any], database: Database) -> dict[tuple[QualifiedName, str], Arm]:
    """The arms of marked policies and triggers: what the compiler might have wanted of these tables, compared with what is there."""
    candidates = {
        table: dict(_wanted(facts, texts, _given_away(database, table)))
        for table, facts in database.tables.items()
        if (texts := _marked_texts(database, table))
    }
    with conn.transaction(force_rollback=True):
        normal = normalizer.normal_forms(conn, {each: None for found in candidates.values() for each in found})
    return {
        (table, text): arm
        for table, found in candidates.items()
        for expression, arm in found.items()
        for text in (_strangers(normal[expression]) if isinstance(expression, StrangerTo) else arms(normal[expression]))
    }


def _marked_texts(database: Database, table: QualifiedName) -> list[str]:
    texts = []
    for each in database.state.of(table):
        match each:
            case Policy(using=using, with_check=with_check):
                texts += [str(text) for text in (using, with_check) if text is not None]
            case Trigger(when=when) if when is not None:
                texts.append(str(when))
    return texts


def _given_away(database: Database, table: QualifiedName) -> list[tuple[str, ...]]:
    """The owner columns, in their order, as the trigger that notes a new owner is given them."""
    triggers = [each for each in database.state.of(table) if isinstance(each, Trigger)]
    return [each.arguments for each in triggers if each.name == REASSIGN_TRIGGER and isinstance(each.arguments, tuple)]


def _wanted(facts: TableFacts, texts: list[str], given_away: list[tuple[str, ...]]) -> Iterator[tuple[Expression, Arm]]:
    whole = "\n".join(texts)
    claims = [_plain(each, "'") for each in dict.fromkeys(_CLAIM.findall(whole))]
    columns = [each for each in _columns(facts, whole) if each.type in ("text", "character varying", "uuid")]
    yield Always(), Always()
    for column in columns:
        spelled = [] if column.type == "uuid" else [NamesCaller(column, None, each) for each in _MATCHES]
        for term in (*spelled, *(NamesCaller(column, claim, None) for claim in claims)):
            yield AnyOf((term,)), term
            for version in ("old", "new"):
                if f"{version}." in whole:
                    yield StrangerTo(version, (term,)), term
        yield NamesSomebody((column,)), NamesSomebody((column,))
    by_name = {each.name: each for each in columns}
    for moved in given_away:
        if all(name in by_name for name in moved):
            arm = MovingAway(tuple(by_name[name] for name in moved))
            yield AnyOf((arm,)), arm


# --- what others write ------------------------------------------------------------------------------------------------

_SETTING = re.compile(r"current_setting\('((?:[^']|'')*)'::text")
_KEY = re.compile(r"->> '((?:[^']|'')*)'::text")
_NAME = r'(?:"(?:[^"]|"")+"|[a-z_]\w*)'
_FUNCTION = re.compile(rf"(?:({_NAME})\.)?({_NAME})\(\)")
_KEYWORDS: dict[LiteralString, str] = {
    "CURRENT_USER": "current_user",
    "USER": "current_user",
    "CURRENT_ROLE": "current_user",
    "SESSION_USER": "session_user",
}
_SETTINGS: dict[str, LiteralString] = {
    "::text)": "current_setting({})",
    ", true)": "current_setting({}, true)",
    ", false)": "current_setting({}, false)",
}
_ONE: tuple[LiteralString, ...] = ("{column} = {asked}", "{asked} = {column}")
_LIST: dict[str, LiteralString] = {
    "= ANY (": "{asked} = any ({column})",
    "@>": "{column} @> array[{asked}]",
    "<@": "array[{asked}] <@ {column}",
    " && ": "{column} && array[{asked}]",
    "] && ": "array[{asked}] && {column}",
}


def _foreign_arms(database: Database) -> Iterator[tuple[QualifiedName, str]]:
    for each in database.foreign:
        if isinstance(each.drop, Policy):
            for condition in (each.drop.using, each.drop.with_check):
                if condition is not None:
                    yield from ((each.table, text) for text in arms(str(condition)))
    for table in {each.table for each in database.foreign}:
        for default in database.state.of(table):
            if isinstance(default, Default):
                yield table, _as_comparison(default)


def _as_comparison(default: Default) -> str:
    """What a default names, put as the arm of a condition that would compare it with its column."""
    text = str(default.expression)
    comparison = "&&" if text.startswith("ARRAY[") else "="
    return f"{_shown(default.column)} {comparison} {text}"


def _columns(facts: TableFacts, text: str) -> list[OwnerColumn]:
    """The table's columns of PostgreSQL's own types whose names stand in the text."""
    return [
        OwnerColumn(each.name, each.type.endswith("[]"), each.type.removesuffix("[]"))
        for each in facts.columns.values()
        if each.name.replace('"', '""') in text and "." not in each.type
    ]


def _in_the_fields_words(
    conn: Connection[Any], questions: Iterable[tuple[OwnerColumn, str]]
) -> dict[tuple[OwnerColumn, str], Asked]:
    """The arms that compare a column with whoever asks. A candidate that the server refuses is none."""
    by_column: dict[OwnerColumn, dict[str, None]] = defaultdict(dict)
    for column, text in questions:
        by_column[column][text] = None
    cursor = conn.cursor(row_factory=tuple_row)
    found: dict[tuple[OwnerColumn, str], Asked] = {}
    for column, texts in by_column.items():
        tried = [candidate for text in texts for candidate in _candidates(column, text)]
        if not tried:
            continue
        twin = Identifier("pg_temp", "rlskit_twin")
        with conn.transaction(force_rollback=True):
            cursor.execute(
                SQL("create temporary table {} ({} {})").format(
                    twin, Identifier(column.name), SQL(column.type + "[]" * column.many)
                )
            )
            cursor.execute(_attempts(twin, (each for each, _ in tried)))
            rows = cursor.execute(runtime.script("catalog/twin.sql"), {"twin": ddl.text(twin)}).fetchall()
        for name, text in sorted(rows, key=lambda row: int(row[0])):
            if (inner := _unwrapped(text)) in texts:
                found.setdefault((column, inner), tried[int(name)][1])
    return found


def _attempts(twin: Identifier, candidates: Iterable[Composable]) -> bytes:
    """A block that puts each candidate on the twin, and goes on where the server refuses one."""
    attempt = SQL("begin create policy {} on {} using ({}); exception when others then null; end;")
    attempts = [attempt.format(Identifier(str(number)), twin, each) for number, each in enumerate(candidates)]
    return ddl.block(ddl.text(SQL("begin\n{}\nend").format(SQL("\n").join(attempts)))).encode()


def _candidates(column: OwnerColumn, arm: str) -> Iterator[tuple[Composable, Asked]]:
    compared: list[tuple[Composable, bool]] = [(Identifier(column.name), False)]
    if column.type not in ("text", "character varying") and not column.many:
        compared.append((SQL("{}::text").format(Identifier(column.name)), True))
    forms = [form for sign, form in _LIST.items() if sign in arm] if column.many else _ONE
    for source, asked, casts in _asking(column, arm):
        for name, as_text in compared:
            respelled = as_text or (column.type != "uuid" and "uuid" in casts)
            if source.endswith("()") and column.type != "uuid" and "text" in casts:
                respelled = True  # what the function returns is no text
            for form in forms:
                yield SQL(form).format(column=name, asked=asked), Asked(column, source, respelled)


def _asking(column: OwnerColumn, arm: str) -> Iterator[tuple[str, Composable, tuple[str, ...]]]:
    """Every way to ask who it is that is made of what stands in the arm: its source, and the types that it goes through."""
    types = [each for each in dict.fromkeys(("text", "character varying", "uuid", column.type)) if f"::{each}" in arm]
    keys = [_plain(each, "'") for each in _KEY.findall(arm)]
    for source, text in _sources(arm):
        if not keys:
            yield from ((source, *each) for each in _dressed(text, arm, types))
            continue
        for document, _ in _dressed(text, arm, [each for each in ("json", "jsonb") if f"::{each}" in arm]):
            for key in keys:
                value = SQL("({} ->> {})").format(document, Literal(key))
                yield from ((f"{source}->>{key}", *each) for each in _dressed(value, arm, types))


def _sources(arm: str) -> Iterator[tuple[str, Composable]]:
    for name in (_plain(each, "'") for each in dict.fromkeys(_SETTING.findall(arm))):
        yield from ((name, SQL(form).format(Literal(name))) for sign, form in _SETTINGS.items() if sign in arm)
    for schema, name in dict.fromkeys(_FUNCTION.findall(arm)):
        path = [_bare(each) for each in (schema or "pg_catalog", name)]
        yield f"{schema}.{name}()" if schema else f"{name}()", SQL("{}()").format(Identifier(*path))
    yield from ((source, SQL(word)) for word, source in _KEYWORDS.items() if re.search(rf"\b{word}\b", arm))


def _dressed(value: Composable, arm: str, types: Iterable[str]) -> Iterator[tuple[Composable, tuple[str, ...]]]:
    """The value as it is, and in up to three coats: NULLIF, a sub-select, casts; only such as the arm wears, the plainer ones first."""
    coats: dict[str, LiteralString] = {"NULLIF(": "nullif({}, '')", "( SELECT ": "(select {})"}
    worn: list[str] = [*(each for each in coats if each in arm), *types]
    for number in range(min(len(worn), 3) + 1):
        for chosen in permutations(worn, number):
            dressed = value
            for each in chosen:
                dressed = (
                    SQL(coats[each]).format(dressed) if each in coats else SQL("({}::{})").format(dressed, SQL(each))
                )
            yield dressed, chosen


def _plain(quoted: str, quote: str) -> str:
    return quoted.replace(quote * 2, quote)


def _bare(name: str) -> str:
    return _plain(name[1:-1], '"') if name.startswith('"') else name


def _shown(name: str) -> str:
    """The name as the server prints it, but for words that it reserves."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
