"""Server-side apply: a manager says which fields it wants, and owns what it said."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mcp_ops.lab.kubernetes.call import JSON, Call
from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.managed import field_set
from mcp_ops.lab.kubernetes.patch import APPLY_PATCH, strategic_merge
from mcp_ops.lab.kubernetes.status import (
    StatusError,
    apply_conflict,
    bad_request,
    unsupported_media_type,
)
from mcp_ops.lab.kubernetes.world import World
from mcp_ops.lab.kubernetes.writing import create, patch, write

Path = tuple[str, ...]


def is_apply(call: Call) -> bool:
    """Whether a patch is an application."""
    return call.verb == "patch" and call.media_type == APPLY_PATCH


def patch_or_apply(world: World, call: Call) -> Obj:
    """Change part of an object, or apply a configuration to it."""
    return _apply(world, call) if is_apply(call) else patch(world, call)


def _apply(world: World, call: Call) -> Obj:
    config = _configuration(call)
    address = call.address
    current = world.store.get(address.kind, address.namespace, address.name)
    wanted = field_set(config)
    if current is None:
        headers = {**call.headers, "content-type": JSON}
        body = json.dumps(config).encode()
        made = replace(call, verb="create", headers=headers, body=body)
        entry = _entry(call, config, wanted, world.store.timestamp())
        return create(world, made, managed=[entry])
    entries: list[Obj] = copy.deepcopy(current["metadata"].get("managedFields") or [])
    mine = next((one for one in entries if _is_mine(one, call)), None)
    others = [one for one in entries if one is not mine]
    disputed = list(_disputes(wanted, current, config, others))
    if disputed and call.params.get("force", "").lower() not in ("1", "true"):
        raise apply_conflict([(_who(one), _shown(path)) for one, path in disputed])
    for owner, path in disputed:
        _drop(owner["fieldsV1"], path)
    merged: Obj = strategic_merge(copy.deepcopy(current), config)
    if mine is not None:
        for path in _leaves(mine["fieldsV1"]):
            if not any(_owns(fields, path) for fields in (wanted, *_sets(others))):
                _remove(merged, path)
    kept = [one for one in others if one["fieldsV1"]]
    if mine is None or mine["fieldsV1"] != wanted:
        mine = _entry(call, config, wanted, world.store.timestamp())
    return write(world, call, current, merged, managed=[*kept, mine])


def _configuration(call: Call) -> Obj:
    """The configuration of a body, which must name what it is and who applies it."""
    if call.address.sub:
        raise unsupported_media_type((JSON,))
    if not call.params.get("fieldManager"):
        why = "fieldManager: Required value: is required for apply patch"
        cause = {"reason": "FieldValueRequired", "field": "fieldManager", "message": why[14:]}
        message = f'PatchOptions.meta.k8s.io "" is invalid: {why}'
        details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]}
        raise StatusError(422, "Invalid", message, details)
    config = call.document()
    if not isinstance(config, dict) or not config.get("kind") or not config.get("apiVersion"):
        raise bad_request("error decoding YAML: Object 'Kind' is missing")
    meta = config.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise bad_request("error decoding YAML: metadata is no object")
    if meta.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    meta.setdefault("name", call.address.name)
    if meta["name"] != call.address.name:
        raise bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL "
            f"({call.address.name})"
        )
    return config


def _entry(call: Call, config: Obj, fields: Obj, now: str) -> Obj:
    return {
        "manager": call.manager,
        "operation": "Apply",
        "apiVersion": config["apiVersion"],
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def _is_mine(entry: Obj, call: Call) -> bool:
    return (entry["manager"], entry["operation"]) == (call.manager, "Apply")


def _sets(entries: list[Obj]) -> list[Obj]:
    return [one["fieldsV1"] for one in entries]


def _disputes(
    wanted: Obj, current: Obj, config: Obj, others: list[Obj]
) -> Iterator[tuple[Obj, Path]]:
    """Every field that another manager owns and that is wanted otherwise."""
    for path in _leaves(wanted):
        if path[-1] == "." or _at(current, path) == _at(config, path):
            continue
        for other in others:
            if _owns(other["fieldsV1"], path):
                yield other, path


def _who(entry: Obj) -> str:
    """A manager, as the message of a conflict names it."""
    who = json.dumps(entry["manager"])
    if entry.get("subresource"):
        who += f" with subresource {json.dumps(entry['subresource'])}"
    if entry["operation"] == "Update":
        who += f" using {entry['apiVersion']}"
    return who


def _shown(path: Path) -> str:
    """A path, as the message of a conflict writes it."""
    shown = ""
    for part in path:
        kind, _, rest = part.partition(":")
        if kind == "f":
            shown += f".{rest}"
        elif kind == "k":
            keys = json.loads(rest)
            shown += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in keys.items()) + "]"
    return shown


def _leaves(fields: Obj, above: Path = ()) -> Iterator[Path]:
    for key, inner in fields.items():
        if inner:
            yield from _leaves(inner, (*above, key))
        else:
            yield (*above, key)


def _owns(fields: Obj, path: Path) -> bool:
    """Whether a set has a path, or a leaf above it, which stands for all below."""
    for part in path:
        if part not in fields:
            return False
        fields = fields[part]
        if not fields:
            return True
    return True


def _drop(fields: Obj, path: Path) -> None:
    """Take a path out of a set, and what it leaves empty."""
    head, rest = path[0], path[1:]
    if head not in fields:
        return
    if rest and fields[head]:
        _drop(fields[head], rest)
    if not rest or not fields[head] or set(fields[head]) == {"."}:
        del fields[head]


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = _step(value, part)
    return value


def _step(value: Any, part: str) -> Any:
    kind, _, rest = part.partition(":")
    if kind == "f":
        return value.get(rest) if isinstance(value, dict) else None
    if kind != "k" or not isinstance(value, list):
        return value
    keys = json.loads(rest)
    return next((one for one in value if _has(one, keys)), None)


def _has(item: Any, keys: Obj) -> bool:
    return isinstance(item, dict) and all(item.get(key) == value for key, value in keys.items())


def _remove(value: Obj, path: Path) -> None:
    """Take away, in place, what nobody wants any more."""
    parent, last = _at(value, path[:-1]), path[-1]
    if last.startswith("f:") and isinstance(parent, dict):
        parent.pop(last[2:], None)
    elif last == "." and len(path) > 1 and path[-2].startswith("k:"):
        items = _at(value, path[:-2])
        if isinstance(items, list):
            keys = json.loads(path[-2][2:])
            items[:] = [one for one in items if not _has(one, keys)]
