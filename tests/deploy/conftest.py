"""The programs that check the files in deploy/."""

from __future__ import annotations

import pytest

from tests.deploy.tools import Tools, install


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Installed once; a while the first time."""
    return install()
