"""The writes that rows play, told by the name of their object: `scale-3` is scaled, `run-1` is run.

A name without such a beginning is a workload of the cluster that is restarted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.faults import cluster_writes, platform_writes
from tests.faults.writing import Writing

# What most rows play by turns; the first is a restart.
KINDS: Final = ("w", *cluster_writes.WRITES)
_WRITES: Final[Mapping[str, Writing]] = {
    **cluster_writes.WRITES,
    **platform_writes.WRITES,
}


def writing_of(name: str) -> Writing:
    """The write whose object has that name."""
    return _WRITES.get(name.rpartition("-")[0], cluster_writes.RESTART)


def names(count: int, *, first: int = 0) -> list[str]:
    """Names of as many objects, the kinds of their writes by turns."""
    return [f"{KINDS[n % len(KINDS)]}-{n:02}" for n in range(first, first + count)]
