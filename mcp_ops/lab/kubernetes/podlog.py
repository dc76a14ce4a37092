"""The log of a container, as `pods/{name}/log` answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import anyio

from mcp_ops.lab.kubernetes.call import Address, Call
from mcp_ops.lab.kubernetes.kinds import POD, Obj
from mcp_ops.lab.kubernetes.output import Cut
from mcp_ops.lab.kubernetes.podstatus import INIT, is_over
from mcp_ops.lab.kubernetes.reading import LARGEST, whole_number
from mcp_ops.lab.kubernetes.status import Cause, StatusError, bad_request, invalid
from mcp_ops.lab.kubernetes.store import from_rfc3339
from mcp_ops.lab.kubernetes.world import World
from mcp_ops.lab.kubernetes.writing import stored_at

POLL_S: Final = 0.02


def pod_log(world: World, call: Call) -> bytes | AsyncIterator[bytes]:
    """The part of a log that is asked for; with `follow` also what is written from now on."""
    pod = stored_at(world, call.address)
    cut = _cut(world, call)
    container = _container(pod, call.params.get("container", ""))
    previous = _is_true(call, "previous")
    uid = pod["metadata"]["uid"]
    lines = world.output.read(uid, container, previous=previous)
    if lines is None:
        raise bad_request(_no_log(pod, container, previous=previous))
    if _is_true(call, "follow") and not previous:
        return _follow(world, call.address, uid, container, cut)
    return cut.text(lines)


async def _follow(
    world: World, address: Address, uid: str, container: str, cut: Cut
) -> AsyncIterator[bytes]:
    """What is there, then every new line until the container ends or the pod is gone."""
    left = LARGEST if cut.limit_bytes is None else cut.limit_bytes
    at = world.output.place(uid, container)
    piece = cut.text(world.output.read(uid, container, previous=False) or [])
    while at is not None:
        if piece:
            yield piece[:left]
            left -= len(piece)
        if left <= 0 or _ended(world, address, uid):
            return
        await anyio.sleep(POLL_S)
        now = world.output.place(uid, container)
        if now is None or now[0] != at[0]:
            return
        lines = world.output.read(uid, container, previous=False) or []
        fresh = now[1] - at[1]
        piece = cut.plain(lines[-fresh:]) if fresh else b""
        at = now


def _ended(world: World, address: Address, uid: str) -> bool:
    pod = world.store.get(POD, address.namespace, address.name)
    return pod is None or pod["metadata"]["uid"] != uid or is_over(pod)


def _is_true(call: Call, name: str) -> bool:
    return call.params.get(name, "").lower() in ("1", "true")


def _no_log(pod: Obj, container: str, *, previous: bool) -> str:
    """Why there is no log, in the words of the API server or the node."""
    name = pod["metadata"]["name"]
    if not pod["spec"].get("nodeName"):
        return f"pod {name} does not have a host assigned"
    if previous:
        return f'previous terminated container "{container}" in pod "{name}" not found'
    states = {one["name"]: one["state"] for one in pod["status"].get("containerStatuses") or []}
    reason = states.get(container, {}).get("waiting", {}).get("reason", "ContainerCreating")
    told = {
        "ErrImagePull": "image can't be pulled",
        "ImagePullBackOff": "trying and failing to pull image",
    }
    return (
        f'container "{container}" in pod "{name}" is waiting to start: {told.get(reason, reason)}'
    )


def _container(pod: Obj, asked: str) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    inits = [container["name"] for container in pod["spec"].get(INIT) or []]
    pod_name = pod["metadata"]["name"]
    if asked in (*names, *inits):
        return asked
    if asked:
        raise bad_request(f"container {asked} is not valid for pod {pod_name}")
    if len(names) > 1:
        also = f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
        raise bad_request(
            f"a container name must be specified for pod {pod_name}, choose one of: "
            f"[{' '.join(names)}]{also}"
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
        timestamps=_is_true(call, "timestamps"),
    )


def _refused(field: str, value: int, why: str) -> StatusError:
    cause = Cause(field=field, reason="FieldValueInvalid", message=f"Invalid value: {value}: {why}")
    refusal = invalid(POD, "", [cause])
    refusal.message = f'PodLogOptions "" is invalid: {field}: {cause.message}'
    return refusal
