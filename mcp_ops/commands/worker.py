"""One of several workers: `python -m mcp_ops.commands.worker DESCRIPTOR OPTIONS`, by `workers`."""

from __future__ import annotations

import socket
import sys

from mcp_ops.commands import serving


def main(arguments: list[str]) -> int:
    """Serve on an inherited socket until SIGTERM, or until who started this has gone."""
    options = serving.parse(arguments[1:])
    assert options is not None, "only `workers` starts this"  # noqa: S101 - our own call
    return serving.serve(options, listener=socket.socket(fileno=int(arguments[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
