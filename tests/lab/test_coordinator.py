"""The lab's coordinator, over its socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_ops.lab.coordinator import coordinator
from mcp_ops.lab.standin import StandIn
from tests.lab.serving import Clock, serve

CALL = {"tool_name": "oci_compute_list_instances", "arguments": {"compartment": "lab"}}


@dataclass(kw_only=True)
class Lab:
    """A running coordinator and a client for it."""

    standin: StandIn
    client: httpx2.AsyncClient
    clock: Clock

    async def execute(self, call: Any = CALL, key: str | None = None) -> httpx2.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await self.client.post("/tools/execute", json=call, headers=headers)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    clock = Clock(1_760_000_000.0)
    standin = coordinator(directory=tmp_path, clock=clock)
    async with serve(standin) as client:
        yield Lab(standin=standin, client=client, clock=clock)


async def test_a_tool_is_executed_and_witnessed_with_its_operation(lab: Lab) -> None:
    answer = await lab.execute(key="op-1")
    body = answer.json()
    assert (answer.status_code, body["success"], body["error"]) == (200, True, None)

    await lab.execute({"tool_name": "t", "arguments": {"operation_id": "op-2"}})
    await lab.execute({"tool_name": "t"})

    lines = lab.standin.log.read()
    assert [line["operation"] for line in lines] == ["op-1", "op-2", None]
    assert lines[0]["tool"] == CALL["tool_name"]
    assert lines[0]["arguments"] == CALL["arguments"]


async def test_a_second_run_under_the_same_key_shows_as_a_second_effect(lab: Lab) -> None:
    await lab.execute(key="op-1")
    await lab.execute(key="op-1")

    assert len(lab.standin.log.read()) == 2


async def test_a_refused_tool_is_a_200_that_did_nothing(lab: Lab) -> None:
    lab.standin.inject("refuse")

    answer = await lab.execute()

    assert (answer.status_code, answer.json()["success"]) == (200, False)
    assert answer.json()["error"] == "Server temporarily unavailable"
    assert lab.standin.log.read() == []


async def test_a_lost_response_executed_all_the_same(lab: Lab) -> None:
    lab.standin.inject("lost-response")

    with pytest.raises(httpx2.TransportError):
        await lab.execute(key="op-1")

    (line,) = lab.standin.log.read()
    assert line["operation"] == "op-1"
    lab.standin.mend("lost-response")
    assert (await lab.execute()).status_code == 200


@pytest.mark.parametrize(("fault", "status"), [("unavailable", 503), ("throttled", 429)])
async def test_a_coordinator_that_cannot_says_when_to_come_back(
    lab: Lab, fault: str, status: int
) -> None:
    lab.standin.inject(fault)

    answer = await lab.execute()

    assert answer.status_code == status
    assert int(answer.headers["retry-after"]) > 0
    assert lab.standin.log.read() == []


@pytest.mark.parametrize("call", [[], {}, {"tool_name": 3}, {"tool_name": "t", "arguments": []}])
async def test_a_body_that_is_no_call_is_unprocessable(lab: Lab, call: Any) -> None:
    assert (await lab.execute(call)).status_code == 422


async def test_a_body_that_is_no_json_is_unprocessable(lab: Lab) -> None:
    assert (await lab.client.post("/tools/execute", content=b"{")).status_code == 422


async def test_health_and_servers_are_those_of_the_runbook(lab: Lab) -> None:
    lab.clock.now += 3600

    health = (await lab.client.get("/health")).json()
    servers = (await lab.client.get("/mcp/servers")).json()

    assert health["status"] == "healthy"
    assert health["components"]["slack"] == "connected"
    assert health["uptime_seconds"] == 3600
    assert servers["servers"][0] == {"id": "oci-unified", "status": "connected", "tool_count": 30}


def test_an_unknown_fault_is_refused(lab: Lab) -> None:
    with pytest.raises(KeyError):
        lab.standin.inject("earthquake")
    with pytest.raises(KeyError):
        lab.standin.mend("earthquake")
