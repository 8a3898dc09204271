"""The page about adopting, executed: its SQL, what is imported then, and its Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.adopting.test_written_by_others import owned, read
from tests.support import Database

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "adopting.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_does_what_it_says(database: Database) -> None:
    (setup,), (toml,), (code,) = blocks("sql"), blocks("toml"), blocks("python")
    owned(
        database,
        setup.replace("app_user", "{app}"),
        "insert into todo values (1, 'milk', '5d1c'), (2, 'bread', '77aa')",
    )

    written = [line for line in read(database).toml().splitlines() if line.startswith(("# check", "role"))]
    written += ["", *read(database).toml().partition("\n\n")[2].splitlines()]
    assert written == toml.replace("app_user", database.app).splitlines()

    names: dict[str, Any] = {"owner_dsn": database.owner_dsn, "app_dsn": database.app_dsn, "app_role": database.app}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["seen"] == [("milk",)]
