"""Wanted expressions are put into the server's own normal form, so that they can be compared with what the server keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from rlskit import ddl, runtime
from rlskit.state import (
    AnyOf,
    CallersName,
    Check,
    Default,
    Expression,
    MovingAway,
    NamesSomebody,
    OwnerColumn,
    Policy,
    Reassigned,
    State,
    StrangerTo,
    Trigger,
    WellFormed,
)

_POLICY: LiteralString = "create policy {} on {} using ({})"
# Of the two events this one has both versions of a row.
_TRIGGER: LiteralString = (
    "create trigger {} before update on {} for each row when ({}) execute function rlskit.refuse_columns()"
)

Normal = Callable[[Expression], Expression]


def by_twin(conn: Connection[Any], wanted: State) -> State:
    """Ask the server for the normal form of each wanted expression. Needs what ``normal_forms`` needs."""
    normal = normal_forms(conn, _expressions(wanted))
    return _mapped(wanted, lambda each: normal.get(each, each))


def normal_forms(conn: Connection[Any], given: Iterable[Expression]) -> dict[Expression, str]:
    """Put each expression on a temporary twin that has the columns it names, and read it back; texts are what they are.

    Needs a transaction that may write, the TEMP privilege, and the runtime's functions. The real tables are not touched.
    """
    expressions: dict[Expression, None] = {each: None for each in given if not isinstance(each, str)}
    defaults = [each for each in expressions if isinstance(each, CallersName)]
    conditions: dict[tuple[OwnerColumn, ...], list[Expression]] = defaultdict(list)
    for each in expressions:
        if not isinstance(each, CallersName):
            conditions[_columns(each)].append(each)
    cursor = conn.cursor(row_factory=tuple_row)
    normal: dict[Expression, str] = {}
    for number, (columns, group) in enumerate(conditions.items()):
        twin = Identifier("pg_temp", f"rlskit_twin_{number}")
        script = [SQL("create temporary table {} ({}) on commit drop").format(twin, _column_list(columns))]
        for position, each in enumerate(group):
            made = _TRIGGER if isinstance(each, StrangerTo | Reassigned) else _POLICY
            script.append(SQL(made).format(Identifier(str(position)), twin, ddl.expression(each)))
        cursor.execute(SQL(";\n").join(script))
        rows = cursor.execute(runtime.script("catalog/twin.sql"), {"twin": ddl.text(twin)}).fetchall()
        normal.update({group[int(name)]: text for name, text in rows})
    if defaults:
        twin = Identifier("pg_temp", "rlskit_twin_of_defaults")
        columns_with_default = SQL(", ").join(
            SQL("{} {} default {}").format(Identifier(str(position)), SQL(_sql_type(each.column)), ddl.expression(each))
            for position, each in enumerate(defaults)
        )
        cursor.execute(SQL("create temporary table {} ({}) on commit drop").format(twin, columns_with_default))
        rows = cursor.execute(
            "select adnum, pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = %s::regclass", [ddl.text(twin)]
        ).fetchall()
        normal.update({defaults[number - 1]: text for number, text in rows})
    return normal


def by_mark(existing: State, wanted: State) -> State:
    """Where nothing may be created: trust an existing expression when its mark says that it is what is wanted, untouched."""
    here = {each.key: each for each in existing.objects}
    objects = []
    for each in wanted.objects:
        found = here.get(each.key)
        if isinstance(each, ddl.Marked) and isinstance(found, type(each)) and found.mark == ddl.mark_of(each, found):
            match each, found:
                case Policy(), Policy():
                    each = replace(each, using=found.using, with_check=found.with_check)
                case Trigger(), Trigger():
                    each = replace(each, when=found.when)
                case Check(), Check():
                    each = replace(each, expression=found.expression)
        elif isinstance(each, Default):
            # Defaults cannot bear a comment; they are written the way the server prints them.
            each = replace(each, expression=ddl.text(ddl.expression(each.expression)))
        objects.append(each)
    return replace(wanted, objects=frozenset(objects))


def _expressions(state: State) -> Iterator[Expression]:
    for each in state:
        match each:
            case Policy():
                yield from (given for given in (each.using, each.with_check) if given is not None)
            case Trigger(when=when) if when is not None:
                yield when
            case Default() | Check():
                yield each.expression


def _mapped(state: State, normal: Normal) -> State:
    objects = []
    for each in state.objects:
        match each:
            case Policy():
                using = normal(each.using) if each.using is not None else None
                with_check = normal(each.with_check) if each.with_check is not None else None
                each = replace(each, using=using, with_check=with_check)
            case Trigger(when=when) if when is not None:
                each = replace(each, when=normal(when))
            case Default() | Check():
                each = replace(each, expression=normal(each.expression))
        objects.append(each)
    return replace(state, objects=frozenset(objects))


def _columns(expression: Expression) -> tuple[OwnerColumn, ...]:
    match expression:
        case AnyOf(terms):
            found: list[OwnerColumn] = []
            for term in terms:
                found += term.columns if isinstance(term, MovingAway) else [term.column]
            return tuple(sorted(set(found)))
        case StrangerTo(_, terms):
            return tuple(sorted({term.column for term in terms}))
        case NamesSomebody(columns) | Reassigned(columns):
            return tuple(sorted(set(columns)))
        case WellFormed(column):
            return (column,)
    return ()


def _column_list(columns: tuple[OwnerColumn, ...]) -> Any:
    return SQL(", ").join(SQL("{} {}").format(Identifier(each.name), SQL(_sql_type(each))) for each in columns)


def _sql_type(column: OwnerColumn) -> str:
    return column.type + "[]" * column.many
