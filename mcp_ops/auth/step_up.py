"""Calls for which a user would have to give a further scope: the client is told which.

Only for tokens of users: they can be asked. Everybody else gets the guard's refusal as a result,
which a model can read. The guard decides all the same; this only finds the words of OAuth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from mcp_ops.auth.principal import Denied, HttpPrincipal

Refused = Callable[[HttpPrincipal, str, str], None]


class StepUp:
    """`scopes` are those that tools need, by name; `refused` hears of each call that is sent back
    for one, with the tool and the scope."""

    def __init__(self, scopes: Mapping[str, str], refused: Refused) -> None:
        self._scopes = scopes
        self._all = frozenset(scopes.values())
        self._refused = refused

    def __call__(self, principal: HttpPrincipal, body: bytes) -> Denied | None:
        """The refusal of a call that lacks a scope which could be given; None for all others."""
        have = frozenset(principal.scopes)
        if self._all <= have or b'"tools/call"' not in body:
            return None
        tool, needed = self._needed(body)
        if not needed or needed in have:
            return None
        if principal.reach and not any(needed in each.scopes for each in principal.reach):
            return None  # no token could have it here
        self._refused(principal, tool, needed)
        return Denied(
            message=f"The token lacks the scope {needed}, which this call needs.",
            error="insufficient_scope",
            status=403,
            code="insufficient_scope",
            scope=" ".join(sorted({*have, needed})),
        )

    def _needed(self, body: bytes) -> tuple[str, str]:
        try:
            message = orjson.loads(body)
            if message["method"] != "tools/call":
                return "", ""
            params = message["params"]
            tool, arguments = params["name"], params.get("arguments") or {}
            plans = arguments.get("dry_run") is True
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return "", ""  # whoever reads it next says what is wrong with it
        if not isinstance(tool, str):
            return "", ""
        needed = self._scopes.get(tool, "")
        return tool, "ops:read" if plans and needed else needed
