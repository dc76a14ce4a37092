"""The MCP Inspector runs every tool: minutes, so `make clients` runs it and `make test` does not.

What needs a yes gets it from the operator.
"""

from __future__ import annotations

import pytest

from tests.clients.inspecting import ERAS, Era, inspecting
from tests.clients.install import Installed
from tests.clients.live import LiveLab, Place
from tests.clients.official import TRANSPORTS
from tests.clients.sweep import PUBLISHED, Sweep


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_tool_does_its_work_for_the_inspector(
    transport: str, era: Era, lab: LiveLab, place: Place, clients: Installed
) -> None:
    async with inspecting(clients, place, transport, era) as inspector:
        schemas = await inspector.list()
        sweep = Sweep(call=inspector.call, place=place, schemas=schemas)
        await sweep.everything(lab)
    assert set(sweep.answers) == set(schemas) == PUBLISHED
