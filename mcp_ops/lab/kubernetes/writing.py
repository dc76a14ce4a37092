"""Creating, changing and deleting objects as a client asks for it."""

from __future__ import annotations

import copy
from typing import Any, Final

from mcp_ops.lab.kubernetes.call import Address, Call
from mcp_ops.lab.kubernetes.changes import changed_fields
from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.ending import begin_termination
from mcp_ops.lab.kubernetes.fields import prune
from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    COUNTED,
    CRON_JOB,
    JOB,
    KINDS,
    NAMESPACE,
    OWNED,
    POD,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.managed import with_manager
from mcp_ops.lab.kubernetes.owned import random_suffix
from mcp_ops.lab.kubernetes.patch import apply_patch
from mcp_ops.lab.kubernetes.rollout_status import are_conditions
from mcp_ops.lab.kubernetes.status import (
    already_exists,
    bad_request,
    conflict,
    not_found,
    success,
)
from mcp_ops.lab.kubernetes.store import new_uid
from mcp_ops.lab.kubernetes.validate import check_shape, validate
from mcp_ops.lab.kubernetes.world import World, controller_uid

_FIXED = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "resourceVersion",
    "namespace",
)
_TOLD: Final = tuple(kind.name for kind in (JOB, CRON_JOB, AUTOSCALER))


def stored_at(world: World, address: Address) -> Obj:
    """The object at an address; raises the 404 when there is none."""
    namespace = address.namespace if address.kind.namespaced else ""
    found = world.store.get(address.kind, namespace, address.name)
    if found is None:
        raise not_found(address.kind, address.name)
    return found


def create(world: World, call: Call, managed: list[Obj] | None = None) -> Obj:
    """Store a new object; `managed` says who owns which field, else it is all the caller's."""
    kind = call.address.kind
    obj = _named(world, call)
    meta, name = obj["metadata"], obj["metadata"]["name"]
    obj.pop("status", None)
    # A job's selector is made of its uid, before it is looked at.
    meta["uid"] = new_uid()
    apply_defaults(kind, obj)
    if kind in COUNTED or kind is AUTOSCALER:
        obj["status"] = {}
    if kind in COUNTED:
        meta["generation"] = 1
    validate(kind, obj)
    if world.store.get(kind, meta.get("namespace", ""), name) is not None:
        raise already_exists(kind, name)
    now = world.store.timestamp()
    meta.update(creationTimestamp=now, resourceVersion="")
    meta["managedFields"] = managed or with_manager(None, obj, call.manager, "", now)
    if call.dry_run:
        del meta["resourceVersion"]
        return obj
    made = world.store.put(kind, obj)
    changed = changed_fields({}, made)
    world.effect("client.create", kind, made, verb="create", changed=changed)
    return made


def _named(world: World, call: Call) -> Obj:
    """The object of a body, in its namespace and under a name."""
    kind, namespace = call.address.kind, call.address.namespace
    if kind.namespaced and world.store.get(NAMESPACE, "", namespace) is None:
        raise not_found(NAMESPACE, namespace)
    obj = _decoded(call, call.document())
    meta = obj["metadata"]
    if kind.namespaced and meta.setdefault("namespace", namespace) != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = f"{meta['generateName']}{random_suffix()}"
    name = meta.get("name")
    if not isinstance(name, str) or not name:
        raise bad_request("name or generateName is required")
    return obj


def update(world: World, call: Call) -> Obj:
    """Replace an object, or its scale or status."""
    current = stored_at(world, call.address)
    return write(world, call, current, call.document())


def patch(world: World, call: Call) -> Obj:
    """Change part of an object, or of its scale or status."""
    document = call.document()
    current = stored_at(world, call.address)
    shown = scale_of(call.address.kind, current) if call.address.sub == "scale" else current
    return write(world, call, current, apply_patch(call.media_type, shown, document))


def scale_of(kind: Kind, obj: Obj) -> Obj:
    """The `Scale` of a workload."""
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: obj["metadata"][key] for key in kept},
        "spec": {"replicas": obj["spec"]["replicas"]},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def write(
    world: World, call: Call, current: Obj, wanted: Any, managed: list[Obj] | None = None
) -> Obj:
    """Keep what an object shall be; `managed` says who owns which field after an application."""
    kind, sub = call.address.kind, call.address.sub
    new = _scaled(kind, current, wanted) if sub == "scale" else _decoded(call, wanted)
    _check_identity(kind, current, new)
    _merge_fixed(current, new, sub)
    apply_defaults(kind, new)
    validate(kind, new, current)
    if new.get("spec") != current.get("spec") and kind in COUNTED:
        new["metadata"]["generation"] = current["metadata"].get("generation", 1) + 1
    if new != current or managed not in (None, current["metadata"].get("managedFields")):
        _keep(world, call, current, new, managed)
    else:
        new = current
    return scale_of(kind, new) if sub == "scale" else new


def _keep(world: World, call: Call, current: Obj, new: Obj, managed: list[Obj] | None) -> None:
    kind, now = call.address.kind, world.store.timestamp()
    if managed is None:
        managed = with_manager(current, new, call.manager, call.address.sub, now)
    new["metadata"]["managedFields"] = managed
    if call.dry_run:
        return
    world.store.put(kind, new)
    verb = "scale" if call.address.sub == "scale" else call.verb
    world.effect(
        f"client.{verb}",
        kind,
        new,
        verb=call.verb,
        subresource=call.address.sub,
        changed=changed_fields(current, new),
    )
    released = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers")
    if released and kind is not POD:
        world.store.remove(kind, new)


def _decoded(call: Call, document: Any) -> Obj:
    """The object of a body: of the right kind, without unknown fields, and free to edit."""
    kind = call.address.kind
    check_shape(kind, document)
    given = document.get("apiVersion", kind.api_version)
    if given != kind.api_version:
        raise bad_request(
            f"the API version in the data ({given}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if document.get("kind", kind.name) != kind.name:
        raise bad_request(
            f'{document["kind"]} in version "{kind.version}" cannot be handled as a {kind.name}'
        )
    obj, unknown = prune(kind, document)
    if unknown and call.params.get("fieldValidation") == "Strict":
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise bad_request(
            f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: '
            f"strict decoding error: {listed}"
        )
    obj = {key: _without_nulls(value) for key, value in obj.items() if value is not None}
    obj.update(apiVersion=kind.api_version, kind=kind.name)
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    return obj


def _without_nulls(value: Any) -> Any:
    """A copy in which a field that is null is a field that is not there, as in typed decoding."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _scaled(kind: Kind, current: Obj, wanted: Any) -> Obj:
    """The workload with the number of its patched or replaced `Scale`."""
    check_shape(kind, wanted)
    new = copy.deepcopy(current)
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    new["spec"]["replicas"] = replicas
    given = wanted.get("metadata") or {}
    for key in ("name", "uid", "resourceVersion"):
        if given.get(key):
            new["metadata"][key] = given[key]
    return new


def _check_identity(kind: Kind, current: Obj, new: Obj) -> None:
    """Refuse an object that is not the stored one, or not its present version."""
    meta, now = new["metadata"], current["metadata"]
    name = meta.setdefault("name", now["name"])
    if name != now["name"]:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({now['name']})"
        )
    if meta.get("namespace") and meta["namespace"] != now.get("namespace"):
        raise bad_request(
            f"the namespace of the object ({meta['namespace']}) does not match the namespace on "
            f"the URL ({now.get('namespace')})"
        )
    if meta.get("uid") and meta["uid"] != now["uid"]:
        raise conflict(kind, name, _uid_mismatch(meta["uid"], now["uid"]))
    if meta.get("resourceVersion") and meta["resourceVersion"] != now["resourceVersion"]:
        raise conflict(kind, name)


def _uid_mismatch(given: str, found: str) -> str:
    return f"Precondition failed: UID in precondition: {given}, UID in object meta: {found}"


def _merge_fixed(current: Obj, new: Obj, sub: str) -> None:
    """Put back what this request can't change: the server's metadata, and the other half."""
    for key in _FIXED:
        new["metadata"].pop(key, None)
        if key in current["metadata"]:
            new["metadata"][key] = copy.deepcopy(current["metadata"][key])
    if sub == "status":
        new["metadata"] = copy.deepcopy(current["metadata"])
        _keep_controlled(current, new)
        kept: tuple[str, ...] = ("spec",)
    else:
        kept = ("status",)
    for key in kept:
        new.pop(key, None)
        if key in current:
            new[key] = copy.deepcopy(current[key])
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not new["metadata"].get(key):
            new["metadata"].pop(key, None)


def _keep_controlled(current: Obj, new: Obj) -> None:
    """The controllers alone say how pods are; they would set a client's word right at once. They
    go on from conditions, so that one they can't read is left out."""
    if new["kind"] in _TOLD:
        new["status"] = copy.deepcopy(current.get("status", {}))
        return
    status = new.setdefault("status", {})
    for key in ("conditions", "containerStatuses", "initContainerStatuses"):
        if key == "conditions" and are_conditions(status.get(key)):
            continue
        status.pop(key, None)
        if key in current.get("status", {}):
            status[key] = copy.deepcopy(current["status"][key])


def delete(world: World, call: Call) -> Obj:
    """Delete an object; pods end first, and what has finalizers waits for them."""
    kind, options = call.address.kind, call.options()
    current = stored_at(world, call.address)
    meta = current["metadata"]
    wanted = options.get("preconditions") or {}
    if wanted.get("uid") and wanted["uid"] != meta["uid"]:
        raise conflict(kind, meta["name"], _uid_mismatch(wanted["uid"], meta["uid"]))
    if wanted.get("resourceVersion", meta["resourceVersion"]) != meta["resourceVersion"]:
        raise conflict(kind, meta["name"])
    if call.dry_run or options.get("dryRun") == ["All"]:
        return success(kind, current)
    grace = options.get("gracePeriodSeconds", call.params.get("gracePeriodSeconds"))
    if _policy(call) == "Orphan":
        _orphan(world, current)
    return _delete(world, kind, current, at_once=str(grace) == "0")


def _policy(call: Call) -> str:
    """What becomes of the dependents; jobs alone leave their pods behind when nothing is said."""
    given = call.options().get("propagationPolicy", call.params.get("propagationPolicy"))
    return str(given or ("Orphan" if call.address.kind is JOB else "Background"))


def warning_of(call: Call) -> dict[str, str]:
    """The header that warns of pods which a job's deletion leaves behind."""
    if call.verb != "delete" or call.address.kind is not JOB:
        return {}
    if call.options().get("propagationPolicy", call.params.get("propagationPolicy")):
        return {}
    return {
        "Warning": '299 - "child pods are preserved by default when jobs are deleted; set '
        "propagationPolicy=Background to remove them or set propagationPolicy=Orphan to "
        'suppress this warning"'
    }


def _delete(world: World, kind: Kind, current: Obj, *, at_once: bool = False) -> Obj:
    fields = {"verb": "delete", "uid": current["metadata"]["uid"]}
    if "deletionTimestamp" in current["metadata"] and not at_once:
        return current
    if kind is POD and not at_once:
        marked = begin_termination(world, current)
        world.effect("client.delete", kind, marked, **fields)
        return marked
    if current["metadata"].get("finalizers"):
        now = world.store.timestamp()
        marked = world.edit(
            kind, current, lambda obj: obj["metadata"].update(deletionTimestamp=now)
        )
        world.effect("client.delete", kind, marked, **fields)
        return marked
    world.store.remove(kind, current)
    world.effect("client.delete", kind, current, **fields)
    if kind is NAMESPACE:
        _empty_namespace(world, current["metadata"]["name"])
    return success(kind, current)


def delete_all(world: World, kind: Kind, objects: list[Obj]) -> None:
    """Delete the selected objects of a collection."""
    for obj in objects:
        _delete(world, kind, obj)


def _orphan(world: World, owner: Obj) -> None:
    """Let what an object owns live on without it."""
    uid = owner["metadata"]["uid"]
    for kind in OWNED:
        for obj in world.store.all(kind):
            if controller_uid(obj) == uid:
                world.edit(kind, obj, lambda one: one["metadata"].pop("ownerReferences"))


def _empty_namespace(world: World, namespace: str) -> None:
    for kind in KINDS:
        for obj in world.store.all(kind, namespace) if kind.namespaced else []:
            world.store.remove(kind, obj)
