"""The settings of workloads, listed and set by the tools against the lab's Kubernetes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import Conflict, InvalidInput
from mcp_ops.tools.deployment_config import list_config, set_config
from tests.kubernetes_lab import Lab, answering, changed, lab, lost, write

SHOP = "/apis/apps/v1/namespaces/shop"
WORKER = f"{SHOP}/deployments/worker"
SECRET = {
    "kind": "Secret",
    "apiVersion": "v1",
    "metadata": {"name": "shop-db"},
    "data": {"url": base64.b64encode(b"postgres://shop:tr0mbone@db/shop").decode()},
}
DENIED = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": "no"}


async def listed(place: Lab, name: str = "worker", limit: int = 50, cursor: str = "") -> Any:
    return await list_config.function(place.platform, name, limit, cursor)


async def put(
    place: Lab,
    key: str,
    value: str = "",
    value_ref: str = "",
    overwrite: bool = False,
    name: str = "worker",
    **frame: Any,
) -> Any:
    with anyio.fail_after(20):
        return await set_config.function(
            place.platform, write(**frame), name, key, value, value_ref, overwrite, 45
        )


async def environment(place: Lab, path: str = WORKER) -> dict[str, Any]:
    found = await place.raw(path)
    container = found["spec"]["template"]["spec"]["containers"][0]
    return {one.pop("name"): one for one in container["env"]}


async def with_settings(place: Lab, env: list[Any], **container: Any) -> None:
    body = {"containers": [{"name": "worker", "env": env, **container}]}
    await place.patch(WORKER, {"spec": {"template": {"spec": body}}})


def secret(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key, **more}}


async def config_map(place: Lab, name: str, data: dict[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    answer = await place.http.post("/api/v1/namespaces/shop/configmaps", json=body)
    assert answer.status_code == 201, answer.text


async def test_values_are_masked_and_a_fingerprint_is_of_one_name(tmp_path: Path) -> None:
    env = [
        {"name": "REGION", "value": "eu-central-1"},
        {"name": "OTHER", "value": "eu-central-1"},
        {"name": "DB_PASSWORD", "value": "tr0mbone-and-flute"},
        {"name": "SMTP_PASS", "value": "tr0mbone"},
        {"name": "ADMIN_PIN", "value": "48151"},
        {"name": "EMPTY", "value": ""},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    async with lab(tmp_path) as place:
        await with_settings(place, env)
        page = await listed(place)
        items = {item.name: item for item in page.items}
        assert list(items) == sorted(items)
        assert items["REGION"].shown == "eu…"
        # Else a value tried under a name of one's own would tell whether a secret is that.
        assert len({items[key].fingerprint for key in ("REGION", "OTHER")} - {""}) == 2
        body = {"containers": [{"name": "agent", "env": env[:1]}]}
        agent = f"{SHOP}/daemonsets/agent"
        await place.patch(agent, {"spec": {"template": {"spec": body}}})
        elsewhere = {item.name: item for item in (await listed(place, "daemonset/agent")).items}
        assert elsewhere["REGION"].fingerprint == items["REGION"].fingerprint
        for key in ("DB_PASSWORD", "SMTP_PASS", "ADMIN_PIN"):
            assert items[key].shown == "[redacted]"
        assert items["EMPTY"].problem == "it is empty"
        assert (items["POD"].source, items["POD"].shown) == ("reference", "fieldRef: metadata.name")
        dumped = page.model_dump_json()
        assert "tr0mbone" not in dumped
        assert "central" not in dumped
        first = await listed(place, limit=2)
        rest = await listed(place, limit=50, cursor=first.next_cursor)
        assert [item.name for item in (*first.items, *rest.items)] == list(items)


async def test_missing_settings_and_broken_references_are_told(tmp_path: Path) -> None:
    required = {"worker": ("REGION", "LOG_LEVEL", "QUEUE")}
    env = [
        {"name": "DB_URL", "valueFrom": secret("shop-db", "url")},
        {"name": "DB_USER", "valueFrom": secret("shop-db", "user")},
        {"name": "OLD", "valueFrom": secret("gone", "x")},
        {"name": "SPARE", "valueFrom": secret("gone", "x", optional=True)},
    ]
    whole = [
        {"configMapRef": {"name": "common"}, "prefix": "C_"},
        {"configMapRef": {"name": "nowhere"}},
    ]
    async with lab(tmp_path, required_config=required) as place:
        await config_map(place, "common", {"QUEUE": "orders"})
        await with_settings(place, env, envFrom=whole)
        place.between.inject("GET", "/secrets/shop-db", answering(200, SECRET))
        page = await listed(place)
        items = {item.name: item for item in page.items}
        assert page.missing == ["QUEUE", "REGION"]
        assert (items["REGION"].source, items["REGION"].required) == ("missing", True)
        assert items["LOG_LEVEL"].required
        assert (items["DB_URL"].problem, items["DB_URL"].shown) == ("", "secret/shop-db/url")
        assert items["DB_URL"].fingerprint
        guessed = await put(
            place, "url", "postgres://shop@db/shop", overwrite=True, name="api", dry_run=True
        )
        plain = place.redactor.fingerprint("postgres://shop:tr0mbone@db/shop", of="url")
        assert items["DB_URL"].fingerprint not in (plain, guessed.evidence["fingerprint"])
        assert items["DB_USER"].problem == "the secret has no such key"
        assert items["OLD"].problem == "there is no secret of that name"
        assert items["SPARE"].problem == ""
        assert items["C_QUEUE"].shown == "configmap/common/QUEUE"
        assert items["*"].problem == "there is no configmap of that name"
        assert "tr0mbone" not in page.model_dump_json()


async def test_secrets_that_may_not_be_read_are_unknown_and_no_error(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await with_settings(place, [{"name": "DB_URL", "valueFrom": secret("shop-db", "url")}])
        place.between.inject("GET", "/secrets/", *[answering(403, DENIED)] * 3)
        (item, _) = (await listed(place)).items
        assert item.problem == "not known: the credential may not read secrets"
        planned = await put(place, "KEY", value_ref="secret/shop-db/key", dry_run=True)
        assert planned.plan[1].startswith("Whether secret/shop-db/key is there is not known")


async def test_no_more_secrets_are_looked_at_than_a_page_may_cost(tmp_path: Path) -> None:
    env = [{"name": f"N{n:02}", "valueFrom": secret(f"gone{n:02}", "x")} for n in range(53)]
    async with lab(tmp_path) as place:
        await with_settings(place, env)
        items = {item.name: item for item in (await listed(place, limit=100)).items}
        looks = [path for method, path in place.between.seen if "/secrets/" in path]
        assert len(looks) == 50
        assert items["N49"].problem == "there is no secret of that name"
        assert items["N52"].problem.startswith("not known: more than 50 are used")


async def test_settings_of_other_containers_have_the_container_before_them(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        env = [{"name": "LEVEL", "value": "loud"}]
        body = {"containers": [{"name": "shipper", "env": env}]}
        path = f"{SHOP}/daemonsets/agent"
        await place.patch(path, {"spec": {"template": {"spec": body}}})
        page = await listed(place, "daemonset/agent")
        assert [item.name for item in page.items] == ["LOG_LEVEL", "shipper:LEVEL"]
        done = await put(place, "shipper:MORE", "quiet", name="daemonset/agent")
        assert done.outcome == "verified"
        assert done.undo.tool == "rollback_deployment"
        for key in ("nobody:X", "shipper:1x"):
            with pytest.raises(InvalidInput):
                await put(place, key, "x", name="daemonset/agent")


async def test_new_setting_reaches_the_instances_and_is_undone_by_version(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await put(place, "REGION", "eu-central-1")
        assert (done.outcome, done.ready) == ("verified", "2/2")
        assert done.evidence["fingerprint"] == place.redactor.fingerprint(
            "eu-central-1", of="REGION"
        )
        assert "eu-central-1" not in done.model_dump_json(include={"evidence", "undo"})
        assert done.undo.arguments == {"name": "worker", "to_revision": "1"}
        assert (await environment(place))["REGION"] == {"value": "eu-central-1"}
        same = await put(place, "REGION", "eu-central-1", call_id="same")
        assert same.plan == ["Nothing to do: it is set to that already."]


async def test_setting_that_a_container_takes_over_as_a_whole_is_there(tmp_path: Path) -> None:
    whole = [{"configMapRef": {"name": "common"}}, {"secretRef": {"name": "shop-db"}}]
    async with lab(tmp_path) as place:
        await config_map(place, "common", {"QUEUE": "orders"})
        await with_settings(place, [], envFrom=whole)
        place.between.inject("GET", "/secrets/", *[answering(403, DENIED)] * 3)
        with pytest.raises(Conflict, match="is there already"):
            await put(place, "QUEUE", "returns")
        planned = await put(place, "QUEUE", "returns", overwrite=True, dry_run=True)
        assert planned.plan[0] == 'Set QUEUE to "returns"; it is configmap/common/QUEUE now.'
        assert planned.plan[1].startswith("Whether secret/shop-db sets it, too, is not known")
        assert "orders" not in planned.model_dump_json()


async def test_setting_that_is_there_needs_overwrite_and_its_value_stays_hidden(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(Conflict, match="is there already"):
            await put(place, "LOG_LEVEL", "debug")
        planned = await put(place, "LOG_LEVEL", "debug", overwrite=True, dry_run=True)
        mark = place.redactor.fingerprint("info", of="LOG_LEVEL")
        assert planned.plan[0] == f'Set LOG_LEVEL to "debug"; it is #{mark} now.'
        assert "info" not in planned.model_dump_json(include={"plan", "evidence", "undo"})
        done = await put(place, "LOG_LEVEL", "debug", overwrite=True)
        assert done.outcome == "verified"
        assert (await environment(place))["LOG_LEVEL"] == {"value": "debug"}
        assert len(place.patches()) == 1


async def test_reference_takes_the_place_of_a_value_and_back(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await config_map(place, "common", {"level": "warn", "other": "error"})
        for index, key in enumerate(("level", "other")):
            done = await put(
                place,
                "LOG_LEVEL",
                value_ref=f"configmap/common/{key}",
                overwrite=True,
                call_id=f"c-{index}",
            )
            assert done.outcome == "verified"
        reference = {"configMapKeyRef": {"name": "common", "key": "other"}}
        assert (await environment(place))["LOG_LEVEL"] == {"valueFrom": reference}
        assert done.undo.tool == "set_config"
        assert done.undo.arguments["value_ref"] == "configmap/common/level"
        place.between.inject("GET", "/secrets/shop-db", answering(200, SECRET))
        moved = await put(
            place, "LOG_LEVEL", value_ref="secret/shop-db/url", overwrite=True, call_id="c-3"
        )
        assert moved.evidence["reference"] == "secret/shop-db/url"
        selector = {"secretKeyRef": {"name": "shop-db", "key": "url"}}
        assert (await environment(place))["LOG_LEVEL"] == {"valueFrom": selector}
        back = await put(place, "LOG_LEVEL", "info", overwrite=True, call_id="c-4")
        assert back.outcome == "verified"
        assert (await environment(place))["LOG_LEVEL"] == {"value": "info"}


REFUSED = (
    ("DB_PASSWORD", "x1y2z3", "", "looks like a secret"),
    ("SMTP_PASS", "x1y2z3", "", "looks like a secret"),
    ("ADMIN_PIN", "48151", "", "looks like a secret"),
    ("DB_URL", "postgres://u:tr0mbone@db/x", "", "looks like a secret"),
    ("REGION", "", "vault/a/b", "value_ref must be"),
    ("REGION", "", "secret/../x", "value_ref must be"),
    ("REGION", "", "configmap/nowhere/x", "there is no configmap"),
    ("REGION", "a", "secret/a/b", "one of value and value_ref"),
)


async def test_settings_that_must_not_be_are_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        for key, value, value_ref, says in REFUSED:
            with pytest.raises(InvalidInput, match=says):
                await put(place, key, value, value_ref)
        assert place.patches() == []


async def test_lost_answer_of_a_setting_is_resolved_and_a_change_between_is_a_conflict(
    tmp_path: Path,
) -> None:
    def other(answer: Any) -> None:
        answer["metadata"]["generation"] += 1

    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", lost)
        assert (await put(place, "REGION", "eu")).outcome == "verified"
        assert len(place.patches()) == 1
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, changed(other))
        with pytest.raises(Conflict, match="was changed since"):
            await put(place, "ZONE", "a", call_id="two")
        assert len(place.patches()) == 1
