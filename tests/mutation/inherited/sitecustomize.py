"""Where a mutant runs, the processes that its tests start run it too: Python imports this first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if inherited := os.environ.get("MCP_OPS_TESTS_MUTANT"):
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from tests.mutation.loader import install

    path, _, index = inherited.rpartition("|")
    install(path, int(index))
