"""The log stream of App Service: when it is heard, how much of it, and what is no line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from mcp_ops.adapters.azure.logs import _ROOM_S, FILE_BYTES
from tests.azure_lab import lab

ASKED: dict[str, Any] = {
    "since_minutes": 60,
    "tail": 100,
    "grep": "",
    "level": "",
    "previous": False,
}


async def flood(_app: Any, scope: Any, receive: Any, send: Any) -> None:
    """A stream that sends megabytes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(8):
        lines = b"2026-11-29T12:00:00Z x\n" * 10_000
        await send({"type": "http.response.body", "body": lines, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def away(_app: Any, scope: Any, receive: Any, send: Any) -> None:
    """A site whose tools are not there."""
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"Service Unavailable"})


async def test_log_stream_is_heard_where_files_say_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path, log_stream_s=1.0) as place:
        world = place.stand_in.world
        app = world.apps["shop-web"]
        app.files = False
        app.log[:] = [(world.now(), "lw1", False, "level=error no database")]

        async def write_later() -> None:
            while not any("/logstream" in path for _, path in place.between.seen):
                await anyio.sleep(0.01)  # until somebody listens
            app.log.append((world.now(), "lw1", False, "level=info up"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_later)
            logs = await place.platform.logs("shop-web", **ASKED)
        assert [line.text for line in logs.items] == [
            "level=error no database",
            "level=info up",
        ]
        assert {line.instance for line in logs.items} == {"stream"}
        assert "1 s of the log stream were heard" in logs.searched
        assert "somebody has to switch on" not in logs.searched
        app.log[:] = [
            (world.now() - 7_200, "lw1", False, "too old"),
            (world.now(), "lw1", False, "Starting Live reload server"),
        ]
        logs = await place.platform.logs("shop-web", **ASKED)
        assert [line.text for line in logs.items] == ["Starting Live reload server"]
        place.between.inject("GET", "/logstream", flood)
        logs = await place.platform.logs("shop-web", **{**ASKED, "since_minutes": 600})
        assert logs.matched * len("2026-11-29T12:00:00Z x\n") <= FILE_BYTES
        place.between.inject("GET", "/logstream", away)
        none = await place.platform.logs("shop-web", **ASKED)
        assert none.items == []
        assert "the log stream could not be listened to" in none.searched
        assert "somebody has to switch on App Service logs" in none.searched
        await place.act("POST", "sites/shop-web/stop")
        assert "log stream" not in (await place.platform.logs("shop-web", **ASKED)).searched


async def test_log_stream_that_says_nothing_does_not_cost_the_answer(tmp_path: Path) -> None:
    over = anyio.Event()

    async def silent(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        await over.wait()

    async with lab(tmp_path, log_stream_s=1.0) as place:
        app = place.stand_in.world.apps["shop-web"]
        app.files = False
        place.between.inject("GET", "/logstream", silent)
        with anyio.fail_after(_ROOM_S + 2):
            logs = await place.platform.logs("shop-web", **ASKED)
        over.set()
        assert "the log stream could not be listened to" in logs.searched
