"""Changes by one patch of one object, locked to the version that was looked at.

A patch carries the id of its call, so that a lost answer is resolved by a look: a restart has it in
the pod template, which it changes anyway, every other change on the object itself. The ids of the
calls before it are kept there, too: a change that followed at once hides none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.adapters.kubernetes.fields import Obj, mapping, moment_of, number, text, uid_of
from mcp_ops.adapters.kubernetes.look import Family, get_family
from mcp_ops.adapters.kubernetes.pods import Pod, read_pod
from mcp_ops.adapters.kubernetes.rollout import RolloutState, judge
from mcp_ops.adapters.kubernetes.site import Place, Site
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, STATEFUL_SET, Kind, parse_name
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict
from mcp_ops.redact import tame

CALL_ID: Final = "mcp-ops.io/call-id"
CHANGED_AT: Final = "mcp-ops.io/changed-at"
EARLIER: Final = "mcp-ops.io/earlier-calls"
REASON: Final = "mcp-ops.io/reason"
REVISION: Final = "deployment.kubernetes.io/revision"
_REASON_CHARS: Final = 200
_LOCK_TRIES: Final = 4
_CALLS_KEPT: Final = 10
_NAMES: Final = 10


def place_of(name: str) -> Place:
    """Where the workload of that name is."""
    kind, plain = parse_name(name)
    return Place(group="apps", plural=kind.plural, name=plain)


def _workload_of(plan: Plan) -> Place:
    return place_of(plan.name)


def generation_of(obj: Obj) -> str:
    """The version of what is wanted; a status that moves does not change it."""
    return str(number(obj, "metadata", "generation", absent=1))


Body = Callable[[Site, Plan, Obj, str], Awaitable[Obj]]
Follow = Callable[[Site, Plan, Begun], Awaitable[Progress]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A change by a patch: `body` makes it of the plan, the object read anew and the time.

    `forbidden` is why it would have no effect now (a sentence's end, or empty); `version` tells
    whether the object is still the one that was looked at.
    """

    body: Body
    follow_up: Follow
    place: Callable[[Plan], Place] = _workload_of
    version: Callable[[Obj], str] = generation_of
    forbidden: Callable[[Plan, Obj], str] = lambda _plan, _obj: ""
    marks_template: bool = False

    async def rehearse(self, site: Site, plan: Plan) -> None:
        """The same patch with `dryRun=All`: permission and admission are asked."""
        place = self.place(plan)
        obj = await place.get(site.api)
        self._allow(plan, obj)
        patch = await self._patch(site, plan, obj, call_id="dry-run", note="dry run")
        patch["metadata"].pop("resourceVersion", None)
        await place.patch(site.api, patch, dry=True)

    async def begin(self, site: Site, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Patch the version that was planned for."""
        place = self.place(plan)
        note = tame(site.redactor.text(reason), _REASON_CHARS)
        for tries_left in reversed(range(_LOCK_TRIES)):
            obj = await place.get(site.api)
            if found := self._found(plan, obj, call_id):
                return found
            self._allow(plan, obj)
            patch = await self._patch(site, plan, obj, call_id=call_id, note=note)
            try:
                patched = await place.patch(site.api, patch, dry=False)
            except Conflict:
                # A status that moved changes the version too: only a new wish is a conflict.
                if not tries_left:
                    raise
            else:
                now = rfc3339(site.clock.now())
                return self._found(plan, patched, call_id) or self._begun(plan, patched, now)
        raise AssertionError("the last try returns or raises")

    async def find(self, site: Site, plan: Plan, call_id: str) -> Begun | None:
        """The change that carries this call's id, or carried it before another one followed."""
        return self._found(plan, await self.place(plan).get(site.api), call_id)

    async def follow(self, site: Site, plan: Plan, begun: Begun) -> Progress:
        """How far it is."""
        return await self.follow_up(site, plan, begun)

    def _allow(self, plan: Plan, obj: Obj) -> None:
        if self.version(obj) != plan.lock or uid_of(obj) != plan.values["uid"]:
            raise Conflict(
                f"{plan.name} was changed since it was looked at; nothing was done.",
                hint="Look again, then decide again.",
            )
        if why := self.forbidden(plan, obj):
            raise Conflict(
                f"It would have no effect: {why}.",
                hint="Look with get_deployment; a person has to change that first.",
            )

    async def _patch(
        self, site: Site, plan: Plan, obj: Obj, *, call_id: str, note: str
    ) -> dict[str, Any]:
        """The reason stands outside the template, where the application can't read it, and starts
        nothing by itself."""
        at = rfc3339(site.clock.now())
        marks = {CALL_ID: call_id, CHANGED_AT: at}
        own = {
            "metadata": {
                "resourceVersion": text(obj, "metadata", "resourceVersion"),
                "uid": uid_of(obj),
                "annotations": {REASON: note, **_earlier(obj)},
            }
        }
        if self.marks_template:
            own = merged(own, {"spec": {"template": {"metadata": {"annotations": marks}}}})
        else:
            own = merged(own, {"metadata": {"annotations": marks}})
        return merged(await self.body(site, plan, obj, at), own)

    def _found(self, plan: Plan, obj: Obj, call_id: str) -> Begun | None:
        for marks in _marks(obj):
            if text(marks, CALL_ID) == call_id:
                return self._begun(plan, obj, text(marks, CHANGED_AT))
        made = dict(_calls(obj)).get(call_id)
        if made is None:
            return None
        version = str(int(plan.lock) + 1) if plan.lock.isdigit() else plan.lock
        return self._begun(plan, obj, made, version=version)

    def _begun(self, plan: Plan, obj: Obj, at: str, *, version: str = "") -> Begun:
        at = moment_of(at) or ""
        version = version or self.version(obj)
        evidence: dict[str, Any] = {"changed_at": at}
        if version.isdigit():
            evidence["generation"] = int(version)
        return Begun(name=plan.name, at=at, version=version, evidence=evidence)


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both objects in one; where both have a value, the other's."""
    found = dict(one)
    for key, value in other.items():
        known = found.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = merged(known, value)
        found[key] = value
    return found


def _marks(obj: Obj) -> tuple[Obj, Obj]:
    return (
        mapping(obj, "spec", "template", "metadata", "annotations"),
        mapping(obj, "metadata", "annotations"),
    )


def _calls(obj: Obj) -> list[tuple[str, str]]:
    """The calls before the newest one, newest first, each with its time."""
    written = text(mapping(obj, "metadata", "annotations"), EARLIER)
    pairs = (one.partition("@") for one in written.split())
    return [(call, at) for call, _, at in pairs]


def _earlier(obj: Obj) -> dict[str, str]:
    """What the next change writes of those before it."""
    newest = [(text(one, CALL_ID), text(one, CHANGED_AT)) for one in _marks(obj)]
    calls = dict([*(pair for pair in newest if pair[0]), *_calls(obj)])
    written = " ".join(f"{call}@{at}" for call, at in list(calls.items())[:_CALLS_KEPT])
    return {EARLIER: written} if written else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A workload, looked at: with its pods (ending ones included) and how its rollout is."""

    name: str
    family: Family
    now: RolloutState

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return self.family.kind

    @property
    def workload(self) -> Obj:
        """The object itself."""
        return self.family.workload

    @property
    def pods(self) -> list[Pod]:
        """Its instances."""
        return self.now.pods


async def look(site: Site, name: str) -> Seen:
    """The workload as it is now; raises `NotFound`."""
    kind, plain = parse_name(name)
    family = await get_family(site.api, kind, plain)
    pods = [read_pod(pod, now=site.clock.now()) for pod in family.pods]
    now = judge(kind, family.workload, pods)
    return Seen(name=kind.called(plain), family=family, now=now)


def plan_of(action: str, seen: Seen, *, lines: list[str], **more: Any) -> Plan:
    """The plan of a workload's change: what every plan tells of it as it is."""
    now = seen.now
    evidence: dict[str, Any] = {
        "generation_before": now.generation,
        "instances_before": names_of(now.pods),
        "ages_before_s": ages_of(now.pods),
        "ready_before": f"{now.ready}/{now.desired}",
        **revision_evidence(seen.kind, seen.workload, "revision_before"),
        **more.pop("evidence", {}),
    }
    if not now.done:
        evidence["another_rollout_was_under_way"] = now.why
        lines = [*lines, f"Another rollout is under way: {now.why}."]
    state = {"generation": now.generation, "desired": now.desired, **more.pop("state", {})}
    uids = [pod.uid for pod in now.pods]
    values = {"uid": uid_of(seen.workload), "uids": uids, **more.pop("values", {})}
    return Plan(
        action=action,
        name=seen.name,
        lines=lines,
        state=state,
        lock=str(now.generation),
        values=values,
        evidence=evidence,
        repeatable=True,
        **more,
    )


def revision_evidence(kind: Kind, workload: Obj, key: str) -> dict[str, str]:
    """The version that the workload is at, where it tells."""
    found = ""
    if kind is DEPLOYMENT:
        found = text(workload, "metadata", "annotations", REVISION)[:20]
    elif kind is STATEFUL_SET:
        found = text(workload, "status", "updateRevision")[:253]
    return {key: found} if found else {}


def names_of(pods: list[Pod]) -> list[str]:
    """The names of instances, sorted, the first ten of them."""
    names = sorted(pod.name for pod in pods)
    more = [f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return names[:_NAMES] + more


def ages_of(pods: list[Pod]) -> dict[str, int]:
    """The ages of instances in seconds, of the first ten by name."""
    return {pod.name: pod.age_s for pod in sorted(pods, key=lambda pod: pod.name)[:_NAMES]}
