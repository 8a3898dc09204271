"""Which cells a table has, what they expect, and how a row is found; without a database."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from rlskit import Open, TableRules, allow, reference
from rlskit.filler.shapes import Column, Shape, Type
from rlskit.names import QualifiedName
from rlskit.prover import people, questions, scenes
from rlskit.prover.cells import Cell
from rlskit.prover.ground import Ground, Stored

TEXT = Type(name="text", kind="base", category="S")
LIST = Type(name="text[]", kind="array", category="A", inner=TEXT)
NAME = QualifiedName("public", "todo")


def column(name: str, kind: Type = TEXT, *, not_null: bool = False, default: str | None = None) -> Column:
    return Column(name, kind, -1, not_null, default, generated=False, identity=None)


def ground(rules: TableRules, *, key: tuple[str, ...] = ("id",), lists: tuple[str, ...] = ()) -> Ground:
    """The ground of a table with rules of its own, made without a database."""
    rules = rules.at(NAME)
    named = scenes.namings(rules, (), ())
    owners = [each.column for each in named]
    columns = [column("id", not_null=True, default="next()"), column("content")]
    columns += [column(name, LIST if name in lists else TEXT) for name in owners]
    chance = Random(1)

    def new_cast() -> people.Cast:
        return people.new_cast((), (), chance)

    def row(number: int, held: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": str(number), "content": None, **dict.fromkeys(owners), **held}

    stored = [
        Stored(each, row(number, each.owners)) for number, each in enumerate(scenes.scenes(rules, named, new_cast), 1)
    ]
    casts = [new_cast() for _ in range(sum(len(each.ways) for each in named) or 1)]
    shape = Shape(NAME, tuple(columns), key, (key,) if key else (), ())
    return Ground(rules=rules, shape=shape, named=named, stored=stored, casts=casts, new={})


def cell(made: Ground, operation: str, person: str) -> Cell:
    (found,) = [each for each in questions.cells(made) if (each.operation, each.person) == (operation, person)]
    return found


def outcomes(made: Ground, operation: str, person: str) -> set[str]:
    return {probe.expected for probe in cell(made, operation, person).probes}


def test_every_cell_expects_something() -> None:
    cells = questions.cells(ground(TableRules(allow.owner())))

    assert all(each.probes and not each.obstacle for each in cells)
    assert len({(each.operation, each.person) for each in cells}) == len(cells)
    assert {each.operation for each in cells} == {"create", "read", "update", "delete"}


@pytest.mark.parametrize(
    ("match", "expected"), [("any", {"allowed"}), ("full", {"not visible"})], ids=["accepted", "not accepted"]
)
def test_an_owner_is_named_in_each_spelling_whether_it_counts_or_not(match: str, expected: set[str]) -> None:
    made = ground(TableRules(allow.owner(), match=match))

    assert outcomes(made, "read", "owner") == {"allowed"}
    assert outcomes(made, "read", "owner by sub") == expected
    assert outcomes(made, "read", "owner by username") == expected


def test_a_former_owner_gives_the_row_away_himself_where_the_rules_let_him() -> None:
    given = cell(ground(TableRules(allow.owner())), "read", "former owner").probes[0]
    kept = cell(ground(TableRules(allow.owner(), reassign="never")), "read", "former owner").probes[0]

    assert [each.operation for each in given.before] == ["update"]
    assert (given.expected, kept.expected, kept.before) == ("not visible", "not visible", ())


def test_who_is_listed_beside_another_is_a_co_owner() -> None:
    made = ground(TableRules(allow.owners_defined_in("owners")), lists=("owners",))

    assert outcomes(made, "read", "co-owner") == {"allowed"}
    assert {"allowed", "refused"} <= outcomes(made, "update", "co-owner")


def test_a_column_that_nobody_may_read_is_asked_for_by_itself() -> None:
    made = ground(TableRules(allow.owner(), columns={"content": []}))
    asked = [probe for probe in cell(made, "read", "owner").probes if probe.attempt.columns == ("content",)]

    assert [probe.expected for probe in asked] == ["refused"]


def test_an_open_table_is_open_to_everybody() -> None:
    made = ground(TableRules(Open(reason="a wall", to=("create", "read", "update", "delete"))))

    assert {outcome for person in ("stranger", "nobody") for outcome in outcomes(made, "delete", person)} == {"allowed"}


def test_a_row_is_found_by_what_may_be_read() -> None:
    made = ground(TableRules(allow.owner(), columns={"id": [allow.same().to("create", "update", "delete")]}))
    probe = cell(made, "read", "owner").probes[0]

    assert {*probe.attempt.key} == {"owner"}


def test_who_does_not_see_a_row_is_asked_blindly_about_that_very_row() -> None:
    """With a WHERE it would only be proved once more that he does not see it: the policy for reading comes first."""
    made = ground(TableRules(allow.owner()))
    probes = cell(made, "delete", "stranger").probes

    assert {(probe.attempt.blind, bool(probe.attempt.key)) for probe in probes} == {(True, True)}
    assert "where current of" in probes[0].attempt.statement.as_string(None)


def test_expectations_are_the_references() -> None:
    made = ground(TableRules(allow.owner().to("create", "read")))

    asked = {
        each.person: {probe.expected for probe in each.probes}
        for each in questions.cells(made)
        if each.operation == "delete"
    }
    for stored in made.stored:
        for person in stored.scene.people:
            assert asked[person.name] == {reference.delete(made.rules, person.identity, stored.row).outcome}


def test_what_is_no_name_is_refused_to_whoever_bypasses_the_rules() -> None:
    made = ground(TableRules(allow.owners_defined_in("owners")), lists=("owners",))
    values = [probe.attempt.values["owners"] for probe in cell(made, "create", "whoever bypasses the rules").probes]

    assert [("" in each, None in each, isinstance(each[0], list)) for each in values] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
