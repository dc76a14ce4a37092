"""Fixtures for the tests of dead letters: one real server, loaded as a plugin where it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from mcp_ops.lab.redis import Valkey, valkey
from tests.adapters.redis_lab import free_port

if TYPE_CHECKING:
    from redis.asyncio import Redis


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for all tests; each flushes it before it begins."""
    directory = tmp_path_factory.mktemp("valkey")
    with start_blocking_portal() as portal:
        serving = valkey(directory, free_port(), "--appendfsync", "no")
        with portal.wrap_async_context_manager(serving) as server:
            yield server


@pytest.fixture
async def redis(shared_valkey: Valkey) -> AsyncIterator[Redis]:
    """A plain client on the emptied shared server: the tests' own eyes and hands."""
    async with shared_valkey.client() as client:
        await client.flushall()
        yield client
