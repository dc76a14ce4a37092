"""`mcp-ops audit verify`, `anchor`, `export`, `prune`: the ledger is whole, kept, and moved on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from mcp_ops.call import new_id
from mcp_ops.clock import SystemClock, rfc3339
from mcp_ops.commands import ocsf
from mcp_ops.commands.audit_file import (
    check_export,
    destination,
    jsonl,
    lines_of,
    moment,
    read_anchors,
)
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import ask_line, interactive, say, show_json, warn
from mcp_ops.commands.session import ConfigOption, JsonOption, RunningApp, operator, with_app
from mcp_ops.errors import InvalidInput, RefusalCode, Refused
from mcp_ops.records import Anchor, Anchored, Entry, EntryKind, Ledger, Line
from mcp_ops.redact import tame

_DAY_S = 86_400

AnchorOption = Annotated[
    Path | None,
    typer.Option("--anchor", help="A file of anchors that were printed before: was it put back?"),
]
SinceOption = Annotated[str, typer.Option(help="From this time on: RFC 3339, or 30m, 12h, 7d ago.")]
UntilOption = Annotated[str, typer.Option(help="Up to this time.")]


def verify(
    anchor: AnchorOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Check a JSON export instead of the ledger.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Walk over the whole ledger; exit code 1 when a line was changed or is missing."""

    async def body(app: RunningApp) -> int:
        anchors = read_anchors(anchor) if anchor else []
        ledger = app.stores.ledger
        found = await ledger.verify()
        problem = found.problem or await _contradiction(ledger, anchors)
        if as_json:
            show_json({**asdict(found), "ok": not problem, "problem": problem})
        elif not problem:
            held = f" It agrees with {len(anchors)} anchors." if anchors else ""
            say(f"The ledger is intact: {found.entries} lines.{held}")
        elif found.ok:
            say(f"The ledger is not what it was: {tame(problem)}")
        else:
            say(f"The ledger is damaged from line {found.first_bad_seq}: {tame(problem)}")
        return Exit.FAILED if problem else Exit.OK

    if file is not None:
        raise typer.Exit(_verify_file(file, anchor, as_json=as_json))
    with_app(config, body, as_json=as_json)


def anchor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print where the ledger stands now, as one line of JSON. Keep it on another machine."""

    async def body(app: RunningApp) -> int:
        for each in await _anchored(app.stores.ledger).anchors():
            say(orjson.dumps(asdict(each)).decode())
        return Exit.OK

    with_app(config, body, as_json=as_json)


def export(
    form: Annotated[
        Literal["jsonl", "ocsf"], typer.Option("--format", help="JSON lines, or OCSF events.")
    ] = "jsonl",
    since: SinceOption = "",
    until: UntilOption = "",
    after: Annotated[int, typer.Option(min=0, help="From the line after this number on.")] = 0,
    out: Annotated[str, typer.Option(help="A new file, or - for stdout.")] = "-",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write lines of the ledger, oldest first, one object of JSON a line.

    The number of the last line is said at the end: with --after it goes on from there.
    """

    async def body(app: RunningApp) -> int:
        now = SystemClock().now()
        lines = lines_of(
            app.stores.ledger,
            after=after,
            since=moment(since, now) if since else None,
            until=moment(until, now) if until else None,
        )
        count, last = 0, after
        with destination(out, append=after > 0) as file:
            async for line in lines:
                file.write(_FORMS[form](line))
                count, last = count + 1, line.entry.seq
            file.flush()
        said = f"{count} lines; the last is {last}. Go on with --after {last}."
        warn(orjson.dumps({"lines": count, "last": last}).decode() if as_json else said)
        return Exit.OK

    with_app(config, body, as_json=as_json)


def prune(
    before: Annotated[str, typer.Option(help="Remove what is older than this time.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit.", min=1)],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove old lines now. Needs a terminal, and leaves a line that says so."""

    async def body(app: RunningApp) -> int:
        now = SystemClock().now()
        limit = moment(before, now)
        if limit > now - _DAY_S:
            raise InvalidInput("--before: lines of the last day are not removed.")
        await _person(f"Remove the lines before {rfc3339(limit)}? Export them first. [y/N] ")
        caller = operator()
        await app.stores.ledger.change(
            Entry(
                kind=EntryKind.CHANGED,
                call_id=new_id(),
                at=now,
                tool="prune_ledger",
                principal=caller.principal,
                channel=caller.channel,
                reason=tame(reason, 500),
                evidence={"before": rfc3339(limit)},
            )
        )
        removed = await app.stores.ledger.prune(limit)
        if as_json:
            show_json({"removed": removed})
        else:
            say(f"{removed} lines were removed.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


def _ocsf(line: Line) -> bytes:
    return orjson.dumps(ocsf.event(line), default=str) + b"\n"


_FORMS: dict[str, Any] = {"jsonl": jsonl, "ocsf": _ocsf}


def _verify_file(file: Path, anchor: Path | None, *, as_json: bool) -> int:
    try:
        found = check_export(file, read_anchors(anchor) if anchor else ())
    except InvalidInput as error:
        warn(f"mcp-ops: {tame(error.message)}")
        return Exit.USAGE
    if as_json:
        show_json({"ok": not found.problem, **asdict(found)})
    elif found.problem:
        say(f"The export is damaged: {tame(found.problem)}")
    else:
        held = f" {found.anchored} of them were anchored." if anchor else ""
        say(f"The export is intact: {found.lines} lines, {found.first} to {found.last}.{held}")
    return Exit.FAILED if found.problem else Exit.OK


async def _contradiction(ledger: Ledger, anchors: list[Anchor]) -> str:
    for each in anchors:
        if problem := await _anchored(ledger).contradiction(each):
            return problem
    return ""


def _anchored(ledger: Ledger) -> Anchored:
    if not isinstance(ledger, Anchored):
        raise InvalidInput("This ledger's store makes no anchors.")
    return ledger


async def _person(question: str) -> None:
    line = await ask_line(question) if interactive() else None
    if line is None or line.lower() not in ("y", "yes"):
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            "Removing lines of the ledger needs the yes of a person at a terminal.",
            hint="Run mcp-ops audit prune in a terminal of your own.",
        )
