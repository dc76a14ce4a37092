"""JSON-RPC messages as bytes and back, for every transport of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from mcp_types import (
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic_core import from_json


def parse(data: bytes) -> JSONRPCMessage:
    """Bytes as the message that they are; ValueError (also pydantic's) when they are none."""
    value = orjson.loads(data)
    if isinstance(value, dict) and "method" in value:
        # What the union of four models would find out by trying them all.
        kind = JSONRPCRequest if "id" in value else JSONRPCNotification
        return kind.model_validate(value)
    return jsonrpc_message_adapter.validate_python(value, by_name=False)


def parse_body(data: bytes) -> JSONRPCMessage:
    """The same, of what a request over HTTP carries: NaN and infinities pass, as in the SDK, whose
    clients send them. Tools refuse them by name."""
    try:
        return parse(data)
    except orjson.JSONDecodeError:
        return jsonrpc_message_adapter.validate_python(from_json(data), by_name=False)


def encode(message: JSONRPCMessage) -> bytes:
    """A message in one line: what the SDK would write, but never a lone surrogate and never NaN."""
    if type(message) is JSONRPCResponse:
        value: Any = {"jsonrpc": "2.0", "id": message.id, "result": message.result}
    else:
        value = message.model_dump(mode="json", by_alias=True, exclude_unset=True)
    try:
        return orjson.dumps(value)
    except TypeError:  # also types that only pydantic knows: rare and slow
        return odd_json(message.model_dump(mode="json", by_alias=True, exclude_unset=True))


def encoded(message: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8, of what orjson takes and of what it does not."""
    try:
        return orjson.dumps(message)
    except TypeError:
        return odd_json(message)


def odd_json(value: Any) -> bytes:
    """JSON in UTF-8 of what orjson refuses: integers beyond 64 bits, lone surrogates (replaced),
    and infinities and NaN, which are null."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case _:
            return value
