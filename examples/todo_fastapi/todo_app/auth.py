"""Who is asking: a bearer token, verified by PyJWT, becomes an Identity."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import jwt
from fastapi import Depends, HTTPException, Request, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from rlskit import Identity
from rlskit.errors import InvalidIdentityError
from todo_app.settings import Settings

log = logging.getLogger(__name__)

# The signatures that count. A token says in its header how it is signed, and whoever forges one writes that too: "none", or HS256 with the
# public key for the secret.
ALGORITHMS = ["RS256", "ES256"]

# The application answers by itself: releases of FastAPI differ in what they say to a request without a token.
bearer = HTTPBearer(auto_error=False)


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Identity:
    """Whoever the request's token is about; 401 without one, or for one that does not count."""
    return identified(credentials.credentials if credentials else None, request.app.state.settings)


def identified(token: str | None, settings: Settings) -> Identity:
    """Whoever the token is about. Raises HTTPException."""
    if token is None:
        raise _unauthorized("Bearer")
    try:
        return Identity.from_claims(verified(token, settings))
    except (jwt.PyJWTError, InvalidIdentityError) as error:
        # Why, is for the log: to the outside all refused tokens are the same.
        log.info("token refused: %s", type(error).__name__)
        raise _unauthorized('Bearer error="invalid_token"') from error


def verified(token: str, settings: Settings) -> dict[str, Any]:
    """The claims of a token that was signed by the provider, for this application, and holds now. Raises jwt.PyJWTError."""
    # An ID token of Cognito has the client in `aud` and the name in `cognito:username`; its access token has `client_id` and `username`
    # instead, and no `aud`. An application takes one kind and refuses the other, which `token_use` tells. `Identity.from_claims` reads
    # either name; of another provider, name the claim that holds one which its user cannot change: from_claims(…, username="login").
    client = "client_id" if settings.token_use == "access" else "aud"
    claims: dict[str, Any] = jwt.decode(
        token,
        _key(token, settings),
        algorithms=ALGORITHMS,
        issuer=settings.issuer,
        audience=settings.audience if client == "aud" else None,
        options={"require": ["sub", "iss", "exp", client], "verify_aud": client == "aud"},
        leeway=5,  # seconds that the provider's clock may differ from ours
    )
    if client == "client_id" and claims["client_id"] != settings.audience:
        raise jwt.InvalidAudienceError("issued for another client")
    if settings.token_use is not None and claims.get("token_use") != settings.token_use:
        raise jwt.InvalidTokenError("a token for another use")
    return claims


def _key(token: str, settings: Settings) -> jwt.PyJWK:
    """The provider's key that the token names. Where keys change often, jwt.PyJWKClient fetches them; it blocks, so ask it in a thread."""
    named = jwt.get_unverified_header(token).get("kid")
    for key in settings.keys.keys:
        if key.key_id == named:
            return key
    raise jwt.InvalidKeyError("signed with no key of the provider")


def _unauthorized(challenge: str) -> HTTPException:
    return HTTPException(
        status.HTTP_401_UNAUTHORIZED, "a valid bearer token is needed", headers={"WWW-Authenticate": challenge}
    )
