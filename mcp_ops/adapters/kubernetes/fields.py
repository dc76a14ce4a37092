"""Reading raw JSON of a system that may answer anything: the wrong type reads as absent."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from mcp_ops.clock import rfc3339

Obj = dict[str, Any]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")


def dig(obj: Any, *path: str) -> Any:
    """The value at a path of keys, or None."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def mapping(obj: Any, *path: str) -> Obj:
    """The object at a path, or an empty one."""
    value = dig(obj, *path)
    return value if isinstance(value, dict) else {}


def objects(obj: Any, *path: str) -> list[Obj]:
    """The objects of the list at a path; what is not an object is left out."""
    value = dig(obj, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(obj: Any, *path: str) -> str:
    """The text at a path, or an empty one."""
    value = dig(obj, *path)
    return value if isinstance(value, str) else ""


def number(obj: Any, *path: str, absent: int = 0) -> int:
    """The whole number at a path, or `absent`; never negative, never beyond 32 bits."""
    value = dig(obj, *path)
    if isinstance(value, bool) or not isinstance(value, int):
        return absent
    return min(max(value, 0), 2**31 - 1)


def flag(obj: Any, *path: str) -> bool:
    """Whether the value at a path is true."""
    return dig(obj, *path) is True


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


def condition(obj: Obj, kind: str) -> Obj:
    """The condition of that type, or an empty one."""
    found = (one for one in objects(obj, "status", "conditions") if one.get("type") == kind)
    return next(found, {})
