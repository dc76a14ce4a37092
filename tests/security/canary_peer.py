"""Secrets of every format go into every opening of a server, in a process of its own.

Its stderr has the logs at DEBUG, its stdout one JSON object: all that clients were told, all spans,
all metrics as Prometheus reads them, and what came to a collector and to Azure Monitor on sockets.
The state stays in the folder that it is given.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, MCPError
from mcp.client import ClientRequestContext
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from mcp_ops import log
from mcp_ops.call import NeedsAnswer
from mcp_ops.errors import Rejected, UnknownTool, Unreachable, UpstreamBroken
from mcp_ops.guard.control import Control
from mcp_ops.ports import Mode
from mcp_ops.settings import PolicyRule
from mcp_ops.settings_file import quieten
from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.telemetry.gauges import make_gauges
from mcp_ops.telemetry.sdk import AZURE_QUIET, Sdk
from tests.guard.bench import AGENT, OPEN, OPERATOR, TWO, Bench, bench
from tests.guard.shelf import Item
from tests.secrets_of_each_kind import Sample, samples
from tests.telemetry.ingestion import ingestion
from tests.telemetry.receiver import receiver
from tests.telemetry.watched import watch_of

CONFIGURED = "kFq83mZt01LwXv55Qn"
RULES = (PolicyRule(tool="drop_item", require="approve"), PolicyRule(require="none"))


async def main(path: Path) -> None:
    quieten(AZURE_QUIET)
    async with receiver() as received, ingestion() as azure:
        sdk = Sdk(
            TelemetrySettings(
                exporters=("otlp", "azure_monitor"),
                otlp_endpoint=received.url,
                azure_connection=SecretStr(azure.connection),
                prometheus=True,
                queue=65_536,
            ),
            version="0",
        )
        exporter = InMemorySpanExporter()
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        told, text = await everything(path, sdk)
        await sdk.close()
    spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
    came = {
        "told": told,
        "spans": spans,
        "metrics": text,
        "sent": [body.decode("utf-8", "replace") for _, body in received.bodies],
        "lines": [asdict(line) for line in received.lines()],
        "azure": azure.items,
    }
    print(json.dumps(came))


async def everything(path: Path, sdk: Sdk) -> tuple[list[Any], str]:
    """All that goes in; what clients are told, and the metrics."""
    told: list[Any] = []
    async with bench(path, settings=OPEN, rules=RULES, infos=TWO) as b:
        watch = watch_of(b)
        make_gauges(lambda: watch.now)
        b.redactor.add(CONFIGURED)
        log.to_stderr("DEBUG", b.redactor)
        configured = Sample(name="configured", secret=CONFIGURED, text=f"saw {CONFIGURED} there")
        found = [configured, *samples()]
        for number, sample in enumerate(found):
            told += await target_says(b, sample, number)
        # As many as say it all: what a format is does not matter to the way it takes.
        for number, sample in enumerate([configured, *found[1::9]]):
            told += await client_says(b, sample, number)
        told += await looked_up(b)
        for mode in ("legacy", "2026-07-28"):
            told += await by_the_protocol(b, found[1::9], mode)
        await b.inside.health(Control(b.parts, OPERATOR))
        await watch.look()
        text, _ = await sdk.text("")
    return told, text.decode()


async def by_the_protocol(b: Bench, found: list[Sample], mode: str) -> list[str]:
    """What a client puts into messages beside arguments, and answers to a question."""
    told = []

    async def answer(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        return types.ErrorData(code=-1, message=found[0].text)

    async with Client(b.server.mcp, mode=mode, elicitation_callback=answer) as client:
        for sample in found:
            meta: Any = {"note": sample.text, "traceparent": sample.text}
            for tool in (sample.text, "look_at_item"):
                try:
                    result = await client.call_tool(tool, {"name": sample.text[:90]}, meta=meta)
                    told.append(str(result.content))
                except MCPError as error:
                    told.append(error.error.message)
            asked = await client.call_tool("drop_item", {"name": "a", "reason": sample.text})
            told.append(str(asked.content))
    return told


async def said(b: Bench, tool: str, arguments: dict[str, Any], caller: Any = AGENT) -> str:
    """What a client is told, whatever the call ends in."""
    try:
        reply = await b.server.call_tool(tool, arguments, caller)
    except NeedsAnswer as ending:
        return ending.question.message
    except UnknownTool as error:
        return error.message
    return reply.text


async def target_says(b: Bench, sample: Sample, number: int) -> list[str]:
    """The target's answers, errors, evidence and exceptions."""
    text = sample.text
    told = []
    b.world.items = [Item(name="a", text=text), Item(name="b", text=f"x\n{text}")]
    told.append(await said(b, "look_at_item", {"name": f"a{number}"}))
    told.append(await said(b, "list_items", {"limit": 2}))
    for error in (
        UpstreamBroken("The shelf failed.", said=text),
        Rejected(f"The shelf said {text}", hint=text, details={"said": text}),
        RuntimeError(f"a library raised {text}"),
    ):
        b.world.plans.append(error)
        told.append(await said(b, "look_at_item", {"name": f"b{number}"}))
    if number % 4 == 0:
        b.world.evidence = {"said": text, "list": [{"text": text}], text[:200]: 1}
        put = {"name": f"c{number}", "reason": "why"}
        told.append(await said(b, "put_item", put))
        told.append(await said(b, "put_item", put))  # the recorded answer
    raised = RuntimeError(text)
    raised.__cause__ = ValueError(text)
    logging.getLogger("library").debug("sent %s and got %r", text, [text], exc_info=raised)
    logging.getLogger("library").info(text)
    ours = logging.getLogger("mcp_ops.canaries")  # its lines are exported
    ours.warning("saw %s", text, exc_info=raised, extra={"call": text[:200], "unknown": text})
    ours.debug(text)
    return told


async def client_says(b: Bench, sample: Sample, number: int) -> list[str]:
    """What an agent and an operator write."""
    text, secret = sample.text[:400], sample.secret
    name = f"d{number}"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("put_item", {"name": name, "reason": text}),
        ("put_item", {"name": f"{name}e", "reason": "why", "code": secret[:100]}),
        ("put_item", {"name": f"{name}f", "reason": "why", "codes": text}),
        ("put_item", {"name": [text], "reason": {"x": text}}),
        ("drop_item", {"name": f"{name}g", "reason": text}),
        ("set_guard_mode", {"target": "depot", "mode": "critical", "reason": text}),
        ("set_guard_mode", {"target": "depot", "mode": "normal", "reason": text}),
        ("isolate_target", {"target": "depot", "reason": text}),
        ("reset_circuit", {"target": "depot", "reason": text}),
        ("look_at_item", {"name": "a", "target": text}),
        (text, {"any": text}),
        ("search_audit", {"tool": text, "cursor": text}),
        ("get_operation", {"operation_id": text}),
    ]
    told = [await said(b, tool, arguments) for tool, arguments in asked]
    b.world.plans.append(Unreachable(f"no {text}", said=text))
    told.append(await said(b, "put_one", {"name": f"{name}h", "reason": text}))
    named = replace(AGENT, client=f"client {text}")
    told.append(await said(b, "get_health", {}, named))
    control = Control(b.parts, OPERATOR)
    await control.set_mode("depot", Mode.CRITICAL, minutes=0, reason=text)
    await control.reset_circuit("depot", reason=text)
    await control.clear_modes("depot", reason=text)
    return told


async def looked_up(b: Bench) -> list[str]:
    """All that can be read back."""
    told = []
    for tool, arguments in (
        ("search_audit", {"limit": 200}),
        ("list_approvals", {}),
        ("list_circuits", {}),
        ("get_guard_status", {}),
        ("get_health", {}),
        ("list_deadletters", {"target": "self", "limit": 50}),
        ("get_deadletter_stats", {"target": "self"}),
    ):
        told.append(await said(b, tool, dict(arguments), OPERATOR))
    told.append(repr(await b.entries()))
    return told


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
