"""What a keeper writes down of its command, in one small file.

Needs nothing but Python: the keeper uses it, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STATE, SOCKET, LOCK = "state.json", "s", "lock"
ENDED = ("stopped", "failed")
NO_CHILD = {"pid": 0, "token": "", "ready": 0.0}
LOCKED = 3
REQUEST_BYTES = 65_536
ANSWER_BYTES = 262_144


def read_state(folder: Path) -> dict[str, Any]:
    """What the keeper wrote last; an empty one before the first."""
    fresh: dict[str, Any] = {
        "phase": "stopped",
        "generation": 0,
        "run": 0,
        "restarts": 0,
        "started": 0.0,
        "changed": 0.0,
        "next": 0.0,
        "oom_kills": 0,
        "exit": None,
        "calls": [],
        **NO_CHILD,
    }
    try:
        found = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError):
        return fresh
    return {**fresh, **found} if isinstance(found, dict) else fresh
