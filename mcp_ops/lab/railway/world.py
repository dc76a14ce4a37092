"""The project of the lab: services, and deployments that build, start, run and end over time.

Nothing runs by itself: what has become of a deployment follows from how many steps have passed
since it was made, and is worked out whenever somebody looks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["good", "crashes", "build-fails", "hangs"]

PROJECT: Final = "0b7a5c1e-0000-4000-8000-0000000000a1"
ENVIRONMENT: Final = "0b7a5c1e-0000-4000-8000-0000000000e1"
OTHER_PROJECT: Final = "0b7a5c1e-0000-4000-8000-0000000000a2"
OTHER_ENVIRONMENT: Final = "0b7a5c1e-0000-4000-8000-0000000000e2"
EAST: Final = "us-east4-eqdc4a"
WEST: Final = "europe-west4-drams3a"
_KEPT: Final = 6  # how many of a service's images Railway would still have
_BUILD: Final = ("INITIALIZING", "BUILDING", "DEPLOYING", "DEPLOYING", "SUCCESS")
_START: Final = ("INITIALIZING", "DEPLOYING", "DEPLOYING", "SUCCESS")


@dataclass(slots=True, kw_only=True)
class Line:
    """A line of a log."""

    at: float
    text: str
    severity: str = "info"
    instance: str = ""


@dataclass(slots=True, kw_only=True)
class Deployment:
    """One deployment. `born` is when it was made, `settled` what it came to for good."""

    id: str
    service: Service
    born: float
    commit: str
    image: str
    message: str
    reason: str
    regions: dict[str, int]
    variables: dict[str, str]
    outcome: Outcome = "good"
    builds: bool = True
    instances: list[str] = field(default_factory=list)
    settled: str = ""
    settled_at: float = 0.0
    stopped_at: float | None = None
    restarted_at: float | None = None
    lines: list[Line] = field(default_factory=list)
    build_lines: list[Line] = field(default_factory=list)

    def phase(self, now: float, step: float) -> str:
        """The status that it has come to by itself."""
        if self.settled:
            return self.settled
        way = _BUILD if self.builds else _START
        at = int((now - (self.restarted_at or self.born)) / step)
        if self.restarted_at is not None:
            at += len(way) - 1
        if self.outcome == "build-fails" and at >= 2:
            return "FAILED"
        if self.outcome == "hangs":
            return way[min(at, len(way) - 2)]
        if self.outcome == "crashes" and at >= len(way) + 1:
            return "CRASHED"
        return way[min(at, len(way) - 1)]

    def since(self, now: float, step: float) -> float:
        """When it came to the status that it has. A stop changes neither."""
        if self.settled:
            return self.settled_at
        status, at = self.phase(now, step), self.restarted_at or self.born
        while at + step <= now and self.phase(at, step) != status:
            at += step
        return at

    def instance_state(self, now: float, step: float) -> str:
        """The status of each instance."""
        status = self.phase(now, step)
        if self.stopped(now, step):
            return "EXITED"
        if self.restarted_at is not None and now - self.restarted_at < step:
            return "CREATED"
        known = {"CRASHED": "CRASHED", "FAILED": "REMOVED", "REMOVING": "REMOVING"}
        known |= {"REMOVED": "REMOVED", "INITIALIZING": "INITIALIZING", "BUILDING": "INITIALIZING"}
        if self.outcome == "hangs" and status == "DEPLOYING":
            return "CREATED"
        return known.get(status, "RUNNING")

    def stopped(self, now: float, step: float) -> bool:
        """Whether a stop shows: that takes a step."""
        return self.stopped_at is not None and now - self.stopped_at >= step


@dataclass(slots=True, kw_only=True)
class Service:
    """A service; `head` is the newest commit of its repository."""

    id: str
    name: str
    repo: str = ""
    image: str = ""
    head: str = ""
    cron: str | None = None
    regions: dict[str, int] = field(default_factory=lambda: {EAST: 1})
    variables: dict[str, str] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    deployments: list[Deployment] = field(default_factory=list)  # oldest first


class World:
    """Everything in the environment. `step` is one step of a deployment, in seconds."""

    def __init__(self, *, clock: Callable[[], float], step: float) -> None:
        self._clock = clock
        self.step = step
        self.services: dict[str, Service] = {}
        self.quiet_stops = False
        self.next_outcome: Outcome = "good"
        self._last = 0.0

    def now(self) -> float:
        """The lab's time."""
        return self._clock()

    def by_name(self, name: str) -> Service:
        """A service by its name; raises `KeyError`."""
        return next(each for each in self.services.values() if each.name == name)

    def deployments(self) -> Iterator[Deployment]:
        """All deployments."""
        for service in self.services.values():
            yield from service.deployments

    def add(self, service: Service) -> Service:
        """Make a service, not deployed yet."""
        self.services[service.id] = service
        return service

    def deploy(
        self,
        service: Service,
        *,
        reason: str,
        commit: str = "",
        image: str = "",
        message: str = "",
        outcome: Outcome | None = None,
        builds: bool = False,
        at: float | None = None,
    ) -> Deployment:
        """Make a deployment of a version with the settings of now."""
        born = self.now() if at is None else at
        # Two that are made at the same moment still have an order.
        self._last = born = max(born, self._last + 0.005)
        found = Deployment(
            id=str(uuid.uuid4()),
            service=service,
            born=born,
            commit=commit,
            image=image,
            message=message,
            reason=reason,
            regions=dict(service.regions),
            variables=dict(service.variables),
            outcome=self.next_outcome if outcome is None else outcome,
            builds=builds,
            instances=[str(uuid.uuid4()) for _ in range(sum(service.regions.values()))],
        )
        found.build_lines = _build_log(found)
        found.lines = _start_log(found, born + self.step * 2)
        service.deployments.append(found)
        return found

    def again(self, one: Deployment, *, reason: str, outcome: Outcome | None = None) -> Deployment:
        """Deploy the version of a deployment once more; a bad release stays one."""
        same = one.outcome if one.outcome != "hangs" else None
        return self.deploy(
            one.service,
            reason=reason,
            commit=one.commit,
            image=one.image,
            message=one.message,
            outcome=outcome or (same if same != "good" else None),
        )

    def settle(self) -> None:
        """Take out of service what a newer deployment has replaced."""
        now = self.now()
        for service in self.services.values():
            # One that crashed had started, too.
            up = [
                one
                for one in service.deployments
                if one.phase(now, self.step) in ("SUCCESS", "CRASHED", "SLEEPING")
            ]
            for one in service.deployments:
                self._age(one, newest_up=up[-1].born if up else 0.0, now=now)

    def _age(self, one: Deployment, *, newest_up: float, now: float) -> None:
        status = one.phase(now, self.step)
        if status in ("SUCCESS", "CRASHED", "SLEEPING") and one.born < newest_up:
            one.settled, one.settled_at = "REMOVING", now
        elif status == "REMOVING" and now - one.settled_at >= self.step:
            one.settled, one.settled_at = "REMOVED", now

    def restart(self, one: Deployment) -> None:
        """Start its containers again; the deployment and its instances stay the same ones."""
        now = self.now()
        one.lines += [Line(at=now, text="Stopping Container")] if one.stopped_at is None else []
        one.lines += _start_log(one, now + 0.001)
        one.restarted_at, one.stopped_at = now, None

    def stop(self, one: Deployment) -> None:
        """Stop its containers; of some images that never shows."""
        now = self.now()
        one.lines.append(Line(at=now, text="Stopping Container"))
        if not self.quiet_stops:
            one.stopped_at = now

    def restorable(self, one: Deployment) -> bool:
        """Whether its image is still there."""
        newest = [each.id for each in one.service.deployments[-_KEPT:]]
        return one.id in newest and one.outcome != "build-fails"


def _build_log(one: Deployment) -> list[Line]:
    if not one.builds:
        return []
    found = [
        Line(at=one.born, text=f"scheduling build of {one.commit[:7]}"),
        Line(at=one.born + 0.001, text="\x1b[32minstall\x1b[0m pip install -r requirements.txt"),
    ]
    if one.outcome == "build-fails":
        text = "ERROR: No matching distribution found for fastapi==9.9.9"
        found.append(Line(at=one.born + 0.002, text=text, severity="error"))
    return found


def _start_log(one: Deployment, at: float) -> list[Line]:
    instance = one.instances[0] if one.instances else ""
    found = [
        Line(at=at, text="Starting Container", instance=instance),
        Line(at=at + 0.001, text="Uvicorn running on http://0.0.0.0:8080", instance=instance),
        Line(
            at=at + 0.002,
            text="GET /api/mcp/customer/random 200 query_duration_ms=1240",
            instance=instance,
        ),
    ]
    if one.outcome == "crashes":
        found.append(
            Line(
                at=at + 0.003,
                text="DATABASE_URL is required",
                severity="error",
                instance=instance,
            )
        )
    return found


def seeded(*, clock: Callable[[], float], step: float) -> World:
    """The e-commerce project: a backend, a store in two regions, a worker and two data stores."""
    world = World(clock=clock, step=step)
    now = clock() - 86_400

    def service(number: int, name: str, **more: Any) -> Service:
        key = f"0b7a5c1e-0000-4000-8000-00000000005{number}"
        return world.add(Service(id=key, name=name, **more))

    backend = service(
        1,
        "ecommerce-backend",
        repo="acme/ecommerce-backend",
        head="c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3",
        regions={EAST: 2},
        variables={
            "ALLOWED_ORIGINS": "https://shop.example",
            "ANTHROPIC_API_KEY": "lab-anthropic-key-1234567890",
            "DATABASE_URL": "${{Postgres.DATABASE_URL}}",
            "DB_MAX_OVERFLOW": "20",
            "DB_POOL_SIZE": "30",
            "REDIS_URL": "${{Redis.REDIS_URL}}",
            "REPORTS_URL": "${{Reports.URL}}",
        },
        sealed={"SIGNING_KEY"},
    )
    store = service(
        2,
        "Store Front",
        repo="acme/store",
        head="d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4",
        regions={EAST: 2, WEST: 1},
    )
    worker = service(3, "sync-worker", repo="acme/ecommerce-backend", head=backend.head)
    stores = [
        service(4, "Postgres", image="ghcr.io/railwayapp-templates/postgres-ssl:16"),
        service(5, "Redis", image="redis:7.2"),
    ]
    for number, commit in enumerate(("a1" * 20, "b2" * 20, "c3" * 20)):
        message = f"Release {number + 1}"
        for each in (backend, worker):
            _old(world, each, now + number * 3_600, commit=commit, message=message)
    _old(world, store, now, commit="d4" * 20, message="Release 9")
    for each in stores:
        _old(world, each, now, image=each.image)
    world.settle()
    for one in world.deployments():
        if one.settled == "REMOVING":
            one.settled = "REMOVED"
    return world


def _old(world: World, service: Service, at: float, **version: str) -> None:
    world.deploy(service, reason="deploy", at=at, outcome="good", **version)  # type: ignore[arg-type]
