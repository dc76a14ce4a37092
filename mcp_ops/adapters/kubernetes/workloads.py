"""The three kinds of workload: how they are addressed, counted and listed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    condition,
    flag,
    mapping,
    name_of,
    number,
    objects,
    text,
)
from mcp_ops.capabilities.deployments import Deployment, Problem
from mcp_ops.errors import InvalidInput

NO_PROGRESS: Final = "ProgressDeadlineExceeded"
# A name that none can have is the caller's mistake: it must not count as one of the server.
_PLAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9._]*[a-z0-9])?")
_CURSOR: Final = re.compile(r"([dsa])\.([A-Za-z0-9_=+/.-]{0,500})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of workload. `prefix` stands before the name of all but deployments."""

    name: str
    plural: str
    prefix: str
    letter: str

    @property
    def resource(self) -> str:
        """The resource as access rules name it."""
        return f"{self.plural}.apps"

    def called(self, name: str) -> str:
        """How the tools name a workload of this kind."""
        return f"{self.prefix}{name}"


DEPLOYMENT: Final = Kind(name="Deployment", plural="deployments", prefix="", letter="d")
STATEFUL_SET: Final = Kind(
    name="StatefulSet", plural="statefulsets", prefix="statefulset/", letter="s"
)
DAEMON_SET: Final = Kind(name="DaemonSet", plural="daemonsets", prefix="daemonset/", letter="a")
KINDS: Final = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET)


def parse_name(name: str) -> tuple[Kind, str]:
    """Kind and plain name of `api`, `deployment/api`, `statefulset/db` or `daemonset/agent`."""
    prefix, slash, plain = name.rpartition("/")
    kinds = {"": DEPLOYMENT, **{kind.name.lower(): kind for kind in KINDS}}
    if prefix in kinds and bool(prefix) == bool(slash) and _PLAIN.fullmatch(plain):
        return kinds[prefix], plain
    raise InvalidInput("name must be a name alone, or statefulset/NAME or daemonset/NAME.")


def parse_cursor(cursor: str) -> tuple[int, str]:
    """Which kind a list goes on with, and the API's own token there."""
    if not cursor:
        return 0, ""
    found = _CURSOR.fullmatch(cursor)
    if not found:
        raise InvalidInput("cursor must be the next_cursor of an earlier page.")
    return next(i for i, kind in enumerate(KINDS) if kind.letter == found[1]), found[2]


def cursor_of(index: int, token: str) -> str:
    """The cursor from which `parse_cursor` goes on."""
    return f"{KINDS[index].letter}.{token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many instances a workload wants and has. `olds` are those of an earlier generation."""

    generation: int
    observed: int
    desired: int
    ready: int
    updated: int
    available: int
    olds: int


def counts_of(kind: Kind, workload: Obj) -> Counts:
    """The counts as the workload's own status tells them; absent numbers are zero."""
    status = mapping(workload, "status")
    common = {
        "generation": number(workload, "metadata", "generation", absent=1),
        "observed": number(status, "observedGeneration"),
    }
    if kind is DAEMON_SET:
        desired = number(status, "desiredNumberScheduled")
        updated = number(status, "updatedNumberScheduled")
        return Counts(
            **common,
            desired=desired,
            ready=number(status, "numberReady"),
            updated=updated,
            available=number(status, "numberAvailable"),
            olds=max(number(status, "currentNumberScheduled") - updated, 0),
        )
    ready, updated = number(status, "readyReplicas"), number(status, "updatedReplicas")
    return Counts(
        **common,
        desired=number(workload, "spec", "replicas", absent=1),
        ready=ready,
        updated=updated,
        # Stateful sets count available instances since Kubernetes 1.22 only.
        available=number(status, "availableReplicas", absent=ready if kind is STATEFUL_SET else 0),
        olds=max(number(status, "replicas") - updated, 0),
    )


def image_of(workload: Obj) -> str:
    """The images of the containers, the first in full, the others too as far as three go."""
    containers = objects(workload, "spec", "template", "spec", "containers")
    images = [text(container, "image") for container in containers]
    more = f" (+{len(images) - 3})" if len(images) > 3 else ""
    return ", ".join(images[:3]) + more


def paused(workload: Obj) -> bool:
    """Whether a deployment's rollouts are paused."""
    return flag(workload, "spec", "paused")


def partition_of(kind: Kind, workload: Obj) -> int:
    """How many instances of a stateful set keep their old version by its own wish."""
    if kind is not STATEFUL_SET:
        return 0
    return number(workload, "spec", "updateStrategy", "rollingUpdate", "partition")


def on_delete(kind: Kind, workload: Obj) -> bool:
    """Whether instances are replaced only when somebody deletes them."""
    return kind is not DEPLOYMENT and text(workload, "spec", "updateStrategy", "type") == "OnDelete"


def status_problem(kind: Kind, workload: Obj) -> Problem:
    """What is wrong, as far as the workload's own status tells."""
    counts = counts_of(kind, workload)
    if counts.desired == 0:
        return "none" if kind is DAEMON_SET else "scaled_to_zero"
    late = condition(workload, "Progressing").get("reason") == NO_PROGRESS
    # What the conditions say is of the generation before, until the newest is looked at.
    if counts.generation <= counts.observed and (late or stuck_creating(workload)):
        return "rollout_stuck"
    if paused(workload):
        return "paused"
    if _moving(kind, workload, counts):
        return "rolling_out"
    return "not_ready" if min(counts.available, counts.ready) < counts.desired else "none"


def stuck_creating(workload: Obj) -> bool:
    """Whether the platform can't create instances at all: a quota or an admission rule."""
    return condition(workload, "ReplicaFailure").get("status") == "True"


def _moving(kind: Kind, workload: Obj, counts: Counts) -> bool:
    if counts.generation > counts.observed:
        return True
    if on_delete(kind, workload):
        return False
    kept = min(partition_of(kind, workload), counts.desired)
    if counts.updated < counts.desired - kept or counts.olds > kept:
        return True
    # All are of the new generation; was it ever complete? Only deployments remember.
    reason = condition(workload, "Progressing").get("reason")
    short = counts.available < counts.desired
    return kind is DEPLOYMENT and short and reason in ("ReplicaSetUpdated", "NewReplicaSetCreated")


def listed(kind: Kind, workload: Obj) -> Deployment:
    """One workload of a list."""
    counts = counts_of(kind, workload)
    return Deployment(
        name=kind.called(name_of(workload)),
        image=image_of(workload)[:120],
        desired=counts.desired,
        ready=counts.ready,
        updated=counts.updated,
        problem=status_problem(kind, workload),
    )
