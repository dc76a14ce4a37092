"""The wire contract of the lab's Kubernetes API server: what a client sends and reads."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn

from mcp_ops.lab.kubernetes.api import kubernetes
from mcp_ops.lab.standin import StandIn

SHOP = "/apis/apps/v1/namespaces/shop"
API = f"{SHOP}/deployments/api"
PODS = "/api/v1/namespaces/shop/pods"
MAPS = "/api/v1/namespaces/shop/configmaps"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in and a client of it."""

    http: httpx2.AsyncClient
    stand_in: StandIn

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.http.get(path, params=params)).json()

    async def patch(self, path: str, patch: Any, kind: str = MERGE, **params: Any) -> Any:
        return await self.http.patch(
            path, content=json.dumps(patch), headers={"content-type": kind}, params=params
        )

    def writes(self) -> list[dict[str, Any]]:
        return [line for line in self.stand_in.log.read() if line["effect"].startswith("client.")]


@asynccontextmanager
async def served(directory: Path, **options: Any) -> AsyncIterator[Lab]:
    stand_in = kubernetes(directory=directory, **{"settle_s": 0.02, **options})
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(stand_in.app, log_level="warning", lifespan="on"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(functools.partial(server.serve, sockets=[listener]))
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.01)
        async with httpx2.AsyncClient(base_url=url) as http:
            yield Lab(http=http, stand_in=stand_in)
        server.should_exit = True


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c1", "image": "one:1"}, {"name": "c2", "image": "two:1"}]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


def told(answer: Any) -> tuple[int, str]:
    body = answer.json()
    assert body["kind"] == "Status"
    assert body["code"] == answer.status_code
    return answer.status_code, body["reason"]


async def test_discovery_names_version_groups_and_resources(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        assert (await lab.get("/version"))["gitVersion"].startswith("v1.")
        assert (await lab.get("/api"))["versions"] == ["v1"]
        assert "apps" in [group["name"] for group in (await lab.get("/apis"))["groups"]]
        apps = {one["name"] for one in (await lab.get("/apis/apps/v1"))["resources"]}
        assert {"deployments/scale", "deployments/status", "daemonsets"} <= apps
        core = {one["name"] for one in (await lab.get("/api/v1"))["resources"]}
        assert {"pods", "pods/log", "events", "namespaces"} <= core
        unknown = await lab.http.get(f"{SHOP}/wat")
        assert (unknown.status_code, unknown.text) == (404, "404 page not found\n")


async def test_created_deployment_gets_defaults_and_an_identity(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        answer = await lab.http.post(
            f"{SHOP}/deployments", json=deployment("d1"), params={"fieldManager": "tests"}
        )
        made = answer.json()
        assert answer.status_code == 201
        assert made["spec"]["strategy"]["type"] == "RollingUpdate"
        assert made["metadata"]["generation"] == 1
        assert made["metadata"]["uid"]
        assert made["metadata"]["managedFields"][0]["manager"] == "tests"
        again = await lab.http.post(f"{SHOP}/deployments", json=deployment("d1"))
        assert told(again) == (409, "AlreadyExists")
        assert [line["verb"] for line in lab.writes()] == ["create"]


async def test_objects_that_cannot_be_are_refused_with_their_causes(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        path = f"{SHOP}/deployments"
        refused = await lab.http.post(path, json=deployment("d1", replicas=-1))
        assert told(refused) == (422, "Invalid")
        assert refused.json()["details"]["causes"][0]["field"] == "spec.replicas"
        other = deployment("d1", selector={"matchLabels": {"app": "x"}})
        assert told(await lab.http.post(path, json=other)) == (422, "Invalid")
        moved = {"spec": {"selector": {"matchLabels": {"app": "x"}}}}
        assert told(await lab.patch(API, moved)) == (422, "Invalid")
        assert told(await lab.http.post(path, content="{bad")) == (400, "BadRequest")
        wrong = {"spec": {"replicas": "three"}}
        assert told(await lab.patch(API, wrong)) == (400, "BadRequest")
        strict = await lab.patch(API, {"spec": {"zzz": 1}}, fieldValidation="Strict")
        assert told(strict) == (400, "BadRequest")
        assert 'unknown field "spec.zzz"' in strict.json()["message"]
        assert told(await lab.patch(API, {}, "application/foo")) == (415, "UnsupportedMediaType")
        assert lab.writes() == []


async def test_missing_objects_are_named(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        missing = await lab.http.get(f"{SHOP}/deployments/nope")
        assert told(missing) == (404, "NotFound")
        assert missing.json()["message"] == 'deployments.apps "nope" not found'
        elsewhere = "/apis/apps/v1/namespaces/nowhere/deployments"
        lost = await lab.http.post(elsewhere, json=deployment("d1"))
        assert lost.json()["message"] == 'namespaces "nowhere" not found'
        gone = await lab.http.post(f"{PODS}/none/eviction", json={})
        assert told(gone) == (404, "NotFound")
        assert told(await lab.http.post(API, json={})) == (405, "MethodNotAllowed")


async def test_three_patch_types_change_what_they_say(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        await lab.http.post(f"{SHOP}/deployments", json=deployment("d1"))
        path = f"{SHOP}/deployments/d1"
        new = {"spec": {"template": {"spec": {"containers": [{"name": "c1", "image": "one:2"}]}}}}
        strategic = (await lab.patch(path, new, STRATEGIC)).json()
        images = [c["image"] for c in strategic["spec"]["template"]["spec"]["containers"]]
        assert images == ["one:2", "two:1"]
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "one:3"
        merged = (await lab.patch(path, new)).json()
        images = [c["image"] for c in merged["spec"]["template"]["spec"]["containers"]]
        assert images == ["one:3"]
        replace = [{"op": "replace", "path": "/spec/replicas", "value": 3}]
        replaced = (await lab.patch(path, replace, JSON_PATCH)).json()
        assert replaced["spec"]["replicas"] == 3
        assert replaced["metadata"]["generation"] == 4
        test = [{"op": "test", "path": "/spec/replicas", "value": 9}, *replace]
        assert told(await lab.patch(path, test, JSON_PATCH)) == (422, "Invalid")
        assert lab.writes()[-1]["changed"] == {"spec.replicas": 3}


async def test_dry_runs_and_patches_without_a_change_leave_no_trace(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        before = await lab.get(API)
        dry = await lab.patch(API, {"spec": {"replicas": 7}}, dryRun="All")
        assert dry.json()["spec"]["replicas"] == 7
        assert (await lab.http.delete(API, params={"dryRun": "All"})).status_code == 200
        same = await lab.patch(API, {"spec": {"replicas": 3}})
        assert same.json()["metadata"]["generation"] == 1
        assert await lab.get(API) == before
        assert lab.writes() == []


async def test_stale_versions_conflict(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        seen = await lab.get(API)
        annotated = {"metadata": {"annotations": {"x": "1"}}}
        changed = (await lab.patch(API, annotated)).json()
        assert changed["metadata"]["generation"] == seen["metadata"]["generation"]
        seen["spec"]["replicas"] = 2
        refused = await lab.http.put(API, json=seen)
        assert told(refused) == (409, "Conflict")
        assert refused.json()["message"].startswith("Operation cannot be fulfilled on deployments")
        version = seen["metadata"]["resourceVersion"]
        locked = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 2}}
        assert told(await lab.patch(API, locked)) == (409, "Conflict")
        version = changed["metadata"]["resourceVersion"]
        current = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 2}}
        assert (await lab.patch(API, current)).status_code == 200
        gone = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        answer = await lab.http.request("DELETE", API, json=gone)
        assert told(answer) == (409, "Conflict")


async def test_scale_and_status_change_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        scaled = (await lab.patch(f"{API}/scale", {"spec": {"replicas": 5}})).json()
        assert (scaled["kind"], scaled["spec"]["replicas"]) == ("Scale", 5)
        assert scaled["status"]["selector"] == "app=api"
        assert (await lab.get(API))["spec"]["replicas"] == 5
        both = {"status": {"readyReplicas": 1}, "spec": {"replicas": 77}}
        assert (await lab.patch(f"{API}/status", both)).json()["spec"]["replicas"] == 5
        scale = next(line for line in lab.writes() if line["effect"] == "client.scale")
        assert (scale["name"], scale["changed"]) == ("api", {"spec.replicas": 5})


async def test_pages_show_one_moment_and_count_what_remains(tmp_path: Path) -> None:
    async with served(tmp_path, settle_s=0.1) as lab:
        await lab.patch(f"{SHOP}/deployments/web/scale", {"spec": {"replicas": 500}})
        found: list[Any] = []
        with anyio.fail_after(10):
            while len(found) < 500:
                await anyio.sleep(0.05)
                found = (await lab.get(PODS, labelSelector="app=web"))["items"]
        names = [one["metadata"]["name"] for one in (await lab.get(PODS))["items"]]
        seen: list[str] = []
        token, pages = "", 0
        while token or not pages:
            page = await lab.get(PODS, limit=120, **({"continue": token} if token else {}))
            seen += [one["metadata"]["name"] for one in page["items"]]
            token = page["metadata"].get("continue", "")
            pages += 1
            assert page["metadata"].get("remainingItemCount", 0) == len(names) - len(seen)
            await lab.http.delete(f"{PODS}/{names[-1]}", params={"gracePeriodSeconds": 0})
        assert (len(names), seen, pages) == (513, names, 5)
        counted = await lab.get(PODS, limit=10, labelSelector="app=web")
        assert "remainingItemCount" not in counted["metadata"]
        bad = await lab.http.get(PODS, params={"limit": 3, "continue": "zzz"})
        assert told(bad) == (400, "BadRequest")


async def test_selectors_narrow_a_list(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        path = f"{SHOP}/deployments"

        async def names(**params: str) -> list[str]:
            found = await lab.get(path, **params)
            return [one["metadata"]["name"] for one in found["items"]]

        assert await names(labelSelector="app=api") == ["api"]
        assert await names(labelSelector="app in (api,web),app!=web") == ["api"]
        assert await names(labelSelector="app notin (api)") == ["web", "worker"]
        assert await names(labelSelector="!app") == []
        assert await names(fieldSelector="metadata.name=web") == ["web"]
        for params in ({"labelSelector": "a in"}, {"fieldSelector": "spec.replicas=3"}):
            assert told(await lab.http.get(path, params=params)) == (400, "BadRequest")
        running = await lab.get(PODS, fieldSelector="status.phase=Running")
        assert len(running["items"]) == 12
        assert "kind" not in running["items"][0]


async def test_lists_come_as_tables_and_as_metadata(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        form = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
        shown = (await lab.http.get(f"{SHOP}/deployments", headers=form)).json()
        assert [c["name"] for c in shown["columnDefinitions"]][:3] == [
            "Name",
            "Ready",
            "Up-to-date",
        ]
        assert shown["rows"][0]["cells"][:2] == ["api", "3/3"]
        form = {"accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
        bare = (await lab.http.get(f"{SHOP}/deployments", headers=form)).json()
        assert bare["kind"] == "PartialObjectMetadataList"
        refused = await lab.http.get(API, headers={"accept": "application/yaml"})
        assert told(refused) == (406, "NotAcceptable")


async def test_watch_tells_changes_and_refuses_a_forgotten_version(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        version = (await lab.get(MAPS))["metadata"]["resourceVersion"]
        await lab.http.post(MAPS, json={"metadata": {"generateName": "m-"}})
        name = (await lab.get(MAPS))["items"][0]["metadata"]["name"]
        await lab.patch(f"{MAPS}/{name}", {"data": {"a": "b"}})
        await lab.http.delete(f"{MAPS}/{name}")
        params = {"watch": "1", "resourceVersion": version, "timeoutSeconds": 1}
        with anyio.fail_after(5):
            text = (await lab.http.get(MAPS, params=params)).text
            types = [json.loads(line)["type"] for line in text.splitlines()]
            assert types == ["ADDED", "MODIFIED", "DELETED"]
            text = (await lab.http.get(MAPS, params={**params, "resourceVersion": "1"})).text
        assert json.loads(text)["object"]["code"] == 410


async def test_finalizers_keep_an_object_until_they_are_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        kept = {"metadata": {"name": "kept", "finalizers": ["x.y/z"]}}
        await lab.http.post(MAPS, json=kept)
        await lab.http.delete(f"{MAPS}/kept")
        assert (await lab.get(f"{MAPS}/kept"))["metadata"]["deletionTimestamp"]
        await lab.patch(f"{MAPS}/kept", {"metadata": {"finalizers": None}})
        assert (await lab.http.get(f"{MAPS}/kept")).status_code == 404


async def test_restricted_namespace_is_forbidden_in_the_words_of_rbac(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        refused = await lab.http.get("/apis/apps/v1/namespaces/restricted/deployments/vault")
        assert told(refused) == (403, "Forbidden")
        assert refused.json()["message"] == (
            'deployments.apps "vault" is forbidden: User "system:serviceaccount:mcp-ops:operator" '
            'cannot get resource "deployments" in API group "apps" in the namespace "restricted"'
        )
        everywhere = await lab.http.get("/api/v1/pods")
        assert told(everywhere) == (403, "Forbidden")
        assert everywhere.json()["message"].endswith('in API group "" at the cluster scope')


async def test_token_decides_who_is_let_in(tmp_path: Path) -> None:
    async with served(tmp_path / "a", token="right") as lab:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            assert told(await lab.http.get(API, headers=headers)) == (401, "Unauthorized")
        headers = {"authorization": "Bearer right"}
        assert (await lab.http.get(API, headers=headers)).status_code == 200
    async with served(tmp_path / "b") as lab:
        answer = await lab.http.get(API, headers={"authorization": "Bearer nope"})
        assert told(answer) == (401, "Unauthorized")


async def test_reviews_tell_what_the_caller_may_do(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        base = "/apis/authorization.k8s.io/v1"

        async def allowed(verb: str, namespace: str) -> bool:
            asked = {"verb": verb, "resource": "deployments", "namespace": namespace}
            review = {"spec": {"resourceAttributes": asked}}
            answer = await lab.http.post(f"{base}/selfsubjectaccessreviews", json=review)
            assert answer.status_code == 201
            return bool(answer.json()["status"]["allowed"])

        assert await allowed("patch", "shop")
        assert not await allowed("get", "restricted")
        lab.stand_in.inject("forbid")
        assert not await allowed("patch", "shop")
        rules = {"spec": {"namespace": "shop"}}
        answer = await lab.http.post(f"{base}/selfsubjectrulesreviews", json=rules)
        granted = answer.json()["status"]["resourceRules"]
        assert ["get", "list", "watch"] in [rule["verbs"] for rule in granted]


async def test_throttle_and_forbid_are_in_force_until_mended(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("throttle")
        shed = await lab.http.get(API)
        assert told(shed) == (429, "TooManyRequests")
        assert shed.headers["retry-after"] == "1"
        lab.stand_in.mend("throttle")
        lab.stand_in.inject("forbid")
        assert (await lab.http.get(API)).status_code == 200
        refused = await lab.patch(f"{API}/scale", {"spec": {"replicas": 1}})
        assert told(refused) == (403, "Forbidden")
        assert 'cannot patch resource "deployments/scale"' in refused.json()["message"]
        lab.stand_in.mend("forbid")
        assert (await lab.patch(f"{API}/scale", {"spec": {"replicas": 1}})).status_code == 200
        with pytest.raises(KeyError):
            lab.stand_in.inject("no-such-fault")
