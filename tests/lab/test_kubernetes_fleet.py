"""The large world of the lab's Kubernetes, read by page, in pieces, from another process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import httpx2

from tests.lab.kubernetes_serving import Lab, served, told

PODS = "/api/v1/namespaces/fleet/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/fleet/deployments"
PARTIAL = {"accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}


async def pages(lab: Lab, limit: int, **params: Any) -> list[list[Any]]:
    found: list[list[Any]] = []
    token = ""
    while token or not found:
        more = {"continue": token} if token else {}
        page = await lab.get(PODS, limit=limit, **params, **more)
        found.append(page["items"])
        token = page["metadata"].get("continue", "")
    return found


async def test_pages_show_every_pod_once_and_in_order(tmp_path: Path) -> None:
    async with served(tmp_path, fleet=1_000) as lab:
        found = await pages(lab, 300)
        names = [pod["metadata"]["name"] for page in found for pod in page]
        assert [len(page) for page in found] == [300, 300, 300, 100]
        assert names == sorted(set(names))
        first = await lab.get(PODS, limit=300)
        assert first["metadata"]["remainingItemCount"] == 700
        whole = await lab.get(PODS)
        assert [pod["metadata"]["name"] for pod in whole["items"]] == names
        one = await lab.get(f"{PODS}/{names[70]}")
        assert (one["kind"], one["metadata"]) == ("Pod", whole["items"][70]["metadata"])
        assert told(await lab.http.get(f"{PODS}/nope")) == (404, "NotFound")
        assert told(await lab.http.get(PODS, params={"continue": "zzz"})) == (400, "BadRequest")


async def test_lists_are_narrowed_and_come_as_metadata(tmp_path: Path) -> None:
    async with served(tmp_path, fleet=1_000) as lab:
        owner = (await lab.get(DEPLOYMENTS, labelSelector="app=app-003"))["items"][0]
        assert owner["status"]["unavailableReplicas"] == 3
        pods = (await lab.get(PODS, labelSelector="app=app-003"))["items"]
        assert len(pods) == 20
        waits = [pod["status"]["containerStatuses"][0]["state"].get("waiting") for pod in pods]
        assert [one["reason"] for one in waits if one] == ["CrashLoopBackOff"] * 3
        team = await pages(lab, 7, labelSelector="team=team-3")
        assert [len(page) for page in team] == [7] * 8 + [4]
        failed = (await lab.get(PODS, fieldSelector="status.phase=Failed"))["items"]
        assert [pod["status"]["reason"] for pod in failed] == ["Evicted"] * 3
        bare = (await lab.http.get(PODS, headers=PARTIAL, params={"limit": 10})).json()
        assert (bare["kind"], len(bare["items"])) == ("PartialObjectMetadataList", 10)
        assert set(bare["items"][0]) == {"kind", "apiVersion", "metadata"}
        usage = (await lab.get("/apis/metrics.k8s.io/v1beta1/namespaces/fleet/pods"))["items"]
        phases = Counter(pod["status"]["phase"] for pod in (await lab.get(PODS))["items"])
        assert (len(usage), phases["Running"], phases["Pending"]) == (991, 991, 6)
        events = (await lab.get("/api/v1/namespaces/fleet/events"))["items"]
        assert len(events) == 15


async def test_the_fleet_is_there_to_be_read(tmp_path: Path) -> None:
    async with served(tmp_path, fleet=100) as lab:
        name = (await lab.get(PODS, limit=1))["items"][0]["metadata"]["name"]
        log = await lab.http.get(f"{PODS}/{name}/log", params={"tailLines": 2})
        assert len(log.text.splitlines()) == 2
        assert (await lab.get(f"{DEPLOYMENTS}/app-000/scale"))["spec"]["replicas"] == 20
        for refused in (
            await lab.http.delete(f"{PODS}/{name}"),
            await lab.patch(f"{DEPLOYMENTS}/app-000", {"spec": {"replicas": 1}}),
        ):
            assert told(refused) == (405, "MethodNotAllowed")
        with anyio.fail_after(20):
            params = {"watch": "true", "timeoutSeconds": "1", "labelSelector": "app=app-001"}
            text = (await lab.http.get(PODS, params=params)).text
        assert [json.loads(line)["type"] for line in text.splitlines()] == ["ADDED"] * 20
        assert lab.effects() == []
    async with served(tmp_path / "b") as lab:
        assert (await lab.get(PODS))["items"] == []


def test_ten_thousand_pods_are_served_by_a_process_of_their_own(tmp_path: Path) -> None:
    module = "mcp_ops.lab.kubernetes.serve"
    command = [sys.executable, "-m", module, "--directory", str(tmp_path), "--fleet", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())
            assert Path(where["kubeconfig"]).read_text(encoding="utf-8").startswith("apiVersion")
            headers = {"authorization": "Bearer lab-token"}
            with httpx2.Client(base_url=where["url"], headers=headers, timeout=30) as http:
                page = http.get(PODS, params={"limit": 500}).json()
                assert page["metadata"]["remainingItemCount"] == 9_500
                assert http.get(DEPLOYMENTS, headers=PARTIAL).text.count('"uid"') == 500
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
