"""One database for the tests of a file; each test finds alice's row and bob's row in it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from rlskit import TableRules, allow
from rlskit.sqlalchemy import guard
from tests.orm.model import TABLES, engine_of, fill
from tests.support import Database, Server, fresh_database


@pytest.fixture(scope="module")
def prepared(server: Server) -> Iterator[Database]:
    with fresh_database(server, "orm") as made:
        made.execute(*TABLES)
        made.apply(TableRules("todo", allow.owner()), TableRules("note", allow.owner()))
        made.connect_as_app().close()  # an ordinary login, or it fails
        yield made


@pytest.fixture
def todo(prepared: Database) -> Database:
    fill(prepared)
    return prepared


@pytest.fixture
def engine(todo: Database) -> Iterator[Engine]:
    """Guarded, with one connection for everybody."""
    made = engine_of(todo.app_dsn)
    guard(made, scrub=True)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker:
    return sessionmaker(engine)
