"""The adapter of Kubernetes: one context and one namespace a target.

What it works with is loaded, in a worker thread, when a target is opened, and not when the server
starts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mcp_ops.adapter import Adapter, AdapterSettings, Advice, Wiring
from mcp_ops.adapters.kubernetes.jobplatform import JobPlatform
from mcp_ops.adapters.kubernetes.quantities import positive
from mcp_ops.adapters.kubernetes.rollouts import RolloutPlatform
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.adapters.kubernetes.site import Bounds, Site
from mcp_ops.capabilities.changes import Plan
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
)
from mcp_ops.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp_ops.adapters.kubernetes.api import Api


def _bounds(settings: KubernetesSettings) -> Bounds:
    """How far changes may go."""
    return Bounds(
        replicas=settings.max_replicas,
        memory=positive(settings.max_memory),
        cpu=positive(settings.max_cpu),
        required=settings.required_config,
        too_long=settings.job_too_long_minutes,
    )


class KubernetesAdapter(Adapter, RolloutPlatform, JobPlatform, DeploymentPlatform):
    """A namespace of a Kubernetes cluster."""

    kind: ClassVar[str] = "kubernetes"
    title: ClassVar[str] = "Kubernetes"
    extra: ClassVar[str] = "kubernetes"
    modules: ClassVar[tuple[str, ...]] = (
        "kubernetes.aio.client.api_client",
        "kubernetes.aio.config.kube_config",
        "mcp_ops.adapters.kubernetes.access",
        "mcp_ops.adapters.kubernetes.handlers",
        "mcp_ops.adapters.kubernetes.jobs",
        "mcp_ops.adapters.kubernetes.reading",
        "mcp_ops.adapters.kubernetes.rights",
    )
    Settings: ClassVar[type[AdapterSettings]] = KubernetesSettings

    def __init__(self, api: Api, wiring: Wiring, bounds: Bounds) -> None:
        self._api = api
        self._clock = wiring.clock
        self._site = Site(api=api, clock=wiring.clock, redactor=wiring.redactor, bounds=bounds)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: KubernetesSettings, wiring: Wiring
    ) -> AsyncIterator[KubernetesAdapter]:
        """Read the kubeconfig (a credential plugin may run) and open the client.

        Raises `ConfigurationError` when there is no usable kubeconfig.
        """
        from kubernetes.aio.client.api_client import ApiClient

        from mcp_ops.adapters.kubernetes.access import Access
        from mcp_ops.adapters.kubernetes.api import Api, no_redirects

        access = Access(
            kubeconfig=settings.kubeconfig or "",
            context=settings.context,
            in_cluster=settings.in_cluster,
            account=Path(settings.service_account),
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
            await access.attach(client)
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
            yield cls(api, wiring, _bounds(settings))
        finally:
            await access.aclose()
            await client.close()

    async def ping(self) -> None:
        """List one deployment: shows the server, the credential and the permission."""
        from mcp_ops.adapters.kubernetes import reading

        await reading.ping(self._api)

    async def examine(self, tools: Collection[str]) -> list[Advice]:
        """Which of the rights that these tools need the credential has not."""
        from mcp_ops.adapters.kubernetes.rights import look_at_rights

        return await look_at_rights(self._api, tools)

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page by kind and name, with restarts; see `listing` for what it costs."""
        from mcp_ops.adapters.kubernetes import reading

        return await reading.list_workloads(
            self._api, limit=limit, cursor=cursor, clock=self._clock
        )

    async def describe(self, name: str) -> DeploymentDetail:
        """The workload, at most 500 of its pods, its newest ten events and what it uses."""
        from mcp_ops.adapters.kubernetes import reading

        return await reading.describe(self._api, name, now=self._clock.now)

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
        """The newest lines of at most 20 containers, 8 MiB each, 12,000 characters in all."""
        from mcp_ops.adapters.kubernetes import reading

        wanted = reading.Wanted(
            since_minutes=since_minutes, tail=tail, grep=grep, level=level, previous=previous
        )
        return await reading.logs(self._api, name, wanted)

    async def plan_restart(self, name: str) -> Plan:
        """A restart of the generation that is seen now, as `kubectl rollout restart` does it."""
        from mcp_ops.adapters.kubernetes import restart

        return await restart.plan_restart(self._site, name)
