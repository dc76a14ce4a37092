"""Lists of large namespaces: counted page by page, bounded, and honest about what was left out."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.capabilities.deployments import Deployment
from mcp_ops.clock import ManualClock
from mcp_ops.errors import BadAnswer
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from tests.kubernetes_lab import (
    STEP_S,
    TOKEN,
    Between,
    answering,
    broken,
    changed,
    lab,
    served,
    wiring,
)

PODS = "/api/v1/namespaces/shop/pods"
GONE = answering(410, {"kind": "Status", "reason": "Expired", "message": "too old"})


def restarted(times: int) -> Any:
    def change(answer: Any) -> None:
        for pod in answer["items"]:
            pod["status"]["containerStatuses"][0]["restartCount"] = times

    return change


async def items(platform: KubernetesAdapter, limit: int = 20) -> dict[str, Deployment]:
    page = await platform.list_workloads(limit=limit, cursor="")
    return {item.name: item for item in page.items}


async def test_restarts_are_summed_by_workload_in_one_request(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", PODS, changed(restarted(2)))
        found = await items(place.platform)
        counts = {name: item.restarts for name, item in found.items()}
        assert counts["api"] == 6
        assert counts["statefulset/postgres"] == 2
        assert counts["daemonset/agent"] == 4
        assert len(place.between.seen) == 4


async def test_what_pods_suffer_from_comes_before_what_the_status_counts(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("unschedulable")
        place.stand_in.inject("image-pull")
        await place.until("worker", lambda found: found.problem == "unschedulable")
        await place.until("web", lambda found: found.problem == "image_pull")
        found = await items(place.platform)
        assert (found["worker"].problem, found["web"].problem) == ("unschedulable", "image_pull")
        assert found["api"].problem == "none"


async def test_pods_that_may_not_be_read_leave_restarts_out(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        no = answering(403, {"kind": "Status", "message": "forbidden"})
        place.between.inject("GET", PODS, no)
        page = await place.platform.list_workloads(limit=20, cursor="")
        assert {item.restarts for item in page.items} == {None}
        assert "not pods (no permission)" in page.searched


async def test_crowded_namespace_is_counted_workload_by_workload(tmp_path: Path) -> None:
    def more(answer: Any) -> None:
        answer["metadata"]["continue"] = "more-that-is-not-wanted"

    async with lab(tmp_path) as place:
        place.between.inject("GET", PODS, changed(more))
        found = await items(place.platform)
        assert {item.restarts for item in found.values()} == {0}
        selected = [query for query in place.between.queries if "labelSelector" in query]
        assert len(selected) == len(found)
        assert all("resourceVersion=0" in query for query in selected)


async def test_count_that_takes_too_long_stops_and_says_so(tmp_path: Path) -> None:
    clock = ManualClock()

    def more(answer: Any) -> None:
        answer["metadata"]["continue"] = "more-that-is-not-wanted"

    async def slow(app: Any, scope: Any, receive: Any, send: Any) -> None:
        clock.advance(30)
        await app(scope, receive, send)

    async with lab(tmp_path) as place:
        place.between.inject("GET", PODS, changed(more), *[slow] * 9)
        settings = KubernetesSettings(kubeconfig=str(tmp_path / "kubeconfig"))
        async with KubernetesAdapter.open(settings, wiring(tmp_path, clock=clock)) as platform:
            page = await platform.list_workloads(limit=20, cursor="")
        counted = [item for item in page.items if item.restarts is not None]
        assert 1 <= len(counted) < len(page.items)
        assert "too many to count" in page.searched


def large(answer: Any) -> None:
    answer["items"] = [one for one in answer["items"] if one["metadata"]["name"] == "api"]
    answer["items"][0]["spec"]["replicas"] = 600


def paged(token: str = "") -> Any:
    def change(answer: Any) -> None:
        restarted(1)(answer)
        answer["metadata"]["continue"] = token

    return changed(change)


def crowd(answer: Any) -> None:
    answer["metadata"]["continue"] = "there-is-more"
    answer["items"] = [{"metadata": {}}] * 20_000


endless = changed(crowd)


@pytest.mark.parametrize(
    ("faults", "restarts", "said"),
    [
        ([paged("a"), paged("b"), paged()], 9, ""),
        ([paged("a"), GONE, paged("b"), paged()], 6, ""),
        ([paged("a"), GONE, paged("b"), GONE], None, "changed faster"),
        ([paged("a"), broken], None, "did not answer"),
        ([endless, paged()], None, "too many to count"),
    ],
    ids=["three-pages", "expired-once", "expired-twice", "lost", "too-many"],
)
async def test_pages_of_one_large_workload_are_summed_or_begun_again(
    tmp_path: Path, faults: list[Any], restarts: int | None, said: str
) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/deployments", changed(large))
        place.between.inject("GET", "/namespaces/shop/statefulsets", changed(nothing))
        place.between.inject("GET", "/namespaces/shop/daemonsets", changed(nothing))
        # What a token of another server means is not the stand-in's to know.
        place.between.inject("GET", PODS, *(without_token(fault) for fault in faults))
        page = await place.platform.list_workloads(limit=1, cursor="")
        assert [item.restarts for item in page.items] == [restarts]
        assert said in page.searched


def nothing(answer: Any) -> None:
    answer["items"] = []


def without_token(fault: Any) -> Any:
    async def asked(app: Any, scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].split(b"&continue=")[0]
        await fault(app, {**scope, "query_string": query}, receive, send)

    return asked


@asynccontextmanager
async def fleet(tmp_path: Path, pods: int) -> AsyncIterator[tuple[KubernetesAdapter, Between]]:
    stand_in = kubernetes(directory=tmp_path, token=TOKEN, settle_s=STEP_S, fleet=pods)
    between = Between(stand_in.app)
    async with served(between) as url:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(url, TOKEN, "fleet"), encoding="utf-8")
        settings = KubernetesSettings(kubeconfig=str(path))
        async with KubernetesAdapter.open(settings, wiring(tmp_path)) as platform:
            yield platform, between


async def test_page_of_a_large_fleet_costs_what_it_shows(tmp_path: Path) -> None:
    async with fleet(tmp_path, 1_600) as (platform, between):
        page = await platform.list_workloads(limit=200, cursor="")
        assert len(page.items) == 70
        assert page.truncated
        assert len(between.seen) == 1 + 70
        ailing = {item.name: item.problem for item in page.items if item.problem != "none"}
        assert {"crash_loop", "image_pull", "unschedulable"} <= set(ailing.values())
        killed = next(item for item in page.items if item.name == "app-011")
        assert killed.restarts == 3
        assert all(item.restarts is not None for item in page.items)
        again = await platform.list_workloads(limit=200, cursor=page.next_cursor)
        assert len({item.name for item in page.items + again.items}) == 80


async def test_replica_sets_are_read_as_metadata_only(tmp_path: Path) -> None:
    accepted: list[bytes] = []

    async def heard(app: Any, scope: Any, receive: Any, send: Any) -> None:
        accepted.append(dict(scope["headers"])[b"accept"])
        await app(scope, receive, send)

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/replicasets", heard)
        found = await place.platform.describe("api")
        assert len(found.instances) == 3
        assert found.last_deploy is not None
    assert accepted[0].startswith(b"application/json;as=PartialObjectMetadataList")


def folded(body: bytes) -> Any:
    return answering(200, body, {"Content-Encoding": "gzip"})


async def test_compressed_list_is_unfolded_within_its_bound(tmp_path: Path) -> None:
    listed = json.dumps({"kind": "DeploymentList", "items": []}).encode()
    bomb = gzip.compress(b'{"kind":"' + b" " * (64 * 1024 * 1024), compresslevel=1)
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/deployments", folded(gzip.compress(listed)))
        await place.platform.ping()
        for body in (gzip.compress(listed)[:-12], b"no gzip", bomb):
            place.between.inject("GET", "/deployments", folded(body))
            with pytest.raises(BadAnswer):
                await place.platform.ping()
