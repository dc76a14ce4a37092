"""What the guard costs on stores that replicas share, against the embedded one, in one run.

The opened application's own guard, ledger and edge answer `look` and `touch` (see guarded.py),
called in this process without a transport. Three rounds of each, interleaved; medians. The round
trips of a read are counted at the servers: commands at Redis, transactions at PostgreSQL. Then
1,000 callers at once, in waves, with the memory after each wave.

    python -m benchmarks.shared_guard --seconds 2 --callers 1000

Prints JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from benchmarks.guarded import serving
from mcp_ops.app import App, open_app
from mcp_ops.call import Caller
from mcp_ops.lab.postgres import Postgres, postgres
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.server import OpsServer
from mcp_ops.settings_file import load_settings

CONFIG = """
[guard.limits]
principal_per_minute = 1e9
metered_per_minute = 1e9
writes_per_object = 1000000000
writes_per_hour = 1000000000
destroys_per_hour = 1000000000

[[policy]]
require = "none"
"""
CALLER = Caller(
    principal="agent:benchmark", scopes=frozenset({"ops:read", "ops:write"}), channel="stdio"
)
ROUNDS = 3


@dataclass(frozen=True)
class Guarded:
    """An open application whose edge answers the two tools."""

    app: App
    server: OpsServer

    async def read(self, number: int) -> None:
        """One guarded read; without a transport reads can be faster than their lines are written,
        and the guard refuses those for which there is no line. They are made again."""
        while True:
            reply = await self.server.call_tool("look", {"name": f"n{number}"}, CALLER)
            if not reply.is_error:
                return
            assert "ten thousand lines" in reply.text, reply.text
            await anyio.sleep(0.05)

    async def write(self, number: int) -> None:
        """One guarded write, which no other one is a repeat of."""
        arguments = {"name": secrets.token_hex(8), "reason": f"number {number}"}
        reply = await self.server.call_tool("touch", arguments, CALLER)
        assert not reply.is_error, reply.text


@asynccontextmanager
async def guarded(directory: Path, environ: Mapping[str, str]) -> AsyncIterator[Guarded]:
    """The application on the stores that the environment names."""
    config = _configured(directory)
    settings = load_settings(config, {"MCP_OPS_STATE_DIR": str(directory), **environ}, {})
    async with open_app(settings, environ=environ) as app:
        yield Guarded(app, serving(app))


def _configured(directory: Path) -> Path:
    directory.mkdir(parents=True)
    config = directory / "ops.toml"
    config.write_text(CONFIG, encoding="utf-8")
    return config


async def rate(call: Any, *, in_flight: int, seconds: float) -> float:
    """Calls a second with so many in flight."""
    done, until = 0, time.monotonic() + seconds

    async def one(first: int) -> None:
        nonlocal done
        number = first
        while time.monotonic() < until:
            await call(number)
            number += in_flight
            done += 1

    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        for first in range(in_flight):
            tasks.start_soon(one, first)
    return done / (time.monotonic() - began)


async def trips(shared: Guarded, redis: Valkey, ledger: Postgres, *, reads: int) -> dict[str, Any]:
    """What so many reads, one after the other, cost at the servers."""
    async with redis.client() as client:
        await client.config_resetstat()
        before = await _transactions(ledger)
        for number in range(reads):
            await shared.read(number)
        stats: Any = await client.info("commandstats")
    scripts = sum(v["calls"] for name, v in stats.items() if "evalsha" in name)
    return {
        "reads": reads,
        "redis_scripts_a_read": round(scripts / reads, 3),
        "postgresql_transactions_a_read": round((await _transactions(ledger) - before) / reads, 3),
    }


async def _transactions(ledger: Postgres) -> int:
    async with ledger.admin("postgres") as admin:
        cursor = await admin.execute(
            "SELECT sum(xact_commit) FROM pg_stat_database WHERE datname <> 'postgres'"
        )
        row: Any = await cursor.fetchone()
    return int(row[0] or 0)


async def crowd(shared: Guarded, *, callers: int, waves: int = 5) -> dict[str, Any]:
    """So many callers at once, wave after wave; resident memory in MiB after each."""
    memory = []
    for wave in range(waves):
        async with anyio.create_task_group() as tasks:
            for number in range(callers):
                tasks.start_soon(shared.read, wave * callers + number)
                if number % 10 == 0:
                    tasks.start_soon(shared.write, number)
        gc.collect()
        memory.append(round(_resident_mib(), 1))
    return {"callers": callers, "waves": waves, "resident_mib_after_each": memory}


def _resident_mib() -> float:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096 / 1_048_576


async def main(seconds: float, callers: int) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        async with AsyncExitStack() as stack:
            redis = await stack.enter_async_context(valkey(root / "redis", _port()))
            password = secrets.token_urlsafe(9)
            ledger = await stack.enter_async_context(
                postgres(root / "postgres", _port(), password=password)
            )
            environ = {
                "MCP_OPS_STORE_HOT": redis.url,
                "MCP_OPS_STORE_LEDGER": ledger.url,
                "MCP_OPS_STORE_KEY": secrets.token_urlsafe(24),
            }
            kinds = {
                "embedded": await stack.enter_async_context(guarded(root / "a", {})),
                "shared": await stack.enter_async_context(guarded(root / "b", environ)),
            }
            return {
                "calls_a_second": await _rates(kinds, seconds),
                "round_trips": await trips(kinds["shared"], redis, ledger, reads=200),
                "crowd": await crowd(kinds["shared"], callers=callers),
            }


async def _rates(kinds: Mapping[str, Guarded], seconds: float) -> dict[str, Any]:
    measured: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for kind, each in kinds.items():
            for what, call in (("read", each.read), ("write", each.write)):
                for in_flight in (1, 64):
                    found = await rate(call, in_flight=in_flight, seconds=seconds)
                    measured.setdefault(f"{kind} {what} {in_flight}", []).append(found)
    medians = {name: round(statistics.median(values)) for name, values in measured.items()}
    ratios = {
        name.removeprefix("shared "): round(value / medians[name.replace("shared", "embedded")], 2)
        for name, value in medians.items()
        if name.startswith("shared")
    }
    return {"medians": medians, "shared_to_embedded": ratios}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--callers", type=int, default=1_000)
    chosen = parser.parse_args()
    print(json.dumps(anyio.run(main, chosen.seconds, chosen.callers), indent=2))
    sys.exit(0)
