"""The three patch types: JSON patch (RFC 6902), merge patch (RFC 7396) and strategic merge."""

from __future__ import annotations

import copy
from typing import Any, Final

from mcp_ops.lab.kubernetes.status import bad_request, unprocessable_patch

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
PATCH_TYPES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

MERGE_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
    "conditions": "type",
}
MERGED_SETS: Final = frozenset({"finalizers"})
MAX_OPERATIONS: Final = 10_000


def apply_patch(media_type: str, document: Any, patch: Any) -> Any:
    """The document after the patch; the document itself stays as it is."""
    if media_type == JSON_PATCH:
        return json_patch(document, patch)
    if not isinstance(patch, dict):
        raise bad_request("json: cannot unmarshal a patch that is not an object")
    if media_type == MERGE_PATCH:
        return merge_patch(document, patch)
    return strategic_merge(document, patch)


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7396: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(document: Any, patch: dict[str, Any]) -> Any:
    """Merge as Kubernetes' types ask: lists with a merge key merge by that key."""
    directive = patch.get("$patch")
    if directive == "replace":
        return copy.deepcopy({k: v for k, v in patch.items() if k != "$patch"})
    if directive == "delete":
        return {}
    merged = dict(document) if isinstance(document, dict) else {}
    _drop(merged, patch)
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _strategic_value(key, merged.get(key), value)
    return merged


def _drop(merged: dict[str, Any], patch: dict[str, Any]) -> None:
    """Apply the directives that take something away."""
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        for key in [key for key in merged if key not in retained]:
            del merged[key]
    for key, value in patch.items():
        directive, _, target = key.partition("/")
        if directive != "$deleteFromPrimitiveList" or not isinstance(value, list):
            continue
        if isinstance(merged.get(target), list):
            merged[target] = [item for item in merged[target] if item not in value]


def _strategic_value(key: str, old: Any, new: Any) -> Any:
    if isinstance(new, dict):
        return strategic_merge(old, new)
    if not isinstance(new, list) or not isinstance(old, list):
        return _without_directives(new)
    if key in MERGED_SETS:
        return [*old, *(item for item in new if item not in old)]
    if key in MERGE_KEYS:
        return _merge_list(MERGE_KEYS[key], old, new)
    return copy.deepcopy(new)


def _without_directives(new: Any) -> Any:
    """A list that merges with nothing: what it deletes is gone already."""
    if not isinstance(new, list):
        return copy.deepcopy(new)
    return [
        strategic_merge({}, item) if isinstance(item, dict) else item
        for item in new
        if not (isinstance(item, dict) and "$patch" in item)
    ]


def _merge_list(merge_key: str, old: list[Any], new: list[Any]) -> list[Any]:
    if {"$patch": "replace"} in new:
        return [copy.deepcopy(item) for item in new if item != {"$patch": "replace"}]
    merged = list(old)
    for item in new:
        if not isinstance(item, dict) or merge_key not in item:
            raise bad_request(f"map: does not contain declared merge key: {merge_key}")
        same = [isinstance(o, dict) and o.get(merge_key) == item[merge_key] for o in merged]
        at = same.index(True) if True in same else None
        if item.get("$patch") == "delete":
            merged = [o for o, gone in zip(merged, same, strict=True) if not gone]
        elif at is None:
            merged.append(strategic_merge({}, item))
        else:
            merged[at] = strategic_merge(merged[at], item)
    return merged


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902: the operations in their order, all or none."""
    if not isinstance(operations, list) or not all(isinstance(op, dict) for op in operations):
        raise bad_request("json: cannot unmarshal a JSON patch that is not a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise bad_request(f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}")
    document = copy.deepcopy(document)
    for operation in operations:
        try:
            document = _operate(document, operation)
        except (LookupError, ValueError, TypeError) as exc:
            raise unprocessable_patch() from exc
    return document


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    op, path = operation.get("op"), _pointer(operation["path"])
    if op in ("add", "replace"):
        return _set(document, path, operation["value"], replace=op == "replace")
    if op == "remove":
        return _remove(document, path)
    if op in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_value(document, source))
        base = _remove(document, source) if op == "move" else document
        return _set(base, path, value, replace=False)
    if op == "test":
        if _value(document, path) != operation.get("value"):
            raise ValueError(path)
        return document
    raise ValueError(op)


def _pointer(text: str) -> list[str]:
    if text == "":
        return []
    if not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _index(parent: list[Any], part: str, *, end: bool) -> int:
    if part == "-" and end:
        return len(parent)
    at = int(part)
    if not 0 <= at < len(parent) + end:
        raise LookupError(part)
    return at


def _value(document: Any, path: list[str]) -> Any:
    for part in path:
        document = (
            document[_index(document, part, end=False)]
            if isinstance(document, list)
            else document[part]
        )
    return document


def _set(document: Any, path: list[str], value: Any, *, replace: bool) -> Any:
    if not path:
        return value
    parent, last = _value(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        at = _index(parent, last, end=not replace)
        parent[at : at + replace] = [value]
        return document
    if replace and last not in parent:
        raise LookupError(last)
    parent[last] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    parent, last = _value(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(parent, last, end=False)]
    else:
        del parent[last]
    return document
