"""The server's own log lines leave with its traces: the same as on stderr, and no others."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from mcp_ops.telemetry.logs import listen
from tests.clients.live import ROOT, serving
from tests.clients.official import MODERN, remote
from tests.telemetry.logging_peer import QUEUE, THREADS
from tests.telemetry.receiver import Line, Observed, Received, observed, receiver
from tests.telemetry.test_front_door import TRACES, hexed, stopped, traced_by

WARN, INFO = 13, 9
FROZEN = "a freeze calendar cannot be read and closes: no such file or directory"
NOBODY = "http://127.0.0.1:9"  # the discard port


def freezing(path: Path, **variables: str) -> Observed:
    """A server that logs a warning within its first call of get_guard_status."""
    calendar = f'[[guard.freeze]]\ncalendar = "file:{path}/gone.ics"\n'
    return observed(path, calendar, MCP_OPS_LOG_LEVEL="DEBUG", **variables)


def on_stderr(place: Observed) -> list[dict[str, Any]]:
    """The lines of its log."""
    text = place.stderr.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ours(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if line["logger"].startswith("mcp_ops")]


async def test_a_line_within_a_call_has_the_ids_of_the_calls_exported_span(tmp_path: Path) -> None:
    async with receiver() as received:
        place = freezing(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=received.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-token=key-of-the-collector",
        )
        with anyio.fail_after(60):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    with traced_by(TRACES["modern"]):
                        await talk.call("get_guard_status", {})
                assert await stopped(server.process) == 0
    (line,) = received.lines()
    (shown,) = [each for each in on_stderr(place) if each["message"] == FROZEN]
    assert line == Line(
        logger="mcp_ops.guard",
        body=FROZEN,
        severity=WARN,
        text="warning",
        trace=hexed(TRACES["modern"]),
        span=shown["span_id"],
        attributes={},
    )
    assert shown["trace_id"] == line.trace
    spans = {span.id: span for span in received.spans() if span.trace == line.trace}
    assert spans[line.span].name == "guard.run"
    assert {each["x-token"] for each in received.headers} == {"key-of-the-collector"}


@pytest.mark.parametrize("kind", ["refuses", "fails"])
async def test_lines_about_a_collector_that_is_down_go_to_stderr_alone(
    kind: str, tmp_path: Path
) -> None:
    async with receiver(status=500) as received:
        place = freezing(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=received.url if kind == "fails" else NOBODY,
            OTEL_BLRP_SCHEDULE_DELAY="20",
            OTEL_BSP_SCHEDULE_DELAY="20",
        )
        with anyio.fail_after(60):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    said = [await talk.call("get_guard_status", {})]
                    while not about_logs(place, kind):
                        await anyio.sleep(0.02)
                    said.append(await talk.call("get_guard_status", {}))
                assert await stopped(server.process) == 0
    assert not any(each.is_error for each in said)
    assert ours(on_stderr(place)) == [FROZEN]
    # An exporter may try again with what it has; there is nothing else that it could have.
    assert {line.body for line in received.lines()} == ({FROZEN} if kind == "fails" else set())


def about_logs(place: Observed, kind: str) -> bool:
    """Whether the exporter of logs has said what it thinks of the collector."""
    text = place.stderr.read_text(encoding="utf-8")
    return "POST /v1/logs HTTP/1.1" in text if kind == "fails" else "Failed to export logs" in text


async def test_logs_are_left_out_where_the_settings_say_so(tmp_path: Path) -> None:
    async with receiver() as received:
        place = freezing(
            tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=received.url, OTEL_LOGS_EXPORTER="none"
        )
        with anyio.fail_after(60):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    await talk.call("get_guard_status", {})
                assert await stopped(server.process) == 0
    assert ours(on_stderr(place)) == [FROZEN]
    assert {path for path, _ in received.bodies} == {"/v1/traces", "/v1/metrics"}


def told(received: Received) -> list[Line]:
    """What the peer's threads logged while it was open."""
    return [line for line in received.lines() if line.body.startswith("line ")]


async def logged_by_threads(received: Received, count: int) -> list[dict[str, Any]]:
    """What the peer has on stderr, where each of its threads logs `count` lines. It closes when a
    gate is opened for what it has, or, without one, when all of it has come."""
    command = [sys.executable, "-m", "tests.telemetry.logging_peer", received.url, str(count)]
    with anyio.fail_after(60):
        async with (
            await anyio.open_process(command, stderr=subprocess.PIPE, cwd=ROOT) as peer,
            anyio.create_task_group() as tasks,
        ):
            assert peer.stdin is not None
            assert peer.stdout is not None
            assert peer.stderr is not None
            said: list[str] = []
            tasks.start_soon(collect, peer.stderr, said)
            out = BufferedByteReceiveStream(peer.stdout)
            assert await out.receive_until(b"\n", 1_000) == b"logged"
            if received.gate:
                received.gate.set()
            else:
                while len(told(received)) < count * THREADS:
                    await anyio.sleep(0.02)
            await peer.stdin.send(b"close\n")
            assert await out.receive_until(b"\n", 1_000) == b"[]"  # no handler is left
            assert await peer.wait() == 0
    return [json.loads(line) for line in "".join(said).splitlines()]


async def collect(stream: anyio.abc.ByteReceiveStream, into: list[str]) -> None:
    async for text in TextReceiveStream(stream):
        into.append(text)


async def test_threads_log_before_while_and_after_it_is_exported() -> None:
    count = QUEUE // THREADS // 2
    async with receiver() as received:
        on_stderr = await logged_by_threads(received, count)
    messages = [line["message"] for line in on_stderr]
    sent = told(received)
    assert sorted(line.body for line in sent) == sorted(
        f"line {number} of {thread}" for thread in range(THREADS) for number in range(count)
    )
    assert all(line.attributes == {"mcp_ops.call_id": f"c{line.body[-1]}"} for line in sent)
    assert {line.severity for line in sent} == {INFO}
    assert {line.body for line in received.lines()} - {line.body for line in sent} <= {
        "while it closes"
    }
    assert {"before", "after", "while it closes"} <= set(messages)
    # What cannot be told hurts nobody, and neither of the two ways is silent about it.
    assert messages.count("a line could not be written") == 1
    assert messages.count("a line could not be sent") == 1
    assert "uncaught" not in messages


async def test_what_waits_for_a_slow_collector_is_bounded() -> None:
    async with receiver() as received:
        received.gate = anyio.Event()
        on_stderr = await logged_by_threads(received, 250)
    sent = {line.body for line in told(received)}
    assert 0 < len(sent) <= 2 * QUEUE  # what is on its way, and what waits
    assert sum(line["message"].startswith("line ") for line in on_stderr) == THREADS * 250


def test_an_exception_is_told_by_what_and_where_and_not_by_its_words() -> None:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    leave = listen([SimpleLogRecordProcessor(exporter)], Resource({}))
    try:
        try:
            fail_in_groups()
        except ExceptionGroup:
            logging.getLogger("mcp_ops.tests").exception(
                "it failed at %s", "one", extra={"call": "c1", "other": "payload"}
            )
        logging.getLogger("elsewhere").error("not ours")
    finally:
        leave()
    logging.getLogger("mcp_ops.tests").error("after it")
    (found,) = exporter.get_finished_logs()
    attributes = dict(found.log_record.attributes or {})
    where = str(attributes.pop("exception.stacktrace"))
    assert found.log_record.body == "it failed at one"
    assert attributes == {"mcp_ops.call_id": "c1", "exception.type": "ExceptionGroup"}
    assert [line.partition(":")[0] for line in where.splitlines()] == [
        "ExceptionGroup",
        f"  {__name__}",
        f"  {__name__}",
        "because of ValueError",
        "because of KeyError",
        f"  {__name__}",
        f"  {__name__}",
        "because of anyio.EndOfStream",
    ]
    assert f"{fail_in_groups.__name__}" in where
    assert "payload" not in str(found.to_json())
    assert str(Path(__file__).name) not in found.to_json()


def fail() -> None:
    raise KeyError("payload-1") from anyio.EndOfStream("payload-2")


def fail_in_groups() -> None:
    """An exception with others in it, one of which came from another."""
    try:
        fail()
    except KeyError as error:
        raise ExceptionGroup("payload-3", [ValueError("payload-4"), error]) from None
