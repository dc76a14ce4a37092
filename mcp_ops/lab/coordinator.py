"""The HTTP door of the "OCI coordinator" of the runbooks: it executes tools by name."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.lab.oauth.wire import Wire, cut_answer
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

SUPPORTED: Final = ("refuse", "lost-response", "throttled", "unavailable")
_SERVERS: Final = [
    {"id": "oci-unified", "status": "connected", "tool_count": 30},
    {"id": "database-observatory", "status": "connected", "tool_count": 32},
]


class _Coordinator:
    """The endpoints, over the faults in force."""

    def __init__(self, *, log: EffectLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._started = clock()
        self._faults = Faults()

    def inject(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.add(name)

    def mend(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.discard(name)

    def refusal(self) -> Response | None:
        """What stands before every endpoint."""
        for name, status, wait in (("unavailable", 503, "5"), ("throttled", 429, "30")):
            if name in self._faults:
                return JSONResponse({"detail": name}, status, headers={"Retry-After": wait})
        return None

    async def health(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "status": "healthy",
                "components": {
                    "mcp_servers": "healthy",
                    "redis": "healthy",
                    "llm": "healthy",
                    "slack": "connected",
                },
                "uptime_seconds": int(self._clock() - self._started),
            }
        )

    async def servers(self, _request: Request) -> Response:
        return JSONResponse({"servers": _SERVERS})

    async def execute(self, request: Request) -> Response:
        """Run a tool. It runs as often as it is asked to: the key is witnessed, not honoured."""
        call = _call(await request.body())
        if call is None:
            detail = [{"type": "missing", "loc": ["body", "tool_name"], "msg": "Field required"}]
            return JSONResponse({"detail": detail}, 422)
        name, arguments = call
        if "refuse" in self._faults:
            error = "Server temporarily unavailable"
            return _tool_answer(success=False, error=error)
        operation = request.headers.get("idempotency-key") or arguments.get("operation_id")
        self._log.append("tool-executed", tool=name, operation=operation, arguments=arguments)
        if "lost-response" in self._faults:
            return cut_answer()
        return _tool_answer(success=True, result={"tool": name, "status": "completed"})

    def routes(self) -> list[Route]:
        """The paths of the coordinator."""
        return [
            Route("/health", self.health),
            Route("/mcp/servers", self.servers),
            Route("/tools/execute", self.execute, methods=["POST"]),
        ]


def _call(body: bytes) -> tuple[str, dict[str, Any]] | None:
    """The tool and its arguments, or nothing when the body is not a call."""
    try:
        call = json.loads(body)
    except ValueError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("tool_name"), str):
        return None
    arguments = call.get("arguments", {})
    return (call["tool_name"], arguments) if isinstance(arguments, dict) else None


def _tool_answer(*, success: bool, result: Any = None, error: str | None = None) -> Response:
    """A failed tool is an answer too: 200 with `success` false."""
    return JSONResponse(
        {"success": success, "result": result, "error": error, "duration_ms": 12},
        headers={"X-Request-ID": secrets.token_hex(4)},
    )


def coordinator(*, directory: Path, clock: Callable[[], float] = time.time) -> StandIn:
    """Build the stand-in."""
    log = EffectLog(directory / "coordinator.effects.jsonl", now=clock)
    app = _Coordinator(log=log, clock=clock)
    return StandIn(
        name="coordinator",
        app=Wire(Starlette(routes=app.routes()), now=clock, refuse=app.refusal),
        log=log,
        supported=SUPPORTED,
        inject=app.inject,
        mend=app.mend,
    )
