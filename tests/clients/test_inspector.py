"""The MCP Inspector's command line works with the server; `make clients` calls every tool."""

from __future__ import annotations

import pytest

from tests.clients.inspecting import ERAS, Era, inspecting
from tests.clients.install import Installed
from tests.clients.live import LiveLab, Place
from tests.clients.official import TRANSPORTS
from tests.clients.sweep import PUBLISHED, Sweep


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_inspector_finds_the_schemas_portable_and_its_calls_are_answered(
    transport: str, era: Era, lab: LiveLab, place: Place, clients: Installed
) -> None:
    async with inspecting(clients, place, transport, era) as inspector:
        schemas = await inspector.list()
        assert set(schemas) == PUBLISHED
        sweep = Sweep(call=inspector.call, place=place, schemas=schemas)
        workload = await sweep.do("get_deployment", name="worker")
        assert workload["ready"] == 2
        stricter = {"target": "vault", "mode": "restrictive", "reason": "a look around"}
        assert (await sweep.do("set_guard_mode", **stricter))["outcome"] == "verified"
        refused = await inspector.call("get_deployment", {"name": "worker", "limit": 1})
        assert refused.code == "invalid_input"
