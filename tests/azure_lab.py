"""The lab's Azure on a socket, an adapter on it, and faults between the two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from pydantic import SecretStr

from mcp_ops.adapters.azure.adapter import AzureAppServiceAdapter
from mcp_ops.adapters.azure.settings import AzureAppServiceSettings
from mcp_ops.capabilities.deployments import DeploymentDetail
from mcp_ops.lab.azure.api import AzureStandIn, azure
from mcp_ops.lab.azure.seed import GROUP, SUBSCRIPTION
from mcp_ops.redact import Redactor
from tests.kubernetes_lab import STEP_S, Between, wiring
from tests.served import serve

TOKEN = "lab-azure-token-0123456789abcdef"
SETTLE_S = 0.08
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Web"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in, an adapter on it, and what stands between them."""

    platform: AzureAppServiceAdapter
    stand_in: AzureStandIn
    between: Between
    redactor: Redactor
    http: httpx2.AsyncClient
    url: str

    def effects(self, prefix: str = "client.") -> list[dict[str, Any]]:
        """What clients really changed, by the stand-in's own log."""
        return [line for line in self.stand_in.log.read() if line["effect"].startswith(prefix)]

    async def act(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Do something as somebody else would."""
        answer = await self.http.request(
            method,
            f"{SCOPE}/{path}",
            params={"api-version": "2024-11-01", **query},
            json={} if body is None else body,
        )
        assert answer.status_code < 300, answer.text
        return answer

    async def until(self, name: str, holds: Callable[[DeploymentDetail], bool]) -> DeploymentDetail:
        """Look until the app is so."""
        with anyio.fail_after(20):
            while not holds(found := await self.platform.describe(name)):
                await anyio.sleep(STEP_S)
            return found


def settings(url: str, **more: Any) -> AzureAppServiceSettings:
    """The settings of a target in the lab."""
    options: dict[str, Any] = {
        "subscription_id": SUBSCRIPTION,
        "resource_group": GROUP,
        "credential": "token",
        "access_token": SecretStr(TOKEN),
        "arm_url": url,
        "scm_url": f"{url}/scm/{{site}}",
        "tiers": ("P1v3", "P2v3", "S1"),
        **more,
    }
    return AzureAppServiceSettings(**options)


@asynccontextmanager
async def lab(
    directory: Path,
    *,
    settle_s: float = SETTLE_S,
    activity_lag_s: float = 3_600.0,
    page_size: int = 50,
    **more: Any,
) -> AsyncIterator[Lab]:
    """Everything, as a target `shop`."""
    stand_in = azure(
        directory=directory,
        token=TOKEN,
        settle_s=settle_s,
        activity_lag_s=activity_lag_s,
        page_size=page_size,
    )
    between = Between(stand_in.app)
    redactor = Redactor()
    async with serve(between) as url:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with (
            AzureAppServiceAdapter.open(settings(url, **more), wiring(directory, redactor)) as made,
            httpx2.AsyncClient(base_url=url, headers=headers, verify=False) as http,
        ):
            yield Lab(
                platform=made,
                stand_in=stand_in,
                between=between,
                redactor=redactor,
                http=http,
                url=url,
            )
