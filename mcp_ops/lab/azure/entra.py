"""Microsoft Entra's token endpoints for the lab: client credentials, and managed identities.

Serve it over TLS: the libraries of clients take no other authority. The endpoint of managed
identities is plain HTTP, as App Service has it on the machine itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.lab.standin import EffectLog

TENANT: Final = "22222222-3333-4444-8555-666666666666"
CLIENT: Final = "33333333-4444-4555-8666-777777777777"
AUDIENCE: Final = "https://management.azure.com"


@dataclass(slots=True, kw_only=True)
class Entra:
    """The directory: one application with a secret or a federated credential, and the tokens that
    it was given. `lifetime_s` is how long the next ones are good."""

    log: EffectLog
    client_secret: str
    assertion: str
    identity_header: str
    now: Callable[[], float] = time.time
    lifetime_s: float = 3_600.0
    issued: dict[str, float] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def check(self, token: str) -> bool:
        """Whether Resource Manager accepts a token."""
        return token not in self.revoked and self.issued.get(token, 0.0) > self.now()

    def revoke(self) -> None:
        """Take back all tokens that are out."""
        self.revoked |= set(self.issued)

    def app(self) -> Starlette:
        """The endpoints."""
        tenant = "/{tenant}"
        return Starlette(
            routes=[
                Route(f"{tenant}/v2.0/.well-known/openid-configuration", self._metadata),
                Route(f"{tenant}/oauth2/v2.0/token", self._token, methods=["POST"]),
                Route("/msi/token", self._identity),
            ]
        )

    def _issue(self, how: str) -> dict[str, Any]:
        token = f"lab.{secrets.token_urlsafe(40)}"
        self.issued[token] = self.now() + self.lifetime_s
        self.log.append("token", how=how)
        return {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime_s)}

    async def _metadata(self, request: Request) -> Response:
        base = f"{str(request.base_url).rstrip('/')}/{request.path_params['tenant']}"
        return JSONResponse(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            }
        )

    async def _token(self, request: Request) -> Response:
        async with request.form() as form:
            given = {key: str(value) for key, value in form.items()}
        known = given.get("client_id") == CLIENT and request.path_params["tenant"] == TENANT
        by_secret = given.get("client_secret") == self.client_secret
        by_assertion = given.get("client_assertion") == self.assertion
        if not known or not (by_secret or by_assertion):
            return _refused("invalid_client", "AADSTS7000215: Invalid client secret provided.")
        if given.get("scope") != f"{AUDIENCE}/.default":
            return _refused("invalid_scope", "AADSTS70011: The provided value is not valid.")
        return JSONResponse(self._issue("secret" if by_secret else "assertion"))

    async def _identity(self, request: Request) -> Response:
        """The endpoint of App Service for the app's own identity."""
        if request.headers.get("x-identity-header") != self.identity_header:
            return JSONResponse({"statusCode": 401, "message": "no such identity"}, 401)
        issued = self._issue("managed identity")
        expires = int(self.now() + issued.pop("expires_in"))
        return JSONResponse({**issued, "expires_on": str(expires), "resource": AUDIENCE})


def _refused(error: str, description: str) -> Response:
    body = {"error": error, "error_description": description, "error_codes": [7000215]}
    return JSONResponse(body, 401)


def entra(directory: Path, *, now: Callable[[], float] = time.time) -> Entra:
    """A directory with secrets of its own."""
    return Entra(
        log=EffectLog(directory / "entra.effects.jsonl", now=now),
        client_secret=secrets.token_urlsafe(24),
        assertion=secrets.token_urlsafe(32),
        identity_header=secrets.token_urlsafe(16),
        now=now,
    )
