"""Who may do what, in Amplify's words: immutable declarations, checked when they are built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from rlskit.errors import RuleError
from rlskit.names import QualifiedName, checked_name
from rlskit.vocabulary import (
    MODES,
    OPERATIONS,
    REASSIGN,
    SPELLINGS,
    Mode,
    Operation,
    Reassign,
    Spelling,
    checked_match,
    checked_operations,
    flat,
    unknown_strategy,
)
from rlskit.words import did_you_mean


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """One rule: whoever ``column`` names may do ``operations``.

    Made by ``allow``, refined by ``to``, ``identity_claim`` and ``match``, each of which returns a new rule.
    ``column`` is None only for ``allow.same()``. ``spellings`` is None until a table's ``match`` has settled it.
    """

    strategy: Literal["owner", "owners", "same"]
    column: str | None
    operations: tuple[Operation, ...] = OPERATIONS
    claim: str | None = None
    spellings: tuple[Spelling, ...] | None = None

    def to(self, *operations: Operation | Iterable[Operation]) -> Rule:
        """Narrow the rule to these operations, given one by one or as a list. Raises RuleError."""
        if self.operations != OPERATIONS:
            raise RuleError(f"`{self}` already says its operations", hint="put them all into one `.to(…)`")
        return replace(self, operations=checked_operations(flat(operations)))

    def identity_claim(self, claim: str) -> Rule:
        """Compare and store this claim alone, instead of sub and username.

        ``sub`` and ``username`` are claims like any other; ``sub::username`` is what a rule compares anyway. Raises RuleError.
        """
        if self.strategy == "same":
            raise RuleError(
                "`allow.same()` takes the claims of the table's rules", hint="name the owner column to choose a claim"
            )
        if self.claim is not None:
            raise RuleError(f"`{self}` already says its claim", hint="a rule compares one claim: write two rules")
        if self.spellings is not None:
            raise RuleError("`match` and `identity_claim` cannot stand on one rule", hint=_CLAIM_OR_MATCH)
        if not isinstance(claim, str) or not claim or "\0" in claim:
            raise RuleError(
                f"`{claim!r}` cannot be the name of a claim", hint="a claim is named by text that is not empty"
            )
        if claim == "sub::username":
            return self
        if "::" in claim:
            raise RuleError(
                f"joined claims such as `{claim}` are not compared part by part",
                hint="put the joined value into one claim and name that claim",
            )
        return replace(self, claim=claim)

    def match(self, *spellings: str | Iterable[str]) -> Rule:
        """Narrow the spellings of an owner that are accepted: ``"any"``, ``"full"``, ``"full", "sub"`` … Raises RuleError.

        ``full`` (``<sub>::<username>``) is always among them: it is what the default writes.
        """
        if self.strategy == "same":
            raise RuleError("`allow.same()` takes the spellings of the table's rules", hint="put `match` on the table")
        if self.claim is not None:
            raise RuleError("`match` and `identity_claim` cannot stand on one rule", hint=_CLAIM_OR_MATCH)
        if self.spellings is not None:
            raise RuleError(f"`{self}` already says its spellings", hint="put them all into one `.match(…)`")
        return replace(self, spellings=checked_match(flat(spellings)))

    @property
    def person(self) -> tuple[str | None, str | None, tuple[Spelling, ...] | None]:
        """Whom the rule names: column, claim, spellings. Two rules with the same person are the same rule twice."""
        return (self.column, self.claim, self.spellings)

    def __str__(self) -> str:
        match self.strategy, self.column:
            case "same", _:
                text = "allow.same()"
            case "owner", "owner":
                text = "allow.owner()"
            case strategy, column:
                text = f'allow.{strategy}_defined_in("{column}")'
        if self.claim is not None:
            text += f'.identity_claim("{self.claim}")'
        if self.spellings not in (None, SPELLINGS):
            text += f".match({_quoted(self.spellings or ())})"
        return text if self.operations == OPERATIONS else f"{text}.to({_quoted(self.operations)})"

    __repr__ = __str__


class _Allow:
    """Where rules begin: ``allow.owner()``, as in Amplify. A wrong guess is answered with the right word."""

    __slots__ = ()

    def owner(self) -> Rule:
        """Whoever the text column ``owner`` names. The column is added where it is missing."""
        return self.owner_defined_in("owner")

    def owner_defined_in(self, column: str) -> Rule:
        """Whoever the text column ``column`` names. Raises RuleError when it cannot be a column's name."""
        return Rule("owner", checked_name(column, "column"))

    def owners_defined_in(self, column: str) -> Rule:
        """Everyone whom the ``text[]`` column ``column`` names. Raises RuleError when it cannot be a column's name."""
        return Rule("owners", checked_name(column, "column"))

    def same(self) -> Rule:
        """In a column's rules: whomever the table's rules name, with at most the operations that they have there."""
        return Rule("same", None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise unknown_strategy(name)

    def __repr__(self) -> str:
        return "allow"


allow = _Allow()


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The table's rows are open to everyone who has the role, whoever asks, for the operations ``to``.

    ``reason`` says in words why; it stands in the plan. Raises RuleError.
    """

    reason: str
    to: tuple[Operation, ...] = ("read",)

    def __post_init__(self) -> None:
        _require_reason("Open", self.reason)
        object.__setattr__(self, "to", checked_operations(flat((self.to,))))
        if "read" not in self.to and {"update", "delete"} & set(self.to):
            raise RuleError(f"`Open` to {' and '.join(self.to)} without read", hint=_ADD_READ)

    def __str__(self) -> str:
        return f"open to {', '.join(self.to)}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmanaged:
    """rlskit leaves the table alone, and takes away what it had put there. ``reason`` says in words why. Raises RuleError."""

    reason: str

    def __post_init__(self) -> None:
        _require_reason("Unmanaged", self.reason)

    def __str__(self) -> str:
        return f"unmanaged: {self.reason}"


ColumnRules: TypeAlias = "Mapping[str, Rule | Sequence[Rule]]"


@dataclass(frozen=True, slots=True, init=False)
class TableRules:
    """The rules of one table, OR-ed; and of its columns, where they differ.

    ``allow`` is one ``Open``, one ``Unmanaged``, or any number of rules; a leading text is the table's name (``"todo"``,
    ``"app.todo"``), which models leave out. ``columns`` replaces the table's rules for a column; an empty list there means nobody.
    ``match`` narrows the spellings of every rule that names none and compares no claim. ``reassign="never"`` lets nobody write
    themselves out of a row: whoever updates it has to be named by it afterwards too. ``keep`` allows foreign policies and privileges by name, each
    with a reason: ``{"policy auditors": "…", "privilege select of reporting": "…"}``. Raises RuleError.
    """

    table: QualifiedName | str | None
    allow: tuple[Rule, ...] | Open | Unmanaged
    columns: tuple[tuple[str, tuple[Rule, ...]], ...]
    reassign: Reassign
    keep: tuple[tuple[str, str], ...]
    match: tuple[Spelling, ...] | None = field(compare=False, repr=False)  # as it was given; the rules have it already

    def __init__(
        self,
        *allow: str | Rule | Open | Unmanaged,
        columns: ColumnRules | None = None,
        match: str | Iterable[str] | None = None,
        schema: str | None = None,
        reassign: Reassign = "plain",
        keep: Mapping[str, str] | None = None,
    ) -> None:
        table: str | QualifiedName | None = None
        if allow and isinstance(allow[0], str):
            table = checked_table(allow[0], schema)
            allow = allow[1:]
        elif schema is not None:
            raise RuleError("`schema` says where a named table is, and no table is named", hint=_NAME_IT, key="schema")
        place = f"table `{table}`" if table else "the table"
        column_rules = tuple(
            (checked_name(name, "column"), checked_rules(given)) for name, given in (columns or {}).items()
        )
        body = _table_body(place, allow)
        given_match = checked_match(flat((match,))) if match is not None else None
        if isinstance(body, tuple):
            default = given_match or SPELLINGS
            body = tuple(_settled(rule, default) for rule in body)
            column_rules = tuple(
                (name, tuple(_settled_in_column(rule, body, default) for rule in given)) for name, given in column_rules
            )
            _check_rules(place, body, column_rules)
        elif column_rules or match is not None:
            raise RuleError(
                f"{place} is {body}; it takes neither column rules nor `match`",
                hint="give the table owner rules, or leave them out",
            )
        if reassign not in REASSIGN:
            raise RuleError(
                f"{place}: `{reassign}` is no way to reassign",
                hint=did_you_mean(str(reassign), REASSIGN),
                key="reassign",
            )
        for what, reason in (keep or {}).items():
            if not isinstance(what, str) or not _KEEP.fullmatch(what):
                raise RuleError(
                    f"{place}: `keep` does not know `{what}`",
                    hint="write `policy NAME`, `privilege select of ROLE` or `view SCHEMA.NAME`",
                    key="keep",
                )
            _require_reason(f"keep of `{what}`", reason, key="keep")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "allow", body)
        object.__setattr__(self, "columns", tuple(sorted(column_rules, key=lambda each: each[0])))
        object.__setattr__(self, "reassign", reassign)
        object.__setattr__(self, "keep", tuple(sorted((keep or {}).items())))
        object.__setattr__(self, "match", given_match)

    @property
    def name(self) -> QualifiedName:
        """The table with its schema. Raises RuleError while the rules stand alone, outside of ``Rules``."""
        if not isinstance(self.table, QualifiedName):
            raise RuleError("these rules do not name their table yet", hint=_NAME_IT)
        return self.table

    def __str__(self) -> str:
        """The rules, as they stand in Python."""
        given = [str(self.allow)] if not isinstance(self.allow, tuple) else list(map(str, self.allow))
        columns = [f'"{column}": [{", ".join(map(str, rules))}]' for column, rules in self.columns]
        given += [f"columns={{{', '.join(columns)}}}"] if columns else []
        return ", ".join([*given, *([f'reassign="{self.reassign}"'] if self.reassign != "plain" else [])])

    def at(self, table: QualifiedName) -> TableRules:
        """The same rules, for this table."""
        copy = object.__new__(TableRules)
        for each in ("allow", "columns", "reassign", "keep", "match"):
            object.__setattr__(copy, each, getattr(self, each))
        object.__setattr__(copy, "table", table)
        return copy


@dataclass(frozen=True, slots=True, init=False)
class Rules:
    """All tables' rules, and the role that they are for.

    ``role`` is the application's role, which policies and privileges are given TO; logins may inherit it. ``bypass_role`` is for
    support and jobs, and is not touched. ``schema`` is that of the tables that name none. ``mode`` says of the whole database whether an
    identity has to be signed: "signed", or "plain"; None leaves it as it is, which is plain where nobody has said. Raises RuleError.
    """

    tables: tuple[TableRules, ...]
    role: str
    bypass_role: str | None
    schema: str
    mode: Mode | None

    def __init__(
        self,
        *tables: TableRules,
        role: str,
        bypass_role: str | None = None,
        schema: str = "public",
        mode: Mode | None = None,
    ) -> None:
        checked_name(schema, "schema", key="schema")
        checked_name(role, "role", key="role")
        if role.lower() in ("public", "none", "current_user", "session_user", "current_role"):
            raise RuleError(
                f"`{role}` cannot be the application's role",
                hint="create a role of its own, without SUPERUSER and BYPASSRLS",
                key="role",
            )
        if bypass_role is not None and checked_name(bypass_role, "role", key="bypass_role") == role:
            raise RuleError(
                "`role` and `bypass_role` are the same role",
                hint="rules bind the one and not the other",
                key="bypass_role",
            )
        if mode is not None and mode not in MODES:
            raise RuleError(f"`mode` is `{mode}`", hint=did_you_mean(str(mode), MODES), key="mode")
        named: dict[QualifiedName, TableRules] = {}
        for each in tables:
            if not isinstance(each, TableRules):
                raise RuleError(
                    f"`{each!r}` is no TableRules", hint='write Rules(TableRules("todo", allow.owner()), role=…)'
                )
            if each.table is None:
                each.name  # noqa: B018 - raises, and says why
            place = each.table if isinstance(each.table, QualifiedName) else QualifiedName(schema, str(each.table))
            if place in named:
                raise RuleError(f"table `{place}` has rules twice", hint="one `TableRules` holds all rules of a table")
            named[place] = each.at(place)
        object.__setattr__(self, "tables", tuple(named[place] for place in sorted(named)))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "bypass_role", bypass_role)
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "mode", mode)


# --- checks -----------------------------------------------------------------------------------------

_ADD_READ = "add read: PostgreSQL cannot find the row that it may not read"
_KEEP = re.compile(r"policy .+|privilege \w+ of .+|view .+", re.DOTALL)
_NAME_IT = 'write TableRules("todo", allow.owner())'
_CLAIM_OR_MATCH = "a claim is one value and has no other spellings: keep one of the two"


def checked_table(name: str, schema: str | None) -> QualifiedName | str:
    """Split ``schema.table`` once, unless the schema is given apart. A bare name is returned as it is. Raises RuleError."""
    if schema is not None:
        return QualifiedName(checked_name(schema, "schema", key="schema"), checked_name(name, "table"))
    before, dot, after = name.partition(".")
    if not dot:
        return checked_name(name, "table")
    if "." in after:
        raise RuleError(f"`{name}` has more than one dot", hint="give the schema apart, and the table's bare name")
    return QualifiedName(checked_name(before, "schema"), checked_name(after, "table"))


def checked_rules(given: object) -> tuple[Rule, ...]:
    """One rule or several, as a column has them. Raises RuleError for what is no rule."""
    rules = (given,) if isinstance(given, Rule) or not isinstance(given, Iterable) else tuple(given)
    for each in rules:
        if not isinstance(each, Rule):
            raise RuleError(
                f"`{each!r}` is no rule", hint="a column takes rules or a list of them; an empty list means nobody"
            )
    return rules


def _table_body(place: str, allow: Sequence[object]) -> tuple[Rule, ...] | Open | Unmanaged:
    if not allow:
        raise RuleError(
            f"{place} has no rule, so nobody could reach it",
            hint="give it a rule, `Open(reason=…)` or `Unmanaged(reason=…)`",
        )
    for each in allow:
        if not isinstance(each, (Rule, Open, Unmanaged)):
            raise RuleError(f"{place}: `{each!r}` is no rule", hint="rules begin with `allow.`: allow.owner()")
    if len(allow) == 1 and isinstance(allow[0], (Open, Unmanaged)):
        return allow[0]
    rules = tuple(each for each in allow if isinstance(each, Rule))
    if len(rules) < len(allow):
        raise RuleError(
            f"{place} mixes rules with `Open` or `Unmanaged`",
            hint="a table has exactly one of rules, `Open`, `Unmanaged`",
        )
    return rules


def _settled(rule: Rule, default: tuple[Spelling, ...]) -> Rule:
    if rule.strategy == "same" or rule.claim is not None or rule.spellings is not None:
        return rule
    return replace(rule, spellings=default)


def _settled_in_column(rule: Rule, table: tuple[Rule, ...], default: tuple[Spelling, ...]) -> Rule:
    """A column's rule without ``match`` means the person of the table's one rule on the same owner column."""
    inherited = [
        each.spellings for each in table if each.column == rule.column and each.claim is None and each.spellings
    ]
    return _settled(rule, inherited[0] if len(inherited) == 1 else default)


def _check_rules(place: str, table: tuple[Rule, ...], columns: tuple[tuple[str, tuple[Rule, ...]], ...]) -> None:
    for rule in table:
        if rule.strategy == "same":
            raise RuleError(f"{place}: `allow.same()` says nothing on a table", hint="it belongs in a column's rules")
    everything = [*table, *(rule for _, given in columns for rule in given)]
    strategies: dict[str, str] = {}
    for rule in everything:
        if rule.column is not None and strategies.setdefault(rule.column, rule.strategy) != rule.strategy:
            raise RuleError(
                f"{place}: column `{rule.column}` cannot be one owner and a list of owners",
                hint="choose one of the two rules",
            )
    for where, rules in ((place, table), *((f"{place}, column `{name}`", given) for name, given in columns)):
        seen: set[object] = set()
        for rule in rules:
            if rule.person in seen:
                raise RuleError(
                    f"{where} has the same rule twice: `{rule}`", hint="join them: one rule with all its operations"
                )
            seen.add(rule.person)
    for rule in everything:
        writes = [each for each in ("update", "delete") if each in rule.operations]
        if rule.strategy != "same" and writes and not _is_read(rule, everything):
            raise RuleError(
                f"{place}: `{rule}` has {' and '.join(writes)} without read",
                hint=_ADD_READ,
            )


def _is_read(rule: Rule, everything: Iterable[Rule]) -> bool:
    """Whether whomever the rule names may read the rows that name them so."""
    readers = [
        each
        for each in everything
        if (each.column, each.claim) == (rule.column, rule.claim) and "read" in each.operations
    ]
    read = {spelling for each in readers for spelling in each.spellings or ()}
    return bool(readers) and read.issuperset(rule.spellings or ())


def _require_reason(what: str, reason: object, key: str | None = None) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise RuleError(
            f"{what} needs a reason in words", hint='say why, for the next reader: reason="reference data"', key=key
        )


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
