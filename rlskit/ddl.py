"""Objects and expressions become SQL text: the only place that writes SQL around identifiers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import LiteralString, TypeAlias, assert_never

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from rlskit.names import QualifiedName
from rlskit.state import (
    AllBut,
    Always,
    AnyOf,
    CallersName,
    Check,
    Column,
    Default,
    Expression,
    Grant,
    Index,
    MovingAway,
    NamesCaller,
    NamesSomebody,
    OwnerColumn,
    Policy,
    Reassigned,
    RowSecurity,
    StrangerTo,
    TableObject,
    Trigger,
    Usage,
    WellFormed,
)

MARK = "rlskit"  # every comment that begins so says: this object is rlskit's

# The place of a row version that is not stored yet; no stored row has it.
NOT_STORED = SQL("'(4294967295,0)'::tid")


def text(composable: Composable) -> str:
    """The SQL as text, as every UTF-8 client would send it."""
    return composable.as_string(None)


def comment(words: object) -> str:
    """A comment of one line, whatever stands in a name."""
    return "-- " + " ".join(str(words).splitlines())


def block(body: str) -> str:
    """A ``do`` block around ``body``, quoted so that nothing in it ends the quotes."""
    tag, number = "$rlskit$", 0
    while tag in body:
        tag, number = f"$rlskit{number}$", number + 1
    return f"do {tag}\n{body}\n{tag}"


def qualified(name: QualifiedName) -> Identifier:
    """The quoted name with its schema."""
    return Identifier(name.schema, name.name)


Statements: TypeAlias = list[Composed]


def _format(template: LiteralString, *args: Composable | str, **kwargs: Composable | str) -> Composed:
    """``SQL.format``, in which a bare text is an identifier."""
    as_identifiers = [Identifier(each) if isinstance(each, str) else each for each in args]
    return SQL(template).format(
        *as_identifiers, **{k: Identifier(v) if isinstance(v, str) else v for k, v in kwargs.items()}
    )


def _names(names: Iterable[str]) -> Composed:
    return SQL(", ").join(map(Identifier, names))


# --- expressions ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)  # a thousand tables have a handful of different conditions
def expression(wanted: Expression) -> Composable:
    """The SQL of an expression. An existing one is the server's own text, and taken as it is."""
    match wanted:
        case AnyOf(terms):
            return SQL("\n    or ").join(_term(term) for term in terms)
        case StrangerTo(version, terms):
            named = SQL(" or ").join(_names_caller(term, version) for term in terms)
            return _format("({}) is not true", named)
        case Reassigned(columns):
            return SQL(" or ").join(
                _format("{} is distinct from {}", Identifier("old", each.name), Identifier("new", each.name))
                for each in columns
            )
        case Always():
            return SQL("true")
        case NamesSomebody(columns):
            return SQL(" or ").join(
                _format("cardinality({}) > 0" if column.many else "{} is not null", column.name) for column in columns
            )
        case CallersName(column, claim):
            return _callers_name(column, claim)
        case WellFormed(column):
            return _well_formed(column)
        case str():
            return SQL(wanted)
    assert_never(wanted)


def _term(term: NamesCaller | MovingAway) -> Composable:
    if isinstance(term, NamesCaller):
        return _names_caller(term)
    noted = SQL("current_setting('rlskit.moving_to', true)")
    arms = [
        _format("{} && array[{}]{}", column.name, noted, _list_cast(column))
        if column.many
        else _format("{} = {}", column.name, _cast(noted, column))
        for column in term.columns
    ]
    return _format("(ctid = {} and ({}) and not rlskit.is_foreign(tableoid))", NOT_STORED, SQL(" or ").join(arms))


def _names_caller(term: NamesCaller, version: str | None = None) -> Composable:
    """In a policy; or in a trigger, where the row has a version."""
    column = Identifier(version, term.column.name) if version else Identifier(term.column.name)
    # Behind (select …) the caller is asked for once in a statement, not once in a row; a trigger takes no sub-select.
    asked: LiteralString = "{}" if version else "(select {})"
    if _has_one_name(term):
        one = _format(asked, _cast(_one_name(term.claim), term.column))
        return _format("{} && array[{}]" if term.column.many else "{} = {}", column, one)
    every = _format(asked, _every_name(term.spellings))
    # The cast makes ANY take the sub-select for an array.
    every = _format("{}::{}[]", every, SQL(_type(term.column)))
    return _format("{} && {}" if term.column.many else "{} = any ({})", column, every)


def callers_names(term: NamesCaller) -> Composed:
    """The names that the column of ``term`` is compared with, as ``text[]``: NULL or a list with NULL for who has none."""
    if _has_one_name(term):
        return _format("array[{}]::text[]", _cast(_one_name(term.claim), term.column))
    return _every_name(term.spellings)


def _has_one_name(term: NamesCaller) -> bool:
    return term.claim is not None or term.spellings == ("full",)


def _every_name(spellings: tuple[str, ...] | None) -> Composed:
    narrowed = spellings if spellings is not None and len(spellings) < 3 else ()
    return _format("rlskit.identities({})", SQL(", ").join(map(Literal, narrowed)))


def _one_name(claim: str | None) -> Composable:
    return SQL("rlskit.identity()") if claim is None else _format("rlskit.claim({}::text)", Literal(claim))


def _cast(value: Composable, column: OwnerColumn) -> Composable:
    match column.type:
        case "text":
            return value
        case "uuid":
            return _format("rlskit.as_uuid({})", value)
        case "character varying" if column.many:
            return _format("{}::character varying", value)
    return value


def _list_cast(column: OwnerColumn) -> Composable:
    return SQL("::character varying[]") if column.type == "character varying" else SQL("")


def _type(column: OwnerColumn) -> LiteralString:
    return "character varying" if column.many and column.type == "character varying" else "text"


def _callers_name(column: OwnerColumn, claim: str | None) -> Composable:
    name = _one_name(claim)
    if column.type == "uuid":
        return _format("rlskit.as_uuid({})", name)
    if column.many:
        name = _format("rlskit.list_of({})", name)
    return name


def _well_formed(column: OwnerColumn) -> Composable:
    if column.many:
        return _format(
            "coalesce(array_ndims({0}), 1) = 1 and array_position({0}, null) is null and '' <> all ({0})", column.name
        )
    return (
        _format("{} is not null or {} is null", column.name, column.name)
        if column.type == "uuid"
        else _format("{} <> ''", column.name)
    )


# --- objects -------------------------------------------------------------------------------------------


Marked: TypeAlias = Policy | Trigger | Check


def wanted_digest(wanted: Marked) -> str:
    """What a mark keeps of the expressions that were wanted."""
    return _digest(text(expression(each)) if each is not None else "" for each in _expressions(wanted))


def mark_of(wanted: Marked, found: Marked) -> str:
    """The comment of an object that was made from ``wanted`` and is still what the server kept of it: see ``rlskit.mark``."""
    return f"{MARK} {wanted_digest(wanted)} {_digest(str(each or '') for each in _expressions(found))}"


def is_marked_for(found: Marked, wanted: Marked) -> bool:
    """Whether the mark of an existing object says that it was made from these words."""
    return (found.mark or "").startswith(f"{MARK} {wanted_digest(wanted)} ")


def is_mark(comment: str | None) -> bool:
    """Whether a comment says that the object is rlskit's."""
    return comment is not None and (comment == MARK or comment.startswith(f"{MARK} "))


def _expressions(marked: Marked) -> tuple[Expression | None, ...]:
    match marked:
        case Policy(using=using, with_check=with_check):
            return (using, with_check)
        case Trigger(when=when):
            return (when,)
        case Check(expression=condition):
            return (condition,)
    assert_never(marked)


def _digest(parts: Iterable[str]) -> str:
    return sha256(" / ".join(parts).encode()).hexdigest()[:16]


def _mark(wanted: Marked) -> Composed:
    kind = "constraint" if isinstance(wanted, Check) else wanted.kind
    if wanted.mark is not None:  # one that was there is put back as it was
        place = _format("{} on {}", wanted.name, qualified(wanted.table))
        return _format("comment on {} {} is {}", SQL(kind), place, Literal(wanted.mark))
    target = text(qualified(wanted.table))
    values = map(Literal, (kind, target, wanted.name, wanted_digest(wanted)))
    return _format("call rlskit.mark({}, {}, {}, {})", *values)


def lock(table: QualifiedName, mode: LiteralString) -> Composed:
    """Lock the table, then its partitions and children, in the order in which whoever reads the table locks them."""
    return _format("lock table {} in {} mode", qualified(table), SQL(mode))


def create(wanted: TableObject) -> Statements:
    """The statements that make the object."""
    table = qualified(wanted.table)
    match wanted:
        case Column():
            assert wanted.type is not None
            return [_format("alter table {} add column {} {}", table, wanted.name, SQL(wanted.type))]
        case RowSecurity():
            return _row_security(table, wanted)
        case Default():
            return [
                _format(
                    "alter table {} alter column {} set default {}", table, wanted.column, expression(wanted.expression)
                )
            ]
        case Check():
            return [
                _format(
                    "alter table {} add constraint {} check ({}){}",
                    *(table, wanted.name, expression(wanted.expression), SQL("" if wanted.validated else " not valid")),
                ),
                _mark(wanted),
            ]
        case Trigger():
            return _create_trigger(table, wanted)
        case Policy():
            return [_policy(_format("create policy {} on {}", wanted.name, table), wanted, new=True), _mark(wanted)]
        case Grant() | Usage():
            return [_privilege(wanted, "grant", "to")]
        case Index():
            return _create_index(wanted)
    raise AssertionError(wanted)


def change(before: TableObject | None, after: TableObject | None) -> Statements:
    """The statements that turn the one into the other; None on one side means that it is made, or taken away."""
    if after is None:
        return drop(before) if before is not None else []
    return create(after) if before is None else alter(before, after)


def alter(existing: TableObject, wanted: TableObject) -> Statements:
    """The statements that turn the one into the other; both have the same key."""
    table = qualified(wanted.table)
    match wanted:
        case RowSecurity() if isinstance(existing, RowSecurity):
            return [
                statement
                for statement, differs in zip(
                    create(wanted),
                    (existing.enabled != wanted.enabled, existing.forced != wanted.forced),
                    strict=True,
                )
                if differs
            ]
        case Default():
            return create(wanted)
        case Index() if isinstance(existing, Index) and is_renamed(existing, wanted):
            return [_format("alter index {} rename to {}", qualified(_index_name(existing)), wanted.name)]
        case Check() if isinstance(existing, Check) and is_renamed(existing, wanted):
            renamed = _format("alter table {} rename constraint {} to {}", table, existing.name, wanted.name)
            return [renamed, _mark(wanted)]  # the mark goes by what is wanted now
        case Policy() if isinstance(existing, Policy) and alterable(existing, wanted):
            return [_policy(_format("alter policy {} on {}", wanted.name, table), wanted, new=False), _mark(wanted)]
        case Check() if isinstance(existing, Check) and existing.expression == wanted.expression:
            return [_format("alter table {} validate constraint {}", table, wanted.name)]
        case Grant() if isinstance(existing, Grant):
            return _regrant(existing, wanted)
    return [*drop(existing), *create(wanted)]


def is_renamed(existing: TableObject | None, wanted: TableObject | None) -> bool:
    """Whether it is an index or a check that gets another name."""
    match existing, wanted:
        case (Index(name=before), Index(name=after)) | (Check(name=before), Check(name=after)):
            return before != after
    return False


def drop(existing: TableObject) -> Statements:
    """The statements that take the object away."""
    table = qualified(existing.table)
    match existing:
        case Column():
            return [_format("alter table {} drop column {}", table, existing.name)]
        case RowSecurity():
            return [
                _format("alter table {} no force row level security", table),
                _format("alter table {} disable row level security", table),
            ]
        case Default():
            return [_format("alter table {} alter column {} drop default", table, existing.column)]
        case Check():
            return [_format("alter table {} drop constraint {}", table, existing.name)]
        case Trigger():
            return [_format("drop trigger {} on {}", existing.name, table)]
        case Policy():
            return [_format("drop policy {} on {}", existing.name, table)]
        case Grant() | Usage():
            return [_privilege(existing, "revoke", "from")]
        case Index():
            return [_format("drop index {}", qualified(_index_name(existing)))]
    raise AssertionError(existing)


def _row_security(table: Identifier, wanted: RowSecurity) -> Statements:
    return [
        _format("alter table {} {} row level security", table, SQL("enable" if wanted.enabled else "disable")),
        force(wanted),
    ]


def force(wanted: RowSecurity) -> Composed:
    """Whether row security binds the table's owner too."""
    how: LiteralString = "force" if wanted.forced else "no force"
    return _format("alter table {} {} row level security", qualified(wanted.table), SQL(how))


_FIRES = {"D": SQL("disable"), "A": SQL("enable always"), "R": SQL("enable replica")}  # by PostgreSQL's letters


def _create_trigger(table: Identifier, wanted: Trigger) -> Statements:
    assert not isinstance(wanted.columns, AllBut)
    assert not isinstance(wanted.arguments, AllBut)
    of = _format(" of {}", _names(wanted.columns)) if wanted.columns else SQL("")
    when = _format("  when ({})\n", expression(wanted.when)) if wanted.when is not None else SQL("")
    return [
        _format(
            "create trigger {} before {}{} on {} for each row\n{}  execute function {}({})",
            *(wanted.name, SQL(wanted.event), of, table, when, qualified(wanted.function)),
            SQL(", ").join(map(Literal, wanted.arguments)),
        ),
        *(
            [_format("alter table {} {} trigger {}", table, _FIRES[wanted.enabled], wanted.name)]
            if wanted.enabled != "O"
            else []
        ),
        _mark(wanted),
    ]


def _policy(head: Composable, wanted: Policy, *, new: bool) -> Composed:
    parts: list[Composable] = [head]
    if new:
        parts.append(
            _format("  as {} for {}", SQL("permissive" if wanted.permissive else "restrictive"), SQL(wanted.command))
        )
    parts.append(_format("  to {}", SQL(", ").join(map(_role, wanted.roles))))
    if wanted.using is not None:
        parts.append(_format("  using (\n    {}\n  )", expression(wanted.using)))
    if wanted.with_check is not None:
        parts.append(_format("  with check (\n    {}\n  )", expression(wanted.with_check)))
    return SQL("\n").join(parts)


def alterable(existing: Policy, wanted: Policy) -> bool:
    """ALTER POLICY changes roles and expressions, but neither the command nor what is there at all."""
    same_shape = all(
        (a is None) == (b is None)
        for a, b in ((existing.using, wanted.using), (existing.with_check, wanted.with_check))
    )
    return same_shape and (existing.command, existing.permissive) == (wanted.command, wanted.permissive)


def _role(name: str) -> Composable:
    return SQL("public") if name == "public" else Identifier(name)


def _privilege(given: Grant | Usage, verb: LiteralString, preposition: LiteralString) -> Composed:
    role = _role(given.role)
    if isinstance(given, Usage):
        if given.sequence is None:
            return _format(
                "{} {} on schema {} {} {}", SQL(verb), SQL(given.privilege), given.table.schema, SQL(preposition), role
            )
        return _format(
            "{} {} on sequence {} {} {}",
            SQL(verb),
            SQL(given.privilege),
            qualified(given.sequence),
            SQL(preposition),
            role,
        )
    privilege = SQL(given.privilege)
    what = privilege if given.columns is None else _format("{} ({})", privilege, _names(sorted(given.named)))
    return _format("{} {} on {} {} {}", SQL(verb), what, qualified(given.table), SQL(preposition), role)


def _regrant(existing: Grant, wanted: Grant) -> Statements:
    """Only the columns that differ."""
    before, after = existing.named, wanted.named
    changes: Statements = []
    for columns, verb, preposition in ((before - after, "revoke", "from"), (after - before, "grant", "to")):
        if columns:
            part = Grant(
                table=wanted.table, role=wanted.role, privilege=wanted.privilege, columns=tuple(sorted(columns))
            )
            changes.append(_privilege(part, verb, preposition))
    return changes


def _index_name(index: Index) -> QualifiedName:
    return QualifiedName(index.table.schema, index.name)


def _create_index(wanted: Index, how: LiteralString = "create index", only: LiteralString = "") -> Statements:
    return [
        _format(
            "{} {} on {}{} using {} ({})",
            *(SQL(how), wanted.name, SQL(only), qualified(wanted.table), SQL(wanted.method), wanted.column),
        ),
        mark_index(wanted),
    ]


def create_index_concurrently(wanted: Index) -> Statements:
    """Build the index while others write; each statement stands alone, outside of a transaction."""
    return _create_index(wanted, "create index concurrently")


def create_index_on_only(wanted: Index) -> Statements:
    """Declare the index of a partitioned table; it becomes valid when every partition's is attached."""
    return _create_index(wanted, only="only ")


def drop_index_concurrently(existing: Index) -> Statements:
    """Take the index away while others read and write."""
    return [_format("drop index concurrently if exists {}", qualified(_index_name(existing)))]


def attach_index(parent: Index, child: Index) -> Statements:
    """Make the partition's index a part of the partitioned table's."""
    return [
        _format("alter index {} attach partition {}", qualified(_index_name(parent)), qualified(_index_name(child)))
    ]


def mark_index(index: Index) -> Composed:
    """Say in a comment that the index is rlskit's."""
    return _format("comment on index {} is {}", qualified(_index_name(index)), Literal(MARK))


def drop_temporary(name: str) -> Composed:
    """Take a temporary table of this session away."""
    return _format("drop table {}", Identifier("pg_temp", name))


def count_of(table: QualifiedName, condition: Expression | None = None) -> Composed:
    """How many rows the connected role sees, of those that do not meet the condition where one is given."""
    where = _format(" where not ({})", expression(condition)) if condition is not None else SQL("")
    return _format("select count(*) from {}{}", qualified(table), where)
