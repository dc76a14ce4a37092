"""The portable tool contract, over every tool that is published in several configurations."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import jsonschema  # ships no types
import mcp_types as types
import orjson
import pytest
from mcp.client import Client
from quicktok import get_encoding  # type: ignore[import-untyped]  # ships no types

from mcp_ops.app import open_app
from mcp_ops.catalog import ALL_TOOLS, CORE
from mcp_ops.settings import Settings, TargetSettings, ToolSettings

TOKENS = get_encoding("o200k_base")
READ_BAR, WRITE_BAR, CORE_BAR, CORE_TOOLS = 180, 260, 4_500, 25
FORBIDDEN = {"anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "patternProperties", "null"}
HTTP = {"url": "http://127.0.0.1:1"}
SYNC_STATUS = {"path": "/status", "running": "$.running", "run_id": "$.id"}


def target(name: str, kind: str, **more: Any) -> TargetSettings:
    links = more.pop("links", {})
    return TargetSettings(name=name, kind=kind, links=links, options=more)


ONE_OF_EACH = (
    target("vault", "file_secrets"),
    target(
        "crm",
        "salesforce",
        links={"secrets": "vault"},
        instance_url="https://crm.example",
        access_token="env:TOKEN",
    ),
    target("cluster", "kubernetes"),
    target("cache", "redis", url="env:CACHE_URL"),
    target("coordinator", "http", **HTTP),
)
OWN_MACHINE = (
    target("box", "systemd", units=["redis.service"]),
    target("syncs", "http_jobs", **HTTP, jobs={"sales": {"status": SYNC_STATUS}}),
)
# It offers nearly every change of a platform.
APP_SERVICE = target(
    "web",
    "azure_app_service",
    subscription_id="11111111-2222-4333-8444-555555555555",
    resource_group="shop",
)
CONFIGURATIONS: dict[str, tuple[TargetSettings, ...]] = {
    "nothing": (),
    "one of each": ONE_OF_EACH,
    "app service": (APP_SERVICE,),
    "own machine": OWN_MACHINE,
    "two of a kind": (
        target("one", "redis", url="env:CACHE_URL"),
        target("two", "redis", url="env:CACHE_URL"),
        *ONE_OF_EACH[:2],
    ),
}
ENVIRON = {"TOKEN": "a-token-of-the-tests", "CACHE_URL": "redis://127.0.0.1:1/0"}


@asynccontextmanager
async def listed(
    path: Path, targets: tuple[TargetSettings, ...], mode: str = "2026-07-28", **tools: Any
) -> AsyncIterator[list[types.Tool]]:
    settings = Settings(state_dir=path, targets=targets, tools=ToolSettings(**tools))
    with anyio.fail_after(20):
        async with open_app(settings, environ=ENVIRON) as app:
            async with Client(app.server.mcp, mode=mode) as client:
                found = (await client.list_tools()).tools
            yield found


def nodes(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{place}.{name}")
    for key in ("items", "additionalProperties"):
        yield from nodes(schema.get(key), f"{place}.{key}")


def keys_of(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from keys_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys_of(value)


def check_input(tool: types.Tool) -> None:
    schema = tool.input_schema
    where = tool.name
    assert schema["type"] == "object", where
    assert schema["additionalProperties"] is False, where
    assert not FORBIDDEN & set(keys_of(schema)), where
    required = set(schema.get("required", []))
    for name, argument in schema["properties"].items():
        at = f"{where}.{name}"
        assert isinstance(argument["type"], str), f"{at} has not exactly one type"
        assert argument["type"] in ("string", "integer", "number", "boolean", "array"), at
        assert argument.get("description"), f"{at} is not described"
        assert not (name in required and "default" in argument), f"{at}: required with a default"
        check_bounds(argument, at)
        if "default" in argument:
            assert argument["default"] is not None, at
            jsonschema.validate(argument["default"], argument)


def check_bounds(argument: dict[str, Any], at: str) -> None:
    kind = argument["type"]
    if kind == "string":
        # A name is checked by the capability's own rule, which a schema cannot say.
        named = at.endswith(".name") and "as listed" in argument["description"].lower()
        assert {"enum", "maxLength"} & set(argument) or named, f"{at} has no bound"
    elif kind in ("integer", "number"):
        assert {"minimum", "maximum"} <= set(argument), f"{at} has no bound"
    elif kind == "array":
        assert "maxItems" in argument, f"{at} has no bound"
        check_bounds(argument["items"], f"{at}.items")


def check_output(tool: types.Tool) -> None:
    schema = tool.output_schema
    assert schema is not None, tool.name
    assert schema["type"] == "object", tool.name
    assert not FORBIDDEN & set(keys_of(schema)), tool.name
    for place, node in nodes(schema):
        at = f"{tool.name}{place}"
        if "properties" in node:
            assert node["additionalProperties"] is False, at
        if place and "enum" not in node:
            assert isinstance(node.get("type"), str) or node == {}, f"{at}: {node}"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
async def test_every_published_tool_keeps_the_portable_contract(
    tmp_path: Path, configuration: str
) -> None:
    async with listed(tmp_path, CONFIGURATIONS[configuration]) as tools:
        assert tools
        for tool in tools:
            assert re.fullmatch(r"[a-z][a-z0-9_]{2,39}", tool.name), tool.name
            assert tool.title, tool.name
            assert tool.description, tool.name
            assert len(tool.description) <= 1_024, tool.name
            hints = tool.annotations
            assert hints is not None, tool.name
            assert None not in (
                hints.read_only_hint,
                hints.destructive_hint,
                hints.idempotent_hint,
                hints.open_world_hint,
            ), tool.name
            check_input(tool)
            check_output(tool)


def test_what_is_left_out_is_safe() -> None:
    """Hosts that make every argument required fill in whatever: nothing is the safe choice."""
    for tool in ALL_TOOLS.values():
        for name, field in tool.arguments.model_fields.items():
            if not field.is_required():
                assert field.get_default() is not None, f"{tool.name}.{name}"
        if tool.effect != "read":
            assert tool.default_of("dry_run") is False, tool.name
            assert tool.default_of("idempotency_key") == "", tool.name
            assert tool.default_of("reason") is None, tool.name


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
async def test_both_eras_see_the_same_tools(tmp_path: Path, configuration: str) -> None:
    targets = CONFIGURATIONS[configuration]
    async with listed(tmp_path / "a", targets) as modern:
        pass
    async with listed(tmp_path / "b", targets, mode="legacy") as legacy:
        pass
    assert [tool.model_dump(exclude={"meta"}) for tool in modern] == [
        tool.model_dump(exclude={"meta"}) for tool in legacy
    ]


async def test_writes_take_reason_dry_run_and_key_and_reads_do_not(tmp_path: Path) -> None:
    async with listed(tmp_path, ONE_OF_EACH) as tools:
        for tool in tools:
            names = set(tool.input_schema["properties"])
            frame = {"reason", "dry_run", "idempotency_key"}
            hints = tool.annotations
            assert hints is not None
            if hints.read_only_hint:
                assert not frame & names, tool.name
                assert hints.destructive_hint is False, tool.name
            else:
                assert frame <= names, tool.name
                assert "reason" in tool.input_schema["required"], tool.name


async def test_a_target_is_an_enum_with_a_default_where_there_is_one(tmp_path: Path) -> None:
    async with listed(tmp_path / "a", ONE_OF_EACH) as tools:
        target = next(t for t in tools if t.name == "get_deployment").input_schema
        assert target["properties"]["target"]["enum"] == ["cluster"]
        assert target["properties"]["target"]["default"] == "cluster"
        own = {t.name: t.input_schema["properties"] for t in tools}
        assert own["set_guard_mode"]["target"]["enum"][-1] == "all"
        assert "all" not in own["reset_circuit"]["target"]["enum"]
    async with listed(tmp_path / "b", CONFIGURATIONS["two of a kind"]) as tools:
        queue = next(t for t in tools if t.name == "list_deadletters").input_schema
        assert queue["properties"]["target"]["enum"] == ["mcp-ops", "one", "two"]
        assert "target" in queue["required"]


async def test_only_tools_that_have_a_target_are_published(tmp_path: Path) -> None:
    async with listed(tmp_path, ()) as tools:
        names = {tool.name for tool in tools}
        assert {"get_health", "set_guard_mode", "list_deadletters", "search_audit"} <= names
        assert not {"check_api_usage", "restart_deployment", "refresh_oauth_token"} & names
        assert not {"reset_circuit", "isolate_target"} & names  # there is nothing to isolate


@pytest.mark.parametrize(
    ("choice", "present", "absent"),
    [
        ({"include": ("get_*",)}, "get_health", "set_guard_mode"),
        ({"exclude": ("set_*",)}, "get_health", "set_guard_mode"),
        ({"include": ("*",), "exclude": ("get_h*",)}, "set_guard_mode", "get_health"),
        ({"profile": "full"}, "set_guard_mode", ""),
    ],
)
async def test_the_operator_narrows_the_tools(
    tmp_path: Path, choice: dict[str, Any], present: str, absent: str
) -> None:
    async with listed(tmp_path, (), **choice) as tools:
        names = {tool.name for tool in tools}
        assert present in names
        assert absent not in names


def cost(tool: types.Tool) -> int:
    """The tokens that a model pays for a tool on every turn."""
    shown = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
    }
    return len(TOKENS.encode(orjson.dumps(shown).decode()))


# What their public arguments cost (docs of the tools): they may not grow beyond this.
DEARER = {
    "list_deadletters": 236,
    "search_audit": 213,
    "get_deployment_logs": 195,
    "retry_deadletters": 365,
    "discard_deadletters": 300,
}


def bar(tool: types.Tool) -> int:
    assert tool.annotations is not None
    usual = READ_BAR if tool.annotations.read_only_hint else WRITE_BAR
    return DEARER.get(tool.name, usual)


@pytest.mark.parametrize("configuration", ["one of each", "app service"])
async def test_no_tool_costs_a_model_more_than_its_bar(tmp_path: Path, configuration: str) -> None:
    async with listed(tmp_path, CONFIGURATIONS[configuration]) as tools:
        too_dear = {tool.name: cost(tool) for tool in tools if cost(tool) > bar(tool)}
        assert too_dear == {}


async def test_the_core_profile_costs_no_more_than_its_bar(tmp_path: Path) -> None:
    async with listed(tmp_path, ONE_OF_EACH, profile="core") as tools:
        assert len(tools) <= CORE_TOOLS
        assert sum(cost(tool) for tool in tools) <= CORE_BAR
        assert {tool.name for tool in tools} == set(CORE)


def test_every_tools_effect_is_written_in_its_hints() -> None:
    for tool in ALL_TOOLS.values():
        hints = tool.annotations()
        assert hints["readOnlyHint"] is (tool.effect == "read"), tool.name
        worst = {tool.effect_of({name: value}) for name, value in tool.destroys_when.items()}
        assert hints["destructiveHint"] is ("destroy" in {tool.effect, *worst}), tool.name
        assert hints["openWorldHint"] is not tool.own, tool.name


def test_untrusted_text_is_marked_in_the_schemas() -> None:
    for name, field in (
        ("get_deadletter", "payload"),
        ("list_deadletters", "items"),
    ):
        found = ALL_TOOLS[name].output_schema["properties"][field]
        assert "x-untrusted" in orjson.dumps(found).decode(), name
