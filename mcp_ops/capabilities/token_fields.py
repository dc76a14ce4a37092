"""How a target's tokens stand in its secret store: a contract of tools and adapters.

The stored tokens win over those of the configuration, because a refresh may have rotated them;
until an operator configures another refresh token: then the configuration wins again. For that,
the fingerprint of the configured token is stored with the tokens (`seed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from mcp_ops.capabilities.tokens import TokenSet
from mcp_ops.redact import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A refresh that was sent and whose answer has not been stored (yet)."""

    at: float
    fingerprint: str


def print_of(secret: SecretStr | None) -> str:
    """The fingerprint of a token; empty for none."""
    value = secret.get_secret_value() if secret else ""
    return fingerprint(value) if value else ""


def seed_of(configured: TokenSet | None) -> str:
    """What identifies the configured tokens: their refresh token, or else the access token."""
    if configured is None:
        return ""
    return print_of(configured.refresh_token) or print_of(configured.access_token)


def to_fields(tokens: TokenSet, *, seed: str) -> dict[str, str]:
    """The fields under which tokens are stored; a marker of a pending refresh is not among them."""
    fields = {
        "access_token": tokens.access_token.get_secret_value(),
        "refresh_token": tokens.refresh_token.get_secret_value() if tokens.refresh_token else "",
        "expires_at": "" if tokens.expires_at is None else repr(tokens.expires_at),
        "issued_at": "" if tokens.issued_at is None else repr(tokens.issued_at),
        "scopes": " ".join(tokens.scopes),
        "instance_url": tokens.instance_url,
        "seed": seed,
    }
    return {name: value for name, value in fields.items() if value}


def with_pending(fields: Mapping[str, str] | None, pending: Pending) -> dict[str, str]:
    """The same fields with the marker that a refresh is about to be sent."""
    marker = {"pending_at": repr(pending.at), "pending_fingerprint": pending.fingerprint}
    return {**(fields or {}), **marker}


def pending_of(fields: Mapping[str, str] | None) -> Pending | None:
    """The marker of a refresh without a stored answer."""
    at = _number((fields or {}).get("pending_at", ""))
    if fields is None or at is None:
        return None
    return Pending(at=at, fingerprint=fields.get("pending_fingerprint", ""))


def current_tokens(
    configured: TokenSet | None, fields: Mapping[str, str] | None
) -> TokenSet | None:
    """The tokens in force: the stored ones, or the configured where those are news."""
    stored = _stored(fields)
    if stored is None or fields is None:
        return configured
    seed = seed_of(configured)
    return stored if not seed or seed == fields.get("seed") else configured


def _stored(fields: Mapping[str, str] | None) -> TokenSet | None:
    if not fields or not fields.get("access_token"):
        return None
    refresh = fields.get("refresh_token")
    return TokenSet(
        access_token=SecretStr(fields["access_token"]),
        refresh_token=SecretStr(refresh) if refresh else None,
        expires_at=_number(fields.get("expires_at", "")),
        scopes=tuple(fields.get("scopes", "").split()),
        issued_at=_number(fields.get("issued_at", "")),
        instance_url=fields.get("instance_url", ""),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
