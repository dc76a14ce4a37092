"""Logs that are long, break off or come from many containers; lines in constant memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.adapters.kubernetes.loglines import Cutter, Sieve, Wanted
from mcp_ops.capabilities.deployments import DeploymentLogs, LogLevel
from mcp_ops.errors import ConnectionLost, UpstreamRateLimited
from tests.kubernetes_lab import Lab, answering, broken, changed, lab

STAMP = "2026-01-01T00:00:01.5Z"
SAID = answering(200, f"{STAMP} hello\n".encode())


def wanted(
    *, grep: str = "", level: LogLevel = "", tail: int = 10, previous: bool = False
) -> Wanted:
    return Wanted(since_minutes=60, tail=tail, grep=grep, level=level, previous=previous)


async def logs(place: Lab, name: str = "api", **options: Any) -> DeploymentLogs:
    given = {"since_minutes": 60, "tail": 100, "grep": "", "level": "", "previous": False}
    return await place.platform.logs(name, **{**given, **options})


def sifted(content: bytes, size: int, **options: Any) -> list[str]:
    sieve = Sieve(wanted=wanted(**options), keep=3)
    for start in range(0, len(content), size):
        sieve.feed(content[start : start + size])
    sieve.end()
    return [line for _, _, line in sieve.newest]


@pytest.mark.parametrize("size", [1, 2, 7, 64 * 1024])
def test_lines_are_the_same_however_they_come(size: int) -> None:
    lines = [f"{STAMP} one", f"{STAMP} t\u00e4w\u00f6", "", f"{STAMP} three NEEDLE", "  at last"]
    content = "\n".join(lines).encode()
    assert sifted(content, size) == ["täwö", "three NEEDLE", "  at last"]
    assert sifted(content, size, grep="needle|TÄW") == ["täwö", "three NEEDLE"]
    assert sifted(content, size, grep="needle") == ["three NEEDLE"]


def test_colours_do_not_hide_a_word() -> None:
    assert sifted(f"{STAMP} nee\x1b[31mdle\n".encode(), 5, grep="NEEDLE") == ["needle"]


def test_long_log_takes_no_more_memory_than_a_short_one() -> None:
    chunk = b"".join(f"{STAMP} line {n} of many, with a needle\n".encode() for n in range(1_000))

    def peak(times: int) -> int:
        sieve = Sieve(wanted=wanted(grep="needle"), keep=100)
        tracemalloc.start()
        for _ in range(times):
            sieve.feed(chunk)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sieve.matched == 1_000 * times
        return most

    peak(1)
    assert peak(30) < 2 * peak(2)


def test_line_without_an_end_is_cut_and_the_next_one_found() -> None:
    cutter = Cutter()
    found = [line for _ in range(100) for line in cutter.lines(b"x" * 10_000)]
    found += cutter.lines(b"xxx\nnext\n")
    assert [len(line) for line in found] == [16 * 1024, 4]
    assert cutter.last() == b""


async def test_search_is_bounded_at_the_server(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await logs(place, "statefulset/postgres", grep="x")
        (query,) = [one for one in place.between.queries if "tailLines" in one]
        for part in ("tailLines=20000", "limitBytes=8388608", "sinceSeconds=3600"):
            assert part in query


def breaking_off(content: bytes) -> Any:
    async def fault(app: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"1000000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return fault


async def test_log_that_breaks_off_keeps_what_came_and_says_so(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        part = breaking_off(f"{STAMP} first\n{STAMP} sec".encode())
        place.between.inject("GET", "/log", part)
        found = await logs(place, "statefulset/postgres")
        assert [line.text for line in found.items] == ["first", "sec"]
        assert "could not be read: the rest of postgres-0" in found.searched
        assert found.truncated
        place.between.inject("GET", "/log", broken)
        with pytest.raises(ConnectionLost):
            await logs(place, "statefulset/postgres")


async def test_server_that_asks_to_slow_down_fails_no_other_log(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        slow = answering(429, b"too many", {"Retry-After": "3"})
        place.between.inject("GET", "/log", slow)
        found = await logs(place)
        assert "could not be read: api-" in found.searched
        assert len({line.instance for line in found.items}) == 2
        place.between.inject("GET", "/log", slow, slow, slow)
        with pytest.raises(UpstreamRateLimited) as raised:
            await logs(place)
        assert raised.value.retry_after_s == 3


async def test_containers_in_trouble_are_read_first(tmp_path: Path) -> None:
    def crowd(answer: Any) -> None:
        pod = answer["items"][0]
        answer["items"] = []
        for n in range(60):
            status = {"containerStatuses": [{"name": "postgres", "restartCount": int(n == 50)}]}
            ready = [{"type": "Ready", "status": "True" if n != 40 else "False"}]
            meta = {**pod["metadata"], "name": f"postgres-{n}"}
            status["conditions"] = ready  # type: ignore[assignment]
            answer["items"].append({**pod, "metadata": meta, "status": status})

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(crowd))
        place.between.inject("GET", "/log", *[SAID] * 20)
        found = await logs(place, "statefulset/postgres")
        assert {"postgres-40", "postgres-50"} <= {line.instance for line in found.items}
        assert "the other 40 containers were not read" in found.searched


async def test_sidecars_and_restarted_init_containers_are_read(tmp_path: Path) -> None:
    def more(answer: Any) -> None:
        pod = answer["items"][0]
        pod["spec"]["initContainers"] = [
            {"name": "proxy", "restartPolicy": "Always"},
            {"name": "migrate"},
            {"name": "done"},
        ]
        pod["status"]["initContainerStatuses"] = [{"name": "migrate", "restartCount": 3}]

    async with lab(tmp_path) as place:
        for previous in (False, True):
            place.between.inject("GET", "/pods", changed(more))
            place.between.inject("GET", "/log", SAID, SAID, SAID)
            found = await logs(place, "statefulset/postgres", previous=previous)
            assert {line.instance.partition("/")[2] for line in found.items} == {
                "postgres",
                "proxy",
                "migrate",
            }
        before = [q for q in place.between.queries if "previous=true" in q]
        assert any("container=migrate" in query for query in before)


async def test_workload_of_more_instances_than_are_looked_at_says_so(tmp_path: Path) -> None:
    def more(answer: Any) -> None:
        answer["metadata"]["continue"] = "there-is-more"

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(more))
        found = await logs(place, "statefulset/postgres")
        assert "only the first 500 instances were looked at" in found.searched
        assert found.truncated
