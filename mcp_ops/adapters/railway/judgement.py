"""What is wrong with a service, in a word and in plain words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp_ops.adapters.railway.state import GONE, UNDER_WAY, Deployment, Service
from mcp_ops.capabilities.deployments import Problem

_WAITS: Final = {
    "QUEUED": "is queued at Railway",
    "INITIALIZING": "is accepted and not built yet",
    "BUILDING": "is being built",
    "DEPLOYING": "is starting",
    "WAITING": "waits for something else (checks of the repository, another service)",
    "NEEDS_APPROVAL": "waits until somebody approves it at Railway",
}
_TROUBLED: Final = frozenset({"CRASHED", "RESTARTING"})

Verdict = tuple[Problem, str]


def judge(service: Service) -> Verdict:
    """The problem, and a sentence or two about it."""
    newest = service.latest
    if newest is None:
        return "scaled_to_zero", "It was never deployed: nothing runs."
    if newest.status in UNDER_WAY:
        return _under_way(service, newest)
    if newest.status == "FAILED":
        return "rollout_stuck", _failed(service, newest)
    if newest.status == "CRASHED":
        return "crash_loop", (
            "The newest deployment crashed and Railway gave up restarting it. The logs of this"
            " deployment say why; rollback_deployment returns to an earlier one."
        )
    current = service.current
    assert current is not None  # noqa: S101 - there is a newest one
    return _running(service, current)


def failing(service: Service) -> list[str]:
    """The instances of the running deployment that crashed or are being restarted."""
    current = service.current
    return [] if current is None else [name for name, at in current.instances if at in _TROUBLED]


def _under_way(service: Service, newest: Deployment) -> Verdict:
    problem: Problem = "paused" if newest.status == "NEEDS_APPROVAL" else "rolling_out"
    return problem, f"The newest deployment {_WAITS[newest.status]}. {_served(service, newest)}"


def _failed(service: Service, newest: Deployment) -> str:
    return (
        "The newest deployment failed to build or to start; its build log says why."
        f" {_served(service, newest)}"
    )


def _served(service: Service, newest: Deployment) -> str:
    current = service.current
    if current is not None and current.id != newest.id and current.serves:
        return f"The one before ({current.shown}) still serves."
    return "Nothing serves meanwhile."


def _running(service: Service, current: Deployment) -> Verdict:
    running, wanted = len(current.running), service.wanted
    tests: tuple[tuple[bool, Callable[[], Verdict]], ...] = (
        (current.status == "SLEEPING", lambda: ("none", "It sleeps; the first request wakes it.")),
        (
            current.status in GONE,
            lambda: ("scaled_to_zero", "Its deployment was removed: nothing runs."),
        ),
        (
            service.cron,
            lambda: ("none", "It runs on a schedule and ends by itself in between."),
        ),
        (
            current.stopped,
            lambda: (
                "scaled_to_zero",
                "Its deployment was stopped or ended: nothing serves. start_deployment starts it.",
            ),
        ),
        (
            bool(failing(service)),
            lambda: (
                "crash_loop",
                f"{len(failing(service))} instances crashed or are being restarted.",
            ),
        ),
        (
            running < wanted,
            lambda: ("not_ready", f"{running} of {wanted} instances run."),
        ),
    )
    for holds, verdict in tests:
        if holds:
            return verdict()
    return "none", f"{running} of {wanted} instances run."
