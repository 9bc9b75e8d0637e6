"""Bearer tokens: JWT (RFC 7519), signed with HMAC-SHA256. Only the gateway has the key."""

from functools import lru_cache
from time import time
from typing import Any

import jwt
from marshmallow import ValidationError, fields, validate
from nameko.extensions import DependencyProvider

from chassis.lifecycle import Lifecycle
from chassis.schemas import is_id
from chassis.settings import read

ALGORITHM = "HS256"
ISSUER = "shop"
# Verified tokens.
MAX_CACHED = 10_000
HOW_TO_MAKE = ": make one with `openssl rand -hex 32`"


def _check_secret(secret: str) -> None:
    """Raise ValidationError for a secret that is short, or that PyJWT refuses to sign with."""
    if len(secret) < 32:
        raise ValidationError(f"it needs 32 characters or more{HOW_TO_MAKE}")
    try:
        jwt.encode({}, secret, ALGORITHM)
    # A key of another algorithm, or bytes that are not UTF-8.
    except (jwt.InvalidKeyError, ValueError):
        raise ValidationError("it can't sign tokens") from None


class Tokens(Lifecycle, DependencyProvider):
    """Issues and verifies tokens. Settings: TOKEN_SECRET, TOKEN_LIFETIME_S."""

    def check(self) -> None:
        self.secret: str = read(
            self.container.config,
            "TOKEN_SECRET",
            fields.String(validate=_check_secret, metadata={"hint": HOW_TO_MAKE}),
        )
        self.lifetime_s: float = read(
            self.container.config,
            "TOKEN_LIFETIME_S",
            fields.Float(validate=validate.Range(0, 366 * 86_400, min_inclusive=False)),
        )
        # An exception is not cached.
        self._verified = lru_cache(MAX_CACHED)(self._verify)

    def get_dependency(self, worker_ctx: Any) -> "Tokens":
        return self

    def issue(self, user_id: str) -> dict[str, Any]:
        """Return {access_token, token_type, expires_in} for a user. `expires_in` is in seconds."""
        return {
            "access_token": jwt.encode(
                {"iss": ISSUER, "sub": user_id, "exp": int(time() + self.lifetime_s)},
                self.secret,
                ALGORITHM,
            ),
            "token_type": "Bearer",
            "expires_in": int(self.lifetime_s),
        }

    def user_id(self, authorization: str | None) -> str | None:
        """Return the user id of a valid bearer token in an Authorization header, or None."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            user_id, expires = self._verified(token)
        except (jwt.InvalidTokenError, ValueError):
            return None
        return user_id if time() < expires else None

    def _verify(self, token: str) -> tuple[str, int]:
        """Return the user id of a token and its expiry time. Slower than the parser is."""
        claims = jwt.decode(
            token,
            self.secret,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            options={"require": ["exp", "iss", "sub"]},
        )
        if not is_id(claims["sub"]):
            raise jwt.InvalidTokenError
        return claims["sub"], int(claims["exp"])
