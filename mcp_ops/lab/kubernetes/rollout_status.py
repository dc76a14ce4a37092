"""What a deployment tells of its rollout: counts and conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, Obj
from mcp_ops.lab.kubernetes.owned import without_zeros
from mcp_ops.lab.kubernetes.store import from_rfc3339
from mcp_ops.lab.kubernetes.world import World

_DONE: Final = "NewReplicaSetAvailable"
_LATE: Final = "ProgressDeadlineExceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many pods a rolling update may have too many and too few."""

    replicas: int
    surge: int
    unavailable: int

    @classmethod
    def of(cls, spec: Obj) -> Bounds:
        """The bounds that a deployment's strategy asks for."""
        replicas = spec["replicas"]
        rolling = spec["strategy"].get("rollingUpdate") or {}
        surge = _count(rolling.get("maxSurge", 0), replicas, up=True)
        unavailable = _count(rolling.get("maxUnavailable", 0), replicas, up=False)
        if surge == 0 and unavailable == 0:
            unavailable = 1
        return cls(replicas=replicas, surge=surge, unavailable=min(unavailable, replicas))


def _count(value: Any, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    share = int(str(value).rstrip("%")) * replicas / 100
    return math.ceil(share) if up else math.floor(share)


def tell_status(
    world: World, deployment: Obj, sets: list[Obj], new: Obj | None, bounds: Bounds
) -> None:
    """Write the status, if anything in it changed."""
    before: Obj = deployment.get("status") or {}
    available = _sum(sets, "availableReplicas")
    total = _sum(sets, "replicas")
    counts = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        "replicas": total,
        "updatedReplicas": _sum([new] if new else [], "replicas"),
        "readyReplicas": _sum(sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(total - available, bounds.replicas - available, 0),
    }
    now = world.store.timestamp()
    earlier = {one["type"]: one for one in before.get("conditions") or []}
    conditions = [
        _condition(earlier, now, _available(available, bounds)),
        _progressing(world, deployment, earlier, counts, new),
    ]
    status = {**without_zeros(counts), "conditions": conditions}
    world.edit(DEPLOYMENT, deployment, lambda d: d.update(status=status))


def _sum(sets: list[Obj], field: str) -> int:
    return sum((rs.get("status") or {}).get(field, 0) for rs in sets)


def _available(available: int, bounds: Bounds) -> dict[str, str]:
    if available >= bounds.replicas - bounds.unavailable:
        return {
            "type": "Available",
            "status": "True",
            "reason": "MinimumReplicasAvailable",
            "message": "Deployment has minimum availability.",
        }
    return {
        "type": "Available",
        "status": "False",
        "reason": "MinimumReplicasUnavailable",
        "message": "Deployment does not have minimum availability.",
    }


def are_conditions(value: Any) -> bool:
    """Whether a client's word on conditions is one that can be gone on from."""
    try:
        texts = [one[key] for one in value for key in ("type", "status", "reason", "message")]
        for one in value:
            from_rfc3339(one["lastUpdateTime"])
            from_rfc3339(one["lastTransitionTime"])
    except (TypeError, KeyError, ValueError):
        return False
    return all(isinstance(text, str) for text in texts)


def _condition(
    earlier: dict[str, Obj], now: str, what: dict[str, str], *, renew: bool = False
) -> Obj:
    """A condition; its times move only when it does, or when progress renews it."""
    before: dict[str, Any] = earlier.get(what["type"], {})
    same_status = before.get("status") == what["status"]
    same = same_status and before.get("reason") == what["reason"] and not renew
    return {
        **what,
        "lastUpdateTime": before["lastUpdateTime"] if same else now,
        "lastTransitionTime": before["lastTransitionTime"] if same_status else now,
    }


def _progressing(
    world: World, deployment: Obj, earlier: dict[str, Obj], counts: dict[str, int], new: Obj | None
) -> Obj:
    spec, now = deployment["spec"], world.store.timestamp()
    before: dict[str, Any] = earlier.get("Progressing", {})
    what = {"type": "Progressing", "status": "True"}
    named = f'ReplicaSet "{new["metadata"]["name"]}"' if new else "Deployment"
    if spec.get("paused"):
        what.update(status="Unknown", reason="DeploymentPaused", message="Deployment is paused")
        return _condition(earlier, now, what)
    if _complete(spec, counts):
        what.update(reason=_DONE, message=f"{named} has successfully progressed.")
        return _condition(earlier, now, what)
    same_template = str(before.get("message", "")).startswith(named)
    was_done = before.get("reason") == _DONE
    if was_done and same_template and not _rolling(counts):
        return before
    if _progressed(deployment, counts) or not same_template or was_done:
        what.update(reason="ReplicaSetUpdated", message=f"{named} is progressing.")
        return _condition(earlier, now, what, renew=True)
    late = world.store.now() - from_rfc3339(before["lastUpdateTime"])
    if before["reason"] == _LATE or late > spec.get("progressDeadlineSeconds", 600):
        what.update(status="False", reason=_LATE, message=f"{named} has timed out progressing.")
        return _condition(earlier, now, what)
    return before


def _complete(spec: Obj, counts: dict[str, int]) -> bool:
    wanted = spec["replicas"]
    names = ("updatedReplicas", "replicas", "availableReplicas")
    return all(counts[name] == wanted for name in names)


def _rolling(counts: dict[str, int]) -> bool:
    return counts["updatedReplicas"] != counts["replicas"]


def _progressed(deployment: Obj, counts: dict[str, int]) -> bool:
    """Whether the rollout moved since the last look: more new pods, fewer old, more ready."""
    before: dict[str, int] = deployment.get("status") or {}
    if before.get("observedGeneration") != counts["observedGeneration"] and _rolling(counts):
        return True
    olds = counts["replicas"] - counts["updatedReplicas"]
    olds_before = before.get("replicas", 0) - before.get("updatedReplicas", 0)
    return (
        counts["updatedReplicas"] > before.get("updatedReplicas", 0)
        or olds < olds_before
        or counts["readyReplicas"] > before.get("readyReplicas", 0)
        or counts["availableReplicas"] > before.get("availableReplicas", 0)
    )
