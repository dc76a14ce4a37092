"""One lab for all tests of clients in a process, and a place of its own for each server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.install import Installed, install
from tests.clients.live import LiveLab, Place, live_lab


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLab]:
    """The lab of this process."""
    with live_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: LiveLab) -> LiveLab:
    """The lab, as if it had just been started."""
    shared_lab.calm()
    return shared_lab


@pytest.fixture
def place(lab: LiveLab, tmp_path: Path) -> Place:
    """Where a server keeps its state."""
    return Place(config=lab.config, state=tmp_path / "state")


@pytest.fixture(scope="session")
def clients() -> Installed:
    """The clients that have an installation of their own."""
    return install()
