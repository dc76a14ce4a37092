"""The set-ups in which the suite runs: plain, with a list of tools that changes, with keys, and two
replicas behind a proxy."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mcp_ops.stores.opening import SQLITE
from tests.clients.live import LiveLab, Place, listening
from tests.conformance.guarded import POLICY
from tests.conformance.proxy import RoundRobin, round_robin

KEY = "a-key-of-the-conformance-suite-0123456789"
_KEYS = """
[[server.keys]]
name = "{name}"
key = "env:SUITE_KEY"
scopes = ["ops:read", "ops:write", "ops:destroy"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A server that the suite can reach; `proxy` is what stands in front of it."""

    url: str
    proxy: RoundRobin | None = None


Setup = Callable[[LiveLab, Path, str], AbstractAsyncContextManager[Reached]]


@asynccontextmanager
async def plain(lab: LiveLab, directory: Path, revision: str) -> AsyncIterator[Reached]:
    """One process on loopback, without a key."""
    config = _config(lab, f"plain-{revision}", POLICY)
    async with _server(config, directory, alone=True) as url:
        yield Reached(url=url)


@asynccontextmanager
async def changing(lab: LiveLab, directory: Path, revision: str) -> AsyncIterator[Reached]:
    """One process whose list of tools follows the modes, so that streams of changes are tried."""
    more = f"{POLICY}\n[guard]\nhide_disabled_tools = true\n"
    config = _config(lab, f"changing-{revision}", more)
    async with _server(config, directory, alone=True) as url:
        yield Reached(url=url)


@asynccontextmanager
async def keyed(lab: LiveLab, directory: Path, revision: str) -> AsyncIterator[Reached]:
    """One process that wants a key, which a proxy adds: the suite has no option for it."""
    config = _config(lab, f"keyed-{revision}", POLICY + _keys())
    async with (
        _server(config, directory, alone=True) as url,
        round_robin([_port(url)], key=KEY) as proxy,
    ):
        yield Reached(url=proxy.url, proxy=proxy)


@asynccontextmanager
async def replicas(lab: LiveLab, directory: Path, revision: str) -> AsyncIterator[Reached]:
    """Two processes on one Valkey, one PostgreSQL and one key, behind a proxy that takes turns."""
    config = _config(lab, f"replicas-{revision}", POLICY + _keys())
    async with AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(_server(config, directory / name, alone=False))
            for name in ("one", "two")
        ]
        ports = [_port(url) for url in urls]
        proxy = await stack.enter_async_context(round_robin(ports, key=KEY))
        yield Reached(url=proxy.url, proxy=proxy)


SETUPS: dict[str, Setup] = {
    "plain": plain,
    "changing": changing,
    "keyed": keyed,
    "replicas": replicas,
}


def _keys() -> str:
    """A caller of this run alone: to one that it knows the ledger would tell what was done."""
    return _KEYS.format(name=f"suite-{secrets.token_hex(4)}")


def _config(lab: LiveLab, name: str, more: str) -> Path:
    """The lab's configuration with something added, in its folder: paths in it are relative."""
    path = lab.config.with_name(f"{name}.toml")
    path.write_text(lab.config.read_text(encoding="utf-8") + more, encoding="utf-8")
    return path


@asynccontextmanager
async def _server(config: Path, directory: Path, *, alone: bool) -> AsyncIterator[str]:
    directory.mkdir(parents=True, exist_ok=True)
    place = Place(config=config, state=directory / "state")
    environment = {**place.environment, "SUITE_KEY": KEY}
    if alone:
        environment |= {"MCP_OPS_STORE_HOT": SQLITE, "MCP_OPS_STORE_LEDGER": SQLITE}
    command = [sys.executable, "-m", "tests.conformance.serving", "--config", str(config)]
    async with listening(command, environment, place.stderr) as server:
        yield server.url


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
