"""Words that the processes of one guard call out to each other: a hint to look, never the news.

Without a shared hot store nobody else hears them; the others look by themselves every now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("mcp_ops.stores")


class LocalSignals:
    """The signals of one process: it has no others to tell."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], None]] = {}

    async def send(self) -> None:
        """Tell the other processes that something changed. Never raises; may be lost."""

    def hear(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when another process sends; answers how to stop that."""
        token = object()
        self._listeners[token] = listener

        def stop() -> None:
            self._listeners.pop(token, None)

        return stop

    def heard(self) -> None:
        """Tell the listeners of this process."""
        for listener in list(self._listeners.values()):
            listener()
