"""Authlib's authorization server, bridged to plain data: requests in, `Answer`s out."""

from __future__ import annotations

# Authlib ships no types: this is the one module that touches it.
# mypy: allow-subclassing-any, disable-error-code="import-untyped"
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authlib.oauth2 import rfc6749, rfc6750, rfc7009, rfc7636, rfc7662
from authlib.oauth2.rfc6749 import grants

from mcp_ops.lab.oauth.store import Client, CodeRecord, TokenRecord, TokenStore, fingerprint
from mcp_ops.lab.standin import EffectLog

OAuth2Error: type[Exception] = rfc6749.OAuth2Error
CODE_TTL_S: Final = 600.0
_SECRET_METHODS: Final = ["client_secret_basic", "client_secret_post"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an endpoint says, before anyone has turned it into HTTP."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """Whoever consented."""

    subject: str

    def get_user_id(self) -> str:
        """The subject of the tokens."""
        return self.subject


class Request(rfc6749.OAuth2Request):
    """One request as Authlib wants it, with what this server adds along the way."""

    def __init__(
        self, method: str, uri: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        # The lab serves plain HTTP on loopback; the URI only feeds Authlib's check for TLS.
        super().__init__(method, "https" + uri[uri.index(":") :], headers=headers)
        self.payload = rfc6749.requests.BasicOAuth2Payload(dict(form))
        self.rotate = True
        self.family = ""

    @property
    def form(self) -> dict[str, str]:
        """The parameters, wherever they stood."""
        return dict(self.payload.data)


class S256Only(rfc7636.CodeChallenge):
    """PKCE as OAuth 2.1 has it: for every client, and never `plain`."""

    SUPPORTED_CODE_CHALLENGE_METHOD: Final = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Refuse an authorization request without an S256 challenge."""
        super().validate_code_challenge(grant, redirect_uri)
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise rfc6749.InvalidRequestError("Missing 'code_challenge'")
        if data.get("code_challenge_method") != "S256":
            raise rfc6749.InvalidRequestError("The 'code_challenge_method' must be S256")


class CodeGrant(grants.AuthorizationCodeGrant):
    """The authorization code grant over our store."""

    TOKEN_ENDPOINT_AUTH_METHODS: Final = _SECRET_METHODS

    def save_authorization_code(self, code: str, request: Request) -> None:
        """Keep the code with the challenge it is bound to."""
        server, data = self.server, request.payload.data
        server.store.add_code(
            CodeRecord(
                code=code,
                client_id=request.client.client_id,
                subject=request.user.subject,
                scope=request.scope,
                redirect_uri=request.payload.redirect_uri,
                code_challenge=data.get("code_challenge"),
                code_challenge_method=data.get("code_challenge_method"),
                expires_at=server.now() + CODE_TTL_S,
            )
        )
        server.log.append("code-issued", subject=request.user.subject, code=fingerprint(code))

    def query_authorization_code(self, code: str, client: Client) -> CodeRecord | None:
        """Find a code that is still good; a second use costs the tokens of the first."""
        server = self.server
        found: CodeRecord | None = server.store.find_code(code)
        if found is None or found.client_id != client.client_id:
            return None
        if found.family is not None:
            server.store.revoke_family(found.family)
            server.log.append("code-reused", family=found.family, code=fingerprint(code))
            return None
        return found if server.now() < found.expires_at else None

    def delete_authorization_code(self, authorization_code: CodeRecord) -> None:
        """Spend it, but remember on what."""
        self.server.store.redeem_code(authorization_code.code, self.request.family)

    def authenticate_user(self, authorization_code: CodeRecord) -> User:
        """Whoever consented to the code."""
        return User(authorization_code.subject)


class RefreshGrant(grants.RefreshTokenGrant):
    """The refresh token grant over our store, with rotation and detection of reuse."""

    TOKEN_ENDPOINT_AUTH_METHODS: Final = _SECRET_METHODS

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self) -> bool:  # noqa: N802 - the name is Authlib's
        """Rotate, unless the door the request came through does not."""
        return bool(self.request.rotate)

    def authenticate_refresh_token(self, refresh_token: str) -> TokenRecord | None:
        """Find a refresh token that is still good; one that was rotated costs the family."""
        server = self.server
        found: TokenRecord | None = server.store.find_refresh(refresh_token)
        if found is None or not found.check_client(self.request.client) or found.revoked:
            return None
        if found.rotated:
            server.store.revoke_family(found.family)
            server.log.append(
                "refresh-token-reused", family=found.family, refresh=fingerprint(refresh_token)
            )
            return None
        return found

    def authenticate_user(self, refresh_token: TokenRecord) -> User:
        """Whoever consented to the grant."""
        return User(refresh_token.subject)

    def revoke_old_credential(self, refresh_token: TokenRecord) -> None:
        """Done already: the old one was retired in the transaction that kept the new one."""


class _OwnTokens:
    """How the two token endpoints find a token."""

    CLIENT_AUTH_METHODS: Final = _SECRET_METHODS
    server: Server

    def query_token(self, token: str, _hint: str | None) -> TokenRecord | None:
        """Find it whatever the hint says, as RFC 7009 and 7662 ask."""
        return self.server.find(token)


class Revocation(_OwnTokens, rfc7009.RevocationEndpoint):
    """RFC 7009: a refresh token takes its family along, an access token only itself."""

    def revoke_token(self, token: TokenRecord, request: Request) -> None:
        """Withdraw it."""
        self.server.revoke(token, request.form["token"])


class Introspection(_OwnTokens, rfc7662.IntrospectionEndpoint):
    """RFC 7662, for clients that authenticate."""

    def check_permission(self, token: TokenRecord, client: Client, _request: Request) -> bool:
        """A client sees its own tokens; all others look unknown to it."""
        return token.check_client(client)

    def introspect_token(self, token: TokenRecord) -> dict[str, Any]:
        """The claims of a token that is active."""
        claims: dict[str, Any] = {
            "client_id": token.client_id,
            "username": token.subject,
            "sub": token.subject,
            "scope": token.scope,
            "iss": self.server.issuer,
            "iat": int(token.issued_at),
            "token_type": "Bearer" if token.kind == "access_token" else "refresh_token",
        }
        if token.expires_at is not None:
            claims["exp"] = int(token.expires_at)
        return claims


class Server(rfc6749.AuthorizationServer):
    """The authorization server: Authlib's rules over the lab's store, key and clock."""

    def __init__(
        self,
        *,
        issuer: str,
        client: Client,
        store: TokenStore,
        log: EffectLog,
        sign: Callable[[str, str, float], str],
        now: Callable[[], float],
        access_ttl_s: int,
    ) -> None:
        super().__init__(scopes_supported=client.scope.split())
        self.issuer, self.client, self.store, self.log = issuer, client, store, log
        self.now, self._access_ttl_s = now, access_ttl_s
        self.register_grant(CodeGrant, [S256Only(required=True)])
        self.register_grant(RefreshGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_token_generator(
            "default",
            rfc6750.BearerTokenGenerator(
                lambda client, grant_type, user, scope: sign(user.subject, scope, now()),
                lambda client, grant_type, user, scope: secrets.token_urlsafe(40),
                access_ttl_s,
            ),
        )

    def query_client(self, client_id: str) -> Client | None:
        """The lab has one client."""
        return self.client if client_id == self.client.client_id else None

    def find(self, token: str) -> TokenRecord | None:
        """An access or refresh token that was issued here."""
        return self.store.find_access(token, now=self.now()) or self.store.find_refresh(token)

    def revoke(self, token: TokenRecord, value: str) -> None:
        """Withdraw a token, and with a refresh token its whole family."""
        if token.kind == "refresh_token":
            self.store.revoke_family(token.family)
        else:
            self.store.revoke_access(value)
        self.log.append("revoked", family=token.family, kind=token.kind, token=fingerprint(value))

    def save_token(self, token: dict[str, Any], request: Request) -> None:
        """Keep what is about to be answered, in one transaction, and witness it."""
        old = request.form["refresh_token"] if request.refresh_token else None
        new = token.get("refresh_token")
        request.family = (
            request.refresh_token.family
            if request.refresh_token
            else self.store.add_family(
                client_id=request.client.client_id,
                subject=request.user.subject,
                scope=token["scope"],
            )
        )
        now = self.now()
        self.store.add_tokens(
            family=request.family,
            scope=token["scope"],
            now=now,
            access_token=token["access_token"],
            expires_at=now + self._access_ttl_s,
            refresh_token=new,
            retire=old if new else None,
        )
        self.log.append(
            "refreshed" if old else "granted",
            family=request.family,
            subject=request.user.subject,
            access=fingerprint(token["access_token"]),
            refresh=fingerprint(new) if new else None,
            replaces=fingerprint(old) if old and new else None,
        )

    def create_oauth2_request(self, request: Request) -> Request:
        """Requests come in Authlib's form already."""
        return request

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Answer:
        """Authlib's answer as plain data."""
        return Answer(
            status=status, body=body if isinstance(body, dict) else {}, headers=dict(headers)
        )

    def handle_error_response(self, request: Request, error: Any) -> Answer:
        """Answer with the status that the RFCs prefer where Authlib has another."""
        if isinstance(error, rfc6749.InvalidClientError):
            error.status_code = 401
        elif isinstance(error, rfc6749.UnsupportedTokenTypeError):
            error.status_code = 400
        answer: Answer = super().handle_error_response(request, error)
        return answer
