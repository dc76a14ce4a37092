"""`mcp-ops serve`: the way from the command line to the server that imports nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from mcp_ops.commands.exits import Exit
from mcp_ops.errors import ConfigurationError, OpsError, the_error
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings, process_environment

if TYPE_CHECKING:
    from mcp_ops.transport_inbox import Worker

TRANSPORTS = ("stdio", "sse", "http")
_OPTIONS = frozenset({"--transport", "--host", "--port", "--workers", "--config"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says; None where it says nothing."""

    transport: str | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    config: Path | None = None

    def arguments(self) -> list[str]:
        """The same on a command line, for the workers that this process starts."""
        return [
            f"--{each.name}={value}"
            for each in fields(self)
            if (value := getattr(self, each.name)) is not None
        ]


def parse(arguments: Sequence[str]) -> ServeOptions | None:
    """Read the options, or answer None for whatever is not plainly right.

    None sends the command to the full command line, which explains itself.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if not separator:
            if not rest:
                return None
            value = rest.pop(0)
        if name not in _OPTIONS or not value:
            return None
        found[name] = value
    if found.get("--transport", "stdio") not in TRANSPORTS:
        return None
    try:
        port = _number(found.get("--port"), 0, 65_535)
        workers = _number(found.get("--workers"), 1, 64)
    except ValueError:
        return None
    return ServeOptions(
        transport=found.get("--transport"),
        host=found.get("--host"),
        port=port,
        workers=workers,
        config=Path(found["--config"]) if "--config" in found else None,
    )


def _number(text: str | None, least: int, most: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ValueError
    return int(text)


def serve(options: ServeOptions, *, worker: Worker | None = None) -> int:
    """Serve until stopped. Everything that is said goes to stderr: stdout is the protocol's.

    `worker` is one of several.
    """
    environ = process_environment()
    try:
        settings = load_settings(
            options.config,
            environ,
            {
                "server.transport": options.transport,
                "server.host": options.host,
                "server.port": options.port,
                "server.workers": options.workers,
            },
        )
        if worker is not None:
            return _run(settings, environ, worker)
        for notice in settings.notices:
            _say(f"notice: {notice}")
        if settings.server.workers > 1:
            return _run_workers(settings, options)
        return _run(settings, environ)
    except (OpsError, BaseExceptionGroup) as exc:
        error = the_error(exc)
        if error is None:
            raise
        _say(f"{error.message}\n{error.hint}".rstrip())
        return Exit.CONFIGURATION if error.code == "configuration_error" else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _run(settings: Settings, environ: Mapping[str, str], worker: Worker | None = None) -> int:
    options: dict[str, Any] = {}
    if settings.server.transport != "stdio":
        # Only HTTP gains from uvloop, and only who serves it pays for the import.
        options = {"loop_factory": import_module("mcp_ops.transport_http").fast_loop()}
    serving = import_module("mcp_ops.app").serve
    code: int = anyio.run(serving, settings, environ, worker, backend_options=options)
    return code


def _run_workers(settings: Settings, options: ServeOptions) -> int:
    if sys.platform == "win32":
        raise ConfigurationError("server.workers: several workers need Linux or macOS.")
    from mcp_ops.commands.workers import Workers, starts
    from mcp_ops.transport_inbox import bound_inboxes
    from mcp_ops.transport_socket import bound_socket

    server = settings.server
    with bound_socket(server) as listener, bound_inboxes(server.workers) as inboxes:
        commands = starts(server.workers, listener, inboxes, options.arguments())
        return anyio.run(Workers(commands, say=_say, gone=inboxes.gone).run)


def _say(text: str) -> None:
    data = f"mcp-ops: {text}\n".encode("utf-8", "replace")
    with suppress(OSError):  # who read it has gone, which ends no worker
        sys.stderr.flush()
        # A Windows console's encoding may lack what a message or a path has in it.
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
