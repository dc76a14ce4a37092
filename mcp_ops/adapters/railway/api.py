"""Sending the fixed operations to Railway, and its errors in our words.

Railway answers nearly everything with 200, failures in `errors`, and says `INTERNAL_SERVER_ERROR`
of a wrong credential and of a missing object alike: the message has to be read. An error of a
change that is not plainly a refusal may have run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from mcp_ops.adapters.railway.operations import Mutation, Query
from mcp_ops.adapters.railway.state import mapping, text
from mcp_ops.errors import (
    BadAnswer,
    Forbidden,
    Internal,
    NotFound,
    Rejected,
    Unauthenticated,
    Upstream,
    UpstreamBroken,
    UpstreamRateLimited,
)
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer, HttpClient, retry_after

SYSTEM: Final = "Railway"
MAX_BYTES: Final = 16 * 1024 * 1024
_OPERATION: Final = re.compile(r"\s*(?:query|mutation) (\w+)")
_REFUSALS: Final = frozenset(
    {"BAD_USER_INPUT", "BAD_REQUEST", "GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED"}
)
_ACCESS: Final = "Railway also says this of objects that are gone: list_deployments shows them."
# What a message says, most specific first.
_SAYINGS: Final[tuple[tuple[str, type[Upstream], str, str], ...]] = (
    ("project token not found", Unauthenticated, "Railway does not know the token.", ""),
    ("invalid token", Unauthenticated, "Railway does not know the token.", ""),
    ("not authorized", Forbidden, "Railway does not allow this with the token.", _ACCESS),
    ("two factor", Forbidden, "The workspace demands a second factor.", "Use a project token."),
    ("rate limit", UpstreamRateLimited, "Railway asks to slow down.", ""),
    ("ratelimit", UpstreamRateLimited, "Railway asks to slow down.", ""),
    ("not found", NotFound, "Railway has no such object (any more).", ""),
)


class Api:
    """One account of one token. Nothing but members of `Query` and `Mutation` is sent."""

    def __init__(self, http: HttpClient, url: str, token: SecretStr) -> None:
        self._http = http
        self._url = url
        self._token = token
        self.of_project = True

    async def ask(
        self,
        query: Query,
        variables: Mapping[str, Any] | None = None,
        *,
        of_project: bool | None = None,
    ) -> Any:
        """Ask; the data of the answer. `of_project`: as which kind of token, where that is what
        is to be found out."""
        if not isinstance(query, Query):
            raise Internal("Only the fixed queries can be asked.")
        kind = self.of_project if of_project is None else of_project
        return self._data(await self._send(query, variables or {}, of_project=kind), changes=False)

    async def change(self, mutation: Mutation, variables: Mapping[str, Any]) -> Any:
        """Change something, once; the data of the answer.

        Raises `Answered` errors only where Railway said that it did nothing.
        """
        if not isinstance(mutation, Mutation):
            raise Internal("Only the fixed changes can be made.")
        answer = await self._send(mutation, variables, of_project=self.of_project)
        return self._data(answer, changes=True)

    async def _send(
        self, operation: Query | Mutation, variables: Mapping[str, Any], *, of_project: bool
    ) -> Answer:
        token = self._token.get_secret_value()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise Unauthenticated("The token is empty or holds characters that no token has.")
        name = _OPERATION.match(operation.value)
        assert name is not None  # noqa: S101 - a test reads every document
        body = {
            "query": operation.value,
            "operationName": name[1],
            "variables": {key: value for key, value in variables.items() if value is not None},
        }
        # Never both: which of them Railway would go by is not documented.
        return await self._http.send(
            "POST",
            self._url,
            bearer=None if of_project else self._token,
            headers={"project-access-token": token} if of_project else {},
            body=body,
        )

    def _data(self, answer: Answer, *, changes: bool) -> Any:
        body = _object(answer)
        errors = body.get("errors")
        if answer.status == 429:
            raise self._http.error(answer, said=_said(errors))
        if isinstance(errors, list) and errors:
            raise self._error(errors[0], answer, changes=changes)
        if not answer.ok:
            error = self._http.error(answer, said=_said(errors))
            if changes and (answer.status >= 500 or answer.status == 408):
                # Whatever stands before Railway may say this of a change that was made.
                error.executed = "unknown"
            raise error
        data = body.get("data")
        if not isinstance(data, dict):
            raise BadAnswer("Railway's answer has neither data nor errors.")
        return data

    def _error(self, error: Any, answer: Answer, *, changes: bool) -> Upstream:
        message = text(error, "message")
        code = text(mapping(error, "extensions"), "code")
        said = tame(self._http.redactor.text(message[:2_000]), 300)
        lower = message.lower()
        if changes and "limit" in lower and "deploy" in lower:
            # "Service deployment rate limit exceeded": the setting before it may be saved.
            return UpstreamBroken("Railway did not deploy what it may have saved.", said=said)
        for part, kind, ours, hint in _SAYINGS:
            if part in lower:
                wait = None
                if kind is UpstreamRateLimited:
                    now = self._http.clock.now()
                    wait = retry_after(answer.headers.get("retry-after"), now=now)
                return kind(ours, said=said, hint=hint, retry_after_s=wait)
        if code in _REFUSALS:
            return Rejected("Railway refused the request.", said=said)
        return UpstreamBroken("Railway failed while it worked on the request.", said=said)


def _object(answer: Answer) -> dict[str, Any]:
    """The body; of an answer without success it may be anything."""
    try:
        return answer.json_object()
    except BadAnswer:
        if answer.ok:
            raise
        return {}


def _said(errors: Any) -> str:
    return text(errors[0], "message") if isinstance(errors, list) and errors else ""
