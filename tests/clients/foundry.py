"""The part of JSON Schema that Azure AI Foundry's agents take a tool with.

The service answers "invalid tool schema" to a tool whose schema has `anyOf` or `allOf`, a `$ref`,
or a parameter of several types; what it takes is not listed anywhere in full. So this is a list of
what is allowed, not of what is not: objects, arrays and four plain types, described, with bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_NAME = re.compile(r"[a-z][a-z0-9_]{2,39}")
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DESCRIPTION = 1_024
_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object"})
_ANYWHERE = frozenset({"type", "description", "enum", "default", "x-untrusted"})
_BY_TYPE: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "boolean": frozenset(),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def problems(tool: Mapping[str, Any]) -> list[str]:
    """What the service could refuse in a tool of `tools/list`, as it is on the wire."""
    name = str(tool.get("name", ""))
    found = [] if _NAME.fullmatch(name) else ["the name is not portable"]
    if not 0 < len(str(tool.get("description", ""))) <= _DESCRIPTION:
        found.append(f"the description is missing or longer than {_DESCRIPTION}")
    found += _root(tool.get("inputSchema"), "input")
    found += [
        f"input.{key}: it is not flat"
        for key, each in _properties(tool.get("inputSchema"))
        if isinstance(each, Mapping) and each.get("type") == "object"
    ]
    if "outputSchema" in tool:
        found += _root(tool["outputSchema"], "output")
    return [f"{name}: {each}" for each in found]


def _root(schema: Any, at: str) -> list[str]:
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return [f"{at}: it is no object"]
    return list(_node(schema, at))


def _node(schema: Any, at: str) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        yield f"{at}: it is a boolean or no schema"
        return
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        yield f"{at}: it has not exactly one type"
        return
    for key in sorted(set(schema) - _ANYWHERE - _BY_TYPE[kind]):
        yield f"{at}: {key} is not taken"
    yield from _values(schema, kind, at)
    if kind == "array":
        yield from _node(schema.get("items"), f"{at}[]")
    if kind == "object":
        yield from _object(schema, at)


def _values(schema: Schema, kind: str, at: str) -> Iterator[str]:
    values = [*schema.get("enum", []), *([schema["default"]] if "default" in schema else [])]
    for value in values:
        right = isinstance(value, _PLAIN[kind])
        if not right or (isinstance(value, bool) and kind != "boolean"):
            yield f"{at}: a value is not of its type"


def _object(schema: Schema, at: str) -> Iterator[str]:
    properties = dict(_properties(schema))
    if schema.get("additionalProperties", False) is not False:
        yield f"{at}: additionalProperties is not false"
    if missing := sorted(set(schema.get("required", [])) - set(properties)):
        yield f"{at}: {', '.join(missing)} is required and not there"
    for key, each in properties.items():
        if not _KEY.fullmatch(key):
            yield f"{at}.{key}: the name is not portable"
        if at == "input" and not (isinstance(each, Mapping) and each.get("description")):
            yield f"{at}.{key}: it is not described"
        yield from _node(each, f"{at}.{key}")


def _properties(schema: Any) -> list[tuple[str, Any]]:
    found = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    return list(found.items()) if isinstance(found, Mapping) else []
