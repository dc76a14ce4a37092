"""The lab's Kubernetes on a socket and a client of it, for the tests of its parts."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import uvicorn

from mcp_ops.lab.kubernetes.api import kubernetes
from mcp_ops.lab.standin import StandIn

APPS = "/apis/apps/v1/namespaces/shop"
BATCH = "/apis/batch/v1/namespaces/shop"
CORE = "/api/v1/namespaces/shop"
SCALERS = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in and a client of it."""

    url: str
    http: httpx2.AsyncClient
    stand_in: StandIn

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.http.get(path, params=params)).json()

    async def patch(self, path: str, patch: Any, kind: str = STRATEGIC, **params: Any) -> Any:
        return await self.http.patch(
            path, content=json.dumps(patch), headers={"content-type": kind}, params=params
        )

    async def delete(self, path: str, policy: str = "") -> Any:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
        if not policy:
            return await self.http.delete(path)
        return await self.http.request("DELETE", path, json=body)

    async def pods(self, selector: str) -> list[Any]:
        """The pods that a label selector asks for, without those that are going."""
        found = await self.get(f"{CORE}/pods", labelSelector=selector)
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    async def events(self, name: str) -> set[str]:
        """The reasons of an object's events."""
        selector = f"involvedObject.name={name}"
        found = await self.get(f"{CORE}/events", fieldSelector=selector)
        return {event["reason"] for event in found["items"]}

    def effects(self) -> list[str]:
        return [line["effect"] for line in self.stand_in.log.read()]


@asynccontextmanager
async def served(directory: Path, **options: Any) -> AsyncIterator[Lab]:
    stand_in = kubernetes(directory=directory, **{"settle_s": 0.02, **options})
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(stand_in.app, log_level="critical", lifespan="on"))
    token = options.get("token")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            with anyio.fail_after(20):
                while not server.started:
                    await anyio.sleep(0.01)
            try:
                async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
                    yield Lab(url=url, http=http, stand_in=stand_in)
            finally:
                server.should_exit = True
    finally:
        listener.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is so."""
    with anyio.fail_after(20):
        while not await holds():
            await anyio.sleep(0.01)


def told(answer: Any) -> tuple[int, str]:
    """The code and the reason of a refusal."""
    body = answer.json()
    assert body["kind"] == "Status"
    assert body["code"] == answer.status_code
    return answer.status_code, body["reason"]


def condition(obj: Any, kind: str) -> tuple[str, str]:
    """The status and the reason of a condition."""
    for one in (obj.get("status") or {}).get("conditions") or []:
        if one["type"] == kind:
            return one["status"], one.get("reason", "")
    return "", ""
