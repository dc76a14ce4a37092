"""Argument types that tools share. Every one is bounded, described and safe at its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field


class ObjectName:
    """Marks the argument that names the object a write acts on: for budgets and protection."""


class Sensitive:
    """Marks an argument that is a secret: never stored, shown or logged, only fingerprinted."""


class NamedBy:
    """Marks an argument that must not be a secret, with the one that names it, `argument`: named as
    a secret, the call is invalid, and nothing of it is kept."""

    def __init__(self, argument: str) -> None:
        self.argument = argument


class Manner:
    """Marks an argument of a write that says how long to wait for the effect, not what to do: with
    another value it is the same write, and the same question to a person."""


Limit = Annotated[int, Field(description="Page size.", ge=1, le=200)]
Cursor = Annotated[str, Field(description="Last next_cursor.", max_length=512)]
Ids = Annotated[
    list[Annotated[str, Field(max_length=200)]],
    Field(description="These items.", max_length=200),
]
FailureType = Annotated[str, Field(description="Exact.", max_length=100)]
OperationName = Annotated[str, Field(description="Exact.", max_length=200)]
Since = Annotated[str, Field(description="RFC 3339, from.", max_length=35)]
Until = Annotated[str, Field(description="RFC 3339, before.", max_length=35)]
TextFilter = Annotated[str, Field(description="Text inside.", max_length=200)]
QueueName = Annotated[str, Field(description="Not the default.", max_length=200), ObjectName()]
MaxItems = Annotated[int, Field(description="At most.", ge=1, le=10_000)]
Minutes = Annotated[int, Field(description="Minutes; 0: until changed.", ge=0, le=10_080)]
SinceMinutes = Annotated[int, Field(description="How far back.", ge=1, le=10_080)]
WaitSeconds = Annotated[int, Field(description="Wait for ready.", ge=0, le=3600), Manner()]
ModeName = Literal["normal", "restrictive", "critical", "read_only", "lockdown"]
TargetName = Annotated[
    str, Field(description="Which target.", min_length=1, max_length=63), ObjectName()
]
TargetFilter = Annotated[str, Field(description="Exact.", max_length=63)]
