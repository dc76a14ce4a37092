"""Awkward answers, server-side apply and roles of the lab's Kubernetes API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_ops.lab.kubernetes.roles import NOBODY, READER, WRITER, Role, Rule
from mcp_ops.lab.kubernetes.wirefaults import WireFaults
from tests.lab.kubernetes_serving import APPS, BATCH, CORE, Lab, served, told

API = f"{APPS}/deployments/api"
MAPS = f"{CORE}/configmaps"
APPLY = "application/apply-patch+yaml"
TWO = {"spec": {"replicas": 2}}


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("conflict", 409, "Conflict"),
        ("apply-conflict", 409, "Conflict"),
        ("invalid", 422, "Invalid"),
        ("internal", 500, "InternalError"),
        ("unavailable", 503, "ServiceUnavailable"),
    ],
)
async def test_refused_requests_are_not_done_and_the_next_one_is(
    tmp_path: Path, fault: str, code: int, reason: str
) -> None:
    wire = WireFaults()
    async with served(tmp_path, wire=wire) as lab:
        wire.arm(fault, times=2, methods=("PATCH",), path="/deployments/api")
        for _ in range(2):
            refused = await lab.patch(API, TWO)
            assert told(refused) == (code, reason)
        assert lab.effects() == []
        assert (await lab.patch(API, TWO)).json()["spec"]["replicas"] == 2
        assert wire.met == [(fault, "PATCH", API)] * 2
        if fault in ("invalid", "apply-conflict"):
            assert refused.json()["details"]["causes"][0]["field"]


async def test_creation_meets_a_name_that_is_taken(tmp_path: Path) -> None:
    wire = WireFaults()
    async with served(tmp_path, wire=wire) as lab:
        wire.arm("exists")
        assert (await lab.http.get(API)).status_code == 200
        answer = await lab.http.post(MAPS, json={"metadata": {"name": "a"}})
        assert told(answer) == (409, "AlreadyExists")
        with pytest.raises(KeyError):
            wire.arm("no-such-fault")


async def test_overload_is_told_in_text_with_a_time_to_wait(tmp_path: Path) -> None:
    wire = WireFaults()
    async with served(tmp_path, wire=wire) as lab:
        wire.arm("overload", retry_after_s=3)
        shed = await lab.http.get(API)
        assert (shed.status_code, shed.headers["retry-after"]) == (429, "3")
        assert shed.headers["content-type"].startswith("text/plain")
        assert (await lab.http.get(API)).status_code == 200


async def test_old_pages_and_old_watches_are_expired(tmp_path: Path) -> None:
    wire = WireFaults()
    async with served(tmp_path, wire=wire) as lab:
        wire.arm("expired", times=2)
        page = await lab.get(f"{CORE}/pods", limit=2)
        token = {"limit": 2, "continue": page["metadata"]["continue"]}
        assert told(await lab.http.get(f"{CORE}/pods", params=token)) == (410, "Expired")
        version = page["metadata"]["resourceVersion"]
        watch = {"watch": "true", "resourceVersion": version, "timeoutSeconds": 1}
        answer = await lab.http.get(f"{CORE}/pods", params=watch)
        event = json.loads(answer.text)
        assert (answer.status_code, event["type"], event["object"]["code"]) == (200, "ERROR", 410)
        assert len((await lab.get(f"{CORE}/pods", **token))["items"]) == 2


@pytest.mark.parametrize("fault", ["cut", "lost", "timeout"])
async def test_answers_that_do_not_tell_come_after_the_effect(tmp_path: Path, fault: str) -> None:
    wire = WireFaults()
    async with served(tmp_path, wire=wire) as lab:
        wire.arm(fault)
        with anyio.fail_after(20):
            if fault == "timeout":
                assert told(await lab.patch(API, TWO)) == (504, "Timeout")
            else:
                with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadTimeout)):
                    await lab.http.patch(
                        API,
                        content=json.dumps(TWO),
                        headers={"content-type": "application/merge-patch+json"},
                        timeout=httpx2.Timeout(5, read=0.3),
                    )
        assert lab.effects()[0] == "client.patch"
        assert (await lab.get(API))["spec"]["replicas"] == 2


async def apply(lab: Lab, path: str, config: Any, manager: str, **params: str) -> Any:
    return await lab.patch(path, config, APPLY, fieldManager=manager, **params)


def config_map(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data}


async def test_applied_fields_belong_to_who_applied_them(tmp_path: Path) -> None:
    path = f"{MAPS}/s"
    async with served(tmp_path) as lab:
        made = await apply(lab, path, config_map(a="1", b="1"), "one")
        assert made.status_code == 201
        assert made.json()["metadata"]["managedFields"][0]["operation"] == "Apply"
        refused = await apply(lab, path, config_map(a="2"), "two")
        assert told(refused) == (409, "Conflict")
        assert (
            refused.json()["message"]
            == 'Apply failed with 1 conflict: conflict with "one": .data.a'
        )
        assert refused.json()["details"]["causes"] == [
            {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
        ]
        forced = await apply(lab, path, config_map(a="2"), "two", force="true")
        assert forced.json()["data"] == {"a": "2", "b": "1"}
        shared = await apply(lab, path, config_map(a="2", b="1"), "one")
        assert shared.status_code == 200
        less = await apply(lab, path, config_map(a="2"), "one")
        assert less.json()["data"] == {"a": "2"}
        version = less.json()["metadata"]["resourceVersion"]
        same = await apply(lab, path, config_map(a="2"), "one")
        assert same.json()["metadata"]["resourceVersion"] == version
        nobody = await lab.patch(path, config_map(a="3"), APPLY)
        assert told(nobody) == (422, "Invalid")
        effects = [one for one in lab.effects() if one.startswith("client.")]
        assert effects == ["client.create", "client.patch", "client.patch", "client.patch"]


async def test_an_application_meets_what_others_wrote_into_a_deployment(tmp_path: Path) -> None:
    image = "spec: {template: {spec: {containers: [{name: api, image: 'lab/shop-api:3'}]}}}"
    text = f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: api}}\n{image}\n"
    async with served(tmp_path) as lab:
        headers = {"content-type": APPLY}
        params = {"fieldManager": "mcp-ops"}
        refused = await lab.http.patch(API, content=text, headers=headers, params=params)
        cause = refused.json()["details"]["causes"][0]
        where = '.spec.template.spec.containers[name="api"].image'
        assert (refused.status_code, cause["field"]) == (409, where)
        assert cause["message"] == 'conflict with "delivery" using apps/v1'
        params["force"] = "true"
        done = await lab.http.patch(API, content=text, headers=headers, params=params)
        container = done.json()["spec"]["template"]["spec"]["containers"][0]
        assert (container["image"], container["env"][0]["name"]) == ("lab/shop-api:3", "LOG_LEVEL")
        assert done.json()["metadata"]["generation"] == 2
        bad = await lab.http.patch(API, content="{: x", headers=headers, params=params)
        assert told(bad) == (400, "BadRequest")


async def test_tokens_differ_in_what_they_may_do(tmp_path: Path) -> None:
    scaler = Role(
        user="system:serviceaccount:shop:scaler",
        rules=(
            Rule(
                groups=("apps",), resources=("deployments/scale",), verbs=("patch",), names=("api",)
            ),
        ),
    )
    roles = {"reads": READER, "writes": WRITER, "none": NOBODY, "scales": scaler}
    deny = "pods/log"
    async with served(tmp_path, token="all", roles=roles) as lab:
        pod = (await lab.pods("app=api"))[0]["metadata"]["name"]
        requests: list[tuple[str, str, Any]] = [
            ("GET", f"{CORE}/{deny.partition('/')[0]}/{pod}/log", None),
            ("GET", API, None),
            ("PATCH", f"{API}/scale", TWO),
            ("PATCH", f"{APPS}/deployments/web/scale", TWO),
            ("PATCH", API, {"spec": {"paused": False}}),
            ("PATCH", f"{BATCH}/cronjobs/report", {"spec": {"suspend": True}}),
            ("POST", f"{CORE}/pods/{pod}/eviction", {"kind": "Eviction"}),
            ("DELETE", f"{CORE}/pods/{pod}", None),
        ]

        async def codes(token: str) -> list[int]:
            found = []
            for method, path, body in requests:
                headers = {"authorization": f"Bearer {token}"}
                headers["content-type"] = (
                    "application/merge-patch+json" if method == "PATCH" else "application/json"
                )
                content = json.dumps(body) if body else None
                params = {"dryRun": "All"} if body or method == "DELETE" else {}
                answer = await lab.http.request(
                    method, path, content=content, headers=headers, params=params
                )
                found.append(answer.status_code)
            return found

        assert await codes("none") == [403] * 8
        assert await codes("reads") == [200, 200, *[403] * 6]
        assert await codes("writes") == [*[200] * 6, 403, 403]
        assert await codes("scales") == [403, 403, 200, *[403] * 5]
        assert await codes("all") == [*[200] * 6, 201, 200]
        assert await codes("wrong") == [401] * 8
        refused = await lab.http.delete(API, headers={"authorization": "Bearer reads"})
        assert (
            'User "system:serviceaccount:mcp-ops:reader" cannot delete' in refused.json()["message"]
        )


async def test_reviews_answer_for_the_token_that_asks(tmp_path: Path) -> None:
    base = "/apis/authorization.k8s.io/v1"
    async with served(tmp_path, roles={"reads": READER, "writes": WRITER}) as lab:

        async def allowed(token: str, verb: str, resource: str, sub: str = "") -> bool:
            asked = {"verb": verb, "resource": resource, "subresource": sub, "namespace": "shop"}
            asked["group"] = "" if resource == "pods" else "apps"
            review = {"spec": {"resourceAttributes": asked}}
            headers = {"authorization": f"Bearer {token}"}
            answer = await lab.http.post(
                f"{base}/selfsubjectaccessreviews", json=review, headers=headers
            )
            return bool(answer.json()["status"]["allowed"])

        assert await allowed("writes", "patch", "deployments", "scale")
        assert not await allowed("reads", "patch", "deployments", "scale")
        assert await allowed("reads", "get", "pods", "log")
        assert not await allowed("writes", "create", "pods", "eviction")
        rules = {"spec": {"namespace": "shop"}}
        headers = {"authorization": "Bearer writes"}
        answer = await lab.http.post(f"{base}/selfsubjectrulesreviews", json=rules, headers=headers)
        granted = answer.json()["status"]["resourceRules"]
        scale = [one for one in granted if "deployments/scale" in one["resources"]]
        assert ["patch", "update"] in [one["verbs"] for one in scale]
        assert told(await lab.http.get(API)) == (401, "Unauthorized")
