"""An HTTP service that executes the operations of a dead-letter queue again, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.deadletters import Operation, OperationAnswer
from mcp_ops.errors import BadAnswer
from mcp_ops.redact import tame
from mcp_ops.wire.http import HttpClient, check_url, checked_parts, open_client


def _plain_url(url: str) -> str:
    checked_parts(url)
    return url.rstrip("/")


Path = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=300)]


class HttpEndpointAdapter(Adapter):
    """`POST {url}{execute_path}` with `tool_name` and `arguments`; it answers `success`."""

    kind: ClassVar[str] = "http"
    title: ClassVar[str] = "HTTP service"

    class Settings(AdapterSettings):
        """Where it is, and which operations may be sent there."""

        url: Annotated[str, AfterValidator(_plain_url)]
        execute_path: Path = "/tools/execute"
        health_path: Path = "/health"
        allow_operations: tuple[str, ...] = Field(
            (), description="Globs over operation names; what none matches is never sent."
        )
        token: SecretStr | None = Field(None, description="Bearer token; needs https.")
        headers: dict[str, SecretStr] = Field({}, description="Further headers; need https.")

        @model_validator(mode="after")
        def _secrets_need_tls(self) -> Self:
            if self.token or self.headers:
                check_url(self.url)
            return self

    def __init__(self, settings: Settings, http: HttpClient) -> None:
        self._settings = settings
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, wiring: Wiring) -> AsyncIterator[HttpEndpointAdapter]:
        """Open the client."""
        secrets = [*settings.headers.values(), *([settings.token] if settings.token else [])]
        wiring.redactor.add(*(secret.get_secret_value() for secret in secrets))
        async with open_client(
            system="the HTTP service", clock=wiring.clock, redactor=wiring.redactor
        ) as http:
            yield cls(settings, http)

    async def ping(self) -> None:
        """Ask the health path; any answer but a failure of the service will do."""
        answer = await self._http.send(
            "GET",
            self._settings.url + self._settings.health_path,
            bearer=self._settings.token,
            headers=self._headers(),
        )
        if answer.status >= 500:
            raise self._http.error(answer)

    def allows(self, operation: str) -> bool:
        """Whether a glob of the allow-list matches; an empty list allows nothing."""
        return any(fnmatchcase(operation, glob) for glob in self._settings.allow_operations)

    async def execute(self, operation: Operation) -> OperationAnswer:
        """Execute once; raises `Failed` with `executed="unknown"` when the answer was lost.

        The `Idempotency-Key` is the item's id and attempt: a service that honours it does not
        execute one attempt twice.
        """
        key = f"{operation.id}-{operation.attempts}"
        answer = await self._http.send(
            "POST",
            self._settings.url + self._settings.execute_path,
            bearer=self._settings.token,
            headers={**self._headers(), "idempotency-key": _header_safe(key)},
            body={"tool_name": operation.operation, "arguments": operation.arguments},
        )
        if not answer.ok:
            raise self._http.error(answer, said=answer.body[:300].decode("utf-8", "replace"))
        body = answer.json_object()
        if not isinstance(body.get("success"), bool):
            raise BadAnswer("The HTTP service did not say whether the operation succeeded.")
        error = body.get("error")
        said = error if isinstance(error, str) else ""
        return OperationAnswer(
            success=body["success"], error=tame(self._http.redactor.text(said[:2_000]), 300)
        )

    def _headers(self) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in self._settings.headers.items()}


def _header_safe(text: str) -> str:
    """An item's id comes from a queue: keep what a header can carry."""
    return "".join(c if c.isascii() and c.isprintable() else "_" for c in text)[:255]
