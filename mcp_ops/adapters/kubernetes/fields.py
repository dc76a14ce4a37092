"""What the API server's objects hold: JSON as it may come, names, owners and times."""

from __future__ import annotations

import re
from datetime import datetime

from mcp_ops.clock import rfc3339
from mcp_ops.wire.answers import Obj, dig, flag, mapping, number, objects, text

__all__ = [
    "Obj",
    "condition",
    "controller_of",
    "dig",
    "flag",
    "mapping",
    "moment_of",
    "name_of",
    "number",
    "objects",
    "seconds",
    "text",
    "uid_of",
]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")


def name_of(obj: Obj) -> str:
    """The object's name; bounded, since only a broken server sends more than 253 characters."""
    return text(obj, "metadata", "name")[:253]


def uid_of(obj: Obj) -> str:
    """The object's identity, which no other object ever had."""
    return text(obj, "metadata", "uid")[:64]


def seconds(moment: str) -> float | None:
    """Unix seconds of an RFC 3339 time, or None where it is none."""
    if not _MOMENT.fullmatch(moment):
        return None
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


def moment_of(written: str) -> str | None:
    """The same moment as the results write it, or None."""
    at = seconds(written)
    return None if at is None else rfc3339(at)


def controller_of(obj: Obj) -> str:
    """The uid of the controller that owns an object, or an empty text."""
    for owner in objects(obj, "metadata", "ownerReferences"):
        if owner.get("controller") is True:
            return text(owner, "uid")
    return ""


def schedules_of(obj: Obj) -> list[str]:
    """The names of the CronJobs that made an object."""
    owners = objects(obj, "metadata", "ownerReferences")
    return [text(owner, "name") for owner in owners if owner.get("kind") == "CronJob"]


def condition(obj: Obj, kind: str) -> Obj:
    """The condition of that type, or an empty one."""
    found = (one for one in objects(obj, "status", "conditions") if one.get("type") == kind)
    return next(found, {})
