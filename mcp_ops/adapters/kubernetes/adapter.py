"""The adapter of Kubernetes: one context and one namespace a target."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from pydantic import Field

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.kubernetes.access import Access
from mcp_ops.adapters.kubernetes.api import REQUEST_S, Api, no_redirects
from mcp_ops.adapters.kubernetes.describe import detail
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.listing import list_workloads
from mcp_ops.adapters.kubernetes.logs import Wanted, read_logs
from mcp_ops.adapters.kubernetes.look import get_family, recent_events
from mcp_ops.adapters.kubernetes.pods import Pod, read_pod
from mcp_ops.adapters.kubernetes.restart import find_restart, rehearse, restart_workload
from mcp_ops.adapters.kubernetes.rollout import judge
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, parse_name
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
    RestartStarted,
    RolloutState,
)
from mcp_ops.errors import ConfigurationError

_EVENTS_OF_PODS = 3


class KubernetesSettings(AdapterSettings):
    """How to reach one namespace."""

    kubeconfig: str | None = Field(
        None, description="Path of the kubeconfig, or several; default: ~/.kube/config."
    )
    context: str = Field("", max_length=500, description="Context; default: the current one.")
    namespace: str = Field(
        "",
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="Namespace; default: the context's, else `default`.",
    )
    in_cluster: bool = Field(False, description="Use the service account of the server's own pod.")
    request_timeout_s: float = Field(
        REQUEST_S, gt=0, le=60, description="Longest wait for one answer, seconds."
    )


class KubernetesAdapter(Adapter, DeploymentPlatform):
    """A namespace of a Kubernetes cluster."""

    kind: ClassVar[str] = "kubernetes"
    title: ClassVar[str] = "Kubernetes"
    extra: ClassVar[str] = "kubernetes"
    modules: ClassVar[tuple[str, ...]] = (
        "kubernetes.aio.client.api_client",
        "kubernetes.aio.config.kube_config",
    )
    Settings: ClassVar[type[AdapterSettings]] = KubernetesSettings

    def __init__(self, api: Api, wiring: Wiring) -> None:
        self._api = api
        self._clock = wiring.clock
        self._redactor = wiring.redactor

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: KubernetesSettings, wiring: Wiring
    ) -> AsyncIterator[KubernetesAdapter]:
        """Read the kubeconfig (a credential plugin may run) and open the client.

        Raises `ConfigurationError` when there is no usable kubeconfig.
        """
        from kubernetes.aio.client.api_client import ApiClient

        access = Access(
            kubeconfig=settings.kubeconfig or "",
            context=settings.context,
            in_cluster=settings.in_cluster,
            clock=wiring.clock,
            redactor=wiring.redactor,
        )
        await access.load()
        access.configuration.retries = None
        access.configuration.client_session_kwargs = {
            "auto_decompress": False,
            "trace_configs": [no_redirects()],
        }
        try:
            client: Any = ApiClient(configuration=access.configuration)
        except OSError as exc:  # ssl.SSLError is one: a certificate or key that can't be read
            raise ConfigurationError(
                f"The certificates in the kubeconfig of target {wiring.target} can't be used.",
                hint="Check certificate-authority, client-certificate and client-key there.",
            ) from exc
        try:
            api = Api(
                client=client,
                access=access,
                namespace=settings.namespace or access.context_namespace or "default",
                clock=wiring.clock,
                request_s=settings.request_timeout_s,
            )
            yield cls(api, wiring)
        finally:
            await client.close()

    async def ping(self) -> None:
        """List one deployment: shows the server, the credential and the permission."""
        ask = Ask(verb="list", resource=DEPLOYMENT.resource)
        await self._api.list_page(self._api.path("apps", DEPLOYMENT.plural), ask, limit=1)

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page by kind and name; a page costs at most three requests."""
        return await list_workloads(self._api, limit=limit, cursor=cursor)

    async def describe(self, name: str) -> DeploymentDetail:
        """The workload, at most 500 of its pods and its newest ten events."""
        kind, plain = parse_name(name)
        family = await get_family(self._api, kind, plain)
        now = self._clock.now()
        pods = [read_pod(pod, now=now) for pod in family.pods]
        troubled = [pod.uid for pod in pods if pod.trouble != "none"][:_EVENTS_OF_PODS]
        events = await recent_events(self._api, family, troubled)
        return detail(family, pods, events, now=now)

    async def rollout(self, name: str) -> RolloutState:
        """The rollout with the workload's pods, terminating ones included."""
        kind, plain = parse_name(name)
        family = await get_family(self._api, kind, plain)
        pods = [read_pod(pod, now=self._clock.now()) for pod in family.pods]
        return judge(kind, family.workload, [Pod.rollout_instance(pod) for pod in pods])

    async def logs(
        self,
        name: str,
        *,
        since_minutes: int,
        tail: int,
        grep: str,
        level: LogLevel,
        previous: bool,
    ) -> DeploymentLogs:
        """The newest lines of at most 20 containers, 1 MiB each, 12,000 characters in all."""
        kind, plain = parse_name(name)
        family = await get_family(self._api, kind, plain)
        wanted = Wanted(
            since_minutes=since_minutes, tail=tail, grep=grep, level=level, previous=previous
        )
        return await read_logs(self._api, family.pods, wanted)

    async def rehearse_restart(self, name: str) -> None:
        """Send the patch of a restart with `dryRun=All`."""
        await rehearse(self._api, name, clock=self._clock)

    @writes
    async def restart(
        self, name: str, *, reason: str, call_id: str, generation: int
    ) -> RestartStarted:
        """Patch the pod template as `kubectl rollout restart` does, with an optimistic lock."""
        return await restart_workload(
            self._api,
            name,
            reason=reason,
            call_id=call_id,
            generation=generation,
            clock=self._clock,
            redactor=self._redactor,
        )

    async def restarted_by(self, name: str, call_id: str) -> RestartStarted | None:
        """Look for the call's id on the workload and in its replica sets."""
        return await find_restart(self._api, name, call_id)
