"""What these tests have besides the kit's own fixtures: the sessions of the application, with its own pool."""

from __future__ import annotations

import pytest

from todos.database import sessions_at


@pytest.fixture
def sessions(rlskit_db):
    made = sessions_at(rlskit_db.url)
    yield made
    made.kw["bind"].dispose()
