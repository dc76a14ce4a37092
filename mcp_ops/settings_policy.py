"""The policy in a file of its own: rules, freeze windows and protected objects, with their lines.

What stands there is the operator's word on who may do what: a file that is missing or wrong stops
the start, and its mistakes are named by line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp_ops.settings_draft import Draft, Place
from mcp_ops.settings_options import absolute
from mcp_ops.settings_problems import Problems, did_you_mean
from mcp_ops.settings_toml import read_toml

SETTING = "policy_file"

# Its tables, and where they belong in the settings.
_TABLES: Mapping[str, tuple[str, ...]] = {
    "policy": ("policy",),
    "freeze": ("guard", "freeze"),
    "protected": ("guard", "protected"),
}


def read_policy_file(draft: Draft, base: Path, problems: Problems) -> None:
    """Put the tables of `policy_file` into the draft; raises `ConfigurationError` for a file that
    is missing or is not TOML. Paths of calendars start at the folder of the file they stand in."""
    _own_places(draft, base)
    named = draft.tree.get(SETTING)
    if not isinstance(named, str) or not named:
        return
    path = absolute(named, base)
    tree, text = read_toml(path)
    places = lines_of(text)
    for name in tree.keys() - _TABLES.keys():
        what = f"there is no such key.{did_you_mean(name, _TABLES)}"
        problems.add(f"{path}: {name}", what)
    if tree.get("policy") and draft.tree.get("policy"):
        problems.add(
            draft.where(("policy",)),
            f"rules stand here and in {path}: keep them in one of the two, since the first wins.",
        )
    for name, key in _TABLES.items():
        items = tree.get(name, [])
        if not isinstance(items, list):
            problems.add(f"{path}: {name}", f"it is written [[{name}]].")
            continue
        _add(draft, key, items, path, [places.get((name, i), 0) for i in range(len(items))])


def _add(draft: Draft, key: tuple[str, ...], items: list[Any], path: Path, at: list[int]) -> None:
    there = draft.table(*key[:-1]).get(key[-1], [])
    if not isinstance(there, list) or not items:
        return
    for number, (item, line) in enumerate(zip(items, at, strict=True)):
        draft.places[(*key, len(there) + number)] = Place(str(path), (key[-1], number), line)
        _place_calendar(item, path.parent)
    draft.put(key, [*there, *items], "")
    del draft.origins[key]


def _own_places(draft: Draft, base: Path) -> None:
    """Where the rules of the main file stand, and calendars relative to its folder."""
    if draft.file:
        for (name, number), line in lines_of(draft.text).items():
            if name == "policy":
                draft.places["policy", number] = Place(draft.file, (name, number), line)
    windows = draft.table("guard").get("freeze", [])
    for window in windows if isinstance(windows, list) else ():
        _place_calendar(window, base)


def _place_calendar(window: object, base: Path) -> None:
    calendar = window.get("calendar") if isinstance(window, dict) else None
    if isinstance(window, dict) and isinstance(calendar, str) and calendar.startswith("file:"):
        name = calendar.removeprefix("file:")
        window["calendar"] = f"file:{absolute(name, base)}" if name else calendar


def lines_of(text: str) -> dict[tuple[str, int], int]:
    """The line of each `[[table]]`, by its name and number. Nothing for a file with text over
    several lines, in which what looks like a table may be none."""
    found: dict[tuple[str, int], int] = {}
    if '"""' in text or "'''" in text:
        return found
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\[\s*([\w.]+)\s*\]\]", line):
            name = match[1]
            found[name, counts.setdefault(name, 0)] = number
            counts[name] += 1
    return found
