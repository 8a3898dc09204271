"""The difference between a database and the rules becomes a plan: steps that can be read, written as SQL, and applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

from psycopg import Connection
from psycopg.rows import scalar_row

from rlskit import applier, catalog, compiler, ddl, fitter, normalizer, stages
from rlskit.applier import PATIENCE, Patience
from rlskit.errors import ForeignObjectError, PlanError, RuleError, StalePlanError
from rlskit.facts import Database, Foreign
from rlskit.names import QualifiedName
from rlskit.rules import Rules, checked_table
from rlskit.stages import MEANINGS, STAGES, Stage
from rlskit.state import Check, Column, Policy, State
from rlskit.steps import (
    PHASES,
    Step,
    has_rows,
    in_order,
    proofs,
    prunings,
    runtime_steps,
    signing_steps,
    table_steps,
    transaction,
)
from rlskit.words import counted


@dataclass(frozen=True)
class Plan(Sequence[Step]):
    """What has to change until the database does what the rules say, or what a stage of them asks for; empty when it does already.

    ``stage`` is the stage that is planned, the last of them where nothing else was said; ``later`` are the steps of those behind it. ``foreign`` is what rlskit did not make on these tables, ``wanted`` the state that the rules ask for here, ``role`` the application's role.
    ``compared`` says how policies were compared: "twin" (the server's own normal form) or "mark" (the digests in their comments).
    """

    steps: tuple[Step, ...]
    role: str
    foreign: tuple[Foreign, ...]
    compared: Literal["twin", "mark"]
    rules: Rules = field(repr=False)
    release: tuple[str, ...] = field(repr=False)
    wanted: State = field(repr=False)
    database: Database = field(repr=False)
    stage: Stage = "force"
    later: tuple[Step, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        return self.steps[index]

    @property
    def undoing(self) -> tuple[Foreign, ...]:
        """The foreign objects that let the role past the rules; while there are any, the rules are not in force.

        A stage before "enable" is undone only on tables whose row security is on.
        """
        return tuple(each for each in self.foreign if each.undoes)

    @property
    def prunings(self) -> tuple[Step, ...]:
        """The steps that ``apply(conn, prune_foreign=True)`` runs besides, each first on its table: they drop what is in ``undoing``."""
        return tuple(prunings(self.database, self.undoing))

    @property
    def conforms(self) -> bool:
        """Whether the database does what the rules say; of a plan for a stage: whether it is reached."""
        return not self.steps and not self.undoing

    def by_table(self) -> dict[QualifiedName | None, tuple[Step, ...]]:
        """The steps of each table in the order of their running; None stands for the runtime."""
        grouped: dict[QualifiedName | None, list[Step]] = {}
        for step in self.steps:
            grouped.setdefault(step.table, []).append(step)
        return {table: tuple(steps) for table, steps in grouped.items()}

    def __str__(self) -> str:
        return "\n".join(_story(self))

    def sql(self) -> str:
        """The statements as one script for ``psql -v ON_ERROR_STOP=1``, one transaction a table."""
        parts = ["set search_path = pg_catalog, pg_temp;"] if self.steps else []
        for table, steps in self.by_table().items():
            parts.append(ddl.comment(table or "the schema rlskit"))
            for phase in PHASES:
                group = [step for step in steps if step.phase == phase]
                if group and phase == "table":
                    parts += ["begin;", *map(_terminated, transaction(group)), "commit;"]
                else:
                    parts += [_terminated(statement) for step in group for statement in step.statements]
        return "\n".join(parts) + "\n" if parts else ""

    def apply(
        self,
        conn: Connection[Any],
        *,
        lock_timeout: float = PATIENCE.lock_timeout,
        retries: int = PATIENCE.retries,
        prune_foreign: bool = False,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Carry the plan out: one transaction a table, so that each table is as before or as after; then verify.

        ``conn`` is idle, and connected to the plan's database. ``lock_timeout`` (seconds) is how long it waits for a lock: others queue
        behind it meanwhile. Where that was not enough, or with a deadlock, the transaction is tried again up to ``retries`` times, after pauses
        that grow. ``prune_foreign`` drops the policies and privileges in ``undoing``. ``on_progress`` is called with a line for each
        table and each retry. What was interrupted is finished by planning and applying again.

        Raises ForeignObjectError while ``undoing`` is not empty and not to be pruned, StalePlanError when the database is another
        one or has changed since, PlanError when a lock cannot be had or the result is not what was planned.
        """
        patience = Patience(lock_timeout, retries)
        if blocking := [each for each in self.undoing if not prune_foreign or each.drop is None]:
            raise not_in_force(blocking[0])
        applier.check_idle(conn)
        with catalog.reading(conn):
            now = catalog.read(conn, self.database.asked, self.role)
        if not now.same_as(self.database):
            raise StalePlanError(
                "the database is not as it was when the plan was made", hint="plan again, read it, and apply that"
            )
        steps = in_order(self.steps, self.prunings)
        applier.carry_out(conn, steps, patience=patience, on_progress=on_progress)
        left = compare(conn, self.rules, stage=self.stage)
        if not left.conforms:
            raise PlanError(
                f"applied, and yet the database differs from the rules:\n{left}",
                hint="plan again; if it stays, it is a defect of rlskit",
            )


def plan(conn: Connection[Any], rules: Rules, *, release: Iterable[str] = (), stage: Stage = "force") -> Plan:
    """Return what has to change in the database of ``conn`` until it does what ``rules`` say. Nothing is changed.

    ``stage``, one of "indexes", "policies", "enable" and "force", stops there; each contains those before it, and nothing that is in force is
    loosened. ``release`` names tables that have no rules any more, and whose row security is to be switched off. An idle connection is idle afterwards. Raises RuleError or PlanError for what cannot be: see ``compare``, and moreover a user
    who may not carry the plan out, and rows that could not stay as they are.
    """
    made = compare(conn, rules, release=release, stage=stage)
    if made.steps:
        with catalog.reading(conn):
            fitter.check_rights(
                made.database, {each.table for step in made.steps if (each := step.after or step.before)}
            )
            _check_runtime_rights(made)
            return replace(made, steps=tuple(_with_proof(_with_counts(conn, made), made)))
    return made


def compare(
    conn: Connection[Any],
    rules: Rules,
    *,
    release: Iterable[str] = (),
    stage: Stage = "force",
    foresee: Callable[[Database], Database] | None = None,
) -> Plan:
    """Return the same plan for a user who may only read the catalogue; on a standby too. Takes only the locks of reading.

    ``foresee`` turns what the database has into what a migration will have made of it when the steps run; it is called in
    the transaction that reads, which is rolled back.

    Raises RuleError or PlanError for rules that this database cannot have: a table, column or role that does not exist, a type
    that cannot hold an owner, a role that row security would not bind, a runtime that is newer than this package.
    """
    stage = stages.checked_stage(stage)
    compiled = _with_released(compiler.compile(rules), rules, release)
    with catalog.reading(conn):
        database = catalog.read(conn, [*compiled.tables, *compiled.released], rules.role)
        if foresee is not None:
            database = foresee(database)
        if unknown := compiled.released - database.tables.keys():
            raise PlanError(
                f"table `{min(unknown)}` does not exist", hint="--release takes the name of a table that left the rules"
            )
        wanted = fitter.fit(compiled, database, rules.role)
        installing = tuple(runtime_steps(database))
        may_create = database.server.may_make_temporary and not database.server.read_only
        normal = wanted
        if may_create and not installing:
            normal = normalizer.by_twin(conn, wanted)
        elif not installing:
            normal = normalizer.by_mark(database.state, wanted)
    steps = [*installing, *signing_steps(database, rules.mode), *table_steps(database, wanted, normal)]
    foreign = tuple(_foreign(database, wanted, rules, stage))
    return Plan(
        steps=tuple(step for step in steps if stages.contains(stage, step.stage)),
        role=rules.role,
        foreign=foreign,
        compared="twin" if may_create else "mark",
        rules=rules,
        release=tuple(release),
        wanted=wanted,
        database=database,
        stage=stage,
        later=tuple(step for step in steps if not stages.contains(stage, step.stage)),
    )


def _with_released(compiled: State, rules: Rules, release: Iterable[str]) -> State:
    tables = set()
    for name in release:
        table = checked_table(name, None)
        table = table if isinstance(table, QualifiedName) else QualifiedName(rules.schema, table)
        if table in compiled.tables:
            raise RuleError(
                f"table `{table}` has rules, so it cannot be released",
                hint="take its rules out first, or write Unmanaged(reason=…)",
            )
        tables.add(table)
    return replace(compiled, released=frozenset(tables))


def _check_runtime_rights(made: Plan) -> None:
    if (
        any(step.phase == "runtime" for step in made.steps)
        and not made.database.server.may_create
        and made.database.runtime_version is None
    ):
        raise PlanError(
            f"`{made.database.server.user_name}` may not create the schema rlskit in database `{made.database.server.database}`",
            hint="let a DBA run `rlskit install` or `psql -f sql/runtime.sql` once, or grant create on the database",
        )


def not_in_force(found: Foreign) -> ForeignObjectError:
    """The error for something that rlskit did not make and that lets the role past the rules."""
    way_out = (
        "drop it with --prune-foreign (prune_foreign=True)"
        if found.drop
        else "drop it, or make it `with (security_invoker = true)`"
    )
    return ForeignObjectError(
        f"table `{found.table}`: {found.text}",
        hint=f'{way_out}, or allow it with a reason: keep = {{ "{found.name}" = "…" }}',
    )


def _with_proof(steps: Iterable[Step], made: Plan) -> Iterator[Step]:
    """Put the proof that rows can be given away between the runtime and the tables. Raises PlanError where it could not be tried."""
    steps = list(steps)
    proof = list(proofs(steps, made.role))
    server = made.database.server
    if proof and not server.may_make_temporary:
        raise PlanError(
            f"`{server.user_name}` may not create temporary tables in database `{server.database}`, and so cannot prove that rows can be given away here",
            hint=f'grant temporary on database "{server.database}" to "{server.user_name}", or say reassign = "explicit" or "never"',
        )
    yield from (step for step in steps if step.table is None)
    yield from proof
    yield from (step for step in steps if step.table is not None)


def _with_counts(conn: Connection[Any], made: Plan) -> Iterator[Step]:
    """Say how many rows a change concerns; refuse it where rows could not stay as they are. Raises PlanError."""
    cursor = conn.cursor(row_factory=scalar_row)
    for step in made.steps:
        match step.after:
            case Column(table=table) if has_rows(made.database, table):
                rows = cursor.execute(ddl.count_of(table)).fetchone()
                # Where row security is on already, its owner is shown no rows either.
                there_are = (
                    f"{counted(rows, 'row')} that {'is' if rows == 1 else 'are'} there"
                    if rows
                    else "rows that are there"
                )
                yield replace(step, why=f"{step.why}; the {there_are} will name nobody in it until somebody does")
                continue
            case Check(table=table, validated=False) if step.after.column in made.database.tables[table].columns:
                if rows := cursor.execute(ddl.count_of(table, step.after.expression)).fetchone():
                    raise PlanError(
                        f"there {'is' if rows == 1 else 'are'} {counted(rows, 'row')} in table `{table}` with an empty name in column `{step.after.column}`",
                        hint="an empty name would be nobody's: set it to NULL, or to the owner's name, and plan again",
                    )
        yield step


# --- what rlskit did not make --------------------------------------------------------------------------


def _foreign(database: Database, wanted: State, rules: Rules, stage: Stage) -> Iterator[Foreign]:
    bound = stages.binding(database)
    kept = {(table.name, what): reason for table in rules.tables for what, reason in table.keep}
    keys = {each.key for each in wanted.objects}
    unmanaged = wanted.unmanaged
    for each in database.foreign:
        if each.table in unmanaged or database.tables[each.table].going:
            continue
        ancestors = database.tables[each.table].ancestors
        reasons = [kept[table, each.name] for table in (each.table, *ancestors) if (table, each.name) in kept]
        if each.drop is not None and each.drop.key in keys and isinstance(each.drop, Policy):
            yield replace(
                each,
                undoes=stages.contains(stage, "policies"),
                text=f"the policy `{each.drop.name}` is not rlskit's, but bears the name that rlskit needs",
            )
        elif reasons:
            yield replace(each, undoes=False, text=f"{each.text}; kept: {reasons[0]}")
        else:
            root = ancestors[0] if ancestors else each.table
            yield replace(each, undoes=each.undoes and stages.undone(stage, root, bound))


# --- for the reader ------------------------------------------------------------------------------------


def by_stage(steps: Iterable[Step]) -> str:
    """How many steps each stage has of these: ``8 steps of stage policies, 1 step of stage force``."""
    number = Counter(step.stage for step in steps)
    return ", ".join(f"{counted(number[each], 'step')} of stage {each}" for each in STAGES if number[each])


def _terminated(statement: str) -> str:
    return statement.rstrip().rstrip(";") + ";"


def _story(made: Plan) -> Iterator[str]:
    rules = {table.name: str(table) for table in made.rules.tables}
    # A step says why, unless it is what the heading says already.
    whys = {
        table.name: " or ".join(map(str, table.allow)) if isinstance(table.allow, tuple) else str(table.allow)
        for table in made.rules.tables
    }
    for table, steps in made.by_table().items():
        if table is None:
            yield "schema rlskit"
        else:
            released = table in made.wanted.released | made.wanted.unmanaged
            yield f"{table}: {rules.get(table, 'is released' if released else 'has no rules any more, and stays closed')}"
        for step in steps:
            yield "  " + str(replace(step, why="") if table is not None and step.why == whys.get(table) else step)
        if table is not None:
            yield from (f"  note: {each.text}" for each in made.wanted.advice_on(table))
    for foreign in made.foreign:
        yield f"{foreign.table}: {foreign.text}"
    if made.conforms and made.later:
        yield f"Stage {made.stage} is reached: {counted(len(rules), 'table')}, nothing to do."
    elif made.conforms:
        yield f"The database does what the rules say: {counted(len(rules), 'table')}, nothing to do."
    else:
        tables = {step.table for step in made.steps if step.table}
        yield f"{counted(len(tables), 'table')}, {counted(len(made.steps), 'step')}."
    if made.stage != "force" and made.steps:
        yield f"This is stage {made.stage}: {MEANINGS[made.stage]}."
    if made.later:
        following = next(each for each in STAGES if any(step.stage == each for step in made.later))
        yield f"Next is stage {following}: {MEANINGS[following]}."
    if made.undoing:
        yield "The rules are not in force while something lets the role past them."
    if made.compared == "mark":
        yield "Policies were compared by the digests in their comments: this login may not create temporary tables here."
