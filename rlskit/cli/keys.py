"""The keys that identities are signed with."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Annotated

import typer

from rlskit import (
    keyring,
)
from rlskit.cli.shared import (
    DsnOption,
    Format,
    FormatOption,
    YesOption,
    confirm,
    connected,
    out,
    progress,
)
from rlskit.signing import SigningKey
from rlskit.words import counted

keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The keys that identities are signed with.")


@keys.command("add")
def add_key(
    dsn: DsnOption = "",
    name: Annotated[
        str, typer.Option("--name", help="Its name; a random one, if none is given.", show_default=False)
    ] = "",
) -> None:
    """Make a key, let the database accept it, and print it: once, and nowhere else.

    Alone on stdout stands the text that the application gives to rlskit.guard(…, key=…). The keys that are there stay accepted.
    """
    key = SigningKey.generate(name or None)
    with connected(dsn) as conn:
        keyring.add(conn, key)
    progress(
        f"The database accepts what key {key.kid} signs. Keep it where the application's other secrets are; it is not shown again."
    )
    typer.echo(key.export())


@keys.command("list")
def list_keys(dsn: DsnOption = "", format: FormatOption = Format.text) -> None:
    """List the keys that the database accepts: their names, and since when. Never their secrets."""
    with connected(dsn) as conn:
        known = keyring.known(conn)
    if format is Format.json:
        typer.echo(
            json.dumps([{"kid": each.kid, "created_at": each.created_at.isoformat()} for each in known], indent=2)
        )
        return
    for each in known:
        out.print(f"{each.kid:32}  {each.created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", markup=False)
    if not known:
        out.print("There is no key: where identities have to be signed, everybody is nobody.")


@keys.command("retire")
def retire_key(
    kid: Annotated[str, typer.Argument(help="The name of the key.", metavar="NAME", show_default=False)],
    dsn: DsnOption = "",
    yes: YesOption = False,
) -> None:
    """Accept a key no more, from this moment on. Give the applications their new one before."""
    with connected(dsn) as conn:
        known = {each.kid for each in keyring.known(conn)}
        others = len(known - {kid})
        left = f"{counted(others, 'other key')} {'stays' if others == 1 else 'stay'}"
        if kid in known:
            confirm(
                yes,
                f"{left if others else 'No other key is there'}: whoever signs with {kid} is refused at once. Retire it?",
            )
        keyring.retire(conn, kid)
    out.print(f"Key {kid} is accepted no more.", markup=False)
