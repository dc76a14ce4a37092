"""Reading raw JSON of a system that may answer anything: the wrong type reads as absent."""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]


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
