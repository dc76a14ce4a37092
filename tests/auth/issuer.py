"""An OIDC issuer on a socket: its keys come and go, it can be away, and it counts who asks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.clock import Clock
from tests.served import loopback, serve

URL = "https://ops.example.com"
TENANT = "7a1c2b34-0000-4000-8000-00000000beef"
APPLICATION = "11111111-2222-4333-8444-555555555555"
CLIENT = "99999999-8888-4777-8666-555555555555"
_RSA = RSAKey.generate_key(2_048, {"use": "sig", "kid": "r1"})  # slow to make: one for all


class OidcIssuer:
    """What signs tokens, and publishes the keys to verify them with."""

    def __init__(self, base: str, clock: Clock, path: str = "") -> None:
        self.iss = base + path
        self.path = path
        self.clock = clock
        self.rsa = _RSA
        self.key = ec_key("e1")
        self.published: list[dict[str, Any]] = [public(self.key), public(_RSA)]
        self.metadata: dict[str, Any] = {"issuer": self.iss, "jwks_uri": f"{self.iss}/keys"}
        self.away = False
        self.asked: Counter[str] = Counter()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token for a user, with changes; None takes a claim away."""
        now = int(self.clock.now())
        claims = {
            "iss": self.iss,
            "aud": f"{URL}/mcp",
            "sub": "alice",
            "client_id": "an-editor",
            "scope": "openid ops:read ops:write",
            "iat": now,
            "exp": now + 600,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key: Any = None, header: Any = None, **changes: Any) -> str:
        """A signed token."""
        key = key or self.key
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        head = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return jwt.encode(head, self.claims(**changes), key, algorithms=[head["alg"]])

    def app(self) -> Starlette:
        """The issuer's pages."""

        def page(name: str) -> Any:
            async def answer(_: Request) -> Response:
                self.asked[name] += 1
                if self.away:
                    return Response(status_code=503)
                return JSONResponse(
                    self.metadata if name == "metadata" else {"keys": self.published}
                )

            return answer

        return Starlette(
            routes=[
                Route(f"{self.path}/.well-known/openid-configuration", page("metadata")),
                Route(f"{self.path}/keys", page("keys")),
            ]
        )


@asynccontextmanager
async def open_issuer(clock: Clock, path: str = "") -> AsyncIterator[OidcIssuer]:
    """An issuer that answers on loopback."""
    at = loopback()
    issuer = OidcIssuer(at[1], clock, path)
    async with serve(issuer.app(), at):
        yield issuer


def ec_key(key_id: str) -> ECKey:
    """A new key for ES256."""
    return ECKey.generate_key("P-256", {"use": "sig", "kid": key_id})


def public(key: Any) -> dict[str, Any]:
    """A key as an issuer publishes it."""
    found: dict[str, Any] = key.as_dict(private=False)
    return found


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None = None) -> str:
    """A token that no honest library makes: without a signature, or with a MAC."""
    signed = f"{part(header)}.{part(claims)}"
    if secret is None:
        return f"{signed}."
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def part(value: dict[str, Any]) -> str:
    """A part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
