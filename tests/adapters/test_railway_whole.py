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
