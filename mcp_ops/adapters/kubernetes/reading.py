"""What the adapter reads of one workload."""

from __future__ import annotations

from collections.abc import Callable

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.describe import detail
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.listing import list_workloads
from mcp_ops.adapters.kubernetes.loglines import Wanted
from mcp_ops.adapters.kubernetes.logs import read_logs
from mcp_ops.adapters.kubernetes.look import get_family
from mcp_ops.adapters.kubernetes.pods import read_pod
from mcp_ops.adapters.kubernetes.symptoms import look_for_symptoms
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, parse_name
from mcp_ops.capabilities.deployments import DeploymentDetail, DeploymentLogs

__all__ = ["Wanted", "describe", "list_workloads", "logs", "ping"]


async def ping(api: Api) -> None:
    """List one deployment."""
    ask = Ask(verb="list", resource=DEPLOYMENT.resource)
    await api.list_page(api.path("apps", DEPLOYMENT.plural), ask, limit=1)


async def describe(api: Api, name: str, *, now: Callable[[], float]) -> DeploymentDetail:
    """The workload and its pods; `now` is asked once it was looked at."""
    kind, plain = parse_name(name)
    family = await get_family(api, kind, plain)
    at = now()
    pods = [read_pod(pod, now=at) for pod in family.pods]
    return detail(family, pods, await look_for_symptoms(api, family, pods), now=at)


async def logs(api: Api, name: str, wanted: Wanted) -> DeploymentLogs:
    """The newest lines of its containers."""
    kind, plain = parse_name(name)
    return await read_logs(api, await get_family(api, kind, plain), wanted)
