"""The lab's Azure, held against Resource Manager's wire contract by a plain client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_ops.lab.azure.api import AzureStandIn, azure
from mcp_ops.lab.azure.seed import GROUP, SUBSCRIPTION
from tests.lab.serving import Clock, serve

TOKEN = "a-token-of-the-lab-0123"
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Web"
VERSION = {"api-version": "2024-11-01"}
START = 1_800_000_000.0


def stand_in(path: Path, clock: Clock, **more: Any) -> AzureStandIn:
    return azure(directory=path, token=TOKEN, clock=clock, settle_s=10.0, **more)


async def test_errors_have_resource_managers_form(tmp_path: Path) -> None:
    clock = Clock(START)
    async with serve(stand_in(tmp_path, clock)) as http:
        bare = await http.get(f"{SCOPE}/sites", params=VERSION)
        assert bare.status_code == 401
        assert bare.json()["error"]["code"] == "InvalidAuthenticationToken"
        assert 'error="invalid_token"' in bare.headers["www-authenticate"]
        http.headers["authorization"] = f"Bearer {TOKEN}"
        cases = {
            f"{SCOPE}/sites": (400, "MissingApiVersionParameter"),
            f"{SCOPE}/sites?api-version=1999-01-01": (400, "NoRegisteredProviderFound"),
            f"{SCOPE}/sites/nope?api-version=2024-11-01": (404, "ResourceNotFound"),
            f"{SCOPE}/nothing?api-version=2024-11-01": (404, "InvalidResourceType"),
            f"{SCOPE.replace(GROUP, 'other')}/sites?api-version=2024-11-01": (
                404,
                "ResourceGroupNotFound",
            ),
            f"{SCOPE.replace(SUBSCRIPTION, 'x')}/sites?api-version=2024-11-01": (
                404,
                "SubscriptionNotFound",
            ),
        }
        for path, (status, code) in cases.items():
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert answer.json()["error"]["message"]
            assert answer.headers["x-ms-request-id"]


async def test_names_have_no_case_and_lists_have_pages(tmp_path: Path) -> None:
    clock = Clock(START)
    async with serve(stand_in(tmp_path, clock, page_size=2)) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        one = (await http.get(f"{SCOPE}/SITES/SHOP-WEB", params=VERSION)).json()
        assert one["name"] == "Shop-Web"
        params = {**VERSION, "includeSlots": "true"}
        page = (await http.get(f"{SCOPE}/sites", params=params)).json()
        assert len(page["value"]) == 2
        rest = (await http.get(page["nextLink"])).json()
        names = [each["name"] for each in page["value"] + rest["value"]]
        assert names == ["shop-api", "shop-api/staging", "Shop-Web", "shop-admin"]
        assert "nextLink" not in rest
        alone = (await http.get(f"{SCOPE}/sites", params=VERSION)).json()
        assert [each["name"] for each in alone["value"]] == ["shop-api", "Shop-Web"]


async def test_long_operation_is_polled_and_others_are_refused_meanwhile(tmp_path: Path) -> None:
    clock = Clock(START)
    made = stand_in(tmp_path, clock)
    async with serve(made) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        swap = f"{SCOPE}/sites/shop-api/slotsswap"
        body = {"targetSlot": "staging", "preserveVnet": True}
        begun = await http.post(swap, params=VERSION, json=body)
        assert begun.status_code == 202
        assert begun.headers["retry-after"] == "1"
        where = begun.headers["location"]
        assert (await http.get(where)).status_code == 202
        other = await http.post(f"{SCOPE}/sites/shop-api/restart", params=VERSION)
        assert other.status_code == 409
        assert other.json()["Code"] == "Conflict"
        assert "another operation is in progress" in other.json()["Message"]
        site = (await http.get(f"{SCOPE}/sites/shop-api", params=VERSION)).json()["properties"]
        assert site["inProgressOperationId"]
        assert site["targetSwapSlot"] == "staging"
        clock.now += 11
        assert (await http.get(where)).json() == {"status": "Succeeded"}
        site = (await http.get(f"{SCOPE}/sites/shop-api", params=VERSION)).json()["properties"]
        assert site["inProgressOperationId"] is None
        assert site["slotSwapStatus"]["sourceSlotName"] == "staging"
    effects = [line["effect"] for line in made.log.read()]
    assert effects == ["client.slotsswap", "platform.swapped"]


async def test_settings_are_replaced_whole(tmp_path: Path) -> None:
    clock = Clock(START)
    made = stand_in(tmp_path, clock)
    async with serve(made) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        put = f"{SCOPE}/sites/shop-api/config/appsettings"
        answer = await http.put(put, params=VERSION, json={"properties": {"ONLY": "this"}})
        assert answer.json()["properties"] == {"ONLY": "this"}
        listed = await http.post(f"{put}/list", params=VERSION, json={})
        assert listed.json()["properties"] == {"ONLY": "this"}
    (effect,) = made.log.read()
    assert effect["lost"] == ["API_TIMEOUT", "DATABASE_URL", "LEGACY_CONNECTION", "SLOT_ROLE"]
    assert "this" not in str(effect)


async def test_activity_log_is_behind_and_keeps_the_clients_id(tmp_path: Path) -> None:
    clock = Clock(START)
    async with serve(stand_in(tmp_path, clock, activity_lag_s=180.0)) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        given = {"x-ms-client-request-id": "4711"}
        await http.post(f"{SCOPE}/sites/shop-api/restart", params=VERSION, headers=given)
        query = {
            "api-version": "2015-04-01",
            "$filter": "eventTimestamp ge '2020-01-01T00:00:00Z' and resourceGroupName eq 'x'",
        }
        log = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Insights/eventtypes"
        path = f"{log}/management/values"
        assert (await http.get(path, params=query)).json()["value"] == []
        clock.now += 200
        (event,) = (await http.get(path, params=query)).json()["value"]
        assert event["httpRequest"]["clientRequestId"] == "4711"
        assert event["operationName"]["value"] == "Microsoft.Web/sites/restart/Action"


@pytest.mark.parametrize(
    ("fault", "status", "header"),
    [("arm-throttled", 429, "retry-after"), ("arm-unavailable", 503, "retry-after")],
)
async def test_faults_answer_as_azure_does(
    tmp_path: Path, fault: str, status: int, header: str
) -> None:
    made = stand_in(tmp_path, Clock(START))
    async with serve(made) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        made.inject(fault)
        answer = await http.get(f"{SCOPE}/sites", params=VERSION)
        assert (answer.status_code, header in answer.headers) == (status, True)
        made.mend(fault)
        assert (await http.get(f"{SCOPE}/sites", params=VERSION)).status_code == 200


async def test_role_is_named_in_the_refusal_and_a_stuck_operation_never_ends(
    tmp_path: Path,
) -> None:
    clock = Clock(START)
    made = stand_in(tmp_path, clock)
    async with serve(made) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        made.inject("arm-forbidden")
        answer = await http.post(f"{SCOPE}/sites/shop-api/stop", params=VERSION)
        assert answer.status_code == 403
        assert "perform action 'Microsoft.Web/sites/stop/Action' over scope" in answer.text
        made.mend("arm-forbidden")
        made.inject("stuck-operation")
        farm = (await http.get(f"{SCOPE}/serverfarms/shop-plan", params=VERSION)).json()
        farm["sku"]["capacity"] = 3
        begun = await http.put(f"{SCOPE}/serverfarms/shop-plan", params=VERSION, json=farm)
        assert begun.status_code == 202
        clock.now += 1_000
        farm = (await http.get(f"{SCOPE}/serverfarms/shop-plan", params=VERSION)).json()
        assert farm["properties"]["provisioningState"] == "InProgress"
    for name in ("unknown", "down"):
        with pytest.raises(KeyError):
            made.inject(name)
        with pytest.raises(KeyError):
            made.mend(name)


async def test_kudu_has_files_ranges_and_one_deployment_at_a_time(tmp_path: Path) -> None:
    clock = Clock(START)
    made = stand_in(tmp_path, clock)
    async with serve(made) as http:
        assert (await http.get("/scm/shop-api/api/logs/docker")).status_code == 401
        http.headers["authorization"] = f"Bearer {TOKEN}"
        files = (await http.get("/scm/shop-api/api/logs/docker")).json()
        name = next(each for each in files if "_default_" in each["path"])
        path = f"/scm/shop-api/api/vfs/LogFiles/{name['path'].rpartition('/')[2]}"
        whole = (await http.get(path)).content
        assert len(whole) == name["size"]
        part = await http.get(path, headers={"range": "bytes=10-"})
        assert (part.status_code, part.content) == (206, whole[10:])
        again = "/scm/shop-api/api/deployments/rel-41"
        assert (await http.put(again)).status_code == 202
        assert (await http.put(again)).status_code == 409
        assert (await http.put("/scm/shop-api/api/deployments/nope")).status_code == 409
        clock.now += 11
        listed = await http.get(f"{SCOPE}/sites/shop-api/deployments", params=VERSION)
        active = [each["name"] for each in listed.json()["value"] if each["properties"]["active"]]
        assert active == ["rel-41"]
        assert (await http.put("/scm/shop-api/api/deployments/nope")).status_code == 404
        assert (await http.get("/scm/nobody/api/logs/docker")).status_code == 404
        assert (await http.get("/scm/shop-api/api/settings")).status_code == 404
        assert (await http.post("/scm/shop-api/api/command")).status_code == 405


async def test_each_change_stands_in_the_log_with_the_id_of_its_request(tmp_path: Path) -> None:
    place = stand_in(tmp_path, Clock(START))
    async with serve(place) as http:
        http.headers["authorization"] = f"Bearer {TOKEN}"
        for number, (method, path) in enumerate(
            (
                ("POST", f"{SCOPE}/sites/shop-web/restart"),
                ("PUT", "/scm/shop-api/api/deployments/rel-41"),
            )
        ):
            headers = {"x-ms-client-request-id": f"request-{number}"}
            answer = await http.request(method, path, params=VERSION, headers=headers, json={})
            assert answer.status_code < 300, answer.text
        await http.post(f"{SCOPE}/sites/shop-web/stop", params=VERSION)
    lines = [line for line in place.log.read() if line["effect"].startswith("client.")]
    assert [(line["effect"], line["request"]) for line in lines] == [
        ("client.restart", "request-0"),
        ("client.redeploy", "request-1"),
        ("client.stop", ""),
    ]
