"""Arguments of `mcp-ops call`, and snapshots of the tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from mcp_ops.capabilities.base import Capability, Effect, Result
from mcp_ops.commands.arguments import read_arguments
from mcp_ops.commands.snapshots import compare, snapshot, write_snapshots
from mcp_ops.errors import InvalidInput
from mcp_ops.params import Ids, Limit
from mcp_ops.tool import Tool, tool
from mcp_ops.tools.guard import get_health, isolate_target


class Bakery(Capability):
    """A capability of this test's own."""

    async def bake(self) -> None:
        """Nothing."""


class Bread(Result):
    """What a bakery answers."""

    loaves: int


Rates = Annotated[list[float], Field(description="Rates.", max_length=5)]
Share = Annotated[float, Field(description="Share.", ge=0, le=1)]


@tool(effect=Effect.READ, bulk=True)
async def list_bread(
    bakery: Bakery,
    text: Annotated[str, Field(description="Text.", max_length=20)] = "",
    limit: Limit = 20,
    share: Share = 0.5,
    fresh: Annotated[bool, Field(description="Only fresh ones.")] = False,
    ids: Ids = [],  # noqa: B006 - as tools declare it
    rates: Rates = [],  # noqa: B006 - as tools declare it
) -> Bread:
    """List bread."""
    return Bread(loaves=1)


@tool(effect=Effect.READ, bulk=True)
async def list_bread_later(
    bakery: Bakery,
    text: Annotated[str, Field(description="Text.", max_length=30)],
    limit: Limit = 20,
    crust: Annotated[bool, Field(description="With a crust.")] = False,
    ids: Ids = [],  # noqa: B006 - as tools declare it
    rates: Rates = [],  # noqa: B006 - as tools declare it
    share: Share = 0.5,
) -> Bread:
    """List bread."""
    return Bread(loaves=1)


def test_values_are_read_as_the_schema_says() -> None:
    pairs = ["text=a=b", "limit=5", "share=0.25", "fresh=yes", "ids=a, b", "rates=1,2.5"]
    assert read_arguments(list_bread, pairs) == {
        "text": "a=b",
        "limit": 5,
        "share": 0.25,
        "fresh": True,
        "ids": ["a", "b"],
        "rates": [1.0, 2.5],
    }


def test_a_list_may_be_json_or_a_repeated_key() -> None:
    assert read_arguments(list_bread, ['ids=["a,b", "c"]', "ids=d"]) == {"ids": ["a,b", "c", "d"]}


def test_target_is_an_argument_of_tools_that_have_a_capability() -> None:
    assert read_arguments(list_bread, ["target=shop"]) == {"target": "shop"}
    with pytest.raises(InvalidInput, match="no argument of this name"):
        read_arguments(get_health, ["target=shop"])
    assert read_arguments(isolate_target, ["target=shop"]) == {"target": "shop"}


def test_pairs_win_over_json_arguments() -> None:
    assert read_arguments(list_bread, ["limit=5"], '{"limit": 1, "text": "x"}') == {
        "limit": 5,
        "text": "x",
    }


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("limit=hunter2", "limit has to be a whole number"),
        ("share=hunter2", "share has to be a number"),
        ("fresh=hunter2", "fresh has to be true or false"),
        ("ids=[hunter2", "ids has to be a list"),
        ("rates=1,hunter2", "rates has to be a number"),
        ("hunter2", "without ="),
        ("limt=hunter2", 'Did you mean "limit"?'),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_repeated(pair: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_arguments(list_bread, [pair])
    assert says in caught.value.message
    assert "hunter2" not in caught.value.message


def test_a_key_that_is_no_list_may_be_given_once() -> None:
    with pytest.raises(InvalidInput, match="limit was given twice"):
        read_arguments(list_bread, ["limit=1", "limit=2"])


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_json_arguments_have_to_be_an_object(text: str) -> None:
    with pytest.raises(InvalidInput, match="--json-arguments"):
        read_arguments(list_bread, [], text)


def tools_of(*tools: Tool) -> dict[str, Tool]:
    return {each.name: each for each in tools}


def test_written_snapshots_compare_equal_and_lack_the_target(tmp_path: Path) -> None:
    tools = tools_of(list_bread, get_health)
    changes = write_snapshots(tools, tmp_path / "schemas")
    assert changes == [
        "get_health: a new tool, which has no snapshot yet",
        "list_bread: a new tool, which has no snapshot yet",
    ]
    assert compare(tools, tmp_path / "schemas") == []
    saved = json.loads((tmp_path / "schemas" / "list_bread.json").read_text(encoding="utf-8"))
    assert saved == snapshot(list_bread)
    assert "target" not in saved["inputSchema"]["properties"]
    assert saved["policy"]["effect"] == "read"


def test_a_snapshot_without_a_tool_is_told_and_then_removed(tmp_path: Path) -> None:
    write_snapshots(tools_of(list_bread, get_health), tmp_path)
    assert compare(tools_of(get_health), tmp_path) == [
        "list_bread: the tool is gone, its snapshot is still there"
    ]
    write_snapshots(tools_of(get_health), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["get_health.json"]


def test_differences_are_told_in_words(tmp_path: Path) -> None:
    write_snapshots({"list_bread": list_bread}, tmp_path)
    changes = compare({"list_bread": list_bread_later}, tmp_path)
    assert "list_bread: argument text (maxLength) was 20, is 30" in changes
    assert "list_bread: argument text became required" in changes
    assert "list_bread: argument fresh is gone" in changes
    assert "list_bread: argument crust is new" in changes


def test_a_damaged_snapshot_is_told(tmp_path: Path) -> None:
    (tmp_path / "get_health.json").write_text("{", encoding="utf-8")
    assert compare(tools_of(get_health), tmp_path) == ["get_health: its snapshot cannot be read"]
