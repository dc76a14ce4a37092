"""A server that is stopped, or a client that goes, while a write is under way: the write ends, its
end is on record, and whoever sends the call again is told of it. Nothing runs twice."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from mcp_ops.clock import SystemClock
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.clients.lines import Lines, lines
from tests.clients.live import START_S, LiveLab, Place, serving
from tests.clients.official import (
    MODERN,
    Conversation,
    Person,
    remote,
)

RESTART = {"name": "worker", "reason": "it is slow"}
REMOTE = ("sse", "http")
# One revision of each era; how a person is asked is tested with the sweep of all tools.
ASKING = (MODERN, "2025-11-25")


def patches(lab: LiveLab) -> int:
    """How many writes have reached the platform."""
    return len(lab.effects("kubernetes", "client.patch"))


async def ledger_is_closed(place: Place) -> None:
    """Nobody writes to the ledger any more, and nothing is missing in it."""
    assert not list(place.state.glob("*-wal"))
    async with open_stores(place.state / "state.db", SystemClock()) as stores:
        assert (await stores.ledger.verify()).ok


async def restarting(server: Lines, era: str) -> int:
    """Ask for a restart and wait until it has been sent to the platform; the request's id."""
    meta = (await server.greet(era)).get("_meta", {})
    number = await server.send(
        "tools/call",
        name="restart_deployment",
        arguments=RESTART,
        _meta={**meta, "progressToken": "restart"},
    )
    await server.notified("notifications/progress")
    return number


async def terminate(server: Lines) -> None:
    """As a service manager does it."""
    server.process.send_signal(signal.SIGTERM)


async def close(server: Lines) -> None:
    """As a host does that quits."""
    await server.stdin.aclose()


@pytest.mark.parametrize("era", ASKING)
@pytest.mark.parametrize("end", [terminate, close])
async def test_a_stdio_server_answers_the_write_in_flight_before_it_exits_with_0(
    end: Callable[[Lines], Awaitable[None]], era: str, lab: LiveLab, place: Place
) -> None:
    before = patches(lab)
    async with lines(place) as server:
        number = await restarting(server, era)
        await end(server)
        answer = (await server.answer(number))["result"]["structuredContent"]
        assert await server.code() == 0
    assert answer["outcome"] == "verified"
    await ledger_is_closed(place)
    async with lines(place) as server:
        again = await repeated(server, era)
    assert (again["replayed"], again["audit_id"]) == (True, answer["audit_id"])
    assert patches(lab) == before + 1


async def repeated(server: Lines, era: str) -> dict[str, Any]:
    """What the same call is answered when it is sent again."""
    meta = await server.greet(era)
    answer = await server.ask("tools/call", name="restart_deployment", arguments=RESTART, **meta)
    found: dict[str, Any] = answer["result"]["structuredContent"]
    return found


async def test_a_host_that_dies_leaves_a_server_that_records_the_write_and_exits_with_0(
    lab: LiveLab, place: Place
) -> None:
    before = patches(lab)
    async with lines(place) as server:
        await restarting(server, MODERN)
        await server.stop_reading()
        await server.stdin.aclose()
        assert await server.code() == 0
    await ledger_is_closed(place)
    async with lines(place) as server:
        again = await repeated(server, MODERN)
    assert (again["replayed"], again["outcome"]) == (True, "verified")
    assert patches(lab) == before + 1


async def test_a_killed_server_never_runs_the_write_again(lab: LiveLab, place: Place) -> None:
    before = patches(lab)
    async with lines(place) as server:
        await restarting(server, MODERN)
        server.process.send_signal(signal.SIGKILL)
        assert await server.code() == -signal.SIGKILL
    async with lines(place) as server:
        again = await repeated(server, MODERN)
    assert again["replayed"]
    # Whether it was done nobody knows; whoever held it may live until its lease is over.
    assert again["outcome"] in ("in_progress", "unknown")
    assert patches(lab) == before + 1


class Restart:
    """A restart by the official client, which says when it has been sent to the platform."""

    def __init__(self, talk: Conversation) -> None:
        self._client = talk.client
        self.answers: list[dict[str, Any]] = []

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Call; started with the first progress."""
        told: list[float] = []

        async def moved(progress: float, total: float | None, message: str | None) -> None:
            told.append(progress)
            if len(told) == 1:
                task_status.started()

        await self._client.list_tools()  # else it would ask for the schema after the call
        result = await self._client.call_tool(
            "restart_deployment", RESTART, progress_callback=moved
        )
        assert result.structured_content is not None
        self.answers.append(result.structured_content)


@pytest.mark.parametrize("era", ASKING)
@pytest.mark.parametrize("transport", REMOTE)
async def test_a_client_that_goes_and_comes_back_is_told_how_its_write_ended(
    transport: str, era: str, lab: LiveLab, place: Place
) -> None:
    before = patches(lab)
    async with serving(place, transport) as server:
        url = server.endpoint(transport)
        with anyio.CancelScope() as client:
            async with (
                remote(url, transport, era, person=Person()) as talk,
                anyio.create_task_group() as tasks,
            ):
                restart = Restart(talk)
                with anyio.fail_after(START_S):
                    await tasks.start(restart.run)
                client.cancel()
        assert restart.answers == []
        person = Person()
        async with remote(url, transport, era, person=person) as talk:
            again = (await talk.call("restart_deployment", RESTART)).text
    assert (again["replayed"], again["outcome"]) == (True, "verified")
    assert person.asked == []
    assert patches(lab) == before + 1


@pytest.mark.parametrize("era", ASKING)
@pytest.mark.parametrize("transport", REMOTE)
async def test_a_stopped_http_server_answers_the_write_in_flight_and_exits_with_0(
    transport: str, era: str, lab: LiveLab, place: Place
) -> None:
    before = patches(lab)
    async with serving(place, transport) as server:
        url = server.endpoint(transport)
        async with (
            remote(url, transport, era, person=Person()) as talk,
            anyio.create_task_group() as tasks,
        ):
            restart = Restart(talk)
            with anyio.fail_after(START_S):
                await tasks.start(restart.run)
            server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(START_S):
            assert await server.process.wait() == 0
    assert [answer["outcome"] for answer in restart.answers] == ["verified"]
    await ledger_is_closed(place)
    assert patches(lab) == before + 1
