"""Settings before they are checked: layers put over each other, each value with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_ops.settings_problems import Key, dotted

# What a target of each kind can have; every other key is an option of its kind.
TARGET_KEYS = ("kind", "environment", "metered", "per_minute", "concurrent", "partition", "links")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item of a list stands: file, its key there, and its line (0: not known)."""

    file: str
    key: Key
    line: int

    def of(self, rest: Key) -> str:
        """Where a value inside the item stands, for messages."""
        line = f" line {self.line}" if self.line else ""
        return f"{self.file}{line}: {dotted((*self.key, *rest))}"


@dataclass(slots=True)
class Draft:
    """A tree in the shape of the file. Later layers win, key by key.

    `file` is how the file is called in messages, empty without one. `notices` is what the operator
    should hear although it is no error. `made` says of targets that are not the file's own where
    they come from. `text` is the file's, and `places` says of items whose line is known, or which
    come from another file, where they stand.
    """

    file: str = ""
    text: str = ""
    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)

    def put(self, key: Key, value: Any, origin: str) -> None:
        """Set one value. Where the file has something else than a table, that stays: it is the
        mistake that has to be told."""
        node = self.tree
        for part in key[:-1]:
            node = node.setdefault(part, {})  # type: ignore[arg-type]
            if not isinstance(node, dict):
                return
        node[key[-1]] = value  # type: ignore[index]
        self.origins[key] = origin

    def table(self, *key: str) -> dict[str, Any]:
        """The table under a key, or an empty one that is not part of the tree."""
        node: Any = self.tree
        for part in key:
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else {}

    def where(self, key: Key) -> str:
        """Where a value came from, for messages: variable or option, else file and key."""
        for length in range(len(key), 0, -1):
            if (origin := self.origins.get(key[:length])) is not None:
                return origin
            if (place := self.places.get(key[:length])) is not None:
                return place.of(key[length:])
        return f"{self.file}: {dotted(key)}" if self.file else dotted(key)

    def model_input(self) -> dict[str, Any]:
        """The tree in the shape of the `Settings` model: targets as a list, options apart."""
        whole = dict(self.tree)
        targets = whole.get("targets", {})
        if isinstance(targets, Mapping):
            whole["targets"] = [
                _target(name, table, self.made.get(name, ""))
                if isinstance(table, Mapping)
                else table
                for name, table in targets.items()
            ]
        return whole

    def key_in_file(self, key: Key) -> Key:
        """A location in the model as a key of the file."""
        if key[-1:] == ("[key]",):
            key = key[:-1]
        names = list(self.table("targets"))
        if len(key) < 2 or key[0] != "targets" or not isinstance(key[1], int):
            return key
        rest = key[2:]
        if rest[:1] in (("options",), ("name",)):
            rest = rest[1:]
        return ("targets", names[key[1]], *rest)


def _target(name: str, table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    common = {key: value for key, value in table.items() if key in TARGET_KEYS}
    options = {key: value for key, value in table.items() if key not in TARGET_KEYS}
    return {**common, "name": name, "options": options, "origin": origin}
