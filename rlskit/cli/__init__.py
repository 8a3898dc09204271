"""The command line: options in, a library call, words out. Nothing here that a user of the library would want."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version as distribution_version
from typing import Annotated, NoReturn

import psycopg
import typer

from rlskit.cli import adopting, owners, proving, rules, runtime, story
from rlskit.cli.keys import keys
from rlskit.cli.shared import app, err, fail
from rlskit.errors import RlskitError

# In the order of --help, which is that of a user's first weeks.
_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": story.demo,
    "init": adopting.init,
    "import": adopting.import_,
    "sql": rules.sql,
    "plan": rules.plan,
    "apply": rules.apply,
    "check": rules.check,
    "test": proving.prove,
    "shadow": adopting.shadow,
    "owners": owners.owners,
    "install": runtime.install,
    "uninstall": runtime.uninstall,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(keys, name="keys")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"rlskit {distribution_version('rlskit')}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line. Exits 0 when clean, 1 with findings, 2 when it could not run."""
    try:
        app(standalone_mode=True)
    except RlskitError as error:
        fail(f"{error.code} {error.message}", error.hint)
    except psycopg.OperationalError as error:
        fail(f"the database cannot be reached: {' '.join(str(error).split())}", "see --dsn and DATABASE_URL")
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:  # libpq did not understand the string; its words may quote the password in it
            fail("the DSN is no libpq string and no URL", "postgresql://user@host/database, or host=… dbname=…")
        fail(f"the database refused: {error.diag.message_primary}", "")
    except KeyboardInterrupt:
        err.print("interrupted: what was finished stays, and what was not was undone")
        sys.exit(130)
    sys.exit(0)
