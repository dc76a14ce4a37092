"""Autoscalers: they keep a workload's number within bounds, and say what they think of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

from mcp_ops.lab.kubernetes.kinds import AUTOSCALER, DEPLOYMENT, STATEFUL_SET, Obj
from mcp_ops.lab.kubernetes.world import World

UTILIZATION: Final = 42
_TARGETS: Final = {kind.name: kind for kind in (DEPLOYMENT, STATEFUL_SET)}
_SOURCE: Final = "horizontal-pod-autoscaler"
_NO_METRICS: Final = (
    "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch "
    "metrics from resource metrics API: the server could not find the requested resource "
    "(get pods.metrics.k8s.io)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What an autoscaler wants of its target, and why it is not what the load alone asks for."""

    replicas: int
    limited: str = ""
    why: str = "the desired count is within the acceptable range"
    rescale: str = ""


def sync_autoscalers(world: World) -> None:
    """Hold every autoscaler's target within its bounds; a target at zero is left alone."""
    for autoscaler in world.store.all(AUTOSCALER):
        if "deletionTimestamp" in autoscaler["metadata"]:
            continue
        reference = autoscaler["spec"]["scaleTargetRef"]
        kind = _TARGETS.get(reference["kind"])
        namespace = autoscaler["metadata"]["namespace"]
        target = world.store.get(kind, namespace, reference["name"]) if kind else None
        if kind is None or target is None:
            _tell_lost(world, autoscaler)
            continue
        wish = _wish(autoscaler["spec"], target["spec"]["replicas"])
        scaled = target["spec"]["replicas"] != wish.replicas
        if scaled:
            before = target["spec"]["replicas"]

            def change(edited: Obj, wanted: int = wish.replicas) -> None:
                edited["spec"]["replicas"] = wanted
                edited["metadata"]["generation"] += 1

            done = world.edit(kind, target, change)
            world.effect("controller.autoscaled", kind, done, before=before, replicas=wish.replicas)
            message = f"New size: {wish.replicas}; reason: {wish.rescale}"
            world.event(AUTOSCALER, autoscaler, "SuccessfulRescale", message, component=_SOURCE)
        _tell(world, autoscaler, target, wish, scaled=scaled)


def _wish(spec: Obj, now: int) -> _Wish:
    least, most = spec["minReplicas"], spec["maxReplicas"]
    if now and now < least:
        why = "the desired replica count is less than the minimum replica count"
        rescale = "Current number of replicas below Spec.MinReplicas"
        return _Wish(replicas=least, limited="TooFewReplicas", why=why, rescale=rescale)
    if now > most:
        why = "the desired replica count is more than the maximum replica count"
        rescale = "Current number of replicas above Spec.MaxReplicas"
        return _Wish(replicas=most, limited="TooManyReplicas", why=why, rescale=rescale)
    return _Wish(replicas=now)


def _tell_lost(world: World, autoscaler: Obj) -> None:
    reference = autoscaler["spec"]["scaleTargetRef"]
    message = (
        "the HPA controller was unable to get the target's current scale: "
        f'{reference["kind"].lower()}s.apps "{reference["name"]}" not found'
    )
    status = copy.deepcopy(autoscaler.get("status") or {})
    status.update(currentReplicas=0, desiredReplicas=0, currentMetrics=None)
    told = [("AbleToScale", False, "FailedGetScale", message)]
    _put(world, autoscaler, status, told)


def _tell(world: World, autoscaler: Obj, target: Obj, wish: _Wish, *, scaled: bool) -> None:
    status = copy.deepcopy(autoscaler.get("status") or {})
    status["currentReplicas"] = (target.get("status") or {}).get("replicas", 0)
    status["desiredReplicas"] = wish.replicas
    able = ("AbleToScale", True, "ReadyForNewScale", "recommended size matches current size")
    if scaled:
        status["lastScaleTime"] = world.store.timestamp()
        message = f"the HPA controller was able to update the target scale to {wish.replicas}"
        able = ("AbleToScale", True, "SucceededRescale", message)
    told = [able, _active(world, wish)]
    if wish.replicas:
        reason = wish.limited or "DesiredWithinRange"
        told.append(("ScalingLimited", bool(wish.limited), reason, wish.why))
    status["currentMetrics"] = _metrics(world, wish)
    _put(world, autoscaler, status, told)


def _active(world: World, wish: _Wish) -> tuple[str, bool, str, str]:
    if not wish.replicas:
        why = "scaling is disabled since the replica count of the target is zero"
        return "ScalingActive", False, "ScalingDisabled", why
    if not world.measured:
        why = f"the HPA was unable to compute the replica count: {_NO_METRICS}"
        return "ScalingActive", False, "FailedGetResourceMetric", why
    why = "the HPA was able to successfully calculate a replica count from cpu resource "
    why += "utilization (percentage of request)"
    return "ScalingActive", True, "ValidMetricFound", why


def _metrics(world: World, wish: _Wish) -> list[Obj] | None:
    if not world.measured or not wish.replicas:
        return None
    current = {"averageUtilization": UTILIZATION, "averageValue": "42m"}
    return [{"type": "Resource", "resource": {"name": "cpu", "current": current}}]


def _put(
    world: World, autoscaler: Obj, status: Obj, told: list[tuple[str, bool, str, str]]
) -> None:
    now = world.store.timestamp()
    before = {one["type"]: one for one in status.get("conditions") or []}
    conditions = []
    for kind, holds, reason, message in told:
        text = "True" if holds else "False"
        same = before.get(kind, {}).get("status") == text
        since = before[kind]["lastTransitionTime"] if same else now
        conditions.append(
            {
                "type": kind,
                "status": text,
                "lastTransitionTime": since,
                "reason": reason,
                "message": message,
            }
        )
    status["conditions"] = conditions
    world.edit(AUTOSCALER, autoscaler, lambda one: one.update(status=status))
