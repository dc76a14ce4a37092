"""What a controller does with the pods it owns: count, create, end."""

from __future__ import annotations

import copy
import hashlib
import json
import secrets
from collections import defaultdict
from typing import Final

from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.ending import begin_termination
from mcp_ops.lab.kubernetes.kinds import POD, Kind, Obj
from mcp_ops.lab.kubernetes.podstatus import is_over, is_ready
from mcp_ops.lab.kubernetes.store import from_rfc3339, new_uid
from mcp_ops.lab.kubernetes.world import World, controller_uid, owner_reference

# Kubernetes' own: no vowels and no digits that look like one, so that no name reads as a word.
ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


def random_suffix() -> str:
    """Five characters that make a generated name unique."""
    return "".join(secrets.choice(ALPHABET) for _ in range(5))


def template_hash(template: Obj) -> str:
    """The hash that tells one pod template from another."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:10])


def pods_by_owner(world: World) -> dict[str, list[Obj]]:
    """The pods that live, by the uid of their controller."""
    owned: dict[str, list[Obj]] = defaultdict(list)
    for pod in world.store.all(POD):
        if "deletionTimestamp" not in pod["metadata"] and not is_over(pod):
            owned[controller_uid(pod)].append(pod)
    return owned


def is_available(world: World, pod: Obj, min_ready_s: int) -> bool:
    """Whether a pod has been ready for long enough."""
    if not is_ready(pod):
        return False
    since = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    ready_at = from_rfc3339(since["lastTransitionTime"])
    return min_ready_s == 0 or world.store.now() - ready_at >= min_ready_s


def create_pod(world: World, kind: Kind, owner: Obj, name: str, labels: dict[str, str]) -> Obj:
    """Make a pod from its owner's template."""
    template = owner["spec"]["template"]
    meta = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "uid": new_uid(),
        "creationTimestamp": world.store.timestamp(),
        "labels": {**(template["metadata"].get("labels") or {}), **labels},
        "annotations": dict(template["metadata"].get("annotations") or {}),
        "ownerReferences": [owner_reference(kind, owner)],
    }
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: value for key, value in meta.items() if value},
        "spec": copy.deepcopy(template["spec"]),
    }
    apply_defaults(POD, pod)
    made = world.store.put(POD, pod)
    images = [container["image"] for container in pod["spec"]["containers"]]
    world.effect("controller.pod_created", POD, made, uid=meta["uid"], images=images)
    source = f"{kind.name.lower()}-controller"
    world.event(kind, owner, "SuccessfulCreate", f"Created pod: {name}", component=source)
    return made


def end_pod(world: World, kind: Kind, owner: Obj, pod: Obj) -> None:
    """Terminate a pod on behalf of its owner."""
    name = pod["metadata"]["name"]
    marked = begin_termination(world, pod)
    world.effect("controller.pod_deleted", POD, marked, uid=pod["metadata"]["uid"])
    source = f"{kind.name.lower()}-controller"
    world.event(kind, owner, "SuccessfulDelete", f"Deleted pod: {name}", component=source)


def without_zeros(status: Obj) -> Obj:
    """A status as the API writes it: counts of zero are left out, `replicas` excepted."""
    kept = {
        "replicas",
        "observedGeneration",
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberMisscheduled",
        "numberReady",
    }
    return {key: value for key, value in status.items() if value != 0 or key in kept}
