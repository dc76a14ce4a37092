"""What the token is, and whether it reaches further than the target: a broad one is refused.

A project token reaches one environment of one project. Those of an account or a workspace reach
everything there, production included.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal

from mcp_ops.adapters.railway.api import Api
from mcp_ops.adapters.railway.operations import Query
from mcp_ops.adapters.railway.state import id_of, mapping, objects
from mcp_ops.errors import (
    ConfigurationError,
    Forbidden,
    NotFound,
    Rejected,
    Unauthenticated,
    Upstream,
)

_log = logging.getLogger("mcp_ops.adapters")
_DENIED: Final = (Forbidden, NotFound, Rejected, Unauthenticated)
_MAKE_ONE: Final = (
    "Make a project token (project settings, Tokens) for the target's environment and use that."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The project and environment that everything is asked and done in."""

    project: str
    environment: str
    kind: Literal["project", "account", "workspace"] = "project"


class Access:
    """Asks what the token is: once for reads, again before every change."""

    def __init__(self, api: Api, *, project: str, environment: str, allow_broad: bool) -> None:
        self._api = api
        self._project = project
        self._environment = environment
        self._allow_broad = allow_broad
        self._scope: Scope | None = None

    async def scope(self) -> Scope:
        """The scope as it was found first."""
        return self._scope or await self.verify()

    async def verify(self) -> Scope:
        """Ask now. Raises `Forbidden` for a token that is too broad or of another place,
        `Unauthenticated` for one that Railway does not know."""
        try:
            found = await self._of_project() or await self._of_more()
        except Upstream as exc:
            if isinstance(exc, Forbidden | Unauthenticated):
                self._scope = None
            raise
        if self._scope is None and found.kind != "project":
            _log.warning("a token of Railway reaches all projects of its %s", found.kind)
        self._api.of_project = found.kind == "project"
        self._scope = found
        return found

    async def _of_project(self) -> Scope | None:
        try:
            answer = await self._api.ask(Query.WHOSE, of_project=True)
        except _DENIED:
            return None
        token = mapping(answer, "projectToken")
        found = Scope(project=id_of(token, "projectId"), environment=id_of(token, "environmentId"))
        if self._project not in ("", found.project) or self._environment not in (
            "",
            found.environment,
        ):
            raise Forbidden(
                "The project token is of another project or environment than the target's.",
                hint="Compare project_id and environment_id with where the token was made.",
            )
        return found

    async def _of_more(self) -> Scope:
        kind = await self._kind()
        if not self._allow_broad:
            raise Forbidden(
                f"The token is one of {kind}: it reaches more than the target's project, and"
                " could delete all of it. Nothing is done with it.",
                hint=f"{_MAKE_ONE} Or set allow_broad_token = true.",
            )
        if not self._project or not self._environment:
            raise ConfigurationError(
                "The target needs project_id and environment_id: the token does not name them.",
                hint="Set the ids of both; the dashboard copies them (Ctrl+K).",
            )
        return Scope(
            project=self._project,
            environment=self._environment,
            kind="account" if kind == "an account" else "workspace",
        )

    async def _kind(self) -> str:
        try:
            id_of(mapping(await self._api.ask(Query.ACCOUNT, of_project=False), "me"))
        except _DENIED:
            pass
        else:
            return "an account"
        try:
            answer = await self._api.ask(Query.WORKSPACES, of_project=False)
        except _DENIED as exc:
            raise Unauthenticated(
                "Railway does not know the token: it is wrong, or was deleted.", hint=_MAKE_ONE
            ) from exc
        workspaces = len(objects(answer, "apiToken", "workspaces"))
        return "a workspace" if workspaces <= 1 else f"{workspaces} workspaces"
