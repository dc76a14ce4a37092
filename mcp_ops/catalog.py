"""Every tool of the package, and which of them a configuration publishes."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import ModuleType

from mcp_ops.capabilities.base import Capability
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.ports import OWN_TARGET
from mcp_ops.server import Published
from mcp_ops.settings import ToolSettings
from mcp_ops.tool import Tool, schemas_of
from mcp_ops.tools import (
    deadletters,
    deployment_config,
    deployments,
    guard,
    jobs,
    rollouts,
    tokens,
    usage,
)

_FIRST: tuple[ModuleType, ...] = (guard, usage, tokens, deadletters, deployments)
_MORE: tuple[ModuleType, ...] = (rollouts, deployment_config, jobs)


def _tools_of(modules: tuple[ModuleType, ...]) -> dict[str, Tool]:
    found = (each for module in modules for each in vars(module).values())
    return {each.name: each for each in found if isinstance(each, Tool)}


ALL_TOOLS: Mapping[str, Tool] = _tools_of(_FIRST) | _tools_of(_MORE)
# The profile `core`: what an incident needs first. At most 25; the rest comes with `full`.
CORE = frozenset(_tools_of(_FIRST)) - {"cancel_operation", "set_bulkhead_limit"}


def capabilities() -> frozenset[type]:
    """Every capability that a tool works on, directly or through a link."""
    direct = {tool.capability for tool in ALL_TOOLS.values() if not tool.own}
    linked = {each for tool in ALL_TOOLS.values() for each in tool.links.values()}
    return frozenset(cls for cls in direct | linked if Capability in cls.__mro__)


def publish(
    infos: list[TargetInfo], settings: ToolSettings, tools: Mapping[str, Tool] = ALL_TOOLS
) -> dict[str, Published]:
    """The tools for these targets, narrowed by profile, include and exclude."""
    published: dict[str, Published] = {}
    for tool in tools.values():
        if not _chosen(tool.name, settings):
            continue
        names = tuple(
            info.name
            for info in infos
            if (info.name != OWN_TARGET if tool.own else tool.capability in info.capabilities)
        )
        if names or (tool.own and not _needs_target(tool)):
            published[tool.name] = Published(tool=tool, targets=names, schemas=schemas_of(tool))
    return published


def why_unpublished(tool: Tool, settings: ToolSettings) -> str:
    """What an operator changes to have a tool of the package that is not published."""
    if _chosen(tool.name, settings):
        return "No configured target can do it: docs/tools.md names the kinds that can."
    if settings.include or any(fnmatchcase(tool.name, glob) for glob in settings.exclude):
        return "tools.include or tools.exclude of the configuration leaves it out."
    return 'It is not in the profile core: set tools.profile = "full".'


def _needs_target(tool: Tool) -> bool:
    target = tool.fields.get("target")
    return target is not None and target.is_required()


def _chosen(name: str, settings: ToolSettings) -> bool:
    if any(fnmatchcase(name, glob) for glob in settings.exclude):
        return False
    if any(fnmatchcase(name, glob) for glob in settings.include):
        return True
    return not settings.include and (settings.profile == "full" or name in CORE)
