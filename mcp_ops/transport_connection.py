"""Connections of slow and greedy clients: cut before they cost anybody else a place.

uvicorn waits for headers without end, and for a client that does not read. Here a head has a time
and a size, a stalled answer has a time, and so has what a client still sends after its answer.

A client that sends its next request before it has the answer (pipelining) gets this answer, and
then the connection is closed: requests in line would have none of these bounds, uvicorn tells a
request that one waits behind of no disconnect, and it stops reading, so that it sees none itself.
"""

from __future__ import annotations

from asyncio import BaseTransport, Protocol, TimerHandle
from typing import Any, Final

from h11 import IDLE
from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_CONNECTIONS: Final = 2_000
"""Connections and requests at once; more are answered 503, or cut."""

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request line and headers."""

HEAD_S: Final = 10.0
"""Seconds within which a head has to be here, from the connection or its first byte on."""

BODY_S: Final = 20.0
"""Seconds within which a body has to be here, from the end of the head on."""

STALL_S: Final = 30.0
"""Seconds that a client may not read what is sent to it."""

LARGE_HEAD: Final = "mcp_ops.large_head"
"""Stands in the scope of a request whose head came at once and was too large."""

LINGER_S: Final = 5.0
"""Seconds that a client may go on to send a body after it got its answer."""

NEXT_TURN: Final = "mcp_ops.next_turn"
"""Stands in the scope of a request whose answer may be written with the loop's next turn: what
others are told in this one comes first."""

_TWO_LENGTHS = {b"content-length", b"transfer-encoding"}
_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Bounds(Protocol):
    """What is put over one of uvicorn's two protocols."""

    most = MAX_CONNECTIONS
    head_s = HEAD_S
    body_s = BODY_S
    stall_s = STALL_S
    linger_s = LINGER_S
    _deaf = False
    # The protocol's own.
    conn: Any = None
    cycle: Any
    connections: Any
    flow: Any
    loop: Any
    parser: Any
    pipeline: Any
    transport: Any

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = _HeldHead(self, self.transport)
        self._head = 0
        self._head_timer: TimerHandle | None = None
        self._body_timer: TimerHandle | None = None
        self._stall_timer: TimerHandle | None = None
        if len(self.connections) > self.most:
            # Not even worth an answer: what refuses politely is full as well.
            self.transport.abort()
            return
        self._head_timer = self.loop.call_later(self.head_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in ("_head_timer", "_body_timer", "_stall_timer"):
            self._stop(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        before = self.cycle
        waits = before is None or before.response_complete
        unheard = before is not None and before.more_body
        if not waits and not unheard:
            self._ahead(before, data)
            return
        super().data_received(data)
        self._look_behind()
        if self._body_timer is not None and not self.cycle.more_body:
            self._stop("_body_timer")
        if not waits:
            return
        if self.cycle is not before:
            self._begins(self.cycle, self._head + len(data))
            return
        # The rest of a body that was answered before is no head, and no answer is for it.
        self._awaits_head(0 if unheard else len(data))

    def _awaits_head(self, size: int) -> None:
        """So much of a head came, and it is not whole."""
        self._head += size
        if self._head > MAX_HEAD:
            self._end(_LARGE)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._late)

    def _ahead(self, cycle: Any, data: bytes) -> None:
        """Data came behind a whole request that has no answer yet."""
        if not data.strip(b"\r\n"):
            return  # some clients end a body with a line
        self._deaf = True
        cycle.keep_alive = False
        self.flow.resume_reading()  # else nobody sees that the client has gone

    def _look_behind(self) -> None:
        """What h11 keeps for later, and that a body is whole whose answer came before."""
        cycle = self.cycle
        if self.conn is None or cycle is None:
            return
        if cycle.response_complete and self.conn.their_state is IDLE:
            cycle.more_body = False
        elif not cycle.response_complete and not cycle.more_body:
            self._ahead(cycle, self.conn.trailing_data[0])

    # httptools parses all that came at once, and calls these for each request of it.

    def on_headers_complete(self) -> None:
        before = self.cycle
        if self._deaf:
            return
        super().on_headers_complete()  # type: ignore[misc]
        if self.pipeline:
            self.pipeline.clear()
            self.cycle = before
            self._ahead(before, b"more")
        if self.parser.should_upgrade():
            # Nothing is upgraded here, but the parser believes it, and would take the body that
            # comes for the next request.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        if not self._deaf:
            super().on_message_complete()  # type: ignore[misc]
            self.cycle.more_body = False  # uvicorn forgets it where the answer came before

    def _begins(self, cycle: Any, size: int) -> None:
        """A head is here; `size` is how much came, with what came of the body."""
        self._head = 0
        self._stop("_head_timer")
        if cycle.more_body:
            self._stop("_body_timer")
            self._body_timer = self.loop.call_later(self.body_s, self._trickles, cycle)
        pairs = cycle.scope["headers"]
        if self.conn is not None and {name for name, _ in pairs} >= _TWO_LENGTHS:
            cycle.keep_alive = False  # a proxy may have believed the other one; httptools refuses
        if size > MAX_HEAD and sum(len(name) + len(value) for name, value in pairs) > MAX_HEAD:
            cycle.scope[LARGE_HEAD] = True

    def _trickles(self, cycle: Any) -> None:
        self._body_timer = None
        if cycle is self.cycle and cycle.more_body and not cycle.response_complete:
            self._end(b"" if cycle.response_started else _LATE)

    def on_response_complete(self) -> None:
        done = self.cycle
        if self._deaf:
            self.transport.close()
        super().on_response_complete()  # type: ignore[misc] # both protocols have it
        if done.more_body:  # it was answered before it had said everything
            self.loop.call_later(self.linger_s, self._lingers, done)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.stall_s, self._stalls)

    def resume_writing(self) -> None:
        self._stop("_stall_timer")
        super().resume_writing()

    def _late(self) -> None:
        self._head_timer = None
        self._end(_LATE if self._head else b"")

    def _lingers(self, done: Any) -> None:
        if self.cycle is done and done.response_complete and done.more_body:
            self._end(b"")

    def _stalls(self) -> None:
        self._stall_timer = None
        self.transport.abort()

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


class _HeldHead:
    """A transport that keeps the head of a response until its first body comes, at the longest
    until the loop's next turn; so long it keeps all of one that may wait (`NEXT_TURN`).

    uvicorn writes them one by one, and each of its writes is a call of the system and wakes the
    client, which can do nothing with a head alone.
    """

    __slots__ = ("_head", "_of", "_protocol", "_transport")

    def __init__(self, protocol: Bounds, transport: Any) -> None:
        self._protocol = protocol
        self._transport = transport
        self._head = b""
        self._of: Any = None  # the response whose head was written last

    def write(self, data: bytes) -> None:
        """Write, or keep what a response begins with."""
        cycle = self._protocol.cycle
        if cycle is not self._of:
            self._flush()
            self._of, self._head = cycle, data
            self._protocol.loop.call_soon(self._flush)
        elif self._head:
            self._head += data
            if NEXT_TURN not in cycle.scope:
                self._flush()
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close it once all is written."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """How much of what was written is still here."""
        self._flush()
        left: int = self._transport.get_write_buffer_size()
        return left

    def is_closing(self) -> bool:
        """Whether it is about to be closed."""
        closing: bool = self._transport.is_closing()
        return closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


def guarded_protocol(
    base: type[Protocol] = AutoHTTPProtocol,
    *,
    over: type[Bounds] = Bounds,
    most: int = MAX_CONNECTIONS,
    head_s: float = HEAD_S,
    body_s: float = BODY_S,
    stall_s: float = STALL_S,
    linger_s: float = LINGER_S,
) -> type[Protocol]:
    """A protocol of uvicorn with these bounds, in seconds; the faster one that is installed.

    `over` is what is put over it.
    """
    bounds = {"most": most, "head_s": head_s, "body_s": body_s}
    bounds |= {"stall_s": stall_s, "linger_s": linger_s}
    return type("Guarded", (over, base), bounds)
