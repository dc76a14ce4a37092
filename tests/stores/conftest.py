from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from mcp_ops.clock import ManualClock
from mcp_ops.lab.redis import Valkey, valkey
from tests.adapters.redis_lab import free_port
from tests.stores.backends import BACKENDS, Backend, Redis


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says `HOT = True` is about hot state: the shared hot store joins in."""
    if "backend" in metafunc.fixturenames:
        names = [*sorted(BACKENDS), *(["redis"] if getattr(metafunc.module, "HOT", False) else [])]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "redis":
        shared: Redis = request.getfixturevalue("redis_backend")
        return shared
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def hot_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for all tests, which differ in the prefix of their keys."""
    directory = tmp_path_factory.mktemp("hot")
    with start_blocking_portal() as portal:
        serving = valkey(directory, free_port(), "--appendfsync", "no")
        with portal.wrap_async_context_manager(serving) as server:
            yield server


@pytest.fixture
def redis_backend(hot_server: Valkey, tmp_path: Path) -> Redis:
    return Redis(f"{hot_server.url}|{tmp_path / 'state' / 'ops.db'}")
