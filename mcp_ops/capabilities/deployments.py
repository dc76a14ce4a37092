"""DeploymentPlatform: what runs, in which state, and how it is restarted."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field

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


LogLevel = Literal["", "debug", "info", "warn", "error"]


class LogLine(Model):
    """One line of a log."""

    at: Moment | None = None
    instance: str
    text: UntrustedLine


class DeploymentLogs(Page[LogLine]):
    """Answer of get_deployment_logs, oldest first. `matched` counts lines before the cut."""

    matched: int


class DeploymentRestart(WriteResult):
    """Answer of restart_deployment: `verified` only when the new generation is ready.

    `ready` is "2/3": new instances that are ready, of those wanted.
    """

    name: str | None = None
    generation: int | None = None
    ready: str | None = None


class RolloutInstance(Model):
    """An instance as a rollout is judged by. `id` differs from that of the instance it replaced,
    also where both have one name. `problem` is what keeps it from being ready."""

    name: str
    id: str
    ready: bool
    ending: bool
    problem: Problem


class RolloutState(Model):
    """How far a rollout is, as `kubectl rollout status` judges it.

    `why` is what is still missing, `blocked` why a restart would replace nothing (else empty),
    `kept` how many instances the platform was told to leave on their old version.
    """

    generation: int
    observed_generation: int
    desired: int
    updated: int
    ready: int
    available: int
    kept: int = 0
    done: bool
    failed: bool
    blocked: str = ""
    why: str
    instances: list[RolloutInstance] = []


class RestartStarted(Model):
    """The platform accepted a restart: the generation that it made, and when it was asked."""

    name: str
    generation: int
    at: Moment


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
        level: LogLevel,
        previous: bool,
    ) -> DeploymentLogs:
        """The newest lines over all instances, bounded in bytes at the platform.

        `grep` is a literal, or several with | between, in any case; `level` the lowest wanted.
        Instances without such a log are named in `searched`, not fatal.
        """
        ...

    async def rollout(self, name: str) -> RolloutState:
        """How far the current rollout is."""
        ...

    async def rehearse_restart(self, name: str) -> None:
        """Ask the platform whether it would accept a restart now, changing nothing.

        Raises what `restart` would raise; a platform that can't rehearse answers at once.
        """
        ...

    @writes
    async def restart(
        self, name: str, *, reason: str, call_id: str, generation: int
    ) -> RestartStarted:
        """Start a rolling restart of the generation that the caller looked at.

        A restart that this `call_id` started already is answered, not repeated. Raises
        `NotFound`, `Forbidden`, `Conflict` (another generation), or `Failed` with
        `executed="unknown"` when the answer was lost: `restarted_by` then tells.
        """
        ...

    async def restarted_by(self, name: str, call_id: str) -> RestartStarted | None:
        """The restart that this call started, if the platform has it; None proves nothing
        while a request may still be under way."""
        ...


_NAME = re.compile(r"((deployment|statefulset|daemonset)/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NAME_CHARS = 253


def _canonical(name: str) -> str:
    """One object, one name: budgets, replay and protection compare it.

    The rules are checked here and not in the schema, where a model would pay for them every turn.
    """
    if len(name) > _NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError("must be a name alone, or statefulset/NAME or daemonset/NAME")
    return name.removeprefix("deployment/")


WorkloadName = Annotated[
    str, Field(description="Name as listed."), AfterValidator(_canonical), ObjectName()
]
