"""How the App Service adapter sets one setting of an app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import BadAnswer, Conflict, InvalidInput
from mcp_ops.tools.deployment_config import set_config
from tests.adapters.azure_writes import ROWS
from tests.azure_lab import lab
from tests.kubernetes_lab import answering, write

BY_NAME = {row.name: row for row in ROWS}


async def test_setting_that_is_there_needs_overwrite_and_others_are_kept(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        platform = place.platform

        async def plan(key: str, value: str, overwrite: bool) -> Plan:
            return await platform.plan_config(
                "shop-api", key, value=value, value_ref="", overwrite=overwrite
            )

        with pytest.raises(InvalidInput, match="write __"):
            await plan("Logging:Level", "debug", False)
        with pytest.raises(Conflict, match="only replaced with overwrite"):
            await plan("api_timeout", "60", False)
        assert (await plan("API_TIMEOUT", "30", False)).nothing
        lower = await plan("api_timeout", "60", True)
        assert lower.values["key"] == "API_TIMEOUT"
        done = await BY_NAME["setting"].run(place)
        assert done.undo is None
        assert done.evidence["others_as_before"] is True
        effect = place.effects()[0]
        assert (list(effect["changed"]), effect["lost"]) == (["API_TIMEOUT"], [])


async def test_answer_without_settings_is_not_taken_for_an_empty_dictionary(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        bodies: list[Any] = [{}, {"properties": None}, {"properties": {"A": 1}}]
        for body in bodies:
            place.between.inject("POST", "/appsettings/list", answering(200, body))
            with pytest.raises(BadAnswer):
                await BY_NAME["setting"].run(place)
        assert place.effects() == []


async def test_change_in_the_moment_between_is_told_afterwards(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await BY_NAME["setting"].plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        place.stand_in.world.apps["shop-api"].settings["ADDED"] = "later"
        with anyio.fail_after(20):
            while (now := await place.platform.follow(plan, begun)).state == "pending":
                await anyio.sleep(0.02)
        assert (now.state, now.evidence["others_as_before"]) == ("verified", False)


@pytest.mark.parametrize(
    ("key", "value", "value_ref"),
    [
        ("API_KEY", "plainly-a-key-4f9d2c7b1e", ""),
        ("Smtp__Pass", "hunter2", ""),
        ("GREETING", "ghp_" + "a1B2c3D4e5" * 3 + "abcdef", ""),
        ("DATABASE_URL", "postgres://shop:hunter2hunter2@db/shop", ""),
        ("X", "@Microsoft.KeyVault(VaultName=a;SecretName=b)", ""),
        ("X", "", "https://shop.vault.azure.net/secrets/x"),
        ("X", "", "@Microsoft.KeyVault(SecretUri=https://evil.example/secrets/x)"),
        ("X", "", "@Microsoft.KeyVault(VaultName=a;SecretName=b) "),
    ],
)
async def test_secrets_and_false_references_are_not_sent(
    tmp_path: Path, key: str, value: str, value_ref: str
) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(InvalidInput) as raised:
            await set_config.function(
                place.platform, write(), "shop-api", key, value, value_ref, True, 45
            )
        assert value not in str(raised.value) or not value
        assert place.between.seen == []


async def test_reference_that_azure_cannot_resolve_is_failed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("broken-reference")
        done = await BY_NAME["reference"].run(place)
        assert done.outcome == "failed"
        assert done.evidence["reference"] == "SecretNotFound"
        assert done.problem is not None
        assert "reference is broken" in done.problem
