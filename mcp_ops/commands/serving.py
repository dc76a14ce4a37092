"""`mcp-ops serve`: the way from the command line to the server that imports nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.commands.exits import Exit
from mcp_ops.errors import OpsError, the_error
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings, process_environment

TRANSPORTS = ("stdio", "sse", "http")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says; None where it says nothing."""

    transport: str | None = None
    host: str | None = None
    port: int | None = None
    config: Path | None = None


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
        if name not in ("--transport", "--host", "--port", "--config") or not value:
            return None
        found[name] = value
    port = found.get("--port")
    if found.get("--transport", "stdio") not in TRANSPORTS:
        return None
    if port is not None and not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        return None
    return ServeOptions(
        transport=found.get("--transport"),
        host=found.get("--host"),
        port=int(port) if port is not None else None,
        config=Path(found["--config"]) if "--config" in found else None,
    )


def serve(options: ServeOptions) -> int:
    """Serve until stopped. Everything that is said goes to stderr: stdout is the protocol's."""
    environ = process_environment()
    try:
        settings = load_settings(
            options.config,
            environ,
            {
                "server.transport": options.transport,
                "server.host": options.host,
                "server.port": options.port,
            },
        )
        for notice in settings.notices:
            _say(f"notice: {notice}")
        return _run(settings, environ)
    except (OpsError, BaseExceptionGroup) as exc:
        error = the_error(exc)
        if error is None:
            raise
        _say(f"{error.message}\n{error.hint}".rstrip())
        return Exit.CONFIGURATION if error.code == "configuration_error" else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _run(settings: Settings, environ: Mapping[str, str]) -> int:
    options: dict[str, Any] = {}
    if settings.server.transport != "stdio":
        # Only HTTP gains from uvloop, and only who serves it pays for the import.
        options = {"loop_factory": import_module("mcp_ops.transport_http").fast_loop()}
    serving = import_module("mcp_ops.app").serve
    code: int = anyio.run(serving, settings, environ, backend_options=options)
    return code


def _say(text: str) -> None:
    data = f"mcp-ops: {text}\n".encode("utf-8", "replace")
    sys.stderr.flush()
    # A Windows console's encoding may lack what a message or a path has in it.
    sys.stderr.buffer.write(data)
    sys.stderr.flush()
