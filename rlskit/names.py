"""Names as PostgreSQL keeps them: checked once, at the boundary, and never cut short in silence."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from rlskit.errors import RuleError

MAX_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL silently cuts what is longer, and then it is another name


@dataclass(frozen=True, slots=True, order=True)
class QualifiedName:
    """A table, view, index or sequence: its schema and its bare name, both unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def checked_name(name: object, what: str) -> str:
    """Return ``name`` if PostgreSQL can hold it unchanged; ``what`` says what it names. Raises RuleError."""
    if not isinstance(name, str):
        raise RuleError(f"the name of a {what} must be text, got `{name!r}`")
    if not name or "\0" in name:
        raise RuleError(f"`{name!r}` cannot be the name of a {what}", hint="a name is not empty and holds no NUL")
    if (size := len(name.encode())) > MAX_BYTES:
        raise RuleError(
            f"the {what} name `{name}` is {size} bytes long, PostgreSQL keeps {MAX_BYTES}",
            hint="shorten the name: PostgreSQL would cut it, and a cut name is another one",
        )
    return name


def fitted(name: str) -> str:
    """Return ``name``, or where PostgreSQL would cut it a shorter one that ends in a digest of the whole."""
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    digest = sha256(encoded).hexdigest()[:8]
    return encoded[: MAX_BYTES - 9].decode(errors="ignore") + "_" + digest
