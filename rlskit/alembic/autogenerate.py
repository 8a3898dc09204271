"""Rules and database, compared when Alembic compares models and database: what differs becomes operations of the same revision.

Alembic's own operations come in between: first goes what rests on things that they take away, and last comes what rests on things that
they make. The downgrade is Alembic's reversal of it all, and so puts back exactly what was there.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.util import DispatchPriority, PriorityDispatchResult

from rlskit import compiler, planner
from rlskit.alembic.composer import compose
from rlskit.alembic.foresight import Foresight, Places, foresee, places
from rlskit.alembic.sparing import spare
from rlskit.alembic.statements import lent, refusals
from rlskit.errors import RuleError
from rlskit.facts import Database
from rlskit.names import QualifiedName
from rlskit.planner import Plan
from rlskit.rules import Rules

# A name below Alembic's: the `fileConfig` of its env.py switches every logger off that alembic.ini does not name.
_log = logging.getLogger("alembic.autogenerate.rlskit")


@comparators.dispatch_for("autogenerate", priority=DispatchPriority.LAST)
def compare_rules(context: AutogenContext, upgrade_ops: ops.UpgradeOps) -> PriorityDispatchResult:
    """Add to ``upgrade_ops`` what the rules ask for. Raises CommandError, and nothing is written, for what cannot be."""
    with refusals():
        rules = _rules(context)
        if rules is not None:
            _compare(context, upgrade_ops, rules)
    return PriorityDispatchResult.CONTINUE


def _rules(context: AutogenContext) -> Rules | None:
    if "rls_rules" not in context.opts:
        raise RuleError(
            "rlskit.alembic is imported, and nobody said which rules to compare with",
            hint="context.configure(…, rls_rules=rules) in env.py, in each call of it; rls_rules=None for none",
        )
    rules = context.opts["rls_rules"]
    if rules is not None and not isinstance(rules, Rules):
        raise RuleError(
            f"`rls_rules` is a {type(rules).__name__}",
            hint='give it Rules: rules_from(Base, role=…), rlskit.load("rlskit.toml") or Rules(…)',
        )
    return rules


def _compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, rules: Rules) -> None:
    connection = context.connection
    assert connection is not None
    wanted = compiler.compile(rules)
    seen: list[Foresight] = []

    with lent(connection) as driver:
        where = places(connection, driver)
        _check_places(context, rules, where)

        def after_alembic(database: Database) -> Database:
            spare(upgrade_ops, database, wanted, where)
            seen.append(foresee(connection, driver, database, upgrade_ops.ops, where))
            return seen[-1].database

        made = planner.compare(driver, rules, foresee=after_alembic)
    left_out = {table for table in made.database.tables if not _is_included(context, table, where)}
    if undoing := [each for each in made.undoing if each.table not in left_out]:
        raise planner.not_in_force(undoing[0])
    made = replace(made, steps=tuple(step for step in made.steps if step.table not in left_out))
    _tell(made)
    for table in sorted(left_out & set(made.database.asked)):
        _log.warning("%s: env.py leaves the table out, and nobody looks whether its rules are in force", table)
    for table in sorted(_new_tables(upgrade_ops, where) - {each.name for each in rules.tables}):
        _log.warning("%s: no rule names this new table, and whoever has privileges on it will reach every row", table)
    revision = compose(made, seen[-1], where, concurrently=bool(context.opts.get("rls_concurrent_indexes")))
    upgrade_ops.ops[:] = [*revision.first, *upgrade_ops.ops, *revision.last]


def _new_tables(upgrade_ops: ops.UpgradeOps, where: Places) -> set[QualifiedName]:
    made = [each for each in upgrade_ops.ops if isinstance(each, ops.CreateTableOp)]
    return {where.of(each.table_name, each.schema) for each in made}


def _tell(made: Plan) -> None:
    """Say what was found where Alembic does: in the log."""
    for step in made.steps:
        _log.info("Detected %s: %s", step.table or "schema rlskit", step.says)
    for table in sorted({step.table for step in made.steps if step.table is not None}):
        for advice in made.wanted.advice_on(table):
            _log.warning("%s: %s", table, advice.text)


def _check_places(context: AutogenContext, rules: Rules, where: Places) -> None:
    """Raise RuleError where a name without a schema is one table for the models, and another one for the rules."""
    models = {where.of(each.name, each.schema) for each in context.table_key_to_table.values()}
    named = {each.name for each in rules.tables}
    for each in sorted(models - named):
        meant = QualifiedName(rules.schema, each.name)
        if each == where.of(each.name, None) != meant and meant in named - models:
            raise RuleError(
                f"the models' table `{each.name}` is `{each}` by the search_path of this login, and the rules are for `{meant}`",
                hint=f'say schema="{each.schema}" with the rules, or change the search_path of the login',
            )


def _is_included(context: AutogenContext, name: QualifiedName, where: Places) -> bool:
    """Whether ``include_name`` and ``include_object`` of env.py leave the table in."""
    schema = None if where.of(name.name, None) == name else name.schema
    found = [table for table in context.table_key_to_table.values() if where.of(table.name, table.schema) == name]
    return context.run_name_filters(name.name, "table", {"schema_name": schema}) and all(
        context.run_object_filters(table, table.name, "table", False, None) for table in found
    )
