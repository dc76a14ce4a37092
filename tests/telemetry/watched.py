"""The looks of a server of the tests."""

from __future__ import annotations

from mcp_ops.telemetry.snapshot import Watch
from tests.guard.bench import Bench


def watch_of(b: Bench) -> Watch:
    """As the composition root makes it."""
    return Watch(
        guard=b.guard,
        failed=b.stores.failed,
        approvals=b.stores.approvals,
        inside=b.inside,
        health=b.parts.health,
        clock=b.clock,
        away=b.parts.away,
        unwritten=lambda: b.stores.ledger.unwritten,
        running=lambda: b.operations.count,
    )
