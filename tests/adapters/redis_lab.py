"""What the tests of dead letters share: an open adapter, readable members."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.redis.adapter import RedisAdapter
from mcp_ops.adapters.redis.settings import RedisSettings
from mcp_ops.clock import ManualClock
from mcp_ops.redact import Redactor

KEY = "oci:deadletter:queue"
START = 1_800_000_000.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wiring(directory: Path) -> Wiring:
    return Wiring(
        target="orders",
        clock=ManualClock(),
        redactor=Redactor(),
        report_usage=lambda name, percent: None,
        directory=directory,
    )


@asynccontextmanager
async def adapter(url: str, **options: Any) -> AsyncIterator[RedisAdapter]:
    """An adapter over a real connection."""
    settings = RedisSettings(url=SecretStr(url), **options)
    async with RedisAdapter.open(settings, wiring(Path())) as opened:
        yield opened


def member(number: int | str, **changes: Any) -> bytes:
    """A member as the coordinator writes it."""
    item = {
        "id": f"op_{number}",
        "failure_type": "timeout",
        "operation": "oci_cost_get_summary",
        "error": f"Tool call timed out after {number}s",
        "params": {"days": 30},
        "context": {"user_id": "U1"},
        "timestamp": "2027-01-15T08:00:00",
        "retry_count": 0,
        "last_retry": None,
        "resolved": False,
        "resolution_notes": None,
        **changes,
    }
    return json.dumps(item).encode("utf-8")


async def fill(client: Any, members: list[bytes], key: str = KEY) -> None:
    """Put members into the sorted set, the first one oldest."""
    for start in range(0, len(members), 1_000):
        chunk = members[start : start + 1_000]
        await client.zadd(key, {m: START + start + i for i, m in enumerate(chunk)})
