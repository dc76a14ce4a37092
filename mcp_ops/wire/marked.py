"""Which processes are ours: proven by a mark in their environment, never by their number.

A number can come to mean another process; a descriptor that was opened before the mark was read
can't. Needs nothing but Python: keepers of commands use it, too. Linux only; elsewhere nothing is
proven and nothing is ended.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

MARK = "MCP_OPS_RUN"


def left_over(token: str, own: int = 0) -> list[int]:
    """Open descriptors of the processes that carry the mark of a run: that is the proof that they
    are ours, whatever their number. The caller closes them."""
    found: list[int] = []
    if not token or not hasattr(os, "pidfd_open") or not Path("/proc/self/environ").exists():
        return found
    wanted = f"{MARK}={token}".encode()
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
        if not entry.isdigit() or int(entry) in (own, os.getpid()):
            continue
        try:
            handle = os.pidfd_open(int(entry))
        except OSError:
            continue
        try:  # read after it was opened: the descriptor can't come to mean another process
            marks = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            marks = []
        if wanted in marks:
            found.append(handle)
        else:
            os.close(handle)
    return found


def end_left_over(token: str, own: int = 0) -> int:
    """Kill what is left of a run; how many it were."""
    handles = left_over(token, own)
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(handle)
    return len(handles)
