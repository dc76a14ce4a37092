"""A server in every state that a gauge shows, in a process of its own; prints its metrics."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import anyio
from mcp import Client
from pydantic import SecretStr

from mcp_ops.adapters.salesforce import SalesforceAdapter
from mcp_ops.capabilities.deadletters import DeadLetterQueue
from mcp_ops.capabilities.usage import UsageLimit, UsageReading
from mcp_ops.errors import OpsError, Unreachable
from mcp_ops.guard.control import Control
from mcp_ops.ports import Mode
from mcp_ops.settings import PolicyRule
from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.telemetry.gauges import make_gauges
from mcp_ops.telemetry.sdk import Sdk
from tests.guard.bench import AGENT, OPEN, Bench, bench, shelf_target
from tests.guard.shelf import SHELF_CAPABILITIES
from tests.served import Wired
from tests.stores.records import entry
from tests.telemetry.watched import watch_of

TARGETS = (
    shelf_target(links={"endpoint": "depot"}, per_minute=30.0),
    shelf_target("depot", concurrent=1, capabilities=SHELF_CAPABILITIES | {DeadLetterQueue}),
)
RULES = (PolicyRule(tool="drop_item", require="approve"), PolicyRule(require="none"))
CLOSED = "http://127.0.0.1:9"


async def happen(b: Bench, path: Path) -> None:
    """Something of everything."""
    await b.ok("look_at_item", name="payload-1")
    await b.put(name="payload-2")
    with suppress(OpsError):
        await b.reply("made_up_by_a_client")
    await b.code("drop_item", name="payload-3", reason="payload-4")  # asks a person
    for _ in range(3):
        b.world.plans += [Unreachable("payload-5", retry_after_s=60)]
        await b.error("look_at_item", name="payload-6")
    await b.error("look_at_item", name="payload-7")  # its circuit is open
    await b.set_mode(Mode.READ_ONLY, scope="depot")
    limit = UsageLimit(
        name="DailyApiRequests",
        used=75,
        max=100,
        remaining=25,
        used_percent=75.0,
        level="warning",
        window="24 h rolling",
    )
    await b.usage.read("shelf", UsageReading(limits=[limit], drives="DailyApiRequests"))
    b.worlds["depot"].letters = 7
    await b.inside.health(Control(b.parts, b.inside.caller))
    async with Client(b.server.mcp) as client:
        await client.list_tools()
    settings = SalesforceAdapter.Settings(
        instance_url=CLOSED,
        login_url=CLOSED,
        access_token=SecretStr("payload-8-secret"),
        client_id="payload-9",
    )
    async with SalesforceAdapter.open(settings, Wired(directory=path).wiring("crm")) as org:
        with suppress(OpsError):
            await org.usage()
        with suppress(OpsError):
            await org.refresh(SecretStr("payload-10-secret"))


async def main(path: Path) -> None:
    sdk = Sdk(TelemetrySettings(prometheus=True), version="1.2.3")
    async with bench(path, settings=OPEN, rules=RULES, infos=TARGETS) as b:
        watch = watch_of(b)
        make_gauges(lambda: watch.now)
        await happen(b, path)
        hold = b.worlds["depot"].hold()
        b.tasks.start_soon(b.inside.components)
        with anyio.fail_after(20):
            await hold.arrived.wait()
        for number in range(5):
            b.stores.ledger.note(entry(b.clock, f"c{number}"))
        await watch.look()
        hold.released.set()
        text, media_type = await sdk.text("")
    sys.stderr.write(f"{media_type} {AGENT.principal}")
    sys.stdout.write(text.decode())


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
