"""The key with which an application signs who is asking, and the token that it signs: what the database verifies by itself."""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from typing import Any

from rlskit.errors import InvalidIdentityError, SigningKeyError
from rlskit.identity import Identity

# Seconds from signing to the beginning of the transaction; so far the clocks of two machines may be apart.
LIFETIME = 60

_LONGEST = 65_000  # characters of a token; the database looks at none that is longer than 65,536

_KID = re.compile(r"[0-9A-Za-z_-]{1,32}")
_LENGTHS = range(32, 65)  # bytes: no less than what HMAC-SHA256 makes of it, no more than it takes as it is
_WAY_OUT = "rlskit keys add prints one: <name>:<secret in base64>"


@dataclass(frozen=True, repr=False)
class SigningKey:
    """What the application signs identities with, where the database takes signed ones only (``mode = "signed"``).

    ``kid`` is its name, at most 32 letters, digits, ``-`` and ``_``; ``secret`` 32 to 64 bytes. Whoever has it can be anybody: it belongs
    where the application's other secrets are. Raises SigningKeyError.
    """

    kid: str
    secret: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.kid, str) or not _KID.fullmatch(self.kid):
            raise SigningKeyError("the name of a key has at most 32 letters, digits, `-` and `_`", hint=_WAY_OUT)
        if not isinstance(self.secret, bytes) or len(self.secret) not in _LENGTHS:
            raise SigningKeyError(f"the secret of key `{self.kid}` is not 32 to 64 bytes long", hint=_WAY_OUT)

    @classmethod
    def generate(cls, kid: str | None = None) -> SigningKey:
        """Make a new one, of 32 random bytes; its name is random too, unless it is given."""
        return cls(kid=secrets.token_hex(4) if kid is None else kid, secret=secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read what ``export`` wrote, as an environment variable holds it. Raises SigningKeyError, without the text."""
        kid, _, encoded = text.strip().partition(":")
        try:
            return cls(kid=kid, secret=b64decode(encoded, validate=True))
        except (ValueError, SigningKeyError):
            # Nothing of the text: what stands where the name should may be the secret.
            raise SigningKeyError("this is no signing key", hint=_WAY_OUT) from None

    def export(self) -> str:
        """Write it as ``<kid>:<secret in base64>``. This is the secret itself."""
        return f"{self.kid}:{b64encode(self.secret).decode()}"

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, secret=…)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a signing key is not pickled: give the other process the text of it as a secret")

    def token(self, identity: Identity, *, actor: str = "", pid: int, now: float) -> str:
        """Sign that ``identity`` asks on the backend ``pid``, in a transaction that begins within LIFETIME seconds of ``now`` (Unix time).

        The form stands in sql/runtime.sql, at ``rlskit.signed_claims``.
        """
        said = identity.to_dict() | {"actor": actor, "pid": pid, "exp": round(now) + LIFETIME}
        signed = f"v1.{self.kid}.{b64encode(dumps(said).encode()).decode()}"
        if len(signed) > _LONGEST:
            raise InvalidIdentityError(
                f"the identity takes {len(signed):,} characters when it is signed, the limit is {_LONGEST:,}",
                hint="carry the claims that rules compare, and no others",
            )
        return f"{signed}.{hmac.new(self.secret, signed.encode(), sha256).hexdigest()}"
