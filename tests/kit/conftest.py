"""The kit on the embedded server, whose tests' databases are its own; a suite as a user writes it, run by pytester."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlskit import TableRules, allow
from rlskit.rules import Rules
from rlskit.server import EmbeddedWheel, Running, start
from rlskit.testing import TestDatabase, TestServer, factories, keeper
from rlskit.testing import orm as _orm  # noqa: F401 - or else pytester would import SQLAlchemy in every run
from rlskit.testing.templates import Recipe

HERE = Path(__file__).parent
ROLE = "kit_app"

RULES = Rules(
    TableRules("todo", allow.owner(), columns={"owner": allow.same().to("read", "delete")}),
    TableRules("board", allow.owners_defined_in("owners").identity_claim("email")),
    role=ROLE,
)
SCHEMA = """
create table category (name text primary key);
create table todo (
  id bigint generated always as identity primary key,
  content text not null,
  category text not null references category,
  owner text
);
create table board (id bigint generated always as identity primary key, content text not null, owners text[]);
grant select on category to public;
"""


@pytest.fixture(scope="session")
def embedded() -> Iterator[Running]:
    with start(EmbeddedWheel()) as running:
        yield running


@pytest.fixture(scope="session")
def kit(embedded: Running) -> Iterator[TestServer]:
    with keeper.at_work(embedded) as server:
        yield server


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("suite")
    (root / "schema.sql").write_text(SCHEMA, encoding="utf-8")
    return Recipe(rules=RULES, load=("schema.sql",), root=root)


@pytest.fixture
def db(kit: TestServer, recipe: Recipe) -> Iterator[TestDatabase]:
    """A copy."""
    with factories.for_test(kit, recipe, "database") as made:
        yield made


@pytest.fixture
def rolled_back(kit: TestServer, recipe: Recipe) -> Iterator[TestDatabase]:
    """The test's transaction."""
    with factories.for_test(kit, recipe, "transaction") as made:
        yield made


@pytest.fixture(params=["database", "transaction"])
def either(request: pytest.FixtureRequest, kit: TestServer, recipe: Recipe) -> Iterator[TestDatabase]:
    """The one, and then the other: what holds for both."""
    with factories.for_test(kit, recipe, request.param) as made:
        yield made
