"""What all changes of a platform share: looked at, made once, and followed until they show.

A tool plans a change (`plan_…`, a read), shows the plan to whoever decides, begins it once, and
follows it. A plan holds the version that was looked at: a target that is another one meanwhile
refuses it. Plans are kept in the store while the change runs, so that another process can go on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from mcp_ops.capabilities.base import (
    Capability,
    Model,
    Moment,
    Undo,
    UntrustedLine,
    WriteResult,
    writes,
)


class Plan(Model):
    """A change that was looked at and not made yet.

    `action` and `values` are the adapter's own (plain JSON, no secrets), `lock` the version of the
    object that was looked at. `lines` tell people what would happen; `state` is what they have to
    know of the target without anything that changes by itself: a difference in it asks them anew.
    `nothing` says why there is nothing to do (it is so already), else empty. A plan that is
    `repeatable` can be begun again after a lost answer: the target itself would take it only once.
    `reaches` are the names of the other objects that it changes or takes down, too; None where
    there may be some that can't be seen.
    """

    action: str
    name: str
    lines: list[str]
    state: dict[str, Any] = {}
    lock: str = ""
    values: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    undo: Undo | None = None
    nothing: str = ""
    repeatable: bool = False
    reaches: list[str] | None = []


class Begun(Model):
    """The platform accepted the change. `id` is what it calls the result (a deployment's or a
    job's id), where it has a name; `version` the generation or revision that the change made."""

    name: str
    at: Moment
    id: str = ""
    version: str = ""
    evidence: dict[str, Any] = {}


class Progress(Model):
    """How far a change is at the target.

    `state`: `pending` while it may still come, `verified` when the effect is there, `failed` when
    it will not come, `superseded` when somebody changed the object again. `why` is a sentence of
    ours on what is missing, `done` of `wanted` instances (or steps) have it.
    """

    state: Literal["pending", "verified", "failed", "superseded"]
    why: str = ""
    done: Annotated[int, Field(ge=0)] = 0
    wanted: Annotated[int, Field(ge=0)] = 0
    evidence: dict[str, Any] = {}


class Change(WriteResult):
    """Answer of a change: `verified` only when the effect was seen at the target.

    `ready` is "2/3": instances that have the change, of those wanted. `id` names what the platform
    made of it: a deployment, a job.
    """

    name: str | None = None
    ready: str | None = None
    generation: int | None = None
    id: UntrustedLine | None = None


class Changeable(Capability, Protocol):
    """A system whose objects are changed by one request and followed until the effect shows."""

    async def rehearse(self, plan: Plan) -> None:
        """Ask the system whether it would accept the change now, changing nothing.

        Raises what `begin` would raise; a system that can't rehearse answers at once.
        """
        ...

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Make the change that was planned.

        One that this `call_id` made already is answered, not repeated. Raises `NotFound`,
        `Forbidden`, `Conflict` (the object is not the one that was looked at), or `Failed` with
        `executed="unknown"` when the answer was lost: `find` then tells.
        """
        ...

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """The change that this call made, if the system shows it; None proves nothing while a
        request may still be under way."""
        ...

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """How far the change is now."""
        ...
