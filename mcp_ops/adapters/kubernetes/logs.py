"""Logs over all pods of a workload: bounded at the server, searched as they come, merged here."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio.lowlevel

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, condition, name_of, number, objects, text
from mcp_ops.adapters.kubernetes.loglines import Sieve, Wanted
from mcp_ops.adapters.kubernetes.look import PODS, Family
from mcp_ops.capabilities.deployments import DeploymentLogs, LogLine
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Failed, NotFound, Rejected, Upstream, UpstreamRateLimited
from mcp_ops.redact import tame
from mcp_ops.wire.together import together

STREAMS: Final = 20
STREAM_BYTES: Final = 1024 * 1024
FILTER_BYTES: Final = 8 * 1024 * 1024
FILTER_LINES: Final = 20_000
PAGE_CHARS: Final = 12_000
_LINE_CHARS: Final = 300
_LINE_COST: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One container that may have a log. `urgent` sorts those first that are in trouble."""

    pod: str
    container: str
    shown: str
    urgent: int


@dataclass(slots=True)
class _Found:
    """The newest lines that matched, over all logs, and what could not be read."""

    keep: int
    newest: list[tuple[float, int, str, str, str]] = field(default_factory=list)
    matched: int = 0
    count: int = 0
    without: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    errors: list[Upstream] = field(default_factory=list)

    def add(self, shown: str, sieve: Sieve) -> None:
        """What one log had."""
        self.matched += sieve.matched
        for at, stamp, line in sieve.newest:
            self.count += 1
            push = heapq.heappush if len(self.newest) < self.keep else heapq.heappushpop
            push(self.newest, (at, self.count, stamp, shown, line))


async def read_logs(api: Api, family: Family, wanted: Wanted) -> DeploymentLogs:
    """The newest matching lines of at most 20 containers, those in trouble first; oldest first.

    A container without such a log, or whose log could not be read, is named in `searched`; only
    when none could be read at all is the first error raised.
    """
    sources = sorted(_sources(family.pods, wanted), key=lambda one: one.urgent)
    found = _Found(keep=wanted.tail)
    chosen = sources[:STREAMS]

    async def read(source: Source) -> None:
        try:
            await _read(api, source, wanted, found)
        except (Rejected, NotFound) as error:
            found.without.append(source.shown)
            # No such run is an answer; the others are looked at all the same.
            if isinstance(error, NotFound) and len(chosen) == 1:
                found.errors.append(error)
        except (Failed, UpstreamRateLimited) as error:
            found.unread.append(source.shown)
            found.errors.append(error)

    await together([partial(read, source) for source in chosen])
    if found.errors and len(found.without) + len(found.unread) == len(chosen):
        raise found.errors[0]
    return _page(found, wanted, family, sources=len(sources), read=len(chosen))


def _sources(pods: list[Obj], wanted: Wanted) -> Iterator[Source]:
    """Everything that may have a log: newest pods first, those in trouble before them."""
    newest = sorted(pods, key=lambda pod: text(pod, "metadata", "creationTimestamp"), reverse=True)
    for pod in newest:
        containers = [text(one, "name") for one in objects(pod, "spec", "containers")]
        containers += _init_containers(pod)
        restarts = _restarts(pod)
        ready = condition(pod, "Ready").get("status") == "True"
        for one in filter(None, containers):
            restarted = restarts.get(one, 0) > 0
            urgent = int(not restarted) if wanted.previous else int(ready) + int(not restarted)
            name = name_of(pod)
            shown = f"{name}/{one}" if len(containers) > 1 else name
            yield Source(pod=name, container=one, shown=shown, urgent=urgent)


def _init_containers(pod: Obj) -> list[str]:
    """Those that still run, run beside the others, or had to run again."""
    waiting = condition(pod, "Initialized").get("status") == "False"
    restarts = _restarts(pod)
    return [
        text(one, "name")
        for one in objects(pod, "spec", "initContainers")
        if waiting or text(one, "restartPolicy") == "Always" or restarts.get(text(one, "name"))
    ]


def _restarts(pod: Obj) -> dict[str, int]:
    both = ("containerStatuses", "initContainerStatuses")
    return {
        text(one, "name"): number(one, "restartCount")
        for key in both
        for one in objects(pod, "status", key)
    }


async def _read(api: Api, source: Source, wanted: Wanted, found: _Found) -> None:
    """The log of one container. The server stops at a number of bytes and so loses the newest
    lines: then fewer lines are asked for, once."""
    lines, most = wanted.tail, STREAM_BYTES
    if wanted.filters:
        lines, most = max(FILTER_LINES, wanted.tail), FILTER_BYTES
    sieve, full = await _sift(api, source, wanted, found, lines=lines, most=most)
    if full:
        found.cut.append(source.shown)
        lines = max(lines // 10, 10)
        sieve, _ = await _sift(api, source, wanted, found, lines=lines, most=most)
    found.add(source.shown, sieve)


async def _sift(
    api: Api, source: Source, wanted: Wanted, found: _Found, *, lines: int, most: int
) -> tuple[Sieve, bool]:
    """What matches of at most so many lines and bytes, and whether the bytes were not enough.

    Of a log that breaks off in the middle stays what came; that is told.
    """
    query: dict[str, str | int] = {
        "container": source.container,
        "limitBytes": most,
        "timestamps": "true",
    }
    if wanted.previous:
        query["previous"] = "true"
    else:
        query["sinceSeconds"] = wanted.since_minutes * 60
    sieve, read = Sieve(wanted=wanted, keep=wanted.tail), 0
    ask = Ask(verb="get", resource="pods/log")
    path = api.path("", "pods", source.pod, "log")
    try:
        async with api.chunks(path, ask, **query, tailLines=lines) as chunks:
            async for chunk in chunks:
                sieve.feed(chunk[: most - read])
                read += len(chunk)
                if read >= most:
                    return sieve, True
                await anyio.lowlevel.checkpoint()
    except Failed:
        if not sieve.matched:
            raise
        found.unread.append(f"the rest of {source.shown}")
    sieve.end()
    return sieve, False


def _page(
    found: _Found, wanted: Wanted, family: Family, *, sources: int, read: int
) -> DeploymentLogs:
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
        truncated=len(lines) < found.matched
        or bool(found.cut or found.unread)
        or read < sources
        or family.cut,
        searched=_searched(found, wanted, family, sources=sources, read=read),
    )


def _searched(found: _Found, wanted: Wanted, family: Family, *, sources: int, read: int) -> str:
    run = (
        "the run before the last restart"
        if wanted.previous
        else (f"the last {wanted.since_minutes} minutes")
    )
    lines = max(FILTER_LINES, wanted.tail) if wanted.filters else wanted.tail
    parts = [f"{run}, at most {lines} lines of each of {read} containers"]
    if read < sources:
        parts.append(f"the other {sources - read} containers were not read")
    if family.cut:
        parts.append(f"only the first {PODS} instances were looked at")
    if found.without:
        parts.append(f"no such log: {_names(found.without)}")
    if found.unread:
        parts.append(f"could not be read: {_names(found.unread)}")
    if found.cut:
        parts.append(f"only the newest part, because lines are long: {_names(found.cut)}")
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(tame(name, 120) for name in sorted(names)[:5]) + more
