"""TokenIssuer and SecretStore: OAuth tokens of a target, and where they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from mcp_ops.capabilities.base import (
    Capability,
    Model,
    Moment,
    Result,
    UntrustedLine,
    WriteResult,
    writes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSet:
    """Tokens of one grant, in memory only. Times are Unix seconds; unknown ones are None."""

    access_token: SecretStr
    refresh_token: SecretStr | None = None
    expires_at: float | None = None
    scopes: tuple[str, ...] = ()
    issued_at: float | None = None
    instance_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What an issuer says of a token: never the token itself."""

    valid: bool
    problem: str = ""
    advice: str = ""
    expires_at: float | None = None
    scopes: tuple[str, ...] = ()
    subject: str = ""
    organisation: str = ""
    issuer: str = ""
    clock_skew_s: float | None = None
    key_known: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """A URL for a person's browser, and the verifier (PKCE S256) that must stay here."""

    url: str
    verifier: SecretStr


class OAuthTokenStatus(Result):
    """Answer of check_oauth_token. `fingerprint` identifies the token without giving it away."""

    valid: bool
    fingerprint: str
    expires_at: Moment | None = None
    expires_in_s: int | None = None
    scopes: list[str] = []
    subject: UntrustedLine | None = None
    issuer: UntrustedLine | None = None
    clock_skew_s: float | None = None
    key_known: bool | None = None
    refresh_token: bool = False
    problem: UntrustedLine | None = None
    what_to_do: str | None = None


class OAuthRefresh(WriteResult):
    """Answer of refresh_oauth_token and complete_oauth_authorization."""

    fingerprint: str | None = None
    previous_fingerprint: str | None = None
    expires_at: Moment | None = None
    rotated: bool | None = None
    shared: bool | None = None
    stored_in: str | None = None


class OAuthAuthorization(WriteResult):
    """Answer of begin_oauth_authorization: a person opens `url` and brings back the code."""

    url: str | None = None
    state: str | None = None
    expires_at: Moment | None = None


class SecretInfo(Model):
    """A stored secret, without its value."""

    name: str
    version: int
    updated_at: Moment


class TokenIssuer(Capability, Protocol):
    """Who issues and refreshes the tokens of a target."""

    @property
    def secret_name(self) -> str:
        """Under which name the target's tokens are kept in its secret store."""
        ...

    def configured_tokens(self) -> TokenSet | None:
        """The tokens that the configuration gave, or None."""
        ...

    async def inspect(self, tokens: TokenSet) -> TokenFacts:
        """What the issuer says of the access token, by a real call with it."""
        ...

    @writes
    async def refresh(self, refresh_token: SecretStr) -> TokenSet:
        """Exchange a refresh token once.

        Raises `ReauthorizationRequired` for a dead refresh token, `Failed` with
        `executed="unknown"` when the answer was lost after the request was sent.
        """
        ...

    @writes
    async def authorization_url(self, state: str) -> AuthorizationRequest:
        """Build the URL with which a person authorizes (PKCE S256)."""
        ...

    @writes
    async def exchange_code(self, code: SecretStr, verifier: SecretStr) -> TokenSet:
        """Exchange the authorization code of a finished flow."""
        ...

    def expected_identity(self) -> tuple[str, str]:
        """The subject and organisation that the configuration demands; empty where it does not."""
        ...


class SecretStore(Capability, Protocol):
    """Where tokens and other secrets are kept."""

    @property
    def lasting(self) -> bool:
        """Whether what is stored survives a restart."""
        ...

    async def read(self, name: str) -> Mapping[str, str] | None:
        """The fields of a secret, or None; raises `BadAnswer` for a damaged one."""
        ...

    @writes
    async def write(self, name: str, fields: Mapping[str, str]) -> SecretInfo:
        """Replace a secret atomically: a reader sees the old or the new one, never half."""
        ...

    @writes
    def lock(self, name: str, wait_s: float) -> AbstractAsyncContextManager[None]:
        """Hold the secret exclusively over all processes; raises `Conflict` after `wait_s`."""
        ...
