"""An incident, scripted: four faults are found and repaired through the tools alone.

The lab runs; `mcp-ops serve --transport stdio` runs under the default policy; the official client
is the agent, and answers what it is asked with yes. A person mends what no tool can, and uses a
browser once.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

from tests.clients.live import COMPONENTS, ROOT, LiveLab, Place, consent, live_lab
from tests.clients.official import MODERN, Conversation, Person, connected
from tests.clients.sweep import Said

WHY = "incident 42: orders are stuck"
# The ledger's times are cut to milliseconds.
_ROUNDED_S = 0.002
# What dead letters of the lab carry, and nobody may see.
_IN_ITEMS = re.compile(r"hunter2-\d+|abcdefghij\d+klmnop")


@dataclass(slots=True, kw_only=True)
class Agent:
    """The agent: a client, and all that it was told."""

    talk: Conversation
    told: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    writes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def call(self, tool: str, **arguments: Any) -> Said:
        """A tool call, whatever it answers."""
        answer = await self.talk.call(tool, arguments)
        self.calls[tool] += 1
        self.told.append(json.dumps(answer.text))
        if "outcome" in answer.text:
            self.writes.append((tool, answer.text))
        return answer

    async def do(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool call that succeeds."""
        answer = await self.call(tool, **arguments)
        assert not answer.is_error, (tool, answer.text)
        return answer.text

    async def fails(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that doesn't succeed."""
        answer = await self.call(tool, **arguments)
        assert answer.is_error, (tool, answer.text)
        error: dict[str, Any] = answer.text["error"]
        return error


async def test_four_faults_are_found_and_repaired_through_the_tools_alone(tmp_path: Path) -> None:
    with live_lab(tmp_path / "lab") as lab:
        place = Place(config=lab.config, state=tmp_path / "state")
        secrets = Secrets(lab)
        person = Person()
        before = {name: len(lab.effects(name)) for name in COMPONENTS}
        async with connected(place, "stdio", MODERN, person=person) as talk:
            agent = Agent(talk=talk)
            assert (await agent.do("get_health"))["overall"] == "healthy"
            await quota_runs_out(agent, lab, place)
            await token_is_revoked(agent, lab, secrets)
            await release_is_bad(agent, lab)
            await dead_letters_wait_behind_an_open_circuit(agent, lab)
            after = await agent.do("get_health")
            assert {each["status"] for each in after["components"]} == {"healthy"}, after
            ledger = await audit_of(agent)
        the_ledger_has_every_call(agent, ledger)
        effects = [e for name in COMPONENTS for e in lab.effects(name)[before[name] :]]
        the_effects_are_those_that_were_claimed(effects, ledger)
        # Two of the lab, three pairs of tokens, a verifier and a code.
        assert len(secrets.seen) == 10
        verified = await anyio.run_process(
            place.command("audit", "verify"), env=place.environment, cwd=ROOT
        )
        assert b"intact" in verified.stdout
        assert secrets.left_in([*agent.told, *person.asked, verified.stdout.decode()]) == []
        assert secrets.left_in([place.stderr.read_text(encoding="utf-8")]) == []
        kept = [each.read_bytes() for each in place.state.rglob("*") if each.is_file()]
        assert secrets.left_in(each.decode("utf-8", "replace") for each in kept) == []


class Secrets:
    """Every secret of the lab that comes up during the incident."""

    def __init__(self, lab: LiveLab) -> None:
        self._lab = lab
        self.seen: set[str] = set()
        self.look()

    def look(self) -> None:
        """Remember what the vault holds now, and the lab's own secrets."""
        directory = self._lab.config.parent
        for path in (directory / "vault").glob("*.json"):
            self._take(json.loads(path.read_text(encoding="utf-8")))
        for name in ("client-secret", "kubernetes-token"):
            self.seen.add((directory / "secrets" / name).read_text(encoding="utf-8").strip())

    def _take(self, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name in ("access_token", "refresh_token", "verifier", "code"):
                    self.seen.add(str(inner))
                else:
                    self._take(inner)

    def left_in(self, texts: Iterable[str]) -> list[str]:
        """Which of them stand somewhere in these texts."""
        whole = "\n".join(texts)
        return [s for s in self.seen if s in whole] + _IN_ITEMS.findall(whole)


async def quota_runs_out(agent: Agent, lab: LiveLab, place: Place) -> None:
    """Usage moves the target's mode; the agent saves another target's quota by a mode of its own,
    which a person takes back."""
    for fault, level, mode in (
        ("quota", "restrict", "restrictive"),
        ("quota-critical", "critical", "critical"),
    ):
        lab.break_fault(fault)
        usage = await agent.do("check_api_usage", target="crm")
        assert (usage["worst"]["name"], usage["worst"]["level"]) == ("DailyApiRequests", level)
        assert usage["guard"] == {"mode": mode, "changed": True}
        assert usage["next_steps"][0]["tool"] == "list_hot_tools"
        (in_force,) = (await agent.do("get_guard_status"))["modes"]
        assert (in_force["scope"], in_force["mode"]) == ("crm", mode)
        assert in_force["source"] == "usage"
    stricter = {"target": "orders", "mode": "critical", "reason": WHY}
    assert (await agent.do("set_guard_mode", **stricter))["mode"] == "critical"
    refused = await agent.fails("list_deadletters", target="orders")
    assert (refused["code"], refused["executed"]) == ("critical", "no")
    assert WHY in refused["message"]
    assert (await agent.do("check_api_usage", target="crm"))["guard"]["changed"] is False

    lab.mend_fault("quota-critical")
    usage = await agent.do("check_api_usage", target="crm")
    assert usage["guard"] == {"mode": "normal", "changed": True}
    looser = {"target": "orders", "mode": "normal", "reason": WHY}
    question = await agent.fails("set_guard_mode", **looser)
    assert question["code"] == "approval_required"
    asked = question["details"]["approval_id"]
    await anyio.to_thread.run_sync(approve_at_a_terminal, place, asked)
    assert (await agent.do("get_operation", operation_id=asked))["state"] == "approved"
    assert (await agent.do("set_guard_mode", **looser))["mode"] == "normal"
    assert (await agent.do("get_guard_status"))["modes"] == []


async def token_is_revoked(agent: Agent, lab: LiveLab, secrets: Secrets) -> None:
    """A refresh says that a person must authorize again, and tells how."""
    change = {"target": "sso", "reason": WHY}
    before = await agent.do("check_oauth_token", target="sso")
    lab.break_fault("token-revoked")
    found = await agent.do("check_oauth_token", target="sso")
    assert (before["valid"], found["valid"]) == (True, False)
    assert found["next_steps"][0]["tool"] == "refresh_oauth_token"
    refused = await agent.fails("refresh_oauth_token", **change)
    assert refused["code"] == "reauthorization_required"
    assert "begin_oauth_authorization" in refused["hint"]
    begun = await agent.do("begin_oauth_authorization", **change)
    secrets.look()
    code, state = await consent(begun["url"])
    secrets.seen.add(code)
    granted = await agent.do("complete_oauth_authorization", code=code, state=state, **change)
    secrets.look()
    assert granted["outcome"] == "verified"
    after = await agent.do("check_oauth_token", target="sso")
    assert after["valid"]
    assert after["fingerprint"] == granted["fingerprint"] != before["fingerprint"]


async def release_is_bad(agent: Agent, lab: LiveLab) -> None:
    """A restart cures the wedged workers; of the bad release it says that it did not."""
    lab.break_fault("bad-release")
    await until(agent, name="worker", problem="not_ready")
    await until(agent, name="api", problem="crash_loop")
    listed = (await agent.do("list_deployments"))["items"]
    assert {each["name"] for each in listed if each["problem"] != "none"} == {"api", "worker"}
    logs = await agent.do("get_deployment_logs", name="api", previous=True)
    assert "KeyError: 'PAYMENTS_URL'" in [line["text"] for line in logs["items"]]
    cured = await agent.do("restart_deployment", name="worker", reason=WHY)
    assert (cured["outcome"], cured["ready"]) == ("verified", "2/2")
    futile = await agent.do("restart_deployment", name="api", reason=WHY)
    assert futile["outcome"] == "failed"
    assert "crash_loop" in futile["problem"]
    assert futile["next_steps"][0]["tool"] == "get_deployment"

    lab.mend_fault("bad-release")
    # The same call again is the same write: only a new key means a new restart.
    assert (await agent.do("restart_deployment", name="api", reason=WHY))["replayed"]
    again = {"name": "api", "reason": WHY, "idempotency_key": "after the rollback"}
    assert (await agent.do("restart_deployment", **again))["outcome"] == "verified"
    await until(agent, name="api", problem="none")


async def dead_letters_wait_behind_an_open_circuit(agent: Agent, lab: LiveLab) -> None:
    """The circuit opens, is closed once the target is back, and each item runs once."""
    lab.break_fault("deadletters")
    stats = await agent.do("get_deadletter_stats", target="orders")
    assert stats["level"] == "warning"
    lab.break_fault("down", "redis")
    codes = []
    with anyio.fail_after(30):
        while "circuit_open" not in codes:
            codes.append((await agent.fails("get_deadletter_stats", target="orders"))["code"])
    assert set(codes) == {"unreachable", "circuit_open"}
    change = {"target": "orders", "reason": WHY}
    retry = {**change, "failure_type": "timeout", "rate_per_s": 50}
    assert (await agent.fails("retry_deadletters", **retry))["code"] == "circuit_open"
    circuits = (await agent.do("list_circuits"))["circuits"]
    assert [each["target"] for each in circuits if each["state"] == "open"] == ["orders"]

    lab.mend_fault("down", "redis")
    closed = await agent.do("reset_circuit", **change)
    assert (closed["previous"], closed["state"]) == ("open", "closed")
    page = await agent.do("list_deadletters", target="orders", failure_type="timeout")
    waiting = {each["id"] for each in page["items"]}
    retried = await agent.do("retry_deadletters", **retry)
    assert (retried["retried"], retried["remaining"]) == (len(waiting), 0)
    assert (await agent.do("retry_deadletters", **retry))["replayed"]
    # An operation's key is the item's id and the number of the try.
    keys = [line["operation"] for line in lab.effects("coordinator", "tool-executed")]
    ran = Counter(key.rpartition("-")[0] for key in keys)
    assert ran == Counter(waiting)
    left = await agent.do("list_deadletters", target="orders", failure_type="timeout")
    assert left["items"] == []


async def until(agent: Agent, *, name: str, problem: str) -> None:
    """Look at a workload until it has a problem; the platform needs its time for that."""
    with anyio.fail_after(30):
        while (await agent.do("get_deployment", name=name))["problem"] != problem:
            await anyio.sleep(0.5)  # looks are counted: 60 a minute


def approve_at_a_terminal(place: Place, approval_id: str) -> None:
    """What a person does: a terminal, a look, the first characters of the id."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            place.command("approvals", "approve", approval_id, "--reason", "it looks right"),
            env=place.environment,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        with process:
            shown = b""
            while b"to approve: " not in shown:
                shown += os.read(ours, 4096)
            os.write(ours, approval_id[:4].encode() + b"\n")
            assert process.wait(timeout=30) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"set_guard_mode" in shown


async def audit_of(agent: Agent) -> list[dict[str, Any]]:
    """The whole ledger, newest first, page by page."""
    calls = Counter(agent.calls)
    items: list[dict[str, Any]] = []
    cursor = ""
    while not items or cursor:
        page = await agent.do("search_audit", limit=200, cursor=cursor)
        items += page["items"]
        cursor = page["next_cursor"]
    agent.calls = calls
    return items


def the_ledger_has_every_call(agent: Agent, ledger: list[dict[str, Any]]) -> None:
    """Each call ended once; a question to the client is a line of its own."""
    mine = [each for each in ledger if each["principal"].startswith("agent:")]
    ended = [each for each in mine if each["kind"] == "ended" and each["verdict"] != "asked"]
    found = Counter(each["tool"] for each in ended if each["tool"] != "search_audit")
    # The guard looks at what is there when a person is asked, and again before it runs.
    assert found == agent.calls + Counter(set_guard_mode=2)
    ids = [each["call_id"] for each in ended]
    assert len(ids) == len(set(ids))
    began = {each["call_id"] for each in mine if each["kind"] == "began"}
    ends = {each["call_id"]: each["outcome"] for each in ended if each["call_id"] in began}
    assert set(ends) == began
    claimed = {
        answer["audit_id"]: answer["outcome"]
        for _, answer in agent.writes
        if not answer["replayed"]
    }
    # A write that was answered with an error has begun too: the refused refresh.
    assert {call: outcome for call, outcome in ends.items() if call in claimed} == claimed
    assert [ends[call] for call in began - set(claimed)] == ["failed"]


# Which tool does what an effect log shows; the rest is the person, the fault or the platform.
_DONE_BY = {
    "tool-executed": "retry_deadletters",
    "granted": "complete_oauth_authorization",
    "refreshed": "refresh_oauth_token",
    "client.patch": "restart_deployment",
}


def the_effects_are_those_that_were_claimed(
    effects: list[dict[str, Any]], ledger: list[dict[str, Any]]
) -> None:
    """Every effect lies between the intent and the end of one write of its tool."""
    times = {"began": dict[str, float](), "ended": dict[str, float]()}
    tools = {each["call_id"]: each["tool"] for each in ledger if each["kind"] == "began"}
    for each in ledger:
        if each["call_id"] in tools and each["kind"] in times:
            times[each["kind"]][each["call_id"]] = datetime.fromisoformat(each["at"]).timestamp()
    ours = [line for line in effects if line["effect"] in _DONE_BY]
    others = {line["effect"] for line in effects} - set(_DONE_BY)
    assert not [name for name in others if name.startswith("client.")]
    counts: Counter[str] = Counter()
    for line in ours:
        during = {
            call
            for call, tool in tools.items()
            if tool == _DONE_BY[line["effect"]]
            and times["began"][call] - _ROUNDED_S <= line["at"] <= times["ended"][call] + _ROUNDED_S
        }
        assert len(during) == 1, line
        counts[line["effect"]] += 1
    assert counts["client.patch"] == 3
    assert counts["granted"] == 1
    assert counts["refreshed"] == 0
