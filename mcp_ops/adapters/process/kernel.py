"""What the kernel does for a keeper: ends its command with it, and counts kills for want of memory.

Needs nothing but Python: it is part of the keeper. Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path


def die_with(keeper: int) -> None:
    """In the child: hear SIGHUP, which the keeper does not, and end when the keeper ends, however
    it ends (Linux only)."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != keeper:
        os._exit(1)


def kills_by_memory() -> int:
    """How often the kernel ended something in the keeper's control group for want of memory."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
        path = next(line.partition("::")[2] for line in lines if line.startswith("0::"))
        events = Path(f"/sys/fs/cgroup{path}/memory.events").read_text(encoding="ascii")
        found = dict(line.split() for line in events.splitlines())
        return int(found.get("oom_kill", 0))
    except (OSError, ValueError, StopIteration):
        return 0
