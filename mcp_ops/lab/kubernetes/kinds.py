"""The kinds of object this API server knows, as its discovery documents tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Obj = dict[str, Any]

READ_VERBS: Final = ("get", "list", "watch")
WRITE_VERBS: Final = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of object and how it is addressed."""

    name: str
    plural: str
    short: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    scalable: bool = False
    has_status: bool = True
    extra: tuple[str, ...] = ()
    verbs: tuple[str, ...] = (*READ_VERBS, *WRITE_VERBS)

    @property
    def api_version(self) -> str:
        """What an object of this kind says in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The qualified resource of error messages, such as `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """The qualified kind of validation messages, such as `Deployment.apps`."""
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def subresources(self) -> tuple[str, ...]:
        """The subresources that are served."""
        scale = ("scale",) if self.scalable else ()
        status = ("status",) if self.has_status else ()
        return (*scale, *status, *self.extra)


NAMESPACE: Final = Kind(name="Namespace", plural="namespaces", short="ns", namespaced=False)
POD: Final = Kind(name="Pod", plural="pods", short="po", extra=("log", "eviction"))
EVENT: Final = Kind(name="Event", plural="events", short="ev", has_status=False)
CONFIG_MAP: Final = Kind(name="ConfigMap", plural="configmaps", short="cm", has_status=False)
DEPLOYMENT: Final = Kind(
    name="Deployment", plural="deployments", short="deploy", group="apps", scalable=True
)
REPLICA_SET: Final = Kind(
    name="ReplicaSet", plural="replicasets", short="rs", group="apps", scalable=True
)
STATEFUL_SET: Final = Kind(
    name="StatefulSet", plural="statefulsets", short="sts", group="apps", scalable=True
)
DAEMON_SET: Final = Kind(name="DaemonSet", plural="daemonsets", short="ds", group="apps")

CONTROLLER_REVISION: Final = Kind(
    name="ControllerRevision",
    plural="controllerrevisions",
    short="",
    group="apps",
    has_status=False,
)
JOB: Final = Kind(name="Job", plural="jobs", short="", group="batch")
CRON_JOB: Final = Kind(name="CronJob", plural="cronjobs", short="cj", group="batch")
AUTOSCALER: Final = Kind(
    name="HorizontalPodAutoscaler",
    plural="horizontalpodautoscalers",
    short="hpa",
    group="autoscaling",
    version="v2",
)
ROLE: Final = Kind(
    name="Role", plural="roles", short="", group="rbac.authorization.k8s.io", has_status=False
)
ROLE_BINDING: Final = Kind(
    name="RoleBinding",
    plural="rolebindings",
    short="",
    group="rbac.authorization.k8s.io",
    has_status=False,
)
# Measured, not stored.
POD_METRICS: Final = Kind(
    name="PodMetrics",
    plural="pods",
    short="",
    group="metrics.k8s.io",
    version="v1beta1",
    has_status=False,
    verbs=("get", "list"),
)

KINDS: Final = (
    NAMESPACE,
    POD,
    EVENT,
    CONFIG_MAP,
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    DAEMON_SET,
    CONTROLLER_REVISION,
    JOB,
    CRON_JOB,
    AUTOSCALER,
    ROLE,
    ROLE_BINDING,
)
SERVED: Final = (*KINDS, POD_METRICS)
WORKLOADS: Final = (DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET)
# What counts its changes, and what owns other objects.
COUNTED: Final = (*WORKLOADS, JOB, CRON_JOB)
OWNERS: Final = COUNTED
OWNED: Final = (REPLICA_SET, CONTROLLER_REVISION, JOB, POD)


def find_kind(group: str, plural: str) -> Kind | None:
    """The kind at an address, or nothing when no such resource is served."""
    for kind in SERVED:
        if (kind.group, kind.plural) == (group, plural):
            return kind
    return None
