"""`python -m mcp_ops` is `mcp-ops`."""

from __future__ import annotations

import sys

from mcp_ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
