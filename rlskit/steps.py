"""What differs becomes steps: each one change, with its statements, its lock and its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeGuard, get_args

from rlskit import canary, ddl, runtime, stages
from rlskit.errors import RuntimeVersionError
from rlskit.facts import Database, Foreign
from rlskit.names import QualifiedName, index_name
from rlskit.stages import Stage
from rlskit.state import (
    Change,
    Check,
    Column,
    Default,
    Grant,
    Index,
    Policy,
    RowSecurity,
    State,
    TableObject,
    Trigger,
    Usage,
)
from rlskit.vocabulary import Mode

# From the weakest to the strongest.
Lock: TypeAlias = Literal["ACCESS SHARE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"]
_STRENGTH: tuple[Lock, ...] = get_args(Lock)

# A table's steps run in this order; "table" is one transaction, and what stands before and after it runs apart,
# because it would hold a lock for as long as the table is large.
Phase: TypeAlias = Literal["runtime", "proof", "before", "table", "after"]
PHASES: tuple[Phase, ...] = ("runtime", "proof", "before", "table", "after")

_LOCKS: dict[str, Lock | None] = {
    "column": "ACCESS EXCLUSIVE",
    "row security": "ACCESS EXCLUSIVE",
    "default": "ACCESS EXCLUSIVE",
    "check": "ACCESS EXCLUSIVE",
    "policy": "ACCESS EXCLUSIVE",
    "trigger": "SHARE ROW EXCLUSIVE",
    "index": "SHARE",
    "grant": "ACCESS SHARE",
    "usage": None,
}
_OUR_DEFAULTS = tuple(f"{runtime.SCHEMA}.{function}(" for function in ("claim", "identity", "list_of", "as_uuid"))
# Inside a table's transaction: first what closes, then what the rest needs, at last what opens.
_ORDER = ("column", "row security", "grant taken", "policy", "trigger", "default", "check", "index", "usage", "grant")


@dataclass(frozen=True, slots=True)
class Step:
    """One change: ``before`` becomes ``after``; None on one side means that it is made, or taken away.

    ``table`` is the one that the rules name (None: the runtime); the objects may belong to a partition or a child of it. ``says`` and
    ``why`` are for the reader, ``lock`` is the strongest lock that the step takes on a table (None: none), ``statements`` are complete
    SQL statements, in order. ``stage`` is the first stage that contains the step.
    """

    phase: Phase
    table: QualifiedName | None
    before: TableObject | None
    after: TableObject | None
    says: str
    why: str
    lock: Lock | None
    statements: tuple[str, ...]
    stage: Stage = "policies"

    def __str__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return f"{self.says}{why}  [{self.lock or 'no lock on a table'}]"


def diff(actual: State, wanted: State) -> Iterator[Change]:
    """Yield what differs, as pairs of before and after. Pure: both sides hold expressions in the server's normal form."""
    here = {each.key: each for each in actual.objects - wanted.objects}
    there = {each.key: each for each in wanted.objects - actual.objects}
    for key in sorted(here.keys() | there.keys(), key=lambda key: (key[1:3], key)):
        yield here.get(key), there.get(key)


def _with_stale_marks(
    actual: State, wanted: dict[tuple[str, ...], TableObject], changed: set[tuple[str, ...]]
) -> Iterator[Change]:
    """What is as it should be, but was wanted in other words, as after a column was renamed: who goes by the marks would see a change."""
    for each in actual:
        now = wanted.get(each.key) if each.key not in changed else None
        if (
            isinstance(each, Policy | Trigger)
            and isinstance(now, Policy | Trigger)
            and not ddl.is_marked_for(each, now)
        ):
            yield each, now


def _with_renames(changes: Sequence[Change]) -> Iterator[Change]:
    """What only bears another name, because its table or its column was renamed, is given the new one, and not made again."""
    going = {same: before for before, after in changes if after is None and (same := _but_for_its_name(before))}
    coming = {same for before, after in changes if before is None and (same := _but_for_its_name(after))}
    for before, after in changes:
        if before is None and (old := going.get(_but_for_its_name(after))):
            yield old, after
        elif after is not None or _but_for_its_name(before) not in coming:
            yield before, after


def _but_for_its_name(some: TableObject | None) -> tuple[object, ...]:
    """What makes two indexes, or two checks, the same but for their names; empty for everything else."""
    match some:
        case Index(valid=True):
            return (some.kind, some.table, some.column, some.method)
        case Check():
            return (some.kind, some.table, some.expression)
    return ()


def runtime_steps(database: Database) -> Iterator[Step]:
    """Yield what brings the schema rlskit to the version and the text that this package ships. Raises RuntimeVersionError."""
    found, shipped = database.runtime_version, runtime.version()
    if found is not None and found > shipped:
        raise RuntimeVersionError(
            f"the schema rlskit has version {found}, and this package knows {shipped}",
            hint="pip install --upgrade rlskit",
        )
    changed = [name for name, function in runtime.functions().items() if database.functions.get(name) != function]
    if found is None:
        says, why = f"install the schema rlskit, version {shipped}", "policies and defaults rest on its functions"
    elif found < shipped:
        says, why = f"upgrade the schema rlskit from version {found} to {shipped}", ""
    elif changed:
        says, why = "restore the schema rlskit", f"changed: {', '.join(sorted(changed))}"
    else:
        return
    yield Step("runtime", None, None, None, says, why, None, (runtime.bringing_up(found),))


def signing_steps(database: Database, mode: Mode | None) -> Iterator[Step]:
    """Yield what makes the database take identities in this mode; and what closes the keys to all but their owner."""
    if mode is not None and database.server.signed != (mode == "signed"):
        says = f"take {'signed identities only' if mode == 'signed' else 'identities as they are, signed or not'}"
        why = (
            "an application without a key is nobody from now on: rlskit keys add makes one"
            if mode == "signed"
            else "whoever can send SQL can be anybody from now on"
        )
        statement = runtime.requirement(signed=mode == "signed")
        yield Step("runtime", None, None, None, says, why, None, (statement,), stage="enable")
    if database.server.keys_are_open:
        says = "close the keys of signed identities"
        why = "somebody but their owner has a privilege on rlskit.key, and could sign as anybody"
        yield Step("runtime", None, None, None, says, why, None, (runtime.script("runtime.sql"),))


def proofs(steps: Iterable[Step], role: str) -> Iterator[Step]:
    """Yield the proof that rows can be given away on this server, where one of the steps makes a policy that rests on it."""
    if any(isinstance(step.after, Policy) and step.after.lets_go for step in steps):
        says = "prove on this server that rows can be given away, and that nobody sees more for it"
        yield Step("proof", None, None, None, says, "", None, (canary.script(role),))


def table_steps(database: Database, wanted: State, normal: State) -> Iterator[Step]:
    """Yield what brings the tables to ``wanted``, which is fitted to ``database``, in the order of running.

    ``normal`` is ``wanted`` with its expressions in the server's normal form: by it the two sides are compared.
    """
    as_written = {each.key: each for each in wanted.objects}
    changes = list(_with_renames(list(diff(_relevant(database, wanted), normal))))
    changed = {each.key for change in changes for each in change if each is not None}
    changes += _with_stale_marks(database.state, as_written, changed)
    bound = stages.binding(database)
    steps: list[Step] = []
    for here, there in changes:
        if isinstance(here, Check) and isinstance(there, Check) and replace(here, validated=True) == there:
            made = [_validation(here, there)]
        else:
            after = as_written[there.key] if there else None
            made = [step for part in stages.parted(here, after) for step in _change(database, *part)]
        steps += [_staged(_in_family(database, step), wanted, bound) for step in made]
    yield from sorted(steps, key=lambda step: (step.table, PHASES.index(step.phase), _rank(step)))


def _in_family(database: Database, step: Step) -> Step:
    """Partitions and children change together with the table that the rules name."""
    assert step.table is not None
    ancestors = database.tables[step.table].ancestors
    return replace(step, table=ancestors[0], says=f"{step.says} on {step.table}") if ancestors else step


def _staged(step: Step, wanted: State, bound: Set[QualifiedName]) -> Step:
    assert step.table is not None
    whole = stages.together(step.table, wanted, bound)
    return replace(step, stage=stages.stage_of(step.before, step.after, whole))


def prunings(database: Database, foreign: Iterable[Foreign]) -> Iterator[Step]:
    """The steps that take foreign objects away."""
    for each in foreign:
        if each.drop is not None:
            step = _in_family(database, _step("table", each.drop, None, ddl.drop(each.drop)))
            yield replace(step, why="it undoes the rules")


def in_order(steps: Iterable[Step], prunings: Iterable[Step]) -> list[Step]:
    """The steps in their order; what is pruned on a table is the first in that table's transaction, so that no moment is between the two."""

    def place(step: Step) -> tuple[object, ...]:
        table = step.table
        return (table is not None, table and (table.schema, table.name), PHASES.index(step.phase))

    return sorted([*prunings, *steps], key=place)


def transaction(steps: Sequence[Step]) -> Iterator[str]:
    """Yield the statements of one table's transaction.

    The strongest of its locks comes first, on the whole family and from the top: a lock that grows can deadlock with whoever reads and
    then writes, and one on a part before that on its table with whoever reads the table.
    """
    locks = [step.lock for step in steps if step.lock is not None]
    strongest = max(locks, key=_STRENGTH.index, default=None)
    table = steps[0].table
    if table is not None and strongest not in (None, "ACCESS SHARE"):
        yield ddl.text(ddl.lock(table, strongest))
    for step in steps:
        yield from step.statements


def _relevant(database: Database, wanted: State) -> State:
    """Existing objects that the rules decide about: what rlskit made, and all that the role holds."""
    defaults = {each.key for each in wanted.objects if isinstance(each, Default)}
    usages = {each.key for each in wanted.objects if isinstance(each, Usage)}
    whole = {
        (each.table, each.role, each.privilege) for each in database.state.objects - wanted.objects if _is_whole(each)
    }

    def relevant(each: TableObject) -> bool:
        match each:
            case Default():
                # A default reaches down to partitions and children, and goes with the one above.
                ours = is_callers_name(each) and not database.tables[each.table].ancestors
                return ours or each.key in defaults
            case Usage():
                # Of a schema others may have need as well; a sequence that the table owns is the rules' alone.
                return each.sequence is not None or each.key in usages
            case Index():
                # A partition's index belongs to that of the partitioned table, and comes and goes with it.
                return not database.tables[each.table].is_partition
            case Grant():
                # Revoking a privilege on the table revokes it on every column: what is wanted of it is given anew.
                return _is_whole(each) or (each.table, each.role, each.privilege) not in whole
        return True

    return replace(database.state, objects=frozenset(filter(relevant, database.state.objects)))


def is_callers_name(default: Default) -> bool:
    """Whether an existing default is one of rlskit's."""
    return str(default.expression).startswith(_OUR_DEFAULTS)


def _is_whole(each: TableObject) -> TypeGuard[Grant]:
    return isinstance(each, Grant) and each.columns is None


def _change(database: Database, before: TableObject | None, after: TableObject | None) -> Iterator[Step]:
    match before, after:
        case (_, Index()) if not ddl.is_renamed(before, after):
            yield from _index_steps(database, before, after)
            return
        case (None, Column()) if has_rows(database, after.table):
            # Apart, so that its index is built before the rules rest on it.
            yield _step("before", None, after, ddl.create(after))
            return
        case (None, Check()) if has_rows(database, after.table):
            not_valid = replace(after, validated=False)
            yield _step("table", None, not_valid, ddl.create(not_valid))
            yield _validation(not_valid, after)
            return
    yield _step("table", before, after, ddl.change(before, after))


def _step(
    phase: Phase,
    before: TableObject | None,
    after: TableObject | None,
    statements: ddl.Statements,
    lock: Lock | None = None,
) -> Step:
    some = after or before
    assert some is not None
    why = after.why if after else "no rule asks for it"
    strongest = lock or _LOCKS[some.kind]
    if lock is None and before is not None and some.kind in ("index", "trigger"):
        strongest = "ACCESS EXCLUSIVE"  # making one hinders writers only, dropping one everybody
    return Step(
        phase, some.table, before, after, _sentence(before, after), why, strongest, tuple(map(ddl.text, statements))
    )


def _validation(before: Check, after: Check) -> Step:
    made = _step("after", before, after, ddl.alter(before, after), "SHARE UPDATE EXCLUSIVE")
    return replace(made, says=f"validate check {after.name}", why="the rows that were there are held against it")


def has_rows(database: Database, table: QualifiedName) -> bool:
    """Whether the table or a part of it takes any space: then its rows count, and large locks would hurt."""
    family = (
        [each for each in database.tables.values() if table in each.ancestors]
        if database.tables[table].kind != "table"
        else []
    )
    return any(each.has_rows for each in (database.tables[table], *family))


def _index_steps(database: Database, before: TableObject | None, after: Index) -> Iterator[Step]:
    facts = database.tables[after.table]
    # One of this name without a mark is what a build left that was cut off before its comment, or inside.
    left = next((each for each in facts.indexes if each.name == after.name and not each.marked), None)
    if left is not None and left.valid:
        yield replace(
            _step("table", before, after, [ddl.mark_index(after)]), says=f"mark index {after.name}", lock=None
        )
        return
    remade = isinstance(before, Index) or left is not None
    if not has_rows(database, after.table):
        yield _step("table", before, after, [*(ddl.drop(after) if remade else ()), *ddl.create(after)])
        return
    if facts.kind == "table":
        gone = ddl.drop_index_concurrently(after) if remade else []
        made = _step("before", before, after, [*gone, *ddl.create_index_concurrently(after)], "SHARE UPDATE EXCLUSIVE")
        yield replace(
            made, says=made.says + " concurrently", why="an interrupted build left it invalid" if remade else made.why
        )
        return
    statements = [ddl.mark_index(after)] if remade else [*ddl.create_index_on_only(after)]
    for part in _parts(database, after):
        statements += part
    made = _step("before", before, after, statements, "SHARE UPDATE EXCLUSIVE")
    yield replace(made, says=made.says + " partition by partition, concurrently")


def _parts(database: Database, index: Index) -> Iterator[ddl.Statements]:
    """For each direct partition: build its index while others write, then attach it."""
    for part in sorted(
        (each for each in database.tables.values() if index.table in each.parents), key=lambda each: each.name
    ):
        name = index_name(part.name, index.column)
        child = replace(index, table=part.name, name=name)
        existing = next((each for each in part.indexes if each.name == name), None)
        if existing is not None and existing.parent == index.name and existing.valid:
            continue
        gone = (
            ddl.drop_index_concurrently(child)
            if existing is not None and not existing.valid and part.kind == "table"
            else []
        )
        make = ddl.create_index_concurrently(child) if part.kind == "table" else ddl.create_index_on_only(child)
        built = [] if existing is not None and (existing.valid or part.kind != "table") else make
        deeper = [statement for each in _parts(database, child) for statement in each] if part.kind != "table" else []
        attached = [] if existing is not None and existing.parent == index.name else ddl.attach_index(index, child)
        yield [*gone, *built, *deeper, *attached]


def _rank(step: Step) -> int:
    some = step.after or step.before
    assert some is not None
    return _ORDER.index("grant taken" if isinstance(some, Grant | Usage) and step.after is None else some.kind)


# --- for the reader ----


def _sentence(before: TableObject | None, after: TableObject | None) -> str:
    some = after or before
    verb = (
        ("add" if isinstance(some, Column | Check) else "create")
        if before is None
        else "drop"
        if after is None
        else "alter"
    )
    if isinstance(before, Index | Check) and isinstance(after, Index | Check) and ddl.is_renamed(before, after):
        return f"rename {after.kind} {before.name} to {after.name}"
    match some:
        case Column():
            return f"{verb} column {some.name} {some.type}"
        case RowSecurity():
            if after is None or not some.enabled:
                return "disable row level security"
            there = before if isinstance(before, RowSecurity) else replace(some, enabled=False, forced=False)
            done = [*(["enable"] if not there.enabled else []), *(["force"] if some.forced > there.forced else [])]
            return f"{' and '.join(done)} row level security"
        case Default():
            return (
                f"drop the default of {some.column}"
                if after is None
                else f"let {some.column} default to the caller's name"
            )
        case Check():
            return f"{verb} check {some.name}"
        case Trigger():
            of = f" of {', '.join(some.columns)}" if isinstance(some.columns, tuple) and some.columns else ""
            return f"{verb} trigger {some.name} before {some.event}{of}"
        case Policy():
            return f"{verb} policy {some.name} for {some.command} to {', '.join(some.roles)}"
        case Grant():
            return _grant_sentence(before, after)
        case Usage():
            verb, preposition = ("grant", "to") if after else ("revoke", "from")
            where = f"sequence {some.sequence}" if some.sequence else f"schema {some.table.schema}"
            return f"{verb} {some.privilege} of {where} {preposition} {some.role}"
        case Index():
            return f"{verb if before is None or after is None else 'rebuild'} index {some.name} on {some.column} ({some.method})"
    raise AssertionError(some)


def _grant_sentence(before: TableObject | None, after: TableObject | None) -> str:
    def listed(columns: Iterable[str]) -> str:
        return f" ({', '.join(sorted(columns))})" if columns else ""

    old = before.named if isinstance(before, Grant) else frozenset()
    new = after.named if isinstance(after, Grant) else frozenset()
    if isinstance(before, Grant) and isinstance(after, Grant):
        changes = [
            f"{verb} {after.privilege}{listed(part)} {preposition} {after.role}"
            for verb, preposition, part in (("revoke", "from", old - new), ("grant", "to", new - old))
            if part
        ]
        return " and ".join(changes)
    some = after or before
    assert isinstance(some, Grant)
    return (
        f"grant {some.privilege}{listed(new)} to {some.role}"
        if after
        else f"revoke {some.privilege}{listed(old)} from {some.role}"
    )
