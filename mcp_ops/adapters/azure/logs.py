"""The log files that App Service keeps of an app, over Kudu: which there are, and their ends.

On Linux every worker writes two: the platform's own (`…_docker.log`: starts and stops) and what
the app wrote (`…_default_docker.log`). On Windows the app's traces are below
`LogFiles/Application`. They are kept over restarts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio

from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import number, seconds, text
from mcp_ops.adapters.azure.look import Azure, Site, get_site
from mcp_ops.adapters.azure.names import AppName
from mcp_ops.adapters.azure.scm import listing
from mcp_ops.capabilities.deployments import DeploymentLogs, LogLevel
from mcp_ops.errors import BadAnswer, NotFound, Upstream
from mcp_ops.redact import tame
from mcp_ops.wire.http import Listen
from mcp_ops.wire.log_lines import LOWEST, Line, Wanted, level_of, page
from mcp_ops.wire.together import together

READ: Final = Ask(action="Microsoft.Web/sites/publish/Action")
FILES: Final = 10
FILE_BYTES: Final = 512 * 1024
_LINE_CHARS: Final = 4_000
_SAFE: Final = re.compile(r"[A-Za-z0-9][-\w.]{0,150}", re.ASCII)
_MACHINE: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,39}")
_DATED: Final = re.compile(r"\d{4}_\d\d_\d\d_([A-Za-z0-9]{2,40})_")
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?Z?)\s*:?\s?(.*)")
# What the log stream says of itself: its greeting, that nothing comes, where it begins.
_OF_KUDU: Final = re.compile(
    r"Welcome, you are now connected to log-streaming service.*"
    r"|No new trace in the past \d+ min.*"
    r"|Starting Log Tail -n \d+ of existing logs.*|Ending Log Tail of existing logs.*"
    r"|Starting Live Log Stream.*"
)
_ROOM_S: Final = 3.0  # of the call's time for what comes after
_PLATFORM: Final = "_docker.log"
_APP: Final = "_default_docker.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """A log file of an app. `machine` is the worker that wrote it, `platform` whether the platform
    did and not the app."""

    path: str
    machine: str
    size: int
    changed: float
    platform: bool

    @property
    def shown(self) -> str:
        """The worker, or the file where that is not known."""
        name = self.machine or self.path.rpartition("/")[2]
        return f"{name}/platform" if self.platform else name


async def list_files(azure: Azure, site: Site, address: str) -> list[LogFile]:
    """The log files of an app, the ones changed last first."""
    if site.linux:
        raw = listing(await azure.scm.get(address, "logs/docker", READ))
        found = [_docker(one) for one in raw]
    else:
        raw = listing(await azure.scm.get(address, "vfs/LogFiles/Application/", READ))
        found = [_traced(one) for one in raw]
    files = [each for each in found if each is not None]
    return sorted(files, key=lambda each: each.changed, reverse=True)


def _docker(raw: Any) -> LogFile | None:
    name = text(raw, "path").rpartition("/")[2]
    if not _SAFE.fullmatch(name):
        return None
    dated = _DATED.match(name)
    return LogFile(
        path=f"LogFiles/{name}",
        machine=_machine(text(raw, "machineName")) or (dated[1] if dated else ""),
        size=number(raw, "size"),
        changed=seconds(text(raw, "lastUpdated")) or 0.0,
        platform=name.endswith(_PLATFORM) and not name.endswith(_APP),
    )


def _machine(name: str) -> str:
    """A worker's name, which stands in sentences of ours; empty for what can be none."""
    return name if _MACHINE.fullmatch(name) else ""


def _traced(raw: Any) -> LogFile | None:
    name = text(raw, "name")
    if not _SAFE.fullmatch(name) or text(raw, "mime") == "inode/directory":
        return None
    return LogFile(
        path=f"LogFiles/Application/{name}",
        machine="",
        size=number(raw, "size"),
        changed=seconds(text(raw, "mtime")) or 0.0,
        platform=False,
    )


async def read_end(azure: Azure, address: str, file: LogFile, most: int) -> tuple[str, bool]:
    """The end of a file, and whether its beginning was cut; raises `BadAnswer` where Kudu sends
    it whole and it is too large."""
    first = max(file.size - most, 0)
    body = await azure.scm.file(address, file.path, READ, first=first)
    cut = first > 0 or len(body) > most
    words = body[-most:].decode("utf-8", "replace")
    return words.partition("\n")[2] if cut else words, cut


def dated(words: str) -> Iterator[tuple[float | None, str]]:
    """The lines of a file with their times, where they begin with one."""
    for raw in words.split("\n"):
        line = raw.rstrip("\r")
        if not line:
            continue
        found = _STAMP.match(line)
        at = seconds(found[1].replace(",", ".")) if found else None
        yield (at, found[2]) if found and at is not None else (None, line)


async def read_logs(
    azure: Azure,
    name: AppName,
    *,
    since_minutes: int,
    tail: int,
    grep: str,
    level: LogLevel,
    previous: bool,
) -> DeploymentLogs:
    """The newest lines of at most ten files, 512 KiB of each."""
    site = await get_site(azure, name)
    address = azure.scm.address(name, site.raw)
    since = azure.clock.now() - since_minutes * 60
    try:
        known = await list_files(azure, site, address)
    except NotFound:  # nothing was logged yet
        known = []
    recent = [each for each in known if each.changed >= since or not each.changed]
    chosen = recent[:FILES]
    ends = await together([partial(_end, azure, address, file) for file in chosen])
    read = list(zip(chosen, ends, strict=True))
    lines = await _read_lines([(file, end[0]) for file, end in read if end], since)
    streamed = ""
    if not lines and None not in ends:
        lines, streamed = await _listen(azure, site, address, since)
    # The newest first; of one moment the later ones of a file.
    lines.sort(key=lambda line: line.at or 0.0)
    lines.reverse()
    without = [file.shown for file, end in read if end is None]
    cut = [file.shown for file, end in read if end and end[1]]
    older = len(recent) - len(chosen)
    searched = (
        f"the last {since_minutes} minutes of {len(chosen)} log files, "
        f"the newest {FILE_BYTES // 1024} KiB of each"
    )
    notes = [
        searched,
        f"{older} older files were not read" if older else "",
        f"could not be read: {', '.join(without)}" if without else "",
        f"only the end of: {', '.join(sorted(set(cut)))}" if cut else "",
        "the run before is in the same log: previous changes nothing" if previous else "",
        streamed,
        _none(site) if not known and not lines else "",
    ]
    return page(
        lines,
        Wanted(tail=tail, grep=grep, level=level),
        searched="; ".join(each for each in notes if each),
        cut=bool(cut or without or older),
    )


async def _listen(azure: Azure, site: Site, address: str, since: float) -> tuple[list[Line], str]:
    """What the log stream sends now, and a note on it.

    What an app writes to its output shows there before, and on Linux without, any file.
    """
    left = anyio.current_effective_deadline() - anyio.current_time() - _ROOM_S
    seconds = min(azure.settings.log_stream_s, left)
    if seconds <= 0 or not site.running:
        return [], ""
    heard: bytes | None = None
    # What the files said is an answer all the same, also where the stream says nothing at all.
    with anyio.move_on_after(left), suppress(Upstream):
        heard = await azure.scm.listen(
            address, READ, Listen(seconds=seconds, most_bytes=FILE_BYTES)
        )
    if heard is None:
        return [], "the log stream could not be listened to"
    # A line that was cut by the end is one that was not heard, nor is one by the beginning.
    words = heard.decode("utf-8", "replace").rpartition("\n")[0]
    words = words.partition("\n")[2] if len(heard) >= FILE_BYTES else words
    stream = LogFile(path="stream", machine="", size=0, changed=0.0, platform=False)
    lines = [
        line
        for line in await _read_lines([(stream, words)], 0.0)
        if (line.at is None or line.at >= since) and not _OF_KUDU.fullmatch(line.text.strip())
    ]
    return lines, f"the files hold nothing of that time: {seconds:g} s of the log stream were heard"


async def _read_lines(read: Sequence[tuple[LogFile, str]], since: float) -> list[Line]:
    """The lines of files from a moment on. In a thread: a file may be half a million lines."""

    def lines() -> list[Line]:
        return [line for file, words in read for line in _lines(file, words, since)]

    return await anyio.to_thread.run_sync(lines)


def _lines(file: LogFile, words: str, since: float) -> Iterator[Line]:
    """The lines of a file from a moment on; one without a time belongs to the one before it."""
    last, inherited = 0.0, LOWEST["info"]
    for at, raw in dated(words):
        last = last if at is None else at
        # Without colours and the like, so that a filter meets the words that a person reads.
        line = raw[:_LINE_CHARS] if raw.isascii() and raw.isprintable() else tame(raw, _LINE_CHARS)
        inherited = level_of(line, inherited)
        if last >= since:
            yield Line(at=last or None, instance=file.shown, text=line, level=inherited)


async def _end(azure: Azure, address: str, file: LogFile) -> tuple[str, bool] | None:
    try:
        return await read_end(azure, address, file, FILE_BYTES)
    except (NotFound, BadAnswer):  # gone since it was listed, or sent whole and too large
        return None


def _none(site: Site) -> str:
    where = "App Service logs" if site.linux else "application logging (file system)"
    return f"there are no log files: somebody has to switch on {where} for the app"
