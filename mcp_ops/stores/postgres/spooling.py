"""Spooling: while PostgreSQL is away noted lines go to a file of this machine, and come back.

Each process has a file of its own, which it holds locked. What a process left behind that died
while PostgreSQL was away is merged by the next one that starts with the same state directory; a
line of it that is in the ledger already is left out there.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_ops.errors import StoreUnavailable
from mcp_ops.stores.background import running
from mcp_ops.stores.postgres.jobs import Notes, Nothing
from mcp_ops.stores.postgres.writer import Writer
from mcp_ops.stores.spool import Spool

EVERY_S = 0.5
_BATCH = 200
_log = logging.getLogger("mcp_ops.stores")


class Spooling:
    """Moves lines between a writer and the files of a directory. Made by `open`."""

    def __init__(self, writer: Writer, directory: Path, key: bytes) -> None:
        self._writer = writer
        self._directory = directory
        self._key = key
        path = directory / f"spool-{secrets.token_hex(4)}.jsonl"
        self._own = Spool(path, key)
        self._lock = path.with_suffix(".lock")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        writer: Writer,
        directory: Path,
        key: bytes,
        *,
        every_s: float = EVERY_S,
    ) -> AsyncIterator[Spooling]:
        """Merge what others left, then follow the writer; on the way out nothing is lost."""
        spooling = cls(writer, directory, key)
        with _held(spooling._lock):
            await spooling.merge_left()
            async with running(lambda: spooling._follow(every_s)):
                yield spooling
            with anyio.CancelScope(shield=True):
                await spooling.step()

    async def step(self) -> None:
        """While PostgreSQL is away, keep what waits in the file; when it is back, merge that.

        Raises `StoreUnavailable` when a file cannot be written or read.
        """
        if self._writer.away_since is not None:
            await self._keep()
            with suppress(StoreUnavailable):  # nobody else may write, and so find out
                await self._writer.do(Nothing())
        if self._writer.away_since is None and self._own.waiting:
            await self._merge(self._own)

    async def merge_left(self) -> int:
        """Merge the files of processes that are gone; answers how many there were."""
        merged = 0
        for path in sorted(self._directory.glob("spool-*.jsonl")):
            with ExitStack() as stack, suppress(BlockingIOError):
                stack.enter_context(_held(path.with_suffix(".lock")))
                await self._merge(Spool(path, self._key))
                merged += 1
        return merged

    async def _keep(self) -> None:
        lines = self._writer.take_noted()
        if not lines:
            return
        try:
            await self._own.add(lines)
        except StoreUnavailable:
            for line in lines:
                self._writer.note(line)
            raise

    async def _merge(self, spool: Spool) -> None:
        lines, damaged = await spool.take()
        for start in range(0, len(lines), _BATCH):
            await self._writer.do(Notes(tuple(lines[start : start + _BATCH])))
        await spool.done(damaged=damaged > 0)
        if damaged:
            _log.error("%d spooled lines were damaged and are not in the ledger", damaged)

    async def _follow(self, every_s: float) -> None:
        while True:
            await anyio.sleep(every_s)
            try:
                await self.step()
            except StoreUnavailable as error:
                _log.error("lines of the ledger wait in memory: %s", error.message)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock file; raises `BlockingIOError` while another process does.

    Where files cannot be locked (Windows) a state directory is for one process.
    """
    with path.open("ab") as file:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
