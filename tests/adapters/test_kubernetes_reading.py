"""Listing, describing and reading logs of the lab's Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.capabilities.deployments import DeploymentLogs
from mcp_ops.errors import Forbidden, InvalidInput, NotFound, UpstreamBroken
from tests.kubernetes_lab import TOKEN, Lab, answering, changed, lab

ALL = ["api", "web", "worker", "statefulset/postgres", "daemonset/agent"]
CONTAINER = {"name": "app", "image": "x:1"}


async def every_page(place: Lab, limit: int) -> list[list[str]]:
    pages, cursor = [], ""
    while True:
        page = await place.platform.list_workloads(limit=limit, cursor=cursor)
        assert page.truncated == bool(page.next_cursor)
        pages.append([item.name for item in page.items])
        cursor = page.next_cursor
        if not cursor:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 200])
async def test_pages_of_any_size_show_every_workload_once(tmp_path: Path, limit: int) -> None:
    async with lab(tmp_path) as place:
        pages = await every_page(place, limit)
        assert [name for page in pages for name in page] == ALL
        assert all(len(page) <= limit for page in pages)


async def test_list_tells_what_is_wrong_with_one_look_at_the_pods(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        await place.until("worker", lambda found: found.problem == "not_ready")
        place.between.seen.clear()
        page = await place.platform.list_workloads(limit=20, cursor="")
        problems = {item.name: item.problem for item in page.items}
        assert problems["worker"] == "not_ready"
        assert problems["api"] in ("rolling_out", "rollout_stuck", "crash_loop")
        assert problems["web"] == problems["statefulset/postgres"] == "none"
        assert len(place.between.seen) == 4


@pytest.mark.parametrize("cursor", ["x", "d.zzz", "d." + "a" * 600, "q.abc", "d.!!"])
async def test_cursor_of_another_list_is_invalid_input(tmp_path: Path, cursor: str) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(InvalidInput):
            await place.platform.list_workloads(limit=2, cursor=cursor)


async def test_cursor_that_is_too_old_says_to_start_again(tmp_path: Path) -> None:
    expired = answering(410, {"kind": "Status", "reason": "Expired", "message": "too old"})
    async with lab(tmp_path) as place:
        page = await place.platform.list_workloads(limit=1, cursor="")
        place.between.inject("GET", "/deployments", expired)
        with pytest.raises(InvalidInput) as raised:
            await place.platform.list_workloads(limit=1, cursor=page.next_cursor)
        assert "without a cursor" in raised.value.hint


async def test_kind_without_permission_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    no = answering(403, {"kind": "Status", "message": "forbidden"})
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/statefulsets", no)
        page = await place.platform.list_workloads(limit=20, cursor="")
        assert [item.name for item in page.items] == [*ALL[:3], "daemonset/agent"]
        assert "not statefulsets (no permission)" in page.searched


async def test_namespace_that_is_off_limits_is_forbidden(tmp_path: Path) -> None:
    async with lab(tmp_path, namespace="restricted") as place:
        for action in (
            place.platform.ping(),
            place.platform.list_workloads(limit=2, cursor=""),
            place.platform.describe("vault"),
        ):
            with pytest.raises(Forbidden) as raised:
                await action
            assert "deployments.apps" in raised.value.hint


async def test_healthy_workload_is_described_with_its_instances(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        found = await place.platform.describe("api")
        assert (found.desired, found.ready, found.updated, found.available) == (3, 3, 3, 3)
        assert (found.problem, found.restarts, found.oom_kills) == ("none", 0, 0)
        assert (found.image, found.revision) == ("lab/shop-api:2.7.1", "1")
        assert found.explanation == "3 of 3 instances are ready. All is as wanted."
        assert len(found.instances) == 3
        assert (found.instances[0].age_s or 0) > 250_000
        assert found.last_restart is None
        assert {one.type for one in found.conditions} == {"Available", "Progressing"}
        with pytest.raises(NotFound):
            await place.platform.describe("nope")


async def test_crash_loop_is_explained_with_restarts_events_and_last_exit(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        found = await place.until(
            "api", lambda found: found.problem == "crash_loop" and (found.restarts or 0) >= 2
        )
        assert "1 instance crashed again and again" in found.explanation
        assert "A rollout is under way" in found.explanation
        first = found.instances[0]
        assert (first.ready, first.waiting) == (False, "CrashLoopBackOff")
        assert first.last_exit == "Error (exit code 1)"
        assert "BackOff" in {event.reason for event in found.events}
        times = [event.at or "" for event in found.events]
        assert times == sorted(times, reverse=True)


async def test_wedged_workers_are_not_ready(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        found = await place.until("worker", lambda found: bool(found.events) and found.ready == 0)
        assert found.problem == "not_ready"
        assert any(event.reason == "Unhealthy" for event in found.events)


async def test_workload_of_others_with_the_same_labels_is_left_out(tmp_path: Path) -> None:
    def stray(answer: Any) -> None:
        answer["items"][0]["metadata"]["ownerReferences"][0]["uid"] = "somebody-else"

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(stray))
        assert len((await place.platform.describe("api")).instances) == 2


async def test_events_that_may_not_be_read_do_not_hide_the_rest(tmp_path: Path) -> None:
    no = answering(403, {"kind": "Status", "message": "forbidden"})
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/events", no, no, no, no)
        found = await place.platform.describe("api")
        assert found.events == []
        assert found.ready == 3


async def test_hostile_text_comes_out_tame(tmp_path: Path) -> None:
    def poison(answer: Any) -> None:
        answer["spec"]["template"]["spec"]["containers"][0]["image"] = (
            "x\x1b[31m\u202ey" + "z" * 999
        )
        for one in answer["status"]["conditions"]:
            one["message"] = "a\x00b\u200bc" + "d" * 5_000

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/deployments/api", changed(poison))
        found = await place.platform.describe("api")
        shown = found.model_dump_json()
        assert all(bad not in shown for bad in ("\\u001b", "\\u202e", "\\u200b", "\\u0000"))
        assert len(shown) < 4_000


async def logs(place: Lab, name: str = "api", **wanted: Any) -> DeploymentLogs:
    options: dict[str, Any] = {"since_minutes": 60, "tail": 100, "grep": "", "level": ""}
    return await place.platform.logs(name, **{**options, "previous": False, **wanted})


async def test_logs_of_all_instances_are_merged_by_time_and_tame(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        found = await logs(place, tail=30)
        assert len(found.items) == 30
        assert found.truncated
        assert found.matched == 90
        times = [line.at or "" for line in found.items]
        assert times == sorted(times)
        assert len({line.instance for line in found.items}) == 3
        slow = next(line for line in found.items if "slow query" in line.text)
        assert slow.text.startswith("level=warn msg=")
        assert found.searched == "the last 60 minutes, at most 30 lines of each of 3 containers"


async def test_level_and_literal_narrow_the_log_in_any_case(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        errors = await logs(place, level="error")
        assert errors.items
        assert all("level=error" in line.text for line in errors.items)
        warned = await logs(place, level="warn")
        assert any("slow query" in line.text for line in warned.items)
        either = await logs(place, grep="SLOW query|cache refreshed")
        assert {"slow" in line.text or "cache" in line.text for line in either.items} == {True}
        assert (await logs(place, grep=".*")).items == []
        assert (await logs(place, grep="(a+)+$")).matched == 0


async def test_previous_run_is_read_and_instances_without_one_are_named(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        await place.until("api", lambda found: found.problem == "crash_loop")
        found = await logs(place, previous=True)
        assert any("KeyError" in line.text for line in found.items)
        assert "no such log: api-" in found.searched
        none = await logs(place, "web", previous=True)
        assert none.items == []
        assert "no such log: web-" in none.searched


async def test_long_logs_keep_the_newest_lines_and_say_so(tmp_path: Path) -> None:
    asked: list[str] = []

    async def long(app: Any, scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        asked.append(query)
        count = int(query.rpartition("tailLines=")[2])
        stamp = "2026-01-01T00:00:00.000000000Z"
        lines = [f"{stamp} {n} {'x' * 30_000}\n" for n in range(100)][-count:]
        await answering(200, "".join(lines).encode()[: 1024 * 1024])(app, scope, receive, send)

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/log", *[long] * 2)
        found = await logs(place, "statefulset/postgres")
        assert found.items[-1].text.startswith("99 ")
        assert "only the newest part" in found.searched
        assert found.truncated
        assert len(found.model_dump_json()) < 16_384
        assert [query.rpartition("=")[2] for query in asked] == ["100", "10"]


async def test_one_broken_node_is_named_and_all_broken_is_an_error(tmp_path: Path) -> None:
    dead = answering(500, {"kind": "Status", "message": "dial tcp 10.0.0.7:10250: refused"})
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/log", dead)
        found = await logs(place)
        assert "could not be read: api-" in found.searched
        assert found.items
        assert found.truncated
        place.between.inject("GET", "/log", dead, dead, dead)
        with pytest.raises(UpstreamBroken):
            await logs(place)


async def test_lines_without_a_time_stay_with_the_line_before(tmp_path: Path) -> None:
    body = b"2026-01-01T00:00:01.5Z first\n  at \xff\xfe\n2026-01-01T00:00:02Z second\n"
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/log", answering(200, body))
        found = await logs(place, "statefulset/postgres")
        assert [line.text.split()[0] for line in found.items] == ["first", "at", "second"]
        assert found.items[0].at == "2026-01-01T00:00:01.500Z"


async def test_all_containers_are_read_and_prefixed(tmp_path: Path) -> None:
    def two(answer: Any) -> None:
        for pod in answer["items"]:
            pod["spec"]["containers"].append({"name": "sidecar"})
            pod["spec"]["initContainers"] = [{"name": "migrate"}]
            pod["status"]["conditions"] = [{"type": "Initialized", "status": "False"}]

    said = answering(200, b"2026-01-01T00:00:01Z hello\n")
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(two))
        place.between.inject("GET", "/log", said, said, said)
        found = await logs(place, "statefulset/postgres")
        assert {line.instance for line in found.items} == {
            "postgres-0/postgres",
            "postgres-0/sidecar",
            "postgres-0/migrate",
        }


async def test_more_containers_than_are_read_are_told(tmp_path: Path) -> None:
    def many(answer: Any) -> None:
        answer["items"][0]["spec"]["containers"] = [{"name": f"c{n}"} for n in range(30)]

    said = answering(200, b"2026-01-01T00:00:01Z hello\n")
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(many))
        place.between.inject("GET", "/log", *[said] * 20)
        found = await logs(place, "statefulset/postgres")
        assert found.matched == 20
        assert "the other 10 containers were not read" in found.searched


async def test_answers_of_the_wrong_shape_read_as_absent(tmp_path: Path) -> None:
    def mangle(answer: Any) -> None:
        answer["status"] = ["no"]
        answer["spec"] = {"replicas": "three", "template": None, "selector": {"matchLabels": 7}}
        answer["metadata"].update(annotations="x", generation=True)

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/deployments/api", changed(mangle))
        found = await place.platform.describe("api")
        assert (found.desired, found.ready, found.instances) == (1, 0, [])
        json.loads(found.model_dump_json())


async def test_token_of_the_target_is_known_to_the_redactor(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await place.platform.ping()
        assert TOKEN not in place.redactor.text(f"it said {TOKEN} aloud")
