"""The Salesforce adapter, against the lab's org."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mcp_ops import errors
from mcp_ops.adapters.salesforce import SalesforceAdapter
from mcp_ops.capabilities.token_fields import seed_of, to_fields
from mcp_ops.capabilities.tokens import TokenSet
from tests.lab_org import SUBJECT, Lab, running_lab
from tests.served import Wired, serve

Settings = SalesforceAdapter.Settings
ORG = "00D7Q000000LAB1"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path) as running:
        yield running


async def test_every_limit_is_read_and_the_header_reports_the_one_that_drives(lab: Lab) -> None:
    async with lab.crm() as crm:
        reading = await crm.usage()
    by_name = {limit.name: limit for limit in reading.limits}
    daily = by_name["DailyApiRequests"]
    assert len(by_name) > 45
    assert reading.drives == "DailyApiRequests"
    assert reading.skipped == []
    assert (daily.max, daily.used + daily.remaining) == (15_000, 15_000)
    assert daily.window == "24 h rolling"
    assert daily.level == "ok"
    assert by_name["HourlyODataCallout"].window == "1 h"
    assert by_name["DataStorageMB"].window is None
    assert by_name["PrivateConnectOutboundCalloutHourlyLimitMB"].used_percent == 0
    assert [name for name, _ in lab.wired.reported] == ["DailyApiRequests"]
    assert lab.wired.reported[0][1] == pytest.approx(12, abs=0.1)


@pytest.mark.parametrize(
    ("fault", "level"), [("quota", "restrict"), ("quota-critical", "critical")]
)
async def test_a_high_use_is_read_with_its_level(lab: Lab, fault: str, level: str) -> None:
    lab.org.inject(fault)
    async with lab.crm() as crm:
        reading = await crm.usage()
    daily = next(limit for limit in reading.limits if limit.name == "DailyApiRequests")
    assert daily.level == level
    assert lab.wired.reported[-1][1] == pytest.approx(daily.used_percent, abs=0.01)


async def test_an_exhausted_quota_is_a_reading_of_100_percent(lab: Lab) -> None:
    lab.org.inject("quota-exhausted")
    async with lab.crm() as crm:
        with pytest.raises(errors.QuotaExhausted) as caught:
            await crm.usage()
        await crm.ping()
    assert caught.value.health is errors.Health.ANSWERED
    assert "REQUEST_LIMIT_EXCEEDED" in caught.value.said
    assert lab.wired.reported[-1] == ("DailyApiRequests", 100.0)


async def test_limits_without_sense_are_skipped_by_name_and_the_rest_is_kept(lab: Lab) -> None:
    lab.org.inject("garbage")
    async with lab.crm() as crm:
        reading = await crm.usage()
    assert set(reading.skipped) == {
        "DailyApiRequests",
        "DailyBulkApiBatches",
        "DataStorageMB",
        "FileStorageMB",
        "HourlySyncReportRuns",
        "MassEmail",
        "SingleEmail",
    }
    over = next(limit for limit in reading.limits if limit.name == "DailyAsyncApexExecutions")
    assert (over.used, over.remaining, over.level) == (250_017, -17, "critical")
    assert lab.wired.reported[-1][1] == pytest.approx(12, abs=0.1)


async def test_a_maintenance_page_with_200_is_a_bad_answer(lab: Lab) -> None:
    lab.org.inject("html-error")
    async with lab.crm() as crm:
        with pytest.raises(errors.BadAnswer) as caught:
            await crm.usage()
    assert "maintenance" not in caught.value.message.lower()


async def test_an_unavailable_org_says_when_to_come_back(lab: Lab) -> None:
    lab.org.inject("unavailable")
    async with lab.crm() as crm:
        for call in (crm.usage, crm.ping):
            with pytest.raises(errors.UpstreamUnavailable) as caught:
                await call()
            assert caught.value.retry_after_s == 5


async def test_an_expired_session_points_to_the_refresh(lab: Lab) -> None:
    lab.oauth.inject("token-expired")
    async with lab.crm() as crm:
        with pytest.raises(errors.Unauthenticated) as caught:
            await crm.usage()
        await crm.ping()
    assert "refresh_oauth_token" in caught.value.hint
    assert "INVALID_SESSION_ID" in caught.value.said


async def test_without_an_access_token_nothing_is_sent(lab: Lab) -> None:
    async with lab.crm(access_token=None) as crm:
        with pytest.raises(errors.Unauthenticated) as caught:
            await crm.usage()
    assert "refresh_oauth_token" in caught.value.hint
    assert lab.org.log.read() == []


async def test_a_token_that_another_process_stored_is_used_at_once(lab: Lab) -> None:
    async with lab.crm() as crm:
        await crm.usage()
        fresh = await crm.refresh(SecretStr(lab.pair.refresh_token))
        lab.oauth.authority.revoke(lab.pair.access_token)
        with pytest.raises(errors.Unauthenticated):
            await crm.usage()
        fields = to_fields(fresh, seed=seed_of(crm.configured_tokens()))
        await lab.store.write(crm.secret_name, fields)
        await crm.usage()


async def test_a_new_configured_token_wins_over_the_stored_ones(lab: Lab) -> None:
    dead = TokenSet(access_token=SecretStr("dead-token"), refresh_token=SecretStr("dead-refresh"))
    async with lab.crm() as crm:
        await lab.store.write(crm.secret_name, to_fields(dead, seed="0123456789ab"))
        await crm.usage()
        await lab.store.write(
            crm.secret_name, to_fields(dead, seed=seed_of(crm.configured_tokens()))
        )
        with pytest.raises(errors.Unauthenticated):
            await crm.usage()


async def test_a_damaged_store_leaves_the_configured_token_in_force(lab: Lab) -> None:
    (lab.wired.directory / "secrets" / "crm-tokens.json").write_bytes(b"{")
    async with lab.crm() as crm:
        await crm.usage()


async def test_inspect_says_who_and_until_when(lab: Lab) -> None:
    async with lab.crm(expected_organisation=ORG + "UAE") as crm:
        facts = await crm.inspect(tokens_of(crm))
        assert crm.expected_identity() == ("", ORG)
    assert facts.valid
    assert facts.subject == SUBJECT
    assert facts.organisation == ORG
    assert facts.scopes == ("api", "refresh_token", "openid")
    assert facts.expires_at == lab.wired.clock.now() + 3600
    assert facts.clock_skew_s == 0


def tokens_of(crm: SalesforceAdapter) -> TokenSet:
    tokens = crm.configured_tokens()
    assert tokens is not None
    return tokens


async def test_inspect_of_a_dead_token_says_what_to_do(lab: Lab) -> None:
    lab.oauth.inject("token-expired")
    async with lab.crm() as crm:
        facts = await crm.inspect(tokens_of(crm))
    assert not facts.valid
    assert "INVALID_SESSION_ID" in facts.problem
    assert "refresh_oauth_token" in facts.advice


async def test_a_good_token_is_good_while_the_quota_is_used_up(lab: Lab) -> None:
    lab.org.inject("quota-exhausted")
    async with lab.crm() as crm:
        assert (await crm.inspect(tokens_of(crm))).valid


async def test_a_token_is_checked_without_client_credentials_too(lab: Lab) -> None:
    async with lab.crm(client_id="", client_secret=None) as crm:
        facts = await crm.inspect(tokens_of(crm))
    assert facts.valid
    assert facts.subject == ""


async def test_wrong_client_credentials_are_named(lab: Lab) -> None:
    async with lab.crm(client_secret=SecretStr("wrong-canary")) as crm:
        assert (await crm.inspect(tokens_of(crm))).valid
        with pytest.raises(errors.Unauthenticated) as caught:
            await crm.refresh(SecretStr(lab.pair.refresh_token))
    assert "client_id and client_secret" in caught.value.hint


def fake_org(say: Any) -> Starlette:
    return Starlette(
        routes=[Route("/services/{rest:path}", say, methods=["GET", "POST"])],
    )


async def opened(url: str, say: Any, tmp_path: Path) -> tuple[Wired, BaseException | None]:
    """One `usage` against an org that answers as `say` does."""
    wired = Wired(directory=tmp_path)
    settings = Settings(instance_url=url, access_token=SecretStr("token-canary-1"))
    async with SalesforceAdapter.open(settings, wired.wiring("crm")) as crm:
        try:
            await crm.usage()
        except errors.OpsError as exc:
            return wired, exc
    return wired, None


@pytest.mark.parametrize(
    ("header", "percent"),
    [
        ("api-usage=25/5000; per-app-api-usage=17/250(appName=x)", 0.5),
        ("per-app-api-usage=17/250(appName=x); api-usage=25/5000", 0.5),
        ("api-usage=10018/100000, api-bursts=1/750", 10.018),
        ("api-usage=6000/5000", 120.0),
        ("per-app-api-usage=17/250(appName=x)", None),
        ("api-usage=1/0", None),
        ("api-usage=-5/10", None),
        ("api-usage=" + "9" * 50 + "/10", None),
        ("garbage", None),
        ("", None),
    ],
)
async def test_the_limit_header_is_read_with_care(
    tmp_path: Path, header: str, percent: float | None
) -> None:
    async def say(_request: Request) -> Response:
        return JSONResponse({}, headers={"Sforce-Limit-Info": header})

    async with serve(fake_org(say)) as url:
        wired, error = await opened(url, say, tmp_path)
    assert error is None
    assert [name for name, _ in wired.reported] == ["DailyApiRequests"] * (percent is not None)
    assert [at for _, at in wired.reported] == ([] if percent is None else [pytest.approx(percent)])


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, [{"errorCode": "INVALID_SESSION_ID", "message": "x"}], errors.Unauthenticated),
        (401, "<html>", errors.Unauthenticated),
        (403, [{"errorCode": "API_DISABLED_FOR_ORG", "message": "x"}], errors.Forbidden),
        (
            403,
            [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentRequests Limit"}],
            errors.UpstreamRateLimited,
        ),
        (503, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": 5}], errors.QuotaExhausted),
        (403, [], errors.Forbidden),
        (403, ["text"], errors.Forbidden),
        (403, {"errorCode": 5, "message": ["x"]}, errors.Forbidden),
        (500, [{"errorCode": "UNKNOWN_EXCEPTION", "message": "x"}], errors.UpstreamBroken),
        (300, [], errors.BadAnswer),
        (200, [], errors.BadAnswer),
        (200, 5, errors.BadAnswer),
    ],
)
async def test_an_error_answer_of_any_shape_becomes_one_error(
    tmp_path: Path, status: int, body: Any, kind: type[errors.Upstream]
) -> None:
    async def say(_request: Request) -> Response:
        if isinstance(body, str):
            return HTMLResponse(body, status)
        return JSONResponse(body, status)

    async with serve(fake_org(say)) as url:
        _, error = await opened(url, say, tmp_path)
    assert type(error) is kind


async def test_a_token_that_comes_back_in_an_error_is_masked(tmp_path: Path) -> None:
    async def say(request: Request) -> Response:
        said = f"\x1b[31m{request.headers['authorization']}" + "x" * 5000
        return JSONResponse([{"errorCode": "X\x1b[1m", "message": said}], 400)

    async with serve(fake_org(say)) as url:
        _, error = await opened(url, say, tmp_path)
    assert isinstance(error, errors.Rejected)
    assert "canary" not in error.said + error.message
    assert "\x1b" not in error.said
    assert len(error.said) < 350


async def test_a_code_of_another_org_is_refused(tmp_path: Path) -> None:
    async def say(_request: Request) -> Response:
        body = {
            "access_token": "00Dx!abc",
            "token_type": "Bearer",
            "instance_url": "https://other.my.salesforce.com",
        }
        return Response(json.dumps(body))

    async with serve(fake_org(say)) as url:
        settings = Settings(
            instance_url=url, login_url=url, client_id="me", redirect_uri="http://127.0.0.1/cb"
        )
        wiring = Wired(directory=tmp_path).wiring("crm")
        async with SalesforceAdapter.open(settings, wiring) as crm:
            with pytest.raises(errors.Forbidden, match="another Salesforce org"):
                await crm.exchange_code(SecretStr("code"), SecretStr("verifier"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"instance_url": "http://acme.my.salesforce.com"},
        {"instance_url": "https://acme.example", "api_version": "../62"},
        {"instance_url": "https://acme.example", "apiversion": "62.0"},
    ],
)
def test_settings_that_are_not_safe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
