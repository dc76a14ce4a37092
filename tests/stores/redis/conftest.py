from __future__ import annotations

import pytest

from mcp_ops.lab.redis import Valkey
from tests.stores.redis.opened import Opening


@pytest.fixture
def opening(hot_server: Valkey, request: pytest.FixtureRequest) -> Opening:
    """Opens the store on the shared server, under a prefix of the test's own."""
    return Opening(hot_server.url, prefix=request.node.name.replace("{", "(").replace("}", ")"))
