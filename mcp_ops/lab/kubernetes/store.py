"""The objects, their versions, and the log of changes that watches read."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mcp_ops.lab.kubernetes.kinds import Kind, Obj

KEPT_CHANGES: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one object, as a watch tells it."""

    version: int
    type: str
    kind: Kind
    obj: Obj


class Store:
    """Every object, by kind, namespace and name.

    What is handed out is shared and never changed in place: a writer copies, edits and puts, so
    a page, a watch and a reader keep seeing what was there when they looked.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.version = 1000
        self.changes: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._objects: dict[str, dict[tuple[str, str], Obj]] = {}

    def timestamp(self, offset_s: float = 0.0) -> str:
        """The present as Kubernetes writes it."""
        return rfc3339(self.now() + offset_s)

    def get(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """The object of that name, if there is one."""
        return self._objects.get(kind.plural, {}).get((namespace, name))

    def all(self, kind: Kind, namespace: str = "") -> list[Obj]:
        """Objects of a kind by namespace and name; of every namespace when none is given."""
        found = self._objects.get(kind.plural, {})
        return [found[key] for key in sorted(found) if not namespace or key[0] == namespace]

    def oldest_over(self, kind: Kind, limit: int) -> Obj | None:
        """The object that came first, when there are more than `limit` of its kind."""
        found = self._objects.get(kind.plural, {})
        return next(iter(found.values())) if len(found) > limit else None

    def put(self, kind: Kind, obj: Obj) -> Obj:
        """Take an object over, under a new resourceVersion."""
        meta = obj["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        objects = self._objects.setdefault(kind.plural, {})
        change = "MODIFIED" if key in objects else "ADDED"
        meta["resourceVersion"] = str(self._next())
        objects[key] = obj
        self._record(change, kind, obj)
        return obj

    def remove(self, kind: Kind, obj: Obj) -> None:
        """Drop an object; removing what is gone already changes nothing."""
        meta = obj["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        last = self._objects.get(kind.plural, {}).pop(key, None)
        if last is not None:
            gone = {**last, "metadata": {**last["metadata"], "resourceVersion": str(self._next())}}
            self._record("DELETED", kind, gone)

    def since(self, version: int) -> list[Change] | None:
        """What changed after a version, or nothing when that is no longer known."""
        oldest = self.changes[0].version if self.changes else self.version + 1
        if version < oldest - 1:
            return None
        return [change for change in self.changes if change.version > version]

    def forget_changes(self) -> None:
        """Drop the log of changes, so that older versions are too old to watch from."""
        self.changes.clear()

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _record(self, change: str, kind: Kind, obj: Obj) -> None:
        self.changes.append(Change(version=self.version, type=change, kind=kind, obj=obj))


def rfc3339(seconds: float, *, fraction: bool = False) -> str:
    """A time as Kubernetes writes it."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f000Z" if fraction else "%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: str) -> float:
    """The seconds of a time as Kubernetes writes it; raises `ValueError` for anything else."""
    return datetime.fromisoformat(text).timestamp()


def ago(moment: str | None, now: float) -> str:
    """How long ago a time was, as tables of the API server tell it."""
    return short(now - from_rfc3339(moment)) if moment else "<unknown>"


def duration(start: str | None, end: str | None, now: float) -> str:
    """How long something took, or takes until now; nothing when it has not begun."""
    if not start:
        return ""
    return short((from_rfc3339(end) if end else now) - from_rfc3339(start))


def short(seconds: float) -> str:
    """A time span as people read it: the longer it is, the less exact."""
    s = max(int(seconds), 0)
    minutes, hours, days = s // 60, s // 3600, s // 86_400
    years = days // 365
    steps = (
        (s < 120, f"{s}s"),
        (minutes < 10, _two(minutes, "m", s % 60, "s")),
        (hours < 3, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (hours < 192, _two(days, "d", hours % 24, "h")),
        (years < 2, f"{days}d"),
        (years < 8, _two(years, "y", days % 365, "d")),
    )
    return next((shown for fits, shown in steps if fits), f"{years}y")


def _two(large: int, unit: str, small: int, part: str) -> str:
    return f"{large}{unit}{small}{part}" if small else f"{large}{unit}"


def new_uid() -> str:
    """An identity that no other object ever had."""
    return str(uuid.uuid4())
