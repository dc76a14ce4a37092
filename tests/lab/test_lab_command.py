"""`mcp-ops lab` as a process: what it serves and says, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
from anyio import to_thread

from mcp_ops.lab.place import hold
from mcp_ops.lab.supervisor import lab_status

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mcp_ops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """`mcp-ops lab --serve` as a process of its own, with its own process group."""

    process: anyio.abc.Process
    directory: Path

    async def ask(self, *words: str, code: int = 0) -> Any:
        """What another `mcp-ops` answers in JSON, and that it ends with the code."""
        with anyio.fail_after(30):
            ended = await anyio.run_process(
                [*COMMAND, *words, "--json"], check=False, cwd=ROOT, stdin=subprocess.DEVNULL
            )
        assert ended.returncode == code, ended.stderr.decode()
        return json.loads(ended.stdout)

    async def status(self) -> dict[str, Any]:
        """What `mcp-ops lab status --json` answers, without the wait for a process."""
        with anyio.fail_after(10):
            return await to_thread.run_sync(lab_status, self.directory)

    async def lab(self, *words: str, code: int = 0) -> Any:
        """What `mcp-ops lab` with these words answers."""
        return await self.ask("lab", *words, "--directory", str(self.directory), code=code)

    async def call(self, *words: str) -> Any:
        """What a tool answers through `mcp-ops call`."""
        return await self.ask("call", *words, "--config", str(self.directory / "mcp-ops.toml"))


async def read_until(stream: anyio.abc.ByteReceiveStream, text: str) -> str:
    said = ""
    with anyio.fail_after(30):
        while text not in said:
            said += (await stream.receive()).decode()
    return said


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[tuple[Running, str]]:
    process = await anyio.open_process(
        [*COMMAND, "lab", "--directory", str(directory), "--serve", "--port", "0"],
        cwd=ROOT,
        # A real system of whoever runs the lab: its server must not get to see it.
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = await read_until(process.stdout, "Ctrl-C stops everything")
        yield Running(process=process, directory=directory), said
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def gone(pids: dict[str, int], directory: Path) -> None:
    """Wait until no such process is left, nor anything that was started by one."""
    with anyio.fail_after(20):
        for pid in pids.values():
            while alive(pid):
                await anyio.sleep(0.02)
    with hold(directory):  # the watchdogs hold the directory until they end
        pass


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_command_serves_breaks_mends_and_leaves_nothing_after_ctrl_c(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as (it, said):
        assert "This is a lab" in said
        entry = json.loads(said[said.index("{") : said.rindex("}") + 1])
        assert Path(entry["mcpServers"]["mcp-ops"]["command"]).is_absolute()
        url = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert url is not None
        async with httpx2.AsyncClient(trust_env=False) as client:
            health = await client.get(f"{url[0]}/health")
        assert health.json()["status"] == "healthy"
        assert "redis" not in {each["name"] for each in health.json()["checks"]}

        assert (await it.lab("break", "token-expired"))["broken"]["at"] == "oauth"
        assert (await it.call("check_oauth_token", "target=crm"))["valid"] is False
        assert (await it.lab("mend", "all"))["mended"][0]["name"] == "token-expired"
        assert "Did you mean" in str(await it.lab("break", "tokenexpired", code=2))

        first = await it.status()
        os.kill(first["pids"]["server"], signal.SIGKILL)
        with anyio.fail_after(30):
            while (now := await it.status())["pids"]["server"] in (0, first["pids"]["server"]):
                await anyio.sleep(0.02)
        assert all(alive(pid) for pid in now["pids"].values())
        os.killpg(it.process.pid, signal.SIGINT)
        os.killpg(it.process.pid, signal.SIGINT)
        with anyio.fail_after(20):
            assert await it.process.wait() == 0
        await gone(now["pids"], tmp_path)
        assert not (tmp_path / "lab.json").exists()
        assert (await it.lab("status", code=4))["error"]["code"] == "configuration_error"


async def test_a_killed_lab_leaves_nothing(tmp_path: Path) -> None:
    async with started(tmp_path) as (it, _):
        pids = (await it.status())["pids"]
        assert set(pids) == {"lab", "valkey", "server"}
        os.kill(pids["lab"], signal.SIGKILL)
        await it.process.wait()
        await gone(pids, tmp_path)


async def test_a_taken_port_says_who_has_to_do_what_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with anyio.fail_after(20):
            ended = await anyio.run_process(
                [*COMMAND, "lab", "--directory", str(tmp_path / "x"), "--serve", f"--port={port}"],
                check=False,
                cwd=ROOT,
            )
    assert ended.returncode == 4
    assert f"Port {port}" in ended.stderr.decode()
    assert f"--port {port + 1}" in ended.stderr.decode()
    assert not (tmp_path / "x").exists()
