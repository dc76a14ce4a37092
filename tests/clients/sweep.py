"""Every tool once, with sensible arguments, whichever client calls them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator

from mcp_ops.catalog import ALL_TOOLS
from tests.clients.live import LiveLab, Place, consent

REASON = "the sweep of all tools"
# The lab's clusters have no slots; `mcp-ops lab --platforms` adds a platform that has.
PUBLISHED = frozenset(ALL_TOOLS) - {"swap_slots"}
# What the default policy has a person approve.
DESTROYS = ("discard_deadletters", "stop_deployment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a tool answered: the text as JSON, and the structured content where there is one."""

    text: dict[str, Any]
    structured: dict[str, Any] | None
    is_error: bool

    @property
    def code(self) -> str:
        """The code of an error; empty for a success."""
        return str(self.text["error"]["code"]) if self.is_error else ""


CallTool = Callable[[str, dict[str, Any]], Awaitable[Said]]


def said(text: str, structured: dict[str, Any] | None, is_error: bool) -> Said:
    """From what a client's result holds."""
    return Said(text=json.loads(text), structured=structured, is_error=is_error)


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Calls tools, gets approvals where they are wanted, holds results against their schemas.

    `schemas` are the output schemas by tool.
    """

    call: CallTool
    place: Place
    schemas: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    approved: list[str] = field(default_factory=list)

    async def do(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A call that succeeds, once a person approved it where one must."""
        answer = await self.call(tool, arguments)
        if answer.code == "approval_required":
            question = answer.text["error"]["details"]["approval_id"]
            await self.place.approve(question)
            self.approved.append(tool)
            status = await self.do("get_operation", operation_id=question)
            assert status["state"] == "approved"
            answer = await self.call(tool, arguments)
        assert not answer.is_error, (tool, answer.text)
        Draft202012Validator(self.schemas[tool]).validate(answer.text)
        assert answer.structured == answer.text, tool
        self.answers[tool] = answer.text
        return answer.text

    async def everything(self, lab: LiveLab) -> None:
        """All tools; afterwards `answers` has one of each."""
        await self._guard()
        await self._tokens()
        await self._deadletters(lab)
        await self._deployments()
        await self._changes()
        await self._jobs()
        assert (await self.do("check_api_usage", target="crm"))["limits"]
        called: set[str] = set()
        page: dict[str, Any] = {"next_cursor": ""}
        while page["next_cursor"] or not called:
            page = await self.do("search_audit", limit=100, cursor=page["next_cursor"])
            called |= {item["tool"] for item in page["items"]}
        assert called >= set(self.answers) - {"search_audit"}

    async def _guard(self) -> None:
        assert (await self.do("get_health"))["overall"] == "healthy"
        await self.do("list_hot_tools")
        await self.do("list_approvals")
        change = {"target": "vault", "reason": REASON}
        isolated = await self.do("isolate_target", **change)
        assert isolated["outcome"] == "verified"
        circuits = (await self.do("list_circuits"))["circuits"]
        assert [c["state"] for c in circuits if c["target"] == "vault"] == ["isolated"]
        closed = await self.do("reset_circuit", **change)
        assert closed["state"] == "closed"
        stricter = await self.do("set_guard_mode", mode="restrictive", **change)
        assert stricter["mode"] == "restrictive"
        fewer = await self.do("set_bulkhead_limit", max_concurrent=2, minutes=5, **change)
        assert (fewer["previous"], fewer["max_concurrent"]) == (10, 2)
        status = await self.do("get_guard_status")
        modes = [(m["scope"], m["mode"]) for m in status["modes"]]
        places = [(p["target"], p["max_concurrent"]) for p in status["bulkheads"] if "by" in p]
        assert (modes, places) == ([("vault", "restrictive")], [("vault", 2)])

    async def _tokens(self) -> None:
        change = {"target": "sso", "reason": REASON}
        before = await self.do("check_oauth_token", target="sso")
        assert before["valid"]
        refreshed = await self.do("refresh_oauth_token", **change)
        assert refreshed["outcome"] == "verified"
        begun = await self.do("begin_oauth_authorization", **change)
        code, state = await consent(begun["url"])
        granted = await self.do("complete_oauth_authorization", code=code, state=state, **change)
        assert granted["outcome"] == "verified"
        prints = {before["fingerprint"], refreshed["fingerprint"], granted["fingerprint"]}
        assert len(prints) == 3

    async def _deadletters(self, lab: LiveLab) -> None:
        change = {"target": "orders", "reason": REASON}
        ran = len(lab.effects("coordinator", "tool-executed"))
        stats = await self.do("get_deadletter_stats", target="orders")
        items = (await self.do("list_deadletters", target="orders"))["items"]
        assert stats["total"] == len(lab.deadletters())
        first, second = items[0]["id"], items[1]["id"]
        assert (await self.do("get_deadletter", target="orders", id=first))["item"]["id"] == first
        retried = await self.do("retry_deadletters", ids=[first], rate_per_s=50, **change)
        # The coordinator said yes; that it worked shows in its own effect log only.
        assert (retried["retried"], retried["outcome"]) == (1, "unconfirmed")
        assert len(lab.effects("coordinator", "tool-executed")) == ran + 1
        late = {"operation_id": retried["audit_id"], "reason": REASON}
        stopped = await self.call("cancel_operation", late)
        assert stopped.code == "conflict"  # it is over
        self.answers["cancel_operation"] = stopped.text
        held = len(lab.deadletters())
        discarded = await self.do("discard_deadletters", ids=[second], **change)
        assert discarded["discarded"] == 1
        assert len(lab.deadletters()) == held - 1
        export = discarded["export_id"]
        assert (await self.do("restore_deadletters", export_id=export, **change))["restored"] == 1
        assert len(lab.deadletters()) == held

    async def _deployments(self) -> None:
        names = [each["name"] for each in (await self.do("list_deployments"))["items"]]
        assert "worker" in names
        shown = await self.do("get_deployment", name="worker")
        assert shown["ready"]
        assert (await self.do("get_deployment_logs", name="worker", tail=5))["items"]
        restarted = await self.do("restart_deployment", name="worker", reason=REASON)
        assert restarted["outcome"] == "verified"
        assert len((await self.do("list_revisions", name="worker"))["items"]) > 1
        instance = (await self.do("get_deployment", name="worker"))["instances"][0]["name"]
        await self._plan("restart_instance", "worker", instance=instance)
        await self._plan("rollback_deployment", "worker")

    async def _changes(self) -> None:
        """Changes that are not waited for, and plans: the budgets allow three writes of one
        workload, and twenty of one principal."""
        await self._plan("set_autoscaling", "api", min=1, max=9)
        wanted = (await self.do("get_deployment", name="web"))["desired"]
        await self._change("scale_deployment", "web", replicas=5 - wanted, wait_s=0)
        await self._plan("set_resources", "web", memory="192Mi")
        assert (await self.do("list_config", name="web"))["name"] == "web"
        key = f"SWEEP_{secrets.token_hex(4)}".upper()
        await self._change("set_config", "web", key=key, value="on", wait_s=0)
        await self._change("pause_rollout", "api")
        await self._change("resume_rollout", "api", wait_s=0)
        await self._change("stop_deployment", "statefulset/postgres", wait_s=0)
        await self._change("start_deployment", "statefulset/postgres", wait_s=0)

    async def _change(self, tool: str, name: str, **arguments: Any) -> None:
        changed = await self.do(tool, name=name, reason=REASON, **arguments)
        assert changed["outcome"] in ("verified", "unconfirmed"), changed
        assert changed["evidence"], changed

    async def _plan(self, tool: str, name: str, **arguments: Any) -> None:
        planned = await self.do(tool, name=name, reason=REASON, dry_run=True, **arguments)
        assert planned["outcome"] == "planned"
        assert planned["plan"], planned

    async def _jobs(self) -> None:
        shop = {"target": "shop"}
        jobs = {each["name"]: each for each in (await self.do("list_jobs", **shop))["items"]}
        assert "nightly-sync" in jobs
        await self._change("run_job", "report", wait_s=0, **shop)
        await self._change("suspend_job", "nightly-sync", **shop)
        await self._change("resume_job", "nightly-sync", **shop)
        await self._change("stop_job", "reindex", wait_s=0, **shop)
        # The first sweep of a lab stops what runs; after it there is nothing, and nobody is asked.
        assert ("stop_job" in self.approved) == bool(jobs["reindex"]["running"])
