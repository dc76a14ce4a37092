"""Settle: what a tool answered becomes what leaves the process: stamped, redacted, bounded."""

from __future__ import annotations

from typing import Any

import orjson

from mcp_ops.capabilities.base import Result
from mcp_ops.clock import rfc3339
from mcp_ops.redact import Redactor

_CUTS = 200
_CUT = {"cut": "too large"}
_MARGIN = 640  # room for what is added after this: audit id, replayed, targets of next steps


class TooLarge(Exception):
    """The page does not fit: `fitting` items would, asked for with a smaller limit."""

    def __init__(self, fitting: int) -> None:
        super().__init__(fitting)
        self.fitting = fitting


def settle(
    result: Result, *, target: str, at: float, redactor: Redactor, limit_bytes: int, ask_again: bool
) -> dict[str, Any]:
    """The answer as JSON-like data.

    A page that is too large raises `TooLarge` while it can be asked for again with a smaller
    limit; whatever else is too large loses items and text from its longest parts and says so.
    """
    data = result.model_dump(mode="json", exclude_none=True)
    data["target"] = data.get("target") or target
    data["observed_at"] = data.get("observed_at") or rfc3339(at)
    if not data["next_steps"]:
        del data["next_steps"]
    data, size = cleaned(data, redactor)
    if size <= limit_bytes - _MARGIN:
        return data
    items = data.get("items")
    if ask_again and isinstance(items, list) and len(items) > 1:
        raise TooLarge(max(1, int(len(items) * (limit_bytes - _MARGIN) / size * 0.9)))
    return _cut(data, limit_bytes - _MARGIN)


def clean(data: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """The data without secrets and without what JSON cannot carry."""
    return cleaned(data, redactor)[0]


def cleaned(data: dict[str, Any], redactor: Redactor) -> tuple[dict[str, Any], int]:
    """The same, and its size as JSON in bytes."""
    try:
        text = orjson.dumps(data)
    except TypeError:
        data = _scrub(data)
        text = orjson.dumps(data)
    if not redactor.suspects(text):
        return data, len(text)
    masked: dict[str, Any] = redactor.value(data)
    return masked, _size(masked)


def _size(data: dict[str, Any]) -> int:
    return len(orjson.dumps(data))


def _cut(data: dict[str, Any], limit: int) -> dict[str, Any]:
    for _ in range(_CUTS):
        over = _size(data) - limit
        if over <= 0:
            return data
        holder, key, length = _longest(data)
        if length * _CUTS < over:  # a heap of small values: cutting them one by one is no use
            break
        value = holder[key]
        if isinstance(value, str):
            keep = max(0, len(value) - over - 40)
            holder[key] = f"{value[:keep]}…[cut to fit]"
        else:
            each = max(1, _size({"": value}) // max(1, len(value)))
            del value[max(0, len(value) - max(1, over // each)) :]
        if "truncated" in data:
            data["truncated"] = True
    return _without_open_objects(data, limit)


def _without_open_objects(data: dict[str, Any], limit: int) -> dict[str, Any]:
    """Very many small values: the largest open object (evidence, answer) goes as a whole, that of
    the answer itself before those of its items."""
    while _size(data) > limit:
        found = _objects(data) or [
            each for item in data.get("items", ()) for each in _objects(item)
        ]
        if not found:
            break
        holder, key = max(found, key=lambda each: _size(each[0][each[1]]))
        holder[key] = dict(_CUT)
    return data


def _objects(data: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    return [(data, key) for key, each in data.items() if isinstance(each, dict) and each != _CUT]


def _longest(node: Any) -> tuple[Any, Any, int]:
    """The largest string or list anywhere in the data: the place that holds it, and its size."""
    best: tuple[int, Any, Any] = (0, {}, "")
    stack = [node]
    while stack:
        holder = stack.pop()
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in pairs:
            if isinstance(value, str) and len(value) > best[0]:
                best = (len(value), holder, key)
            elif isinstance(value, list) and value:
                size = _size({"": value})
                if len(value) > 1 and size > best[0]:
                    best = (size, holder, key)
                stack.append(value)
            elif isinstance(value, dict):
                stack.append(value)
    return best[1], best[2], best[0]


def _scrub(node: Any) -> Any:
    if isinstance(node, str):
        return node.encode("utf-8", "replace").decode("utf-8")
    if isinstance(node, dict):
        return {_scrub(str(key)): _scrub(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_scrub(value) for value in node]
    if isinstance(node, int) and abs(node) >= 2**63:
        return float(node)
    return node
