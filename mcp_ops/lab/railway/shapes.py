"""The shapes of the stand-in's answers: who asks, times, errors and pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from graphql import GraphQLError

Node = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: what the token is, and in which header it came."""

    kind: Literal["project", "account", "workspace", "nobody"] = "nobody"
    project: str = ""
    environment: str = ""

    def reaches(self, project: str, environment: str) -> bool:
        """Whether the token is good there."""
        if self.kind == "project":
            return (project, environment) == (self.project, self.environment)
        return self.kind in ("account", "workspace")


def failure(message: str, code: str = "INTERNAL_SERVER_ERROR") -> GraphQLError:
    """An error as Railway has them: most of them with the code of its own failures."""
    return GraphQLError(message, extensions={"code": code})


def stamp(at: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def connection(
    items: Sequence[Any], page: Node, node: Callable[[Any], Node], *, key: Callable[[Any], str]
) -> Node:
    """A page of a list as connections have it, forwards or its end."""
    names = [key(each) for each in items]
    start = names.index(page["after"]) + 1 if page.get("after") in names else 0
    rest = list(items[start:])
    last = page.get("last")
    shown = rest[-last:] if last else rest[: page.get("first") or 100]
    return {
        "edges": [{"node": node(each)} for each in shown],
        "pageInfo": {
            "hasNextPage": not last and len(shown) < len(rest),
            "endCursor": key(shown[-1]) if shown else None,
            "hasPreviousPage": start > 0,
            "startCursor": key(shown[0]) if shown else None,
        },
    }
