"""Bearer tokens: JWT (RFC 7519), signed with HMAC-SHA256 by the gateway, which alone has the key."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from marshmallow import fields, validate
from nameko.extensions import DependencyProvider

from chassis.schemas import is_id
from chassis.settings import read

log = logging.getLogger(__name__)

ALGORITHM = "HS256"
ISSUER = "shop"
SECRET = fields.String(validate=validate.Length(min=32, error="it needs 32 characters or more"))
LIFETIME = fields.Float(validate=validate.Range(0, 366 * 86_400, min_inclusive=False))  # seconds
DEVELOPMENT = "development"  # how the default in config.yaml begins


class Tokens(DependencyProvider):
    """Issues and checks tokens. Settings: TOKEN_SECRET, TOKEN_LIFETIME_S."""

    def check(self) -> None:
        self.secret: str = read(self.container.config, "TOKEN_SECRET", SECRET)
        self.lifetime_s: float = read(self.container.config, "TOKEN_LIFETIME_S", LIFETIME)
        if self.secret.startswith(DEVELOPMENT):
            log.warning("tokens are signed with the development key: set TOKEN_SECRET")

    def get_dependency(self, worker_ctx: Any) -> "Tokens":
        return self

    def issue(self, user_id: str) -> dict[str, Any]:
        """{access_token, token_type, expires_in (seconds)} for a user."""
        expires = datetime.now(UTC) + timedelta(seconds=self.lifetime_s)
        claims = {"iss": ISSUER, "sub": user_id, "exp": expires}
        token = jwt.encode(claims, self.secret, ALGORITHM)
        return {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime_s)}

    def user_id(self, authorization: str | None) -> str | None:
        """Whose token stands in an Authorization header; None where it is none of ours."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims = jwt.decode(
                token,
                self.secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                options={"require": ["exp", "iss", "sub"]},
            )
        except (jwt.InvalidTokenError, ValueError):
            return None
        return claims["sub"] if is_id(claims["sub"]) else None
