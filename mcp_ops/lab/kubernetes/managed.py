"""`managedFields`: which client wrote which field, as the API server keeps it for updates."""

from __future__ import annotations

import json
from typing import Any

from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.patch import MERGE_KEYS

_SERVER_OWNED = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "generateName",
    }
)


def with_manager(old: Obj | None, new: Obj, manager: str, subresource: str, now: str) -> list[Obj]:
    """The entries after a write: what changed goes to the writer."""
    fields = _changed(_owned(old or {}), _owned(new))
    entries = list((old or {}).get("metadata", {}).get("managedFields") or [])
    entry: Obj = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": new["apiVersion"],
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if subresource:
        entry["subresource"] = subresource
    for at, earlier in enumerate(entries):
        if _owner(earlier) == _owner(entry):
            entry["fieldsV1"] = _union(earlier["fieldsV1"], fields)
            entries[at] = entry
            return entries
    return [*entries, entry]


def field_set(obj: Obj) -> Obj:
    """All the fields that a configuration has, as the set that its manager owns."""
    return _changed({}, _owned(obj))


def _owner(entry: Obj) -> tuple[Any, ...]:
    return entry["manager"], entry["operation"], entry.get("subresource", "")


def _owned(obj: Obj) -> Obj:
    owned = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    meta = {k: v for k, v in obj.get("metadata", {}).items() if k not in _SERVER_OWNED}
    return {"metadata": meta, **owned} if meta else owned


def _changed(old: Any, new: Any) -> Obj:
    """The fields of the new value that the old one has otherwise, as a field set."""
    fields: Obj = {}
    for key, value in new.items():
        before = old.get(key) if isinstance(old, dict) else None
        if value == before:
            continue
        if isinstance(value, dict) and value:
            fields[f"f:{key}"] = _changed(before, value)
        elif isinstance(value, list) and key in MERGE_KEYS:
            fields[f"f:{key}"] = _changed_items(MERGE_KEYS[key], before, value)
        else:
            fields[f"f:{key}"] = {}
    return fields


def _changed_items(merge_key: str, old: Any, new: list[Any]) -> Obj:
    before = {str(item.get(merge_key)): item for item in old or [] if isinstance(item, dict)}
    fields: Obj = {}
    for item in new:
        if not isinstance(item, dict) or item == before.get(str(item.get(merge_key))):
            continue
        label = json.dumps({merge_key: item.get(merge_key)}, separators=(",", ":"))
        fields[f"k:{label}"] = {".": {}, **_changed(before.get(str(item.get(merge_key))), item)}
    return fields


def _union(left: Obj, right: Obj) -> Obj:
    union = dict(left)
    for key, value in right.items():
        union[key] = _union(union[key], value) if key in union else value
    return union
