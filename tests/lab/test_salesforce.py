"""The lab's Salesforce org, over its socket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from mcp_ops.lab.oauth.server import OAuthStandIn, TokenPair, oauth_server
from mcp_ops.lab.oauth.store import fingerprint
from mcp_ops.lab.salesforce import ORG_ID, salesforce
from mcp_ops.lab.standin import StandIn
from tests.lab.serving import Clock, serve

LIMITS = "/services/data/v62.0/limits"
QUERY = "/services/data/v62.0/query?q=SELECT+Id,+Name+FROM+Organization"


@dataclass(kw_only=True)
class Org:
    """A running org, its authorization server and a client with a good token."""

    standin: StandIn
    oauth: OAuthStandIn
    client: httpx2.AsyncClient
    pair: TokenPair
    directory: Path

    async def get(self, path: str, token: str | None = None) -> httpx2.Response:
        bearer = f"Bearer {token or self.pair.access_token}"
        return await self.client.get(path, headers={"Authorization": bearer})

    async def refresh(self, refresh_token: str | None = None) -> httpx2.Response:
        client = self.oauth.authority.client
        form = {
            "grant_type": "refresh_token",
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "refresh_token": refresh_token or self.pair.refresh_token,
        }
        return await self.client.post("/services/oauth2/token", data=form)


@pytest.fixture
def rotate() -> bool:
    return False


@pytest.fixture
async def org(tmp_path: Path, rotate: bool) -> AsyncIterator[Org]:
    clock = Clock(1_760_000_000.25)
    oauth = oauth_server(directory=tmp_path, issuer="http://127.0.0.1:1", clock=clock)
    standin = salesforce(
        directory=tmp_path,
        check_token=oauth.authority.check,
        oauth=oauth.authority,
        clock=clock,
        rotate_refresh_tokens=rotate,
    )
    pair = oauth.authority.issue("integration@lab.example")
    async with serve(standin) as client:
        yield Org(standin=standin, oauth=oauth, client=client, pair=pair, directory=tmp_path)


def usage(answer: httpx2.Response) -> tuple[int, int]:
    """The pair in the limit header."""
    name, _, pair = answer.headers["sforce-limit-info"].partition("=")
    assert name == "api-usage"
    used, _, limit = pair.partition("/")
    return int(used), int(limit)


def error(answer: httpx2.Response) -> tuple[int, str, str]:
    """A REST error: a list with one object."""
    (only,) = answer.json()
    return answer.status_code, only["errorCode"], only["message"]


async def test_limits_have_the_vendors_names_and_nesting(org: Org) -> None:
    body = (await org.get(LIMITS)).json()

    assert len(body) >= 40
    assert body["DailyApiRequests"]["Max"] == 15000
    assert body["DailyApiRequests"]["Remaining"] == 15000 - 1801
    assert body["DailyApiRequests"]["Salesforce for iOS"] == {"Max": 0, "Remaining": 0}
    assert body["PermissionSets"]["CreateCustom"] == {"Max": 1000, "Remaining": 996}
    assert all({"Max", "Remaining"} <= set(limit) for limit in body.values())


async def test_every_rest_answer_carries_the_usage_and_every_request_counts(org: Org) -> None:
    paths = [QUERY, LIMITS, LIMITS + "/", "/services/data/v62.0/sobjects/Nothing"]

    counted = [usage(await org.get(path)) for path in paths]
    refused = usage(await org.get(LIMITS, token="stale"))

    assert counted == [(1801, 15000), (1802, 15000), (1803, 15000), (1804, 15000)]
    assert refused == (1804, 15000)
    lines = [line for line in org.standin.log.read() if line["effect"] == "request"]
    assert [line["path"] for line in lines] == [path.partition("?")[0] for path in paths]
    assert {line["token"] for line in lines} == {fingerprint(org.pair.access_token)}


async def test_the_versions_are_open_and_not_counted(org: Org) -> None:
    answer = await org.client.get("/services/data/")

    assert {"label": "Winter '25", "url": "/services/data/v62.0", "version": "62.0"} in (
        answer.json()
    )
    assert "sforce-limit-info" not in answer.headers
    assert usage(await org.get(LIMITS))[0] == 1801


async def test_a_query_returns_the_organization(org: Org) -> None:
    body = (await org.get(QUERY)).json()

    assert (body["totalSize"], body["done"]) == (1, True)
    assert body["records"][0]["Id"] == ORG_ID
    assert body["records"][0]["attributes"]["type"] == "Organization"


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("", "MALFORMED_QUERY"),
        ("SELECT+Id+FROM+Account", "INVALID_TYPE"),
        ("SELECT+Ix+FROM+Organization", "INVALID_FIELD"),
    ],
)
async def test_a_query_it_cannot_answer_is_refused(org: Org, soql: str, code: str) -> None:
    answer = await org.get(f"/services/data/v62.0/query?q={soql}")

    assert error(answer)[:2] == (400, code)


@pytest.mark.parametrize("path", ["/services/data/v62.0/nothing", "/services/data/v999.0/limits"])
async def test_an_unknown_resource_is_not_found(org: Org, path: str) -> None:
    expected = (404, "NOT_FOUND", "The requested resource does not exist")
    assert error(await org.get(path)) == expected


async def test_a_bad_token_is_an_invalid_session(org: Org) -> None:
    expected = (401, "INVALID_SESSION_ID", "Session expired or invalid")
    assert error(await org.client.get(LIMITS)) == expected
    assert error(await org.get(LIMITS, token="stale")) == expected

    org.oauth.inject("token-expired")

    assert error(await org.get(LIMITS)) == expected


@pytest.mark.parametrize(("fault", "percent"), [("quota", 85), ("quota-critical", 93)])
async def test_a_quota_fault_raises_the_usage(org: Org, fault: str, percent: int) -> None:
    org.standin.inject(fault)

    answer = await org.get(LIMITS)

    used, limit = usage(answer)
    assert 100 * used // limit == percent
    assert answer.json()["DailyApiRequests"]["Remaining"] == limit - used
    org.standin.mend(fault)
    assert usage(await org.get(LIMITS)) == (1801, 15000)


async def test_an_exhausted_quota_refuses_everything_but_the_versions(org: Org) -> None:
    org.standin.inject("quota-exhausted")
    expected = (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    for path in (LIMITS, QUERY):
        answer = await org.get(path)
        assert error(answer) == expected
        assert usage(answer) == (15000, 15000)
    assert (await org.client.get("/services/data/")).status_code == 200
    assert org.standin.log.read() == []
    org.standin.mend("quota-exhausted")
    assert (await org.get(LIMITS)).status_code == 200


async def test_maintenance_is_a_page_with_status_200(org: Org) -> None:
    org.standin.inject("html-error")

    answer = await org.get(LIMITS)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


async def test_garbage_is_not_even_json(org: Org) -> None:
    org.standin.inject("garbage")

    text = (await org.get(LIMITS)).text

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    with pytest.raises(ValueError, match="NaN"):
        json.loads(text, parse_constant=refuse)
    body = json.loads(text)
    assert isinstance(body["DailyApiRequests"]["Max"], str)
    assert body["DailyBulkApiBatches"]["Max"] < 0
    assert "Remaining" not in body["DataStorageMB"]


async def test_an_unavailable_org_reports_it_in_the_rest_format(org: Org) -> None:
    org.standin.inject("unavailable")

    answer = await org.get(LIMITS)

    assert error(answer)[:2] == (503, "SERVER_UNAVAILABLE")
    assert answer.headers["retry-after"] == "5"


def test_an_unknown_fault_is_refused(org: Org) -> None:
    with pytest.raises(KeyError):
        org.standin.inject("earthquake")
    with pytest.raises(KeyError):
        org.standin.mend("earthquake")


async def test_a_refresh_answers_in_salesforces_shape(org: Org) -> None:
    answer = await org.refresh()

    body = answer.json()
    assert set(body) == {
        "access_token",
        "signature",
        "scope",
        "instance_url",
        "id",
        "token_type",
        "issued_at",
    }
    assert body["instance_url"] == str(org.client.base_url).rstrip("/")
    assert body["issued_at"] == "1760000000250"
    secret = org.oauth.authority.client.client_secret.encode()
    signed = hmac.new(secret, (body["id"] + body["issued_at"]).encode(), hashlib.sha256)
    assert base64.b64decode(body["signature"]) == signed.digest()
    assert (await org.get(LIMITS, token=body["access_token"])).status_code == 200
    assert (await org.refresh()).status_code == 200, "without rotation the old one goes on working"


@pytest.mark.parametrize("rotate", [True])
async def test_with_rotation_reuse_ends_the_grant(org: Org) -> None:
    fresh = (await org.refresh()).json()

    reused = await org.refresh()

    assert reused.status_code == 400
    assert reused.json() == {
        "error": "invalid_grant",
        "error_description": "expired access/refresh token",
    }
    assert (await org.refresh(fresh["refresh_token"])).status_code == 400
    assert error(await org.get(LIMITS, token=fresh["access_token"]))[0] == 401


@pytest.mark.parametrize("rotate", [True])
async def test_a_lost_refresh_at_the_org_has_rotated(org: Org) -> None:
    org.oauth.inject("lost-response")

    with pytest.raises(httpx2.TransportError):
        await org.refresh()

    assert (await org.refresh()).json()["error"] == "invalid_grant"


async def test_a_wrong_secret_is_an_invalid_client_with_status_400(org: Org) -> None:
    form = {"grant_type": "refresh_token", "client_id": "mcp-ops-lab", "client_secret": "wrong"}

    answer = await org.client.post("/services/oauth2/token", data=form)

    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_client",
        "error_description": "invalid client credentials",
    }


async def test_whoever_holds_a_token_may_revoke_it(org: Org) -> None:
    form = {"token": org.pair.refresh_token}

    first = await org.client.post("/services/oauth2/revoke", data=form)
    second = await org.client.post("/services/oauth2/revoke", data=form)

    assert first.status_code == 200
    assert (second.status_code, second.json()["error"]) == (400, "invalid_token")
    assert error(await org.get(LIMITS))[0] == 401


async def test_introspection_and_user_info_speak_of_the_org(org: Org) -> None:
    client = org.oauth.authority.client
    seen = await org.client.post(
        "/services/oauth2/introspect",
        data={"token": org.pair.access_token, "token_type_hint": "access_token"},
        auth=(client.client_id, client.client_secret),
    )
    body = seen.json()
    assert (body["active"], body["token_type"]) == (True, "access_token")
    assert f"/id/{ORG_ID}/" in body["sub"]

    info = await org.get("/services/oauth2/userinfo")
    refused = await org.get("/services/oauth2/userinfo", token="stale")

    assert info.json()["organization_id"] == ORG_ID
    assert (refused.status_code, refused.text) == (403, "Bad_OAuth_Token")


async def test_the_orgs_own_consent_leads_to_tokens(org: Org) -> None:
    verifier = "the-verifier-of-this-test-is-long-enough-to-be-one"
    hashed = hashlib.sha256(verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": "mcp-ops-lab",
        "state": "st-1",
        "code_challenge": base64.urlsafe_b64encode(hashed).decode().rstrip("="),
        "code_challenge_method": "S256",
        "login": "integration@lab.example",
    }
    back = await org.client.get("/services/oauth2/authorize", params=query)
    assert back.status_code == 302
    code = httpx2.URL(back.headers["location"]).params["code"]
    client = org.oauth.authority.client

    answer = await org.client.post(
        "/services/oauth2/token",
        data={"grant_type": "authorization_code", "code": code, "code_verifier": verifier},
        auth=(client.client_id, client.client_secret),
    )

    assert answer.json()["refresh_token"]


async def test_the_effect_logs_are_free_of_token_values(org: Org) -> None:
    fresh = (await org.refresh()).json()
    await org.get(QUERY + "&secret=1")
    await org.get(LIMITS, token=fresh["access_token"])

    for path in org.directory.glob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        for value in (org.pair.access_token, org.pair.refresh_token, fresh["access_token"]):
            assert value not in text
        assert "secret=1" not in text
