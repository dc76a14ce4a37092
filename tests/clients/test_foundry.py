"""Every tool is one that Azure AI Foundry's agents take, whatever targets are configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.opening import KINDS
from mcp_ops.settings import TargetSettings
from tests.clients.foundry import problems
from tests.test_contract import APP_SERVICE, OWN_MACHINE, listed, target

TARGETS: dict[str, TargetSettings] = {
    **{each.kind: each for each in (APP_SERVICE, *OWN_MACHINE)},
    "process": target("helpers", "process", commands={"worker": {"argv": ["/bin/true"]}}),
    "file_secrets": target("vault", "file_secrets"),
    "http": target("coordinator", "http", url="http://127.0.0.1:1"),
    "kubernetes": target("cluster", "kubernetes"),
    "oauth": target(
        "sso",
        "oauth",
        links={"secrets": "vault"},
        issuer="https://sso.example",
        client_id="ops",
        redirect_uri="http://127.0.0.1:1/callback",
    ),
    "railway": target("paas", "railway", token="env:TOKEN"),
    "redis": target("cache", "redis", url="env:CACHE_URL"),
    "salesforce": target(
        "crm",
        "salesforce",
        links={"secrets": "vault"},
        instance_url="https://crm.example",
        access_token="env:TOKEN",
    ),
}
LINKED = {"oauth", "salesforce"}
CONFIGURATIONS = {
    "nothing": (),
    "all": tuple(TARGETS.values()),
    "two of each": tuple(
        each.model_copy(update={"name": f"{each.name}-two"}) for each in TARGETS.values()
    )
    + tuple(TARGETS.values()),
    **{
        kind: (each, TARGETS["file_secrets"]) if kind in LINKED else (each,)
        for kind, each in TARGETS.items()
    },
}


def test_each_kind_of_target_has_its_configuration() -> None:
    assert set(TARGETS) == set(KINDS)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
async def test_every_published_tool_keeps_to_what_the_service_takes(
    tmp_path: Path, configuration: str
) -> None:
    async with listed(tmp_path, CONFIGURATIONS[configuration], profile="full") as tools:
        wire = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    assert [found for tool in wire for found in problems(tool)] == []
    if configuration in ("all", "two of each"):
        assert {tool["name"] for tool in wire} == set(ALL_TOOLS)


def tool_with(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"name": "a_tool", "description": "A tool.", "inputSchema": schema}


@pytest.mark.parametrize(
    "schema",
    [
        {"description": "x", "anyOf": [{"type": "string"}, {"type": "null"}]},
        {"description": "x", "type": ["string", "null"]},
        {"description": "x", "$ref": "#/$defs/x"},
        {"description": "x"},
        {"type": "string"},
        {"description": "x", "type": "object", "properties": {}},
        {"description": "x", "type": "string", "default": None},
        {"description": "x", "type": "integer", "default": True},
        {"description": "x", "type": "string", "enum": ["a", 1]},
        {"description": "x", "type": "array"},
        {"description": "x", "type": "array", "items": {"oneOf": []}},
        {"description": "x", "type": "string", "not": {}},
        True,
    ],
)
def test_what_the_service_refuses_is_found(schema: Any) -> None:
    assert problems(tool_with(argument=schema))


def test_what_the_service_takes_is_not_found() -> None:
    good = {"type": "array", "description": "x", "items": {"type": "string"}, "maxItems": 3}
    assert problems(tool_with(argument=good)) == []
    assert problems({**tool_with(), "name": "A tool"})
    assert problems({**tool_with(), "description": ""})
    assert problems({**tool_with(), "inputSchema": {"type": "string"}})
    assert problems({**tool_with(), "outputSchema": {}})
    required = {**tool_with()["inputSchema"], "required": ["missing"]}
    assert problems({**tool_with(), "inputSchema": required})
    open_ended = {**tool_with()["inputSchema"], "additionalProperties": True}
    assert problems({**tool_with(), "inputSchema": open_ended})
    assert problems(tool_with(**{"not portable!": {"type": "string", "description": "x"}}))
