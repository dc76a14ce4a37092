"""DeploymentPlatform: what runs, in which state, and how it is restarted."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field

from mcp_ops.capabilities.base import (
    Capability,
    Model,
    Moment,
    Page,
    Result,
    UntrustedLine,
    WriteResult,
    writes,
)

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
    """A pod or instance. `waiting` is why a container does not run."""

    name: str
    ready: bool
    phase: str
    restarts: int
    age_s: int
    waiting: UntrustedLine | None = None
    last_exit: UntrustedLine | None = None


class DeploymentDetail(Result):
    """Answer of get_deployment."""

    name: str
    image: UntrustedLine
    revision: str | None = None
    generation: int | None = None
    desired: int
    ready: int
    updated: int
    available: int
    restarts: int
    oom_kills: int
    last_deploy: Moment | None = None
    last_restart: Moment | None = None
    conditions: list[Condition] = []
    events: list[Event] = []
    instances: list[Instance] = []
    problem: Problem
    explanation: str


class LogLine(Model):
    """One line of a log."""

    at: Moment | None = None
    instance: str
    text: UntrustedLine


class DeploymentLogs(Page[LogLine]):
    """Answer of get_deployment_logs, oldest first. `matched` counts lines before the cut."""

    matched: int


class DeploymentRestart(WriteResult):
    """Answer of restart_deployment: `verified` only when the new generation is ready."""

    name: str | None = None
    generation: int | None = None
    ready: str | None = None


class RolloutState(Model):
    """How far a rollout is, as `kubectl rollout status` judges it."""

    generation: int
    observed_generation: int
    desired: int
    updated: int
    ready: int
    available: int
    done: bool
    failed: bool
    why: UntrustedLine
    instances: list[str] = []


class RestartStarted(Model):
    """The platform accepted a restart: what it looked like before, and the new generation."""

    name: str
    generation_before: int
    generation: int
    instances_before: list[str]


class DeploymentPlatform(Capability, Protocol):
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
        level: str,
        previous: bool,
    ) -> DeploymentLogs:
        """The last lines over all instances; bounded in bytes at the platform."""
        ...

    async def rollout(self, name: str) -> RolloutState:
        """How far the current rollout is."""
        ...

    @writes
    async def restart(self, name: str, *, reason: str, call_id: str) -> RestartStarted:
        """Start a rolling restart; raises `NotFound`, `Forbidden`, `Conflict`."""
        ...


WorkloadName = Annotated[
    str,
    Field(
        description="Workload: api, statefulset/db or daemonset/agent.",
        min_length=1,
        max_length=253,
        pattern=r"^((deployment|statefulset|daemonset)/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    ),
]
