"""How the fleet is read: lists that are made while they are sent, objects, logs and watches."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import anyio
import anyio.lowlevel
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.fleet import ITEM, PARTIAL, USAGE, VERSION, Fleet
from mcp_ops.lab.kubernetes.kinds import POD_METRICS, Obj
from mcp_ops.lab.kubernetes.output import Cut
from mcp_ops.lab.kubernetes.reading import form_of, selected, whole_number
from mcp_ops.lab.kubernetes.status import bad_request, expired, method_not_allowed, not_found
from mcp_ops.lab.kubernetes.tables import partial, table
from mcp_ops.lab.kubernetes.watching import bookmark, initial_events
from mcp_ops.lab.kubernetes.world import World
from mcp_ops.lab.kubernetes.writing import scale_of

# A piece of a list that is in memory at a time, in objects.
PIECE: Final = 100
LONGEST_S: Final = 1_800
LOG_LINES: Final = 200


class FleetLists:
    """Answers what is asked of the fleet."""

    def __init__(self, fleet: Fleet, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def has(self, call: Call) -> bool:
        """Whether a request is about the fleet."""
        return self._fleet.has(call.address.kind, call.address.namespace)

    def answer(self, call: Call) -> Response:
        """One answer; raises the 405 for every write."""
        if call.verb == "list":
            return self._list(call)
        if call.verb == "watch":
            stream = self._watch(call, initial_events(call))
            return StreamingResponse(stream, media_type="application/json")
        if call.verb != "get":
            raise method_not_allowed(call.address.kind, call.verb)
        number = self._fleet.find(call.address.kind, call.address.name)
        if number is None:
            raise not_found(call.address.kind, call.address.name)
        if call.address.kind is POD_METRICS:
            return _json(self._usage(call, number))
        found = self._fleet.make(call.address.kind, number)
        if call.address.sub == "log":
            return self._log(found, call)
        if call.address.sub == "scale":
            return JSONResponse(scale_of(call.address.kind, found))
        return JSONResponse(partial(found) if form_of(call).startswith("Partial") else found)

    def _list(self, call: Call) -> Response:
        numbers, meta = self._page(call)
        kind, form = call.address.kind, form_of(call)
        if form == "Table":
            page = [self._fleet.make(kind, number) for number in numbers]
            return JSONResponse(table(kind, page, meta, self._world.store.now()))
        if form:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        else:
            head = {"kind": f"{kind.name}List", "apiVersion": kind.api_version}
        pieces = self._pieces(call, {**head, "metadata": meta}, numbers, form)
        return StreamingResponse(pieces, media_type="application/json")

    def _page(self, call: Call) -> tuple[Iterator[int] | range | list[int], Obj]:
        """The places on this page, and the list's own metadata."""
        limit = whole_number(call, "limit") or 0
        labels = call.params.get("labelSelector", "")
        narrowed = bool(labels or call.params.get("fieldSelector"))
        candidates = self._fleet.candidates(call.address.kind, labels)
        start = _start(call.params.get("continue", ""))
        meta: Obj = {"resourceVersion": str(VERSION)}
        rest = candidates[start:]
        if not narrowed:
            page: Any = rest[:limit] if limit else rest
            if limit and len(rest) > limit:
                meta["continue"] = _token(start + limit)
                meta["remainingItemCount"] = len(rest) - limit
            return page, meta
        found = self._matching(call, rest)
        if not limit:
            return found, meta
        taken: list[int] = []
        for number in found:
            if len(taken) == limit:
                meta["continue"] = _token(candidates.index(number))
                break
            taken.append(number)
        return taken, meta

    def _matching(self, call: Call, numbers: range) -> Iterator[int]:
        matches, kind = selected(call), call.address.kind
        # A label selector alone does not need the whole object.
        see = self._fleet.make if call.params.get("fieldSelector") else self._fleet.label
        return (number for number in numbers if matches(see(kind, number)))

    def _usage(self, call: Call, number: int) -> str:
        if not self._fleet.is_measured(number):
            raise not_found(POD_METRICS, call.address.name)
        head = f'{{"kind":"PodMetrics","apiVersion":"{POD_METRICS.api_version}",'
        return head + self._fleet.text(POD_METRICS, number, USAGE)[1:]

    async def _pieces(
        self, call: Call, head: Obj, numbers: Iterator[int] | range | list[int], form: str
    ) -> AsyncIterator[bytes]:
        yield json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"items":['
        piece: list[bytes] = []
        first = True
        measured = call.address.kind is POD_METRICS
        shown = USAGE if measured else PARTIAL if form else ITEM
        for number in numbers:
            if shown != USAGE or self._fleet.is_measured(number):
                piece.append(self._fleet.text(call.address.kind, number, shown).encode())
            if len(piece) == PIECE:
                yield (b"" if first else b",") + b",".join(piece)
                piece, first = [], False
                await anyio.lowlevel.checkpoint()
        if piece:
            yield (b"" if first else b",") + b",".join(piece)
        yield b"]}"

    async def _watch(self, call: Call, asked: bool | None) -> AsyncIterator[bytes]:
        """What is there, when no version is named; then nothing, for the fleet stands still."""
        if asked or (asked is None and not call.params.get("resourceVersion")):
            labels = call.params.get("labelSelector", "")
            candidates = self._fleet.candidates(call.address.kind, labels)
            for number in self._matching(call, candidates):
                text = self._fleet.text(call.address.kind, number)
                yield f'{{"type":"ADDED","object":{text}}}\n'.encode()
        if asked:
            end = {"type": "BOOKMARK", "object": bookmark(call.address.kind, VERSION)}
            yield json.dumps(end).encode() + b"\n"
        await anyio.sleep(min(whole_number(call, "timeoutSeconds") or LONGEST_S, LONGEST_S))

    def _log(self, pod: Obj, call: Call) -> Response:
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        now = self._world.store.now()
        lines = [
            (now - 10.0 * (LOG_LINES - at), f'level=info msg="request served" number={at}')
            for at in range(LOG_LINES)
        ]
        if call.params.get("previous", "").lower() in ("1", "true"):
            lines.append((now, 'level=fatal msg="exiting" code=1'))
        cut = Cut(
            tail_lines=whole_number(call, "tailLines"),
            limit_bytes=whole_number(call, "limitBytes"),
            timestamps=call.params.get("timestamps", "").lower() in ("1", "true"),
        )
        return PlainTextResponse(cut.text(lines))


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def _token(start: int) -> str:
    where = {"v": "meta.k8s.io/v1", "rv": VERSION, "start": start}
    return base64.urlsafe_b64encode(json.dumps(where).encode()).decode().rstrip("=")


def _start(token: str) -> int:
    if not token:
        return 0
    try:
        where = json.loads(base64.urlsafe_b64decode(token.encode() + b"=="))
        version, start = int(where["rv"]), int(where["start"])
    except (ValueError, KeyError, TypeError, binascii.Error) as exc:
        raise bad_request(f"continue key is not valid: {exc}") from exc
    if version != VERSION or start < 0:
        raise expired("The provided continue parameter is too old to display a consistent list.")
    return start
