"""F16: hostile requests, at the level of bytes, of HTTP, of JSON-RPC and of tools."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2

from tests.faults.agents import META, VERSION, HttpAgent
from tests.faults.history import History
from tests.faults.row import Run, Size
from tests.faults.servers import Server
from tests.faults.stage import AGENT_KEY, stage

_LEAST = 400
_AT_ONCE = 16
_RAW_SHARE = 0.1
_TOOLS = ("restart_deployment", "get_deployment", "set_guard_mode", "get_operation", "nothing")
_METHODS = ("tools/call", "tools/list", "initialize", "ping", "resources/read", "", "x" * 3_000)
_TEXTS = (
    *("", "\x00", "\ud83d\ude00" * 50, "../" * 40, "' OR 1=1 --", "{{7*7}}", "${jndi:ldap://x}"),
    *("\u202eevil", "a" * 20_000, "%00%0a%0d", "-1", "null", "NaN", "<script>", "*"),
)


async def fault_16(run: Run, size: Size) -> None:
    """Never a 5xx, a crash or an effect."""
    place = run.place()
    history = run.history(place)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads("w-before", "w-after")
        async with run.served(set_up, history) as (server, agent):
            await agent.restart("w-before", wait_s=0)
            history.fault("hostile requests")
            await _barrage(run, history, server, agent)
            history.mended("hostile requests")
            after = await agent.restart("w-after", wait_s=0)
            run.expect(after is not None and after.code == "ok", "no call after the barrage")
            history.recovered("hostile requests")
            run.expect(server.alive, "the server crashed")
        run.expect(len(set_up.effects()) == 2, f"{len(set_up.effects())} effects for 2 calls")
        await run.judge(
            history, place, effects=set_up.effects(), least_calls=_LEAST, least_effects=2
        )


async def _barrage(run: Run, history: History, server: Server, agent: HttpAgent) -> None:
    left = run.rounds(short=_LEAST, most=100_000)

    async def one_after_the_other(seed: int) -> None:
        rng = random.Random(f"{run.seed}:{seed}")
        for number in left:
            if rng.random() < _RAW_SHARE:
                await _raw(run, history, server, rng)
            else:
                await _over_http(run, history, agent, rng)
            if number % 5_000 == 0:
                run.say(f"{number} hostile requests")

    async with anyio.create_task_group() as tasks:
        for seed in range(_AT_ONCE):
            tasks.start_soon(one_after_the_other, seed)


async def _over_http(run: Run, history: History, agent: HttpAgent, rng: random.Random) -> None:
    method = rng.choice(("POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH", "HEAD"))
    path = rng.choice(("/mcp", "/mcp", "/mcp", "/mcp", "/health", "/sse", "/../etc", "/%00"))
    headers = _headers(rng)
    try:
        with anyio.fail_after(20):
            request = agent.http.stream(
                method, agent.url + path, content=_body(rng), headers=headers
            )
            async with request as answer:
                status = answer.status_code
    except TimeoutError:
        run.expect(False, f"{method} {path} hung")
        return
    except httpx2.TransportError as gone:
        status, path = 0, f"{path} {type(gone).__name__}"
    history.hostile(status)
    run.expect(status < 500, f"{method} {path} was answered with {status}")


def _headers(rng: random.Random) -> dict[str, str]:
    found = {
        "content-type": rng.choice(("application/json", "application/json", "text/plain", "x/y")),
        "accept": rng.choice(("application/json, text/event-stream", "*/*", "image/png")),
        "authorization": f"Bearer {rng.choice((AGENT_KEY, AGENT_KEY, AGENT_KEY, 'guess', ''))}",
        "mcp-protocol-version": rng.choice((VERSION, VERSION, "2025-11-25", "1999-01-01", "?")),
    }
    for name, values in _ODD_HEADERS.items():
        if rng.random() < 0.1:
            found[name] = rng.choice(values)
    return found


_ODD_HEADERS = {
    "mcp-session-id": ("x", "0" * 32, "../.."),
    "host": ("evil.example", "127.0.0.1:1", ""),
    "origin": ("https://evil.example", "null", "http://127.0.0.1"),
    "mcp-method": _METHODS[:3],
    "mcp-name": _TOOLS,
    "last-event-id": ("1", "x" * 100),
    "content-encoding": ("gzip", "br"),
    "traceparent": ("00-0-0-0", "x" * 200),
}


def _body(rng: random.Random) -> bytes:
    whole = json.dumps(_message(rng)).encode()
    kind = rng.random()
    if kind < 0.1:
        return whole[: rng.randint(0, len(whole))]
    if kind < 0.15:
        return rng.randbytes(rng.randint(0, 2_000))
    if kind < 0.2:
        return b"[" * 5_000 + whole
    if kind < 0.25:
        return b"[" + b",".join([whole] * rng.randint(0, 20)) + b"]"
    return whole


def _message(rng: random.Random) -> Any:
    arguments = {key: _value(rng, 3) for key in rng.sample(_NAMES, rng.randint(0, 4))}
    # What is hostile has no effect to have: no workload of that name exists.
    params: dict[str, Any] = {"name": rng.choice(_TOOLS), "arguments": arguments, "_meta": META}
    if rng.random() < 0.3:
        params[rng.choice(("name", "arguments", "_meta", "extra"))] = _value(rng, 3)
    message: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": rng.choice((rng.randint(1, 10**9), "text", None, -1, 1.5, 2**80)),
        "method": rng.choice((_METHODS[0], _METHODS[0], _METHODS[0], *_METHODS)),
        "params": params,
    }
    if rng.random() < 0.2:
        message[rng.choice(("jsonrpc", "id", "method", "params"))] = _value(rng, 2)
    return message


_NAMES = ("name", "reason", "target", "wait_s", "dry_run", "operation_id", "idempotency_key", "x")


def _value(rng: random.Random, deep: int) -> Any:
    kind = rng.randrange(8 if deep else 6)
    if kind < 3:
        return rng.choice(_TEXTS)
    if kind < 6:
        return rng.choice((None, True, 0, -1, 2**63, 1e308, float("nan"), 0.1))
    if kind == 6:
        return [_value(rng, deep - 1) for _ in range(rng.randint(0, 4))]
    return {rng.choice(_TEXTS)[:50]: _value(rng, deep - 1) for _ in range(rng.randint(0, 4))}


async def _raw(run: Run, history: History, server: Server, rng: random.Random) -> None:
    """Bytes that are no HTTP, or nearly."""
    port = urlsplit(server.url).port or 0
    lines = [
        rng.choice(("POST /mcp HTTP/1.1", "GET / HTTP/9.9", "\x16\x03\x01", "PRI * HTTP/2.0", "")),
        f"Host: 127.0.0.1:{port}",
        rng.choice(("Content-Length: -1", "Content-Length: 5", "Transfer-Encoding: chunked, x")),
        rng.choice(("Content-Length: 7", "X: " + "y" * 70_000, " folded", "Bad Name: x", "A: b")),
    ]
    sent = "\r\n".join(lines).encode() + b"\r\n\r\n" + rng.randbytes(rng.randint(0, 300))
    said = b""
    try:
        with anyio.move_on_after(2):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(sent)
                await stream.send_eof()
                said = await stream.receive()
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        said = b""
    history.hostile(int(said[9:12]) if said[9:12].isdigit() else 0)
    run.expect(not said.startswith(b"HTTP/1.1 5"), f"raw bytes were answered with {said[:40]!r}")
