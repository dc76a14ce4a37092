"""Circuits in the hands of people and agents: looked at, reset, isolated; by compare-and-set."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Literal

from mcp_ops.call import Caller
from mcp_ops.capabilities.guard import CircuitInfo
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, RefusalCode, Refused
from mcp_ops.guard import shown
from mcp_ops.ports import CircuitPhase, CircuitState, HotStore

ResetTo = Literal["closed", "half_open"]
# Writes the line of the ledger on a change of the guard: tool, target, reason, evidence.
Changed = Callable[[str, str, str, dict[str, str]], Awaitable[None]]

_OPERATOR = "operator:"
_LIFTS_ISOLATION = frozenset({"ops:admin", "ops:approve"})


class Circuits:
    """The circuits, for one caller: its changes carry the caller's name."""

    def __init__(
        self,
        *,
        hot: HotStore,
        caller: Caller,
        clock: Clock,
        changed: Changed,
        held: Callable[[str], frozenset[str]],
    ) -> None:
        """`held` are the caller's scopes on a target."""
        self._held = held
        self._hot = hot
        self._caller = caller
        self._clock = clock
        self._changed = changed

    async def all(self, targets: list[str]) -> list[CircuitInfo]:
        """The circuits of these targets; one that never failed is closed."""
        known = {state.target: state for state in await self._hot.circuits()}
        return [shown.circuit_info(known.get(name, CircuitState(target=name))) for name in targets]

    async def reset(self, target: str, *, to: ResetTo, reason: str) -> CircuitInfo:
        """Close a circuit, or let its one probe through now.

        Raises `Conflict` when it changed meanwhile, or for a closed one that should be tried;
        `Refused` for an operator's isolation.
        """
        before = await self._of(target)
        # The second scope is what a command line without a terminal lacks: an agent may have one.
        if _isolated_by_operator(before) and not self._held(target) >= _LIFTS_ISOLATION:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{target} was isolated by {before.by}; only an operator lifts that.",
                hint="An operator runs, at a terminal: "
                "mcp-ops call reset_circuit target=… reason=…",
            )
        if to == "half_open" and before.phase is CircuitPhase.CLOSED:
            raise Conflict(
                f"The circuit of {target} is closed: every call passes, there is nothing to try.",
                hint="Call the tool that you need; list_circuits shows the circuits.",
            )
        if to == "half_open" and before.phase is CircuitPhase.HALF_OPEN:
            return shown.circuit_info(before)  # anew it would let a second probe through
        wanted = CircuitState(target=target, by=self._caller.principal, reason=reason)
        if to == "half_open":
            wanted = dataclasses.replace(
                wanted,
                phase=CircuitPhase.HALF_OPEN,
                failures=before.failures,
                opened_at=before.opened_at,
                last_error=before.last_error,
            )
        after = await self._set(wanted, before)
        await self._changed("reset_circuit", target, reason, {"from": before.phase.value, "to": to})
        return shown.circuit_info(after)

    async def isolate(self, target: str, *, reason: str) -> CircuitInfo:
        """Open a circuit until further notice."""
        before = await self._of(target)
        keeps = _isolated_by_operator(before)
        after = await self._set(
            dataclasses.replace(
                before,
                phase=CircuitPhase.ISOLATED,
                opened_at=before.opened_at or self._clock.now(),
                retry_at=None,
                probing=False,
                by=before.by if keeps else self._isolator(target),
                reason=before.reason if keeps else reason,
            ),
            before,
        )
        await self._changed("isolate_target", target, reason, {"from": before.phase.value})
        return shown.circuit_info(after)

    def _isolator(self, target: str) -> str:
        """Who isolates: an operator by whatever way is named as one, and only one lifts that."""
        principal = self._caller.principal
        if "ops:admin" not in self._held(target) or principal.startswith(_OPERATOR):
            return principal
        return f"{_OPERATOR}{principal}"

    async def _of(self, target: str) -> CircuitState:
        for state in await self._hot.circuits():
            if state.target == target:
                return state
        return CircuitState(target=target)

    async def _set(self, wanted: CircuitState, before: CircuitState) -> CircuitState:
        after = await self._hot.set_circuit(wanted, expected_version=before.version)
        if after is None:
            raise Conflict(
                f"The circuit of {wanted.target} changed at this moment.",
                hint="Look at list_circuits and call again if it is still needed.",
            )
        return after


def _isolated_by_operator(circuit: CircuitState) -> bool:
    return circuit.phase is CircuitPhase.ISOLATED and circuit.by.startswith(_OPERATOR)
