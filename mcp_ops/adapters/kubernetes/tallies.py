"""What the pods of many workloads suffer from, in numbers: read page by page, and not kept.

A namespace with few pods is read whole; in a large one the pods of each workload on the page are
read by its selector, so that a page costs what it shows and not what the namespace holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, name_of, objects, text, uid_of
from mcp_ops.adapters.kubernetes.look import selector_of
from mcp_ops.adapters.kubernetes.pods import count_pod
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, Kind, counts_of
from mcp_ops.capabilities.deployments import Problem
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, Failed, Forbidden, Upstream
from mcp_ops.wire.together import together

WHOLE: Final = 500
MOST_PODS: Final = 20_000
MOST_S: Final = 20.0
_PAGE: Final = 250
_AT_ONCE: Final = 4
_HASH: Final = "pod-template-hash"
_ASK: Final = Ask(verb="list", resource="pods")
_UNANSWERED: Final = "not all pods: the API server did not answer for some"
_TOO_MANY: Final = "not all pods: there are too many to count in one call"
Workload = tuple[Kind, Obj]


@dataclass(slots=True)
class Tally:
    """The pods of one workload: how often their containers restarted, and what ails them."""

    restarts: int = 0
    troubles: set[Problem] = field(default_factory=set)

    def add(self, pod: Obj, now: float) -> None:
        """One more pod."""
        restarts, trouble = count_pod(pod, now=now)
        self.restarts += restarts
        self.troubles.add(trouble)


@dataclass(slots=True)
class Tallies:
    """By workload. What is not there was not counted; `why` says so, or is empty."""

    by_uid: dict[str, Tally] = field(default_factory=dict)
    why: str = ""
    pods: int = 0

    def of(self, workload: Obj) -> Tally | None:
        """The tally of a workload, where it was counted to the end."""
        return self.by_uid.get(uid_of(workload))


async def tally(api: Api, workloads: list[Workload], *, clock: Clock) -> Tallies:
    """Count the pods of these, at most 20,000 and for at most 20 seconds."""
    found = Tallies()
    wanted = [one for one in workloads if counts_of(*one).desired]
    for _, idle in (one for one in workloads if not counts_of(*one).desired):
        found.by_uid[uid_of(idle)] = Tally()
    if not wanted:
        return found
    try:
        small = sum(counts_of(*one).desired for one in wanted) <= WHOLE
        if small and await _whole(api, wanted, found, clock.now()):
            return found
        await _each(api, wanted, found, clock)
    except Forbidden:
        found.why = "not pods (no permission)"
    except Upstream:
        found.why = _UNANSWERED
    return found


async def _whole(api: Api, wanted: list[Workload], found: Tallies, now: float) -> bool:
    """Count all pods of the namespace in one page; whether that was all of them."""
    pods, more = await api.list_page(api.path("", "pods"), _ASK, limit=WHOLE)
    if more:
        return False
    owners = {_owner(kind, workload): Tally() for kind, workload in wanted}
    for pod in pods:
        held = owners.get(_owner_of(pod))
        if held is not None:
            held.add(pod, now)
    found.pods = len(pods)
    found.by_uid |= {uid_of(one): owners[_owner(kind, one)] for kind, one in wanted}
    return True


async def _each(api: Api, wanted: list[Workload], found: Tallies, clock: Clock) -> None:
    until = clock.monotonic() + MOST_S

    async def count(kind: Kind, workload: Obj) -> None:
        if found.pods >= MOST_PODS or clock.monotonic() >= until:
            found.why = _TOO_MANY
            return
        try:
            held = await _counted(api, kind, workload, found, clock.now())
        except Failed:
            found.why = _UNANSWERED
            return
        if held is not None:
            found.by_uid[uid_of(workload)] = held

    selected = [one for one in wanted if selector_of(one[1])]
    await together([partial(count, *one) for one in selected], at_once=_AT_ONCE)


async def _counted(api: Api, kind: Kind, workload: Obj, found: Tallies, now: float) -> Tally | None:
    """The pods of one workload; None, and why, where they could not be counted to the end."""
    for _ in range(2):
        try:
            return await _pages(api, kind, workload, found, now)
        except Conflict:
            continue  # 410: the rest of the list is gone; from a new beginning it is one again
    found.why = "not all pods: they changed faster than they could be read"
    return None


async def _pages(api: Api, kind: Kind, workload: Obj, found: Tallies, now: float) -> Tally | None:
    query: dict[str, str | int] = {"labelSelector": selector_of(workload)}
    if counts_of(kind, workload).desired <= _PAGE:
        query["resourceVersion"] = "0"  # from the server's memory, which knows no pages
    else:
        query["limit"] = _PAGE
    held, owner = Tally(), _owner(kind, workload)
    while True:
        pods, token = await api.list_page(api.path("", "pods"), _ASK, **query)
        found.pods += len(pods)
        for pod in pods:
            if _owner_of(pod) == owner:
                held.add(pod, now)
        if not token:
            return held
        if found.pods >= MOST_PODS:
            found.why = _TOO_MANY
            return None
        query["continue"] = token


def _owner(kind: Kind, workload: Obj) -> tuple[str, str]:
    """What a pod's owner is told by: the workload's uid, or the name of its deployment."""
    return ("", name_of(workload)) if kind is DEPLOYMENT else (uid_of(workload), "")


def _owner_of(pod: Obj) -> tuple[str, str]:
    for one in _controllers(objects(pod, "metadata", "ownerReferences")):
        suffix = f"-{text(pod, 'metadata', 'labels', _HASH)}"
        name = text(one, "name")
        # A replica set is named after its deployment and the template's hash; so no replica set
        # has to be read.
        if one.get("kind") == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
            return "", name.removesuffix(suffix)
        return text(one, "uid"), ""
    return "", ""


def _controllers(references: Iterable[Obj]) -> Iterable[Obj]:
    return (one for one in references if one.get("controller") is True)
