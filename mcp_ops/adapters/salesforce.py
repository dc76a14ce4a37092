"""A Salesforce org: its API limits, and the OAuth tokens with which it is used.

The vendor's facts are in docs/targets/salesforce.md.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

from opentelemetry import metrics
from pydantic import Field, SecretStr

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.token_fields import current_tokens
from mcp_ops.capabilities.tokens import AuthorizationRequest, TokenFacts, TokenSet
from mcp_ops.capabilities.usage import UsageLimit, UsageReading, level_of
from mcp_ops.errors import (
    BadAnswer,
    Forbidden,
    OpsError,
    QuotaExhausted,
    Unauthenticated,
    Upstream,
    UpstreamRateLimited,
)
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer, HttpClient, SecureUrl, checked_parts, open_client
from mcp_ops.wire.oauth import (
    OAuthClient,
    authorization_request,
    code_grant,
    moment,
    oauth_error,
    refresh_grant,
    skew_problem,
)

DRIVES: Final = "DailyApiRequests"
_SYSTEM: Final = "Salesforce"
# Not `per-app-api-usage`, which may stand in the same header.
_LIMIT_INFO: Final = re.compile(r"(?:^|[;,\s])api-usage=(\d{1,12})/(\d{1,12})(?!\d)")
_IDENTITY: Final = re.compile(r"/id/([A-Za-z0-9]{15,18})/([A-Za-z0-9]{15,18})$")
_WINDOWS: Final = (("Daily", "24 h"), ("Hourly", "1 h"), ("Monthly", "1 month"))
_MAX_LIMITS: Final = 200
_MAX_COUNT: Final = 10**15
_REFRESH: Final = "Call refresh_oauth_token for this target."
# Named as the operators' queries have it: what counts towards the org's daily limit.
_api_calls = metrics.get_meter("mcp_ops.adapters").create_counter(
    "salesforce.api_calls", unit="{call}", description="API requests to Salesforce orgs."
)


class SalesforceAdapter(Adapter):
    """One org, as one user of one connected app."""

    kind: ClassVar[str] = "salesforce"
    title: ClassVar[str] = "Salesforce"
    metered: ClassVar[bool] = True

    class Settings(AdapterSettings):
        """The org and the connected app; what is missing is only missed when it is needed."""

        instance_url: SecureUrl = Field(description="My Domain URL of the org.")
        access_token: SecretStr | None = None
        client_id: str = Field("", max_length=500, description="Consumer key of the app.")
        client_secret: SecretStr | None = None
        refresh_token: SecretStr | None = None
        login_url: SecureUrl = Field(
            "https://login.salesforce.com", description="https://test.salesforce.com: sandboxes."
        )
        api_version: str = Field("62.0", pattern=r"^\d{2,3}\.\d$")
        redirect_uri: str = Field("", max_length=500, description="As registered with the app.")
        scopes: tuple[str, ...] = ("api", "refresh_token")
        expected_subject: str = Field("", description="Username that must have authorized.")
        expected_organisation: str = Field("", description="Organization ID that must match.")

    def __init__(self, settings: Settings, wiring: Wiring, http: HttpClient) -> None:
        self._settings = settings
        self._wiring = wiring
        self._http = http
        self._client = OAuthClient(
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            method="client_secret_post",
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, wiring: Wiring) -> AsyncIterator[SalesforceAdapter]:
        """Open the client."""
        secrets = (settings.access_token, settings.client_secret, settings.refresh_token)
        wiring.redactor.add(*(secret.get_secret_value() for secret in secrets if secret))
        async with open_client(
            system=_SYSTEM, clock=wiring.clock, redactor=wiring.redactor
        ) as http:
            yield cls(settings, wiring, http)

    async def ping(self) -> None:
        """Ask for the API versions: needs no token and does not count towards the limit."""
        answer = await self._http.send("GET", f"{self._settings.instance_url}/services/data/")
        if not answer.ok:
            raise self._error(answer)
        answer.json()

    # Usage

    async def usage(self) -> UsageReading:
        """Every limit of the org; costs one API request. Figures are up to five minutes old."""
        answer = await self._get("limits", await self._bearer())
        body = answer.json(constants="null")
        if not isinstance(body, dict):
            raise BadAnswer("Salesforce's limits are not the object that they should be.")
        limits: list[UsageLimit] = []
        skipped: list[str] = []
        for name, value in list(body.items())[:_MAX_LIMITS]:
            limit = _limit(tame(name, 80), value)
            if limit is None:
                skipped.append(tame(name, 80))
            else:
                limits.append(limit)
        return UsageReading(limits=limits, drives=DRIVES, skipped=skipped)

    # Tokens

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
        """The username and organization that the configuration demands."""
        return self._settings.expected_subject, self._settings.expected_organisation[:15]

    async def inspect(self, tokens: TokenSet) -> TokenFacts:
        """Use the token once (the limits, one API request) and introspect it.

        The API decides whether it is valid: introspection also says "inactive" of a good token
        whose scopes are none of its business.
        """
        self._wiring.redactor.add(tokens.access_token.get_secret_value())
        try:
            answer = await self._get("limits", tokens.access_token)
        except Unauthenticated as exc:
            problem = "Salesforce does not accept the access token (expired, revoked or wrong)."
            return TokenFacts(valid=False, problem=f"{problem} {exc.said}", advice=_REFRESH)
        except QuotaExhausted:
            # The quota is looked at after the token, so the token is good.
            return TokenFacts(valid=True, **await self._identity(tokens.access_token))
        skew = None
        if (date := answer.date()) is not None:
            skew = round(date - self._wiring.clock.now())
        problem, advice = skew_problem(skew, _SYSTEM)
        return TokenFacts(
            valid=True,
            problem=problem,
            advice=advice,
            clock_skew_s=skew,
            **await self._identity(tokens.access_token),
        )

    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        """Exchange a refresh token once; whether it is rotated is a setting of the app."""
        return await refresh_grant(
            self._http, self._token_url, self._client, refresh_token, target=self._wiring.target
        )

    async def authorization_url(self, state: str) -> AuthorizationRequest:
        """The org's page on which a person consents (PKCE S256)."""
        return authorization_request(
            f"{self._settings.login_url}/services/oauth2/authorize",
            client_id=self._settings.client_id,
            redirect_uri=self._settings.redirect_uri,
            scopes=self._settings.scopes,
            state=state,
        )

    async def exchange_code(self, code: SecretStr, verifier: SecretStr) -> TokenSet:
        """Exchange a code; raises `Forbidden` for tokens of another org than the configured."""
        tokens = await code_grant(
            self._http,
            self._token_url,
            self._client,
            code=code,
            verifier=verifier,
            redirect_uri=self._settings.redirect_uri,
        )
        if tokens.instance_url and not self._is_ours(tokens.instance_url):
            raise Forbidden(
                "The person authorized another Salesforce org than the configured one; the tokens"
                " were dropped.",
                hint="Log out there, begin again, and log in to the org of instance_url.",
            )
        return tokens

    @property
    def _token_url(self) -> str:
        return f"{self._settings.login_url}/services/oauth2/token"

    def _is_ours(self, instance_url: str) -> bool:
        try:
            granted = checked_parts(instance_url)
        except ValueError:
            return False
        ours = checked_parts(self._settings.instance_url)
        return bool(granted.hostname == ours.hostname)

    async def _identity(self, token: SecretStr) -> dict[str, Any]:
        """Expiry, scopes, user and org of a token, where introspection is to be had."""
        if not self._settings.client_id or self._settings.client_secret is None:
            return {}
        form = {"token": token.get_secret_value(), "token_type_hint": "access_token"}
        headers = self._client.authenticate(form)
        url = f"{self._settings.instance_url}/services/oauth2/introspect"
        try:
            answer = await self._http.send("POST", url, headers=headers, form=form)
            if not answer.ok:
                raise oauth_error(self._http, answer)
            body = answer.json_object()
        except Upstream:
            return {}
        return _facts(body) if body.get("active") is True else {}

    async def _bearer(self) -> SecretStr:
        """The access token in force, read anew each time: another process may have refreshed."""
        fields: Mapping[str, str] | None = None
        if self._wiring.secrets is not None:
            try:
                fields = await self._wiring.secrets.read(self.secret_name)
            except OpsError:
                # The store is another target with its own health: check_oauth_token shows it.
                fields = None
        tokens = current_tokens(self.configured_tokens(), fields)
        if tokens is None or not tokens.access_token.get_secret_value():
            raise Unauthenticated("There is no access token for Salesforce yet.", hint=_REFRESH)
        self._wiring.redactor.add(tokens.access_token.get_secret_value())
        return tokens.access_token

    async def _get(self, resource: str, token: SecretStr) -> Answer:
        settings = self._settings
        url = f"{settings.instance_url}/services/data/v{settings.api_version}/{resource}"
        _api_calls.add(1, {"target": self._wiring.target})
        answer = await self._http.send("GET", url, bearer=token)
        self._note_usage(answer)
        if not answer.ok:
            raise self._error(answer)
        return answer

    def _note_usage(self, answer: Answer) -> None:
        """Tell the guard what the header of an answer says of the daily limit."""
        found = _LIMIT_INFO.search(answer.headers.get("sforce-limit-info", "")[:1_000])
        if found and int(found[2]) > 0:
            self._wiring.report_usage(DRIVES, 100.0 * int(found[1]) / int(found[2]))

    def _error(self, answer: Answer) -> Upstream:
        code, message = _first_error(answer)
        said = tame(self._http.redactor.text(f"{code}: {message}" if code else message), 300)
        if code == "REQUEST_LIMIT_EXCEEDED":
            if message.startswith("Concurrent"):
                text = "Too many requests are running in this Salesforce org at the same time."
                return UpstreamRateLimited(text, said=said, retry_after_s=20.0)
            self._wiring.report_usage(DRIVES, 100.0)
            return QuotaExhausted(
                "The Salesforce org has used up its API requests of the last 24 hours.",
                said=said,
                hint="Find what spends them (list_hot_tools) and pause it; usage falls by itself.",
            )
        if code == "INVALID_SESSION_ID":
            text = "Salesforce does not accept the access token: it is expired or revoked."
            return Unauthenticated(text, said=said, hint=_REFRESH)
        hint = _REFRESH if answer.status == 401 else ""
        return self._http.error(answer, said=said, hint=hint)


def _first_error(answer: Answer) -> tuple[str, str]:
    """Code and message of an error answer: a list of objects, or whatever stands there."""
    try:
        body = answer.json()
    except BadAnswer:
        return "", ""
    first = body[0] if isinstance(body, list) and body else body
    if not isinstance(first, dict):
        return "", ""
    code, message = first.get("errorCode"), first.get("message")
    return (
        code[:80] if isinstance(code, str) else "",
        message[:1_000] if isinstance(message, str) else "",
    )


def _limit(name: str, value: Any) -> UsageLimit | None:
    """One limit, or None for figures that make no sense. Objects nested in it are other limits.

    Remaining may be negative: Salesforce lets paid orgs pass their allocation for a while.
    """
    most, remaining = _count(value, "Max"), _count(value, "Remaining")
    if most is None or remaining is None or most < 0 or remaining > most:
        return None
    used = most - remaining
    percent = round(100.0 * used / most, 2) if most else (100.0 if used else 0.0)
    return UsageLimit(
        name=name,
        used=used,
        max=most,
        remaining=remaining,
        used_percent=percent,
        level=level_of(percent),
        window="24 h rolling" if name == DRIVES else _window(name),
    )


def _count(value: Any, member: str) -> int | None:
    number = value.get(member) if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > _MAX_COUNT:
        return None
    return number


def _window(name: str) -> str | None:
    return next((window for prefix, window in _WINDOWS if name.startswith(prefix)), None)


def _facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """What introspection says, in the words of `TokenFacts`."""

    def text(name: str) -> str:
        value = body.get(name)
        return tame(value, 300) if isinstance(value, str) else ""

    identity = _IDENTITY.search(text("sub"))
    return {
        "expires_at": moment(body.get("exp")),
        "scopes": tuple(text("scope").split()),
        "subject": text("username") or (identity[2] if identity else ""),
        "organisation": identity[1][:15] if identity else "",
        "issuer": text("iss"),
    }
