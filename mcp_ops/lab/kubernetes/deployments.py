"""Deployments: one ReplicaSet per pod template, rolled from the old ones to the new one."""

from __future__ import annotations

import copy
from typing import Final

from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, REPLICA_SET, Obj
from mcp_ops.lab.kubernetes.owned import is_available, pods_by_owner, template_hash
from mcp_ops.lab.kubernetes.replicasets import HASH_LABEL
from mcp_ops.lab.kubernetes.rollout_status import Bounds, tell_status
from mcp_ops.lab.kubernetes.store import new_uid
from mcp_ops.lab.kubernetes.world import World, controller_uid, owner_reference

REVISION: Final = "deployment.kubernetes.io/revision"
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
MAX: Final = "deployment.kubernetes.io/max-replicas"
HISTORY: Final = "deployment.kubernetes.io/revision-history"
_OWN: Final = (
    REVISION,
    DESIRED,
    MAX,
    HISTORY,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
)
_LONGEST_REVISION: Final = 19
# A pass scales up, scales down and fills the room that this made.
PASSES: Final = 3


def owned_sets(world: World, deployment: Obj) -> list[Obj]:
    """The ReplicaSets of a deployment, by revision."""
    uid = deployment["metadata"]["uid"]
    namespace = deployment["metadata"]["namespace"]
    found = [rs for rs in world.store.all(REPLICA_SET, namespace) if controller_uid(rs) == uid]
    return sorted(found, key=revision)


def revision(replica_set: Obj) -> int:
    """The revision a ReplicaSet is."""
    text = (replica_set["metadata"].get("annotations") or {}).get(REVISION, "")
    return int(text) if text.isdecimal() and len(text) < _LONGEST_REVISION else 0


def template_of(replica_set: Obj) -> Obj:
    """The pod template of a ReplicaSet, without the label its controller added."""
    template: Obj = copy.deepcopy(replica_set["spec"]["template"])
    template["metadata"].get("labels", {}).pop(HASH_LABEL, None)
    return template


class Deployments:
    """The deployment controller."""

    def __init__(self, world: World) -> None:
        self._world = world

    def roll(self) -> None:
        """Move every deployment's ReplicaSets towards its template and number."""
        for deployment in self._world.store.all(DEPLOYMENT):
            if "deletionTimestamp" in deployment["metadata"]:
                continue
            new = self._new_set(deployment)
            if deployment["spec"].get("paused"):
                self._scale_only(deployment)
            elif new is not None:
                self._roll_to(deployment, new["metadata"]["name"])
                self._forget_history(deployment, new["metadata"]["name"])

    def tell(self) -> None:
        """Write every deployment's status."""
        for deployment in self._world.store.all(DEPLOYMENT):
            wanted = template_hash(deployment["spec"]["template"])
            sets = owned_sets(self._world, deployment)
            new = next((rs for rs in sets if _hash(rs) == wanted), None)
            tell_status(self._world, deployment, sets, new, Bounds.of(deployment["spec"]))

    def _new_set(self, deployment: Obj) -> Obj | None:
        """The ReplicaSet of the present template; made unless the deployment is paused."""
        wanted = template_hash(deployment["spec"]["template"])
        sets = owned_sets(self._world, deployment)
        latest = max((revision(rs) for rs in sets), default=0)
        new = next((rs for rs in sets if _hash(rs) == wanted), None)
        if deployment["spec"].get("paused"):
            return new
        if new is None:
            new = self._create_set(deployment, wanted)
        new = self._annotate(deployment, new, latest)
        number = str(revision(new))
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != number:
            self._world.edit(
                DEPLOYMENT,
                deployment,
                lambda d: d["metadata"].setdefault("annotations", {}).update({REVISION: number}),
            )
        return new

    def _annotate(self, deployment: Obj, replica_set: Obj, latest: int) -> Obj:
        """Number a ReplicaSet as the newest, and hand on what is noted at the deployment."""
        former = revision(replica_set)

        def change(edited: Obj) -> None:
            notes = edited["metadata"].setdefault("annotations", {})
            notes.update(_inherited(deployment))
            if former == latest and former:
                return
            notes[REVISION] = str(latest + 1)
            if former:
                earlier = [notes[HISTORY]] if notes.get(HISTORY) else []
                notes[HISTORY] = ",".join([*earlier, str(former)])

        return self._world.edit(REPLICA_SET, replica_set, change)

    def _create_set(self, deployment: Obj, wanted: str) -> Obj:
        world, meta, spec = self._world, deployment["metadata"], deployment["spec"]
        template = copy.deepcopy(spec["template"])
        template["metadata"].setdefault("labels", {})[HASH_LABEL] = wanted
        selector = copy.deepcopy(spec["selector"])
        selector.setdefault("matchLabels", {})[HASH_LABEL] = wanted
        bounds = Bounds.of(spec)
        made = world.store.put(
            REPLICA_SET,
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{meta['name']}-{wanted}",
                    "namespace": meta["namespace"],
                    "uid": new_uid(),
                    "generation": 1,
                    "creationTimestamp": world.store.timestamp(),
                    "labels": dict(template["metadata"]["labels"]),
                    "annotations": {
                        **_inherited(deployment),
                        DESIRED: str(bounds.replicas),
                        MAX: str(bounds.replicas + bounds.surge),
                    },
                    "ownerReferences": [owner_reference(DEPLOYMENT, deployment)],
                },
                "spec": {
                    "replicas": 0,
                    "minReadySeconds": spec.get("minReadySeconds", 0),
                    "selector": selector,
                    "template": template,
                },
                "status": {"replicas": 0},
            },
        )
        world.effect("controller.replicaset_created", REPLICA_SET, made)
        return made

    def _roll_to(self, deployment: Obj, new_name: str) -> None:
        bounds = Bounds.of(deployment["spec"])
        recreate = deployment["spec"]["strategy"]["type"] == "Recreate"
        owned = pods_by_owner(self._world)
        wait = deployment["spec"].get("minReadySeconds", 0)
        available = {
            rs["metadata"]["uid"]: sum(
                is_available(self._world, pod, wait) for pod in owned[rs["metadata"]["uid"]]
            )
            for rs in owned_sets(self._world, deployment)
        }
        for _ in range(PASSES):
            sets = owned_sets(self._world, deployment)
            new = next(rs for rs in sets if rs["metadata"]["name"] == new_name)
            olds = [rs for rs in sets if rs is not new]
            if recreate:
                self._recreate(deployment, new, olds, owned)
                continue
            self._scale_up(deployment, new, olds, bounds)
            self._scale_down(deployment, new_name, bounds, available)

    def _recreate(
        self, deployment: Obj, new: Obj, olds: list[Obj], owned: dict[str, list[Obj]]
    ) -> None:
        for old in olds:
            self._scale(deployment, old, 0)
        if not any(owned[old["metadata"]["uid"]] for old in olds):
            self._scale(deployment, new, deployment["spec"]["replicas"])

    def _scale_up(self, deployment: Obj, new: Obj, olds: list[Obj], bounds: Bounds) -> None:
        have = new["spec"]["replicas"]
        room = bounds.replicas + bounds.surge - have - sum(rs["spec"]["replicas"] for rs in olds)
        wanted = min(bounds.replicas, have + max(room, 0))
        self._scale(deployment, new, wanted)

    def _scale_down(
        self, deployment: Obj, new_name: str, bounds: Bounds, available: dict[str, int]
    ) -> None:
        """Take from the old ReplicaSets what may go: pods that do not serve first."""
        sets = owned_sets(self._world, deployment)
        new = next(rs for rs in sets if rs["metadata"]["name"] == new_name)
        olds = [rs for rs in sets if rs is not new]
        total = sum(rs["spec"]["replicas"] for rs in sets)
        least = bounds.replicas - bounds.unavailable
        pending = max(new["spec"]["replicas"] - available[new["metadata"]["uid"]], 0)
        spare = total - least - pending
        for old in olds:
            idle = old["spec"]["replicas"] - available[old["metadata"]["uid"]]
            taken = max(min(idle, spare), 0)
            spare -= taken
            self._scale(deployment, old, old["spec"]["replicas"] - taken)
        serving = sum(available.values()) - least
        for old in owned_sets(self._world, deployment):
            if old["metadata"]["name"] == new_name:
                continue
            taken = max(min(old["spec"]["replicas"], spare, serving), 0)
            spare, serving = spare - taken, serving - taken
            self._scale(deployment, old, old["spec"]["replicas"] - taken)

    def _scale_only(self, deployment: Obj) -> None:
        """A paused deployment still follows its number, at its newest ReplicaSet with pods."""
        sets = owned_sets(self._world, deployment)
        active = [rs for rs in sets if rs["spec"]["replicas"]] or sets[-1:]
        if active:
            others = sum(rs["spec"]["replicas"] for rs in active[:-1])
            wanted = max(deployment["spec"]["replicas"] - others, 0)
            self._scale(deployment, active[-1], wanted)

    def _scale(self, deployment: Obj, replica_set: Obj, replicas: int) -> None:
        before = replica_set["spec"]["replicas"]
        if before == replicas:
            return

        def change(edited: Obj) -> None:
            edited["spec"]["replicas"] = replicas
            edited["metadata"]["generation"] = edited["metadata"].get("generation", 1) + 1
            desired = str(deployment["spec"]["replicas"])
            edited["metadata"].setdefault("annotations", {})[DESIRED] = desired

        scaled = self._world.edit(REPLICA_SET, replica_set, change)
        how = "up" if replicas > before else "down"
        name = replica_set["metadata"]["name"]
        self._world.event(
            DEPLOYMENT,
            deployment,
            "ScalingReplicaSet",
            f"Scaled {how} replica set {name} from {before} to {replicas}",
        )
        self._world.effect(
            "controller.replicaset_scaled", REPLICA_SET, scaled, before=before, replicas=replicas
        )

    def _forget_history(self, deployment: Obj, new_name: str) -> None:
        """Drop the oldest ReplicaSets over the limit; what has pods stays."""
        sets = owned_sets(self._world, deployment)
        empty = [
            rs
            for rs in sets
            if rs["metadata"]["name"] != new_name
            and not rs["spec"]["replicas"]
            and not (rs.get("status") or {}).get("replicas")
        ]
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        for replica_set in empty[: max(len(empty) - limit, 0)]:
            self._world.store.remove(REPLICA_SET, replica_set)
            self._world.effect("controller.replicaset_deleted", REPLICA_SET, replica_set)


def _inherited(deployment: Obj) -> dict[str, str]:
    """The annotations of a deployment that its ReplicaSet has, too: its change cause, for one."""
    notes = deployment["metadata"].get("annotations") or {}
    return {key: value for key, value in notes.items() if key not in _OWN}


def _hash(replica_set: Obj) -> str:
    return template_hash(template_of(replica_set))
