"""The adapter of Kubernetes: one context and one namespace a target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from mcp_ops.adapter import Adapter, AdapterSettings, Advice, Wiring
from mcp_ops.adapters.kubernetes.access import Access
from mcp_ops.adapters.kubernetes.api import REQUEST_S, Api, no_redirects
from mcp_ops.adapters.kubernetes.describe import detail
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.jobplatform import JobPlatform
from mcp_ops.adapters.kubernetes.kubeconfig import SERVICE_ACCOUNT
from mcp_ops.adapters.kubernetes.listing import list_workloads
from mcp_ops.adapters.kubernetes.loglines import Wanted
from mcp_ops.adapters.kubernetes.logs import read_logs
from mcp_ops.adapters.kubernetes.look import get_family
from mcp_ops.adapters.kubernetes.pods import read_pod
from mcp_ops.adapters.kubernetes.quantities import positive
from mcp_ops.adapters.kubernetes.restart import plan_restart
from mcp_ops.adapters.kubernetes.rights import look_at_rights
from mcp_ops.adapters.kubernetes.rollouts import RolloutPlatform
from mcp_ops.adapters.kubernetes.site import Bounds, Site
from mcp_ops.adapters.kubernetes.symptoms import look_for_symptoms
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, parse_name
from mcp_ops.capabilities.changes import Plan
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
)
from mcp_ops.errors import ConfigurationError


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
    service_account: str = Field(
        str(SERVICE_ACCOUNT),
        description="Folder of its token, ca.crt and namespace, where they are mounted elsewhere.",
    )
    request_timeout_s: float = Field(
        REQUEST_S, gt=0, le=60, description="Longest wait for one answer, seconds."
    )
    max_replicas: int = Field(
        50, ge=1, le=1_000, description="Most instances that a workload may be scaled to."
    )
    max_memory: str = Field("8Gi", max_length=20, description="Most memory of one instance.")
    max_cpu: str = Field("4", max_length=20, description="Most processor of one instance, cores.")
    required_config: dict[str, tuple[str, ...]] = Field(
        {}, description="Settings that must be there, by the name of the workload."
    )
    job_too_long_minutes: dict[str, Annotated[int, Field(ge=1, le=100_000)]] = Field(
        {},
        description="Minutes after which a run is too long, by job, `*` for all others; default: "
        "the schedule's period.",
    )

    @field_validator("max_memory", "max_cpu")
    @classmethod
    def _quantity(cls, written: str) -> str:
        positive(written)
        return written

    def bounds(self) -> Bounds:
        """How far changes may go."""
        return Bounds(
            replicas=self.max_replicas,
            memory=positive(self.max_memory),
            cpu=positive(self.max_cpu),
            required=self.required_config,
            too_long=self.job_too_long_minutes,
        )


class KubernetesAdapter(Adapter, RolloutPlatform, JobPlatform, DeploymentPlatform):
    """A namespace of a Kubernetes cluster."""

    kind: ClassVar[str] = "kubernetes"
    title: ClassVar[str] = "Kubernetes"
    extra: ClassVar[str] = "kubernetes"
    modules: ClassVar[tuple[str, ...]] = (
        "kubernetes.aio.client.api_client",
        "kubernetes.aio.config.kube_config",
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
            yield cls(api, wiring, settings.bounds())
        finally:
            await access.aclose()
            await client.close()

    async def ping(self) -> None:
        """List one deployment: shows the server, the credential and the permission."""
        ask = Ask(verb="list", resource=DEPLOYMENT.resource)
        await self._api.list_page(self._api.path("apps", DEPLOYMENT.plural), ask, limit=1)

    async def examine(self, tools: Collection[str]) -> list[Advice]:
        """Which of the rights that these tools need the credential has not."""
        return await look_at_rights(self._api, tools)

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page by kind and name, with restarts; see `listing` for what it costs."""
        return await list_workloads(self._api, limit=limit, cursor=cursor, clock=self._clock)

    async def describe(self, name: str) -> DeploymentDetail:
        """The workload, at most 500 of its pods, its newest ten events and what it uses."""
        kind, plain = parse_name(name)
        family = await get_family(self._api, kind, plain)
        now = self._clock.now()
        pods = [read_pod(pod, now=now) for pod in family.pods]
        return detail(family, pods, await look_for_symptoms(self._api, family, pods), now=now)

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
        kind, plain = parse_name(name)
        family = await get_family(self._api, kind, plain)
        wanted = Wanted(
            since_minutes=since_minutes, tail=tail, grep=grep, level=level, previous=previous
        )
        return await read_logs(self._api, family, wanted)

    async def plan_restart(self, name: str) -> Plan:
        """A restart of the generation that is seen now, as `kubectl rollout restart` does it."""
        return await plan_restart(self._site, name)
