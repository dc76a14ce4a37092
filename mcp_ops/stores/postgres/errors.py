"""PostgreSQL's errors as `StoreUnavailable`, in words and without where the database is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from mcp_ops.errors import StoreUnavailable

# By SQLSTATE, the longest prefix that is listed (PostgreSQL's documentation, appendix A).
_REASONS = {
    "08": "the connection to it was lost",
    "22": "it takes no such value",
    "23": "its content contradicts the write",
    "25006": "it is read-only",
    "25P03": "this server was silent for too long in the middle of a write",
    "25P04": "this server was silent for too long in the middle of a write",
    "28": "it does not accept the credentials",
    "3D": "there is no such database",
    "40": "other servers were in the way",
    "42501": "the role lacks a right that it needs",
    "42P01": "a table of it is missing",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "55P03": "another server holds its lock for too long",
    "57014": "it took too long",
    "57P": "it is stopping or starting",
    "58": "its disk reports an error",
    "XX001": "its data are damaged",
    "XX002": "its data are damaged",
}
# libpq says no SQLSTATE when it cannot connect, only the server's text.
_CONNECTING = (
    ("too many", "53300"),
    ("connection slots", "53300"),
    ("authentication failed", "28"),
    ("starting up", "57P"),
    ("shutting down", "57P"),
    ("recovery mode", "57P"),
    ("database", "3D"),
    ("role", "28"),
    ("pg_hba", "28"),
)


def unavailable(reason: str) -> StoreUnavailable:
    """The one error of this store."""
    return StoreUnavailable(
        f"The ledger's PostgreSQL did not answer: {reason}.",
        hint="An operator must look at the database that store.ledger names: whether it runs and "
        "is writable, its disk, its connections, the role's rights.",
    )


def reason(error: BaseException) -> str:
    """What is wrong, in words of ours."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    state = getattr(error, "sqlstate", None) or ""
    for length in (5, 3, 2):
        if state[:length] in _REASONS:
            return _REASONS[state[:length]]
    return f"PostgreSQL reports error {state}" if state else "the connection to it was lost"


def connect_reason(error: Exception) -> str:
    """Why there is no connection, as far as that can be told."""
    text = str(error)
    _, fatal, said = text.partition("FATAL:")
    if fatal:
        return next((_REASONS[code] for words, code in _CONNECTING if words in said), "it says no")
    return "it cannot be reached"


@contextmanager
def translated() -> Iterator[None]:
    """Errors of psycopg and of waiting as `StoreUnavailable`; nothing of the address in them."""
    try:
        yield
    except (psycopg.Error, OSError) as error:  # a `TimeoutError` is an `OSError`
        raise unavailable(reason(error)) from error
