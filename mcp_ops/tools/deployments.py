"""Tools on DeploymentPlatform: what runs, what it says, and the rolling restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from mcp_ops.capabilities.base import Effect, NextStep, Outcome
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    DeploymentRestart,
    LogLevel,
    RestartStarted,
    RolloutInstance,
    RolloutState,
    WorkloadName,
)
from mcp_ops.errors import Failed, Upstream, UpstreamRateLimited
from mcp_ops.params import Cursor, Limit, Manner, SinceMinutes
from mcp_ops.tool import Write, tool

Tail = Annotated[int, Field(description="Newest lines.", ge=1, le=1000)]
Grep = Annotated[str, Field(description="Literal; a|b: either.", max_length=200)]
Level = Annotated[LogLevel, Field(description="Lowest level.")]
Previous = Annotated[bool, Field(description="Run before the last crash.")]
WaitSeconds = Annotated[int, Field(description="Wait for ready.", ge=0, le=50), Manner()]

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 5.0
_NAMES: Final = 10
_HOPELESS: Final = frozenset({"crash_loop", "image_pull", "oom_killed"})
_LOGS: Final = "get_deployment_logs"
_LOOK: Final = "get_deployment"


@tool(effect=Effect.READ, bulk=True)
async def list_deployments(
    platform: DeploymentPlatform, limit: Limit = 20, cursor: Cursor = ""
) -> DeploymentPage:
    """List what runs: workloads with image, instances wanted, ready and updated, and what is
    wrong with each (`problem`).

    Start here to find names; get_deployment explains one.
    """
    return await platform.list_workloads(limit=limit, cursor=cursor)


@tool(effect=Effect.READ)
async def get_deployment(platform: DeploymentPlatform, name: WorkloadName) -> DeploymentDetail:
    """Explain the state of one workload: counts, instances, restarts, memory kills, events, last
    deploy, and in plain words what is wrong.

    Use before and after any change of it.
    """
    found = await platform.describe(name)
    return found.model_copy(update={"next_steps": _after_look(found)})


@tool(effect=Effect.READ, bulk=True)
async def get_deployment_logs(
    platform: DeploymentPlatform,
    name: WorkloadName,
    since_minutes: SinceMinutes = 60,
    tail: Tail = 100,
    grep: Grep = "",
    level: Level = "",
    previous: Previous = False,
) -> DeploymentLogs:
    """Read the newest log lines of a workload's instances, oldest first."""
    return await platform.logs(
        name, since_minutes=since_minutes, tail=tail, grep=grep, level=level, previous=previous
    )


@tool(effect=Effect.WRITE)
async def restart_deployment(
    platform: DeploymentPlatform, write: Write, name: WorkloadName, wait_s: WaitSeconds = 45
) -> DeploymentRestart:
    """Replace a workload's instances one after the other (rolling restart) and wait until the new
    ones are ready.

    It does not cure a bad release or configuration: look with get_deployment first.
    """
    before = await platform.rollout(name)
    if write.dry_run:
        await platform.rehearse_restart(name)
        write.saw({"generation": before.generation, "desired": before.desired}, None)
        return _planned(name, before)
    started = await _start(platform, write, name, before)
    watch = _Watch(before=before, started=started, wait_s=wait_s)
    await watch.follow(platform, write, name)
    return watch.answer(name)


async def _start(
    platform: DeploymentPlatform, write: Write, name: str, before: RolloutState
) -> RestartStarted:
    """Restart once. Where the answer was lost, the platform is asked whether it has ours."""
    try:
        return await platform.restart(
            name, reason=write.reason, call_id=write.call_id, generation=before.generation
        )
    except Failed as lost:
        if lost.executed != "unknown":
            raise
        try:
            found = await platform.restarted_by(name, write.call_id)
        except Upstream:
            found = None
        if found is None:
            raise
        return found


@dataclass(slots=True, kw_only=True)
class _Watch:
    """The wait for a restart to show. What was accepted stays true whatever a look says."""

    before: RolloutState
    started: RestartStarted
    wait_s: int
    last: RolloutState | None = None
    outcome: Outcome = "unconfirmed"
    problem: str = ""
    looks: int = 0
    stopped: bool = field(default=False)

    async def follow(self, platform: DeploymentPlatform, write: Write, name: str) -> None:
        """Look until it is ready or hopeless, the time is over or somebody cancels."""
        waited, pause = 0.0, _FIRST_PAUSE_S
        while not self.stopped:
            await self._look(platform, name)
            if self.last is not None:
                write.progress(len(self._fresh_ready()), self.last.desired, self.last.why)
            if self.stopped or waited >= self.wait_s:
                return
            if write.cancelled():
                self.problem = "The wait was cancelled; the restart goes on at the platform."
                return
            pause = min(pause, self.wait_s - waited)
            await write.pause(pause)
            waited, pause = waited + pause, min(pause * 1.5, _LONGEST_PAUSE_S)

    async def _look(self, platform: DeploymentPlatform, name: str) -> None:
        self.looks += 1
        try:
            self.last = await platform.rollout(name)
        except (Failed, UpstreamRateLimited):
            # The restart is under way all the same; the next look may see it.
            self.problem = "The restart was accepted; the platform could not be asked how it went."
        except Upstream:
            self.problem = "The restart was accepted; the platform refuses to say how it went."
            self.stopped = True
        else:
            self._judge(self.last)

    def _judge(self, now: RolloutState) -> None:
        old = self._survivors()
        broken = [one for one in self._fresh() if one.problem in _HOPELESS]
        changed = now.generation != self.started.generation
        if now.done and not changed and len(old) <= now.kept and self._all_fresh(now):
            self._end("verified", "")
        elif changed:
            self._end("unconfirmed", "The workload was changed again after this restart.")
        elif now.failed:
            self._end("failed", "The restart made no progress within the platform's deadline.")
        elif broken:
            self._end("failed", f"{len(broken)} new instances don't start: {broken[0].problem}.")
        elif now.done:
            self.problem = f"{len(old)} old instances have not ended yet."
        else:
            self.problem = f"Not ready in time: {now.why}."

    def _end(self, outcome: Outcome, problem: str) -> None:
        self.outcome, self.problem, self.stopped = outcome, problem, True

    def _all_fresh(self, now: RolloutState) -> bool:
        return len(self._fresh_ready()) >= now.desired - now.kept

    def _survivors(self) -> list[RolloutInstance]:
        ids = {one.id for one in self.before.instances}
        return [one for one in self.last.instances if one.id in ids] if self.last else []

    def _fresh(self) -> list[RolloutInstance]:
        ids = {one.id for one in self.before.instances}
        return [one for one in self.last.instances if one.id not in ids] if self.last else []

    def _fresh_ready(self) -> list[RolloutInstance]:
        return [one for one in self._fresh() if one.ready]

    def answer(self, name: str) -> DeploymentRestart:
        """What was seen, and what to do next."""
        wanted = (self.last or self.before).desired
        return DeploymentRestart(
            outcome=self.outcome,
            name=self.started.name,
            generation=self.started.generation,
            ready=f"{len(self._fresh_ready())}/{wanted}",
            problem=self.problem or None,
            evidence=self._evidence(),
            next_steps=_after_restart(name, self.outcome),
        )

    def _evidence(self) -> dict[str, Any]:
        evidence: dict[str, Any] = {
            "restarted_at": self.started.at,
            "generation_before": self.before.generation,
            "generation": self.started.generation,
            "instances_before": _names(self.before.instances),
            "ready_before": f"{self.before.ready}/{self.before.desired}",
        }
        if not self.before.done:
            evidence["another_rollout_was_under_way"] = self.before.why
        if self.last is not None:
            evidence["observed_generation"] = self.last.observed_generation
            evidence["instances"] = _names(self.last.instances)
            evidence["old_instances_left"] = len(self._survivors())
        return evidence


def _names(instances: list[RolloutInstance]) -> list[str]:
    names = sorted(one.name for one in instances)
    more = [f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return names[:_NAMES] + more


def _planned(name: str, before: RolloutState) -> DeploymentRestart:
    plan = [
        f"Replace {before.desired - before.kept} instances of {name} one after the other.",
        f"Now: {before.ready} of {before.desired} ready, generation {before.generation}.",
    ]
    if not before.done:
        plan.append(f"Another rollout is under way: {before.why}.")
    return DeploymentRestart(
        outcome="planned",
        name=name,
        generation=before.generation,
        plan=plan,
        evidence={"instances_before": _names(before.instances)},
    )


def _after_look(found: DeploymentDetail) -> list[NextStep]:
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "crash_loop": ("What the run before the crash wrote.", {"previous": True}),
        "oom_killed": ("What it did before it was killed.", {"previous": True}),
        "not_ready": ("What it writes while it is not ready.", {"level": "warn"}),
    }
    if found.problem not in steps:
        return []
    why, more = steps[found.problem]
    return [NextStep(tool=_LOGS, arguments={"name": found.name, **more}, why=why)]


def _after_restart(name: str, outcome: Outcome) -> list[NextStep]:
    if outcome == "verified":
        return []
    look = NextStep(tool=_LOOK, arguments={"name": name}, why="How far it is, and what is wrong.")
    if outcome != "failed":
        return [look]
    logs = NextStep(
        tool=_LOGS,
        arguments={"name": name, "previous": True},
        why="What the new instances wrote before they ended.",
    )
    return [look, logs]
