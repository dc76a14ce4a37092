"""What redis-py raises, in the words of the error tree. No text of the server leaves this file.

Sources of the meanings are named in docs/targets/redis.md. A message never has a host, a key or a
password: redis-py puts the host into the text of connection errors, a redirection has an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_ops import errors

_CONNECT_HINT = "Check that the server runs and that the target's url is right."
_WORD = re.compile(
    r"\b(WRONGTYPE|OOM|READONLY|LOADING|NOPERM|ACL failure|NOAUTH|MISCONF|BUSY|NOREPLICAS)\b"
)


@contextmanager
def connecting() -> Iterator[None]:
    """Translate what goes wrong before a command is sent: nothing was executed."""
    import redis.exceptions as r

    try:
        yield
    except r.AuthenticationError as exc:
        raise _unauthenticated() from exc
    except (r.RedisError, OSError) as exc:
        translated = _of(exc)
        if isinstance(translated, errors.Answered | errors.UpstreamUnavailable):
            raise translated from exc
        raise errors.Unreachable("Redis cannot be reached.", hint=_CONNECT_HINT) from exc


@contextmanager
def translated() -> Iterator[None]:
    """Translate what goes wrong while a command runs."""
    import redis.exceptions as r

    try:
        yield
    except (
        r.RedisError,
        r.RedisClusterException,
        r.IncorrectPolicyType,
        r.ChildDeadlockedError,
        OSError,
    ) as exc:
        raise _of(exc) from exc


def _of(exc: Exception) -> errors.OpsError:
    """The translation table, most specific first."""
    import redis.exceptions as r

    for kinds, build in (
        ((r.NoPermissionError, r.AuthorizationError), _forbidden),
        (
            (
                r.AuthenticationError,
                r.ExternalAuthProviderError,
                r.AuthenticationWrongNumberOfArgsError,
            ),
            _unauthenticated,
        ),
        ((r.OutOfMemoryError,), _out_of_memory),
        ((r.ReadOnlyError,), _read_only),
        ((r.BusyLoadingError,), _loading),
        ((r.MaxConnectionsError,), _too_many_connections),
        ((r.TimeoutError, TimeoutError), _timeout),
        ((r.ConnectionError, OSError), _lost),
        ((r.InvalidResponse,), _bad_answer),
        ((r.ClusterError, r.AskError, r.TryAgainError, r.ClusterCrossSlotError), _cluster),
        ((r.RedisClusterException,), _cluster),
        ((r.ResponseError,), lambda: _response(str(exc))),
    ):
        if isinstance(exc, kinds):
            return build()
    return errors.Internal("Redis could not be asked in the way it was tried.")


def _response(text: str) -> errors.OpsError:
    found = _WORD.search(text[:500])
    word = found.group(1) if found else ""
    table = {
        "OOM": _out_of_memory,
        "READONLY": _read_only,
        "LOADING": _loading,
        "BUSY": _loading,
        "NOPERM": _forbidden,
        "ACL failure": _forbidden,
        "NOAUTH": _unauthenticated,
        "MISCONF": _not_persisting,
        "NOREPLICAS": _not_persisting,
        "WRONGTYPE": _wrong_type,
    }
    if word in table:
        return table[word]()
    return errors.Rejected("Redis refused the command.", hint="Redis 6.2 or newer is needed.")


def _forbidden() -> errors.OpsError:
    return errors.Forbidden(
        "The Redis user of this target lacks a permission.",
        hint="docs/targets/redis.md lists the commands and keys that the user needs.",
    )


def _unauthenticated() -> errors.OpsError:
    return errors.Unauthenticated(
        "Redis does not accept the credential.", hint="Check user and password in the target's url."
    )


def _out_of_memory() -> errors.OpsError:
    return errors.UpstreamUnavailable(
        "Redis is out of memory and takes no writes; nothing was changed.",
        hint="Free memory or raise maxmemory, then try again.",
    )


def _read_only() -> errors.OpsError:
    return errors.Conflict(
        "This Redis is a read-only replica; nothing was changed.",
        hint="Point the target at the primary, or wait for the failover to end.",
    )


def _loading() -> errors.OpsError:
    return errors.UpstreamUnavailable(
        "Redis is loading its data or busy with a script; nothing was changed.",
        retry_after_s=2.0,
        hint="Try again in some seconds.",
    )


def _not_persisting() -> errors.OpsError:
    return errors.UpstreamUnavailable(
        "Redis refuses writes because it cannot persist or replicate them; nothing was changed.",
        hint="Look at the server's disk and replicas.",
    )


def _wrong_type() -> errors.OpsError:
    return errors.Rejected(
        "A key of the queue does not have the configured format; nothing was changed.",
        hint="Set `format` of the target to what the key holds: zset, list, stream or hash.",
    )


def _too_many_connections() -> errors.OpsError:
    return errors.UpstreamUnavailable(
        "All connections to Redis are in use; nothing was sent.", hint="Try again in a moment."
    )


def _timeout() -> errors.OpsError:
    return errors.UpstreamTimeout(
        "Redis did not answer in time.", hint="Look at the queue before you repeat a write."
    )


def _lost() -> errors.OpsError:
    return errors.ConnectionLost(
        "The connection to Redis broke before it answered.",
        hint="Look at the queue before you repeat a write.",
    )


def _bad_answer() -> errors.OpsError:
    return errors.BadAnswer("Redis answered something that is not its protocol.")


def _cluster() -> errors.OpsError:
    return errors.Rejected(
        "The queue lies in a Redis Cluster, which this target does not support.",
        hint="Point the target at a Redis that is not clustered.",
    )
