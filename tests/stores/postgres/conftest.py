from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.backends import Postgres
from tests.stores.postgres.server import Running


@pytest.fixture
def store(postgresql: Running, tmp_path: Path) -> Postgres:
    """An empty ledger, alone."""
    return postgresql.backend(tmp_path)
