"""Whether a target has given a sign of life: what is slow is told apart from what is silent.

The guard listens around each attempt at a target; whoever talks to one says that it asks, and
that the first byte of an answer is there. A deadline that passes while an answer arrives says
nothing against the target: its circuit does not count it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Self


class Signs:
    """What was heard since the last question, while it is entered; by tasks that are started
    within it, too."""

    __slots__ = ("_token", "heard")

    def __init__(self) -> None:
        self.heard = False

    def __enter__(self) -> Self:
        self._token = _listening.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _listening.reset(self._token)


_listening: ContextVar[Signs | None] = ContextVar("mcp_ops_signs", default=None)


def listening() -> Signs:
    """Listen around one attempt."""
    return Signs()


def asking() -> None:
    """A request goes out: until a byte of its answer is here the target is silent."""
    signs = _listening.get()
    if signs is not None:
        signs.heard = False


def heard() -> None:
    """A byte of the answer is here."""
    signs = _listening.get()
    if signs is not None:
        signs.heard = True
