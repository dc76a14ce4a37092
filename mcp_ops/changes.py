"""A change of a platform, from the plan to the effect: made once, followed as long as asked.

A change that outlasts its call goes on as an operation. When its process is lost, another one
looks for the change under the call's id and follows it; it begins again only what the target
itself would take once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio

from mcp_ops.capabilities.base import NextStep, Outcome
from mcp_ops.capabilities.changes import Begun, Change, Changeable, Plan, Progress
from mcp_ops.errors import (
    Conflict,
    ConnectionLost,
    Failed,
    OpsError,
    Upstream,
    UpstreamRateLimited,
)
from mcp_ops.tool import Interrupted, Write

WORK_S: Final = 3_600.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 5.0
_SETTLE_S: Final = 60.0
_LATE_S: Final = 900.0
_PLANNED: Final = "planned"
_SENT: Final = "sent"
_ENDS: Final[dict[str, Outcome]] = {
    "verified": "verified",
    "failed": "failed",
    "superseded": "unconfirmed",
}


After = Callable[[Outcome], list[NextStep]]
_LOOK: Final = "get_deployment"
_LOGS: Final = "get_deployment_logs"


def after(name: str) -> After:
    """What makes sense after a change of a workload that was not seen to take effect."""

    def steps(outcome: Outcome) -> list[NextStep]:
        if outcome == "verified":
            return []
        look = NextStep(
            tool=_LOOK, arguments={"name": name}, why="How far it is, and what is wrong."
        )
        if outcome != "failed":
            return [look]
        logs = NextStep(
            tool=_LOGS,
            arguments={"name": name, "previous": True},
            why="What the new instances wrote before they ended.",
        )
        return [look, logs]

    return steps


async def carry_out(
    platform: Changeable,
    write: Write,
    planning: Callable[[], Awaitable[Plan]],
    *,
    wait_s: int,
    after: After,
) -> Change:
    """Plan, or make and follow a change for at most `wait_s` seconds.

    `after` tells what makes sense next. Raises what the platform raises, and `Interrupted` when
    another process is to go on.
    """
    if write.steps.before:  # a process that is lost made the plan, and may have sent it
        plan = Plan.model_validate_json(await write.steps.pin(""))
        begun = await _again(platform, write, plan)
    else:
        plan = await planning()
        if not plan.nothing:
            write.reaches(plan.reaches)
        if write.dry_run:
            return await _planned(platform, write, plan)
        if plan.nothing:
            return _nothing_to_do(plan, "verified")
        if write.pinned is not None or not write.approved(_state(plan)):
            # Nobody was asked, because there was nothing to do; or what a person approved was
            # something else, or nothing that could be seen.
            raise Conflict(
                "What this would do now is not what was looked at before; nothing was done.",
                hint="Call again.",
            )
        await write.steps.pin(plan.model_dump_json())
        await _sending(write)
        begun = await _begin(platform, write, plan)
    watch = _Watch(plan=plan, begun=begun, wait_s=wait_s)
    await watch.follow(platform, write)
    return watch.answer(after)


async def _planned(platform: Changeable, write: Write, plan: Plan) -> Change:
    write.saw(_state(plan), () if plan.nothing else None)
    if plan.nothing:
        return _nothing_to_do(plan, "planned")
    await platform.rehearse(plan)
    return Change(
        outcome="planned",
        name=plan.name,
        plan=plan.lines,
        evidence=plan.evidence,
        generation=_number(plan.lock),
    )


def _state(plan: Plan) -> dict[str, Any]:
    """What a yes is bound to: the state, and the way. Platforms choose among several by what they
    see (end a process, or reboot the machine with all that runs on it)."""
    return {"action": plan.action, **plan.state}


def _nothing_to_do(plan: Plan, outcome: Outcome) -> Change:
    return Change(
        outcome=outcome,
        name=plan.name,
        plan=[f"Nothing to do: {plan.nothing}."],
        evidence=plan.evidence,
        generation=_number(plan.lock),
    )


async def _begin(platform: Changeable, write: Write, plan: Plan) -> Begun:
    """Begin once. Where the answer was lost, the platform is asked whether it has the change."""
    try:
        return await platform.begin(plan, reason=write.reason, call_id=write.call_id)
    except Failed as lost:
        if lost.executed != "unknown":
            raise
        try:
            found = await platform.find(plan, write.call_id)
        except OpsError:  # whatever keeps us from looking: the change may have run
            found = None
        if found is None:
            raise
        return found


async def _sending(write: Write) -> None:
    """Durably say that the change is sent next. Raises `Interrupted` when another process is to
    send it, and leaves it the word that nothing was."""
    try:
        await write.steps.at(_SENT)
    except Interrupted:
        with suppress(Interrupted):
            await write.steps.at(_PLANNED)
        raise
    _still_wanted(write)


def _still_wanted(write: Write) -> None:
    """Raise `Conflict` where somebody cancelled before anything was sent."""
    if write.cancelled():
        raise Conflict("It was cancelled before it was sent; nothing was done.")


async def _again(platform: Changeable, write: Write, plan: Plan) -> Begun:
    """Go on with what a lost process may have begun. What it meant to do is not done late: what
    somebody wanted an hour ago may be wrong now."""
    late = write.steps.age_s > _LATE_S
    if write.steps.before == _PLANNED:
        if late:
            raise Conflict(
                "The server was lost before it sent the change, too long ago to send it now.",
                hint="Look, and call again if it is still wanted.",
            )
        write.reaches(plan.reaches)
        await _sending(write)
        return await _begin(platform, write, plan)
    await write.steps.at(_SENT)
    found = await _found(platform, write, plan)
    if found is not None:
        return found
    if plan.repeatable and not late:
        _still_wanted(write)
        write.reaches(plan.reaches)
        return await _begin(platform, write, plan)
    lost = ConnectionLost(
        "The server was lost while it sent the change, and the target does not show it.",
        hint="Look at the target before you try again.",
    )
    lost.executed = "unknown"
    raise lost


async def _found(platform: Changeable, write: Write, plan: Plan) -> Begun | None:
    """Ask whether the change is there, for a while: what ended the process may keep the platform
    away, too, and until it has answered nothing is known."""
    waited, pause = 0.0, _FIRST_PAUSE_S
    while True:
        try:
            return await platform.find(plan, write.call_id)
        except OpsError as error:
            if waited >= _SETTLE_S or not isinstance(error, Failed | UpstreamRateLimited):
                error.executed = "unknown"
                raise
        await write.pause(pause)
        await write.steps.at(_SENT)
        waited, pause = waited + pause, min(pause * 1.5, _LONGEST_PAUSE_S)


@dataclass(slots=True, kw_only=True)
class _Watch:
    """The wait for a change to show. What was accepted stays true whatever a look says."""

    plan: Plan
    begun: Begun
    wait_s: int
    last: Progress | None = None
    outcome: Outcome = "unconfirmed"
    problem: str = ""
    stopped: bool = False

    async def follow(self, platform: Changeable, write: Write) -> None:
        """Look until it shows or can't, the time is over or somebody cancels."""
        waited, pause = 0.0, _FIRST_PAUSE_S
        while not self.stopped:
            began = anyio.current_time()
            await self._look(platform)
            # A slow platform must not make the wait longer than the whole call may take.
            waited += anyio.current_time() - began
            if self.last is not None:
                write.progress(self.last.done, self.last.wanted, self.last.why)
            if self.stopped or waited >= self.wait_s:
                return
            if write.cancelled():
                self.problem = "The wait was cancelled; the change goes on at the platform."
                return
            pause = min(pause, self.wait_s - waited)
            await write.pause(pause)
            await write.steps.at(_SENT)
            waited, pause = waited + pause, min(pause * 1.5, _LONGEST_PAUSE_S)

    async def _look(self, platform: Changeable) -> None:
        try:
            self.last = await platform.follow(self.plan, self.begun)
        except (Failed, UpstreamRateLimited):
            # The change is under way all the same; the next look may see it.
            self.problem = "The change was accepted; the platform could not be asked how it went."
        except Upstream:
            self.problem = "The change was accepted; the platform refuses to say how it went."
            self.stopped = True
        except OpsError:  # not the platform's: a credential, a secret store
            self.problem = "The change was accepted; the platform could not be asked how it went."
        else:
            self._judge(self.last)

    def _judge(self, now: Progress) -> None:
        if now.state == "pending":
            self.problem = f"Not ready in time: {now.why}."
            return
        self.outcome, self.stopped = _ENDS[now.state], True
        self.problem = "" if now.state == "verified" else now.why

    def answer(self, after: After) -> Change:
        """What was seen, and what to do next."""
        last = self.last
        return Change(
            outcome=self.outcome,
            name=self.begun.name,
            generation=_number(self.begun.version),
            id=self.begun.id or None,
            ready=f"{last.done}/{last.wanted}" if last is not None and last.wanted else None,
            problem=self.problem or None,
            evidence=self.plan.evidence | self.begun.evidence | (last.evidence if last else {}),
            undo=self.plan.undo,
            next_steps=after(self.outcome),
        )


def _number(version: str) -> int | None:
    return int(version) if version.isascii() and version.isdigit() else None
