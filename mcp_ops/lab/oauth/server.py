"""An OAuth 2.1 authorization server for the lab, and the faults that runbook 2 is about."""

from __future__ import annotations

import html
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_ops.lab.oauth.grants import Answer, OAuth2Error, Request, Server, User
from mcp_ops.lab.oauth.store import Client, TokenCheck, TokenStore
from mcp_ops.lab.oauth.wire import Wire, cut_answer
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

SCOPE: Final = "api refresh_token openid"
SUPPORTED: Final = ("token-expired", "token-revoked", "lost-response", "clock-skew", "unavailable")
SKEW_S: Final = 600.0
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_PAGE: Final = """<!doctype html><html lang="en"><title>mcp-ops lab</title>
<h1>This is a lab</h1>
<p>Nobody is logged in here and no password is asked for: whoever presses the button
consents for <b>{client}</b> as the subject written below.</p>
<form method="post"><label>Subject <input name="login" value="integration@lab.example"></label>
<button>Consent</button></form></html>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """What a client holds after a grant."""

    access_token: str
    refresh_token: str
    family: str
    expires_in: int


class Authority:
    """The authorization server without a socket: what other stand-ins and the lab may ask of it."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self._server = server
        self._faults = faults

    @property
    def client(self) -> Client:
        """The one client, with its secret, for the lab to write into a configuration."""
        return self._server.client

    def issue(self, subject: str) -> TokenPair:
        """Grant a first pair of tokens without a browser, as the seed of a lab."""
        server = self._server
        scope = server.client.scope
        request = Request("POST", server.issuer, {}, {})
        request.client, request.user = server.client, User(subject)
        token = server.generate_token("authorization_code", server.client, User(subject), scope)
        server.save_token(token, request)
        return TokenPair(
            access_token=token["access_token"],
            refresh_token=token["refresh_token"],
            family=request.family,
            expires_in=token["expires_in"],
        )

    def check(self, token: str) -> TokenCheck:
        """What a resource server is told of an access token."""
        return self._server.store.check_access(token, now=self._server.now())

    def revoke(self, token: str) -> bool:
        """Withdraw a token for someone who holds only the token; false when there is none."""
        found = self._server.find(token)
        if found is None or found.is_expired() or found.is_revoked():
            return False
        self._server.revoke(found, token)
        return True

    def token(
        self, form: Mapping[str, str], headers: Mapping[str, str], *, rotate: bool = True
    ) -> Answer:
        """The token endpoint; `rotate=False` leaves a refresh token as it is."""
        request = Request("POST", self._server.issuer, form, headers)
        request.rotate = rotate
        answer: Answer = self._server.create_token_response(request)
        refreshed = answer.status == 200 and form.get("grant_type") == "refresh_token"
        if refreshed and "lost-response" in self._faults:
            self._faults.active.discard("lost-response")
            self._server.log.append("answer-lost", family=request.family)
            return Answer(status=0, body={}, cut=True)
        return answer

    def endpoint(self, name: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """The endpoints `revocation` and `introspection`."""
        request = Request("POST", self._server.issuer, form, headers)
        answer: Answer = self._server.create_endpoint_response(name, request)
        return answer

    def authorize(self, query: Mapping[str, str], login: str | None) -> Answer:
        """The authorization endpoint; without a subject it answers 200 for the page to be shown."""
        request = Request("GET", self._server.issuer, query, {})
        user = User(login) if login else None
        try:
            grant = self._server.get_consent_grant(request, user)
        except OAuth2Error as error:
            return self._server.handle_error_response(request, error)
        if user is None:
            return Answer(status=200, body={})
        answer: Answer = self._server.create_authorization_response(request, user, grant)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthStandIn(StandIn):
    """The stand-in, and behind it the authority that it serves."""

    authority: Authority


async def form_of(request: HttpRequest) -> dict[str, str]:
    """The parameters of a form, as plain strings."""
    async with request.form() as form:
        return {key: value for key, value in form.items() if isinstance(value, str)}


def respond(answer: Answer) -> Response:
    """An answer as HTTP."""
    if answer.cut:
        return cut_answer()
    if "Location" in answer.headers:
        return RedirectResponse(answer.headers["Location"], 302, headers=_NO_STORE)
    headers = {k: v for k, v in answer.headers.items() if k.lower() != "content-type"}
    return JSONResponse(answer.body, answer.status, headers=headers | _NO_STORE)


async def authorize_page(authority: Authority, request: HttpRequest) -> Response:
    """Consent at once for `?login=` or a posted form, else show who would consent."""
    query = dict(request.query_params)
    login = query.pop("login", None)
    if request.method == "POST":
        login = (await form_of(request)).get("login") or login
    answer = authority.authorize(query, login)
    if answer.status == 200:
        page = _PAGE.format(client=html.escape(query.get("client_id", "")))
        return HTMLResponse(page, headers=_NO_STORE)
    return respond(answer)


class _Endpoints:
    """The routes of the authorization server."""

    def __init__(self, authority: Authority, issuer: str, jwks: dict[str, Any]) -> None:
        self._authority = authority
        self._issuer = issuer
        self._jwks = jwks

    async def metadata(self, _request: HttpRequest) -> Response:
        issuer, methods = self._issuer, ["client_secret_basic", "client_secret_post"]
        return JSONResponse(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "revocation_endpoint": f"{issuer}/revoke",
                "introspection_endpoint": f"{issuer}/introspect",
                "userinfo_endpoint": f"{issuer}/userinfo",
                "jwks_uri": f"{issuer}/jwks.json",
                "scopes_supported": self._authority.client.scope.split(),
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": methods,
                "revocation_endpoint_auth_methods_supported": methods,
                "introspection_endpoint_auth_methods_supported": methods,
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def jwks(self, _request: HttpRequest) -> Response:
        return JSONResponse(self._jwks)

    async def authorize(self, request: HttpRequest) -> Response:
        return await authorize_page(self._authority, request)

    async def token(self, request: HttpRequest) -> Response:
        return respond(self._authority.token(await form_of(request), request.headers))

    async def revoke(self, request: HttpRequest) -> Response:
        form = await form_of(request)
        return respond(self._authority.endpoint("revocation", form, request.headers))

    async def introspect(self, request: HttpRequest) -> Response:
        form = await form_of(request)
        return respond(self._authority.endpoint("introspection", form, request.headers))

    async def userinfo(self, request: HttpRequest) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        check = self._authority.check(token)
        if not check.active:
            challenge = f'Bearer error="invalid_token", error_description="{check.reason}"'
            body = {"error": "invalid_token", "error_description": check.reason}
            return JSONResponse(body, 401, headers={"WWW-Authenticate": challenge})
        return JSONResponse({"sub": check.subject, "preferred_username": check.subject})

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/oauth-authorization-server", self.metadata),
            Route("/.well-known/openid-configuration", self.metadata),
            Route("/jwks.json", self.jwks),
            Route("/authorize", self.authorize, methods=["GET", "POST"]),
            Route("/token", self.token, methods=["POST"]),
            Route("/revoke", self.revoke, methods=["POST"]),
            Route("/introspect", self.introspect, methods=["POST"]),
            Route("/userinfo", self.userinfo, methods=["GET", "POST"]),
        ]


def _kept(path: Path, make: Callable[[], str]) -> str:
    """A secret text that is made once and then stays, readable by its owner only."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(make())
    return path.read_text(encoding="utf-8")


def _new_key() -> str:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    return json.dumps(key.as_dict(private=True))


def _signer(
    key: ECKey, *, issuer: str, audience: str, client_id: str, ttl_s: int
) -> Callable[[str, str, float], str]:
    """Access tokens as RFC 9068 has them."""

    def sign(subject: str, scope: str, now: float) -> str:
        claims = {
            "iss": issuer,
            "sub": subject,
            "aud": audience,
            "client_id": client_id,
            "iat": int(now),
            "exp": int(now) + ttl_s,
            "jti": secrets.token_hex(16),
            "scope": scope,
        }
        header = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid}
        return jwt.encode(header, claims, key, algorithms=["ES256"])

    return sign


def _doors(
    faults: Faults, at_once: Mapping[str, Callable[[], None]]
) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """Inject and mend; some faults do their damage at once, and mending does not undo that."""

    def inject(name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        faults.active.add(name)
        at_once.get(name, lambda: None)()

    def mend(name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        faults.active.discard(name)

    return inject, mend


def oauth_server(
    *,
    directory: Path,
    issuer: str,
    clock: Callable[[], float] = time.time,
    access_ttl_s: int = 3600,
    client_id: str = "mcp-ops-lab",
    redirect_uris: tuple[str, ...] = ("http://127.0.0.1:8765/callback",),
    audience: str = "https://api.lab.example",
    scope: str = SCOPE,
) -> OAuthStandIn:
    """Build the stand-in; key, secret and tokens live in `directory` and survive a restart.

    `issuer` is the base URL under which it is served.
    """
    directory.mkdir(parents=True, exist_ok=True)
    faults = Faults()
    log = EffectLog(directory / "oauth.effects.jsonl", now=clock)
    key = ECKey.import_key(json.loads(_kept(directory / "signing-key.json", _new_key)))
    client = Client(
        client_id=client_id,
        client_secret=_kept(directory / "client-secret", lambda: secrets.token_urlsafe(24)),
        redirect_uris=redirect_uris,
        scope=scope,
    )

    def now() -> float:
        return clock() + (SKEW_S if "clock-skew" in faults else 0.0)

    server = Server(
        issuer=issuer,
        client=client,
        store=TokenStore(directory / "oauth.sqlite3"),
        log=log,
        sign=_signer(
            key, issuer=issuer, audience=audience, client_id=client_id, ttl_s=access_ttl_s
        ),
        now=now,
        access_ttl_s=access_ttl_s,
    )
    authority = Authority(server, faults)
    endpoints = _Endpoints(authority, issuer, {"keys": [key.as_dict(private=False)]})
    app = Starlette(routes=endpoints.routes())

    def expire() -> None:
        log.append("access-tokens-expired", count=server.store.expire_all_access())

    def withdraw() -> None:
        for family in server.store.revoke_all_families():
            log.append("revoked", family=family, kind="family", by="fault")

    inject, mend = _doors(faults, {"token-expired": expire, "token-revoked": withdraw})
    return OAuthStandIn(
        name="oauth",
        app=Wire(app, now=now, refuse=lambda: unavailable() if "unavailable" in faults else None),
        log=log,
        supported=SUPPORTED,
        inject=inject,
        mend=mend,
        authority=authority,
    )


def unavailable() -> Response:
    """What a load balancer says for a server that is not there."""
    body = {"error": "temporarily_unavailable"}
    return JSONResponse(body, 503, headers={"Retry-After": "5"} | _NO_STORE)
