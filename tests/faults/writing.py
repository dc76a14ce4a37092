"""What a row knows of a write: the tool, the request that has its effect, and how a look tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# The targets by the part of the stage that stands behind each.
TARGETS: Final[Mapping[str, str]] = {
    "cluster": "shop",
    "azure": "web",
    "railway": "store",
    "jobs": "syncs",
    "units": "box",
    "commands": "local",
}
# Gates hold requests for as long as a row needs on a busy machine: no target gives up before.
PATIENT: Final = "request_timeout_s = 60"
PLATFORMS: Final = ("azure", "railway", "jobs")
# Those of the machine that the server runs on.
LOCAL: Final = ("units", "commands")


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """A tool that writes, the request that has its effect, and how a look tells the effect.

    `part` is the part of the stage that it changes. `asks` and `looks` are parts of the paths of
    the request, and of the look for a lost one; `meanwhile` is the request by which the target is
    looked at once more before that, and how often the same one is sent before it. `more` may have
    the object's name in it, as `{name}`. `repeats`: another process begins it again, where the
    target shows nothing of it. `marked`: a target that has done it shows that. `blind` is the
    outcome where the answer was lost, and nothing could be looked at. `asks_again`: the target is
    asked once more where it answered nothing, and tells what it did. `waits`: the tool takes how
    long it is to wait.
    """

    tool: str
    more: Mapping[str, Any]
    look: str
    found: Callable[[dict[str, Any], str], bool]
    part: str = "cluster"
    method: str = "PATCH"
    asks: str = "/deployments/{name}"
    looks: str = "/deployments/{name}"
    look_method: str = "GET"
    looked: Callable[[str], Mapping[str, Any]] = lambda name: {"name": name}
    meanwhile: tuple[str, str, int] = ("", "", 0)
    repeats: bool = True
    marked: bool = True
    blind: str = "unknown"
    asks_again: bool = False
    waits: bool = True

    @property
    def target(self) -> str:
        """The target as the configuration names it."""
        return TARGETS[self.part]

    def arguments(self, name: str, **asked: Any) -> dict[str, Any]:
        """What the tool is called with, but the reason, and with what was asked beyond."""
        more = {
            key: value.format(name=name) if isinstance(value, str) else value
            for key, value in self.more.items()
        }
        if not self.waits:
            asked.pop("wait_s", None)
        return {"target": self.target, "name": name, **more, **asked}

    def look_arguments(self, name: str) -> dict[str, Any]:
        """What the tool that looks is called with."""
        return {"target": self.target, **self.looked(name)}

    def requests(self, name: str) -> tuple[str, str]:
        """Method and part of the path of the request that has the effect."""
        return self.method, self.asks.format(name=name)

    def looked_at(self, name: str) -> tuple[str, str]:
        """Method and part of the path by which a lost answer is looked for."""
        return self.look_method, self.looks.format(name=name)

    def looks_again(self, name: str) -> tuple[tuple[str, str], int]:
        """The last look before the request: method and part of its path, and how many like it
        come before."""
        method, part, before = self.meanwhile
        return (method, part.format(name=name)), before
