"""Connections of several workers: each request is served where what it is about lives.

Sessions and the approval page live in one process, and the kernel gives a connection to any. So a
look at the head of each request says whose it is, before it is parsed: by the session's id, which
begins with the number of its worker, or by its path. A connection that is another's is given to it
with all that was read, as if its client had connected there; from then on it costs nothing.

The look decides nothing else. Who may call, and what is asked, is read by who serves it: where the
look and the parser differ there is no such session there.
"""

from __future__ import annotations

import asyncio
import re
import socket
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from mcp_ops.transport_connection import MAX_HEAD, Bounds
from mcp_ops.transport_edge import APPROVALS_PATH
from mcp_ops.transport_inbox import Begin, Handed, Inbox
from mcp_ops.transport_probes import METRICS_PATH
from mcp_ops.transport_sse import MESSAGES

PAGE_WORKER: Final = 1
"""The worker that serves the approval page: who signed in is known to it alone."""

_LINE = re.compile(
    rb"[!-~]+ (?:[Hh][Tt][Tt][Pp][Ss]?://[^/? \r\n]*)?(/[^? \r\n]*)(?:\?([^ \r\n]*))? HTTP/"
)
_HEADER = b"\nmcp-session-id:"
_NUMBER = re.compile(rb"[ \t]*([0-9a-fA-F]{2})")
_OF_QUERY = re.compile(rb"(?:^|&)session_id=([0-9a-fA-F]{2})")
_WORKER = re.compile(rb"(?:^|&)worker=([0-9]{1,2})(?:&|$)")
_MESSAGES = MESSAGES.encode()
_METRICS = METRICS_PATH.encode()
_PAGE = APPROVALS_PATH.encode()
_BLANK = b"\r\n"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"content-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
)


def whose(request: bytes) -> tuple[int, bool]:
    """The number of the worker that a request is for, 0 where any may serve it, and whether no
    other can even say that there is no such thing."""
    line = _LINE.match(request)
    if line is None:
        return 0, False
    path, query = line.groups()
    if b"%" in path:
        path = unquote_to_bytes(path)
    if path == _PAGE or path.startswith(_PAGE + b"/"):
        return PAGE_WORKER, True
    if path == _METRICS:
        found = _WORKER.search(query or b"")
        return (int(found[1]) if found else 0), True
    if path == _MESSAGES:
        found = _OF_QUERY.search(query or b"")
    else:
        end = request.find(b"\r\n\r\n")
        head = request[: end if end >= 0 else MAX_HEAD]
        at = head.lower().find(_HEADER)
        found = _NUMBER.match(head, at + len(_HEADER)) if at >= 0 else None
    return (int(found[1], 16) if found else 0), False


class Handing(Bounds):
    """What is put over one of uvicorn's protocols where there are several workers."""

    inbox: Inbox
    handed = b""
    """What another worker had read of a connection that it gave away."""

    _unset_keepalive_if_required: Any  # the protocol's own

    # Whether the parser (httptools) has the beginning of a head.
    _begun = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._kept = bytearray()
        data, self.handed = self.handed, b""
        if data and not self.transport.is_closing():
            self._parse(data)  # whoever it is for: it is not sent on and on

    def data_received(self, data: bytes) -> None:
        if self._deaf or not self._between():
            before = self.cycle
            self._parse(data)
            if self.cycle is not before:
                self._came_behind(self.cycle)
            return
        if not self._kept and data[0] in _BLANK:  # before a request, or behind a body
            rest = data.lstrip(_BLANK)
            self._parse(data[: len(data) - len(rest)])
            if not rest or self.transport.is_closing():
                return
            data = rest
        request = self._request(data)
        if request and not self._given_away(request):
            self._parse(request)

    def _came_behind(self, cycle: Any) -> None:
        """A request came with the end of a body that was answered before: it is parsed already. One
        that is another worker's is not told that there is no such session."""
        scope = cycle.scope
        fields = b"".join(b"%s:%s\r\n" % pair for pair in scope["headers"])
        line = b"GET %s?%s HTTP/1.1\r\n" % (scope["raw_path"], scope["query_string"])
        if whose(line + fields + _BLANK)[0] not in (0, self.inbox.number):
            cycle.disconnected = True  # nothing is read or written for it
            self._deaf = True
            self._end(_BUSY)

    def _parse(self, data: bytes) -> None:
        super().data_received(data)

    def _between(self) -> bool:
        """Whether the next byte is the first one of a request, of which the parser has nothing."""
        last = self.cycle
        begun = self._begun if self.conn is None else self.conn.trailing_data[0]
        return not begun and (last is None or (last.response_complete and not last.more_body))

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._begun = False
        super().on_headers_complete()

    def _request(self, data: bytes) -> bytes:
        """All that came, once its head is whole, or never will be; empty before."""
        kept = self._kept
        if not kept and b"\r\n\r\n" in data:
            return data
        start = max(0, len(kept) - 3)
        kept += data
        ends = kept.find(b"\n\r\n", start) >= 0 or kept.find(b"\n\n", start) >= 0
        if not ends and len(kept) <= MAX_HEAD and kept[:1].isalpha():
            self._unset_keepalive_if_required()
            self._awaits_head(len(data))
            return b""
        whole = bytes(kept)
        kept.clear()
        self._head = 0  # it is counted once more, by who parses it
        return whole

    def _given_away(self, request: bytes) -> bool:
        """Whether nothing is left to do here."""
        number, alone = whose(request)
        if number in (0, self.inbox.number):
            return False
        if self.transport.get_write_buffer_size():
            self._end(b"")  # it did not wait for the answer before, which is still on its way
            return True
        descriptor = self.transport.get_extra_info("socket").fileno()
        handed = self.inbox.hand_over(number, descriptor, request)
        if handed is Handed.TAKEN:
            self._deaf = True
            self.transport.abort()  # not a close of the connection: that has another owner
        elif handed is Handed.NOBODY or (handed is Handed.AWAY and not alone):
            return False
        else:
            self._end(_BUSY)
        return True


def handing(inbox: Inbox) -> type[Handing]:
    """The same for the worker of this inbox."""
    return type("HandingOfWorker", (Handing,), {"inbox": inbox})


def beginning(make: Callable[[], Any]) -> Begin:
    """What serves connections that others gave away, each with a protocol that `make` makes."""

    async def begin(connection: socket.socket, data: bytes) -> None:
        protocol = make()
        protocol.handed = data
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
        if protocol.flow.read_paused:  # said before it read at all, which uvloop does not heed
            transport.pause_reading()

    return begin
