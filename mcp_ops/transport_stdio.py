"""The stdio transport: JSON-RPC lines over asyncio pipes, one task and no thread hop a message.

The SDK's own stdio transport hands every read, write and flush to a worker thread; two thirds of
a small call's time go there. This one registers the pipes with the event loop, writes what became
ready in one turn of the loop with one system call, and gives the SDK two streams of the shape it
expects. Files, terminals and Windows, where pipes can't be registered, are served by threads of
our own: a thread of the SDK's that waits for a line can't be cancelled, so SIGTERM would hang.
"""

from __future__ import annotations

import contextvars
import json
from collections import deque
from typing import Any, Final

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError

from mcp_ops.transport import DRAIN_S
from mcp_ops.transport_calls import shorten
from mcp_ops.transport_ends import ReadEnd, StreamEnd
from mcp_ops.transport_eras import serve_era
from mcp_ops.transport_json import encode, parse
from mcp_ops.transport_pipes import Sink, Source, claimed_stdio, open_sink, open_source

MAX_LINE: Final = 8 * 1024 * 1024
"""Longest line that is read, in bytes; a longer one is skipped and answered with an error."""

MAX_IN_FLIGHT: Final = 1_000
"""Requests that may wait for their answers; further ones are refused, nothing runs."""

_QUEUE_HIGH = 256
_QUEUE_LOW = 64
_KEPT_BEFORE_OPENING = 8


async def serve_stdio(server: Server[Any], *, stop: anyio.Event) -> None:
    """Serve one client on standard input and output until it leaves or `stop` is set.

    While serving, fd 0 is the null device and fd 1 is standard error, so that stray prints miss
    the protocol. After the end of input or `stop`, calls in flight have `DRAIN_S` seconds to
    answer; then they are cancelled. Returns normally in every one of these cases.

    Raises ConfigurationError when standard input or output is closed.
    """
    shorten(server)
    with claimed_stdio() as (fd_in, fd_out):
        sink = await open_sink(fd_out)
        inbox = Inbox()
        outbox = Outbox(inbox, sink)
        inbox.outbox = outbox
        inbox.source = await open_source(fd_in, inbox.feed)
        sink.on_broken(inbox.break_off)
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(_close_on_stop, stop, inbox)
                opening = await inbox.opening()
                if opening is not None:
                    await serve_era(server, opening, inbox, outbox)
                tg.cancel_scope.cancel()
        finally:
            inbox.source.close()
            await sink.finish()


async def _close_on_stop(stop: anyio.Event, inbox: Inbox) -> None:
    await stop.wait()
    inbox.close_down()


class Inbox(ReadEnd):
    """The read stream that the SDK sees: lines from `feed`, parsed when they are taken.

    It knows which requests wait for an answer, on either side, and ends when the input has ended
    (or the server is to stop) and none does, at the latest after `DRAIN_S`.
    """

    def __init__(self, *, drain_s: float = DRAIN_S) -> None:
        self.outbox: Outbox | None = None
        self.source: Source | None = None
        # The SDK starts every handler in this context; copying one per message is not needed.
        self.last_context = contextvars.copy_context()
        self._drain_s = drain_s
        self._lines: deque[bytes | JSONRPCError | None] = deque()
        self._back: deque[SessionMessage | Exception] = deque()
        self._tail = bytearray()
        self._skipping = False
        self._wake = anyio.Event()
        self._unanswered: set[RequestId] = set()
        self._asked: set[RequestId] = set()
        self._ended = self._stopping = self._broken = False
        self._deadline = float("inf")

    # From the pipe.

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive; none at all is the end of the input."""
        if data:
            self._split(data)
            if len(self._lines) > _QUEUE_HIGH and self.source is not None:
                self.source.pause()
        else:
            self._end()
        self._wake.set()

    def close_down(self) -> None:
        """Refuse new requests; end once those in flight are answered."""
        self._stopping = True
        self._set_deadline()
        self._wake.set()

    def break_off(self) -> None:
        """End at once: nobody reads our answers any more."""
        self._broken = True
        self._lines.clear()
        self._wake.set()

    # From the outbox.

    def answered(self, request_id: RequestId | None) -> None:
        """An answer to this request is on its way."""
        if request_id is not None:
            self._settle(request_id)

    def asked(self, request_id: RequestId) -> None:
        """We asked the client something. After the end of input no answer can come."""
        self._asked.add(request_id)
        if self._ended:
            self._lines.append(_gone(request_id))
            self._wake.set()

    # To the SDK.

    async def opening(self) -> JSONRPCRequest | None:
        """The client's first request, which stays to be received; None when it leaves before.

        Up to `_KEPT_BEFORE_OPENING` messages before it stay as well.
        """
        before: deque[SessionMessage | Exception] = deque(maxlen=_KEPT_BEFORE_OPENING)
        async for item in self:
            before.append(item)
            if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
                self._back = before
                return item.message
        return None

    async def receive(self) -> SessionMessage | Exception:
        """The next message, or the exception that a line is worth; EndOfStream at the end."""
        if self._back:
            return self._back.popleft()
        while True:
            line = await self._next()
            if isinstance(line, JSONRPCError):
                return SessionMessage(line)
            if line is None:
                await self._refuse(None, PARSE_ERROR, f"the line is longer than {MAX_LINE} bytes")
                continue
            try:
                message = parse(line)
            except (ValueError, RecursionError) as exc:
                await self._answer_broken(line, exc)
                return exc
            if await self._admit(message):
                return SessionMessage(message)

    async def aclose(self) -> None:
        """Stop reading."""
        self._broken = True
        self._wake.set()

    # Inside.

    def _split(self, data: bytes) -> None:
        first, *rest = data.split(b"\n")
        if not self._skipping:
            self._tail += first
        for part in rest:
            if not self._skipping and self._tail:
                self._lines.append(bytes(self._tail))
            self._skipping = False
            self._tail = bytearray(part)
        if len(self._tail) > MAX_LINE:
            self._lines.append(None)
            self._tail = bytearray()
            self._skipping = True

    def _end(self) -> None:
        self._ended = True
        if self._tail:
            self._lines.append(bytes(self._tail))
            self._tail = bytearray()
        self._lines.extend(_gone(request_id) for request_id in self._asked)
        self._set_deadline()

    def _set_deadline(self) -> None:
        self._deadline = min(self._deadline, anyio.current_time() + self._drain_s)

    async def _next(self) -> bytes | JSONRPCError | None:
        while not self._lines:
            if self._finished():
                raise anyio.EndOfStream
            self._wake = anyio.Event()
            with anyio.CancelScope(deadline=self._deadline):
                await self._wake.wait()
        line = self._lines.popleft()
        if len(self._lines) < _QUEUE_LOW and self.source is not None:
            self.source.resume()
        return line

    def _finished(self) -> bool:
        if self._broken:
            return True
        if not (self._ended or self._stopping):
            return False
        return not self._unanswered or anyio.current_time() >= self._deadline

    async def _admit(self, message: JSONRPCMessage) -> bool:
        match message:
            case JSONRPCRequest(id=request_id):
                if self._stopping:
                    why = "the server is stopping; nothing was run, call again when it is back"
                elif len(self._unanswered) >= MAX_IN_FLIGHT:
                    why = f"{MAX_IN_FLIGHT} requests wait for answers; nothing was run, wait"
                elif message.method == "subscriptions/listen":
                    return True  # it is answered when the connection ends
                else:
                    self._unanswered.add(request_id)
                    return True
                await self._refuse(request_id, CONNECTION_CLOSED, why)
                return False
            case JSONRPCNotification(method="notifications/cancelled", params=params):
                # The SDK never answers a cancelled request.
                cancelled = (params or {}).get("requestId")
                if isinstance(cancelled, str | int):
                    self._settle(cancelled)
            case JSONRPCResponse(id=answer) | JSONRPCError(id=answer) if answer is not None:
                self._asked.discard(answer)
        return True

    def _settle(self, request_id: RequestId) -> None:
        self._unanswered.discard(request_id)
        if not self._unanswered and (self._ended or self._stopping):
            self._wake.set()

    async def _answer_broken(self, line: bytes, exc: Exception) -> None:
        """Answer a broken request by its id, so that its sender need not wait; by none where the
        id cannot be read, as JSON-RPC 2.0 has it (section 5). What is no object is no request."""
        try:
            value = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            why = "the line is not valid JSON in UTF-8, or is nested too deeply"
            if line.lstrip().startswith(b"{"):
                await self._refuse(None, PARSE_ERROR, why)
            return
        request_id = value.get("id") if isinstance(value, dict) and "method" in value else None
        if not isinstance(request_id, str | int) or isinstance(request_id, bool):
            return
        if isinstance(exc, ValidationError):
            await self._refuse(request_id, INVALID_REQUEST, "not a valid JSON-RPC 2.0 request")
        else:
            await self._refuse(request_id, PARSE_ERROR, "the line is not valid JSON in UTF-8")

    async def _refuse(self, request_id: RequestId | None, code: int, why: str) -> None:
        if self.outbox is not None:
            error = ErrorData(code=code, message=why)
            await self.outbox.put(JSONRPCError(jsonrpc="2.0", id=request_id, error=error))


class Outbox(StreamEnd):
    """The write stream that the SDK sees: one line a message, waiting while the client is slow."""

    def __init__(self, inbox: Inbox, sink: Sink) -> None:
        self._inbox = inbox
        self._sink = sink
        self._closed = False

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message; BrokenResourceError when nobody reads."""
        if self._closed:
            raise anyio.ClosedResourceError
        match item.message:
            case JSONRPCResponse(id=answered) | JSONRPCError(id=answered):
                await self.put(item.message)
                self._inbox.answered(answered)
            case JSONRPCRequest(id=asked):
                self._inbox.asked(asked)
                await self.put(item.message)
            case _:
                await self.put(item.message)

    async def put(self, message: JSONRPCMessage) -> None:
        """Write a message that answers nothing that was admitted."""
        await self._sink.write(encode(message) + b"\n")

    async def aclose(self) -> None:
        """Take no more messages; what was taken is still written."""
        self._closed = True


def _gone(request_id: RequestId) -> JSONRPCError:
    error = ErrorData(code=CONNECTION_CLOSED, message="the client closed its side")
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=error)
