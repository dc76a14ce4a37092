"""The targets that the settings name: part of the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final

import anyio

from mcp_ops.adapter import Advice, Wiring
from mcp_ops.capabilities.deadletters import DeadLetterQueue, OperationEndpoint
from mcp_ops.catalog import capabilities
from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, OpsError
from mcp_ops.guard.targets import TargetInfo, Targets
from mcp_ops.guard.usage import UsageWatch
from mcp_ops.opening import Configured, OpenTargets, adapter_class, implements
from mcp_ops.ports import OWN_TARGET
from mcp_ops.redact import Redactor
from mcp_ops.settings import Settings, TargetSettings
from mcp_ops.settings_options import resolve_options, secrets_in
from mcp_ops.tool import Tool

_EXAMINE_S: Final = 30.0


def configured_targets(
    settings: Settings,
    environ: Mapping[str, str],
    clock: Clock,
    redactor: Redactor,
    usage: UsageWatch,
    own_adapter: Callable[[], Any],
) -> OpenTargets:
    """The targets of the settings, closed as yet, and the server's own.

    Raises `ConfigurationError` for options that a kind does not take and for a library that is
    not installed.
    """
    known = capabilities()
    own = TargetInfo(
        name=OWN_TARGET,
        kind="embedded",
        environment="prod",
        metered=False,
        per_minute=None,
        concurrent=settings.guard.limits.concurrent_per_target,
        links={"endpoint": OWN_TARGET},
        capabilities=frozenset({DeadLetterQueue, OperationEndpoint}),
    )
    configured = [
        _configured(target, settings, environ, clock, redactor, usage, known)
        for target in settings.targets
    ]
    return OpenTargets(configured, own, own_adapter)


def _configured(
    target: TargetSettings,
    settings: Settings,
    environ: Mapping[str, str],
    clock: Clock,
    redactor: Redactor,
    usage: UsageWatch,
    known: frozenset[type],
) -> Configured:
    adapter = adapter_class(target.kind)
    if adapter.extra and find_spec(adapter.extra) is None:
        raise ConfigurationError(
            f"The target {target.name} needs the library {adapter.extra}, which is not installed.",
            hint=f"Install it: pip install 'mcp-ops[{adapter.extra}]'.",
        )
    options = resolve_options(target, adapter.Settings, environ, settings.base, settings.source)
    redactor.add(*secrets_in(options))

    def wiring(store: Any) -> Wiring:
        return Wiring(
            target=target.name,
            clock=clock,
            redactor=redactor,
            report_usage=lambda name, percent: usage.report(target.name, name, percent),
            directory=settings.state_dir,
            secrets=store,
        )

    info = TargetInfo(
        name=target.name,
        kind=target.kind,
        environment=target.environment,
        metered=adapter.metered if target.metered is None else target.metered,
        per_minute=target.per_minute,
        concurrent=target.concurrent or settings.guard.limits.concurrent_per_target,
        partition=target.partition or target.name,
        links={str(key): name for key, name in target.links.items()},
        capabilities=frozenset(each for each in known if implements(adapter, each)),
    )
    return Configured(info=info, adapter=adapter, settings=options, wiring=wiring)


async def examined(targets: Targets, tools: Mapping[str, Tool]) -> list[tuple[str, Advice]]:
    """What an operator should know of each target, for the tools on it, with its name.

    A target that can't be opened or asked is left out: that it does not answer is told already.
    """
    found: list[tuple[str, Advice]] = []
    for name in targets.names():
        able = targets.info(name).capabilities
        used = [each.name for each in tools.values() if each.capability in able]
        if name == OWN_TARGET or not used:
            continue
        with suppress(OpsError), anyio.move_on_after(_EXAMINE_S):
            adapter = await targets.adapter(name)
            found += [(name, advice) for advice in await adapter.examine(used)]
    return found
