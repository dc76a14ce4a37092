"""Routes for hosts and scrapers: /health/live, /health/ready and, where it is on, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcp_ops.transport import PRINCIPAL_SCOPE_KEY

METRICS_PATH: Final = "/metrics"
READ_SCOPE: Final = "ops:read"
_FRESH: Final = {"cache-control": "no-store"}

Ready = Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]


def probe_routes(
    ready: Ready, metrics: Metrics | None = None, *, metrics_open: bool = False, worker: int = 0
) -> list[BaseRoute]:
    """The routes. `metrics` takes an Accept header and answers a body and its media type;
    without `metrics_open` it needs a key with ops:read. They are those of `worker`, one of several;
    its request names another one only where there is none of that number."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=_FRESH)

    async def is_ready(request: Request) -> Response:
        status, details = await ready()
        if request.scope[PRINCIPAL_SCOPE_KEY] is None:
            details = {"status": details["status"]}
        return JSONResponse(details, status_code=status, headers=_FRESH)

    async def scrape(request: Request) -> Response:
        assert metrics is not None  # noqa: S101 - there is no route without
        principal = request.scope[PRINCIPAL_SCOPE_KEY]
        if not metrics_open and READ_SCOPE not in principal.scopes:
            message = f"Metrics need a key with {READ_SCOPE}."
            body = {"error": "permission_denied", "message": message}
            return JSONResponse(body, status_code=403, headers=_FRESH)
        asked = request.query_params.get("worker", "")
        if worker and asked not in ("", str(worker)):
            message = "There is no such worker: they are numbered from 1 on."
            return JSONResponse({"error": "not_found", "message": message}, 404, _FRESH)
        text, media_type = await metrics(request.headers.get("accept", "")[:1_000])
        return Response(text, headers={**_FRESH, "content-type": media_type})

    routes: list[BaseRoute] = [
        Route("/health/live", endpoint=live, methods=["GET"]),
        Route("/health/ready", endpoint=is_ready, methods=["GET"]),
    ]
    if metrics is not None:
        routes.append(Route(METRICS_PATH, endpoint=scrape, methods=["GET"]))
    return routes
