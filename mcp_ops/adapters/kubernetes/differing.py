"""What differs between two pod templates, in lines for people: images, commands, sizes, settings.

Values of settings are never shown: only their names, and the references.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from mcp_ops.adapters.kubernetes.fields import Obj, dig, mapping, objects, text
from mcp_ops.redact import tame

_LINES: Final = 20
_NAMES: Final = 12
_CHARS: Final = 200
_KNOWN: Final = frozenset({"name", "image", "command", "args", "env", "resources"})
_NONE: Final = "none"
Clean = Callable[[str], str]


def difference(before: Obj, after: Obj, clean: Clean) -> list[str]:
    """Lines on what would change; `clean` takes secrets out of what is shown."""
    lines: list[str] = []
    for path in ("containers", "initContainers"):
        lines += _containers(_by_name(before, path), _by_name(after, path), clean)
    lines += _rest(before, after)
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"… and {len(lines) - _LINES} more differences."]
    return lines


def _by_name(template: Obj, path: str) -> dict[str, Obj]:
    return {text(one, "name"): one for one in objects(template, "spec", path)}


def _containers(before: dict[str, Obj], after: dict[str, Obj], clean: Clean) -> list[str]:
    lines = [f"Container {tame(name, 63)}: goes." for name in before.keys() - after.keys()]
    lines += [
        f"Container {tame(name, 63)}: comes, with image {_shown(text(one, 'image'), clean)}."
        for name, one in after.items()
        if name not in before
    ]
    for name in sorted(before.keys() & after.keys()):
        lines += _container(tame(name, 63), before[name], after[name], clean)
    return lines


def _container(name: str, before: Obj, after: Obj, clean: Clean) -> list[str]:
    lines = [
        f"Container {name}: {key} {_shown(before.get(key), clean)} → "
        f"{_shown(after.get(key), clean)}."
        for key in ("image", "command", "args")
        if before.get(key) != after.get(key)
    ]
    lines += _sizes(name, before, after)
    lines += _settings(name, before, after)
    others = sorted(
        key for key in (before.keys() | after.keys()) - _KNOWN if before.get(key) != after.get(key)
    )
    if others:
        lines.append(f"Container {name}: {_listed(others)} would differ.")
    return lines


def _sizes(name: str, before: Obj, after: Obj) -> list[str]:
    lines = []
    for part in ("limits", "requests"):
        old, new = mapping(before, "resources", part), mapping(after, "resources", part)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                was, becomes = _amount(old.get(key)), _amount(new.get(key))
                lines.append(f"Container {name}: {part} {tame(key, 60)} {was} → {becomes}.")
    return lines


def _settings(name: str, before: Obj, after: Obj) -> list[str]:
    old = {text(one, "name"): one for one in objects(before, "env")}
    new = {text(one, "name"): one for one in objects(after, "env")}
    found = {
        "come": sorted(new.keys() - old.keys()),
        "go": sorted(old.keys() - new.keys()),
        "change": sorted(key for key in old.keys() & new.keys() if old[key] != new[key]),
    }
    return [
        f"Container {name}: settings that {what}: {_listed(names)}."
        for what, names in found.items()
        if names
    ]


def _rest(before: Obj, after: Obj) -> list[str]:
    """What else differs, by name only."""
    lines = []
    own = {"containers", "initContainers"}
    old, new = mapping(before, "spec"), mapping(after, "spec")
    names = sorted(key for key in (old.keys() | new.keys()) - own if old.get(key) != new.get(key))
    if names:
        lines.append(f"Of the pods: {_listed(names)} would differ.")
    for part in ("labels", "annotations"):
        was, becomes = mapping(before, "metadata", part), mapping(after, "metadata", part)
        keys = sorted(
            key for key in was.keys() | becomes.keys() if was.get(key) != becomes.get(key)
        )
        if keys:
            lines.append(f"Of the pods: {part} {_listed(keys)} would differ.")
    return lines


def _listed(names: list[str]) -> str:
    shown = ", ".join(tame(name, 80) for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


def _amount(value: Any) -> str:
    return _NONE if value is None else tame(str(value), 30)


def _shown(value: Any, clean: Clean) -> str:
    if value is None:
        return _NONE
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return tame(clean(written), _CHARS) or _NONE


def template_of(workload: Obj) -> Obj:
    """The pod template of a workload or a replica set."""
    found = dig(workload, "spec", "template")
    return found if isinstance(found, dict) else {}
