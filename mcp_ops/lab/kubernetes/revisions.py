"""ControllerRevisions: the former templates of stateful sets and daemon sets."""

from __future__ import annotations

import copy
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import CONTROLLER_REVISION, DAEMON_SET, POD, Kind, Obj
from mcp_ops.lab.kubernetes.owned import template_hash
from mcp_ops.lab.kubernetes.store import new_uid
from mcp_ops.lab.kubernetes.world import World, controller_uid, owner_reference

REVISION_LABEL: Final = "controller-revision-hash"
HASH_LABEL: Final = "controller.kubernetes.io/hash"


def pod_label(kind: Kind, workload: Obj) -> str:
    """What the pods of the present template have in their label `controller-revision-hash`."""
    found = template_hash(workload["spec"]["template"])
    return found if kind is DAEMON_SET else f"{workload['metadata']['name']}-{found}"


def owned_revisions(world: World, workload: Obj) -> list[Obj]:
    """The revisions of a workload, oldest first."""
    meta = workload["metadata"]
    found = world.store.all(CONTROLLER_REVISION, meta["namespace"])
    owned = [one for one in found if controller_uid(one) == meta["uid"]]
    return sorted(owned, key=lambda one: int(one["revision"]))


def former(world: World, workload: Obj, revision: str) -> tuple[Obj, str]:
    """A stateful set as it was, with the revision that its status calls current; as it is, where
    that one is not kept any more."""
    named = str((workload.get("status") or {}).get("currentRevision", ""))
    for one in owned_revisions(world, workload):
        if one["metadata"]["name"] == named:
            template = {**one["data"]["spec"]["template"]}
            template.pop("$patch", None)
            return {**workload, "spec": {**workload["spec"], "template": template}}, named
    return workload, revision


def sync_revisions(world: World, kind: Kind, workload: Obj) -> None:
    """Keep the present template as the newest revision; one that comes back is not kept twice."""
    owned = owned_revisions(world, workload)
    data = data_of(workload)
    latest = owned[-1]["revision"] if owned else 0
    same = next((one for one in owned if one.get("data") == data), None)
    if same is None:
        _make(world, kind, workload, data, latest + 1)
    elif same["revision"] < latest:
        number = latest + 1
        moved = world.edit(CONTROLLER_REVISION, same, lambda one: one.update(revision=number))
        world.effect("controller.revision_renumbered", CONTROLLER_REVISION, moved, revision=number)
    _forget(world, workload, data)


def data_of(workload: Obj) -> Obj:
    """The patch by which a revision brings its template back."""
    template: Any = copy.deepcopy(workload["spec"]["template"])
    return {"spec": {"template": {**template, "$patch": "replace"}}}


def _make(world: World, kind: Kind, workload: Obj, data: Obj, number: int) -> None:
    meta = workload["metadata"]
    found = template_hash(workload["spec"]["template"])
    labels = dict(workload["spec"]["template"]["metadata"].get("labels") or {})
    labels[REVISION_LABEL if kind is DAEMON_SET else HASH_LABEL] = found
    made = world.store.put(
        CONTROLLER_REVISION,
        {
            "apiVersion": CONTROLLER_REVISION.api_version,
            "kind": CONTROLLER_REVISION.name,
            "metadata": {
                "name": f"{meta['name']}-{found}",
                "namespace": meta["namespace"],
                "uid": new_uid(),
                "creationTimestamp": world.store.timestamp(),
                "labels": labels,
                "annotations": dict(meta.get("annotations") or {}),
                "ownerReferences": [owner_reference(kind, workload)],
            },
            "data": data,
            "revision": number,
        },
    )
    world.effect("controller.revision_created", CONTROLLER_REVISION, made, revision=number)


def _forget(world: World, workload: Obj, data: Obj) -> None:
    """Drop the oldest revisions over the limit that no pod is of."""
    used = {
        (pod["metadata"].get("labels") or {}).get(REVISION_LABEL, "")
        for pod in world.store.all(POD, workload["metadata"]["namespace"])
        if controller_uid(pod) == workload["metadata"]["uid"]
    }
    idle = [
        one
        for one in owned_revisions(world, workload)
        if one.get("data") != data
        and not {one["metadata"]["name"], one["metadata"]["name"].rpartition("-")[2]} & used
    ]
    limit = workload["spec"].get("revisionHistoryLimit", 10)
    for one in idle[: max(len(idle) - limit, 0)]:
        world.store.remove(CONTROLLER_REVISION, one)
        world.effect("controller.revision_deleted", CONTROLLER_REVISION, one)
