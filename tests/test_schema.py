"""Schemas are flattened to what every client accepts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from mcp_ops.schema import input_schema, output_schema, shipped_schemas


class Inner(BaseModel):
    """An inner thing."""

    model_config = ConfigDict(extra="forbid")

    word: Literal["only"] = "only"
    count: int | None = None


class Outer(BaseModel):
    inner: Inner
    many: list[Inner] = []
    named: dict[str, Inner] = {}
    free: dict[str, Any] = {}
    kind: Annotated[Literal["a", "b"], Field(description="Which.")] = "a"
    maybe: str | None = None


class Empty(BaseModel):
    pass


def test_references_titles_and_nulls_are_gone() -> None:
    schema = input_schema(Outer)
    text = str(schema)
    for word in ("$ref", "$defs", "anyOf", "null", "'title'"):
        assert word not in text
    inner = schema["properties"]["inner"]
    assert inner["properties"]["word"] == {"default": "only", "enum": ["only"], "type": "string"}
    assert inner["properties"]["count"] == {"type": "integer"}
    assert inner["additionalProperties"] is False
    assert schema["properties"]["many"]["items"] == inner
    assert schema["properties"]["named"]["additionalProperties"] == inner
    assert schema["properties"]["free"] == {"type": "object", "default": {}}
    assert schema["properties"]["kind"]["enum"] == ["a", "b"]
    assert schema["required"] == ["inner"]


def test_a_tool_without_arguments_has_an_empty_closed_object() -> None:
    assert input_schema(Empty) == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_an_output_has_no_description_of_its_model() -> None:
    assert "description" not in output_schema(Inner)


def test_what_cannot_be_flattened_is_an_error() -> None:
    class Tuple(BaseModel):
        pair: tuple[int, str]

    class Either(BaseModel):
        value: int | str

    with pytest.raises(TypeError, match="prefixItems"):
        input_schema(Tuple)
    with pytest.raises(TypeError, match="more than one type"):
        output_schema(Either)


def test_the_shipped_schemas_are_those_that_are_computed() -> None:
    from mcp_ops.catalog import ALL_TOOLS

    shipped = shipped_schemas()
    assert set(shipped) == set(ALL_TOOLS)
    for name, tool in ALL_TOOLS.items():
        assert shipped[name].input == tool.input_schema, name
        assert shipped[name].output == tool.output_schema, name
