"""Where the host starts the server: the package lies beside this file."""

import sys

from mcp_ops.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
