"""What a client is told of how to get in: RFC 9728 metadata and the challenges of RFC 6750."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.auth.principal import Denied
from mcp_ops.settings import ServerSettings
from mcp_ops.settings_types import AGENT_SCOPES

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
"""Where the metadata of the server is; behind it, the path of the resource that it is about."""

FIRST_SCOPE: Final = "ops:read"
"""What a client is told to ask for at first; a write tells what it needs."""


class Challenges:
    """The words of one server. Without issuers a key is asked for, and there is no metadata."""

    def __init__(self, settings: ServerSettings) -> None:
        self._base = settings.url.rstrip("/")
        self._issuers = settings.issuers

    @property
    def oauth(self) -> bool:
        """Whether there is an authorization server to send clients to."""
        return bool(self._issuers)

    def metadata(self, path: str) -> dict[str, Any]:
        """The metadata of the resource at a path of this server; empty for the whole server."""
        scopes = {f"{issuer.scope_prefix}{s}" for issuer in self._issuers for s in AGENT_SCOPES}
        return {
            "resource": f"{self._base}{path}",
            "authorization_servers": [issuer.iss for issuer in self._issuers],
            "scopes_supported": sorted(scopes),
            "bearer_methods_supported": ["header"],
            "resource_name": "mcp-ops",
        }

    def header(self, denied: Denied, path: str) -> bytes:
        """The value of WWW-Authenticate for a request to a path."""
        parts = ['realm="mcp-ops"']
        if self.oauth:
            if denied.error:
                parts.append(f'error="{denied.error}"')
                parts.append(f'error_description="{_quotable(denied.message)}"')
            # Each issuer's clients write scopes in their way: the first issuer's counts.
            prefix = self._issuers[0].scope_prefix
            scopes = (denied.scope or FIRST_SCOPE).split()
            parts.append(f'scope="{" ".join(prefix + scope for scope in scopes)}"')
            about = path if path in ("/mcp", "/sse") else ""
            parts.append(f'resource_metadata="{self._base}{WELL_KNOWN}{about}"')
        return f"Bearer {', '.join(parts)}".encode("latin-1", "replace")


def _quotable(text: str) -> str:
    """Text as it may stand in an error description (RFC 6750, section 3)."""
    kept = (c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
    return "".join(kept)
