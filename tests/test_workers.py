"""Several workers on one port: one is killed and comes back, all end together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest

from mcp_ops.commands import serving
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.workers import Start, Workers
from mcp_ops.errors import ConfigurationError
from mcp_ops.settings_file import load_settings
from tests.over_http import BOTH, PING, bearer, modern

ROOT = Path(__file__).parent.parent
KEY = "a-key-of-the-workers-0123456789"
ADA = "ada-key-of-the-workers-0123456789"
CONFIG = """
[[server.keys]]
name = "agent"
key = "env:WORKERS_KEY"
"""
START_S = 90


async def until(found: Callable[[], Any]) -> Any:
    """Poll another process, which has no event for us; what was found."""
    with anyio.fail_after(START_S):
        while not (value := found()):
            await anyio.sleep(0.02)
    return value


def children(pid: int) -> set[int]:
    """The processes that a process has started and that still run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


@asynccontextmanager
async def served(
    directory: Path, text: str = CONFIG, *, count: int = 2
) -> AsyncIterator[tuple[anyio.abc.Process, Path]]:
    """Workers under their supervisor, and what they say."""
    config = directory / "config.toml"
    config.write_text(text, encoding="utf-8")
    said = directory / "stderr"
    command = [sys.executable, "-m", "mcp_ops", "serve", "--transport", "http", "--port", "0"]
    command += ["--workers", str(count), "--config", str(config)]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WORKERS_KEY": KEY,
        "WORKERS_ADA": ADA,
        "MCP_OPS_STATE_DIR": str(directory / "state"),
    }
    with said.open("wb") as file:
        process = await anyio.open_process(command, env=env, cwd=ROOT, stderr=file.fileno())
    async with process:
        try:
            await until(lambda: ready(said) == count or process.returncode is not None)
            yield process, said
        finally:
            if process.returncode is None:
                process.kill()
            await until(lambda: not children(process.pid))


def ready(said: Path) -> int:
    """How many workers have said that they serve."""
    return said.read_text(encoding="utf-8").count("serving at")


def address(said: Path) -> str:
    return said.read_text(encoding="utf-8").partition("serving at ")[2].split()[0]


@asynccontextmanager
async def steered(url: str, worker: int, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with one connection, which this worker has: it was asked for a session that there
    is not, and what comes next is that worker's to look at."""
    only = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
    async with httpx2.AsyncClient(base_url=url, limits=only, timeout=60) as http:
        head = {**BOTH, **bearer(key), "mcp-session-id": f"{worker:02x}" + "0" * 30}
        assert (await http.post("/mcp", headers=head, json=PING)).status_code == 404
        yield http


async def ask(url: str) -> httpx2.Response:
    """One call on a connection of its own: any worker may take it."""
    head, body = modern("get_guard_status")
    async with httpx2.AsyncClient(timeout=30) as http:
        return await http.post(f"{url}/mcp", headers={**head, **bearer(KEY)}, json=body)


async def test_a_worker_that_is_killed_comes_back_and_the_others_serve(tmp_path: Path) -> None:
    async with served(tmp_path) as (process, said):
        url = address(said)
        before = children(process.pid)
        assert len(before) == 2
        lost = min(before)
        os.kill(lost, signal.SIGKILL)
        await until(lambda: lost not in children(process.pid))
        answers = [await ask(url) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        await until(lambda: ready(said) == 3)
        assert len(children(process.pid)) == 2
        assert "ended with -9" in said.read_text(encoding="utf-8")
        process.terminate()
        with anyio.fail_after(START_S):
            assert await process.wait() == 0
        assert not children(process.pid)


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async with served(tmp_path) as (process, _):
        workers = children(process.pid)
        command = Path(f"/proc/{min(workers)}/cmdline").read_text(encoding="utf-8").split("\0")
        directory = Path(next(each for each in command if "/mcp-ops-" in each))
        assert len(list(directory.iterdir())) == len(workers)
        process.kill()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        assert not directory.exists()


def test_several_workers_need_a_port(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server]\nworkers = 2\n", encoding="utf-8")
    environ = {"MCP_OPS_STATE_DIR": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="stdio has one client"):
        load_settings(config, environ, {})
    for transport in ("http", "sse"):
        found = load_settings(config, environ, {"server.transport": transport})
        assert found.server.workers == 2
        assert found.server.sessions


def test_a_wrong_number_of_workers_goes_to_the_full_command_line() -> None:
    assert serving.parse(["--workers", "0"]) is None
    assert serving.parse(["--workers", "two"]) is None
    found = serving.parse(["--transport=http", "--workers=4", "--port=0"])
    assert found is not None
    assert serving.parse(found.arguments()) == found


def test_a_port_that_is_taken_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "config.toml"
        config.write_text("", encoding="utf-8")
        monkeypatch.setenv("MCP_OPS_STATE_DIR", str(tmp_path))
        options = serving.ServeOptions(transport="http", workers=2, port=port, config=config)
        assert serving.serve(options) == Exit.CONFIGURATION
    assert f"port {port} can't be bound" in capfd.readouterr().err


def test_sockets_that_cannot_be_made_end_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("", encoding="utf-8")
    monkeypatch.setenv("MCP_OPS_STATE_DIR", str(tmp_path))
    options = serving.ServeOptions(transport="http", workers=2, port=0, config=config)
    far = tmp_path / ("x" * 120)
    far.mkdir()
    for directory in (far, tmp_path / "nowhere"):
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(directory))
            assert serving.serve(options) == Exit.CONFIGURATION
        said = capfd.readouterr().err
        assert f"can't be made in {directory}" in said
        assert "let TMPDIR name a directory" in said
    assert not list(far.iterdir())


async def test_a_worker_that_cannot_be_started_is_tried_again_and_ends_nothing(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    gone: list[int] = []
    start = Start(command=[str(tmp_path / "nothing")])
    workers = Workers([start], say=said.append, gone=gone.append)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(workers.run)
            await until(lambda: len(said) >= 4)
            os.kill(os.getpid(), signal.SIGTERM)
    assert said[0] == "worker 1 could not be started: No such file or directory"
    assert said[1] == "worker 1 ended with 1; the next one starts in 0.5 s"
    assert said[2] == said[0]
    assert not gone
