"""The `mcp-ops` command.

`serve` is what a client starts and waits for: it goes straight to the server, without the library
that the other commands are made with. Everything else, and a `serve` that needs help or has a
mistake in its options, goes to `commands/root.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and answer its exit code (docs/command-line.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        from mcp_ops.commands import serving

        options = serving.parse(arguments[1:])
        if options is not None:
            return serving.serve(options)
    from mcp_ops.commands import root

    return root.run(arguments)
