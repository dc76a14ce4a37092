"""Raw requests to the API server through the client library's transport: JSON in, JSON out."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import orjson

from mcp_ops.adapters.kubernetes.access import Access
from mcp_ops.adapters.kubernetes.failures import GARBLED, Ask, refusal, settled, translated
from mcp_ops.adapters.kubernetes.fields import Obj, mapping, text
from mcp_ops.clock import Clock
from mcp_ops.errors import BadAnswer, Unauthenticated
from mcp_ops.heard import asking, heard

if TYPE_CHECKING:
    from aiohttp import ClientResponse, TraceConfig
    from kubernetes.aio.client.api_client import ApiClient

BODY_BYTES: Final = 16 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
CONNECT_S: Final = 5.0
MERGE_PATCH: Final = "application/strategic-merge-patch+json"
JSON: Final = "application/json"
GZIP: Final = "gzip"
CHUNK: Final = 64 * 1024
PLAIN: Final = "identity"
_PARTIAL: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_VERSIONS: Final = {"autoscaling": "v2", "metrics.k8s.io": "v1beta1"}
_SAFE_SEGMENT: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What goes with a request. `encoding` is the one compression that its answer may have."""

    query: Mapping[str, str | int]
    body: Obj | None = None
    accept: str = JSON
    encoding: str = PLAIN


class Api:
    """One API server, as one caller. Bodies are bounded, requests end after `request_s` seconds."""

    def __init__(
        self, *, client: ApiClient, access: Access, namespace: str, clock: Clock, request_s: float
    ) -> None:
        self.namespace = namespace
        self._client = client
        self._access = access
        self._clock = clock
        self._request_s = request_s

    def path(self, group: str, plural: str, *rest: str) -> str:
        """The address of a resource in the target's namespace."""
        root = f"/apis/{group}/{_VERSIONS.get(group, 'v1')}" if group else "/api/v1"
        parts = ("namespaces", self.namespace, plural, *rest)
        if not all(_SAFE_SEGMENT.fullmatch(part) for part in parts):
            raise BadAnswer("The Kubernetes API server named an object with an impossible name.")
        return "/".join((root, *parts))

    async def get(self, path: str, ask: Ask, **query: str | int) -> Obj:
        """One object."""
        return _object(await self._send("GET", path, ask, query=query), ask)

    async def get_plain(self, path: str, ask: Ask) -> Obj:
        """One object of a kind that has no `spec`."""
        answer = _json(await self._send("GET", path, ask, query={}), ask)
        if not text(answer, "metadata", "name"):
            raise settled(BadAnswer(GARBLED), ask)
        return answer

    async def list_page(self, path: str, ask: Ask, **query: str | int) -> tuple[list[Obj], str]:
        """One page of a list and the token of the next one; an empty token ends it."""
        return await self._list(path, ask, JSON, query)

    async def list_metadata(self, path: str, ask: Ask, **query: str | int) -> tuple[list[Obj], str]:
        """The same of the objects' metadata alone; a server that can't sends all of them."""
        return await self._list(path, ask, f"{_PARTIAL}, {JSON}", query)

    async def _list(
        self, path: str, ask: Ask, accept: str, query: Mapping[str, str | int]
    ) -> tuple[list[Obj], str]:
        answer = _json(await self._send("GET", path, ask, query=query, accept=accept), ask)
        items = answer.get("items")
        # A list without items is written as null by some servers; anything else is no list.
        if not isinstance(items, list | None) or not text(answer, "kind").endswith("List"):
            raise settled(BadAnswer(GARBLED), ask)
        found = [item for item in items or [] if isinstance(item, dict)]
        return found, text(answer, "metadata", "continue")

    async def patch(self, path: str, ask: Ask, body: Obj, **query: str | int) -> Obj:
        """Change one object by a strategic merge patch; answers the object as it is then."""
        return _object(await self._send("PATCH", path, ask, query=query, body=body), ask)

    async def review(self, kind: str, spec: Obj) -> Obj:
        """What the server says of the caller's own rights: the status of a self-subject review."""
        plural = f"{kind.lower()}s"
        ask = Ask(verb="create", resource=f"{plural}.authorization.k8s.io", dry=True)
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        path = f"/apis/authorization.k8s.io/v1/{plural}"
        return mapping(
            _json(await self._send("POST", path, ask, query={}, body=body), ask), "status"
        )

    async def create(self, path: str, ask: Ask, body: Obj, **query: str | int) -> Obj:
        """Create one object; answers it as it is then. Raises `Conflict` when the name is taken."""
        return _object(await self._send("POST", path, ask, query=query, body=body), ask)

    async def act(self, method: str, path: str, ask: Ask, body: Obj, **query: str | int) -> Obj:
        """Ask for an eviction or a deletion; answers a `Status`, or the object as it ends."""
        answer = _json(await self._send(method, path, ask, query=query, body=body), ask)
        if not text(answer, "kind") or text(answer, "status") == "Failure":
            raise settled(BadAnswer(GARBLED), ask)
        return answer

    @asynccontextmanager
    async def chunks(
        self, path: str, ask: Ask, **query: str | int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A text answer while it comes; what goes wrong meanwhile is raised as for all others."""
        async with self._opened("GET", path, ask, Sent(query=query, accept="*/*")) as response:
            yield response.content.iter_chunked(CHUNK)

    async def _send(
        self,
        method: str,
        path: str,
        ask: Ask,
        *,
        query: Mapping[str, str | int],
        body: Obj | None = None,
        accept: str = JSON,
    ) -> bytes:
        sent = Sent(query=query, body=body, accept=accept, encoding=GZIP)
        async with self._opened(method, path, ask, sent) as response:
            try:
                content, more = await _up_to(response, BODY_BYTES)
            except zlib.error as exc:
                raise settled(BadAnswer(GARBLED), ask) from exc
        if more:
            raise settled(BadAnswer("The answer of the Kubernetes API server is too large."), ask)
        return content

    @asynccontextmanager
    async def _opened(
        self, method: str, path: str, ask: Ask, sent: Sent
    ) -> AsyncIterator[ClientResponse]:
        """A successful answer whose body is still to be read; the connection is given back."""
        with translated(ask):
            async with await self._answered(method, path, ask, sent) as response:
                heard()
                yield response

    async def _answered(self, method: str, path: str, ask: Ask, sent: Sent) -> ClientResponse:
        """An answer that is a success. What a credential was refused for was not done: it is sent
        once more when there is another credential."""
        used = self._access.generation
        response = await self._request(method, path, sent)
        try:
            if response.status == 401 and await self._access.renewed(used):
                response.close()  # not released: a new certificate wants a new connection
                response = await self._request(method, path, sent)
            await self._check(response, ask, sent.encoding)
        except BaseException:
            response.close()
            raise
        return response

    async def _request(self, method: str, path: str, sent: Sent) -> ClientResponse:
        from aiohttp import ClientTimeout

        headers = {
            "Accept": sent.accept,
            "Accept-Encoding": sent.encoding,
            "User-Agent": "mcp-ops",
            "Content-Type": MERGE_PATCH if method == "PATCH" else JSON,
            **await self._access.header(),
        }
        url = self._client.configuration.host + path
        transport: Any = self._client.rest_client  # its functions carry no types
        asking()
        answer = await transport.request(
            method,
            f"{url}?{urlencode(sent.query)}" if sent.query else url,
            headers=headers,
            body=sent.body,
            _request_timeout=ClientTimeout(
                total=self._request_s, sock_connect=min(CONNECT_S, self._request_s)
            ),
        )
        response: ClientResponse = answer.response
        return response

    async def _check(self, response: ClientResponse, ask: Ask, encoding: str) -> None:
        came_as = response.headers.get("Content-Encoding", PLAIN)
        if response.history or came_as not in (PLAIN, encoding):
            raise settled(BadAnswer(GARBLED), ask)
        if 200 <= response.status < 300:
            return
        try:
            said, _ = await _up_to(response, ERROR_BYTES)
        except zlib.error:
            said = b""
        now = self._clock.now()
        error = refusal(response.status, response.headers, said, ask=ask, now=now)
        if isinstance(error, Unauthenticated):
            self._access.refused()
        raise error


def no_redirects() -> TraceConfig:
    """A hook that ends a request at its first redirect: the library would follow it, with the
    body of a write and wherever it leads, before anybody could look."""
    from aiohttp import TooManyRedirects, TraceConfig

    async def refuse(_session: object, _context: object, params: Any) -> None:
        raise TooManyRedirects(params.response.request_info, (params.response,))

    hooks = TraceConfig()
    hooks.on_request_redirect.append(refuse)
    return hooks


async def _up_to(response: ClientResponse, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of a body, and whether there was more.

    What is compressed counts as what it unfolds to, and unfolds no further than that.
    """
    content = bytearray()
    folded = response.headers.get("Content-Encoding") == GZIP
    unfolding = zlib.decompressobj(wbits=31) if folded else None
    async for chunk in response.content.iter_chunked(CHUNK):
        if unfolding is not None:
            chunk = unfolding.decompress(chunk, limit + 1 - len(content))
        content += chunk
        if len(content) > limit:
            return bytes(content[:limit]), True
    if unfolding is not None and not unfolding.eof:
        raise zlib.error("cut off")
    return bytes(content), False


def _json(content: bytes, ask: Ask) -> dict[str, Any]:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise settled(BadAnswer(GARBLED), ask) from exc
    if not isinstance(answer, dict):
        raise settled(BadAnswer(GARBLED), ask)
    return answer


def _object(content: bytes, ask: Ask) -> Obj:
    answer = _json(content, ask)
    if not text(answer, "metadata", "name") or not mapping(answer, "spec"):
        raise settled(BadAnswer(GARBLED), ask)
    return answer
