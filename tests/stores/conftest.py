from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.clock import ManualClock
from tests.stores.backends import BACKENDS, Backend


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
