"""A large world that costs little: thousands of pods, each made up when it is asked for.

Every object follows from its number: its text is a template of its kind, filled in. So nothing is
kept, and a list of any length is sent piece by piece. The fleet can be read; it is for measuring,
not for changing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Final

from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, EVENT, POD, REPLICA_SET, Kind, Obj
from mcp_ops.lab.kubernetes.managed import with_manager
from mcp_ops.lab.kubernetes.owned import ALPHABET
from mcp_ops.lab.kubernetes.podstatus import Shown, condition, terminated, waiting, write_status
from mcp_ops.lab.kubernetes.store import rfc3339
from mcp_ops.lab.kubernetes.tables import partial
from mcp_ops.lab.kubernetes.world import owner_reference

FLEET: Final = "fleet"
EACH: Final = 20
VERSION: Final = 1000
# Which deployments have some pods that ail, by the remainder of their number, and what of.
_PERIOD: Final = 50
_AILING: Final = {3: "crash", 11: "oom", 19: "image", 27: "pending", 35: "evicted"}
_AILING_EACH: Final = 3
_AGE_S: Final = 9 * 86_400
# The form of a list's item, of an object by itself, of its metadata only, and of a pod's usage.
ITEM, WHOLE, PARTIAL, USAGE = "item", "whole", "partial", "usage"
_TOKEN: Final = re.compile("@([A-Z]+)@")
_KINDS: Final = (POD.plural, DEPLOYMENT.plural, REPLICA_SET.plural, EVENT.plural)
_DIGITS: Final = "".join(sorted(ALPHABET))
_EVENTS: Final = {
    "crash": ("BackOff", "Back-off restarting failed container app in pod {name}"),
    "oom": ("BackOff", "Back-off restarting failed container app in pod {name}"),
    "image": ("Failed", "Error: ImagePullBackOff"),
    "pending": ("FailedScheduling", "0/2 nodes are available: 2 Insufficient cpu."),
    "evicted": ("Evicted", "The node was low on resource: memory. "),
}


class Fleet:
    """`pods` pods in deployments of twenty, in the namespace `fleet`."""

    def __init__(self, *, pods: int, now: Callable[[], float]) -> None:
        self.deployments = max(pods // EACH, 1)
        created, ready = rfc3339(now() - _AGE_S), rfc3339(now() - _AGE_S + 30)
        self._made = _Templates(created=created, ready=ready)
        self._texts: dict[tuple[str, str, str], list[str]] = {}
        self._ailing = [
            (number, place)
            for number in range(self.deployments)
            if _ailment(number)
            for place in range(_AILING_EACH)
        ]

    def has(self, kind: Kind, namespace: str) -> bool:
        """Whether objects of a kind in a namespace are the fleet's."""
        return namespace == FLEET and kind.plural in _KINDS

    def count(self, kind: Kind) -> int:
        """How many objects of a kind there are."""
        if kind is EVENT:
            return len(self._ailing)
        return self.deployments * (EACH if kind.plural == POD.plural else 1)

    def text(self, kind: Kind, number: int, form: str = WHOLE) -> str:
        """The JSON of an object, by its place in the list of its kind."""
        app, place = self._where(kind, number)
        ill = _ailment(app)
        if kind.plural == POD.plural and place >= _AILING_EACH:
            ill = ""
        pieces = self._texts.get((kind.plural, ill, form))
        if pieces is None:
            pieces = _TOKEN.split(json.dumps(self._made.of(kind, ill, form), separators=(",", ":")))
            self._texts[kind.plural, ill, form] = pieces
        values = _values(app, place, number)
        filled = list(pieces)
        for at in range(1, len(pieces), 2):
            filled[at] = values[pieces[at]]
        return "".join(filled)

    def make(self, kind: Kind, number: int) -> Obj:
        """An object, by its place in the list of its kind."""
        made: Obj = json.loads(self.text(kind, number))
        return made

    def label(self, kind: Kind, number: int) -> Obj:
        """As much of an object as a label selector looks at."""
        return {
            "metadata": {
                "labels": {} if kind is EVENT else _labels(kind, self._where(kind, number)[0])
            }
        }

    def is_measured(self, number: int) -> bool:
        """Whether a pod runs, so that there is something to measure."""
        app, place = divmod(number, EACH)
        return place >= _AILING_EACH or _ailment(app) in ("", "oom", "crash")

    def find(self, kind: Kind, name: str) -> int | None:
        """The place of the object of a name, if there is one."""
        if kind is EVENT:
            numbers: Any = range(self.count(kind))
        else:
            text = name[4:].partition("-")[0]
            at = int(text) if text.isdecimal() and len(text) < 7 else self.deployments
            each = EACH if kind.plural == POD.plural else 1
            numbers = range(at * each, (at + 1) * each) if at < self.deployments else ()
        for number in numbers:
            if self.make(kind, number)["metadata"]["name"] == name:
                return int(number)
        return None

    def candidates(self, kind: Kind, selector: str) -> range:
        """The places at which a label selector can match: those of one app, when it names one."""
        everything = range(self.count(kind))
        if kind is EVENT or not selector:
            return everything
        for part in selector.split(","):
            key, _, value = part.replace("==", "=").partition("=")
            number = value.strip().removeprefix("app-")
            if key.strip() == "app" and number.isdecimal() and len(number) < 7:
                each = EACH if kind.plural == POD.plural else 1
                return everything[int(number) * each : (int(number) + 1) * each]
        return everything

    def _where(self, kind: Kind, number: int) -> tuple[int, int]:
        """The deployment of an object, and its place among those of that deployment."""
        if kind is EVENT:
            return self._ailing[number]
        return divmod(number, EACH) if kind.plural == POD.plural else (number, 0)


class _Templates:
    """One object of each kind and ailment, with tokens where the number shows."""

    def __init__(self, *, created: str, ready: str) -> None:
        self._created = created
        self._ready = ready

    def of(self, kind: Kind, ill: str, form: str) -> Obj:
        """The object in one of its forms."""
        makers = {
            POD.plural: self._pod,
            DEPLOYMENT.plural: self._deployment,
            REPLICA_SET.plural: self._replica_set,
            EVENT.plural: self._event,
        }
        made = makers[kind.plural](ill)
        if form == PARTIAL:
            return partial(made)
        if form == USAGE:
            return self._usage(made)
        if form == ITEM:
            return {key: value for key, value in made.items() if key not in ("kind", "apiVersion")}
        return made

    def _deployment(self, ill: str) -> Obj:
        wanted = EACH - _AILING_EACH if ill == "evicted" else EACH
        ready = EACH - _AILING_EACH if ill else EACH
        made = self._object(DEPLOYMENT, "@APP@")
        made["metadata"].update(
            generation=1, annotations={"deployment.kubernetes.io/revision": "1"}
        )
        made["spec"] = {"replicas": wanted, **self._selected()}
        apply_defaults(DEPLOYMENT, made)
        told = {"lastTransitionTime": self._ready, "lastUpdateTime": self._ready}
        done = 'ReplicaSet "@SET@" has successfully progressed.'
        status: Obj = {
            "observedGeneration": 1,
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [
                {
                    "type": "Available",
                    "status": "True",
                    **told,
                    "reason": "MinimumReplicasAvailable",
                    "message": "Deployment has minimum availability.",
                },
                {
                    "type": "Progressing",
                    "status": "True",
                    **told,
                    "reason": "NewReplicaSetAvailable",
                    "message": done,
                },
            ],
        }
        if ready < wanted:
            status["unavailableReplicas"] = wanted - ready
        made["status"] = status
        return self._managed(made)

    def _replica_set(self, ill: str) -> Obj:
        owner = self._deployment(ill)
        made = self._object(REPLICA_SET, "@SET@")
        made["metadata"].update(
            generation=1,
            annotations={"deployment.kubernetes.io/revision": "1"},
            ownerReferences=[owner_reference(DEPLOYMENT, owner)],
        )
        made["spec"] = {"replicas": owner["spec"]["replicas"], **self._selected()}
        apply_defaults(REPLICA_SET, made)
        told = owner["status"]
        made["status"] = {
            "replicas": told["replicas"],
            "fullyLabeledReplicas": told["replicas"],
            "readyReplicas": told["readyReplicas"],
            "availableReplicas": told["availableReplicas"],
            "observedGeneration": 1,
        }
        return self._managed(made)

    def _pod(self, ill: str) -> Obj:
        made = self._object(POD, "@POD@")
        owner = {"metadata": {"name": "@SET@", "uid": _uid(REPLICA_SET, "@APPID@")}}
        made["metadata"]["ownerReferences"] = [owner_reference(REPLICA_SET, owner)]
        made["spec"] = _pod_spec(missing=ill == "image")
        apply_defaults(POD, made)
        status = made["status"]
        if ill == "pending":
            why = {"reason": "Unschedulable", "message": _EVENTS["pending"][1]}
            status["conditions"] = [condition({}, "PodScheduled", False, self._created, **why)]
            return self._managed(made)
        made["spec"]["nodeName"] = "@NODE@"
        status.update(phase="Running", startTime=self._created, hostIP="10.0.0.7")
        status.update(podIP="@IP@", podIPs=[{"ip": "@IP@"}])
        self._ail(made, ill)
        return self._managed(made)

    def _event(self, ill: str) -> Obj:
        reason, message = _EVENTS[ill]
        made = self._object(EVENT, "@POD@.@NUMBER@")
        del made["metadata"]["labels"]
        return {
            **made,
            "involvedObject": {
                "kind": "Pod",
                "namespace": FLEET,
                "name": "@POD@",
                "uid": _uid(POD, "@PODID@"),
                "apiVersion": "v1",
                "resourceVersion": str(VERSION),
            },
            "reason": reason,
            "message": message.format(name="@POD@"),
            "source": {"component": "kubelet"},
            "firstTimestamp": self._ready,
            "lastTimestamp": self._ready,
            "count": 40,
            "type": "Warning",
            "eventTime": None,
            "reportingComponent": "kubelet",
            "reportingInstance": "",
        }

    def _usage(self, pod: Obj) -> Obj:
        kept = ("name", "namespace", "labels")
        used = {"cpu": "@CPU@n", "memory": "65536Ki"}
        return {
            "metadata": {key: pod["metadata"][key] for key in kept},
            "timestamp": self._ready,
            "window": "15.0s",
            "containers": [{"name": "app", "usage": used}],
        }

    def _ail(self, pod: Obj, ill: str) -> None:
        since, now = self._created, self._ready
        shown = Shown(ready=True)
        if ill == "crash":
            ended = terminated(pod, 1, "Error", since, now)
            back_off = waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container=app")
            shown = Shown(state=back_off, last=ended, restarted=True)
        elif ill == "oom":
            ended = terminated(pod, 137, "OOMKilled", since, now)
            shown = Shown(ready=True, last=ended, restarted=True)
        elif ill == "image":
            pod["status"]["phase"] = "Pending"
            shown = Shown(state=waiting("ImagePullBackOff", "Back-off pulling image"))
        elif ill == "evicted":
            pod["status"].update(phase="Failed", reason="Evicted", message=_EVENTS[ill][1])
            shown = Shown(state=terminated(pod, 137, "Error", since, now))
        write_status(pod, now, {"app": shown})

    def _selected(self) -> Obj:
        template = {"metadata": {"labels": _LABELS}, "spec": _pod_spec()}
        return {"selector": {"matchLabels": {"app": "@APP@"}}, "template": template}

    def _object(self, kind: Kind, name: str) -> Obj:
        return {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {
                "name": name,
                "namespace": FLEET,
                "uid": _uid(kind, "@NUMBER@"),
                "resourceVersion": str(VERSION),
                "creationTimestamp": self._created,
                "labels": _LABELS | (_HASHED if kind.plural in _MADE else {}),
            },
        }

    def _managed(self, made: Obj) -> Obj:
        """A real object says who wrote each field, and that is a good part of its bytes."""
        fields = with_manager(None, made, "kube-controller-manager", "", self._created)
        made["metadata"]["managedFields"] = fields
        return made


def _ailment(number: int) -> str:
    return _AILING.get(number % _PERIOD, "")


def _name(number: int) -> str:
    return f"app-{number:03d}"


@functools.lru_cache(maxsize=64)
def _set_name(number: int) -> str:
    digest = hashlib.sha256(_name(number).encode()).digest()
    return f"{_name(number)}-{''.join(_DIGITS[byte % len(_DIGITS)] for byte in digest[:10])}"


def _pod_name(app: int, place: int) -> str:
    """A name whose order is that of the places, as a list has it."""
    high, low = divmod(place, len(_DIGITS))
    return f"{_set_name(app)}-k7{_DIGITS[high % len(_DIGITS)]}{_DIGITS[low]}q"


def _uid(kind: Kind, number: str) -> str:
    return f"{len(kind.plural):08x}-0000-4000-8000-{number}"


def _values(app: int, place: int, number: int) -> dict[str, str]:
    """What a template's tokens stand for."""
    pod = app * EACH + place
    return {
        **_app_values(app),
        "POD": _pod_name(app, place),
        "NUMBER": f"{number:012x}",
        "PODID": f"{pod:012x}",
        "NODE": f"node-{pod % 200:03d}",
        "IP": f"10.{200 + pod // 65_025}.{pod // 255 % 255}.{pod % 255}",
        "CPU": str(41_000_000 + pod * 977 % 9_000_000),
    }


@functools.lru_cache(maxsize=64)
def _app_values(app: int) -> dict[str, str]:
    return {
        "APP": _name(app),
        "APPID": f"{app:012x}",
        "SET": _set_name(app),
        "HASH": _set_name(app).rpartition("-")[2],
        "TEAM": f"team-{app % 20}",
        "MINOR": str(app),
    }


_LABELS: Final = {"app": "@APP@", "team": "@TEAM@", "tier": "backend"}
# What a deployment's controller adds to what it makes.
_HASHED: Final = {"pod-template-hash": "@HASH@"}
_MADE: Final = (POD.plural, REPLICA_SET.plural)


def _labels(kind: Kind, app: int) -> dict[str, str]:
    values = _app_values(app)
    found = {"app": values["APP"], "team": values["TEAM"], "tier": "backend"}
    return found | ({"pod-template-hash": values["HASH"]} if kind.plural in _MADE else {})


def _pod_spec(*, missing: bool = False) -> Obj:
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}}
    mount = {"name": "config", "mountPath": "/etc/app", "readOnly": True}
    names = ("LOG_LEVEL", "REGION", "DATABASE_HOST", "CACHE_HOST", "QUEUE", "FEATURES")
    container = {
        "name": "app",
        "image": "lab/@APP@:1.@MINOR@.0" + ("-missing" if missing else ""),
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": name, "value": f"{name.lower()}-@MINOR@"} for name in names],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "256Mi"},
        },
        "livenessProbe": dict(probe),
        "readinessProbe": dict(probe),
        "volumeMounts": [mount],
    }
    volume = {"name": "config", "configMap": {"name": "@APP@", "defaultMode": 420}}
    return {"containers": [container], "volumes": [volume], "serviceAccountName": "default"}
