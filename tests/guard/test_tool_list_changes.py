"""A list of tools that follows the modes, and clients that are told, in both eras over Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr

from mcp_ops.app import App, open_app
from mcp_ops.lab.redis import valkey
from mcp_ops.ports import Mode, ModeEntry
from mcp_ops.settings import GuardSettings, Settings, StoreSettings, TargetSettings
from mcp_ops.stores.redis.signals import open_signals
from mcp_ops.transport_bus import ToolListBus
from mcp_ops.transport_http import http_app
from mcp_ops.transport_streams import MAX_STREAMS_EACH
from tests.adapters.redis_lab import free_port
from tests.over_http import VERSION, settings
from tests.served import serve
from tests.transport_peer import health

HIDDEN = {"retry_deadletters", "discard_deadletters", "restore_deadletters"}


def lockdown() -> ModeEntry:
    return ModeEntry(
        scope="*",
        mode=Mode.LOCKDOWN,
        source="operator",
        reason="a test",
        author="test",
        since=time.time(),
    )


@asynccontextmanager
async def server(directory: Path, hot: str) -> AsyncIterator[tuple[App, str]]:
    """One server that hides tools, on sockets of its own."""
    environ = {"QUEUE": "redis://127.0.0.1:1/0"}
    queue = TargetSettings(name="orders", kind="redis", options={"url": "env:QUEUE"})
    chosen = Settings(
        state_dir=directory,
        guard=GuardSettings(hide_disabled_tools=True),
        store=StoreSettings(hot=SecretStr(hot)),
        targets=(queue,),
    )
    async with open_app(chosen, environ=environ) as app:
        made = http_app(app.server.mcp, settings=settings(), health=health, sse=False)
        async with made.router.lifespan_context(made), serve(made) as url:
            yield app, url


@asynccontextmanager
async def client(url: str, mode: str, told: anyio.Event) -> AsyncIterator[Client]:
    async def hear(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            told.set()

    async with (
        httpx2.AsyncClient(timeout=30) as http,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=http),
            mode=mode,
            message_handler=hear,
        ) as made,
    ):
        yield made


async def names(of: Client) -> set[str]:
    return {tool.name for tool in (await of.list_tools()).tools}


async def test_a_change_in_one_server_is_told_to_the_clients_of_the_other(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            redis = await stack.enter_async_context(valkey(tmp_path / "redis", free_port()))
            one, _ = await stack.enter_async_context(server(tmp_path / "one", redis.url))
            _, two = await stack.enter_async_context(server(tmp_path / "two", redis.url))
            told = anyio.Event()
            modern = await stack.enter_async_context(client(two, VERSION, anyio.Event()))
            legacy = await stack.enter_async_context(client(two, "legacy", told))
            changes = await stack.enter_async_context(modern.listen(tools_list_changed=True))
            assert await names(modern) >= HIDDEN
            assert legacy.server_capabilities.tools is not None
            assert legacy.server_capabilities.tools.list_changed
            await one.stores.hot.set_mode(lockdown())
            await anext(aiter(changes))
            await told.wait()
            for each in (modern, legacy):
                found = await names(each)
                assert not found & HIDDEN
                assert "set_guard_mode" in found


async def test_signals_reach_the_others_and_return_after_redis_did(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with (
            valkey(tmp_path, free_port()) as redis,
            open_signals(redis.url) as one,
            open_signals(redis.url) as two,
        ):
            heard: list[anyio.Event] = [anyio.Event()]
            stop = two.hear(lambda: heard[-1].set())
            await sent_until(one.send, heard[-1])
            await redis.stop()
            await one.send()  # lost, and nobody is worse off
            heard.append(anyio.Event())
            await redis.start()
            await heard[-1].wait()
            stop()
            heard.append(anyio.Event())
            own = anyio.Event()
            one.hear(own.set)
            await sent_until(two.send, own)
            assert not heard[-1].is_set()


async def sent_until(send: Any, heard: anyio.Event) -> None:
    """Send until it is heard: the other end may not listen yet."""
    while not heard.is_set():
        await send()
        with anyio.move_on_after(0.05):
            await heard.wait()


class Alone:
    """No other process."""

    async def send(self) -> None:
        """Nobody to tell."""

    def hear(self, listener: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def test_one_client_has_a_bound_of_streams_and_ended_ones_do_not_count() -> None:
    bus = ToolListBus(Alone())
    made: Server[Any] = Server("bus", on_subscriptions_listen=bus.listen)
    with anyio.fail_after(30):
        async with Client(made, mode=VERSION) as of:
            for _ in range(2):
                async with AsyncExitStack() as streams:
                    for _ in range(MAX_STREAMS_EACH):
                        await streams.enter_async_context(of.listen(tools_list_changed=True))
                    with pytest.raises(MCPError, match="100 streams are open"):
                        async with of.listen(tools_list_changed=True):
                            pass
                await anyio.wait_all_tasks_blocked()
