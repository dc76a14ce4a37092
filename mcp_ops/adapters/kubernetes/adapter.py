"""The adapter of Kubernetes: one context and one namespace a target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from mcp_ops.adapter import Adapter, AdapterSettings, Advice, Wiring
from mcp_ops.adapters.kubernetes import changing, restart
from mcp_ops.adapters.kubernetes.access import Access
from mcp_ops.adapters.kubernetes.api import REQUEST_S, Api, no_redirects
from mcp_ops.adapters.kubernetes.changing import Action, look
from mcp_ops.adapters.kubernetes.describe import detail
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.following import follow_replacement
from mcp_ops.adapters.kubernetes.kubeconfig import SERVICE_ACCOUNT
from mcp_ops.adapters.kubernetes.listing import list_workloads
from mcp_ops.adapters.kubernetes.logs import Wanted, read_logs
from mcp_ops.adapters.kubernetes.look import get_family, recent_events
from mcp_ops.adapters.kubernetes.pods import read_pod
from mcp_ops.adapters.kubernetes.restart import plan_restart
from mcp_ops.adapters.kubernetes.rights import look_at_rights
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, parse_name
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
)
from mcp_ops.errors import ConfigurationError

_EVENTS_OF_PODS = 3
_ACTIONS: Mapping[str, Action] = {restart.RESTART: restart.ACTION}


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
            yield cls(api, wiring)
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

    async def plan_restart(self, name: str) -> Plan:
        """A restart of the generation that is seen now, as `kubectl rollout restart` does it."""
        _, _, now = await look(self._api, name, clock=self._clock)
        return plan_restart(name, now)

    async def rehearse(self, plan: Plan) -> None:
        """Send the change with `dryRun=All`."""
        await changing.rehearse(self._api, plan, _ACTIONS[plan.action], clock=self._clock)

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Send the change, with an optimistic lock."""
        return await changing.begin(
            self._api,
            plan,
            _ACTIONS[plan.action],
            reason=reason,
            call_id=call_id,
            clock=self._clock,
            redactor=self._redactor,
        )

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look for the call's id on the workload and in its replica sets."""
        return await changing.find(self._api, plan, _ACTIONS[plan.action], call_id)

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the rollout and the workload's pods."""
        _, _, now = await look(self._api, plan.name, clock=self._clock)
        return follow_replacement(plan, begun, now)
