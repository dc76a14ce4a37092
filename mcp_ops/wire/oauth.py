"""What adapters share of OAuth 2: the token endpoint's two grants and the authorization URL.

RFC 6749 for the grants and their errors, RFC 7636 for PKCE. Token values are told to the redactor
before they are sent and as soon as they are received.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote_plus, urlencode

from opentelemetry import metrics
from pydantic import SecretStr

from mcp_ops.capabilities.tokens import AuthorizationRequest, TokenSet
from mcp_ops.errors import (
    BadAnswer,
    ConfigurationError,
    Forbidden,
    OpsError,
    ReauthorizationRequired,
    Rejected,
    Unauthenticated,
    Upstream,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer, HttpClient, retry_after

ClientAuth = Literal["client_secret_post", "client_secret_basic", "none"]
_MAX_TOKEN: Final = 16_384
_MAX_LIFETIME_S: Final = 10 * 365 * 86_400.0
_SKEW_S: Final = 60.0
_MAX_MOMENT: Final = 253_402_300_800.0  # the year 10000, where Python's dates end
# Named as the operators' alerts have it.
_refresh_failures = metrics.get_meter("mcp_ops.wire").create_counter(
    "oauth.refresh.failure", unit="{refresh}", description="Refreshes of tokens that failed."
)
_CHECK_CLIENT: Final = "Check client_id and client_secret in the target's settings."

# RFC 6749 §5.2 and §4.1.2.1, then words that Salesforce adds.
_ERRORS: Final[dict[str, tuple[type[Upstream], str, str]]] = {
    "invalid_grant": (
        ReauthorizationRequired,
        "{system} does not accept the refresh token or code: it is expired, revoked or used.",
        "A person must authorize again: call begin_oauth_authorization.",
    ),
    "invalid_client": (Unauthenticated, "{system} does not know this client.", _CHECK_CLIENT),
    "invalid_client_id": (Unauthenticated, "{system} does not know this client.", _CHECK_CLIENT),
    "invalid_client_credentials": (
        Unauthenticated,
        "{system} does not accept the client's secret.",
        _CHECK_CLIENT,
    ),
    "unauthorized_client": (
        Forbidden,
        "The client may not use this grant at {system}.",
        "Allow the refresh token and authorization code grants for the client at the issuer.",
    ),
    "access_denied": (Forbidden, "{system} denied access to this client or user.", ""),
    "inactive_user": (Forbidden, "The user behind the tokens is not active at {system}.", ""),
    "inactive_org": (Forbidden, "The organisation is not active at {system}.", ""),
    "invalid_scope": (
        Rejected,
        "{system} does not grant the requested scopes.",
        "Check scopes in the target's settings.",
    ),
    "redirect_uri_mismatch": (
        Rejected,
        "The redirect URI is not one that is registered at {system}.",
        "Check redirect_uri in the target's settings.",
    ),
    "temporarily_unavailable": (UpstreamUnavailable, "{system} is overloaded or in repair.", ""),
    "rate_limit_exceeded": (UpstreamRateLimited, "{system} asks to slow down.", ""),
    "slow_down": (UpstreamRateLimited, "{system} asks to slow down.", ""),
    "server_error": (UpstreamBroken, "{system} failed while it worked on the request.", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthClient:
    """Who we are at the authorization server. Empty `client_id` means that nobody configured it."""

    client_id: str
    client_secret: SecretStr | None
    method: ClientAuth

    def authenticate(self, form: dict[str, str]) -> dict[str, str]:
        """Put the credentials where the method wants them: into the form, or as headers."""
        if not self.client_id:
            raise ConfigurationError(
                "The target has no client_id, so no token can be issued for it.",
                hint="Set client_id and client_secret in the target's settings.",
            )
        secret = self.client_secret.get_secret_value() if self.client_secret else ""
        if self.method == "client_secret_basic" and secret:
            # RFC 6749 §2.3.1: both are form-encoded before they are joined.
            pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}".encode()
            return {"authorization": "Basic " + base64.b64encode(pair).decode("ascii")}
        form["client_id"] = self.client_id
        if secret and self.method != "none":
            form["client_secret"] = secret
        return {}


async def refresh_grant(
    http: HttpClient,
    token_url: str,
    client: OAuthClient,
    refresh_token: SecretStr,
    *,
    target: str = "",
) -> TokenSet:
    """Exchange a refresh token once; a failure is counted under the name of the target.

    Raises `ReauthorizationRequired` for a dead one, `Failed` with `executed="unknown"` when the
    answer was lost: then the token may be spent.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
    try:
        return await _grant(http, token_url, client, form)
    except OpsError as error:
        _refresh_failures.add(1, {"target": target, "code": error.code})
        raise


async def code_grant(
    http: HttpClient,
    token_url: str,
    client: OAuthClient,
    *,
    code: SecretStr,
    verifier: SecretStr,
    redirect_uri: str,
) -> TokenSet:
    """Exchange an authorization code once; raises like `refresh_grant`."""
    form = {
        "grant_type": "authorization_code",
        "code": code.get_secret_value(),
        "code_verifier": verifier.get_secret_value(),
        "redirect_uri": redirect_uri,
    }
    return await _grant(http, token_url, client, form)


async def _grant(
    http: HttpClient, token_url: str, client: OAuthClient, form: dict[str, str]
) -> TokenSet:
    http.redactor.add(*(form[k] for k in ("refresh_token", "code", "code_verifier") if k in form))
    headers = client.authenticate(form)
    answer = await http.send("POST", token_url, headers=headers, form=form)
    if not answer.ok:
        raise oauth_error(http, answer)
    body = answer.json_object()
    for name in ("access_token", "refresh_token", "id_token"):
        if isinstance(body.get(name), str):
            http.redactor.add(body[name])
    return read_tokens(body, now=http.clock.now())


def oauth_error(http: HttpClient, answer: Answer) -> Upstream:
    """The error that a token or introspection endpoint's refusal stands for."""
    code, said = _said(answer)
    known = _ERRORS.get(code)
    if known is None or (answer.status >= 500 and code != "temporarily_unavailable"):
        return http.error(answer, said=said)
    kind, message, hint = known
    waits = kind in (UpstreamUnavailable, UpstreamRateLimited)
    header = answer.headers.get("retry-after") if waits else None
    return kind(
        message.format(system=http.system),
        said=tame(http.redactor.text(said), 300),
        hint=hint,
        retry_after_s=retry_after(header, now=http.clock.now()),
    )


def _said(answer: Answer) -> tuple[str, str]:
    try:
        body = answer.json()
    except BadAnswer:
        return "", ""
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return "", ""
    description = body.get("error_description")
    said = body["error"] + (f": {description}" if isinstance(description, str) else "")
    return body["error"], said[:2_000]


def read_tokens(body: Mapping[str, Any], *, now: float) -> TokenSet:
    """The tokens of a token endpoint's answer; raises `BadAnswer`.

    Strict about the tokens. A lifetime that makes no sense counts as unknown: to drop the answer
    for it would lose a refresh token that was just rotated.
    """
    kind = body.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise BadAnswer("The token endpoint's answer is not a bearer token.")
    refresh = body.get("refresh_token")
    lifetime = _lifetime(body.get("expires_in"))
    scope, instance = body.get("scope"), body.get("instance_url")
    return TokenSet(
        access_token=_token(body.get("access_token")),
        refresh_token=None if refresh in (None, "") else _token(refresh),
        expires_at=None if lifetime is None else now + lifetime,
        scopes=tuple(scope.split()[:100]) if isinstance(scope, str) else (),
        issued_at=now,
        instance_url=instance[:300] if isinstance(instance, str) else "",
    )


def _token(value: Any) -> SecretStr:
    fine = isinstance(value, str) and 0 < len(value) <= _MAX_TOKEN
    if not fine or not value.isascii() or not value.isprintable() or " " in value:
        raise BadAnswer("The token endpoint's answer holds no usable token.")
    return SecretStr(value)


def _lifetime(value: Any) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)  # some servers send a string
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= _MAX_LIFETIME_S else None


def moment(value: Any) -> float | None:
    """A numeric date of a claim (Unix seconds), or None for what makes no sense."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _MAX_MOMENT else None


def skew_problem(skew_s: float | None, system: str) -> tuple[str, str]:
    """What to say, and to advise, of a clock that differs by more than a minute; else nothing."""
    if skew_s is None or abs(skew_s) <= _SKEW_S:
        return "", ""
    side = "behind" if skew_s > 0 else "ahead of"
    problem = f"The clock here is {abs(skew_s):.0f} s {side} that of {system}."
    return problem, "Set the clock of this machine by NTP: expiries are misjudged until then."


def authorization_request(
    authorize_url: str,
    *,
    client_id: str,
    redirect_uri: str,
    scopes: tuple[str, ...],
    state: str,
) -> AuthorizationRequest:
    """The URL with which a person authorizes, and its PKCE verifier (S256)."""
    if not client_id or not redirect_uri:
        raise ConfigurationError(
            "The target has no client_id or no redirect_uri, so nobody can authorize it.",
            hint="Set client_id and redirect_uri (as registered at the issuer) for the target.",
        )
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii"),
        "code_challenge_method": "S256",
    }
    if scopes:
        query["scope"] = " ".join(scopes)
    return AuthorizationRequest(
        url=f"{authorize_url}?{urlencode(query)}", verifier=SecretStr(verifier)
    )
