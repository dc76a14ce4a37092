"""Items in the dead-letter queue, and where each of them is at the end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcp_ops.lab.redis import QUEUE_KEY
from tests.faults.stage import AGAIN, Stage

_OPERATION = "oci_compute_list_instances"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The items that were put into the queue, and their members there."""

    members: Mapping[str, tuple[str, float]]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, oldest first."""
        return tuple(self.members)

    async def put_back(self, stage: Stage, item_id: str) -> None:
        """The item failed once more: it lies in the queue again, just as it did."""
        assert stage.queue is not None
        member, at = self.members[item_id]
        async with stage.queue.client() as client:
            await client.zadd(QUEUE_KEY, {member: at})

    async def places(self, stage: Stage) -> Mapping[str, int]:
        """In how many places each item is: waiting in the queue, or executed (as often as it
        was). An item whose retry is resolved or unknown lies in the queue as a record of that."""
        waiting = {item["id"] for item in await members(stage) if not _over(item)}
        executed = Counter(effect.intent for effect in stage.effects())
        held = {item["id"] for item in await members(stage) if _over(item)}
        found = {id_: (id_ in waiting) + executed[id_] for id_ in self.ids}
        # Marked as over without an effect: it is kept, and a person has to look at it.
        return {id_: count or int(id_ in held) for id_, count in found.items()}


def _over(item: Mapping[str, Any]) -> bool:
    return bool(item.get("resolved")) or int(item.get("retry_count") or 0) > 0


async def fill(stage: Stage, count: int) -> Queued:
    """Put that many items into the queue, oldest first."""
    assert stage.queue is not None
    now = time.time()
    items = {
        f"item-{number}": (json.dumps(_item(number, at)), at)
        for number, at in enumerate(now - count + number for number in range(count))
    }
    async with stage.queue.client() as client:
        await client.delete(QUEUE_KEY)
        await client.zadd(QUEUE_KEY, dict(items.values()))
    return Queued(members=items)


async def moved(stage: Stage) -> list[str]:
    """The ids in the list that a requeue moves items to, as often as they are there."""
    assert stage.queue is not None
    async with stage.queue.client() as client:
        found: list[bytes] = await client.lrange(AGAIN, 0, -1)  # type: ignore[assignment]
    return [json.loads(member)["id"] for member in found]


async def moved_count(stage: Stage) -> int:
    """How many items were moved."""
    assert stage.queue is not None
    async with stage.queue.client() as client:
        return int(await client.llen(AGAIN))


async def members(stage: Stage) -> list[dict[str, Any]]:
    """What lies in the queue."""
    assert stage.queue is not None
    async with stage.queue.client() as client:
        found: list[bytes] = await client.zrange(QUEUE_KEY, 0, -1)  # type: ignore[assignment]
    return [json.loads(member) for member in found]


def _item(number: int, at: float) -> dict[str, Any]:
    return {
        "id": f"item-{number}",
        "failure_type": "timeout",
        "operation": _OPERATION,
        "error": "Tool call timed out after 30s",
        "params": {"limit": 50},
        "context": {"user_id": "U1"},
        "timestamp": datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(),
        "retry_count": 0,
        "last_retry": None,
        "resolved": False,
        "resolution_notes": None,
    }
