"""What all changes of a service share: looked at again, sent once, found and followed.

Railway takes no version with a change and keeps no mark of who asked. So the newest deployment
that was looked at is the lock, checked right before the change is sent, and a lost answer is
settled by what Railway shows afterwards: a deployment that was not there before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from mcp_ops.adapters.railway.access import Access, Scope
from mcp_ops.adapters.railway.api import Api
from mcp_ops.adapters.railway.operations import Query
from mcp_ops.adapters.railway.reading import Reading
from mcp_ops.adapters.railway.state import (
    UNDER_WAY,
    Deployment,
    Service,
    mapping,
    read_deployment,
    text,
)
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import BadAnswer, Conflict, Failed, Forbidden, NotFound, Rejected
from mcp_ops.redact import Redactor

LOOK: Final = 10
_REMEMBERED: Final = 256
_LOOKS: Final = 3
_LOOK: Final = "Look with get_deployment, then decide again."


@dataclass(slots=True)
class Driver:
    """What a change is made with, and what it remembers while it is followed."""

    api: Api
    access: Access
    reading: Reading
    clock: Clock
    redactor: Redactor
    steady_s: float
    recheck_s: float
    _made: OrderedDict[str, Begun] = field(default_factory=OrderedDict)
    _since: OrderedDict[str, float] = field(default_factory=OrderedDict)
    _locks: dict[str, anyio.Lock] = field(default_factory=dict)

    def steady(self, what: str, holds: bool) -> bool:
        """Whether something held at every look for as long as it has to: a release that ends
        right after its start is no success."""
        if not holds:
            self._since.pop(what, None)
            return False
        now = self.clock.monotonic()
        since = self._since.setdefault(what, now)
        _bound(self._since)
        return now - since >= self.steady_s

    async def deployment(self, service: Service, wanted: str) -> Deployment | None:
        """A deployment of the service in this environment, however old it is."""
        found = deployment_of(service, wanted)
        if found is not None:
            return found
        scope = await self.access.scope()
        try:
            raw = mapping(
                await self.api.ask(Query.DEPLOYMENT, {"deployment": wanted}), "deployment"
            )
        except (NotFound, Forbidden, Rejected):
            return None
        place = (text(raw, "serviceId"), text(raw, "environmentId"))
        return read_deployment(raw) if place == (service.id, scope.environment) else None

    async def begin(self, plan: Plan, action: Action, call_id: str) -> Begun:
        """See `Changeable.begin`."""
        if call_id in self._made:
            return self._made[call_id]
        lock = self._locks.setdefault(plan.values["service"], anyio.Lock())
        async with lock:
            if call_id in self._made:
                return self._made[call_id]
            scope, service = await self.checked(plan, action)
            at = rfc3339(self.clock.now())
            made = await action.send(self, scope, plan, service)
            begun = Begun(name=plan.name, at=at, id=made.id, evidence=made.evidence)
            self._made[call_id] = begun
            _bound(self._made)
            return begun

    async def checked(self, plan: Plan, action: Action) -> tuple[Scope, Service]:
        """The service as it is now. Raises `Conflict` when it is not what was looked at, and what
        `Access.verify` raises; whatever it raises, nothing was sent."""
        try:
            scope = await self.access.verify()
            service = await self.reading.service(scope, plan.values["service"], first=LOOK)
            _same(plan, service)
            if why := await action.changed(self, plan, scope, service):
                raise Conflict(f"{why}; nothing was done.", hint=_LOOK)
        except Failed as failed:
            failed.executed = "no"
            raise
        return scope, service

    async def find(self, plan: Plan, action: Action, call_id: str) -> Begun | None:
        """See `Changeable.find`."""
        if call_id in self._made:
            return self._made[call_id]
        found = await self._traced(plan, action)
        if found is None:
            return None
        evidence = {**found.evidence, "found_by": "what Railway shows; it keeps no mark of calls"}
        at = rfc3339(self.clock.now())
        return Begun(name=plan.name, at=at, id=found.id, evidence=evidence)

    async def _traced(self, plan: Plan, action: Action) -> Made | None:
        """Look a few times: what Railway has done shows a second or two later."""
        scope = await self.access.scope()
        for looks_left in reversed(range(_LOOKS)):
            service = await self.reading.service(scope, plan.values["service"], first=LOOK)
            found = await action.trace(self, plan, scope, service)
            if found is not None:
                return found
            if looks_left:
                await anyio.sleep(self.recheck_s)
        return None

    async def follow(self, plan: Plan, begun: Begun, action: Action) -> Progress:
        """See `Changeable.follow`."""
        scope = await self.access.scope()
        service = await self.reading.service(scope, plan.values["service"], first=LOOK)
        return await action.judge(self, plan, begun, scope, service)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a change made: the id of a deployment, where Railway names it."""

    id: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


async def _as_it_was(_driver: Driver, _plan: Plan, _scope: Scope, _service: Service) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One kind of change. `changed` says what is another thing than when it was planned (a
    sentence without its stop), `trace` finds the change where the answer was lost."""

    send: Callable[[Driver, Scope, Plan, Service], Awaitable[Made]]
    trace: Callable[[Driver, Plan, Scope, Service], Awaitable[Made | None]]
    judge: Callable[[Driver, Plan, Begun, Scope, Service], Awaitable[Progress]]
    changed: Callable[[Driver, Plan, Scope, Service], Awaitable[str]] = _as_it_was


def plan_of(
    action: str,
    name: str,
    service: Service,
    *,
    acted: Deployment | None,
    lines: list[str],
    **more: Any,
) -> Plan:
    """The plan of a change: what every plan tells of the service as it is."""
    newest = service.latest
    evidence: dict[str, Any] = more.pop("evidence", {})
    if acted is not None:
        evidence = {**seen(acted, "before"), **evidence}
    if newest is not None and acted is not None and newest.id != acted.id:
        evidence = {**evidence, "newest_deployment": newest.id, "newest_status": newest.status}
    values = {
        "service": service.id,
        "deployment": acted.id if acted is not None else "",
        "version": acted.version if acted is not None else "",
        "latest": newest.id if newest is not None else "",
        "latest_at": newest.created if newest is not None else 0.0,
        "wanted": service.wanted,
        **more.pop("values", {}),
    }
    state = {"deployment": values["latest"], "replicas": service.wanted, **more.pop("state", {})}
    # By both of its names: a service gets the longer one when another has the shorter one, too.
    short = name.removesuffix(f".{service.id.lower()}")
    return Plan(
        action=action,
        name=name,
        lines=lines,
        state=state,
        reaches=sorted({short, f"{short}.{service.id.lower()}"} - {name}),
        lock=values["latest"],
        values=values,
        evidence=evidence,
        **more,
    )


def settled(service: Service, why: str) -> None:
    """Raise `Conflict` while a newer deployment is under way: what is decided about the one that
    runs would meet another one."""
    newest = service.latest
    if newest is not None and newest.status in UNDER_WAY:
        raise Conflict(
            f"A deployment is under way ({newest.id}, {newest.status}): {why}.",
            hint="Wait until it runs or has failed; get_deployment shows it.",
        )


def seen(one: Deployment, when: str = "") -> dict[str, Any]:
    """What a look tells people of a deployment."""
    tail = f"_{when}" if when else ""
    found: dict[str, Any] = {
        f"deployment{tail}": one.id,
        f"status{tail}": "STOPPED" if one.stopped and one.status == "SUCCESS" else one.status,
        f"created{tail}": rfc3339(one.created),
        f"version{tail}": one.shown,
        f"instances{tail}": [name for name, _ in one.instances[:10]],
    }
    if one.status_at is not None:
        found[f"status_since{tail}"] = rfc3339(one.status_at)
    return found


def deployment_of(service: Service, wanted: str) -> Deployment | None:
    """A deployment by its id, wherever the answer has it."""
    every = (*service.active, *service.history, *([service.latest] if service.latest else []))
    return next((one for one in every if one.id == wanted), None)


def newer(plan: Plan, service: Service) -> list[Deployment]:
    """The deployments that were not there at the look, newest first."""
    every = {one.id: one for one in (*service.history, *service.active)}
    if service.latest is not None:
        every[service.latest.id] = service.latest
    at, latest = plan.values["latest_at"], plan.values["latest"]
    found = [one for one in every.values() if one.created >= at and one.id != latest]
    return sorted(found, key=lambda one: -one.created)


def confirmed(data: Any, name: str) -> None:
    """Raise `BadAnswer` unless Railway says that it did it."""
    if not isinstance(data, dict) or data.get(name) is not True:
        raise BadAnswer("Railway did not confirm the change.")


def _same(plan: Plan, service: Service) -> None:
    newest = service.latest.id if service.latest is not None else ""
    if newest != plan.lock:
        raise Conflict(
            "Another deployment was made since it was looked at; nothing was done.", hint=_LOOK
        )


def _bound(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)
