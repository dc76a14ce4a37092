"""What both ends of a stream of messages share, in the shape that the SDK expects of streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import anyio
from mcp.shared.message import SessionMessage


class StreamEnd(ABC):
    """One end: leaving its block closes it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close this end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


class ReadEnd(StreamEnd):
    """The end that messages come out of, one `receive` each."""

    @abstractmethod
    async def receive(self) -> SessionMessage | Exception:
        """The next message, or the exception that it is worth; EndOfStream at the end."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
