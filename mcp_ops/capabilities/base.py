"""What every capability shares: effects, the marks on methods that change a target, result models.

A capability is a `Protocol` in the operator's words. Adapters implement it, tools work on it.
Methods that change the target carry `@writes` or `@destroys`: the guard hands a read, and a dry
run, a view of the adapter on which those methods cannot be called.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mcp_ops.redact import tame

F = TypeVar("F", bound=Callable[..., Any])
ItemT = TypeVar("ItemT")


class Effect(StrEnum):
    """The worst that a tool can do with any arguments it accepts."""

    READ = "read"
    WRITE = "write"
    DESTROY = "destroy"


class Capability(Protocol):
    """Base of all capabilities; only protocols derive from it."""


def writes(method: F) -> F:
    """Mark a capability's method that changes the target."""
    method.__effect__ = Effect.WRITE  # type: ignore[attr-defined]
    return method


def destroys(method: F) -> F:
    """Mark a capability's method that loses something at the target."""
    method.__effect__ = Effect.DESTROY  # type: ignore[attr-defined]
    return method


def effect_of(capability: type, method: str) -> Effect:
    """The effect that a capability declares for one of its methods; unmarked means read."""
    for cls in capability.__mro__:
        if method in vars(cls):
            return getattr(vars(cls)[method], "__effect__", Effect.READ)
    return Effect.READ


def untrusted(limit: int) -> Any:
    """Text that came from a system: tamed, cut at `limit` characters, marked in the schema."""
    return Annotated[
        str,
        AfterValidator(lambda text: tame(text, limit)),
        Field(json_schema_extra={"x-untrusted": True}),
    ]


UntrustedLine = Annotated[
    str,
    AfterValidator(lambda text: tame(text, 300)),
    Field(json_schema_extra={"x-untrusted": True}),
]
UntrustedText = Annotated[
    str,
    AfterValidator(lambda text: tame(text, 8_000)),
    Field(json_schema_extra={"x-untrusted": True}),
]
Moment = Annotated[str, Field(description="UTC, RFC 3339")]


class Model(BaseModel):
    """Base of all result models: frozen, closed. Absent optional fields are left out, not null."""

    # Built on first use: a server that is started for one question needs few of the models.
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", defer_build=True
    )


class NextStep(Model):
    """A call that makes sense after this one."""

    tool: str
    arguments: dict[str, Any] = {}
    why: str


class Result(Model):
    """What every result has. The server fills `target` and `observed_at` when a tool left them."""

    target: str = ""
    observed_at: Moment = ""
    # Not a default of its own: that would be copied for each result.
    next_steps: list[NextStep] = Field(default_factory=list, max_length=3)
    cached_age_s: float | None = None


class Page(Result, Generic[ItemT]):
    """One page of a list. `next_cursor` is empty at the end; `searched` says what was looked at."""

    items: list[ItemT]
    next_cursor: str = ""
    truncated: bool = False
    searched: str


Outcome = Literal["verified", "unconfirmed", "unknown", "failed", "in_progress", "planned"]


class Undo(Model):
    """The call that would take a write back."""

    tool: str
    arguments: dict[str, Any]


class WriteResult(Result):
    """What every write answers.

    `verified`: the effect was seen at the target. `unconfirmed`: accepted, not yet seen.
    `unknown`: sent, the answer was lost. `failed`: the target did not do it. `in_progress`: still
    running, ask get_operation. `planned`: a dry run, nothing was changed.
    """

    outcome: Outcome
    evidence: dict[str, Any] = {}
    plan: list[str] = []
    problem: UntrustedLine | None = None
    replayed: bool = False
    audit_id: str = ""
    operation_id: str = ""
    undo: Undo | None = None
