"""Takes one part away from what rules compile to, and runs the access tests: each mutant has to be caught.

``make mutants`` prints each part with the first test that caught it, and fails when one survives. A run by hand, of one mutant:
``RLSKIT_MUTANT="policy: update, no WITH CHECK" pytest tests/access``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from psycopg.sql import SQL

from rlskit import canary, compiler, ddl
from rlskit.compiler import GUARD_FUNCTION, REASSIGN_FUNCTION
from rlskit.rules import Rules
from rlskit.state import (
    AllBut,
    Always,
    AnyOf,
    Check,
    Column,
    Default,
    Grant,
    Index,
    MovingAway,
    Policy,
    RowSecurity,
    State,
    StrangerTo,
    TableObject,
    Trigger,
    Usage,
)

TESTS = ["tests/access", "tests/conformance/test_amplify.py", "tests/conformance/test_differences.py"]

# An object as it is without the part; None where the part is the object.
Mutation = Callable[[TableObject], TableObject | None]


# This part is inside of an expression, and not in the state.
STORED_ROWS = "policy: the arm for rows given away, also for stored rows"


def _mutations() -> Iterator[tuple[str, Mutation]]:
    yield "row security: none", _drop(RowSecurity)
    yield (
        "row security: not forced",
        lambda each: replace(each, forced=False) if isinstance(each, RowSecurity) else each,
    )
    for command in ("select", "insert", "update", "delete"):
        yield f"policy: no {command}", _drop(Policy, command=command)
        if command != "insert":
            yield f"policy: {command} without its USING", _policy(command, using=lambda _: Always())
            yield f"policy: {command} without its first person", _policy(command, using=_without_first)
            yield f"policy: {command} without its last person", _policy(command, using=_without_last)
        yield f"grant: no {command}", _drop(Grant, privilege=command)
        if command != "delete":
            yield f"grant: {command} of every column", _widened(command)
    yield "policy: insert without its WITH CHECK", _policy("insert", with_check=lambda _: Always())
    yield "policy: insert without its last person", _policy("insert", with_check=_without_last)
    yield "policy: update without its WITH CHECK", _policy("update", with_check=lambda _: Always())
    yield "policy: select without the arm for rows given away", _policy("select", using=_without_arm)
    yield STORED_ROWS, lambda each: each
    yield "default: none", _drop(Default)
    yield "check: none", _drop(Check)
    yield "column: not added", _drop(Column)
    yield "index: none", _drop(Index)
    yield "usage: none", _drop(Usage)
    yield "trigger: no note of the new owner", _drop(Trigger, function=REASSIGN_FUNCTION)
    for event in ("insert", "update"):
        yield f"trigger: no guard of {event}", _drop(Trigger, function=GUARD_FUNCTION, event=event)
        yield f"trigger: guard of {event} without its first person", _guard(event)


def _drop(kind: type[TableObject], **attributes: object) -> Mutation:
    def mutation(each: TableObject) -> TableObject | None:
        hit = isinstance(each, kind) and all(getattr(each, name) == value for name, value in attributes.items())
        return None if hit else each

    return mutation


def _policy(command: str, **parts: Callable[[object], object]) -> Mutation:
    def mutation(each: TableObject) -> TableObject | None:
        if not isinstance(each, Policy) or each.command != command:
            return each
        return replace(each, **{name: change(getattr(each, name)) for name, change in parts.items()})

    return mutation


def _without_first(condition: object) -> object:
    assert isinstance(condition, AnyOf) or condition == Always()
    return AnyOf(condition.terms[1:]) if isinstance(condition, AnyOf) and len(condition.terms) > 1 else condition


def _without_last(condition: object) -> object:
    if not isinstance(condition, AnyOf):
        return condition
    people = [term for term in condition.terms if not isinstance(term, MovingAway)]
    arms = [term for term in condition.terms if isinstance(term, MovingAway)]
    return AnyOf((*people[:-1], *arms)) if len(people) > 1 else condition


def _without_arm(condition: object) -> object:
    if not isinstance(condition, AnyOf):
        return condition
    return AnyOf(tuple(term for term in condition.terms if not isinstance(term, MovingAway)))


def _widened(privilege: str) -> Mutation:
    def mutation(each: TableObject) -> TableObject | None:
        hit = isinstance(each, Grant) and each.privilege == privilege
        return replace(each, columns=AllBut()) if hit else each  # type: ignore[type-var]

    return mutation


def _guard(event: str) -> Mutation:
    def mutation(each: TableObject) -> TableObject | None:
        if isinstance(each, Trigger) and each.event == event and isinstance(each.when, StrangerTo):
            return replace(
                each, when=StrangerTo(each.when.version, each.when.terms[1:]) if each.when.terms[1:] else each.when
            )
        return each

    return mutation


MUTATIONS = dict(_mutations())


def install(name: str) -> None:
    """From now on `compile` leaves the part away; but for the canary, which would refuse such an apply."""
    original, mutation = compiler.compile, MUTATIONS[name]

    def mutated(rules: Rules) -> State:
        state = original(rules)
        if any(table.schema == "pg_temp" for table in state.tables):
            return state
        return replace(state, objects=frozenset(each for old in state.objects if (each := mutation(old)) is not None))

    compiler.compile = mutated
    if name == STORED_ROWS:
        _let_the_arm_show_stored_rows()


def _let_the_arm_show_stored_rows() -> None:
    not_stored, script = ddl.NOT_STORED, canary.script

    def as_it_is(role: str) -> str:
        ddl.NOT_STORED = not_stored
        ddl.expression.cache_clear()
        try:
            return script(role)
        finally:
            ddl.NOT_STORED = SQL("ctid")
            ddl.expression.cache_clear()

    canary.script = as_it_is
    ddl.NOT_STORED = SQL("ctid")


# --- the run ---------------------------------------------------------------------------------------------------------


def caught_by(name: str | None) -> str | None:
    """The first test that fails with the mutant (None: without any); None when all pass."""
    environment = {key: value for key, value in os.environ.items() if key != "RLSKIT_MUTANT"}
    if name is not None:
        environment["RLSKIT_MUTANT"] = name
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-k", "pg18", "-p", "no:cacheprovider", "--tb=no", *TESTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{name}: the tests could not be run\n{done.stdout}{done.stderr}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if failed is None and done.returncode:
        raise RuntimeError(f"{name}: no test is named\n{done.stdout}")
    return failed[1] if failed else None


def main(wanted: list[str]) -> int:
    names = [name for name in MUTATIONS if not wanted or any(each in name for each in wanted)]
    if test := caught_by(None):
        print(f"red without any mutant: {test}")
        return 2
    survivors = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, test in zip(names, pool.map(caught_by, names), strict=True):
            survivors += test is None
            print(f"{name:62} {test or 'SURVIVED'}", flush=True)
    print(f"{len(names) - survivors} of {len(names)} mutants caught")
    return 1 if survivors or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
