from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from mcp_ops.clock import ManualClock
from mcp_ops.lab.redis import Valkey, valkey
from tests.adapters.redis_lab import free_port
from tests.stores.backends import BACKENDS, Backend, Redis, SharedClock
from tests.stores.postgres.server import Running, running

# Tests of the hot state, or of files: the ledger's PostgreSQL has neither.
NOT_OF_THE_LEDGER = {
    "test_one_of_all_processes_gets_the_probe",
    "test_a_mode_set_by_another_process_is_seen",
    "test_a_full_disk_fails_closed_and_the_chain_verifies_after",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a contract on every backend that the contract is about.

    A module that says `HOT = True` is about hot state: the shared hot store joins in. All others
    are about records: PostgreSQL does.
    """
    if "backend" in metafunc.fixturenames:
        hot = getattr(metafunc.module, "HOT", False)
        records = not hot and metafunc.function.__name__ not in NOT_OF_THE_LEDGER
        names = [*sorted(BACKENDS), *(["redis"] if hot else []), *(["postgres"] if records else [])]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "redis":
        shared: Redis = request.getfixturevalue("redis_backend")
        return shared
    if request.param == "postgres":
        server: Running = request.getfixturevalue("postgresql")
        return server.backend(tmp_path)
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return SharedClock()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of this process."""
    with running(tmp_path_factory.mktemp("postgres")) as server:
        yield server


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
