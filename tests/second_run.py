"""A write whose first process was killed after it had pinned its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mcp_ops.capabilities.changes import Plan
from mcp_ops.tool import OneRun, Write

_SENT: Final = "sent"


class SecondRun(OneRun):
    """The steps of the process that goes on: it finds the plan of the one before."""

    def __init__(self, plan: str, *, before: str = _SENT, age_s: float = 0.0) -> None:
        self._plan = plan
        self.before = before
        self.age_s = age_s

    async def pin(self, text: str) -> str:
        """The plan that the first process pinned."""
        assert text == "", "a plan of another process is not replaced"
        return self._plan


def goes_on(frame: Write, plan: Plan, *, before: str = _SENT, age_s: float = 0.0) -> Write:
    """The frame in another process, after the plan was pinned and perhaps carried out."""
    return replace(frame, steps=SecondRun(plan.model_dump_json(), before=before, age_s=age_s))
