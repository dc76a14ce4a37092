"""Logs over all pods of a workload: bounded at the server, filtered and merged here."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio.lowlevel

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, condition, name_of, objects, seconds, text
from mcp_ops.adapters.kubernetes.look import together
from mcp_ops.capabilities.deployments import DeploymentLogs, LogLevel, LogLine
from mcp_ops.clock import rfc3339
from mcp_ops.errors import NotFound, Rejected, Upstream, UpstreamBroken, UpstreamUnavailable
from mcp_ops.redact import tame
from mcp_ops.wire.log_lines import LOWEST, level_of

STREAMS: Final = 20
STREAM_BYTES: Final = 1024 * 1024
FILTER_LINES: Final = 2_000
PAGE_CHARS: Final = 12_000
_LINE_CHARS: Final = 300
_LINE_COST: Final = 90
_MATCHED_CHARS: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines. `grep` is a literal, or several with | between; case does not matter."""

    since_minutes: int
    tail: int
    grep: str
    level: LogLevel
    previous: bool

    @property
    def filters(self) -> bool:
        """Whether lines are chosen here, so that more must be read than are shown."""
        return bool(self.grep or self.level)


@dataclass(slots=True)
class _Found:
    """The newest lines that matched, over all streams, and what could not be read."""

    keep: int
    newest: list[tuple[float, int, str, str, str]] = field(default_factory=list)
    matched: int = 0
    count: int = 0
    without: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    errors: list[Upstream] = field(default_factory=list)

    def add(self, at: float, moment: str, instance: str, line: str) -> None:
        self.count += 1
        entry = (at, self.count, moment, instance, line)
        push = heapq.heappush if len(self.newest) < self.keep else heapq.heappushpop
        push(self.newest, entry)


async def read_logs(api: Api, pods: list[Obj], wanted: Wanted) -> DeploymentLogs:
    """The newest matching lines of at most 20 containers, oldest first.

    A container without such a log is named in `searched`; only when none could be read at all is
    the first error raised.
    """
    streams = _streams(pods)
    found = _Found(keep=wanted.tail)
    chosen = streams[:STREAMS]

    async def read(pod: str, container: str, shown: str) -> None:
        try:
            body, more = await _fetch(api, pod, container, wanted)
        except (Rejected, NotFound) as error:
            found.without.append(shown)
            # No such run is an answer; the others are looked at all the same.
            if isinstance(error, NotFound) and len(chosen) == 1:
                found.errors.append(error)
        except (UpstreamBroken, UpstreamUnavailable) as error:
            found.without.append(shown)
            found.errors.append(error)
        else:
            if more:
                found.cut.append(shown)
            _pick(body, shown, wanted, found)
            await anyio.lowlevel.checkpoint()

    await together([partial(read, *stream) for stream in chosen])
    if found.errors and len(found.without) == len(chosen):
        raise found.errors[0]
    return _page(found, wanted, streams=len(streams), read=len(chosen))


def _streams(pods: list[Obj]) -> list[tuple[str, str, str]]:
    """Pod, container and shown name of everything that may have a log, newest pods first."""
    found: list[tuple[str, str, str]] = []
    newest = sorted(pods, key=lambda pod: text(pod, "metadata", "creationTimestamp"), reverse=True)
    for pod in newest:
        containers = [text(one, "name") for one in objects(pod, "spec", "containers")]
        if condition(pod, "Initialized").get("status") == "False":
            containers += [text(one, "name") for one in objects(pod, "spec", "initContainers")]
        name = name_of(pod)
        found += [
            (name, one, f"{name}/{one}" if len(containers) > 1 else name)
            for one in containers
            if one
        ]
    return found


async def _fetch(api: Api, pod: str, container: str, wanted: Wanted) -> tuple[str, bool]:
    """The log of one container. The server stops at a number of bytes and so loses the newest
    lines: then fewer lines are asked for, once."""
    ask = Ask(verb="get", resource="pods/log")
    path = api.path("", "pods", pod, "log")
    lines = max(FILTER_LINES, wanted.tail) if wanted.filters else wanted.tail
    query: dict[str, str | int] = {
        "container": container,
        "limitBytes": STREAM_BYTES,
        "timestamps": "true",
    }
    if wanted.previous:
        query["previous"] = "true"
    else:
        query["sinceSeconds"] = wanted.since_minutes * 60
    body, more = await api.raw(path, ask, limit=STREAM_BYTES, **query, tailLines=lines)
    if more or len(body.encode()) >= STREAM_BYTES:
        fewer = max(lines // 10, 10)
        body, more = await api.raw(path, ask, limit=STREAM_BYTES, **query, tailLines=fewer)
        return body, True
    return body, False


def _pick(body: str, shown: str, wanted: Wanted, found: _Found) -> None:
    literals = [part.lower() for part in wanted.grep.split("|") if part]
    lowest, inherited, last = LOWEST[wanted.level], 1, 0.0
    for raw in body.split("\n"):
        if not raw:
            continue
        stamp, _, line = raw.partition(" ")
        at = seconds(stamp)
        if at is None:
            stamp, line, at = "", raw, last
        last = at
        line = _readable(line)
        if lowest:
            inherited = level_of(line, inherited)
            if inherited < lowest:
                continue
        if literals and not any(part in line.lower() for part in literals):
            continue
        found.matched += 1
        found.add(at, stamp, shown, line)


def _readable(line: str) -> str:
    """Without colours and the like, so that a filter meets the words that a person reads."""
    if line.isascii() and line.isprintable():
        return line[:_MATCHED_CHARS]
    return tame(line, _MATCHED_CHARS)


def _page(found: _Found, wanted: Wanted, *, streams: int, read: int) -> DeploymentLogs:
    lines: list[LogLine] = []
    room = PAGE_CHARS
    for at, _, moment, instance, line in sorted(found.newest, reverse=True):
        room -= min(len(line), _LINE_CHARS) + len(instance) + _LINE_COST
        if room < 0:
            break
        stamp = rfc3339(at) if moment else None
        lines.append(LogLine(at=stamp, instance=instance, text=line))
    lines.reverse()
    return DeploymentLogs(
        items=lines,
        matched=found.matched,
        truncated=len(lines) < found.matched or bool(found.cut) or read < streams,
        searched=_searched(found, wanted, streams=streams, read=read),
    )


def _searched(found: _Found, wanted: Wanted, *, streams: int, read: int) -> str:
    run = (
        "the run before the last restart"
        if wanted.previous
        else (f"the last {wanted.since_minutes} minutes")
    )
    lines = max(FILTER_LINES, wanted.tail) if wanted.filters else wanted.tail
    parts = [f"{run}, at most {lines} lines of each of {read} containers"]
    if read < streams:
        parts.append(f"the other {streams - read} containers were not read")
    if found.without:
        parts.append(f"no such log: {_names(found.without)}")
    if found.cut:
        parts.append(f"only the newest part, because lines are long: {_names(found.cut)}")
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(tame(name, 120) for name in sorted(names)[:5]) + more
