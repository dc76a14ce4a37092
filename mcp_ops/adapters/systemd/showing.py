"""A unit as the deployment tools show it."""

from __future__ import annotations

from mcp_ops.adapters.systemd.units import Unit
from mcp_ops.capabilities.deployments import (
    Condition,
    Deployment,
    DeploymentDetail,
    Event,
    Instance,
)
from mcp_ops.clock import rfc3339


def listed(unit: Unit) -> Deployment:
    """A line of the list; `image` is the program that it runs."""
    return Deployment(
        name=unit.name.lower(),
        image=unit.executable,
        desired=_desired(unit),
        ready=int(unit.up),
        updated=int(unit.up),
        restarts=unit.restarts,
        problem=unit.problem(),
    )


def detail(unit: Unit, events: list[Event], *, now: float, closed: str) -> DeploymentDetail:
    """A unit in full. `closed` tells why the journal could not be read, or is empty."""
    return DeploymentDetail(
        name=unit.name.lower(),
        image=unit.executable,
        revision=unit.invocation or None,
        desired=_desired(unit),
        ready=int(unit.up),
        updated=int(unit.up),
        available=int(unit.up),
        restarts=unit.restarts,
        oom_kills=int(unit.result == "oom-kill"),
        last_restart=rfc3339(unit.started) if unit.started is not None else None,
        conditions=_conditions(unit, closed=closed),
        events=events,
        instances=_instances(unit, now=now),
        problem=unit.problem(),
        explanation=unit.explained(),
    )


def _desired(unit: Unit) -> int:
    return 0 if unit.active == "inactive" and not unit.moving else 1


def _instances(unit: Unit, *, now: float) -> list[Instance]:
    if not unit.pid and not unit.last_exit():
        return []
    age = max(0, int(now - unit.started)) if unit.started is not None else 0
    return [
        Instance(
            name=f"pid {unit.pid}" if unit.pid else "ended",
            ready=unit.up,
            phase=unit.sub,
            restarts=unit.restarts,
            age_s=age,
            waiting=None if unit.up else unit.explained(),
            last_exit=unit.last_exit() or None,
        )
    ]


def _conditions(unit: Unit, *, closed: str) -> list[Condition]:
    since = rfc3339(unit.changed) if unit.changed is not None else None
    found = [
        Condition(
            type="Active",
            status=unit.active,
            reason=unit.sub,
            message=unit.status or unit.description,
            since=since,
        ),
        Condition(type="Loaded", status=unit.load, reason=unit.enabled, message=""),
    ]
    if unit.result != "success":
        found.append(Condition(type="Result", status=unit.result, reason="", message=""))
    if unit.memory is not None:
        most = f"of at most {_size(unit.memory_max)}" if unit.memory_max is not None else ""
        found.append(Condition(type="Memory", status=_size(unit.memory), reason=most, message=""))
    if unit.stale:
        found.append(
            Condition(
                type="NeedsDaemonReload",
                status="True",
                reason="",
                message="Its file changed; systemd has not read it yet.",
            )
        )
    if closed:
        message = f"{closed} No events are shown."
        found.append(Condition(type="Journal", status="False", reason="", message=message))
    return found


def _size(size: int | None) -> str:
    return f"{(size or 0) / 1_048_576:.1f} MiB"
