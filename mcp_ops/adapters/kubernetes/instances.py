"""Replacing one instance: an eviction of exactly the pod that was looked at.

An eviction honours disruption budgets, which a deletion does not. The pod's uid goes with it, so
that one which has the same name by then is never meant: the platform takes the request once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.adapters.kubernetes.changing import Seen, ages_of, look, names_of, plan_of
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import text, uid_of
from mcp_ops.adapters.kubernetes.pods import Pod
from mcp_ops.adapters.kubernetes.site import Handler, Place, Site, options, written
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import InvalidInput, NotFound

EVICT: Final = "evict"
_HOPELESS: Final = frozenset({"crash_loop", "image_pull", "oom_killed"})


async def plan_instance_restart(site: Site, name: str, instance: str) -> Plan:
    """Replace one pod of a workload."""
    seen = await look(site, name)
    pod = next((one for one in seen.pods if one.name == instance), None)
    if pod is None:
        raise InvalidInput(
            f"That is no instance of {seen.name}.",
            hint="See get_deployment for the names of its instances.",
        )
    return plan_of(
        EVICT,
        seen,
        lines=_lines(seen, pod),
        state={"instance": pod.uid},
        values={"pod": pod.name, "pod_uid": pod.uid},
        evidence={"instance": pod.name, "age_before_s": pod.age_s, "restarts": pod.restarts},
        nothing="it ends already" if pod.ending else "",
    )


def _lines(seen: Seen, pod: Pod) -> list[str]:
    ready = sum(one.ready for one in seen.pods)
    state = "ready" if pod.ready else "not ready"
    lines = [
        f"Evict {pod.name} of {seen.name} ({state}, {pod.restarts} restarts, {pod.age_s} s old).",
        "The platform makes another one in its place, of the version that is wanted now.",
    ]
    if pod.ready and ready == 1:
        lines.append("It is the only instance that is ready: until the next one is, nobody serves.")
    if seen.now.desired == 0:
        lines.append("No instance is wanted: no other one comes in its place.")
    return lines


class _Eviction:
    """The handler of an eviction."""

    async def rehearse(self, site: Site, plan: Plan) -> None:
        await self._evict(site, plan, dry=True)

    async def begin(self, site: Site, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Evict it. A pod carries no mark of the call: that this one ends is what was asked."""
        await self._evict(site, plan, dry=False)
        return _begun(site, plan)

    async def find(self, site: Site, plan: Plan, call_id: str) -> Begun | None:
        """Whether that pod is gone, or on its way out."""
        place = Place(group="", plural="pods", name=str(plan.values["pod"]))
        try:
            pod = await place.get(site.api)
        except NotFound:
            return _begun(site, plan)
        gone = uid_of(pod) != plan.values["pod_uid"]
        return _begun(site, plan) if gone or text(pod, "metadata", "deletionTimestamp") else None

    async def follow(self, site: Site, plan: Plan, begun: Begun) -> Progress:
        """Verified when it is gone and another one is ready, or none is missing."""
        seen = await look(site, plan.name)
        before = set(plan.values["uids"])
        fresh = [pod for pod in seen.pods if pod.uid not in before]
        ready = [pod for pod in fresh if pod.ready]
        left = any(pod.uid == plan.values["pod_uid"] for pod in seen.pods)
        evidence: dict[str, Any] = {
            "instances": names_of(seen.pods),
            "new_instances": names_of(fresh),
            "ages_s": ages_of(fresh),
            "observed_generation": seen.now.observed_generation,
        }
        told = {"done": seen.now.ready, "wanted": seen.now.desired, "evidence": evidence}
        if left:
            return Progress(state="pending", why="the instance has not ended", **told)
        if ready or seen.now.ready >= seen.now.desired:
            return Progress(state="verified", **told)
        if broken := [pod for pod in fresh if pod.trouble in _HOPELESS]:
            why = f"The instance in its place does not start: {broken[0].trouble}."
            return Progress(state="failed", why=why, **told)
        return Progress(state="pending", why="the instance in its place is not ready", **told)

    async def _evict(self, site: Site, plan: Plan, *, dry: bool) -> None:
        name = str(plan.values["pod"])
        preconditions = {"preconditions": {"uid": plan.values["pod_uid"]}}
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": site.api.namespace},
            "deleteOptions": options("DeleteOptions", preconditions, dry=dry),
        }
        ask = Ask(verb="create", resource="pods/eviction", dry=dry)
        path = site.api.path("", "pods", name, "eviction")
        await site.api.act("POST", path, ask, body, **written(dry=dry))


def _begun(site: Site, plan: Plan) -> Begun:
    at = rfc3339(site.clock.now())
    return Begun(name=plan.name, at=at, evidence={"changed_at": at})


HANDLERS: Final[Mapping[str, Handler]] = {EVICT: _Eviction()}
