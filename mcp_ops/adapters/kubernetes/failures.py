"""The one translation of what goes wrong with the API server into `mcp_ops.errors`."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import orjson

from mcp_ops.adapters.kubernetes.fields import mapping, number, objects, text
from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    ConnectionLost,
    Failed,
    Forbidden,
    NotFound,
    Rejected,
    Unauthenticated,
    Unreachable,
    Upstream,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.redact import tame

_SAID: Final = 500
_LONGEST_WAIT_S: Final = 300.0
_JOBS: Final = "See list_jobs for the names."
_NAMES: Final = {
    "cronjobs.batch": _JOBS,
    "jobs.batch": _JOBS,
    "pods/eviction": "See get_deployment for the names of its instances.",
}

UNREACHABLE = "The Kubernetes API server can't be reached: no connection was made."
UNTRUSTED = "No secure connection to the Kubernetes API server: its certificate is not accepted."
TIMEOUT = "The Kubernetes API server did not answer in time."
LOST = "The connection to the Kubernetes API server broke before the answer was complete."
GARBLED = "The answer of the Kubernetes API server is not what its contract says."
BUDGET = "A disruption budget does not let this instance go now; nothing was done."
NO_CREDENTIAL = "No valid credential for the Kubernetes API server."

_CREDENTIAL_HINT: Final = "An operator must renew the credential in the target's kubeconfig."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What was asked, in the words of Kubernetes' access rules: for hints and for the truth
    on whether a write may have run. `dry` is a request that the server only rehearses."""

    verb: str
    resource: str
    dry: bool = False

    @property
    def writes(self) -> bool:
        """Whether an answer that was lost leaves it open what happened."""
        return self.verb in ("create", "update", "patch", "delete") and not self.dry


@functools.cache
def translations() -> tuple[tuple[type[BaseException], type[Upstream], str], ...]:
    """Every exception of the client libraries, most specific first, with class and message."""
    import aiohttp
    from aiohttp import http_exceptions
    from kubernetes.aio.client.exceptions import OpenApiException
    from kubernetes.aio.config.config_exception import ConfigException

    return (
        (aiohttp.ClientConnectorCertificateError, Unreachable, UNTRUSTED),
        (aiohttp.ClientSSLError, Unreachable, UNTRUSTED),
        (aiohttp.ServerFingerprintMismatch, Unreachable, UNTRUSTED),
        (aiohttp.ClientConnectorError, Unreachable, UNREACHABLE),
        (aiohttp.ClientHttpProxyError, Unreachable, UNREACHABLE),
        (aiohttp.ConnectionTimeoutError, Unreachable, UNREACHABLE),
        (aiohttp.ServerTimeoutError, UpstreamTimeout, TIMEOUT),
        (aiohttp.ClientResponseError, BadAnswer, GARBLED),
        (aiohttp.RedirectClientError, BadAnswer, GARBLED),
        (aiohttp.InvalidURL, Unreachable, UNREACHABLE),
        (aiohttp.NonHttpUrlClientError, Unreachable, UNREACHABLE),
        (aiohttp.ClientError, ConnectionLost, LOST),
        (http_exceptions.HttpProcessingError, BadAnswer, GARBLED),
        (ConfigException, Unauthenticated, NO_CREDENTIAL),
        (OpenApiException, BadAnswer, GARBLED),
        (ssl.SSLError, Unreachable, UNTRUSTED),
        (TimeoutError, UpstreamTimeout, TIMEOUT),
        (OSError, ConnectionLost, LOST),
    )


@contextmanager
def translated(ask: Ask) -> Iterator[None]:
    """Turn what the client libraries raise into `Upstream` errors; others pass unchanged."""
    kinds = tuple(row[0] for row in translations())
    try:
        yield
    except kinds as exc:
        row = next(row for row in translations() if isinstance(exc, row[0]))
        raise settled(row[1](row[2]), ask) from exc


def settled(error: Upstream, ask: Ask) -> Upstream:
    """A read or a rehearsal changes nothing, whatever became of its answer."""
    if isinstance(error, Failed) and not ask.writes:
        error.executed = "no"
    if isinstance(error, Unauthenticated) and not error.hint:
        error.hint = _CREDENTIAL_HINT
    return error


_ANSWERS: Final[Mapping[int, tuple[type[Upstream], str]]] = {
    401: (Unauthenticated, "The Kubernetes API server does not accept the credential."),
    403: (Forbidden, "The credential may not do this."),
    404: (NotFound, "There is no such object in the target's namespace."),
    408: (UpstreamTimeout, TIMEOUT),
    409: (Conflict, "The object changed meanwhile."),
    410: (Conflict, "What the request refers to is too old; start again."),
    412: (Conflict, "The object changed meanwhile."),
    422: (Rejected, "The Kubernetes API server refused the request as invalid."),
    429: (UpstreamRateLimited, "The Kubernetes API server asks to slow down."),
    500: (UpstreamBroken, "The Kubernetes API server failed while it worked on the request."),
    502: (UpstreamBroken, "What stands before the Kubernetes API server got no good answer."),
    503: (UpstreamUnavailable, "The Kubernetes API server is not available."),
    504: (UpstreamTimeout, TIMEOUT),
}


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, ask: Ask, now: float
) -> Upstream:
    """The error of an answer whose HTTP status is not a success; `now` in Unix seconds."""
    said = _status_of(body)
    if status == 429 and _kept_by_budget(said):
        return Conflict(
            BUDGET, said=tame(text(said, "message"), _SAID), hint="Wait until more are ready."
        )
    kind, message = _ANSWERS.get(status, _other(status))
    error = kind(
        message,
        said=tame(text(said, "message"), _SAID),
        hint=_hint(status, ask),
        retry_after_s=_retry_after(headers, said, now) if status in (429, 500, 503, 504) else None,
    )
    if isinstance(error, UpstreamUnavailable) and not said:
        # Not the API server's own words: a proxy may say it after the server got the request.
        error.executed = "unknown"
    return settled(error, ask)


def _kept_by_budget(said: dict[str, object]) -> bool:
    """Whether an eviction was refused for a disruption budget, not for a flood of requests."""
    return any(
        one.get("reason") == "DisruptionBudget" for one in objects(said, "details", "causes")
    )


def _other(status: int) -> tuple[type[Upstream], str]:
    if 400 <= status < 500:
        return Rejected, "The Kubernetes API server refused the request."
    if status >= 500:
        return UpstreamBroken, "The Kubernetes API server failed."
    return BadAnswer, GARBLED


def _status_of(body: bytes) -> dict[str, object]:
    """The `Status` object of an error's body, or an empty one."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if text(said, "kind") == "Status" else {}


def _hint(status: int, ask: Ask) -> str:
    if status == 401:
        return _CREDENTIAL_HINT
    if status == 403:
        return (
            f"It needs the verb {ask.verb} on {ask.resource} in the target's namespace: a Role "
            "and a RoleBinding (docs/targets/kubernetes.md has one)."
        )
    if status != 404:
        return ""
    return _NAMES.get(ask.resource, "See list_deployments for the names.")


def _retry_after(headers: Mapping[str, str], said: dict[str, object], now: float) -> float | None:
    """Seconds to wait, at most five minutes; None where the server named no sensible time."""
    written = headers.get("Retry-After", "").strip()
    wait = float(number(mapping(said, "details"), "retryAfterSeconds"))
    if written.isascii() and written.isdigit():
        wait = float(written[:9])
    elif written:
        try:
            wait = parsedate_to_datetime(written).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            wait = 0.0
    return min(wait, _LONGEST_WAIT_S) if wait > 0 else None
