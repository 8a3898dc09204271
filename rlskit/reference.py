"""What the rules mean, in plain Python: what PostgreSQL will do with one row. For tests and for explaining; it enforces nothing.

It is written from the rules alone and shares nothing with the compiler, so that each finds the other's mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rlskit.errors import RuleError
from rlskit.identity import Identity
from rlskit.rules import Open, Rule, TableRules, Unmanaged
from rlskit.vocabulary import Operation

Row: TypeAlias = Mapping[str, Any]
Granting: TypeAlias = Rule | Open


@dataclass(frozen=True, slots=True)
class Decision:
    """What PostgreSQL does with one row.

    ``refused`` is an error (SQLSTATE 42501; 23514 where an owner is no name), ``not visible`` is no row and no error. ``why`` says in words
    what decided. ``row`` is the row as it is afterwards: None where it is refused, not visible or deleted.
    """

    outcome: Literal["allowed", "not visible", "refused"]
    why: str
    row: Row | None = None

    @property
    def allowed(self) -> bool:
        """Whether it happens."""
        return self.outcome == "allowed"


def read(rules: TableRules, who: Identity | None, row: Row) -> Decision:
    """Whether ``who`` (None: nobody) is shown ``row``, which maps every column to its value; lists are Python's."""
    readers = _on_any_column(rules, "read")
    return _reached(readers, "read", who, row) or _allowed(readers, who, row, row)


def create(
    rules: TableRules, who: Identity | None, values: Row, *, defaults: Row, key: Collection[str] = ()
) -> Decision:
    """What an INSERT that names ``values`` does.

    ``defaults`` has a value for every column; ``key`` are the columns of the primary key, which whoever may create may set. Where the right
    to a column depends on the row, it is asked for when the value is not the default.
    """
    creators = _on_any_column(rules, "create")
    for column in values:
        if not _on_column(rules, column, "create"):
            return Decision("refused", f"no rule lets anybody set `{column}` of a new row")
    filled = {**defaults, **dict(_filled_in(creators, who))}
    row = {**filled, **values}
    if not any(names(rule, who, row) for rule in creators):
        return Decision("refused", "no rule with create names the caller in the new row")
    for column in values:
        exempt = values[column] == filled[column] or (column in key and column not in dict(rules.columns))
        if not exempt and not any(names(rule, who, row) for rule in _on_column(rules, column, "create")):
            return Decision("refused", f"no rule that names the caller in the new row sets `{column}`")
    return _malformed(rules, row) or _allowed(creators, who, row, row)


def update(rules: TableRules, who: Identity | None, row: Row, changes: Row) -> Decision:
    """What an UPDATE that sets ``changes`` does to ``row``. A column that is set to the value it had counts as well.

    The UPDATE finds its row by the key. One that reads no column at all is not held against the SELECT policy: under ``reassign="explicit"`` it
    gives away all that is the caller's.
    """
    updaters = _on_any_column(rules, "update")
    for column in changes:
        if not _on_column(rules, column, "update"):
            return Decision("refused", f"no rule lets anybody update `{column}`")
    if missed := _reached(updaters, "update", who, row):
        return missed
    for column in changes:
        if not any(names(rule, who, row) for rule in _on_column(rules, column, "update")):
            return Decision("refused", f"no rule that names the caller updates `{column}`")
    new = {**row, **changes}
    owners = {rule.column for rule in _rules(rules)}
    if owners & changes.keys():
        if not any(new.get(column or "") for column in owners):
            return Decision("refused", "the row would belong to nobody")
        staying = updaters if rules.reassign == "never" else ()
        reading = () if rules.reassign == "plain" else _on_any_column(rules, "read")
        for needed in (staying, reading):
            if needed and not any(names(rule, who, new) for rule in needed):
                return Decision("refused", "the row would no longer be the caller's")
    return _malformed(rules, new) or _allowed(updaters, who, row, new)


def delete(rules: TableRules, who: Identity | None, row: Row) -> Decision:
    """What a DELETE does to ``row``: one rule needs delete on every column, and two rules do not add up."""
    deleters = _on_column(rules, None, "delete")
    for column, _ in rules.columns:
        people = {_person(rule) for rule in _on_column(rules, column, "delete")}
        deleters = [rule for rule in deleters if _person(rule) in people]
    return _reached(deleters, "delete", who, row) or _allowed(deleters, who, row, None)


def granted(rules: TableRules, operation: Operation, column: str | None = None) -> bool:
    """Whether any rule lets anybody do it to the column (None: to those without rules of their own): privileges are the same for every row."""
    return bool(_on_column(rules, column, operation))


def names(rule: Granting, who: Identity | None, row: Row) -> bool:
    """Whether the rule names the caller in this row; ``Open`` names everybody."""
    if isinstance(rule, Open):
        return True
    stored = row[rule.column or ""]
    named = (stored or []) if rule.strategy == "owners" else [stored]
    return any(name in named for name in _called(rule, who))


# --- which rules ---------------------------------------------------------------------------------------


def _on_column(rules: TableRules, column: str | None, operation: Operation) -> list[Granting]:
    """Its own rules where it has some, else the table's; ``allow.same()`` stands for those of the table that have the operation."""
    if isinstance(rules.allow, Unmanaged):
        raise RuleError("the rules leave this table alone", hint="ask about a table that has rules")
    if isinstance(rules.allow, Open):
        return [rules.allow] if operation in rules.allow.to else []
    table: list[Granting] = [rule for rule in rules.allow if operation in rule.operations]
    if column not in dict(rules.columns):
        return table
    own = [rule for rule in dict(rules.columns)[column or ""] if operation in rule.operations]
    return [each for rule in own for each in (table if rule.strategy == "same" else [rule])]


def _on_any_column(rules: TableRules, operation: Operation) -> list[Granting]:
    return [rule for column in (None, *dict(rules.columns)) for rule in _on_column(rules, column, operation)]


def _rules(rules: TableRules) -> list[Rule]:
    given = [rules.allow if isinstance(rules.allow, tuple) else (), *dict(rules.columns).values()]
    return [rule for each in given for rule in each if rule.strategy != "same"]


def _person(rule: Granting) -> object:
    return rule if isinstance(rule, Open) else rule.person


# --- whom they name ------------------------------------------------------------------------------------


def _called(rule: Rule, who: Identity | None) -> tuple[str, ...]:
    """What the rule's column may hold for the caller; what it fills in stands first."""
    if who is None:
        return ()
    if rule.claim is not None:
        value = {**who.claims, "sub": who.sub, "username": who.username}.get(rule.claim)
        return (value,) if value is not None and not re.fullmatch(r"[ \t\n\r\f\v]*", value) else ()
    spelled = dict(zip(("full", "sub", "username"), who.spellings, strict=False))
    return tuple(spelled[each] for each in rule.spellings or () if each in spelled)


def _filled_in(creators: Iterable[Granting], who: Identity | None) -> Iterator[tuple[str, Any]]:
    """An owner column that a rule with create names holds the caller where the INSERT leaves it out."""
    for rule in reversed([each for each in creators if isinstance(each, Rule)]):
        name = next(iter(_called(rule, who)), None)
        yield rule.column or "", [name] if rule.strategy == "owners" and name is not None else name


# --- what follows --------------------------------------------------------------------------------------


def _reached(granting: list[Granting], operation: Operation, who: Identity | None, row: Row) -> Decision | None:
    if not granting:
        return Decision("refused", f"no rule lets anybody {operation}")
    if not any(names(rule, who, row) for rule in granting):
        return Decision("not visible", f"no rule with {operation} names the caller in the row")
    return None


def _malformed(rules: TableRules, row: Row) -> Decision | None:
    for rule in _rules(rules):
        stored = row[rule.column or ""]
        listed = (stored or []) if rule.strategy == "owners" else [stored] if stored is not None else []
        if any(not isinstance(name, str) or not name for name in listed):
            return Decision("refused", f"`{rule.column}` would hold what is no name")
    return None


def _allowed(granting: list[Granting], who: Identity | None, row: Row, afterwards: Row | None) -> Decision:
    naming = [str(rule) for rule in granting if names(rule, who, row)]
    return Decision("allowed", " and ".join(dict.fromkeys(naming)), afterwards)
