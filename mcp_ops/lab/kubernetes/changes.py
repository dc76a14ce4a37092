"""What a write changed, by the path of the field: for the effect log."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import Obj

_HIDDEN: Final = frozenset(
    {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"}
)
LISTED: Final = 40


def changed_fields(old: Obj, new: Obj) -> dict[str, Any]:
    """The new value of every leaf that changed; a value that is gone is null."""
    found: dict[str, Any] = {}
    _compare("", old, new, found)
    return dict(list(found.items())[:LISTED])


def _compare(path: str, old: Any, new: Any, found: dict[str, Any]) -> None:
    if old == new:
        return
    if isinstance(new, list) and _named(new) and (old is None or _named(old)):
        _compare(path, _by_name(old or []), _by_name(new), found)
    elif isinstance(new, dict) and isinstance(old, dict | None):
        before = old or {}
        for key in [*new, *(key for key in before if key not in new)]:
            if key not in _HIDDEN:
                inner = f"{path}.{key}" if path else str(key)
                _compare(inner, before.get(key), new.get(key), found)
    else:
        found[path] = new


def _named(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, dict) and "name" in item for item in items
    )


def _by_name(items: list[Obj]) -> Obj:
    return {str(item["name"]): item for item in items}
