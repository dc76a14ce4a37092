"""Exit codes, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from mcp_ops.errors import ConfigurationError, InvalidInput, OpsError, RefusalCode, UnknownTool


class Exit(IntEnum):
    """What the command's exit code says; public, like the error codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    CONFIGURATION = 4
    APPROVAL = 5
    UNKNOWN = 6
    INTERRUPTED = 130


_APPROVAL = frozenset({RefusalCode.APPROVAL_REQUIRED.value, RefusalCode.APPROVAL_DENIED.value})
_REFUSED = frozenset(code.value for code in RefusalCode) - _APPROVAL
_BY_CODE: dict[str, Exit] = {
    ConfigurationError.code: Exit.CONFIGURATION,
    InvalidInput.code: Exit.USAGE,
    UnknownTool.code: Exit.USAGE,
    **dict.fromkeys(_APPROVAL, Exit.APPROVAL),
    **dict.fromkeys(_REFUSED, Exit.REFUSED),
}


def exit_of_error(error: dict[str, Any]) -> Exit:
    """The exit code of an error in the shape that tools answer with."""
    if error.get("executed") == "unknown":
        return Exit.UNKNOWN
    return _BY_CODE.get(str(error.get("code")), Exit.FAILED)


def exit_of_result(result: dict[str, Any] | None) -> Exit:
    """The exit code of a result: a write may have failed, or its outcome may be unknown."""
    outcome = (result or {}).get("outcome")
    return {"unknown": Exit.UNKNOWN, "failed": Exit.FAILED}.get(str(outcome), Exit.OK)


def error_body(error: OpsError) -> dict[str, Any]:
    """An exception in the shape that tools answer with; fields without a value are left out."""
    body = {
        "code": error.code,
        "message": error.message,
        "executed": error.executed,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
        "hint": error.hint,
    }
    return {key: value for key, value in body.items() if value not in (None, "")}
