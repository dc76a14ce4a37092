"""Where a principal's scopes hold: on which targets, in which environments."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Scopes on the targets that match a glob and stand in one of the environments.

    No environment means every one.
    """

    scopes: frozenset[str]
    targets: tuple[str, ...] = ("*",)
    environments: tuple[str, ...] = ()

    def covers(self, scope: str, target: str, environment: str) -> bool:
        """Whether the scope holds there."""
        return (
            scope in self.scopes
            and (not self.environments or environment in self.environments)
            and any(fnmatchcase(target, glob) for glob in self.targets)
        )

    def covers_all(self, scope: str) -> bool:
        """Whether the scope holds on every target."""
        return scope in self.scopes and not self.environments and "*" in self.targets


Reaches = tuple[Reach, ...]
"""What a principal may reach: what one of them covers; everything where there is none."""


def reaches(reach: Reaches, scope: str, target: str, environment: str) -> bool:
    """Whether a scope holds on a target."""
    return not reach or any(each.covers(scope, target, environment) for each in reach)


def reaches_all(reach: Reaches, scope: str) -> bool:
    """Whether a scope holds on every target."""
    return not reach or any(each.covers_all(scope) for each in reach)


def held_everywhere(scopes: frozenset[str], reach: Reaches) -> frozenset[str]:
    """Those of a caller's scopes that hold on every target."""
    return frozenset(each for each in scopes if reaches_all(reach, each))


def held(scopes: frozenset[str], reach: Reaches, target: str, environment: str) -> frozenset[str]:
    """Those of a caller's scopes that hold on a target."""
    if not reach:
        return scopes
    return frozenset(each for each in scopes if reaches(reach, each, target, environment))
