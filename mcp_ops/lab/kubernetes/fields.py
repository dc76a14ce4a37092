"""The fields that objects may have: what `fieldValidation` asks, and what else is dropped."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    POD,
    REPLICA_SET,
    ROLE,
    ROLE_BINDING,
    STATEFUL_SET,
    Kind,
    Obj,
)

ANY: Final[dict[str, Any]] = {"*": None}


def _fields(names: str, **inner: Any) -> dict[str, Any]:
    return {**dict.fromkeys(names.split(), ANY), **inner}


_META = _fields(
    "name generateName namespace selfLink uid resourceVersion generation creationTimestamp "
    "deletionTimestamp deletionGracePeriodSeconds labels annotations ownerReferences finalizers "
    "managedFields"
)
_CONTAINER = _fields(
    "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy "
    "restartPolicyRules volumeMounts volumeDevices livenessProbe readinessProbe startupProbe "
    "lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext "
    "stdin stdinOnce tty"
)
_POD_SPEC = _fields(
    "volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds "
    "activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount "
    "automountServiceAccountToken nodeName hostNetwork hostPID hostIPC shareProcessNamespace "
    "securityContext imagePullSecrets hostname subdomain affinity schedulerName tolerations "
    "hostAliases priorityClassName priority dnsConfig readinessGates runtimeClassName "
    "enableServiceLinks preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN "
    "os hostUsers schedulingGates resourceClaims resources",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
)
_TEMPLATE = {"metadata": _META, "spec": _POD_SPEC}
_JOB = _fields(
    "parallelism completions activeDeadlineSeconds podFailurePolicy successPolicy backoffLimit "
    "backoffLimitPerIndex maxFailedIndexes selector manualSelector ttlSecondsAfterFinished "
    "completionMode suspend podReplacementPolicy managedBy",
    template=_TEMPLATE,
)
_SPECS: Final = {
    NAMESPACE.plural: _fields("finalizers"),
    POD.plural: _POD_SPEC,
    DEPLOYMENT.plural: _fields(
        "replicas selector strategy minReadySeconds revisionHistoryLimit paused "
        "progressDeadlineSeconds",
        template=_TEMPLATE,
    ),
    REPLICA_SET.plural: _fields("replicas selector minReadySeconds", template=_TEMPLATE),
    STATEFUL_SET.plural: _fields(
        "replicas selector volumeClaimTemplates serviceName podManagementPolicy updateStrategy "
        "revisionHistoryLimit minReadySeconds persistentVolumeClaimRetentionPolicy ordinals",
        template=_TEMPLATE,
    ),
    DAEMON_SET.plural: _fields(
        "selector updateStrategy minReadySeconds revisionHistoryLimit", template=_TEMPLATE
    ),
    JOB.plural: _JOB,
    CRON_JOB.plural: _fields(
        "schedule timeZone startingDeadlineSeconds concurrencyPolicy suspend "
        "successfulJobsHistoryLimit failedJobsHistoryLimit",
        jobTemplate={"metadata": _META, "spec": _JOB},
    ),
    AUTOSCALER.plural: _fields("scaleTargetRef minReplicas maxReplicas metrics behavior"),
}
_TOP = {"apiVersion": ANY, "kind": ANY, "metadata": _META}
_EVENT = _fields(
    "involvedObject reason message source firstTimestamp lastTimestamp count type eventTime "
    "series action related reportingComponent reportingInstance"
)


def _tree(kind: Kind) -> dict[str, Any]:
    if kind.plural in _SPECS:
        return {**_TOP, "spec": _SPECS[kind.plural], "status": ANY}
    if kind is CONFIG_MAP:
        return {**_TOP, **_fields("data binaryData immutable")}
    if kind in (ROLE, ROLE_BINDING):
        return {**_TOP, **_fields("rules roleRef subjects")}
    if kind is CONTROLLER_REVISION:
        return {**_TOP, **_fields("data revision")}
    return {**_TOP, **_EVENT}


def prune(kind: Kind, obj: Obj) -> tuple[Obj, list[str]]:
    """The object without the fields its kind does not have, and the paths of those fields."""
    unknown: list[str] = []
    pruned: Obj = _prune(obj, _tree(kind), "", unknown)
    return pruned, unknown


def _prune(value: Any, tree: dict[str, Any], path: str, unknown: list[str]) -> Any:
    if tree is ANY:
        return value
    if isinstance(value, list):
        return [_prune(item, tree, f"{path}[{i}]", unknown) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        where = f"{path}.{key}" if path else key
        if key in tree:
            kept[key] = _prune(inner, tree[key], where, unknown)
        else:
            unknown.append(where)
    return kept
