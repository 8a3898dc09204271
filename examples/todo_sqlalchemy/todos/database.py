"""Sessions of the application's ordinary login, in which somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from rlskit import Identity
from rlskit.sqlalchemy import guard, set_identity
from todos.access import rules


def sessions_at(url: str) -> sessionmaker[Session]:
    """Sessions there. A login that no rule binds is refused when the first connection is made, and so is a statement of nobody.

    Each connection that comes back is scrubbed: nothing of one user's session reaches the next.
    """
    made = sessionmaker(create_engine(url))
    guard(made, rules=rules, scrub=True)
    return made


@contextmanager
def asking(sessions: sessionmaker[Session], who: Identity) -> Iterator[Session]:
    """A session in which ``who`` asks. Commits at the end of the block, and rolls back for an error."""
    with sessions.begin() as session:
        set_identity(session, who)
        yield session
