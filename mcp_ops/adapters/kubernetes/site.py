"""What every change of a target works with: its API, the time, and the operator's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Protocol

from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import Clock
from mcp_ops.redact import Redactor

if TYPE_CHECKING:
    from mcp_ops.adapters.kubernetes.api import Api

FIELD_MANAGER: Final = "mcp-ops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far changes may go. `memory` in bytes, `cpu` in cores; `required` are the settings that
    a workload must have; `too_long` minutes by the name of a job, `*` for all others."""

    replicas: int
    memory: Decimal
    cpu: Decimal
    required: Mapping[str, tuple[str, ...]]
    too_long: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One target."""

    api: Api
    clock: Clock
    redactor: Redactor
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The address of one object in the target's namespace."""

    group: str
    plural: str
    name: str

    @property
    def resource(self) -> str:
        """The resource as access rules name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    async def get(self, api: Api) -> Obj:
        """The object; raises `NotFound`."""
        return await api.get(self._path(api), Ask(verb="get", resource=self.resource))

    async def patch(self, api: Api, body: Obj, *, dry: bool) -> Obj:
        """Change the object, or ask whether that would be accepted."""
        ask = Ask(verb="patch", resource=self.resource, dry=dry)
        return await api.patch(self._path(api), ask, body, **written(dry=dry))

    async def delete(self, api: Api, uid: str, *, dry: bool) -> None:
        """Delete the object with this uid, what it owns behind it; raises `Conflict` when the
        name belongs to another one now."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        ask = Ask(verb="delete", resource=self.resource, dry=dry)
        # In the query, too: what takes the body off a deletion must not make a rehearsal of it one.
        query: dict[str, str | int] = {"dryRun": "All"} if dry else {}
        sent = options("DeleteOptions", body, dry=dry)
        await api.act("DELETE", self._path(api), ask, sent, **query)

    def _path(self, api: Api) -> str:
        return api.path(self.group, self.plural, self.name)


def written(*, dry: bool) -> dict[str, str | int]:
    """The query of a write."""
    query: dict[str, str | int] = {"fieldManager": FIELD_MANAGER}
    return {**query, "dryRun": "All"} if dry else query


def options(kind: str, body: Obj, *, dry: bool) -> Obj:
    """The options of a deletion as the API takes them."""
    found = {"kind": kind, "apiVersion": "v1", **body}
    return {**found, "dryRun": ["All"]} if dry else found


class Handler(Protocol):
    """One kind of change; see `Changeable` for what its methods promise."""

    async def rehearse(self, site: Site, plan: Plan) -> None: ...

    async def begin(self, site: Site, plan: Plan, *, reason: str, call_id: str) -> Begun: ...

    async def find(self, site: Site, plan: Plan, call_id: str) -> Begun | None: ...

    async def follow(self, site: Site, plan: Plan, begun: Begun) -> Progress: ...
