"""The approval page and the metrics of several workers: one of them has the page, each has its own
numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2

from tests.approval_desk import SIGNED_IN, Browser
from tests.over_http import bearer, modern
from tests.test_workers import ADA, CONFIG, KEY, address, served, steered

COUNT = 3
APPROVING = f"""
{CONFIG}
[[server.keys]]
name = "ada"
key = "env:WORKERS_ADA"
scopes = ["ops:read", "ops:write", "ops:approve"]
[telemetry]
prometheus = true
"""


async def change(http: httpx2.AsyncClient, mode: str) -> dict[str, Any]:
    """Ask for a mode, of which a looser one has to be approved; the result."""
    arguments = {"mode": mode, "reason": "because a test wants it"}
    head, body = modern("set_guard_mode", arguments=arguments)
    answer = await http.post("/mcp", headers={**head, **bearer(KEY)}, json=body)
    result: dict[str, Any] = answer.json()["result"]
    return result


async def test_a_person_approves_over_connections_of_all_workers(tmp_path: Path) -> None:
    async with served(tmp_path, APPROVING, count=COUNT) as (process, said):
        url = address(said)
        async with steered(url, 3, KEY) as http:
            assert not (await change(http, "restrictive"))["isError"]
            refusal = await change(http, "normal")
            assert refusal["isError"], refusal
            (question,) = set(re.findall(r'approval_id":\s*"(\w+)"', refusal["content"][0]["text"]))
        async with steered(url, 2, KEY) as http:
            browser = Browser(http, url)
            wrong = await browser.post("/sign-in", {"secret": KEY})
            assert wrong.status_code == 401
            # The connection is the first worker's now. Sign-in takes two requests.
            assert (await browser.sign_in(ADA)).status_code == SIGNED_IN
        for worker in (1, 2, 3, 2):
            async with steered(url, worker, KEY) as browser.http:
                shown = await browser.get(f"/{question}")
                assert shown.status_code == 200
                assert "set_guard_mode" in shown.text
        async with steered(url, 3, KEY) as browser.http:
            assert (await browser.answer(question, "approve")).status_code == SIGNED_IN
        async with steered(url, 2, KEY) as http:
            assert not (await change(http, "normal"))["isError"]
        process.terminate()
        assert await process.wait() == 0


async def test_each_worker_can_be_asked_for_its_metrics(tmp_path: Path) -> None:
    async with served(tmp_path, APPROVING, count=COUNT) as (_, said):
        url = address(said)
        instances = []
        for worker in range(1, COUNT + 1):
            async with steered(url, worker % COUNT + 1, KEY) as http:
                answer = await http.get(f"/metrics?worker={worker}", headers=bearer(KEY))
                assert answer.status_code == 200
                instances += re.findall(r'service_instance_id="([^"]+)"', answer.text)
                own = await http.get("/metrics", headers=bearer(KEY))
                assert instances[-1] in own.text  # the connection is there now
                for other in (0, 9, "x"):
                    unknown = await http.get(f"/metrics?worker={other}", headers=bearer(KEY))
                    assert unknown.status_code == 404
        assert len(set(instances)) == COUNT
