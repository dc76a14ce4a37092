"""Watches: what changes in a collection, as it happens, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Final

import anyio

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.kinds import Kind, Obj
from mcp_ops.lab.kubernetes.reading import form_of, selected, whole_number
from mcp_ops.lab.kubernetes.selectors import Matches
from mcp_ops.lab.kubernetes.status import StatusError, bad_request, expired
from mcp_ops.lab.kubernetes.store import Change, Store
from mcp_ops.lab.kubernetes.tables import partial, table

POLL_S: Final = 0.02
LONGEST_S: Final = 1_800
_NOT_OLDER: Final = "NotOlderThan"
_INITIAL_END: Final = "k8s.io/initial-events-end"


def watch(store: Store, call: Call) -> AsyncIterator[bytes]:
    """The events of one watch until its time is up; refuses what can't be watched at once."""
    text = call.params.get("resourceVersion", "")
    if text and not text.isdecimal():
        raise bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint')
    asked = initial_events(call)
    matches = selected(call)
    duration = min(whole_number(call, "timeoutSeconds") or LONGEST_S, LONGEST_S)
    start = int(text or 0)
    shown = not start if asked is None else asked
    found = store.all(call.address.kind, call.address.namespace) if shown else []
    first = [("ADDED", obj) for obj in found if matches(obj)]
    if asked and _is_true(call, "allowWatchBookmarks"):
        first.append(("BOOKMARK", bookmark(call.address.kind, store.version)))
    seen = store.version if shown or not start else start
    return _written(store, call, _events(store, call, matches, first, seen, duration))


def initial_events(call: Call) -> bool | None:
    """Whether a watch shall begin with what is there, and say when that is told (streaming
    lists); nothing when it says nothing about it."""
    text, match = call.params.get("sendInitialEvents"), call.params.get("resourceVersionMatch", "")
    where, why = "resourceVersionMatch", ""
    if text is not None and match != _NOT_OLDER:
        why = f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER}"
    elif text is None and match:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    if why:
        cause = {"reason": "FieldValueForbidden", "field": where, "message": f"Forbidden: {why}"}
        message = f'ListOptions.meta.k8s.io "" is invalid: {where}: Forbidden: {why}'
        details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]}
        raise StatusError(422, "Invalid", message, details)
    return None if text is None else _is_true(call, "sendInitialEvents")


def bookmark(kind: Kind, version: int) -> Obj:
    """The object of the event after the initial ones."""
    meta = {"resourceVersion": str(version), "annotations": {_INITIAL_END: "true"}}
    return {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta}


async def _written(
    store: Store, call: Call, events: AsyncIterator[tuple[str, Obj]]
) -> AsyncIterator[bytes]:
    """The events in the form that the client asked for; one of an error is always a `Status`."""
    form, named = form_of(call), True
    async for event, obj in events:
        shown = obj
        if event != "ERROR" and form == "Table":
            meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            rows = [] if event == "BOOKMARK" else [obj]
            shown = table(call.address.kind, rows, meta, store.now(), named=named)
            named = False
        elif event not in ("ERROR", "BOOKMARK") and form:
            shown = partial(obj)
        yield json.dumps({"type": event, "object": shown}, separators=(",", ":")).encode() + b"\n"


async def _events(
    store: Store,
    call: Call,
    matches: Matches,
    first: list[tuple[str, Obj]],
    seen: int,
    duration: int,
) -> AsyncIterator[tuple[str, Obj]]:
    for event_of in first:
        yield event_of
    outside = {_key(obj) for obj in store.all(call.address.kind) if not matches(obj)}
    until = anyio.current_time() + duration
    while anyio.current_time() < until:
        changes = store.since(seen)
        if changes is None:
            gone = expired(f"too old resource version: {seen} ({store.version})")
            yield "ERROR", gone.body()
            return
        seen = store.version
        for change in changes:
            event = _event(change, call, matches, outside)
            if event:
                yield event, change.obj
        await anyio.sleep(POLL_S)


def _key(obj: Obj) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _event(change: Change, call: Call, matches: Matches, outside: set[tuple[str, str]]) -> str:
    """What a change is to this watch: an object can also move in and out of its selection."""
    namespace = call.address.namespace
    key = _key(change.obj)
    if change.kind is not call.address.kind or (namespace and key[0] != namespace):
        return ""
    if matches(change.obj):
        entered = key in outside
        outside.discard(key)
        return "ADDED" if entered and change.type == "MODIFIED" else change.type
    left = key not in outside and change.type == "MODIFIED"
    outside.add(key)
    return "DELETED" if left else ""


def _is_true(call: Call, name: str) -> bool:
    return call.params.get(name, "").lower() in ("1", "true")
