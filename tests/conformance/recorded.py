"""The decisions recorded from Amplify's own resolvers, as rlskit's values; and the two differences that are intended among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlskit import Identity, Rule, TableRules, allow

RECORDED = json.loads((Path(__file__).parent / "amplify.json").read_text())
PEOPLE = {
    name: Identity(
        sub=claims["sub"],
        username=claims["username"],
        claims={key: value for key, value in claims.items() if key not in ("sub", "username")},
    )
    for name, claims in RECORDED["people"].items()
}
SCHEMAS: dict[str, dict[str, Any]] = {schema["name"]: schema for schema in RECORDED["schemas"]}
CASES = 1501  # as many as the file holds; a run of fewer is a failure


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


def person(case: dict[str, Any]) -> Identity | None:
    return None if case["actor"] is None else PEOPLE[case["actor"]]


def intended_difference(case: dict[str, Any], schema: dict[str, Any], *, allowed: bool) -> str | None:
    """Which of D1 and D2 makes rlskit answer otherwise than Amplify did; None where neither does."""
    if allowed and _nulls(case) and not _may_null(case, schema):
        return "D2"
    if not allowed and case["op"] == "update" and _leaves_nobody(case, schema):
        return "D1"
    return None


def _nulls(case: dict[str, Any]) -> bool:
    return case["op"] == "update" and any(value is None for value in case["input"].values())


def _may_null(case: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether a rule with `delete` names the actor: Amplify asks for it to set a column to null."""
    who = person(case)
    if who is None:
        return False
    for given in schema["rules"]:
        claim = given.get("identity_claim")
        claims = {"sub": who.sub, "username": who.username, **who.claims}
        names = {claims[claim]} if claim else set(who.spellings)
        named = case["row"].get(given["field"])
        if names & set((named or []) if given["multiple"] else [named]) and "delete" in given.get("to", ["delete"]):
            return True
    return False


def _leaves_nobody(case: dict[str, Any], schema: dict[str, Any]) -> bool:
    row = {**case["row"], **case["input"]}
    return not any(row.get(rule_["field"]) for rule_ in schema["rules"])
