"""Rules become the TOML of a rule file, which reads back as the same rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rlskit.errors import UnsupportedRuleError
from rlskit.names import QualifiedName
from rlskit.rules import Open, Rule, Rules, TableRules, Unmanaged
from rlskit.vocabulary import OPERATIONS, SPELLINGS

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml(
    rules: Rules,
    *,
    head: Iterable[str] = (),
    notes: Mapping[QualifiedName, Sequence[str]] | None = None,
    tail: Iterable[str] = (),
) -> str:
    """Return a rule file: ``load`` of it gives ``rules``. The comments stand at its head, above the tables, and at its end.

    Raises UnsupportedRuleError for two tables of one name with a dot in two schemas, for which a file has one key only.
    """
    lines = [*map(comment, head), *_settings(rules)]
    keys = _keys(rules)
    for table in rules.tables:
        lines += ["", *map(comment, (notes or {}).get(table.name, ())), *_table(table, *keys[table.name])]
    lines += [comment(line) if line else "" for line in tail]
    return "\n".join(lines) + "\n"


def comment(words: str) -> str:
    """A comment of one line, whatever stands in the words."""
    return f"# {_printable(words)}".rstrip()


def section(table: TableRules, schema: str) -> list[str]:
    """The lines of one table alone; ``schema`` is that of the tables that name none."""
    key, apart = _spellings_of(table.name, schema)[0]
    return list(_table(table, key, apart))


def _settings(rules: Rules) -> Iterator[str]:
    yield f"role = {_string(rules.role)}"
    if rules.bypass_role is not None:
        yield f"bypass_role = {_string(rules.bypass_role)}"
    if rules.schema != "public":
        yield f"schema = {_string(rules.schema)}"
    if rules.mode is not None:
        yield f"mode = {_string(rules.mode)}"


def _keys(rules: Rules) -> dict[QualifiedName, tuple[str, str | None]]:
    """The key of each table, and its schema where that has to stand apart."""
    found: dict[QualifiedName, tuple[str, str | None]] = {}
    taken: set[str] = set()
    options = {table.name: _spellings_of(table.name, rules.schema) for table in rules.tables}
    for name in sorted(options, key=lambda each: len(options[each])):  # who has no choice chooses first
        free = [each for each in options[name] if each[0] not in taken]
        if not free:
            raise UnsupportedRuleError(
                f"table `{name}` has a name for which the file's one key is taken",
                hint="put it into a file of its own, or write the rules in Python",
            )
        found[name] = free[0]
        taken.add(free[0][0])
    return found


def _spellings_of(table: QualifiedName, schema: str) -> list[tuple[str, str | None]]:
    apart = (table.name, table.schema)
    if "." in table.name or "." in table.schema:
        return [apart]
    return [*([(table.name, None)] if table.schema == schema else []), (str(table), None), apart]


def _table(table: TableRules, key: str, schema: str | None) -> Iterator[str]:
    yield f"[tables.{_key(key)}]"
    if schema is not None:
        yield f"schema = {_string(schema)}"
    match table.allow:
        case Open(reason=reason, to=to):
            yield f"open = {{ reason = {_string(reason)}, to = {_strings(to)} }}"
        case Unmanaged(reason=reason):
            yield f"unmanaged = {{ reason = {_string(reason)} }}"
        case tuple(given):
            yield from _rules("allow", given, ())
            for column, column_rules in table.columns:
                yield from _rules(f"columns.{_key(column)}", column_rules, given)
    if table.reassign != "plain":
        yield f"reassign = {_string(table.reassign)}"
    if table.keep:
        yield "keep = { " + ", ".join(f"{_string(what)} = {_string(reason)}" for what, reason in table.keep) + " }"


def _rules(key: str, given: Sequence[Rule], table: Sequence[Rule]) -> Iterator[str]:
    written = [_rule(each, table) for each in given]
    whole = f"{key} = [{', '.join(written)}]"
    yield from [whole] if len(whole) <= 120 else [f"{key} = [", *(f"  {each}," for each in written), "]"]


def _rule(rule: Rule, table: Sequence[Rule]) -> str:
    parts = []
    if rule.column is not None:
        parts.append(f"{rule.strategy} = {_string(rule.column)}")
    if rule.claim is not None:
        parts.append(f"identity_claim = {_string(rule.claim)}")
    # A column's rule without `match` takes that of the table's one rule on the same owner column.
    above = {each.spellings for each in table if each.column == rule.column and each.spellings is not None}
    if rule.spellings is not None and (rule.spellings != SPELLINGS or above - {SPELLINGS}):
        parts.append(f"match = {_strings(('any',) if rule.spellings == SPELLINGS else rule.spellings)}")
    if rule.operations != OPERATIONS or not parts:
        parts.append(f"to = {_strings(rule.operations)}")
    return f"{{ {', '.join(parts)} }}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _strings(words: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, words))}]"


def _string(text: str) -> str:
    return '"' + _printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _printable(text: str) -> str:
    """With control characters, which TOML has nowhere, written as it escapes them."""
    return "".join(f"\\u{ord(each):04x}" if ord(each) < 32 or ord(each) == 127 else each for each in text)
