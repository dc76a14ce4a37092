"""How pods end: told to go, done with their work, or failed for good."""

from __future__ import annotations

from collections.abc import Callable

from mcp_ops.lab.kubernetes.kinds import POD, Obj
from mcp_ops.lab.kubernetes.podstatus import (
    INIT,
    Shown,
    is_over,
    started_at,
    terminated,
    waiting,
    write_status,
)
from mcp_ops.lab.kubernetes.world import World


def end_for_good(
    world: World,
    pod: Obj,
    phase: str,
    *,
    code: int,
    reason: str,
    tell: Callable[[Obj], None] = lambda edited: None,
) -> Obj:
    """Let the containers of a pod end, never to start again."""
    now = world.store.timestamp()

    def change(edited: Obj) -> None:
        edited["status"]["phase"] = phase
        names = [one["name"] for one in pod["spec"]["containers"]]
        shown = {
            name: Shown(state=terminated(pod, code, reason, started_at(pod, name, now), now))
            for name in names
        }
        for one in pod["status"].get("initContainerStatuses") or []:
            shown[one["name"]] = Shown(state=one["state"], ready=one["ready"])
        for one in pod["spec"].get(INIT) or []:
            shown.setdefault(one["name"], Shown(state=waiting("PodInitializing")))
        write_status(edited, now, shown)
        tell(edited)

    return world.edit(POD, pod, change)


def begin_termination(world: World, pod: Obj, *, grace_s: int = 30) -> Obj:
    """Mark a pod as terminating; its node ends it with the next step."""

    def mark(edited: Obj) -> None:
        edited["metadata"].setdefault("deletionTimestamp", world.store.timestamp(grace_s))
        edited["metadata"].setdefault("deletionGracePeriodSeconds", grace_s)

    marked = world.edit(POD, pod, mark)
    if marked is not pod and not is_over(pod):
        for container in pod["spec"]["containers"]:
            world.event(
                POD,
                marked,
                "Killing",
                f"Stopping container {container['name']}",
                component="kubelet",
                host=pod["spec"].get("nodeName", ""),
                container=container["name"],
            )
    return marked
