"""What is wrong with jobs, cron jobs, autoscalers and containers, cause by cause."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import CRON_JOB, JOB, Kind, Obj
from mcp_ops.lab.kubernetes.status import Cause

_JOB_POLICIES: Final = ("OnFailure", "Never")
_CONCURRENCY: Final = ("Allow", "Forbid", "Replace")
_LONGEST_CRON_NAME: Final = 52


def cause(field: str, message: str, reason: str = "FieldValueInvalid") -> Cause:
    """One cause of a 422."""
    return Cause(field=field, reason=reason, message=message)


def required(field: str, why: str = "") -> Cause:
    """A field that must be there and is not."""
    message = f"Required value: {why}" if why else "Required value"
    return cause(field, message, "FieldValueRequired")


def kind_causes(kind: Kind, obj: Obj, old: Obj | None) -> list[Cause]:
    """What is wrong with a job, a cron job or an autoscaler."""
    if kind is JOB:
        return _job_causes(obj["spec"], "spec", old and old["spec"])
    if kind is CRON_JOB:
        return _cron_causes(obj)
    return _autoscaler_causes(obj["spec"])


def _negative(spec: Obj, path: str, *fields: str) -> list[Cause]:
    why = "must be greater than or equal to 0"
    return [
        cause(f"{path}.{field}", f"Invalid value: {spec[field]}: {why}")
        for field in fields
        if isinstance(spec.get(field), int) and spec[field] < 0
    ]


def _job_causes(spec: Obj, path: str, old: Obj | None = None) -> list[Cause]:
    causes = _negative(
        spec, path, "parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"
    )
    pod = spec["template"]["spec"]
    if pod.get("restartPolicy") not in _JOB_POLICIES:
        why = ", ".join(f'"{name}"' for name in _JOB_POLICIES)
        causes.append(required(f"{path}.template.spec.restartPolicy", f"valid values: {why}"))
    causes += container_causes(pod, f"{path}.template.spec")
    for field in ("completions", "selector", "template") if old is not None else ():
        # The scheduling of a job that has not started could change; nothing here asks for that.
        if old is not None and spec.get(field) != old.get(field):
            causes.append(cause(f"{path}.{field}", "Invalid value: field is immutable"))
    return causes


def _cron_causes(obj: Obj) -> list[Cause]:
    spec, causes = obj["spec"], []
    if len(obj["metadata"]["name"]) > _LONGEST_CRON_NAME:
        why = f'Invalid value: "{obj["metadata"]["name"]}": must be no more than 52 characters'
        causes.append(cause("metadata.name", why))
    schedule = spec.get("schedule")
    if not schedule:
        causes.append(required("spec.schedule"))
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        why = f"expected exactly 5 fields, found {len(schedule.split())}: {schedule.split()}"
        causes.append(cause("spec.schedule", f'Invalid value: "{schedule}": {why}'))
    if spec["concurrencyPolicy"] not in _CONCURRENCY:
        shown = ", ".join(f'"{name}"' for name in _CONCURRENCY)
        why = f'Unsupported value: "{spec["concurrencyPolicy"]}": supported values: {shown}'
        causes.append(cause("spec.concurrencyPolicy", why, "FieldValueNotSupported"))
    causes += _negative(spec, "spec", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    return causes + _job_causes(spec["jobTemplate"]["spec"], "spec.jobTemplate.spec")


def _autoscaler_causes(spec: Obj) -> list[Cause]:
    causes = []
    least, most = spec["minReplicas"], spec.get("maxReplicas") or 0
    if least < 1:
        why = f"Invalid value: {least}: must be greater than or equal to 1"
        causes.append(cause("spec.minReplicas", why))
    if most < 1:
        causes.append(cause("spec.maxReplicas", f"Invalid value: {most}: must be greater than 0"))
    if most < least:
        why = f"Invalid value: {most}: must be greater than or equal to `minReplicas`"
        causes.append(cause("spec.maxReplicas", why))
    target = spec.get("scaleTargetRef") or {}
    causes += [
        required(f"spec.scaleTargetRef.{field}")
        for field in ("kind", "name")
        if not isinstance(target.get(field), str) or not target[field]
    ]
    return causes


def container_causes(spec: Obj, path: str) -> list[Cause]:
    """What is wrong with the containers of a pod."""
    if not spec.get("containers"):
        return [required(f"{path}.containers")]
    causes: list[Cause] = []
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for at, container in enumerate(spec.get(field) or []):
            causes += _one_container(container, f"{path}.{field}[{at}]", seen)
    return causes


def _one_container(container: object, where: str, seen: set[str]) -> list[Cause]:
    causes: list[Cause] = []
    given = container if isinstance(container, dict) else {}
    name, image = given.get("name"), given.get("image")
    if not isinstance(name, str) or not name:
        causes.append(required(f"{where}.name"))
    elif name in seen:
        causes.append(cause(f"{where}.name", f'Duplicate value: "{name}"', "FieldValueDuplicate"))
    if not isinstance(image, str) or not image:
        causes.append(required(f"{where}.image"))
    seen.add(str(name))
    return causes
