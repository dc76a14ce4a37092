"""The lab as a whole: each fault is seen through a tool and mended, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest

from mcp_ops.app import App, open_app
from mcp_ops.call import Caller, Question
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.commands.session import OPERATOR_SCOPES
from mcp_ops.errors import ConfigurationError, InvalidInput
from mcp_ops.lab.supervisor import SUBJECT, Lab, running_lab
from mcp_ops.records import AuditQuery
from mcp_ops.settings_file import load_settings

SLOW_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab and a server on it, in this process."""

    lab: Lab
    app: App

    async def call(self, tool: str, who: str = "test", **arguments: Any) -> dict[str, Any]:
        """What the tool answers, or its error under `error`.

        Answers are remembered for each caller in a restrictive mode: another `who` reads anew.
        """

        async def yes(question: Question) -> Any:
            return "accept"

        caller = Caller(
            principal=f"operator:{who}",
            scopes=OPERATOR_SCOPES,
            channel="cli",
            client="tests",
            ask=yes,
            progress=None,
        )
        with anyio.fail_after(20):
            reply = await self.app.call(tool, arguments, caller)
        found: dict[str, Any] = json.loads(reply.text)
        return found

    async def wait_for(self, holds: Callable[[dict[str, Any]], bool], tool: str, **a: Any) -> None:
        """Call a read until its answer is as it should be."""
        with anyio.fail_after(10):
            while not holds(await self.call(tool, **a)):
                await anyio.sleep(0.05)

    async def component(self, target: str) -> dict[str, Any]:
        """What get_health says of a target."""
        health = await self.call("get_health")
        return next(each for each in health["components"] if each["name"] == target)


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    async with running_lab(directory, settle_s=0.02, slow_s=SLOW_S) as lab:
        settings = load_settings(lab.config, {}, {})
        async with open_app(settings, environ={}) as app:
            yield Bench(lab=lab, app=app)


def daily(usage: dict[str, Any]) -> float:
    by_name = {each["name"]: each["used_percent"] for each in usage["limits"]}
    return float(by_name["DailyApiRequests"])


async def test_a_new_lab_is_healthy_and_both_tokens_are_good(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        health = await it.call("get_health")
        assert health["overall"] == "healthy"
        names = [each["name"] for each in health["components"]]
        assert sorted(names) == ["coordinator", "crm", "orders", "shop", "sso", "syncs", "vault"]
        for target in ("crm", "sso"):
            token = await it.call("check_oauth_token", target=target)
            assert token["valid"] is True
            assert token["subject"] == SUBJECT
            assert "problem" not in token
        assert (await it.call("get_deadletter_stats", target="orders"))["total"] == 6
        assert set(ALL_TOOLS) - set(it.app.tools) == {"swap_slots"}


async def test_quota_faults_replace_each_other_and_mend(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.lab.break_fault("quota")
        usage = await it.call("check_api_usage", target="crm")
        assert 85 <= daily(usage) < 86
        assert usage["guard"]["mode"] == "restrictive"
        await it.lab.break_fault("quota-critical", "crm")
        assert 93 <= daily(await it.call("check_api_usage", who="second", target="crm")) < 94
        assert [each["name"] for each in it.lab.status()["faults"]] == ["quota-critical"]
        await it.lab.mend_fault("quota-critical")
        usage = await it.call("check_api_usage", who="third", target="crm")
        assert daily(usage) < 13
        assert usage["guard"]["mode"] == "normal"


async def test_a_sync_is_started_once_and_its_answer_may_be_lost(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        jobs = await it.call("list_jobs", target="syncs")
        assert [job["name"] for job in jobs["items"]] == ["knowledge", "sales"]
        await it.lab.break_fault("lost-response", "syncs")
        wanted: dict[str, Any] = {
            "target": "syncs",
            "name": "sales",
            "mode": "full",
            "wait_s": 0,
            "reason": "the data is stale",
        }
        started = await it.call("run_job", **wanted)
        assert (started["outcome"], started["id"]) == ("unconfirmed", "sales-1")
        assert [line["mode"] for line in it.lab.effects("sync")] == ["full"]


async def test_expired_tokens_are_seen_at_both_targets_and_a_refresh_heals(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.lab.break_fault("token-expired")
        for target in ("crm", "sso"):
            token = await it.call("check_oauth_token", target=target)
            assert token["valid"] is False
            step = token["next_steps"][0]
            assert (step["tool"], step["arguments"]) == ("refresh_oauth_token", {"target": target})
        refreshed = await it.call("refresh_oauth_token", target="crm", reason="it has expired")
        assert refreshed["outcome"] == "verified"
        assert (await it.call("check_oauth_token", target="crm"))["valid"] is True
        assert (await it.call("check_oauth_token", target="sso"))["valid"] is False
        await it.lab.mend_fault("token-expired")
        assert (await it.call("check_oauth_token", target="sso"))["valid"] is True
        # What was repaired through the tools was left alone.
        crm = await it.call("check_oauth_token", target="crm")
        assert crm["fingerprint"] == refreshed["fingerprint"]


async def test_a_revoked_grant_needs_a_person_and_the_callback_page_hands_the_code_over(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as it:
        await it.lab.break_fault("token-revoked")
        refused = await it.call("refresh_oauth_token", target="sso", reason="try to refresh")
        assert refused["error"]["code"] == "reauthorization_required"
        begun = await it.call("begin_oauth_authorization", target="sso", reason="authorize again")
        async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
            page = await browser.post(begun["url"], data={"login": SUBJECT})
        assert "This is a lab" in page.text
        given = parse_qs(urlsplit(str(page.url)).query)
        code, state = given["code"][0], given["state"][0]
        assert code in page.text
        assert state in page.text
        done = await it.call(
            "complete_oauth_authorization",
            target="sso",
            code=code,
            state=state,
            reason="authorize again",
        )
        assert done["outcome"] == "verified"
        assert (await it.call("check_oauth_token", target="sso"))["valid"] is True
        await it.lab.mend_fault("token-revoked")
        assert (await it.call("check_oauth_token", target="crm"))["valid"] is True


async def test_a_bad_release_is_seen_and_mended(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        await it.lab.break_fault("bad-release")
        await it.wait_for(lambda d: d["problem"] != "none", "get_deployment", name="api")
        await it.wait_for(lambda d: d["problem"] != "none", "get_deployment", name="worker")
        assert any(each["effect"] == "fault.injected" for each in it.lab.effects("kubernetes"))
        restarted = await it.call("restart_deployment", name="worker", reason="workers hang")
        assert restarted["outcome"] == "verified"
        await it.lab.mend_fault("bad-release")
        await it.wait_for(lambda d: d["problem"] == "none", "get_deployment", name="api")


async def test_dead_letters_flood_the_queue_and_a_retry_runs_at_the_coordinator(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as it:
        await it.lab.break_fault("deadletters")
        assert (await it.call("get_deadletter_stats", target="orders"))["total"] == 66
        await it.lab.mend_fault("deadletters")
        page = await it.call("list_deadletters", target="orders")
        assert len(page["items"]) == 6
        chosen = page["items"][0]["id"]
        retried = await it.call(
            "retry_deadletters", target="orders", ids=[chosen], reason="the cause is gone"
        )
        assert retried["retried"] == 1
        executed = it.lab.effects("coordinator")
        assert [each["effect"] for each in executed] == ["tool-executed"]


async def test_the_undo_of_a_discard_can_be_called_as_it_stands(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        chosen = [i["id"] for i in (await it.call("list_deadletters", target="orders"))["items"]]
        discarded = await it.call(
            "discard_deadletters", target="orders", ids=chosen[:2], reason="nobody needs them"
        )
        assert discarded["discarded"] == 2
        undo = discarded["undo"]
        restored = await it.call(undo["tool"], **undo["arguments"], reason="somebody does")
        assert restored["outcome"] == "verified"
        assert (await it.call("get_deadletter_stats", target="orders"))["total"] == 6


async def test_what_is_down_refuses_connections_and_comes_back_with_its_data(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as it:
        before = await it.call("list_deadletters", target="orders")
        assert (await it.lab.break_fault("down")).at == "redis"
        refused = await it.call("list_deadletters", target="orders")
        assert refused["error"]["code"] == "unreachable"
        with pytest.raises(InvalidInput, match="redis is down"):
            await it.lab.break_fault("deadletters")
        await it.lab.break_fault("down", "shop")
        assert (await it.component("shop"))["status"] == "unhealthy"
        states = {each["name"]: each["state"] for each in it.lab.status()["components"]}
        assert (states["redis"], states["kubernetes"], states["oauth"]) == ("down", "down", "up")
        assert len(await it.lab.mend_fault("all")) == 2
        await it.call("reset_circuit", target="orders", reason="it is back")
        after = await it.call("list_deadletters", target="orders")
        assert [i["id"] for i in after["items"]] == [i["id"] for i in before["items"]]
        assert (await it.component("shop"))["status"] == "healthy"


@pytest.mark.parametrize(("at", "target", "least_ms"), [("", "crm", 300), ("orders", "orders", 1)])
async def test_what_is_slow_answers_late(
    at: str, target: str, least_ms: float, tmp_path: Path
) -> None:
    async with bench(tmp_path) as it:
        await it.component(target)
        await it.lab.break_fault("slow", at)
        assert (await it.component(target))["latency_ms"] >= least_ms
        assert "slow" in {each["state"] for each in it.lab.status()["components"]}
        assert [each.fault for each in await it.lab.mend_fault("slow")] == ["slow"]
        assert (await it.component(target))["status"] == "healthy"


async def test_unknown_names_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        with pytest.raises(InvalidInput, match='Did you mean "quota"') as refused:
            await lab.break_fault("qouta")
        assert "bad-release" in refused.value.hint
        with pytest.raises(InvalidInput, match='Did you mean "orders"'):
            await lab.break_fault("down", "order")
        with pytest.raises(InvalidInput, match="cannot have the fault"):
            await lab.break_fault("quota", "shop")
        with pytest.raises(InvalidInput, match="Several components") as several:
            await lab.break_fault("unavailable")
        assert "--at" in several.value.hint
        with pytest.raises(InvalidInput, match="no fault of this name"):
            await lab.mend_fault("qouta")
        with pytest.raises(InvalidInput, match="No effect log"):
            lab.effects("redis")
        assert await lab.mend_fault("quota") == []


async def test_a_lab_with_platforms_has_an_app_service_that_breaks_and_is_cured(
    tmp_path: Path,
) -> None:
    async with running_lab(tmp_path, settle_s=0.02, platforms=True) as lab:
        settings = load_settings(lab.config, {}, {})
        async with open_app(settings, environ={}) as app:
            it = Bench(lab=lab, app=app)
            assert (await it.component("web"))["status"] == "healthy"
            await lab.break_fault("bad-deployment")
            broken = {"target": "web", "name": "shop-api"}
            await it.wait_for(lambda d: d["problem"] == "not_ready", "get_deployment", **broken)
            cured = await it.call("rollback_deployment", **broken, reason="release 43 is broken")
            assert cured["outcome"] == "verified"
            assert cured["evidence"]["revision"] == "rel-42"
        effects = [each["effect"] for each in lab.effects("azure")]
        assert effects == ["fault.injected", "client.redeploy", "platform.deployed"]


async def test_a_lab_with_platforms_has_a_project_at_railway(tmp_path: Path) -> None:
    async with running_lab(tmp_path, settle_s=0.02, platforms=True) as lab:
        settings = load_settings(lab.config, {}, {})
        async with open_app(settings, environ={}) as app:
            it = Bench(lab=lab, app=app)
            assert (await it.component("store"))["status"] == "healthy"
            backend = {"target": "store", "name": "ecommerce-backend"}
            await lab.break_fault("bad-release", "railway")
            await it.wait_for(lambda d: d["problem"] == "crash_loop", "get_deployment", **backend)
            cured = await it.call("rollback_deployment", **backend, reason="it crashes", wait_s=0)
            assert cured["outcome"] in ("verified", "unconfirmed")
            assert not [each for each in lab.effects("railway") if "elete" in each["effect"]]


async def test_a_second_lab_in_the_directory_is_refused(tmp_path: Path) -> None:
    async with running_lab(tmp_path):
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()}") as refused:
            async with running_lab(tmp_path):
                raise AssertionError
        assert "--directory" in refused.value.hint


async def test_a_second_start_has_the_ports_and_tokens_of_the_first(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        first = lab.config.read_text(encoding="utf-8")
        tokens = (tmp_path / "vault" / "sso-tokens.json").read_bytes()
    async with running_lab(tmp_path) as lab:
        assert lab.config.read_text(encoding="utf-8") == first
        assert (tmp_path / "vault" / "sso-tokens.json").read_bytes() == tokens
        secret = [p for p in tmp_path.rglob("*") if p.is_file() and "secret" in str(p)]
        assert secret
        assert all(p.stat().st_mode & 0o077 == 0 for p in secret)


async def test_a_shared_lab_keeps_the_state_in_valkey_and_postgresql(tmp_path: Path) -> None:
    async with running_lab(tmp_path, shared=True) as lab:
        settings = load_settings(lab.config, {}, {})
        assert settings.store.ledger.get_secret_value().startswith("postgresql://")
        for name in ("one", "two"):
            state = {"MCP_OPS_STATE_DIR": str(tmp_path / name)}
            settings = load_settings(lab.config, state, {})
            async with open_app(settings, environ={}) as app:
                it = Bench(lab=lab, app=app)
                assert (await it.call("get_health"))["overall"] != "unhealthy"
                found = await app.stores.ledger.search(AuditQuery(tool="get_health"))
        assert len(found) == 2  # the second server reads what the first recorded


async def test_a_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        url = next(c["url"] for c in lab.status()["components"] if c["name"] == "oauth")
    with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        async with bench(tmp_path) as it:
            assert url not in it.lab.config.read_text(encoding="utf-8")
            assert (await it.call("check_oauth_token", target="sso"))["valid"] is True


async def test_a_valkey_that_dies_is_started_again_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    async with running_lab(tmp_path, say=said.append) as lab:
        pid = lab.status()["pids"]["valkey"]
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while lab.status()["pids"]["valkey"] in (0, pid):
                await anyio.sleep(0.02)
    assert said == ["Valkey ended by itself; it is started again."]
