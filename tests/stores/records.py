"""Records for the tests of the stores, with everything that a test does not care about filled."""

from __future__ import annotations

from typing import Any

from mcp_ops.clock import Clock
from mcp_ops.failed import FailedOperation
from mcp_ops.ports import AdmitRequest, Mode, ModeEntry, Rate
from mcp_ops.questions import Approval, Redemption
from mcp_ops.records import Budget, Entry, EntryKind, Operation

ALL_MODES = frozenset(Mode)


def entry(clock: Clock, call_id: str = "c1", **fields: Any) -> Entry:
    return Entry(
        **{
            "kind": EntryKind.ENDED,
            "call_id": call_id,
            "at": clock.now(),
            "tool": "restart_deployment",
            "target": "shop",
            "principal": "agent:x@y",
            "verdict": "ok",
            **fields,
        }
    )


def began(clock: Clock, call_id: str = "c1", **fields: Any) -> Entry:
    return entry(clock, call_id, **{"kind": EntryKind.BEGAN, "verdict": "", **fields})


def operation(clock: Clock, operation_id: str = "o1", **fields: Any) -> Operation:
    return Operation(
        **{
            "id": operation_id,
            "key": "agent|digest|d",
            "digest": "d",
            "principal": "agent:x@y",
            "tool": "restart_deployment",
            "target": "shop",
            "state": "running",
            "started_at": clock.now(),
            "lease_until": clock.now() + 90,
            **fields,
        }
    )


def request(**fields: Any) -> AdmitRequest:
    return AdmitRequest(
        **{
            "call_id": "c1",
            "target": "shop",
            "principal": "agent:x@y",
            "take": True,
            "modes_allowed": frozenset({Mode.NORMAL, Mode.RESTRICTIVE}),
            "rate_factors": {Mode.RESTRICTIVE: 0.25, Mode.CRITICAL: 0.05, Mode.LOCKDOWN: 0.0},
            **fields,
        }
    )


def rate(**fields: Any) -> Rate:
    return Rate(**{"key": "p:x", "name": "calls", "per_minute": 60.0, "burst": 3, **fields})


def budget(**fields: Any) -> Budget:
    return Budget(**{"key": "b:x", "name": "writes", "limit": 2, "window_s": 60.0, **fields})


def mode(clock: Clock, **fields: Any) -> ModeEntry:
    return ModeEntry(
        **{
            "scope": "shop",
            "mode": Mode.RESTRICTIVE,
            "source": "operator",
            "reason": "incident",
            "author": "operator:z",
            "since": clock.now(),
            **fields,
        }
    )


def approval(clock: Clock, approval_id: str = "a1", **fields: Any) -> Approval:
    return Approval(
        **{
            "id": approval_id,
            "kind": "approve",
            "state": "pending",
            "principal": "agent:x@y",
            "tool": "restart_deployment",
            "target": "shop",
            "digest": "d",
            "policy": "v1",
            "message": "Restart api?",
            "arguments": {"name": "api"},
            "reason": "it hangs",
            "created_at": clock.now(),
            "expires_at": clock.now() + 900,
            **fields,
        }
    )


def redemption(**fields: Any) -> Redemption:
    return Redemption(
        **{
            "approval_id": "a1",
            "principal": "agent:x@y",
            "digest": "d",
            "policy": "v1",
            **fields,
        }
    )


def failed(clock: Clock, item_id: str = "f1", **fields: Any) -> FailedOperation:
    return FailedOperation(
        **{
            "id": item_id,
            "operation": "restart_deployment",
            "failure_type": "unreachable",
            "error": "no connection",
            "target": "shop",
            "principal": "agent:x@y",
            "arguments": {"name": "api"},
            "failed_at": clock.now(),
            **fields,
        }
    )
