"""The adapter of configured jobs, on the lab's sync endpoints."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from pydantic import SecretStr

from mcp_ops.adapters.http_jobs.adapter import HttpJobsAdapter
from mcp_ops.adapters.http_jobs.settings import HttpJobsSettings
from mcp_ops.lab.standin import StandIn
from mcp_ops.lab.sync import jobs_toml, sync_backend
from mcp_ops.tool import Write
from tests.kubernetes_lab import Between
from tests.served import Wired, serve

KEY = "admin-key-0123456789"
TAKES_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An adapter, the stand-in that it speaks to, what stands between, and their clock."""

    scheduler: HttpJobsAdapter
    backend: StandIn
    between: Between
    wired: Wired

    def effects(self) -> list[str]:
        """What was really done, oldest first."""
        return [line["effect"] for line in self.backend.log.read()]

    def write(
        self,
        *,
        call_id: str = "call-1",
        dry_run: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Write:
        """The frame of a write; its waits let the clock go on."""

        async def pause(seconds: float) -> None:
            self.wired.clock.advance(seconds)

        return Write(
            reason="the data is stale",
            dry_run=dry_run,
            call_id=call_id,
            principal="agent:test",
            progress=lambda done, total, text: None,
            cancelled=cancelled,
            pause=pause,
        )


def jobs() -> dict[str, Any]:
    """The two jobs as the lab configures them."""
    found: dict[str, Any] = tomllib.loads(jobs_toml())["targets"]["syncs"]["jobs"]
    return found


@asynccontextmanager
async def stage(directory: Path, key: str = KEY, **settings: Any) -> AsyncIterator[Stage]:
    """Two jobs; a run takes twenty seconds of the clock."""
    wired = Wired(directory=directory)
    backend = sync_backend(directory=directory, key=KEY, clock=wired.clock.now, takes_s=TAKES_S)
    between = Between(backend.app)
    async with serve(between) as url:
        options = HttpJobsSettings(
            **{"url": url, "jobs": jobs(), "headers": {"X-Admin-Key": SecretStr(key)}, **settings}
        )
        async with HttpJobsAdapter.open(options, wired.wiring("syncs")) as scheduler:
            with anyio.fail_after(20):
                yield Stage(scheduler=scheduler, backend=backend, between=between, wired=wired)
