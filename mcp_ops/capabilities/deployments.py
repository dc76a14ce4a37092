"""DeploymentPlatform: what runs and in which state, and the changes that a platform may offer.

A platform implements `DeploymentPlatform` and those of the others that it can keep; a tool is
published for the targets whose adapter has its capability.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field

from mcp_ops.capabilities.base import Model, Moment, Page, Result, UntrustedLine
from mcp_ops.capabilities.changes import Changeable, Plan
from mcp_ops.params import ObjectName

Problem = Literal[
    "none",
    "rolling_out",
    "crash_loop",
    "image_pull",
    "not_ready",
    "rollout_stuck",
    "oom_killed",
    "unschedulable",
    "scaled_to_zero",
    "paused",
    "stopped",
    "quota_exceeded",
]


class Deployment(Model):
    """One workload of a list. `name` is `api` for a Deployment, `statefulset/postgres` else."""

    name: str
    image: UntrustedLine
    desired: int
    ready: int
    updated: int
    restarts: int | None = None
    problem: Problem


class DeploymentPage(Page[Deployment]):
    """Answer of list_deployments."""


class Condition(Model):
    """A condition as the platform reports it."""

    type: str
    status: str
    reason: UntrustedLine
    message: UntrustedLine
    since: Moment | None = None


class Event(Model):
    """A recent event, newest first."""

    at: Moment | None = None
    type: str
    reason: UntrustedLine
    message: UntrustedLine
    count: int


class Instance(Model):
    """A pod or instance. `waiting` is why a container does not run, `message` what the platform
    says of it: why it finds no node, what the image's registry answered, why it was evicted. What
    a platform does not tell is absent, and no zero."""

    name: str
    ready: bool
    phase: str
    restarts: int | None = None
    age_s: int | None = None
    waiting: UntrustedLine | None = None
    last_exit: UntrustedLine | None = None
    message: UntrustedLine | None = None


class ContainerUse(Model):
    """A container of all instances. Used is the most of any instance, where that is measured."""

    name: str
    restarts: int
    oom_kills: int
    memory_limit_mib: float | None = None
    memory_used_mib: float | None = None
    cpu_limit_millicores: int | None = None
    cpu_used_millicores: int | None = None


class ProbeFailures(Model):
    """How often probes failed lately, by the events of the instances that were looked at."""

    readiness: int = 0
    liveness: int = 0
    startup: int = 0


class DeploymentDetail(Result):
    """Answer of get_deployment. `evictions` counts instances that were put out of their node."""

    name: str
    image: UntrustedLine
    revision: str | None = None
    generation: int | None = None
    desired: int
    ready: int
    updated: int
    available: int
    restarts: int | None = None
    oom_kills: int | None = None
    evictions: int | None = None
    containers: list[ContainerUse] = []
    probe_failures: ProbeFailures | None = None
    last_deploy: Moment | None = None
    last_restart: Moment | None = None
    conditions: list[Condition] = []
    events: list[Event] = []
    instances: list[Instance] = []
    problem: Problem
    explanation: str


LogLevel = Literal["", "debug", "info", "warn", "error"]


class LogLine(Model):
    """One line of a log."""

    at: Moment | None = None
    instance: str
    text: UntrustedLine


class DeploymentLogs(Page[LogLine]):
    """Answer of get_deployment_logs, oldest first. `matched` counts lines before the cut."""

    matched: int


class Revision(Model):
    """A version that a workload can be rolled back to. `id` is what rollback_deployment takes."""

    id: str
    current: bool
    image: UntrustedLine = ""
    made_at: Moment | None = None
    status: UntrustedLine = ""
    cause: UntrustedLine = ""
    restorable: bool = True


class RevisionPage(Page[Revision]):
    """Answer of list_revisions, newest first."""

    name: str


class DeploymentPlatform(Changeable, Protocol):
    """A platform that runs workloads and replaces their instances."""

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page of workloads by name; raises `InvalidInput` for an unknown cursor."""
        ...

    async def describe(self, name: str) -> DeploymentDetail:
        """One workload in full; raises `NotFound`."""
        ...

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
        """The newest lines over all instances, bounded in bytes at the platform.

        `grep` is a literal, or several with | between, in any case; `level` the lowest wanted.
        Instances without such a log are named in `searched`, not fatal.
        """
        ...

    async def plan_restart(self, name: str) -> Plan:
        """Replace the instances one after the other. Raises `Conflict` when that would replace
        nothing."""
        ...


class RevisionedPlatform(Changeable, Protocol):
    """A platform that keeps earlier versions of a workload."""

    async def list_revisions(self, name: str, *, limit: int, cursor: str) -> RevisionPage:
        """The versions that the platform still has, newest first."""
        ...

    async def plan_rollback(self, name: str, to_revision: str) -> Plan:
        """Run an earlier version again; empty means the one before the current. The plan's lines
        show what differs. Raises `NotFound` for a revision that there is not."""
        ...


class ScalablePlatform(Changeable, Protocol):
    """A platform that runs a chosen number of instances."""

    async def plan_scale(self, name: str, replicas: int) -> Plan:
        """Run that many instances. Raises `InvalidInput` outside the platform's or the
        operator's bounds, `Conflict` where an autoscaler would take it back."""
        ...


class AutoscaledPlatform(Changeable, Protocol):
    """A platform that chooses the number of instances within bounds."""

    async def plan_autoscaling(self, name: str, minimum: int, maximum: int) -> Plan:
        """Change the bounds of an existing autoscaler. Raises `NotFound` where there is none."""
        ...


class PausablePlatform(Changeable, Protocol):
    """A platform whose rollouts can be held."""

    async def plan_pause(self, name: str) -> Plan:
        """Hold the rollout: later changes of the workload start nothing."""
        ...

    async def plan_resume(self, name: str) -> Plan:
        """Let rollouts go on."""
        ...


class StoppablePlatform(Changeable, Protocol):
    """A platform whose workloads can be stopped and started without losing their definition."""

    async def plan_stop(self, name: str) -> Plan:
        """Stop it: it serves nobody until it is started."""
        ...

    async def plan_start(self, name: str) -> Plan:
        """Start a stopped one."""
        ...


class SlottedPlatform(Changeable, Protocol):
    """A platform that holds two versions side by side and swaps which of them serves."""

    async def plan_swap(self, name: str, slot: str) -> Plan:
        """Swap a slot with the one in production. The same swap again takes it back."""
        ...


class InstancePlatform(Changeable, Protocol):
    """A platform that replaces a single instance."""

    async def plan_instance_restart(self, name: str, instance: str) -> Plan:
        """Replace or restart one instance, named as get_deployment shows it."""
        ...


class SizedPlatform(Changeable, Protocol):
    """A platform where the size of instances can be changed."""

    async def plan_resources(self, name: str, *, memory: str, cpu: str, tier: str) -> Plan:
        """Change memory and processor of each instance, or the tier they run on; empty leaves
        it. Raises `InvalidInput` for what the platform does not take."""
        ...


_NAME = re.compile(
    r"((deployment|statefulset|daemonset)/)?[a-z0-9]([-a-z0-9._@:]*[a-z0-9])?"
    r"|[a-z0-9]([-a-z0-9]*[a-z0-9])?/slots/[a-z0-9]([-a-z0-9]*[a-z0-9])?"
)
_NAME_CHARS = 253
_IN_PRODUCTION = "/slots/production"


def _canonical(name: str) -> str:
    """One object, one name: budgets, replay and protection compare it.

    The rules are checked here and not in the schema, where a model would pay for them every turn.
    """
    if len(name) > _NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError(
            "must be a name alone, or statefulset/NAME, daemonset/NAME or "
            "NAME/slots/SLOT, as list_deployments shows it"
        )
    return name.removeprefix("deployment/").removesuffix(_IN_PRODUCTION)


WorkloadName = Annotated[
    str, Field(description="Name as listed."), AfterValidator(_canonical), ObjectName()
]
