"""The changes of workloads as the capabilities name them.

What makes them is loaded when a target is opened, and not when the server starts.
"""

from __future__ import annotations

from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Changeable, Plan, Progress
from mcp_ops.capabilities.deployment_config import ConfigPage, ConfigurablePlatform
from mcp_ops.capabilities.deployments import (
    AutoscaledPlatform,
    InstancePlatform,
    PausablePlatform,
    RevisionedPlatform,
    RevisionPage,
    ScalablePlatform,
    SizedPlatform,
    StoppablePlatform,
)


def _handler(plan: Plan) -> Handler:
    from mcp_ops.adapters.kubernetes.handlers import HANDLERS

    return HANDLERS[plan.action]


class Changes(Changeable):
    """What all changes of a target share: each kind has a handler."""

    _site: Site

    async def rehearse(self, plan: Plan) -> None:
        """Send the change with `dryRun=All`."""
        await _handler(plan).rehearse(self._site, plan)

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Send the change, locked to what was looked at."""
        handler = _handler(plan)
        return await handler.begin(self._site, plan, reason=reason, call_id=call_id)

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look for the call's mark on the object, or for what it made or took away."""
        return await _handler(plan).find(self._site, plan, call_id)

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the rollout, the pods or the run."""
        return await _handler(plan).follow(self._site, plan, begun)


class RolloutPlatform(
    Changes,
    RevisionedPlatform,
    ScalablePlatform,
    AutoscaledPlatform,
    PausablePlatform,
    StoppablePlatform,
    InstancePlatform,
    SizedPlatform,
    ConfigurablePlatform,
):
    """Deployments, stateful sets and daemon sets, as far as each can be changed."""

    async def list_revisions(self, name: str, *, limit: int, cursor: str) -> RevisionPage:
        """Versions from ReplicaSets or ControllerRevisions; two requests."""
        from mcp_ops.adapters.kubernetes import revisions

        return await revisions.list_revisions(self._site, name, limit=limit, cursor=cursor)

    async def plan_rollback(self, name: str, to_revision: str) -> Plan:
        """As `kubectl rollout undo` does it."""
        from mcp_ops.adapters.kubernetes import revisions

        return await revisions.plan_rollback(self._site, name, to_revision)

    async def plan_scale(self, name: str, replicas: int) -> Plan:
        """Within the operator's bound; never against an autoscaler."""
        from mcp_ops.adapters.kubernetes import scaling

        return await scaling.plan_scale(self._site, name, replicas)

    async def plan_autoscaling(self, name: str, minimum: int, maximum: int) -> Plan:
        """Bounds of the workload's HorizontalPodAutoscaler."""
        from mcp_ops.adapters.kubernetes import autoscaling

        return await autoscaling.plan_autoscaling(self._site, name, minimum, maximum)

    async def plan_pause(self, name: str) -> Plan:
        """Deployments only."""
        from mcp_ops.adapters.kubernetes import pausing

        return await pausing.plan_pause(self._site, name)

    async def plan_resume(self, name: str) -> Plan:
        """Deployments only."""
        from mcp_ops.adapters.kubernetes import pausing

        return await pausing.plan_resume(self._site, name)

    async def plan_stop(self, name: str) -> Plan:
        """Zero instances; the number from before is remembered in an annotation."""
        from mcp_ops.adapters.kubernetes import scaling

        return await scaling.plan_stop(self._site, name)

    async def plan_start(self, name: str) -> Plan:
        """As many instances as were remembered."""
        from mcp_ops.adapters.kubernetes import scaling

        return await scaling.plan_start(self._site, name)

    async def plan_instance_restart(self, name: str, instance: str) -> Plan:
        """An eviction, which honours disruption budgets."""
        from mcp_ops.adapters.kubernetes import instances

        return await instances.plan_instance_restart(self._site, name, instance)

    async def plan_resources(self, name: str, *, memory: str, cpu: str, tier: str) -> Plan:
        """Limits of the main container."""
        from mcp_ops.adapters.kubernetes import resources

        return await resources.plan_resources(self._site, name, memory=memory, cpu=cpu, tier=tier)

    async def list_config(self, name: str, *, limit: int, cursor: str) -> ConfigPage:
        """The environment of the containers; one request, and 50 for Secrets and ConfigMaps."""
        from mcp_ops.adapters.kubernetes import config

        return await config.list_config(self._site, name, limit=limit, cursor=cursor)

    async def plan_config(
        self, name: str, key: str, *, value: str, value_ref: str, overwrite: bool
    ) -> Plan:
        """One variable of the environment."""
        from mcp_ops.adapters.kubernetes import config

        return await config.plan_config(
            self._site, name, key, value=value, value_ref=value_ref, overwrite=overwrite
        )
