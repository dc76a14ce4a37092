"""The error tree: everything that can go wrong with a call, in the words of who must act on it.

OpsError
├── InvalidInput        the arguments are wrong; nothing was asked of anybody
├── Refused             the guard said no; nothing ran (the code says which check)
├── StoreUnavailable    the guard's own store did not take it; nothing ran
├── Upstream            the system was asked
│   ├── Answered        it answered no: an answer, not a failure (never opens a circuit)
│   │   ├── Unauthenticated, ReauthorizationRequired, Forbidden, NotFound, Conflict
│   │   └── Rejected, QuotaExhausted, UpstreamRateLimited
│   └── Failed          it did not do its job: counts against its circuit
│       ├── Unreachable, UpstreamUnavailable
│       └── UpstreamTimeout, ConnectionLost, UpstreamBroken, BadAnswer
└── Internal            a defect of ours; the text of the exception stays in the log

Codes are public, documented in docs/errors.md and never reused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Literal

Executed = Literal["no", "unknown"]


class Health(StrEnum):
    """What an error says about the target: the three outcomes of a circuit."""

    ANSWERED = "answered"
    FAILED = "failed"
    UNTOUCHED = "untouched"


class OpsError(Exception):
    """Base of every expected error; each class fixes `code`, `executed`, `health`, `retryable`.

    `hint` says what to do next. `retry_after_s` is set only where waiting helps. `details` are
    plain facts added to the answer (never secrets, never text from a system).
    """

    code: ClassVar[str] = "internal_error"
    executed: Executed = "no"
    health: ClassVar[Health] = Health.UNTOUCHED
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.details = details or {}
        self.blamed = ""  # the target whose circuit was told: a failing link is not counted twice


class InvalidInput(OpsError):
    """Arguments that break the tool's schema; the message names field and rule, not the value."""

    code = "invalid_input"


class UnknownTool(OpsError):
    """No such tool is published here: the only error that is one of the protocol (-32602)."""

    code = "unknown_tool"


class RefusalCode(StrEnum):
    """Why the guard says no, in the order in which it looks (docs/guard.md)."""

    PERMISSION_DENIED = "permission_denied"
    FROZEN = "frozen"
    PROTECTED = "protected"
    LOCKED_DOWN = "locked_down"
    READ_ONLY = "read_only"
    CRITICAL = "critical"
    RESTRICTED = "restricted"
    BUDGET_EXHAUSTED = "budget_exhausted"
    RATE_LIMITED = "rate_limited"
    CIRCUIT_OPEN = "circuit_open"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_DENIED = "approval_denied"
    BULKHEAD_FULL = "bulkhead_full"
    TIMEOUT = "timeout"
    STORE_UNAVAILABLE = "store_unavailable"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"


_RETRYABLE_REFUSALS = frozenset(
    {
        RefusalCode.FROZEN,
        RefusalCode.RESTRICTED,
        RefusalCode.CRITICAL,
        RefusalCode.BUDGET_EXHAUSTED,
        RefusalCode.RATE_LIMITED,
        RefusalCode.CIRCUIT_OPEN,
        RefusalCode.APPROVAL_REQUIRED,
        RefusalCode.BULKHEAD_FULL,
        RefusalCode.TIMEOUT,
        RefusalCode.STORE_UNAVAILABLE,
    }
)


class Refused(OpsError):
    """The guard refused the call and nothing ran.

    The message says what, why and since when; `hint` says who can change it and how.
    """

    def __init__(
        self,
        code: RefusalCode,
        message: str,
        *,
        hint: str,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s, details=details)
        self.code = code.value  # type: ignore[misc]
        self.reason = code
        self.retryable = code in _RETRYABLE_REFUSALS  # type: ignore[misc]


class StoreUnavailable(OpsError):
    """The guard's own store cannot be read or written (full, read-only, locked, damaged)."""

    code = "store_unavailable"
    retryable = True


class Upstream(OpsError):
    """The system was asked. `said` is its own text: untrusted, bounded, shown as such."""

    def __init__(
        self,
        message: str,
        *,
        said: str = "",
        hint: str = "",
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s, details=details)
        self.said = said


class Answered(Upstream):
    """The system answered, and the answer is no; it executed nothing."""

    code = "rejected"
    health = Health.ANSWERED


class Unauthenticated(Answered):
    """The system does not accept the credential (401)."""

    code = "unauthenticated"


class ReauthorizationRequired(Answered):
    """The refresh token is dead: a person must authorize again."""

    code = "reauthorization_required"


class Forbidden(Answered):
    """The credential may not do this (403)."""

    code = "forbidden"


class NotFound(Answered):
    """There is no such object at the system (404)."""

    code = "not_found"


class Conflict(Answered):
    """The object changed meanwhile, or is in a state that forbids this (409, 412)."""

    code = "conflict"
    retryable = True


class Superseded(Answered):
    """A newer operation took the place of this one; its target refuses what the older one does."""

    code = "superseded"


class Rejected(Answered):
    """The system refused the request as invalid (400, 422)."""

    code = "rejected"


class QuotaExhausted(Answered):
    """The system's own quota is used up; to the guard a reading of 100 %."""

    code = "quota_exhausted"
    retryable = True


class UpstreamRateLimited(Answered):
    """The system asks to slow down (429)."""

    code = "upstream_rate_limited"
    retryable = True


class Failed(Upstream):
    """The system did not do its job; `executed` says whether it may have acted."""

    code = "upstream_error"
    executed: Executed = "unknown"
    health = Health.FAILED
    retryable = True


class Unreachable(Failed):
    """No connection was made: nothing was executed."""

    code = "unreachable"
    executed: Executed = "no"


class UpstreamUnavailable(Failed):
    """The system said that it did not take the request (503): nothing was executed."""

    code = "upstream_unavailable"
    executed: Executed = "no"


class UpstreamTimeout(Failed):
    """No answer within the deadline; the system may have acted."""

    code = "upstream_timeout"


class ConnectionLost(Failed):
    """The connection broke after the request was sent; the system may have acted."""

    code = "connection_lost"


class UpstreamBroken(Failed):
    """The system failed while it worked on the request (5xx)."""

    code = "upstream_error"


class BadAnswer(Failed):
    """The answer is not what the contract says: too large, not JSON, wrong shape."""

    code = "bad_answer"


class Internal(OpsError):
    """A defect of mcp-ops. The exception is in the log under the call's id, nowhere else."""

    code = "internal_error"
    executed: Executed = "unknown"


class ConfigurationError(OpsError):
    """A setting is wrong: names file, key, what was found and what is expected.

    At start-up, or where a call needs a setting that the target can do without otherwise.
    """

    code = "configuration_error"


class DeadlineExceeded(Failed):
    """The guard's deadline passed while the system was being asked; it may have acted."""

    code = "timeout"


def the_error(exc: BaseException) -> OpsError | None:
    """The expected error in an exception, also when task groups have wrapped it alone."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc if isinstance(exc, OpsError) else None
