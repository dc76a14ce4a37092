"""The socket that HTTP is served on: bound here, by the server or by who starts several workers."""

from __future__ import annotations

import socket

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import ServerSettings


def bound_socket(settings: ServerSettings) -> socket.socket:
    """The socket, bound but not listening yet.

    Raises ConfigurationError when the address can't be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol number: asyncio switches Nagle off only for sockets that name it, and
    # a small answer would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"server.port: port {settings.port} can't be bound on this host",
            hint="another process may have it; choose another port, or 0 for a free one",
        ) from exc
    listener.setblocking(False)
    return listener


def base_url(listener: socket.socket, host: str) -> str:
    """Where a client on this machine finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
