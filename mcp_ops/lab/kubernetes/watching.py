"""Watches: what changes in a collection, as it happens, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.reading import selected, whole_number
from mcp_ops.lab.kubernetes.selectors import Matches
from mcp_ops.lab.kubernetes.status import bad_request, expired
from mcp_ops.lab.kubernetes.store import Change, Store

POLL_S: Final = 0.02
LONGEST_S: Final = 1_800


def watch(store: Store, call: Call) -> AsyncIterator[bytes]:
    """The events of one watch until its time is up; refuses what can't be watched at once."""
    text = call.params.get("resourceVersion", "")
    if text and not text.isdecimal():
        raise bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint')
    matches = selected(call)
    duration = min(whole_number(call, "timeoutSeconds") or LONGEST_S, LONGEST_S)
    found = [o for o in store.all(call.address.kind, call.address.namespace) if matches(o)]
    start = int(text or 0)
    return _events(store, call, matches, found, start, duration)


async def _events(
    store: Store, call: Call, matches: Matches, found: list[Obj], start: int, duration: int
) -> AsyncIterator[bytes]:
    seen = start or store.version
    for obj in [] if start else found:
        yield _line("ADDED", obj)
    outside = {_key(obj) for obj in store.all(call.address.kind) if not matches(obj)}
    until = anyio.current_time() + duration
    while anyio.current_time() < until:
        changes = store.since(seen)
        if changes is None:
            gone = expired(f"too old resource version: {seen} ({store.version})")
            yield _line("ERROR", gone.body())
            return
        seen = store.version
        for change in changes:
            event = _event(change, call, matches, outside)
            if event:
                yield _line(event, change.obj)
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


def _line(event: str, obj: Obj | dict[str, Any]) -> bytes:
    return json.dumps({"type": event, "object": obj}, separators=(",", ":")).encode() + b"\n"
