"""The lab of the token tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_ops.adapters.oauth import OAuthAdapter
from tests.lab_org import Lab, running_lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path) as running:
        yield running


@pytest.fixture
async def idp(lab: Lab) -> AsyncIterator[OAuthAdapter]:
    async with lab.idp() as adapter:
        yield adapter
