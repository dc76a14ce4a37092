"""Memory and processor of a workload's instances.

What is asked for is the limit. A request that was the same as the limit goes with it; another one
stays, and is never above the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from mcp_ops.adapters.kubernetes.changing import Patch, Seen, look, plan_of
from mcp_ops.adapters.kubernetes.fields import Obj, dig, mapping, objects, text
from mcp_ops.adapters.kubernetes.following import follow_rollout
from mcp_ops.adapters.kubernetes.quantities import parse_quantity
from mcp_ops.adapters.kubernetes.revisions import (
    blocked_now,
    template_blocked,
    undo_by_version,
)
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import parse_name
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import Conflict, InvalidInput

RESOURCES: Final = "resources"
DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_LEAST: Final = {"memory": Decimal(4 * 1024 * 1024), "cpu": Decimal("0.001")}
_EXAMPLE: Final = {"memory": "512Mi or 2Gi", "cpu": "500m or 2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """One of memory and cpu, before and after; None means that there is none."""

    what: str
    limit: str | None
    request: str | None
    wanted: str

    @property
    def request_wanted(self) -> str | None:
        """The request afterwards."""
        moves = self.request is not None and _same(self.request, self.limit)
        return self.wanted if moves else self.request

    @property
    def changes(self) -> bool:
        """Whether anything would be another one."""
        return not _same(self.wanted, self.limit)


async def plan_resources(site: Site, name: str, *, memory: str, cpu: str, tier: str) -> Plan:
    """Other limits for the main container; see `SizedPlatform`."""
    asked = {"memory": memory, "cpu": cpu}
    _check(site, asked, tier)
    seen = await look(site, name)
    container = main_container(parse_name(name)[1], seen.workload)
    sizes = [_size(what, wanted, container) for what, wanted in asked.items() if wanted]
    for size in sizes:
        _check_request(size)
    if why := template_blocked(seen.kind, seen.workload):
        raise Conflict(
            f"Another size would not reach the instances: {why}.",
            hint="Look with get_deployment; resume_rollout ends a pause.",
        )
    moving = [size for size in sizes if size.changes]
    called = text(container, "name")
    return plan_of(
        RESOURCES,
        seen,
        lines=_lines(seen, called, moving),
        state={"before": [[size.what, size.limit, size.request] for size in sizes]},
        values={"container": called, "resources": _resources(moving)},
        evidence=_evidence(seen, called, sizes),
        undo=await _undo(site, seen, moving),
        nothing="" if moving else "these are its limits already",
    )


def main_container(plain: str, workload: Obj) -> Obj:
    """The container that a workload is about: its only one, the one that it names as the default,
    or the one that has its name. Raises `InvalidInput` where none stands out."""
    template = mapping(workload, "spec", "template")
    found = objects(template, "spec", "containers")
    if len(found) == 1:
        return found[0]
    named = text(mapping(template, "metadata", "annotations"), DEFAULT_CONTAINER)
    for name in (named, plain):
        for one in found:
            if name and text(one, "name") == name:
                return one
    raise InvalidInput(
        f"The workload has {len(found)} containers, and none is marked as the main one.",
        hint=f"A person can name it in the pod template's annotation {DEFAULT_CONTAINER}.",
    )


def _check(site: Site, asked: Mapping[str, str], tier: str) -> None:
    if tier:
        raise InvalidInput("Kubernetes has no tiers.", hint="Pass memory or cpu.")
    if not any(asked.values()):
        raise InvalidInput("Pass memory or cpu.")
    bounds = {"memory": site.bounds.memory, "cpu": site.bounds.cpu}
    for what, written in asked.items():
        if not written:
            continue
        found = parse_quantity(written)
        if found is None or found < _LEAST[what]:
            raise InvalidInput(f"{what} must be a quantity such as {_EXAMPLE[what]}.")
        if found > bounds[what]:
            raise InvalidInput(
                f"{what} is over the operator's bound.",
                hint=f"An operator can raise max_{what} of the target.",
            )


def _check_request(size: _Size) -> None:
    request, wanted = parse_quantity(size.request or "0"), parse_quantity(size.wanted)
    if _same(size.request, size.limit) or request is None or wanted is None or request <= wanted:
        return
    raise InvalidInput(
        f"{size.what} would be under what each instance asks for ({size.request}).",
        hint="Pass at least that; a person can lower the request.",
    )


def _size(what: str, wanted: str, container: Obj) -> _Size:
    return _Size(
        what=what,
        limit=_written(container, "limits", what),
        request=_written(container, "requests", what),
        wanted=wanted,
    )


def _written(container: Obj, part: str, what: str) -> str | None:
    found = dig(container, "resources", part, what)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found)[:30]


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    left, right = parse_quantity(one), parse_quantity(other)
    return one == other or (left is not None and left == right)


def _lines(seen: Seen, container: str, moving: list[_Size]) -> list[str]:
    lines = [
        f"Replace {seen.now.desired} instances of {seen.name}, container {container}, with others:"
    ]
    for size in moving:
        lines.append(f"{size.what} limit {size.limit or 'none'} → {size.wanted}.")
        if size.request_wanted != size.request:
            lines.append(f"{size.what} request {size.request} → {size.request_wanted}.")
    if killed := _killed(seen):
        lines.append(f"{killed} containers were killed for using too much memory.")
    return lines


def _evidence(seen: Seen, container: str, sizes: list[_Size]) -> dict[str, Any]:
    found: dict[str, Any] = {"container": container, "memory_kills_before": _killed(seen)}
    for size in sizes:
        found[f"{size.what}_limit_before"] = size.limit
        found[f"{size.what}_request_before"] = size.request
        found[f"{size.what}_limit"] = size.wanted
        found[f"{size.what}_request"] = size.request_wanted
    return found


def _killed(seen: Seen) -> int:
    return sum(pod.oom_kills for pod in seen.pods)


def _resources(moving: list[_Size]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for size in moving:
        found["limits"][size.what] = size.wanted
        if size.request_wanted is not None:
            found["requests"][size.what] = size.request_wanted
    return {part: amounts for part, amounts in found.items() if amounts}


async def _undo(site: Site, seen: Seen, moving: list[_Size]) -> Undo | None:
    """The old limits; where there was none, the version from before."""
    if any(size.limit is None for size in moving):
        return await undo_by_version(site, seen)
    before = {size.what: size.limit for size in moving}
    return Undo(tool="set_resources", arguments={"name": seen.name, **before})


async def _body(_site: Site, plan: Plan, _workload: Obj, _at: str) -> Obj:
    container = {"name": plan.values["container"], "resources": plan.values["resources"]}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


HANDLERS: Final[Mapping[str, Handler]] = {
    RESOURCES: Patch(body=_body, follow_up=follow_rollout, forbidden=blocked_now)
}
