from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_ops.clock import ManualClock
from tests.stores.backends import BACKENDS, Backend, SharedClock
from tests.stores.postgres.server import Running, running


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of this process."""
    with running(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    make = BACKENDS[request.param]
    if make is not None:
        return make(tmp_path)
    server: Running = request.getfixturevalue("postgresql")
    return server.backend(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return SharedClock()
