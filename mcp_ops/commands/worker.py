"""One of several workers: `python -m mcp_ops.commands.worker NUMBER LISTENER INBOX DIRECTORY
OPTIONS`, by `workers`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from mcp_ops.commands import serving
from mcp_ops.transport_inbox import Worker, leave


def main(arguments: list[str]) -> int:
    """Serve on inherited sockets until SIGTERM, or until who started this has gone."""
    parent = os.getppid()
    number, listener, inbox, directory, *rest = arguments
    options = serving.parse(rest)
    assert options is not None, "only `workers` starts this"  # noqa: S101 - our own call
    worker = Worker(
        number=int(number),
        # macOS can't tell the protocol of a descriptor, without which Nagle stays on.
        listener=socket.socket(proto=socket.IPPROTO_TCP, fileno=int(listener)),
        inbox=socket.socket(fileno=int(inbox)),
        directory=Path(directory),
    )
    code = serving.serve(options, worker=worker)
    if os.getppid() != parent:
        leave(worker)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
