"""One reader of a large cluster, as a process of its own: prints what it cost as a line of JSON.

python -m benchmarks.large_reader "mcp-ops" KUBECONFIG
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.raw_client import rss_mb
from mcp_ops.adapter import Wiring
from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.clock import SystemClock
from mcp_ops.redact import Redactor

LIBRARY: Final = "client library, lists whole"
OURS: Final = "mcp-ops, listed and explained"
_LIMIT: Final = 200


async def ours(kubeconfig: str) -> dict[str, Any]:
    """List all pages and explain each workload in trouble."""
    with tempfile.TemporaryDirectory() as folder:
        wiring = Wiring(
            target="fleet",
            clock=SystemClock(),
            redactor=Redactor(),
            report_usage=lambda _name, _percent: None,
            directory=Path(folder),
        )
        async with KubernetesAdapter.open(
            KubernetesSettings(kubeconfig=kubeconfig), wiring
        ) as platform:
            await platform.ping()
            meter = _Meter()
            listed, restarts, trouble, cursor = 0, 0, [], ""
            while True:
                page = await platform.list_workloads(limit=_LIMIT, cursor=cursor)
                listed += len(page.items)
                restarts += sum(item.restarts or 0 for item in page.items)
                trouble += [item for item in page.items if item.problem != "none"]
                cursor = page.next_cursor
                if not cursor:
                    break
            for item in trouble:
                await platform.describe(item.name)
            told = {"listed": listed, "restarts": restarts, "explained": len(trouble)}
            return {**meter.read(), "told": told}


async def library(kubeconfig: str) -> dict[str, Any]:
    """Read the two lists whole, as a program that knows only the client library would."""
    from kubernetes.aio import client, config

    loaded: Any = config
    models: Any = client
    await loaded.load_kube_config(config_file=kubeconfig)
    async with models.ApiClient() as api:
        apps, core = models.AppsV1Api(api), models.CoreV1Api(api)
        await apps.list_namespaced_deployment("fleet", limit=1)
        meter = _Meter()
        deployments = await apps.list_namespaced_deployment("fleet")
        pods = await core.list_namespaced_pod("fleet")
        return {**meter.read(), "held": len(deployments.items) + len(pods.items)}


class _Meter:
    """Time and memory from when a reader is ready."""

    def __init__(self) -> None:
        self._mb = rss_mb(os.getpid())
        self._began = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Seconds, and MiB at most beyond the beginning."""
        seconds = time.perf_counter() - self._began
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": seconds, "mib": max(most - self._mb, 0.0)}


def main() -> int:
    """Read once."""
    reader = {OURS: ours, LIBRARY: library}[sys.argv[1]]
    print(json.dumps(asyncio.run(reader(sys.argv[2]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
