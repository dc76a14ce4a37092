"""Resume: writes of many steps whose process was lost go on in this one, under a new fence.

What a write needs to go on is kept with its intent: who called, with which arguments, by whose
approval. Budgets and the approval were used when it began; scopes, modes, limits and the circuit
are asked again, and what they refuse ends it with what was done so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import anyio
import orjson

from mcp_ops.call import Call, Caller, parse
from mcp_ops.errors import InvalidInput, OpsError
from mcp_ops.guard.act import current
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.operations import LEASE_S, Operations, pinned_by
from mcp_ops.reach import Reach
from mcp_ops.records import Entry, EntryKind, Ledger, Operation
from mcp_ops.tool import Tool

if TYPE_CHECKING:
    from mcp_ops.guard.order import Guard

EVERY_S = 5.0
GIVE_UP_S = 86_400.0
# What was allowed an hour ago may be wrong now: a write that has not begun by then never does.
LATE_S = 900.0
_log = logging.getLogger("mcp_ops.guard")


def kept(call: Call, *, approval: str) -> str:
    """What is stored with the intent of a resumable write. Such a tool takes no secrets."""
    caller = call.caller
    consent = current.get().consent
    return orjson.dumps(
        {
            "pinned": None if consent.pinned is None else list(consent.pinned),
            "seen": consent.seen,
            "arguments": call.arguments.model_dump(mode="json"),
            "approval": approval,
            "caller": {
                "principal": caller.principal,
                "scopes": sorted(caller.scopes),
                "channel": caller.channel,
                "client": caller.client,
                "era": caller.era,
                "trace_id": caller.trace_id,
                "reach": [
                    {
                        "scopes": sorted(each.scopes),
                        "targets": each.targets,
                        "environments": each.environments,
                    }
                    for each in caller.reach
                ],
            },
        }
    ).decode()


class Resumer:
    """Takes over what other processes left, every few seconds."""

    def __init__(
        self,
        *,
        guard: Guard,
        tools: Mapping[str, Tool],
        ledger: Ledger,
        operations: Operations,
        now: Callable[[], float],
        keys: Callable[[], Mapping[str, frozenset[str]]] = dict,
    ) -> None:
        """`keys` are the principals of the keys that there are now, with their scopes."""
        self._keys = keys
        self._guard = guard
        self._tools = tools
        self._ledger = ledger
        self._operations = operations
        self._now = now

    async def follow(self, every_s: float = EVERY_S) -> None:
        """Look for lost operations for as long as the server runs; also at its start."""
        while True:
            try:
                await self.take()
            except OpsError as error:
                _log.warning("lost operations were not looked for: %s", error.code)
            await anyio.sleep(every_s)

    async def take(self) -> int:
        """Go on with what was lost; answers how many operations were taken."""
        if self._operations.stopping:
            return 0
        lease = self._now() + LEASE_S
        taken = await self._ledger.take_over(self._operations.owner, lease)
        for operation in taken:
            _log.warning("going on with %s, whose process was lost", operation.id)
            await self._go_on(operation)
        return len(taken)

    async def _go_on(self, operation: Operation) -> None:
        if not operation.checkpoint and self._now() - operation.started_at > LATE_S:
            await self._not_begun(operation)
            return
        try:
            call, consent = self._call(operation)
        except (InvalidInput, KeyError, ValueError, TypeError, AttributeError):
            # The tool or the target is not here, or another version wrote it: another process may
            # know them, within a day.
            if self._now() - operation.started_at > GIVE_UP_S:
                await self._give_up(operation)
                return
            await self._ledger.renew(
                operation.id,
                fence=operation.fence,
                lease_until=self._now() + 2 * LEASE_S,
                progress=operation.progress,
                checkpoint=operation.checkpoint,
            )
            return
        await self._guard.resume(call, operation, consent)

    async def _not_begun(self, operation: Operation) -> None:
        """End what had not said a step when its process was lost: nothing was done, and it is too
        late to do it. Its key is free again."""
        why = "its process was lost before it began, and none took it up in time"
        ended = replace(operation, state="done", outcome="failed")
        await self._ledger.end(
            _last_line(operation, "failed", {"lost": why}, self._now()), ended, keep=False
        )
        await self._ledger.put_fact(pinned_by(operation.id), "")

    async def _give_up(self, operation: Operation) -> None:
        """End what nobody could go on with: how far it came stands in its progress."""
        evidence = {"lost": "no process could go on with it", "progress": operation.progress}
        ended = replace(operation, state="unknown", outcome="unknown")
        line = _last_line(operation, "unknown", evidence, self._now())
        await self._ledger.end(line, ended, keep=True)
        await self._ledger.put_fact(pinned_by(operation.id), "")

    def _call(self, operation: Operation) -> tuple[Call, Consent]:
        tool = self._tools[operation.tool]
        data = orjson.loads(operation.resume)
        caller = self._present(_caller(data["caller"]))
        names = self._guard.targets.names()
        if operation.target not in names:
            raise KeyError(operation.target)
        call = parse(
            tool,
            {**data["arguments"], "target": operation.target},
            caller=caller,
            call_id=operation.id,
            targets=(operation.target,),
        )
        pinned = data.get("pinned")
        return call, Consent(
            how="none",  # it was used when the write began
            record=str(data["approval"]),
            pinned=None if pinned is None else tuple(pinned),
            seen=str(data.get("seen", "")),
        )

    def _present(self, caller: Caller) -> Caller:
        """The caller with no scope that was taken away since: of a key that is gone, none is left.
        A process without keys knows of none, and leaves them to another."""
        if not caller.principal.startswith("key:"):
            return caller
        keys = self._keys()
        if not keys:
            raise KeyError(caller.principal)
        left = keys.get(caller.principal, frozenset())
        return replace(caller, scopes=caller.scopes & left)


def _last_line(
    operation: Operation, outcome: Literal["failed", "unknown"], evidence: dict[str, Any], at: float
) -> Entry:
    return Entry(
        kind=EntryKind.ENDED,
        call_id=operation.id,
        at=at,
        tool=operation.tool,
        target=operation.target,
        principal=operation.principal,
        digest=operation.digest,
        verdict=outcome,
        outcome=outcome,
        evidence=evidence,
    )


def _caller(kept: Mapping[str, Any]) -> Caller:
    reach = tuple(
        Reach(
            scopes=frozenset(each["scopes"]),
            targets=tuple(each["targets"]),
            environments=tuple(each["environments"]),
        )
        for each in kept.get("reach", ())
    )
    return Caller(**{**kept, "scopes": frozenset(kept["scopes"]), "reach": reach})
