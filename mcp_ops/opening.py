"""Which kinds of targets exist, what they can do, and opening them when they are first used.

One task opens and closes all adapters, in order: a client library's cancel scopes and connections
are left in the task that entered them. Client libraries load here and not at start-up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.base import Capability
from mcp_ops.errors import ConfigurationError, OpsError, Unreachable
from mcp_ops.guard.targets import TargetInfo

# A new kind of target is a line here.
KINDS: Mapping[str, str] = {
    "azure_app_service": "mcp_ops.adapters.azure.adapter:AzureAppServiceAdapter",
    "file_secrets": "mcp_ops.adapters.file_secrets:FileSecretsAdapter",
    "http": "mcp_ops.adapters.http_endpoint:HttpEndpointAdapter",
    "http_jobs": "mcp_ops.adapters.http_jobs.adapter:HttpJobsAdapter",
    "kubernetes": "mcp_ops.adapters.kubernetes.adapter:KubernetesAdapter",
    "oauth": "mcp_ops.adapters.oauth:OAuthAdapter",
    "process": "mcp_ops.adapters.process.adapter:ProcessAdapter",
    "railway": "mcp_ops.adapters.railway.adapter:RailwayAdapter",
    "redis": "mcp_ops.adapters.redis.adapter:RedisAdapter",
    "salesforce": "mcp_ops.adapters.salesforce:SalesforceAdapter",
    "systemd": "mcp_ops.adapters.systemd.adapter:SystemdAdapter",
}
_OPEN_S = 30.0
_CLOSE_S = 5.0
_log = logging.getLogger("mcp_ops.targets")


def adapter_class(kind: str) -> type[Adapter]:
    """The adapter of a kind; raises `ConfigurationError` for an unknown one or a missing extra."""
    place = KINDS.get(kind)
    if place is None:
        raise ConfigurationError(
            f"There is no kind of target named {kind[:40]!r}.", hint=f"Kinds: {', '.join(KINDS)}."
        )
    module, name = place.split(":")
    found: type[Adapter] = getattr(import_module(module), name)
    return found


def implements(adapter: type, capability: type) -> bool:
    """Whether a class has every member of a capability's protocol."""
    members = {
        name
        for cls in capability.__mro__
        if cls not in (object, Capability) and Capability in cls.__mro__
        for name in vars(cls)
        if not name.startswith("_")
    }
    return all(hasattr(adapter, name) for name in members)


def _load(modules: tuple[str, ...]) -> None:
    for module in modules:
        import_module(module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """A target ready to be opened."""

    info: TargetInfo
    adapter: type[Adapter]
    settings: AdapterSettings
    wiring: Callable[[Any], Wiring]


@dataclass(slots=True)
class _Opening:
    done: anyio.Event = field(default_factory=anyio.Event)
    adapter: Any = None
    error: OpsError | None = None


class OpenTargets:
    """The configured targets; the guard's `Targets`."""

    def __init__(
        self, configured: Iterable[Configured], own: TargetInfo, own_adapter: Callable[[], Any]
    ) -> None:
        self._configured = {each.info.name: each for each in configured}
        self._infos = {own.name: own, **{n: c.info for n, c in self._configured.items()}}
        self._own = own.name
        self._own_adapter = own_adapter
        self._openings: dict[str, _Opening] = {}
        self._send, self._wanted = anyio.create_memory_object_stream[str](
            max(1, len(self._configured)) * 4
        )

    def names(self) -> tuple[str, ...]:
        """All targets, the server's own first."""
        return tuple(self._infos)

    def info(self, name: str) -> TargetInfo:
        """What is known without opening it; raises `KeyError`."""
        return self._infos[name]

    async def adapter(self, name: str) -> Any:
        """The open adapter; the first call opens it."""
        if name == self._own:
            return self._own_adapter()
        opening = self._openings.get(name)
        if opening is None:
            opening = self._openings[name] = _Opening()
            await self._send.send(name)
        if not opening.done.is_set():
            await opening.done.wait()
        if opening.error is not None:
            self._forget(name, opening)
            raise opening.error
        return opening.adapter

    def _forget(self, name: str, opening: _Opening) -> None:
        """The next call tries again; what another call began meanwhile stays."""
        if self._openings.get(name) is opening:
            del self._openings[name]

    @asynccontextmanager
    async def serving(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Open what is asked for until left; then close everything, newest first."""
        closed = anyio.Event()

        async def own() -> None:
            try:
                with anyio.CancelScope(shield=True):
                    async with self._wanted, AsyncExitStack() as stack:
                        async for name in self._wanted:
                            opening = self._openings.get(name)
                            if opening is not None and not opening.done.is_set():
                                await self._open(stack, name, opening)
                        with anyio.move_on_after(_CLOSE_S):
                            await stack.aclose()
            finally:
                self._wanted.close()
                closed.set()

        tasks.start_soon(own)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._send.aclose()
                with anyio.move_on_after(_CLOSE_S + 1):
                    await closed.wait()

    async def _open(self, stack: AsyncExitStack, name: str, opening: _Opening) -> None:
        try:
            with anyio.fail_after(_OPEN_S):
                opening.adapter = await self._enter(stack, name)
        except OpsError as error:
            opening.error = error
        except TimeoutError:
            opening.error = Unreachable(f"{name} could not be opened within {_OPEN_S:g} s.")
        except ImportError as missing:
            extra = self._configured[name].adapter.extra
            hint = f"Install it: pip install 'mcp-ops[{extra}]'." if extra else ""
            opening.error = ConfigurationError(
                f"{name} needs the library {missing.name}, which is not installed.", hint=hint
            )
        except Exception:
            # The edge of a client library: what it raises on opening must not end the server.
            _log.exception("defect while opening %s", name)
            opening.error = Unreachable(
                f"{name} could not be opened.", hint="mcp-ops doctor and the log say more."
            )
        opening.done.set()

    async def _enter(self, stack: AsyncExitStack, name: str) -> Any:
        configured = self._configured[name]
        linked = configured.info.links.get("secrets")
        secrets = None
        if linked is not None:
            opening = self._openings.setdefault(linked, _Opening())
            if not opening.done.is_set():  # not asked for yet, or queued behind this one
                await self._open(stack, linked, opening)
            if opening.error is not None:
                self._forget(linked, opening)
                raise opening.error
            secrets = opening.adapter
        # A client library takes up to a second to load: not on the event loop.
        await anyio.to_thread.run_sync(_load, configured.adapter.modules)
        wiring = configured.wiring(secrets)
        return await stack.enter_async_context(configured.adapter.open(configured.settings, wiring))
