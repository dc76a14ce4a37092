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


# Tests of the hot state, or of files: the ledger's PostgreSQL has neither.
NOT_OF_THE_LEDGER = {
    "test_one_of_all_processes_gets_the_probe",
    "test_a_mode_set_by_another_process_is_seen",
    "test_a_full_disk_fails_closed_and_the_chain_verifies_after",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a contract on every backend that the contract is about."""
    if "backend" in metafunc.fixturenames:
        hot = metafunc.module.__name__.endswith("_hot")
        apart = hot or metafunc.function.__name__ in NOT_OF_THE_LEDGER
        names = sorted(BACKENDS.keys() - ({"postgres"} if apart else set()))
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    make = BACKENDS[request.param]
    if make is not None:
        return make(tmp_path)
    server: Running = request.getfixturevalue("postgresql")
    return server.backend(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return SharedClock()
