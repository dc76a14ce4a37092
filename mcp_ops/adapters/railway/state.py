"""Railway's answers as plain data: services, their deployments, and what each of them runs.

What an answer holds is not trusted: what is missing or of another kind is left out, an object
without a usable id is a bad answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from mcp_ops.clock import rfc3339
from mcp_ops.errors import BadAnswer
from mcp_ops.redact import tame

UNDER_WAY: Final = frozenset(
    {"QUEUED", "INITIALIZING", "BUILDING", "DEPLOYING", "WAITING", "NEEDS_APPROVAL"}
)
GONE: Final = frozenset({"REMOVED", "REMOVING", "SKIPPED"})
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}")
_REPLICAS: Final = 1_000
_INSTANCES: Final = 1_000

Obj = Mapping[str, Any]


def mapping(value: Any, *path: str) -> Obj:
    """The object under a path, empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def text(value: Any, *path: str) -> str:
    """The text under a path, empty where there is none."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def objects(value: Any, *path: str) -> list[Obj]:
    """The objects of a list under a path."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def nodes(value: Any, *path: str) -> Iterator[Obj]:
    """The nodes of a connection."""
    for edge in objects(value, *path, "edges"):
        yield mapping(edge, "node")


def next_page(value: Any, *path: str) -> str:
    """The cursor of the next page of a connection, empty at its end."""
    page = mapping(value, *path, "pageInfo")
    return text(page, "endCursor") if page.get("hasNextPage") is True else ""


def plain(name: str) -> str:
    """The name of an image, a repository, a commit or a region, which stand in our sentences;
    empty for what can be none."""
    return name if _NAME.fullmatch(name) else ""


def id_of(value: Any, name: str = "id") -> str:
    """An id; raises `BadAnswer` for what can be none."""
    found = text(value, name)
    if not _ID.fullmatch(found):
        raise BadAnswer("Railway named an object without an id that can be used.")
    return found


def seconds(stamp: str) -> float | None:
    """A time of the API as Unix seconds."""
    try:
        found = datetime.fromisoformat(stamp[:40])
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def moment(stamp: str) -> str | None:
    """A time of the API as we write times."""
    at = seconds(stamp)
    try:
        return None if at is None else rfc3339(at)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment. `version` is what tells two releases apart: a commit or an image."""

    id: str
    status: str
    created: float
    status_at: float | None
    stopped: bool
    can_redeploy: bool
    can_rollback: bool
    commit: str
    image: str
    repo: str
    message: str
    regions: Mapping[str, int]
    replicas: int | None
    instances: tuple[tuple[str, str], ...]

    @property
    def version(self) -> str:
        """The commit or image, empty where Railway names neither."""
        return self.commit or self.image

    @property
    def shown(self) -> str:
        """What runs, for people."""
        if self.commit:
            return f"{self.repo or 'repository'}@{self.commit[:12]}"
        return self.image or self.repo or f"deployment {self.id}"

    @property
    def running(self) -> list[str]:
        """The ids of the instances that run. A sleeping deployment shows some, too: no."""
        if self.status != "SUCCESS" or self.stopped:
            return []
        return [name for name, status in self.instances if status == "RUNNING"]

    @property
    def serves(self) -> bool:
        """Whether it is the one that answers requests, or would when it is woken."""
        return self.status == "SLEEPING" or (self.status == "SUCCESS" and not self.stopped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service in the target's environment, with its newest deployments, newest first."""

    id: str
    title: str
    replicas: int
    region: str
    source: str
    cron: bool
    latest: Deployment | None
    active: tuple[Deployment, ...]
    history: tuple[Deployment, ...] = ()
    cursor: str = ""

    @property
    def current(self) -> Deployment | None:
        """The deployment that runs, else the newest one."""
        serving = [one for one in self.active if one.serves]
        if serving:
            return max(serving, key=lambda one: one.created)
        return max(self.active, key=lambda one: one.created) if self.active else self.latest

    @property
    def regions(self) -> Mapping[str, int]:
        """How many instances are wanted in each region; empty where Railway does not say."""
        if self.current is not None and self.current.regions:
            return self.current.regions
        return {self.region: self.replicas} if self.region else {}

    @property
    def wanted(self) -> int:
        """How many instances the running deployment should have."""
        return wanted(self.current) or self.replicas


def wanted(deployment: Deployment | None) -> int:
    """How many instances a deployment should have; 0 where it does not say."""
    if deployment is None:
        return 0
    return sum(deployment.regions.values()) or deployment.replicas or 0


def read_deployment(raw: Obj) -> Deployment:
    """One deployment; raises `BadAnswer`."""
    meta = mapping(raw, "meta")
    deploy = mapping(meta, "serviceManifest", "deploy")
    status = text(raw, "status")
    created = seconds(text(raw, "createdAt"))
    if created is None or not status.isascii() or not status.isidentifier():
        raise BadAnswer("Railway described a deployment without status or time.")
    return Deployment(
        id=id_of(raw),
        status=status[:40],
        created=created,
        status_at=seconds(text(raw, "statusUpdatedAt")),
        stopped=raw.get("deploymentStopped") is True,
        can_redeploy=raw.get("canRedeploy") is True,
        can_rollback=raw.get("canRollback") is True,
        commit=plain(text(meta, "commitHash")),
        image=plain(text(meta, "image")),
        repo=plain(text(meta, "repo")),
        message=text(meta, "commitMessage")[:500],
        regions=_regions(mapping(deploy, "multiRegionConfig")),
        replicas=_count(deploy.get("numReplicas")),
        instances=tuple(
            (id_of(one), text(one, "status")[:40]) for one in objects(raw, "instances")[:_INSTANCES]
        ),
    )


def read_service(raw: Obj, *, history: Any = None) -> Service:
    """One service; `history` is its connection of deployments. Raises `BadAnswer`."""
    latest = mapping(raw, "latestDeployment")
    source = mapping(raw, "source")
    past = [read_deployment(one) for one in nodes(history)] if history is not None else []
    return Service(
        id=id_of(raw, "serviceId"),
        title=tame(text(raw, "serviceName"), 100),
        replicas=_count(raw.get("numReplicas")) or 1,
        region=plain(text(raw, "region")),
        source=plain(text(source, "image") or text(source, "repo")),
        cron=bool(text(raw, "cronSchedule")),
        latest=read_deployment(latest) if latest else None,
        active=tuple(read_deployment(one) for one in objects(raw, "activeDeployments")),
        history=tuple(sorted(past, key=lambda one: -one.created)),
        cursor=next_page(history) if history is not None else "",
    )


def _regions(raw: Obj) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in list(raw.items())[:50]:
        count = _count(mapping(value).get("numReplicas"))
        if count and isinstance(name, str) and plain(name):
            found[name] = count
    return found


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _REPLICAS:
        return None
    return value
