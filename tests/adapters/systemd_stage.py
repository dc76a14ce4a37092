"""The adapter of systemd on the lab's two programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.systemd.adapter import SystemdAdapter, SystemdSettings
from mcp_ops.clock import SystemClock
from mcp_ops.lab.systemd.place import FakeSystemd
from mcp_ops.redact import Redactor
from mcp_ops.tool import Write

REDIS = "redis.service"
UNITS = (REDIS, "finops-worker@1.service", "NetworkManager.service")


def wiring(directory: Path) -> Wiring:
    """What the composition root would give the adapter."""
    return Wiring(
        target="box",
        clock=SystemClock(),
        redactor=Redactor(),
        report_usage=lambda name, percent: None,
        directory=directory,
    )


def write(
    *,
    call_id: str = "call-1",
    dry_run: bool = False,
    between: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Write:
    """The frame of a write; `between` happens in every wait."""

    async def pause(seconds: float) -> None:
        between()
        await anyio.sleep(0.001)

    return Write(
        reason="it is wedged",
        dry_run=dry_run,
        call_id=call_id,
        principal="agent:test",
        progress=lambda done, total, text: None,
        cancelled=cancelled,
        pause=pause,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An adapter and the stand-in that it speaks to."""

    platform: SystemdAdapter
    box: FakeSystemd
    state: Path

    def effects(self) -> list[tuple[str, str]]:
        """What was really done, oldest first."""
        return [(line["effect"], line["unit"]) for line in self.box.log.read()]


@asynccontextmanager
async def stage(directory: Path, **settings: Any) -> AsyncIterator[Stage]:
    """Three units of which the first two run."""
    box = FakeSystemd(directory / "box", *UNITS)
    for name in UNITS[:2]:
        box.start(name)
    options = SystemdSettings(
        **{
            "units": UNITS,
            "settle_s": 0.0,
            "systemctl": box.systemctl,
            "journalctl": box.journalctl,
            **settings,
        }
    )
    state = directory / "state"
    async with SystemdAdapter.open(options, wiring(state)) as platform:
        with anyio.fail_after(30):
            yield Stage(platform=platform, box=box, state=state)
