"""Cancelling a change while it is followed."""

from __future__ import annotations

from collections.abc import Callable


def once_sent() -> Callable[[], bool]:
    """Somebody cancels after the change was sent: it is asked once before, then at each look."""
    answers = iter([False])
    return lambda: next(answers, True)
