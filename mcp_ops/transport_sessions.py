"""Streamable HTTP with sessions: revisions before 2026-07-28, at /mcp.

A session is a dispatcher of the SDK's that lives as long as its client uses it. A POST hands it a
message and waits for the answer, which is a plain body unless something else is said before: then
it is an event stream, and a question to the client can come on it. The SDK's own transport makes
a stream and four tasks of every call, which costs more than the guard.

A session is found by the principal that opened it, and by nobody else. There is no replay: a
client that lost its answer calls again with the same idempotency key.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mcp_ops.transport_answer import (
    PING_S,
    WAITING,
    Answer,
    accepts,
    new_session_id,
    owner_of,
    read_body,
    say_error,
)
from mcp_ops.transport_ends import StreamEnd
from mcp_ops.transport_eras import serve_session
from mcp_ops.transport_json import encode, parse_body

MAX_SESSIONS: Final = 1_000
"""Sessions that may be open. For one more, an unused one of whoever has most is closed; where all
of those are in use the answer is 503."""

IDLE_S: Final = 30 * 60.0
"""Seconds without a request or an open stream after which a session is closed."""

_LOOK_S = 30.0
_CANCELLED = -32800
_log = logging.getLogger(__name__)


class Sessions:
    """The sessions that are open, and the application that serves them. `worker` is the number of
    one of several workers."""

    def __init__(self, server: Server[Any], *, ping_s: float = PING_S, worker: int = 0) -> None:
        self._server = server
        self._worker = worker
        self._ping_s = ping_s
        self._open: dict[bytes, Session] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._state: Any = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve; leaving ends all sessions."""
        async with self._server.lifespan(self._server) as state, anyio.create_task_group() as tasks:
            self._state, self._tasks = state, tasks
            tasks.start_soon(self._end_idle)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                self._tasks = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request at /mcp that does not name 2026-07-28."""
        headers = dict(scope["headers"])
        session_id = headers.get(b"mcp-session-id")
        session = None if session_id is None else self._open.get(session_id)
        if session_id is not None and (session is None or session.owner != owner_of(scope)):
            await say_error(send, 404, INVALID_REQUEST, "Session not found")
        elif scope["method"] == "POST":
            await self._post(session, headers, scope, receive, send)
        elif session is None:
            await say_error(send, 400, INVALID_REQUEST, "Bad Request: Missing session ID")
        elif scope["method"] == "GET":
            await session.listen(headers, receive, send)
        elif scope["method"] == "DELETE":
            self._close(session)
            await Response(status_code=200)(scope, receive, send)
        else:
            head = {"allow": "GET, POST, DELETE"}
            await Response(status_code=405, headers=head)(scope, receive, send)

    async def _post(
        self,
        session: Session | None,
        headers: dict[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            await Response("Invalid Content-Type header", 400)(scope, receive, send)
            return
        if not all(accepts(headers.get(b"accept", b""))):
            needed = (
                "Not Acceptable: Client must accept both application/json and text/event-stream"
            )
            await say_error(send, 406, INVALID_REQUEST, needed)
            return
        heard: list[Message] = []
        body = await read_body(receive, heard)
        if body is None:
            await Response("Request body too large", 413)(scope, receive, send)
            return
        try:
            message = parse_body(body)
        except ValidationError:
            await say_error(
                send, 400, INVALID_PARAMS, "Validation error: not a JSON-RPC 2.0 message"
            )
            return
        except (ValueError, RecursionError):
            await say_error(
                send, 400, PARSE_ERROR, "Parse error: the body is not valid JSON in UTF-8"
            )
            return
        await self._take(session, message, scope, receive, send)

    async def _take(
        self,
        session: Session | None,
        message: JSONRPCMessage,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        opening = isinstance(message, JSONRPCRequest) and message.method == "initialize"
        if session is None:
            if not opening:
                await say_error(send, 400, INVALID_REQUEST, "Bad Request: Missing session ID")
                return
            if not self._has_room():
                await say_error(send, 503, INTERNAL_ERROR, "Too many open sessions")
                return
            session = self._begin(owner_of(scope))
        request = Request(scope, receive)
        with session.used():
            if not isinstance(message, JSONRPCRequest):
                await Response(status_code=202, headers=session.header)(scope, receive, send)
                await session.hand_over(message, ServerMessageMetadata(request_context=request))
            else:
                right = await session.answer(message, request, send)
                if opening and not right:
                    self._close(session)

    def _has_room(self) -> bool:
        """Whether one more may open. Where there are too many, whoever has most of them loses the
        one that was not used for longest: nobody takes the place of all others."""
        if len(self._open) < MAX_SESSIONS:
            return True
        owners = Counter(session.owner for session in self._open.values())
        [(owner, _)] = owners.most_common(1)
        unused = [s for s in self._open.values() if s.owner == owner and s.idle_s() > 0]
        if unused:
            self._close(max(unused, key=Session.idle_s))
        return bool(unused)

    def _begin(self, owner: str | None) -> Session:
        assert self._tasks is not None, "served before it runs"  # noqa: S101 - our own call
        session = Session(owner, self._ping_s, self._worker)
        self._open[session.id] = session
        self._tasks.start_soon(self._serve, session)
        return session

    async def _serve(self, session: Session) -> None:
        try:
            await serve_session(self._server, session.messages, _Writer(session), self._state)
        except Exception:  # one session that fails must not end the others
            _log.exception("a session failed")
        finally:
            self._close(session)

    def _close(self, session: Session) -> None:
        self._open.pop(session.id, None)
        session.close()

    async def _end_idle(self) -> None:
        while True:
            await anyio.sleep(_LOOK_S)
            for session in list(self._open.values()):
                if session.idle_s() >= IDLE_S:
                    self._close(session)


class Session:
    """One client: where its messages go, and who waits for an answer."""

    def __init__(self, owner: str | None, ping_s: float, worker: int = 0) -> None:
        self.owner = owner
        self._ping_s = ping_s
        name = new_session_id(worker)
        self.id = name.encode()
        self.header = {"mcp-session-id": name}
        self.head = (b"mcp-session-id", self.id)
        self._hand, self.messages = anyio.create_memory_object_stream[SessionMessage | Exception](
            WAITING
        )
        self._answers: dict[str, Answer] = {}
        self._standalone: Answer | None = None
        self._uses = 0
        self._last_use = time.monotonic()

    def used(self) -> _Use:
        """While this is entered the session is not idle."""
        return _Use(self)

    def use(self, change: int) -> None:
        """Count who uses it."""
        self._uses += change
        self._last_use = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since its last use; 0 while it is used."""
        return 0.0 if self._uses else time.monotonic() - self._last_use

    async def hand_over(self, message: JSONRPCMessage, metadata: ServerMessageMetadata) -> bool:
        """Give a message to the dispatcher; false when the session is over."""
        try:
            await self._hand.send(SessionMessage(message, metadata=metadata))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    async def answer(self, message: JSONRPCRequest, request: Request, send: Send) -> bool:
        """Have a request answered on the response of its POST; whether with a result."""
        name = _name(message.id)
        if name in self._answers:
            await say_error(send, 400, INVALID_REQUEST, "A request with this id is being served")
            return False
        answer = self._answers[name] = Answer(send, self.head, ping_s=self._ping_s)
        metadata = ServerMessageMetadata(
            request_context=request, on_request_unanswered=partial(self._cancelled, message.id)
        )
        try:
            if await self.hand_over(message, metadata):
                return await answer.write()
            await say_error(send, 404, INVALID_REQUEST, "Not Found: Session has been terminated")
            return False
        finally:
            self._answers.pop(name, None)
            answer.close()

    async def listen(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """The stream of what is said outside of any call; one at a time."""
        if not accepts(headers.get(b"accept", b""))[1]:
            needed = "Not Acceptable: Client must accept text/event-stream"
            await say_error(send, 406, INVALID_REQUEST, needed)
            return
        if self._standalone is not None:
            only = "Conflict: Only one SSE stream is allowed per session"
            await say_error(send, 409, INVALID_REQUEST, only)
            return
        stream = self._standalone = Answer(send, self.head, ping_s=self._ping_s)
        try:
            with self.used():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                    await stream.write(streaming=True)
                    tasks.cancel_scope.cancel()
        finally:
            self._standalone = None
            stream.close()

    async def route(self, item: SessionMessage) -> None:
        """Bring a message of the dispatcher to whom it is for; what is for nobody is dropped."""
        message, metadata = item.message, item.metadata
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            answer = self._answers.get(_name(message.id))
            if answer is not None:
                answer.end(encode(message), right=isinstance(message, JSONRPCResponse))
            return
        related = getattr(metadata, "related_request_id", None)
        stream = self._standalone if related is None else self._answers.get(_name(related))
        if stream is not None:
            await stream.say(encode(message))

    async def _cancelled(self, request_id: RequestId) -> None:
        """This era ends the response of a request that its client cancelled with an error."""
        error = ErrorData(code=_CANCELLED, message="Request cancelled")
        message = JSONRPCError(jsonrpc="2.0", id=request_id, error=error)
        if (answer := self._answers.get(_name(request_id))) is not None:
            # As an event: the SDK's client, when it is about to close, fails over a body.
            answer.end(encode(message), right=False, streamed=True)

    def close(self) -> None:
        """End it: the dispatcher cancels what runs, and who waits is told."""
        self._hand.close()
        for answer in list(self._answers.values()):
            answer.break_off()
        if self._standalone is not None:
            self._standalone.end(b"", right=True)


class _Use:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._session.use(1)

    def __exit__(self, *_: object) -> None:
        self._session.use(-1)


class _Writer(StreamEnd):
    """The write stream that the dispatcher sees."""

    def __init__(self, session: Session) -> None:
        self.send = session.route

    async def aclose(self) -> None:
        """What was said is still written."""


def _name(request_id: RequestId | None) -> str:
    return str(request_id)


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
