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


def checked_name(name: object, what: str, key: str | None = None) -> str:
    """Return ``name`` if PostgreSQL can hold it unchanged; ``what`` says what it names. Raises RuleError, with this ``key``."""
    if not isinstance(name, str):
        raise RuleError(f"the name of a {what} must be text, got `{name!r}`", hint="put it in quotes", key=key)
    if not name or "\0" in name:
        raise RuleError(
            f"`{name!r}` cannot be the name of a {what}", hint="a name is not empty and holds no NUL", key=key
        )
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise RuleError(
            f"`{name!a}` cannot be the name of a {what}", hint="it holds half of a surrogate pair", key=key
        ) from None
    if size > MAX_BYTES:
        raise RuleError(
            f"the {what} name `{name}` is {size} bytes long, PostgreSQL keeps {MAX_BYTES}",
            hint="shorten the name: PostgreSQL would cut it, and a cut name is another one",
            key=key,
        )
    return name


def fitted(name: str) -> str:
    """Return ``name``, or where PostgreSQL would cut it a shorter one that ends in a digest of the whole."""
    return name if len(name.encode()) <= MAX_BYTES else _digested(name, name)


def index_name(table: QualifiedName, column: str) -> str:
    """The name of rlskit's index on the column; no other table and column of the schema have the same."""
    name = f"{table.name}__{column}_rlskit"
    plain = "__" not in table.name + column and not table.name.endswith("_") and not column.startswith("_")
    return fitted(name) if plain else _digested(name, f"{table.name}\0{column}")


def _digested(name: str, whole: str) -> str:
    digest = sha256(whole.encode()).hexdigest()[:8]
    return name.encode()[: MAX_BYTES - 9].decode(errors="ignore") + "_" + digest
