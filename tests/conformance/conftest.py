"""One lab with the stores that replicas share, and the suite's own installation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.install import Installed, install
from tests.clients.live import LiveLab, live_lab


@pytest.fixture(scope="session")
def suite_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLab]:
    """The lab of this process."""
    with live_lab(tmp_path_factory.mktemp("lab"), shared=True) as lab:
        yield lab


@pytest.fixture(scope="session")
def clients() -> Installed:
    """The clients that have an installation of their own."""
    return install()
