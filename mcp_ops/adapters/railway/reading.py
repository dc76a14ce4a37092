"""The services of the environment, one of them in full, and its earlier deployments.

A service is named in lower case, other characters as `-`: `My API` is `my-api`. Where two would
have one name, each has its id behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from mcp_ops.adapters.railway.access import Access, Scope
from mcp_ops.adapters.railway.api import Api
from mcp_ops.adapters.railway.judgement import failing, judge
from mcp_ops.adapters.railway.operations import Query
from mcp_ops.adapters.railway.state import (
    Deployment,
    Obj,
    Service,
    id_of,
    mapping,
    moment,
    next_page,
    nodes,
    read_service,
    text,
)
from mcp_ops.capabilities.base import UntrustedLine
from mcp_ops.capabilities.deployments import (
    Condition,
    DeploymentDetail,
    DeploymentPage,
    Event,
    Instance,
    Revision,
    RevisionPage,
)
from mcp_ops.capabilities.deployments import Deployment as Listed
from mcp_ops.clock import rfc3339
from mcp_ops.errors import InvalidInput, NotFound, Upstream

PAGE: Final = 100
_PAGES: Final = 10
HISTORY: Final = 20
_EVENTS: Final = 10
_NOT_OF_A_NAME: Final = re.compile(r"[^a-z0-9.]+")
_CURSOR: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,400}")


class Reading:
    """Reads of one target."""

    def __init__(self, api: Api, access: Access) -> None:
        self._api = api
        self._access = access

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """A page by name. Railway pages in an order of its own, so all names are read, and the
        state of all: at most 1,000 services, a request for each hundred."""
        scope = await self._access.scope()
        found = sorted(
            _named(await self._pages(scope, Query.OVERVIEW)).items(), key=lambda each: each[0]
        )
        after = [(name, raw) for name, raw in found if name > cursor]
        items = [_listed(name, read_service(raw)) for name, raw in after[:limit]]
        more = len(after) > limit
        return DeploymentPage(
            items=items,
            next_cursor=items[-1].name if more else "",
            truncated=more,
            searched=f"{len(found)} services of the environment",
        )

    async def names(self, scope: Scope) -> dict[str, Obj]:
        """The services by our name; each has its `serviceId` and `serviceName`."""
        return _named(await self._pages(scope, Query.SERVICES))

    async def named(
        self, name: str, *, first: int = HISTORY, after: str = ""
    ) -> tuple[Scope, Service]:
        """A service with its newest deployments; raises `NotFound`."""
        scope = await self._access.scope()
        found = (await self.names(scope)).get(name)
        if found is None:
            raise NotFound(
                "There is no service of this name in the environment.",
                hint="list_deployments shows the names.",
            )
        key = id_of(found, "serviceId")
        return scope, await self.service(scope, key, first=first, after=after)

    async def service(
        self, scope: Scope, service: str, *, first: int = HISTORY, after: str = ""
    ) -> Service:
        """A service by its id, with a page of its deployments: one request."""
        data = await self._api.ask(
            Query.SERVICE,
            {
                "project": scope.project,
                "environment": scope.environment,
                "service": service,
                "first": first,
                "after": after or None,
            },
        )
        return read_service(mapping(data, "serviceInstance"), history=mapping(data, "deployments"))

    async def describe(self, name: str, *, now: float) -> DeploymentDetail:
        """The service, its newest ten deployments and what went wrong in the newest."""
        _, service = await self.named(name)
        steps = await self._failed_steps(service.latest)
        return _detail(name, service, steps, now=now)

    async def list_revisions(self, name: str, *, limit: int, cursor: str) -> RevisionPage:
        """The deployments of a service, newest first, a request a page."""
        if cursor and not _CURSOR.fullmatch(cursor):
            raise InvalidInput("The cursor is none of this list.", hint="Begin without one.")
        _, service = await self.named(name, first=limit, after=cursor)
        current = service.current
        return RevisionPage(
            name=name,
            items=[_revision(one, current) for one in service.history],
            next_cursor=service.cursor,
            truncated=bool(service.cursor),
            searched=f"{len(service.history)} deployments of the service in this environment",
        )

    async def _pages(self, scope: Scope, query: Query) -> list[Obj]:
        found: list[Obj] = []
        after = ""
        for _ in range(_PAGES):
            data = await self._api.ask(
                query,
                {
                    "project": scope.project,
                    "environment": scope.environment,
                    "first": PAGE,
                    "after": after or None,
                },
            )
            found += nodes(data, "environment", "serviceInstances")
            after = next_page(data, "environment", "serviceInstances")
            if not after:
                break
        return found

    async def _failed_steps(self, newest: Deployment | None) -> list[Event]:
        if newest is None or newest.status not in ("FAILED", "CRASHED"):
            return []
        try:
            data = await self._api.ask(Query.EVENTS, {"deployment": newest.id, "last": 20})
        except Upstream:  # the rest of the answer is worth having without it
            return []
        found = []
        for node in nodes(data, "deploymentEvents"):
            error = text(node, "payload", "error") or text(node, "payload", "reason")
            if error:
                at = moment(text(node, "completedAt") or text(node, "createdAt"))
                found.append(
                    Event(at=at, type="Step", reason=text(node, "step"), message=error, count=1)
                )
        return found[-_EVENTS:][::-1]


def _named(raw: Iterable[Obj]) -> dict[str, Obj]:
    """The services by our name for them."""
    services = [(_slug(text(one, "serviceName")), id_of(one, "serviceId"), one) for one in raw]
    often = Counter(slug for slug, _, _ in services)
    return {
        slug if slug and often[slug] == 1 else f"{slug or 'service'}.{key.lower()}": one
        for slug, key, one in services
    }


def _slug(title: str) -> str:
    return _NOT_OF_A_NAME.sub("-", title.lower()).strip("-.")[:200]


def _image(service: Service) -> str:
    current = service.current
    return current.shown if current is not None else service.source


def _listed(name: str, service: Service) -> Listed:
    problem, _ = judge(service)
    ready = _ready(service)
    newest = service.latest
    return Listed(
        name=name,
        image=_image(service),
        desired=service.wanted,
        ready=ready,
        updated=len(newest.running) if newest is not None else 0,
        problem=problem,
    )


def _ready(service: Service) -> int:
    current = service.current
    return len(current.running) if current is not None else 0


def _detail(name: str, service: Service, steps: list[Event], *, now: float) -> DeploymentDetail:
    problem, explanation = judge(service)
    newest, current = service.latest, service.current
    ready = _ready(service)
    return DeploymentDetail(
        name=name,
        image=_image(service),
        revision=current.id if current is not None else None,
        desired=service.wanted,
        ready=ready,
        updated=len(newest.running) if newest is not None else 0,
        available=ready,
        restarts=len(failing(service)),
        oom_kills=0,
        last_deploy=rfc3339(newest.created) if newest is not None else None,
        conditions=_conditions(service),
        events=[*steps, *(_event(one) for one in service.history)][:_EVENTS],
        instances=_instances(service, now=now),
        problem=problem,
        explanation=f"{explanation} Railway tells neither restart counts nor memory kills: the"
        " logs do.",
    )


def _conditions(service: Service) -> list[Condition]:
    """The newest deployment and, where it is another one, the one that runs."""
    shown = {one.id: one for one in (service.latest, service.current) if one is not None}
    return [
        Condition(
            type="Newest" if one is service.latest or one.id == _id(service.latest) else "Running",
            status=one.status,
            reason="stopped" if one.stopped and one.status == "SUCCESS" else "",
            message=f"deployment {one.id}, {one.shown}",
            since=rfc3339(one.status_at) if one.status_at is not None else None,
        )
        for one in shown.values()
    ]


def _id(deployment: Deployment | None) -> str:
    return deployment.id if deployment is not None else ""


def _event(one: Deployment) -> Event:
    line: UntrustedLine = " ".join(part for part in (one.shown, one.message) if part)
    return Event(
        at=rfc3339(one.created), type="Deployment", reason=one.status, message=line, count=1
    )


def _instances(service: Service, *, now: float) -> list[Instance]:
    """Of the running deployment, and of the newest where that is another one."""
    shown = {one.id: one for one in (service.current, service.latest) if one is not None}
    found: list[Instance] = []
    for one in shown.values():
        running = set(one.running)
        since = one.status_at or one.created
        found += [
            Instance(
                name=name,
                ready=name in running,
                phase=status,
                restarts=0,
                age_s=max(0, int(now - since)),
                waiting=None if name in running else f"deployment is {one.status}",
            )
            for name, status in one.instances[:50]
        ]
    return found


def _revision(one: Deployment, current: Deployment | None) -> Revision:
    return Revision(
        id=one.id,
        current=current is not None and one.id == current.id,
        image=one.shown,
        made_at=rfc3339(one.created),
        status=one.status,
        cause=one.message,
        restorable=one.can_rollback or one.can_redeploy,
    )
