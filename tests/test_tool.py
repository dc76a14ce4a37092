"""Tools: a signature becomes a public contract, or a TypeError when it is imported."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from mcp_ops.capabilities.base import Effect, Result, WriteResult
from mcp_ops.tool import Write, schemas_of, tool
from mcp_ops.tools.guard import get_health, set_guard_mode
from tests.guard.shelf import (
    ItemFound,
    Shelf,
    copy_item,
    drop_item,
    list_items,
    look_at_item,
    mend_shelf,
    put_item,
)


def test_a_tool_is_read_from_its_signature() -> None:
    assert (put_item.name, put_item.title) == ("put_item", "Put item")
    assert put_item.description == "Put an item."
    assert put_item.capability is Shelf
    assert put_item.write_parameter == "write"
    assert put_item.object_field == "name"
    assert put_item.sensitive == {"code"}
    assert copy_item.links == {"endpoint": Shelf}
    assert list(put_item.arguments.model_fields) == [
        "name",
        "code",
        "reason",
        "dry_run",
        "idempotency_key",
    ]
    assert not put_item.own
    assert get_health.own


@pytest.mark.parametrize(
    ("each", "hints"),
    [
        (look_at_item, (True, False, True, True)),
        (put_item, (False, False, False, True)),
        (drop_item, (False, True, False, True)),
        (set_guard_mode, (False, False, True, False)),
    ],
)
def test_hints_are_computed(each: Any, hints: tuple[bool, ...]) -> None:
    assert tuple(each.annotations().values()) == hints


def test_deadlines_depend_on_the_effect_unless_they_are_given() -> None:
    assert look_at_item.timeout_s == 30
    assert list_items.timeout_s == 60
    assert mend_shelf.timeout_s == 300

    @tool(effect=Effect.READ, timeout=5)
    async def quick_look(shelf: Shelf) -> Result:
        """Look."""
        return Result()

    assert quick_look.timeout_s == 5


def test_a_default_is_told_and_a_missing_one_is_none() -> None:
    assert list_items.default_of("limit") == 20
    assert list_items.default_of("nothing") is None
    assert put_item.default_of("name") is None


def test_arguments_are_strict_closed_and_frozen() -> None:
    for bad in ({"limit": "5"}, {"limit": True}, {"more": 1}, {"limit": 5.0}):
        with pytest.raises(ValidationError):
            list_items.arguments.model_validate(bad)
    arguments = list_items.arguments.model_validate({"limit": 5})
    with pytest.raises(ValidationError):
        arguments.limit = 6  # type: ignore[attr-defined]


def test_a_write_must_answer_as_a_write_and_take_the_frame_of_one() -> None:
    with pytest.raises(TypeError, match="must return a WriteResult"):

        @tool(effect=Effect.WRITE)
        async def bad_result(shelf: Shelf, write: Write) -> ItemFound:
            """No."""
            raise NotImplementedError

    with pytest.raises(TypeError, match="takes a Write"):

        @tool(effect=Effect.WRITE)
        async def bad_frame(shelf: Shelf) -> WriteResult:
            """No."""
            raise NotImplementedError

    with pytest.raises(TypeError, match="takes a Write"):

        @tool(effect=Effect.READ)
        async def bad_read(shelf: Shelf, write: Write) -> Result:
            """No."""
            raise NotImplementedError


def test_more_than_one_type_is_refused() -> None:
    @tool(effect=Effect.READ)
    async def two_types(
        shelf: Shelf, which: Annotated[int | str, Field(description="Both.")]
    ) -> Result:
        """No."""
        raise NotImplementedError

    with pytest.raises(TypeError, match="more than one type"):
        two_types.input_schema  # noqa: B018


def test_the_object_of_a_call_is_its_marked_argument() -> None:
    arguments = look_at_item.arguments.model_validate({"name": "x"})
    assert look_at_item.object_of(arguments) == "x"
    assert list_items.object_of(list_items.arguments()) == ""


def test_schemas_of_a_tool_that_is_not_shipped_are_computed() -> None:
    schemas = schemas_of(put_item)
    assert schemas.input["required"] == ["name", "reason"]
    assert schemas.output["properties"]["outcome"]["enum"][0] == "verified"
