"""An ingestion endpoint of Azure Monitor on a socket."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.served import serve

KEY = "12345678-1234-4abc-8def-1234567890ab"


@dataclass(slots=True)
class Ingestion:
    """What was sent."""

    url: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def connection(self) -> str:
        """The connection string."""
        return f"InstrumentationKey={KEY};IngestionEndpoint={self.url}/"

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What there is of a kind."""
        return [item["data"]["baseData"] for item in self.items if item["data"]["baseType"] == kind]


@asynccontextmanager
async def ingestion() -> AsyncIterator[Ingestion]:
    """Takes everything, and says what was asked elsewhere."""
    found = Ingestion()

    async def answer(request: Request) -> Response:
        if request.url.path.lstrip("/") != "v2.1/track":
            found.elsewhere.append(request.url.path)
            return Response(status_code=404)
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        items = json.loads(body)
        found.items += items
        return JSONResponse(
            {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
        )

    routes = [Route("/{path:path}", answer, methods=["GET", "POST"])]
    async with serve(Starlette(routes=routes)) as found.url:
        yield found
