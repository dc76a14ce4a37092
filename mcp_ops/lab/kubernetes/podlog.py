"""The log of a container, as `pods/{name}/log` answers it."""

from __future__ import annotations

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.kinds import POD, Obj
from mcp_ops.lab.kubernetes.output import Cut
from mcp_ops.lab.kubernetes.reading import whole_number
from mcp_ops.lab.kubernetes.status import Cause, StatusError, bad_request, invalid
from mcp_ops.lab.kubernetes.store import from_rfc3339
from mcp_ops.lab.kubernetes.world import World
from mcp_ops.lab.kubernetes.writing import stored_at


def pod_log(world: World, call: Call) -> bytes:
    """The part of a log that is asked for; `follow` gets what is there."""
    pod = stored_at(world, call.address)
    cut = _cut(world, call)
    container = _container(pod, call.params.get("container", ""))
    previous = call.params.get("previous", "").lower() in ("1", "true")
    lines = world.output.read(pod["metadata"]["uid"], container, previous=previous)
    if lines is None:
        name = pod["metadata"]["name"]
        if previous:
            raise bad_request(
                f'previous terminated container "{container}" in pod "{name}" not found'
            )
        raise bad_request(
            f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
        )
    return cut.text(lines)


def _container(pod: Obj, asked: str) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    pod_name = pod["metadata"]["name"]
    if asked in names:
        return asked
    if asked:
        raise bad_request(f"container {asked} is not valid for pod {pod_name}")
    if len(names) > 1:
        raise bad_request(
            f"a container name must be specified for pod {pod_name}, choose one of: "
            f"[{' '.join(names)}]"
        )
    return str(names[0])


def _cut(world: World, call: Call) -> Cut:
    tail, limit = whole_number(call, "tailLines"), whole_number(call, "limitBytes")
    seconds, moment = whole_number(call, "sinceSeconds"), call.params.get("sinceTime")
    if tail is not None and tail < 0:
        raise _refused("tailLines", tail, "must be greater than or equal to 0")
    for field, value in (("limitBytes", limit), ("sinceSeconds", seconds)):
        if value is not None and value < 1:
            raise _refused(field, value, "must be greater than 0")
    if seconds is not None and moment:
        raise bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
    since = None if seconds is None else world.store.now() - seconds
    if moment:
        try:
            since = from_rfc3339(moment)
        except ValueError as exc:
            raise bad_request(f'parsing time "{moment}" as RFC3339') from exc
    return Cut(
        tail_lines=tail,
        since=since,
        limit_bytes=limit,
        timestamps=call.params.get("timestamps", "").lower() in ("1", "true"),
    )


def _refused(field: str, value: int, why: str) -> StatusError:
    cause = Cause(field=field, reason="FieldValueInvalid", message=f"Invalid value: {value}: {why}")
    refusal = invalid(POD, "", [cause])
    refusal.message = f'PodLogOptions "" is invalid: {field}: {cause.message}'
    return refusal
