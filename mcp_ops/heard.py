"""Whether a target has given a sign of life: what is slow is told apart from what is silent.

The guard listens around each attempt at a target; whoever talks to one says that it asks, and
that the first byte of an answer is there. A deadline that passes while an answer arrives says
nothing against the target: its circuit does not count it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Signs:
    """What was heard since the last question."""

    heard: bool = False


_listening: ContextVar[Signs | None] = ContextVar("mcp_ops_signs", default=None)


@contextmanager
def listening() -> Iterator[Signs]:
    """Listen around one attempt; tasks that are started within it are heard, too."""
    signs = Signs()
    token = _listening.set(signs)
    try:
        yield signs
    finally:
        _listening.reset(token)


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
