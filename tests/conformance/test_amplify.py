"""The 1,501 decisions recorded from Amplify's own resolvers, held against PostgreSQL.

Every case is performed as the application's ordinary login, through the public API. Two differences are intended:
D1, an update may not leave a row without any owner; D2, setting a column to null needs no `delete`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rlskit import Identity, Rule, TableRules, allow, as_nobody, as_user
from tests.support import Database

RECORDED = json.loads((Path(__file__).parent / "amplify.json").read_text())
PEOPLE = {
    name: Identity(
        sub=claims["sub"],
        username=claims["username"],
        claims={key: value for key, value in claims.items() if key not in ("sub", "username")},
    )
    for name, claims in RECORDED["people"].items()
}
SCHEMAS = {schema["name"]: schema for schema in RECORDED["schemas"]}


def test_the_file_holds_every_recorded_decision() -> None:
    assert len(SCHEMAS) == 18

    assert sum(len(schema["cases"]) for schema in SCHEMAS.values()) == 1501


@pytest.mark.parametrize("name", SCHEMAS)
def test_postgresql_decides_as_amplify_does(name: str, database: Database) -> None:
    schema = SCHEMAS[name]
    columns = ", ".join(f'"{column}" {type_}' for column, type_ in schema["columns"].items())
    database.execute(f"create table item (id text primary key default gen_random_uuid()::text, {columns})")
    database.apply(table_rules(schema))
    with database.connect(autocommit=True) as admin, database.connect_as_app(autocommit=True) as app:
        outcomes = [outcome(case, schema, admin, app) for case in schema["cases"]]

    differences = [text for text in outcomes if text]
    assert len(outcomes) == len(schema["cases"])
    assert differences == []


def table_rules(schema: dict[str, Any]) -> TableRules:
    return TableRules(
        "item",
        *map(rule, schema["rules"]),
        columns={column: [rule(each) for each in given] for column, given in schema["field_rules"].items()},
    )


def rule(recorded: dict[str, Any]) -> Rule:
    made = (allow.owners_defined_in if recorded["multiple"] else allow.owner_defined_in)(recorded["field"])
    if "identity_claim" in recorded:
        made = made.identity_claim(recorded["identity_claim"])
    return made.to(recorded["to"]) if "to" in recorded else made


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
        if allowed and case["op"] != "delete" and without_id(after) != [without_id([case["result"]])[0]]:
            return f"{case}: stored {after}"
        return ""
    if allowed and nulls(case) and not may_null(case, schema):
        return ""  # D2
    if not allowed and case["op"] == "update" and leaves_nobody(case, schema):
        return ""  # D1
    return f"{case}: {'allowed' if allowed else 'refused'}"


def perform(case: dict[str, Any], app: Any) -> Any:
    given = case.get("input", {})
    who = as_nobody(app) if case["actor"] is None else as_user(app, PEOPLE[case["actor"]])
    try:
        with who:
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


def nulls(case: dict[str, Any]) -> bool:
    return case["op"] == "update" and any(value is None for value in case["input"].values())


def may_null(case: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether a rule with `delete` names the actor: Amplify asks for it to set a column to null."""
    if case["actor"] is None:
        return False
    for given in schema["rules"]:
        claim = given.get("identity_claim")
        who = PEOPLE[case["actor"]]
        claims = {"sub": who.sub, "username": who.username, **who.claims}
        names = {claims[claim]} if claim else set(who.spellings)
        named = case["row"].get(given["field"])
        if names & set((named or []) if given["multiple"] else [named]) and "delete" in given.get("to", ["delete"]):
            return True
    return False


def leaves_nobody(case: dict[str, Any], schema: dict[str, Any]) -> bool:
    row = {**case["row"], **case["input"]}
    return not any(row.get(rule_["field"]) for rule_ in schema["rules"])
