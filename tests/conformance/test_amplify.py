"""The 1,501 decisions recorded from Amplify's own resolvers, held against PostgreSQL and against the reference.

Every case is performed as the application's ordinary login, through the public API. Two differences are intended:
D1, an update may not leave a row without any owner; D2, setting a column to null needs no `delete`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from rlskit import TableRules, as_nobody, as_user, reference
from tests.conformance.recorded import CASES, SCHEMAS, intended_difference, person, table_rules
from tests.support import Database


def test_postgresql_decides_as_amplify_does(database: Database, record_property: Callable[[str, object], None]) -> None:
    performed, differences = 0, []
    for name, schema in SCHEMAS.items():
        columns = ", ".join(f'"{column}" {type_}' for column, type_ in schema["columns"].items())
        database.execute(f"create table item (id text primary key default gen_random_uuid()::text, {columns})")
        database.apply(table_rules(schema))
        with database.connect(autocommit=True) as admin, database.connect_as_app(autocommit=True) as app:
            for case in schema["cases"]:
                performed += 1
                if difference := outcome(case, schema, admin, app):
                    differences.append(f"{name}: {difference}")
        database.execute("drop table item")

    record_property("amplify_cases", performed)
    assert differences == []
    assert performed == CASES


def test_the_reference_decides_as_amplify_does(record_property: Callable[[str, object], None]) -> None:
    performed, differences = 0, []
    for name, schema in SCHEMAS.items():
        rules = table_rules(schema)
        for case in schema["cases"]:
            performed += 1
            if difference := answer(case, schema, rules):
                differences.append(f"{name}: {difference}")

    record_property("amplify_cases", performed)
    assert differences == []
    assert performed == CASES


def answer(case: dict[str, Any], schema: dict[str, Any], rules: TableRules) -> str:
    """Ask the reference; what differs, in words, or nothing."""
    who = person(case)
    nothing = dict.fromkeys(["id", *schema["columns"]])
    changes = {column: value for column, value in case.get("input", {}).items() if column != "id"}
    match case["op"]:
        case "list":
            visible = [row["id"] for row in case["rows"] if reference.read(rules, who, nothing | row).allowed]
            return "" if sorted(visible) == sorted(case.get("visible", [])) else f"{case}: {visible}"
        case "create":
            decision = reference.create(rules, who, case["input"], defaults=nothing, key=["id"])
        case "update":
            decision = reference.update(rules, who, nothing | case["row"], changes)
        case "delete":
            decision = reference.delete(rules, who, nothing | case["row"])
    if decision.allowed == case["allowed"]:
        if decision.allowed and case["op"] != "delete" and without_id([decision.row]) != without_id([case["result"]]):
            return f"{case}: {decision}"
        return ""
    if not changes and case["op"] == "update":
        return ""  # an UPDATE that sets nothing is no statement
    return "" if intended_difference(case, schema, allowed=decision.allowed) else f"{case}: {decision}"


def outcome(case: dict[str, Any], schema: dict[str, Any], admin: Any, app: Any) -> str:
    """Perform the case; what differs, in words, or nothing."""
    rows = case.get("rows") or ([case["row"]] if "row" in case else [])
    admin.execute("truncate item")
    for row in rows:
        names = sql.SQL(", ").join(map(sql.Identifier, row))
        admin.execute(
            sql.SQL("insert into item ({}) values ({})").format(
                names, sql.SQL(", ").join([sql.Placeholder()] * len(row))
            ),
            list(row.values()),
        )
    before = stored(admin)
    result = perform(case, app)
    after = stored(admin)
    if case["op"] == "list":
        return "" if result == sorted(case.get("visible", [])) else f"{case}: {result}"
    allowed = bool(result)
    if not allowed and after != before:
        return f"{case}: refused, and yet changed"
    if allowed == case["allowed"]:
        if allowed and case["op"] != "delete" and without_id(after) != without_id([case["result"]]):
            return f"{case}: stored {after}"
        return ""
    if intended_difference(case, schema, allowed=allowed):
        return ""
    return f"{case}: {'allowed' if allowed else 'refused'}"


def perform(case: dict[str, Any], app: Any) -> Any:
    given = case.get("input", {})
    who = person(case)
    try:
        with as_nobody(app) if who is None else as_user(app, who):
            match case["op"]:
                case "list":
                    return sorted(row[0] for row in app.execute("select id from item"))
                case "create":
                    names = sql.SQL(", ").join(map(sql.Identifier, given))
                    values = sql.SQL(", ").join([sql.Placeholder()] * len(given))
                    return app.execute(
                        sql.SQL("insert into item ({}) values ({})").format(names, values), list(given.values())
                    ).rowcount
                case "update":
                    changed = {column: value for column, value in given.items() if column != "id"}
                    if not changed:
                        return 1
                    sets = sql.SQL(", ").join(
                        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder()) for column in changed
                    )
                    return app.execute(
                        sql.SQL("update item set {} where id = %s").format(sets), [*changed.values(), case["row"]["id"]]
                    ).rowcount
                case "delete":
                    return app.execute("delete from item where id = %s", [case["row"]["id"]]).rowcount
    except psycopg.errors.InsufficientPrivilege:
        return 0


def stored(admin: Any) -> list[dict[str, Any]]:
    return [row[0] for row in admin.execute("select to_jsonb(item) from item order by id")]


def without_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{column: value for column, value in row.items() if column != "id" and value is not None} for row in rows]
