"""Any OAuth 2 authorization server: its tokens, as one client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.tokens import AuthorizationRequest, TokenFacts, TokenSet
from mcp_ops.errors import (
    BadAnswer,
    ConfigurationError,
    Forbidden,
    NotFound,
    Unauthenticated,
    Upstream,
)
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer, HttpClient, SecureUrl, check_url, open_client
from mcp_ops.wire.jwt_claims import JwtCheck, JwtClaims, read_jwt, verify
from mcp_ops.wire.oauth import (
    ClientAuth,
    OAuthClient,
    authorization_request,
    code_grant,
    moment,
    oauth_error,
    refresh_grant,
    skew_problem,
)

_SYSTEM: Final = "the authorization server"
_REFRESH: Final = "Call refresh_oauth_token for this target."
_ORGANISATION: Final = ("organization_id", "org_id", "tid", "tenant_id", "hd")
# Our setting, and the name of the same in RFC 8414.
_METADATA: Final = {
    "token_url": "token_endpoint",
    "authorize_url": "authorization_endpoint",
    "introspect_url": "introspection_endpoint",
    "userinfo_url": "userinfo_endpoint",
    "jwks_url": "jwks_uri",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a real call with the token showed."""

    valid: bool
    problem: str = ""
    claims: Mapping[str, Any]
    date: float | None


class OAuthAdapter(Adapter):
    """One client of one authorization server."""

    kind: ClassVar[str] = "oauth"
    title: ClassVar[str] = "OAuth 2 authorization server"

    class Settings(AdapterSettings):
        """The server, by `issuer` (found by its metadata) or address by address, and the client."""

        issuer: SecureUrl | None = Field(None, description="Issuer with RFC 8414 metadata.")
        token_url: SecureUrl | None = None
        authorize_url: SecureUrl | None = None
        jwks_url: SecureUrl | None = None
        introspect_url: SecureUrl | None = None
        userinfo_url: SecureUrl | None = None
        probe_url: SecureUrl | None = Field(
            None, description="A GET of the API itself that tells good tokens from bad ones."
        )
        client_id: str = Field(min_length=1, max_length=500)
        client_secret: SecretStr | None = None
        auth_method: ClientAuth = "client_secret_post"
        access_token: SecretStr | None = None
        refresh_token: SecretStr | None = None
        scopes: tuple[str, ...] = ()
        redirect_uri: str = Field("", max_length=500, description="As registered at the server.")
        expected_subject: str = Field("", description="Subject that must have authorized.")
        expected_organisation: str = Field("", description="Organisation or tenant to match.")

        @model_validator(mode="after")
        def _knows_the_server(self) -> Self:
            if self.issuer is None and self.token_url is None:
                raise ValueError("set issuer, or token_url")
            return self

    def __init__(self, settings: Settings, wiring: Wiring, http: HttpClient) -> None:
        self._settings = settings
        self._wiring = wiring
        self._http = http
        self._found: dict[str, str] | None = None
        self._client = OAuthClient(
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            method=settings.auth_method,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, wiring: Wiring) -> AsyncIterator[OAuthAdapter]:
        """Open the client."""
        secrets = (settings.access_token, settings.client_secret, settings.refresh_token)
        wiring.redactor.add(*(secret.get_secret_value() for secret in secrets if secret))
        async with open_client(
            system=_SYSTEM, clock=wiring.clock, redactor=wiring.redactor
        ) as http:
            yield cls(settings, wiring, http)

    async def ping(self) -> None:
        """Read the metadata, or see that the token endpoint answers at all."""
        if self._settings.issuer is not None:
            await self._discover()
            return
        answer = await self._http.send("GET", str(self._settings.token_url))
        if answer.status >= 500:
            raise self._http.error(answer)

    @property
    def secret_name(self) -> str:
        """Under which name the target's tokens are kept in its secret store."""
        return f"{self._wiring.target}-tokens"

    def configured_tokens(self) -> TokenSet | None:
        """The tokens of the configuration; the access token is empty where there is none."""
        settings = self._settings
        if settings.access_token is None and settings.refresh_token is None:
            return None
        return TokenSet(
            access_token=settings.access_token or SecretStr(""),
            refresh_token=settings.refresh_token,
            scopes=settings.scopes,
        )

    def expected_identity(self) -> tuple[str, str]:
        """The subject and organisation that the configuration demands."""
        return self._settings.expected_subject, self._settings.expected_organisation

    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        """Exchange a refresh token once."""
        url = await self._need("token_url")
        return await refresh_grant(
            self._http, url, self._client, refresh_token, target=self._wiring.target
        )

    async def authorization_url(self, state: str) -> AuthorizationRequest:
        """The page on which a person consents (PKCE S256)."""
        return authorization_request(
            await self._need("authorize_url"),
            client_id=self._settings.client_id,
            redirect_uri=self._settings.redirect_uri,
            scopes=self._settings.scopes,
            state=state,
        )

    async def exchange_code(self, code: SecretStr, verifier: SecretStr) -> TokenSet:
        """Exchange the code of a finished flow once."""
        return await code_grant(
            self._http,
            await self._need("token_url"),
            self._client,
            code=code,
            verifier=verifier,
            redirect_uri=self._settings.redirect_uri,
        )

    async def inspect(self, tokens: TokenSet) -> TokenFacts:
        """Ask the server (or the API) of the token; a JWT is read and its signature checked."""
        self._wiring.redactor.add(tokens.access_token.get_secret_value())
        seen = await self._see(tokens.access_token)
        jwt = read_jwt(tokens.access_token)
        check = await self._verify(tokens.access_token) if jwt else None
        return self._judge(tokens, seen, jwt, check)

    def _judge(
        self, tokens: TokenSet, seen: _Seen, jwt: JwtClaims | None, check: JwtCheck | None
    ) -> TokenFacts:
        claims = {**(jwt.claims if jwt else {}), **seen.claims}
        now = self._wiring.clock.now()
        expires_at = moment(claims.get("exp")) or tokens.expires_at
        skew = None if seen.date is None else round(seen.date - now)
        problem, advice = self._problem(seen, jwt, check, expires_at)
        valid = not problem
        if valid:
            problem, advice = skew_problem(skew, _SYSTEM)
        scope = claims.get("scope")
        return TokenFacts(
            valid=valid,
            problem=problem,
            advice=advice,
            expires_at=expires_at,
            scopes=tuple(tame(scope, 2_000).split()) if isinstance(scope, str) else tokens.scopes,
            subject=_text(claims, "sub"),
            organisation=next((v for n in _ORGANISATION if (v := _text(claims, n))), ""),
            issuer=_text(claims, "iss"),
            clock_skew_s=skew,
            key_known=check.key_known if check else None,
        )

    def _problem(
        self, seen: _Seen, jwt: JwtClaims | None, check: JwtCheck | None, expires_at: float | None
    ) -> tuple[str, str]:
        """Why the token is not valid, and what to do; empty for a valid one."""
        if not seen.valid:
            problem = seen.problem
            if expires_at is not None and expires_at <= self._wiring.clock.now():
                problem = "The access token has expired."
            elif check is not None and not check.key_known:
                problem += " Its key is not among the issuer's published keys."
            return problem, _REFRESH
        if check is not None and not check.key_known:
            problem = "The token's key is not among the issuer's published keys (JWKS)."
            return problem, f"The issuer rotated its keys, or it is another issuer. {_REFRESH}"
        if check is not None and not check.signed:
            problem = "The token's signature is wrong."
            return problem, "Do not use it: find out where it came from, and authorize again."
        issuer = _text(jwt.claims, "iss") if jwt else ""
        if issuer and self._settings.issuer and issuer.rstrip("/") != self._settings.issuer:
            return "The token is of another issuer than the configured one.", (
                "Check issuer in the target's settings, and where the token came from."
            )
        return "", ""

    async def _see(self, token: SecretStr) -> _Seen:
        """One real call with the token; the API itself knows best, then introspection."""
        if self._settings.probe_url:
            return self._answered(
                await self._http.send("GET", self._settings.probe_url, bearer=token)
            )
        url = await self._endpoint("introspect_url")
        if url and self._settings.client_secret:
            return await self._introspect(url, token)
        url = await self._endpoint("userinfo_url")
        if url is None:
            raise ConfigurationError(
                "There is no way to ask whether the token is valid.",
                hint="Set introspect_url (with client_secret), userinfo_url or probe_url.",
            )
        answer = await self._http.send("GET", url, bearer=token)
        return self._answered(answer, claims=answer.json_object() if answer.ok else {})

    async def _introspect(self, url: str, token: SecretStr) -> _Seen:
        form = {"token": token.get_secret_value(), "token_type_hint": "access_token"}
        headers = self._client.authenticate(form)
        answer = await self._http.send("POST", url, headers=headers, form=form)
        if not answer.ok:
            raise oauth_error(self._http, answer)
        body = answer.json_object()
        if not isinstance(body.get("active"), bool):
            raise BadAnswer("The introspection does not say whether the token is active.")
        problem = "" if body["active"] else "The server says that the token is not active."
        return _Seen(valid=body["active"], problem=problem, claims=body, date=answer.date())

    def _answered(self, answer: Answer, *, claims: Mapping[str, Any] | None = None) -> _Seen:
        if answer.ok:
            return _Seen(valid=True, claims=claims or {}, date=answer.date())
        error = self._http.error(answer)
        if not isinstance(error, Unauthenticated | Forbidden):
            raise error
        problem = f"The token is refused ({answer.status})."
        return _Seen(valid=False, problem=problem, claims={}, date=answer.date())

    async def _verify(self, token: SecretStr) -> JwtCheck | None:
        url = await self._endpoint("jwks_url")
        if url is None:
            return None
        answer = await self._http.send("GET", url)
        if not answer.ok:
            raise self._http.error(answer)
        return verify(token, answer.json_object())

    # Addresses

    async def _need(self, name: str) -> str:
        url = await self._endpoint(name)
        if url is None:
            raise ConfigurationError(
                f"The authorization server's metadata has no {_METADATA[name]}.",
                hint=f"Set {name} in the target's settings.",
            )
        return url

    async def _endpoint(self, name: str) -> str | None:
        """An address: the configured one, or that of the metadata."""
        configured: str | None = getattr(self._settings, name)
        if configured is not None or self._settings.issuer is None:
            return configured
        return (await self._discover()).get(name)

    async def _discover(self) -> dict[str, str]:
        """The addresses of the metadata, read once: they are configuration, not state."""
        if self._found is None:
            self._found = _addresses(await self._metadata(), str(self._settings.issuer))
        return self._found

    async def _metadata(self) -> dict[str, Any]:
        issuer = str(self._settings.issuer)
        parts = urlsplit(issuer)
        origin = f"{parts.scheme}://{parts.netloc}"
        error: Upstream = NotFound("The authorization server publishes no metadata.")
        for url in (
            f"{origin}/.well-known/oauth-authorization-server{parts.path}",
            f"{issuer}/.well-known/openid-configuration",
        ):
            answer = await self._http.send("GET", url)
            if answer.ok:
                return answer.json_object()
            error = self._http.error(answer, hint="Check issuer, or set the addresses one by one.")
            if answer.status != 404:
                break
        raise error


def _addresses(metadata: Mapping[str, Any], issuer: str) -> dict[str, str]:
    if str(metadata.get("issuer", "")).rstrip("/") != issuer:
        raise BadAnswer(
            "The metadata is of another issuer than the configured one (RFC 8414 §3.3).",
            hint="Check issuer in the target's settings.",
        )
    found: dict[str, str] = {}
    for name, theirs in _METADATA.items():
        value = metadata.get(theirs)
        if not isinstance(value, str):
            continue
        try:
            found[name] = check_url(value)
        except ValueError as exc:
            raise BadAnswer(f"The metadata's {theirs} is not a safe URL.") from exc
    return found


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return tame(value, 300) if isinstance(value, str) else ""
