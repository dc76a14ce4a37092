"""Secrets in the systems themselves: what comes of them over each transport and into each file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from redis import Redis

from mcp_ops.errors import Upstream
from mcp_ops.guard.settle import clean
from mcp_ops.lab.redis import QUEUE_KEY
from mcp_ops.redact import MASK, Redactor
from tests.clients.conftest import lab, shared_lab  # noqa: F401  # fixtures
from tests.clients.live import ROOT, LiveLab, Place, serving
from tests.clients.official import MODERN, Conversation, Person, connected, remote
from tests.kubernetes_lab import answering, changed
from tests.kubernetes_lab import lab as kubernetes_lab
from tests.secrets_of_each_kind import Sample, samples
from tests.security.test_canaries import left_in

# What a whole page may show; each is as bad as the others.
PLANTED = [*samples()[::6], *samples()[-4:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Talkative(Place):
    """A place whose server says all that it can in its log."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super(Talkative, self).environment, "MCP_OPS_LOG_LEVEL": "DEBUG"}


@pytest.fixture
def place(lab: LiveLab, tmp_path: Path) -> Talkative:  # noqa: F811  # the fixture
    plant(lab)
    return Talkative(config=lab.config, state=tmp_path / "state")


def plant(running: LiveLab) -> None:
    """Dead letters with a secret in every field that is free text."""
    url = (running.lab.place.directory / "secrets" / "redis-url").read_text(encoding="utf-8")
    with Redis.from_url(url) as client:
        for number, sample in enumerate(PLANTED):
            item = {
                "id": f"00000000-0000-4000-8000-{number:012d}",
                "failure_type": "timeout",
                "operation": "oci_cost_get_summary",
                "error": sample.text,
                "params": {"text": sample.text, "inner": [{"text": sample.text}]},
                "context": {"said": sample.text},
                "timestamp": f"2030-01-01T00:00:{number % 60:02d}",
                "retry_count": 0,
                "resolved": False,
                "resolution_notes": sample.text,
            }
            client.zadd(QUEUE_KEY, {json.dumps(item): 1_893_456_000 + number})


def secrets_of(running: LiveLab) -> set[str]:
    """The lab's own: what is configured, and the tokens in its vault."""
    directory = running.config.parent
    found = {
        (directory / "secrets" / name).read_text(encoding="utf-8").strip()
        for name in ("client-secret", "kubernetes-token")
    }
    for path in (directory / "vault").glob("*.json"):
        held = json.loads(path.read_text(encoding="utf-8"))
        found |= {str(held[name]) for name in ("access_token", "refresh_token") if name in held}
    return found


async def conversation(talk: Conversation) -> list[str]:
    """All that a client sees of the planted items, and of calls that fail."""
    told = []
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_health", {}),
        ("list_deadletters", {"target": "orders", "limit": 100}),
        ("get_deadletter_stats", {"target": "orders"}),
        ("check_oauth_token", {"target": "sso"}),
        ("check_api_usage", {"target": "crm"}),
        ("refresh_oauth_token", {"target": "sso", "reason": PLANTED[0].text}),
        ("get_deployment_logs", {"name": "worker", "tail": 20}),
        ("get_deployment", {"name": "worker"}),
        ("complete_oauth_authorization", {
            "target": "sso", "code": PLANTED[1].secret[:60], "state": "x" * 30, "reason": "why",
        }),
        ("get_deadletter", {"target": "orders", "id": PLANTED[2].secret[:40]}),
        ("search_audit", {"limit": 100}),
    ]  # fmt: skip
    calls += [
        ("get_deadletter", {"target": "orders", "id": f"00000000-0000-4000-8000-{n:012d}"})
        for n in range(len(PLANTED))
    ]
    for tool, arguments in calls:
        told.append(json.dumps((await talk.call(tool, arguments)).text))
    return told


@pytest.mark.parametrize("transport", ["stdio", "sse", "http"])
async def test_nothing_planted_in_a_system_comes_over_a_transport(
    lab: LiveLab,  # noqa: F811  # the fixture
    place: Talkative,
    transport: str,
) -> None:
    person = Person()
    health, commands = "", [""]
    with anyio.fail_after(120):
        if transport == "stdio":
            async with connected(place, "stdio", MODERN, person=person) as talk:
                told = await conversation(talk)
            commands = await printed(place)
        else:
            async with serving(place, transport) as server:
                url = server.endpoint(transport)
                async with remote(url, transport, MODERN, person=person) as talk:
                    told = await conversation(talk)
                async with httpx2.AsyncClient(trust_env=False) as browser:
                    health = (await browser.get(f"{server.url}/health")).text
    log = place.stderr.read_text(encoding="utf-8")
    state = b"".join(each.read_bytes() for each in place.state.rglob("*") if each.is_file())
    kept = state.decode("utf-8", "replace")
    places = {
        "results": "\n".join(told),
        "questions": "\n".join(person.asked),
        "health": health,
        "commands": "\n".join(commands),
        "log": log,
        "state": kept,
    }
    assert {name: left_in(text) for name, text in places.items() if left_in(text)} == {}
    own = secrets_of(lab)
    assert {name for name, text in places.items() if any(each in text for each in own)} == set()
    assert '"level":"debug"' in log
    assert places["results"].count(MASK) > len(PLANTED)


async def printed(place: Place) -> list[str]:
    """What the operator's commands say of it."""
    return [
        await said_by(place, *words)
        for words in (("audit", "tail", "--json"), ("doctor",), ("mode", "show"))
    ]


async def said_by(place: Place, *words: str) -> str:
    """What a command of the operator prints."""
    done = await anyio.run_process(
        place.command(*words), env=place.environment, cwd=ROOT, check=False
    )
    return (done.stdout + done.stderr).decode()


def shown(result: Any, redactor: Redactor) -> str:
    """A result as it leaves the guard."""
    return json.dumps(clean(result.model_dump(mode="json"), redactor))


async def test_nothing_in_logs_or_variables_of_kubernetes_is_shown(tmp_path: Path) -> None:
    lines = [line for sample in samples() for line in sample.text.split("\n")]
    body = "".join(f"2026-10-10T10:10:10.{n:09d}Z {line}\n" for n, line in enumerate(lines))
    variables = [{"name": "DB_PASSWORD", "value": sample.secret} for sample in samples()]

    def with_variables(answer: Any) -> None:
        spec = answer["spec"]["template"]["spec"]["containers"][0]
        spec["env"] = variables
        spec["image"] = f"registry.example/app:{samples()[0].secret}"
        answer["metadata"].setdefault("annotations", {})["note"] = json.dumps(variables)

    async with kubernetes_lab(tmp_path) as place:
        redactor = Redactor()
        place.between.inject("GET", "/deployments/worker", *[changed(with_variables)] * 4)
        detail = await place.platform.describe("worker")
        place.between.inject("GET", "/log", *[answering(200, body.encode())] * 20)
        logs = await place.platform.logs(
            "worker", since_minutes=60, tail=500, grep="", level="", previous=False
        )
        refused = {"kind": "Status", "code": 403, "message": samples()[5].text}
        place.between.inject("GET", "/deployments/worker", *[answering(403, refused)] * 2)
        with pytest.raises(Upstream) as caught:
            await place.platform.describe("worker")
    assert left_in(shown(detail, redactor)) == []
    page = shown(logs, redactor)
    assert page.count(MASK) > 50
    assert left_in(page) == []
    said = redactor.text(f"{caught.value} {caught.value.said}")
    assert left_in(said) == []


def test_the_samples_are_of_every_kind() -> None:
    assert len({sample.name for sample in samples()}) == len(samples()) > 80
    assert all(
        isinstance(sample, Sample) and sample.secret in sample.text for sample in samples()[:30]
    )
