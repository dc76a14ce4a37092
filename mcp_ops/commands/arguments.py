"""`key=value` on the command line read as a tool's schema means it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_ops.errors import InvalidInput
from mcp_ops.settings_problems import did_you_mean
from mcp_ops.tool import Tool

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_TARGET_SCHEMA: Mapping[str, Any] = {"type": "string"}


def read_arguments(tool: Tool, pairs: Sequence[str], json_text: str = "") -> dict[str, Any]:
    """The arguments of a call; pairs win over the JSON object.

    A list is written with commas or as JSON, or its key is repeated. Raises `InvalidInput`, which
    names the argument and what it has to be, never the value. Bounds and missing arguments are
    left to the call itself, which knows them better.
    """
    arguments = _object(json_text) if json_text else {}
    schemas: dict[str, Mapping[str, Any]] = dict(tool.input_schema.get("properties", {}))
    if not tool.own:
        schemas.setdefault("target", _TARGET_SCHEMA)
    given: set[str] = set()
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput(
                "An argument without = was given.", hint="Arguments are written key=value."
            )
        if name not in schemas:
            raise InvalidInput(
                f"{tool.name} has no argument of this name.{did_you_mean(name, schemas)}",
                hint=f"It has: {', '.join(sorted(schemas)) or 'none'}.",
            )
        value = _value(name, schemas[name], text)
        if name in given:
            value = _both(name, arguments[name], value)
        arguments[name] = value
        given.add(name)
    return arguments


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidInput("--json-arguments is not JSON.") from exc
    if not isinstance(value, dict):
        raise InvalidInput("--json-arguments has to be a JSON object.")
    return value


def _both(name: str, first: Any, second: Any) -> Any:
    if isinstance(first, list) and isinstance(second, list):
        return [*first, *second]
    raise InvalidInput(f"{name} was given twice, and it is not a list.")


def _value(name: str, schema: Mapping[str, Any], text: str) -> Any:
    kind = schema.get("type", "string")
    if kind == "string":
        return text
    if kind == "boolean":
        return _boolean(name, text)
    if kind == "array":
        return _list(name, schema, text)
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
        value = json.loads(text)
    except ValueError as exc:
        expected = {"integer": "a whole number", "number": "a number"}.get(kind, "JSON")
        raise InvalidInput(f"{name} has to be {expected}.") from exc
    return value


def _boolean(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InvalidInput(f"{name} has to be true or false.")
    return word in _TRUE


def _list(name: str, schema: Mapping[str, Any], text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            value = json.loads(text)
        except ValueError as exc:
            raise InvalidInput(f"{name} has to be a list: a,b,c or JSON.") from exc
        return list(value)
    items: Mapping[str, Any] = schema.get("items", {})
    return [_value(name, items, part.strip()) for part in text.split(",") if part.strip()]
