"""`mcp-ops audit`: read the ledger, and check that nobody changed it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import anyio
import typer

from mcp_ops.clock import SystemClock, rfc3339
from mcp_ops.commands.audit_file import moment
from mcp_ops.commands.audit_keeping import (
    SinceOption,
    UntilOption,
    anchor,
    export,
    prune,
    verify,
)
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say
from mcp_ops.commands.session import ConfigOption, JsonOption, RunningApp, with_app
from mcp_ops.records import AuditQuery, Entry, Ledger
from mcp_ops.redact import tame

_FOLLOW_S = 1.0
_PAGE = 200

group = typer.Typer(help="The record of every call.", no_args_is_help=True)


@group.command()
def tail(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1_000, help="So many lines, oldest first.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until interrupted.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the last lines of the ledger."""

    async def body(app: RunningApp) -> int:
        ledger = app.stores.ledger
        entries = await last_entries(ledger, lines)
        _show(entries, as_json=as_json)
        newest = entries[-1].seq if entries else await _newest(ledger)
        while follow:
            await anyio.sleep(_FOLLOW_S)
            fresh = await entries_after(ledger, newest)
            _show(fresh, as_json=as_json)
            newest = fresh[-1].seq if fresh else newest
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def search(
    call: Annotated[str, typer.Option(help="Lines of this call (audit_id).")] = "",
    principal: Annotated[str, typer.Option(help="Who called.")] = "",
    tool: Annotated[str, typer.Option(help="Which tool.")] = "",
    target: Annotated[str, typer.Option(help="Which target.")] = "",
    verdict: Annotated[str, typer.Option(help="ok, refused, invalid, asked, failed, …")] = "",
    trace: Annotated[str, typer.Option(help="Which trace id.")] = "",
    since: SinceOption = "",
    until: UntilOption = "",
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=1_000, help="At most so many, the newest.")
    ] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the lines of the ledger that match, oldest first."""

    async def body(app: RunningApp) -> int:
        now = SystemClock().now()
        query = AuditQuery(
            since=moment(since, now) if since else None,
            until=moment(until, now) if until else None,
            principal=principal,
            tool=tool,
            target=target,
            verdict=verdict,
            trace_id=trace,
            call_id=call,
            limit=lines,
        )
        found = await app.stores.ledger.search(query)
        _show(found[::-1], as_json=as_json)
        return Exit.OK

    with_app(config, body, as_json=as_json)


group.command()(verify)
group.command()(anchor)
group.command()(export)
group.command()(prune)


async def last_entries(ledger: Ledger, count: int) -> list[Entry]:
    """The last lines, oldest first."""
    found: list[Entry] = []
    while len(found) < count:
        before = found[-1].seq if found else None
        page = await ledger.search(
            AuditQuery(before_seq=before, limit=min(_PAGE, count - len(found)))
        )
        found += page
        if not page:
            break
    return found[::-1]


async def entries_after(ledger: Ledger, seq: int) -> list[Entry]:
    """The lines that are newer than a number, oldest first."""
    found: list[Entry] = []
    before: int | None = None
    while True:
        page = await ledger.search(AuditQuery(before_seq=before, limit=_PAGE))
        found += [entry for entry in page if entry.seq > seq]
        if len(page) < _PAGE or page[-1].seq <= seq:
            return found[::-1]
        before = page[-1].seq


def line_of(entry: Entry) -> str:
    """One line for a person."""
    parts = [
        rfc3339(entry.at),
        entry.kind.value,
        entry.verdict or entry.outcome or "-",
        entry.tool,
        entry.target or "-",
        entry.object,
        entry.principal,
        entry.code,
        entry.reason,
    ]
    return tame("  ".join(part.replace("\n", " ") for part in parts if part), 1_000)


async def _newest(ledger: Ledger) -> int:
    page = await ledger.search(AuditQuery(limit=1))
    return page[0].seq if page else 0


def _show(entries: Iterable[Entry], *, as_json: bool) -> None:
    for entry in entries:
        say(json.dumps(_as_dict(entry), ensure_ascii=False) if as_json else line_of(entry))


def _as_dict(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value not in ("", None, {})}
