"""A bounded HTTP client for adapters: every wait, byte and connection has a limit.

Redirects are never followed (a credential must not travel to an address that nobody configured),
certificates are checked, cookies are not kept, the proxies of the environment are not used, and
no exception or type of the client library leaves this file.
"""

from __future__ import annotations

import json
import math
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import anyio
import httpx2
from pydantic import AfterValidator, SecretStr

from mcp_ops.clock import Clock
from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    ConnectionLost,
    Forbidden,
    Internal,
    NotFound,
    OpsError,
    Rejected,
    Unauthenticated,
    Unreachable,
    Upstream,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.heard import asking, heard
from mcp_ops.redact import Redactor, tame
from mcp_ops.wire.exchange import exchange

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_RETRY_AFTER_S: Final = 3600.0
_MAX_DEPTH: Final = 32
_SAID: Final = 300
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one client. Times in seconds, `total_s` is for a whole request with its body."""

    connect_s: float = 5.0
    read_s: float = 15.0
    write_s: float = 10.0
    pool_s: float = 2.0
    total_s: float = 25.0
    max_bytes: int = MAX_BYTES
    connections: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """How long an answer without end is listened to, and how much of its end is kept."""

    seconds: float
    most_bytes: int


def check_url(url: str) -> str:
    """The URL without a final slash; raises `ValueError` for one that must not carry secrets.

    It is `https`, or `http` to this machine; without user, query or fragment.
    """
    parts = checked_parts(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("must be https (http is for this machine only)")
    return url.rstrip("/")


def checked_parts(url: str) -> Any:
    """The parts of an absolute http or https URL without user, query or fragment."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an absolute URL that starts with https://")
    if parts.username is not None or parts.query or parts.fragment or not url.isascii():
        raise ValueError("must have no user, query or fragment, and only ASCII characters")
    return parts


SecureUrl = Annotated[str, AfterValidator(check_url)]


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: Any, left: int = _MAX_DEPTH) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError("nested too deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, read to its end. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return 200 <= self.status < 300

    def json(self, *, constants: Literal["refuse", "null"] = "refuse") -> Any:
        """The body as JSON; raises `BadAnswer`.

        `NaN` and `Infinity` are not JSON: they are refused, or read as null for answers whose
        other members are still worth having.
        """
        replace: Callable[[str], Any] = _no_constant if constants == "refuse" else lambda _: None
        try:
            value = json.loads(
                self.body.decode("utf-8"), parse_constant=replace, parse_float=_finite
            )
            _check_depth(value)
        except (ValueError, RecursionError) as exc:
            raise BadAnswer(
                f"The answer (HTTP {self.status}) is not the JSON that it should be.",
                hint="A proxy or a maintenance page may have answered: check the address.",
            ) from exc
        return value

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; raises `BadAnswer`."""
        value = self.json()
        if not isinstance(value, dict):
            raise BadAnswer("The answer is JSON, but not an object as it should be.")
        return value

    def date(self) -> float | None:
        """The server's clock as Unix seconds, from the `Date` header."""
        return _http_date(self.headers.get("date", ""))


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text[:64]).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def retry_after(header: str | None, *, now: float) -> float | None:
    """Seconds to wait from a `Retry-After` header: 0 to 3600, None where it says nothing usable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # Cut before converting: Python refuses numbers of thousands of digits.
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    at = _http_date(text)
    return None if at is None else min(max(at - now, 0.0), MAX_RETRY_AFTER_S)


_BY_STATUS: Final[dict[int, tuple[type[Upstream], str]]] = {
    401: (Unauthenticated, "{system} does not accept the credential (401)."),
    403: (Forbidden, "{system} does not allow this with the configured credential (403)."),
    404: (NotFound, "{system} has no such thing (404)."),
    408: (UpstreamUnavailable, "{system} gave up waiting for the request (408)."),
    409: (Conflict, "The object at {system} is in a state that forbids this (409)."),
    410: (NotFound, "{system} does not have this any more (410)."),
    412: (Conflict, "The object at {system} changed meanwhile (412)."),
    429: (UpstreamRateLimited, "{system} asks to slow down (429)."),
    503: (UpstreamUnavailable, "{system} is unavailable (503)."),
}


def error_of(
    answer: Answer, *, system: str, now: float, said: str = "", hint: str = ""
) -> Upstream:
    """The error that an answer without success stands for.

    `system` is our name for it; `said` is its own text, which stays apart from the message.
    """
    kind, message = _BY_STATUS.get(answer.status) or _by_class(answer.status)
    wait = retry_after(answer.headers.get("retry-after"), now=now)
    return kind(
        message.format(system=system, status=answer.status),
        said=tame(said, _SAID),
        hint=hint,
        retry_after_s=wait if kind in (UpstreamRateLimited, UpstreamUnavailable) else None,
    )


def _by_class(status: int) -> tuple[type[Upstream], str]:
    if 400 <= status < 500:
        return Rejected, "{system} refused the request ({status})."
    if 500 <= status < 600:
        return UpstreamBroken, "{system} failed while it worked on the request ({status})."
    if 300 <= status < 400:
        return BadAnswer, "{system} redirects ({status}); that is not followed: fix the address."
    return BadAnswer, "{system} answered with a status that makes no sense here ({status})."


# Most specific first. Everything of the library that is not here is a test failure.
TRANSLATIONS: Final[tuple[tuple[type[Exception], type[OpsError], str], ...]] = (
    (httpx2.ConnectTimeout, Unreachable, "{system} did not accept a connection in time."),
    (httpx2.PoolTimeout, Unreachable, "All connections to {system} are busy; nothing was sent."),
    (httpx2.TimeoutException, UpstreamTimeout, "{system} gave no answer in time."),
    (httpx2.ConnectError, Unreachable, "{system} cannot be reached: no connection was made."),
    (httpx2.ProxyError, Unreachable, "The proxy made no connection to {system}."),
    (httpx2.UnsupportedProtocol, Unreachable, "The address of {system} is not http or https."),
    (httpx2.LocalProtocolError, Internal, "The request to {system} could not be written."),
    (httpx2.DecodingError, BadAnswer, "The answer of {system} cannot be decoded."),
    (httpx2.TooManyRedirects, BadAnswer, "{system} redirects; that is not followed."),
    (httpx2.SSEError, BadAnswer, "The answer of {system} is not the stream that it should be."),
    (httpx2.TransportError, ConnectionLost, "The connection to {system} broke before an answer."),
    (httpx2.HTTPError, BadAnswer, "{system} answered in a way that makes no sense."),
    (httpx2.InvalidURL, Unreachable, "The address of {system} is not a valid URL."),
    (httpx2.CookieConflict, Internal, "Cookies of {system} are in conflict."),
    (httpx2.StreamError, Internal, "The answer of {system} was read in the wrong order."),
)


@contextmanager
def translated(system: str) -> Iterator[None]:
    """Turn every exception of the client library into one of ours."""
    try:
        yield
    except tuple(theirs for theirs, _, _ in TRANSLATIONS) as exc:
        ours, message = next((o, m) for theirs, o, m in TRANSLATIONS if isinstance(exc, theirs))
        raise ours(message.format(system=system), hint=_tls_hint(exc)) from exc


def _tls_hint(exc: BaseException) -> str:
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return "TLS failed: check the certificate (expiry, name, issuer) and the clock."
        seen = seen.__cause__ or seen.__context__
    return ""


class HttpClient:
    """Requests to one system. Made by `open_client`; safe for concurrent use."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        *,
        system: str,
        clock: Clock,
        redactor: Redactor,
        limits: Limits,
    ) -> None:
        self._client = client
        self.system = system
        self.clock = clock
        self.redactor = redactor
        self._limits = limits

    async def send(
        self,
        method: str,
        url: str,
        *,
        bearer: SecretStr | None = None,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: Any = None,
        listen: Listen | None = None,
    ) -> Answer:
        """Send one request and read the answer, whatever its status.

        An answer that goes on without end is listened to for a while (`listen`), if it is a
        success; the newest of what came until then is its body. Raises the `Failed` errors of
        `mcp_ops.errors`; `Unauthenticated` for a bearer token that cannot stand in a header
        (nothing is sent then).
        """
        sent = {"accept": "application/json", "accept-encoding": "gzip", **(headers or {})}
        if bearer is not None:
            sent["authorization"] = f"Bearer {_header_safe(bearer)}"
        content: bytes | None = None
        if body is not None:
            sent["content-type"] = "application/json"
            content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
        asking()
        total_s = self._limits.total_s + (listen.seconds if listen is not None else 0)
        if listen is not None:
            sent["accept-encoding"] = "identity"
        with exchange(method, url) as noted:
            with translated(self.system), anyio.move_on_after(total_s):
                async with self._client.stream(
                    method, url, headers=sent, data=form, content=content
                ) as response:
                    heard()
                    noted.status = response.status_code
                    endless = listen if response.is_success else None
                    reading = self._heard(response, endless) if endless else self._read(response)
                    return Answer(
                        status=response.status_code,
                        headers={name.lower(): value for name, value in response.headers.items()},
                        body=await reading,
                    )
            raise UpstreamTimeout(
                f"{self.system} gave no complete answer within {self._limits.total_s:g} seconds."
            )

    async def _read(self, response: httpx2.Response) -> bytes:
        """The decoded body, never more than the limit in memory, also of a compressed bomb."""
        most = self._limits.max_bytes
        unpack = _decoder(response.headers.get("content-encoding", ""))
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += unpack(chunk, most + 1 - len(body))
                if len(body) > most:
                    raise BadAnswer(
                        f"The answer of {self.system} is larger than {most} bytes and was dropped."
                    )
        except zlib.error as exc:
            raise BadAnswer(f"The answer of {self.system} cannot be decompressed.") from exc
        return bytes(body)

    async def _heard(self, response: httpx2.Response, listen: Listen) -> bytes:
        """The newest bytes that came; a connection that breaks is their end."""
        body = bytearray()
        with anyio.move_on_after(listen.seconds), suppress(httpx2.TransportError):
            async for chunk in response.aiter_raw():
                body += chunk
                del body[: -listen.most_bytes]
        return bytes(body)

    def error(self, answer: Answer, *, said: str = "", hint: str = "") -> Upstream:
        """The error that an answer without success stands for; secrets in `said` are masked."""
        return error_of(
            answer,
            system=self.system,
            now=self.clock.now(),
            said=self.redactor.text(said[:2_000]),
            hint=hint,
        )


def _decoder(encoding: str) -> Callable[[bytes, int], bytes]:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda chunk, most: chunk[:most]
    if name not in ("gzip", "x-gzip"):
        raise BadAnswer("The answer is compressed in a way that was not asked for.")
    inflate = zlib.decompressobj(wbits=31)
    return lambda chunk, most: inflate.decompress(chunk, most)


def _header_safe(token: SecretStr) -> str:
    value = token.get_secret_value()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise Unauthenticated(
            "The access token is empty or holds characters that no token has; nothing was sent.",
            hint="Check the configured token, or call refresh_oauth_token.",
        )
    return value


@asynccontextmanager
async def open_client(
    *, system: str, clock: Clock, redactor: Redactor, limits: Limits | None = None
) -> AsyncIterator[HttpClient]:
    """Open a client; nothing is sent yet. `system` names it in messages."""
    bounds = limits or Limits()
    async with httpx2.AsyncClient(
        timeout=httpx2.Timeout(
            connect=bounds.connect_s, read=bounds.read_s, write=bounds.write_s, pool=bounds.pool_s
        ),
        limits=httpx2.Limits(
            max_connections=bounds.connections, max_keepalive_connections=bounds.connections
        ),
        headers={"user-agent": "mcp-ops"},
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield HttpClient(client, system=system, clock=clock, redactor=redactor, limits=bounds)
