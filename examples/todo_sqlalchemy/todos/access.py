"""The rules that the models say, for the application's login: what Alembic compares with the database, and the sessions go by."""

from __future__ import annotations

from rlskit.sqlalchemy import rules_from
from todos.models import Base

rules = rules_from(Base, role="todo_app")
