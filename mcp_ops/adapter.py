"""What an adapter is given and what it must offer; kinds of targets derive from `Adapter`.

An adapter talks to one kind of system: client library in, plain data out, errors translated into
`mcp_ops.errors`. It decides nothing, caches nothing, logs no payload. Vendor libraries are
imported inside `open`, so that only a target that is used pays for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mcp_ops.capabilities.tokens import SecretStore
from mcp_ops.clock import Clock
from mcp_ops.redact import Redactor


class AdapterSettings(BaseModel):
    """Base of the settings of a kind: frozen, unknown keys are an error, secrets `SecretStr`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What the composition root gives an adapter besides its settings.

    `report_usage(name, used_percent)` tells the guard a reading of the limit that drives the
    target. `secrets` is the linked secret store, from which an adapter reads its own current
    credential. `directory` is where the server keeps state.
    """

    target: str
    clock: Clock
    redactor: Redactor
    report_usage: Callable[[str, float], None]
    directory: Path
    secrets: SecretStore | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A line of `mcp-ops doctor` about a target. Not `good`: a tool that is published will fail."""

    good: bool
    message: str
    advice: str = ""


class Adapter(ABC):
    """One class per kind of system.

    `extra` is the extra of the package that brings the client library, `modules` what of it is
    loaded, in a worker thread, before `open`.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    metered: ClassVar[bool] = False
    extra: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
    Settings: ClassVar[type[AdapterSettings]]

    @classmethod
    @abstractmethod
    def open(cls, settings: Any, wiring: Wiring) -> AbstractAsyncContextManager[Any]:
        """Open the client; nothing is sent yet. Closing gives back everything."""

    @abstractmethod
    async def ping(self) -> None:
        """The cheapest call that shows that the system answers; raises `Upstream` errors."""

    async def examine(self, tools: Collection[str]) -> list[Advice]:
        """What an operator should know beyond that, for the tools that are published on it."""
        return []
