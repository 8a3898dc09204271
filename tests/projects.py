"""A user's project in a folder, with Alembic at work in it: in the test's own process, as if each time in a new one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.config import Config


@contextmanager
def at_work_in(folder: Path, *modules: str) -> Iterator[pytest.MonkeyPatch]:
    """In this folder, and with these modules of the project (and what is in them) imported anew; all as it was afterwards.

    Alembic prints where the test reads, and leaves the test's logging alone.
    """

    def print_stdout(_: Config, text: str, *arguments: object) -> None:
        sys.stdout.write(f"{text % arguments}\n")

    with pytest.MonkeyPatch.context() as here:
        for name in [each for each in sys.modules if each.partition(".")[0] in modules]:
            here.delitem(sys.modules, name)
        here.delitem(sys.path_importer_cache, ".", raising=False)  # Alembic puts `.` into the path
        here.syspath_prepend(folder)
        here.chdir(folder)
        here.setattr(sys, "dont_write_bytecode", True)  # a file may change within a second here
        here.setattr("logging.config.fileConfig", lambda *_, **__: None)
        here.setattr(Config, "print_stdout", print_stdout)
        yield here
