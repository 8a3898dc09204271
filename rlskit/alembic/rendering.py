"""An operation becomes the text of a revision: one call of ``op`` that says everything, and imports nothing of the application."""

from __future__ import annotations

from typing import Any, get_args

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext

from rlskit import ddl
from rlskit.alembic.directives import (
    IndexOp,
    ObjectOp,
    PrivilegesOp,
    ProofOp,
    RevokeAllOp,
    RuntimeOp,
    SignaturesOp,
    UsageOp,
)
from rlskit.state import (
    AllBut,
    Check,
    Command,
    Default,
    Expression,
    Grant,
    Index,
    Policy,
    RowSecurity,
    TableObject,
    Trigger,
)

_WIDTH = 100

# What stands in a call: the positional arguments, and those with a keyword; a keyword whose value is None is left out.
_Arguments = tuple[list[object], dict[str, object]]


@renderers.dispatch_for(ObjectOp)
def _object(context: AutogenContext, operation: ObjectOp) -> str:
    before, after = operation.before, operation.after
    positional, keywords = _named(operation.some)
    if isinstance(before, Index | Check) and ddl.is_renamed(before, after):
        positional = [before.name, *positional]
        if isinstance(after, Check):
            positional.append(_sql(after.expression))
            keywords["comment"] = after.mark
    elif after is not None:
        more, said = _defined(after, altered=before is not None)
        positional, keywords = [*positional, *more], {**said, **keywords}
    if isinstance(operation, IndexOp) and operation.concurrently:
        keywords["concurrently"] = True
    call = _call(context, operation.directive, positional, keywords)
    if isinstance(operation, IndexOp) and operation.concurrently:
        body = call.replace("\n", "\n    ")
        return f"with {_prefix(context)}get_context().autocommit_block():\n    {body}"
    return call


def _named(some: TableObject) -> _Arguments:
    """What says which object it is."""
    place: dict[str, object] = {"schema": _schema(some.table.schema)}
    match some:
        case Policy() | Check() | Trigger() | Index():
            return [some.name, some.table.name], place
        case Default():
            return [some.table.name, some.column], place
    return [some.table.name], place


def _defined(after: TableObject, *, altered: bool) -> _Arguments:
    """What says how it shall be."""
    match after:
        case RowSecurity():
            return [], {"force": None if after.forced == after.enabled else after.forced}
        case Policy():
            shape = {} if altered else {"command": after.command}
            return [], {
                **shape,
                "to": list(after.roles),
                "using": _sql(after.using),
                "with_check": _sql(after.with_check),
                "permissive": None if after.permissive else False,
                "comment": after.mark,
            }
        case Default():
            return [_sql(after.expression)], {}
        case Check():
            return [_sql(after.expression)], {"not_valid": None if after.validated else True, "comment": after.mark}
        case Trigger():
            assert not isinstance(after.columns, AllBut)
            assert not isinstance(after.arguments, AllBut)
            return [], {
                "before": after.event,
                "of": list(after.columns) or None,
                "when": _sql(after.when),
                "execute": after.function.name,
                "arguments": list(after.arguments) or None,
                "enabled": None if after.enabled == "O" else after.enabled,
                "comment": after.mark,
            }
        case Index():
            return [after.column], {"using": None if after.method == "btree" else after.method}
    raise AssertionError(after)


@renderers.dispatch_for(PrivilegesOp)
def _privileges(context: AutogenContext, operation: PrivilegesOp) -> str:
    some = operation.grants[0]
    privileges: dict[str, object] = {
        each.privilege: True if each.columns is None else sorted(each.named)
        for each in sorted(operation.grants, key=_in_order)
    }
    role = {"to" if operation.given else "role": some.role}
    return _call(
        context, operation.directive, [some.table.name], {**role, **privileges, "schema": _schema(some.table.schema)}
    )


def _in_order(grant: Grant) -> tuple[bool, int, str]:
    """Reading first, as people think of it; what no rule gives last."""
    known = [str(command) for command in get_args(Command)]
    return (
        grant.privilege not in known,
        known.index(grant.privilege) if grant.privilege in known else 0,
        grant.privilege,
    )


@renderers.dispatch_for(RevokeAllOp)
def _revoke_all(context: AutogenContext, operation: RevokeAllOp) -> str | list[str]:
    keywords = {
        "role": operation.role,
        "sequences": list(operation.sequences) or None,
        "schema": _schema(operation.table.schema),
    }
    return _call(context, operation.directive, [operation.table.name], keywords) if operation.forwards else []


@renderers.dispatch_for(UsageOp)
def _usage(context: AutogenContext, operation: UsageOp) -> str:
    usage = operation.usage
    place = usage.sequence.schema if usage.sequence else usage.table.schema
    return _call(
        context,
        operation.directive,
        [],
        {
            "to" if operation.given else "role": usage.role,
            "sequence": usage.sequence.name if usage.sequence else None,
            "privilege": None if usage.privilege == "usage" else usage.privilege,
            "schema": _schema(place) if usage.sequence else place,
        },
    )


@renderers.dispatch_for(RuntimeOp)
def _runtime(context: AutogenContext, operation: RuntimeOp) -> str:
    return _call(context, operation.directive, [] if operation.after is None else [operation.after], {})


@renderers.dispatch_for(SignaturesOp)
def _signatures(context: AutogenContext, operation: SignaturesOp) -> str:
    return _call(context, operation.directive, [] if operation.required else [False], {})


@renderers.dispatch_for(ProofOp)
def _proof(context: AutogenContext, operation: ProofOp) -> str | list[str]:
    return _call(context, operation.directive, [], {"role": operation.role}) if operation.forwards else []


# --- text ----------------------------------------------------------------------------------------------


def _prefix(context: AutogenContext) -> str:
    prefix: str = context.opts["alembic_module_prefix"] or ""
    # `op` of rlskit is Alembic's with more in it, and known to type checkers.
    context.imports.add("from rlskit.alembic import op" if prefix == "op." else "import rlskit.alembic")
    return prefix


def _schema(name: str) -> str | None:
    return None if name == "public" else name


def _sql(expression: Expression | None) -> str | None:
    return None if expression is None else ddl.text(ddl.expression(expression))


def _call(context: AutogenContext, directive: str, positional: list[Any], keywords: dict[str, Any]) -> str:
    given = [("", each) for each in positional]
    given += [(f"{name}=", each) for name, each in keywords.items() if each is not None]
    head = f"{_prefix(context)}{directive}"
    line = f"{head}({', '.join(name + repr(each) for name, each in given)})"
    if len(line) <= _WIDTH and not any(isinstance(each, str) and "\n" in each for _, each in given):
        return line
    lines = [f"    {name}{_value(each)},\n" for name, each in given]
    return f"{head}(\n{''.join(lines)})"


def _value(value: object) -> str:
    """SQL of several lines as one literal a line; what Alembic's indenting would touch stands escaped in it."""
    if not isinstance(value, str) or "\n" not in value:
        return repr(value)
    parts = "".join(f"\n        {part!r}" for part in value.splitlines(keepends=True))
    return f"({parts}\n    )"
