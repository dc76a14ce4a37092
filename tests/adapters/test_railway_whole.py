"""A Railway target of a configuration file, through the guard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.app import open_app
from mcp_ops.call import Caller, Question
from mcp_ops.commands.session import OPERATOR_SCOPES
from mcp_ops.lab.railway.api import PATH
from mcp_ops.settings_file import load_settings
from tests.kubernetes_lab import answering
from tests.railway_lab import ACCOUNT, BACKEND, TOKEN, Lab, lab

CONFIG = """
state_dir = "state"
[tools]
profile = "full"
[targets.store]
kind = "railway"
environment = "dev"
token = "env:RAILWAY_TOKEN"
url = "{url}"
steady_s = 0
[targets.store.required_variables]
"ecommerce-backend" = ["ADMIN_KEY"]
"""


@asynccontextmanager
async def calling(place: Lab, token: str, *, asks: bool = True) -> AsyncIterator[Any]:
    config = place.directory / "mcp-ops.toml"
    config.write_text(CONFIG.format(url=f"{place.url}{PATH}"), encoding="utf-8")
    environ = {"RAILWAY_TOKEN": token}

    async def yes(question: Question) -> Any:
        return "accept"

    caller = Caller(
        principal="operator:dana",
        scopes=OPERATOR_SCOPES,
        channel="cli",
        client="tests",
        ask=yes if asks else None,
        progress=None,
    )
    async with open_app(load_settings(config, environ, {}), environ=environ) as app:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            with anyio.fail_after(30):
                found: dict[str, Any] = json.loads((await app.call(tool, arguments, caller)).text)
            return found

        yield call


async def test_a_service_is_looked_at_and_restarted_through_the_guard(tmp_path: Path) -> None:
    async with lab(tmp_path) as place, calling(place, TOKEN) as call:
        listed = await call("list_deployments")
        assert listed["items"][0]["name"] == BACKEND
        assert (await call("list_config", name=BACKEND))["missing"] == ["ADMIN_KEY"]
        done = await call("restart_deployment", name=BACKEND, reason="it answers slowly")
        assert done["outcome"] == "verified", done
        again = await call("restart_deployment", name=BACKEND, reason="once more")
        assert again["replayed"]
        assert place.effects() == ["deploymentRestart"]


async def test_what_counts_as_destroying_waits_for_a_person(tmp_path: Path) -> None:
    async with lab(tmp_path) as place, calling(place, TOKEN, asks=False) as call:
        for tool, more in (
            ("stop_deployment", {}),
            ("set_config", {"key": "DB_POOL_SIZE", "value": "50", "overwrite": True}),
        ):
            refused = await call(tool, name=BACKEND, reason="try", **more)
            assert refused["error"]["code"] == "approval_required", refused
        assert place.effects() == []


async def test_health_tells_of_a_token_that_reaches_too_far(tmp_path: Path) -> None:
    async with lab(tmp_path) as place, calling(place, ACCOUNT) as call:
        health = await call("get_health")
        (store,) = (each for each in health["components"] if each["name"] == "store")
        assert store["status"] != "healthy"
        assert "account" in json.dumps(store)
        refused = await call("list_deployments")
        assert refused["error"]["code"] == "forbidden"
        assert ACCOUNT not in json.dumps([health, refused])


async def test_a_caller_that_goes_away_in_the_middle_gets_the_recorded_answer_later(
    tmp_path: Path,
) -> None:
    """Rows F1 and F3: the write ends in its own task, and the call that is sent again joins it."""
    arrived, released = anyio.Event(), anyio.Event()

    async def held(app: Any, scope: Any, receive: Any, send: Any) -> None:
        arrived.set()
        await released.wait()
        await app(scope, receive, send)

    async with lab(tmp_path) as place, calling(place, TOKEN) as call:
        place.between.inject("Restart", held)
        async with anyio.create_task_group() as tasks:
            gone = anyio.CancelScope()

            async def first() -> None:
                with gone:
                    await call("restart_deployment", name=BACKEND, reason="it hangs")

            tasks.start_soon(first)
            with anyio.fail_after(20):
                await arrived.wait()
            gone.cancel()
        tasks_done: list[dict[str, Any]] = []

        async def again() -> None:
            tasks_done.append(
                await call("restart_deployment", name=BACKEND, reason="it hangs, I said")
            )

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(again)
            await anyio.lowlevel.checkpoint()
            released.set()
        assert [each["outcome"] for each in tasks_done] == ["verified"] * 3
        assert all(each["replayed"] for each in tasks_done)
        assert place.effects() == ["deploymentRestart"]


async def test_of_several_services_each_outcome_is_its_own(tmp_path: Path) -> None:
    """Row F19: one of them fails in the middle."""
    problem = {"errors": [{"message": "Problem processing request"}]}
    async with lab(tmp_path) as place, calling(place, TOKEN) as call:
        outcomes = []
        for number, name in enumerate((BACKEND, "postgres", "redis", "store-front")):
            if number == 2:
                place.between.inject("Restart", answering(200, problem))
            done = await call("restart_deployment", name=name, reason="all of them hang")
            outcomes.append(done["outcome"])
        assert outcomes == ["verified", "verified", "unknown", "verified"]
        assert place.effects() == ["deploymentRestart"] * 3
