"""The portable part of JSON Schema: what every MCP client and host accepts.

One `type` a property, enums inline, no `anyOf`, `$ref`, `null` or titles. Pydantic's schema is
flattened to that, and what cannot be flattened is an error when the tool is defined.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

_FORBIDDEN = ("anyOf", "oneOf", "allOf", "not", "patternProperties", "prefixItems")


SHIPPED = Path(__file__).with_name("tool_schemas.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchemas:
    """A tool's two schemas, as the package ships them."""

    input: dict[str, Any]
    output: dict[str, Any]


@lru_cache(maxsize=1)
def shipped_schemas() -> dict[str, ToolSchemas]:
    """The schemas of all tools, generated with the snapshots: a start reads them in a millisecond
    where computing them takes a quarter of a second. Empty when the file is not there."""
    if not SHIPPED.exists():
        return {}
    found = orjson.loads(SHIPPED.read_bytes())
    return {
        name: ToolSchemas(input=each["input"], output=each["output"])
        for name, each in found.items()
    }


@lru_cache(maxsize=256)
def input_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's arguments, without `target` (which depends on the configuration)."""
    schema = _flatten(model.model_json_schema(mode="validation"), {})
    schema.setdefault("properties", {})
    schema["additionalProperties"] = False
    return schema


@lru_cache(maxsize=256)
def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's result. Optional fields may be absent; they are never null."""
    schema = _flatten(model.model_json_schema(mode="validation"), {})
    schema.pop("description", None)
    return schema


def _flatten(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    defs = {**defs, **node.get("$defs", {})}
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        siblings = {key: value for key, value in node.items() if key != "$ref"}
        return _flatten({**defs[name], **siblings}, defs)
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        siblings = {k: v for k, v in node.items() if k not in ("anyOf", "default")}
        if len(options) != 1:
            raise TypeError(f"more than one type in a schema: {node}")
        return _flatten({**options[0], **siblings}, defs)
    bad = [word for word in _FORBIDDEN if word in node]
    if bad:
        raise TypeError(f"not portable in a schema: {bad}")
    return _clean(node, defs)


def _clean(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("$defs", "title") or (key == "default" and _says_nothing(value)):
            continue
        if key == "const":
            out["enum"] = [value]
        elif key == "properties":
            out[key] = {name: _flatten(item, defs) for name, item in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = _flatten(value, defs)
        elif key != "additionalProperties" or value is False:
            out[key] = value
    if "properties" in out:
        out.setdefault("additionalProperties", False)
    return out


def _says_nothing(default: Any) -> bool:
    """What is absent is empty: a default that says so costs every model tokens on every turn."""
    return default is None or default is False or default in ("", [])
