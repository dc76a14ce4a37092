"""Snapshots of the tools' public contract, and the differences to them in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp_ops.tool import Tool

_ABSENT = object()


def snapshot(tool: Tool) -> dict[str, Any]:
    """A tool's definition and policy, without `target`, which depends on a configuration."""
    return {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "annotations": tool.annotations(),
        "inputSchema": dict(tool.input_schema),
        "outputSchema": dict(tool.output_schema),
        "policy": {
            "effect": tool.effect.value,
            "bulk": tool.bulk,
            "recovery": tool.recovery,
            "idempotent": tool.idempotent,
            "resumable": tool.resumable,
            "destroys_when": dict(tool.destroys_when),
            "cost": tool.cost,
            "timeout_s": tool.timeout_s,
            "capability": tool.capability.__name__,
            "links": {name: linked.__name__ for name, linked in sorted(tool.links.items())},
            "object_field": tool.object_field,
            "sensitive": sorted(tool.sensitive),
        },
    }


def write_snapshots(tools: Mapping[str, Tool], directory: Path) -> list[str]:
    """Make the directory say what the tools are; answers the changes in words."""
    changes = compare(tools, directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, tool in tools.items():
        # Bytes, so that a snapshot made on Windows is the same file.
        (directory / f"{name}.json").write_bytes(_text(snapshot(tool)).encode("utf-8"))
    for path in directory.glob("*.json"):
        if path.stem not in tools:
            path.unlink()
    return changes


def shipped(tools: Mapping[str, Tool]) -> bytes:
    """What the package ships of all schemas, for a fast start (`mcp_ops.schema.SHIPPED`)."""
    schemas = {
        name: {"input": tool.input_schema, "output": tool.output_schema}
        for name, tool in sorted(tools.items())
    }
    lines = (f"{json.dumps(name)}: {json.dumps(each)}" for name, each in schemas.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8")


def compare(tools: Mapping[str, Tool], directory: Path) -> list[str]:
    """What differs between the tools and their snapshots; empty when nothing does."""
    saved = {path.stem: path for path in directory.glob("*.json")} if directory.is_dir() else {}
    changes: list[str] = []
    for name in sorted(tools.keys() | saved.keys()):
        if name not in saved:
            changes.append(f"{name}: a new tool, which has no snapshot yet")
        elif name not in tools:
            changes.append(f"{name}: the tool is gone, its snapshot is still there")
        else:
            changes += [f"{name}: {line}" for line in _changes_of(tools[name], saved[name])]
    return changes


def _changes_of(tool: Tool, path: Path) -> list[str]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return ["its snapshot cannot be read"]
    # Through JSON and back, so that both sides have the types that a file can hold.
    now = json.loads(_text(snapshot(tool)))
    return list(_walk(saved, now, ()))


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _walk(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _walk(before.get(key, _ABSENT), after.get(key, _ABSENT), (*path, key))
        return
    where = _in_words(path)
    if path[-1:] == ("required",):
        yield from _required(before, after, path)
    elif before is _ABSENT:
        yield f"{where} is new" + ("" if isinstance(after, dict) else f": {_short(after)}")
    elif after is _ABSENT:
        yield f"{where} is gone" + ("" if isinstance(before, dict) else f", was {_short(before)}")
    else:
        yield f"{where} was {_short(before)}, is {_short(after)}"


def _required(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[str]:
    old = set(before) if isinstance(before, list) else set()
    new = set(after) if isinstance(after, list) else set()
    for name in sorted(new - old):
        yield f"{_in_words((*path[:-1], 'properties', name))} became required"
    for name in sorted(old - new):
        yield f"{_in_words((*path[:-1], 'properties', name))} is no longer required"


def _in_words(path: tuple[str, ...]) -> str:
    start = {"inputSchema": "argument", "outputSchema": "result field"}.get(path[0])
    names: list[str] = []
    rest = list(path[1:])
    while start and len(rest) >= 2 and rest[0] in ("properties", "items"):
        if rest[0] == "items":
            rest = rest[1:]
            continue
        names.append(rest[1])
        rest = rest[2:]
    if start and names:
        return " ".join([f"{start} {'.'.join(names)}", *([f"({'.'.join(rest)})"] if rest else [])])
    return ".".join(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
