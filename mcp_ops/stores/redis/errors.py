"""What redis-py raises, as `StoreUnavailable` with the reason in words.

No text of the library or the server leaves this file: it may hold the host, a key or a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_ops.errors import StoreUnavailable

_WORD = re.compile(
    r"\b(OOM|READONLY|LOADING|BUSY|MASTERDOWN|NOPERM|ACL failure|NOAUTH|WRONGPASS|MISCONF"
    r"|NOREPLICAS|MOVED|ASK|CLUSTERDOWN|CROSSSLOT)\b"
)
_HINT = "An operator must look at the Redis that `store.hot` names; see docs/shared-store.md."
_MEMORY = "it is out of memory and takes no writes"
_BUSY = "it is loading its data or busy with a script"
_PERMISSION = "its user lacks a permission"
_CREDENTIAL = "it does not accept the credential"
_DISK = "it cannot persist or replicate its writes"
_CLUSTER = "this node of a cluster does not serve the store's keys"
_REPLICA = "it is a read-only replica"
_ORPHAN = "it is a replica that lost its primary"
_REASONS = {
    "OOM": _MEMORY,
    "READONLY": _REPLICA,
    "LOADING": _BUSY,
    "BUSY": _BUSY,
    "MASTERDOWN": _ORPHAN,
    "NOPERM": _PERMISSION,
    "ACL failure": _PERMISSION,
    "NOAUTH": _CREDENTIAL,
    "WRONGPASS": _CREDENTIAL,
    "MISCONF": _DISK,
    "NOREPLICAS": _DISK,
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
}


def unavailable(reason: str) -> StoreUnavailable:
    """The shared hot store cannot be used, because of this."""
    return StoreUnavailable(
        f"The guard's shared store (Redis) cannot be used: {reason}.",
        hint=_HINT,
        retry_after_s=2.0,
    )


@contextmanager
def translated() -> Iterator[None]:
    """Raise `StoreUnavailable` for everything that the library raises."""
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
        raise unavailable(reason(exc)) from exc


def reason(exc: BaseException) -> str:
    """Why, in words of ours."""
    import redis.exceptions as r

    for kinds, words in (
        ((r.NoPermissionError, r.AuthorizationError), _PERMISSION),
        ((r.AuthenticationError,), _CREDENTIAL),
        ((r.OutOfMemoryError,), _MEMORY),
        ((r.ReadOnlyError,), _REPLICA),
        ((r.BusyLoadingError,), _BUSY),
        ((r.ClusterError, r.AskError, r.ClusterCrossSlotError, r.TryAgainError), _CLUSTER),
        ((r.MasterDownError,), _ORPHAN),
        ((r.TimeoutError, TimeoutError), "it does not answer in time"),
        ((r.InvalidResponse,), "it answers something that is not its protocol"),
        ((r.ResponseError, r.RedisClusterException), _said(exc)),
        ((r.ConnectionError, OSError), "it cannot be reached"),
    ):
        if isinstance(exc, kinds):
            return words
    return "it could not be asked in the way it was tried"


def _said(exc: BaseException) -> str:
    found = _WORD.search(str(exc)[:500])
    return _REASONS[found.group(1)] if found else "it refused a script; Redis 7 or newer is needed"
