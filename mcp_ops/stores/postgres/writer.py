"""The writer of one open store: what is asked for at the same time shares a commit.

A connection that was lost is replaced once. A commit whose answer got lost is looked up: the number
of the writer's last line says whether it happened, so that nothing is lost and nothing written
twice. The head that a batch has locked before its commit is sent makes that safe: nobody can look
before the server has ended that transaction. Where it cannot be found out in time the callers get
`StoreUnavailable`, and the next batch looks first: noted lines are then kept or dropped, and
intents that were committed after all are ended before anything else, because nobody ran them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import psycopg
from psycopg.pq import TransactionStatus

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Begun, Entry, EntryKind
from mcp_ops.stores.floods import Floods
from mcp_ops.stores.postgres import lines, schema
from mcp_ops.stores.postgres.batch import Job, Keeping, State, Wanted, forget
from mcp_ops.stores.postgres.connections import (
    ANSWER_S,
    Connection,
    Connections,
    Row,
    rows,
    together,
)
from mcp_ops.stores.postgres.errors import unavailable
from mcp_ops.stores.postgres.jobs import Begin, End, GiveUpLost, Nothing
from mcp_ops.stores.postgres.sealing import ends_of
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.waiting import Batch, Sent, Waiting, answer, refuse

FLUSH_S = 0.5
MOST_NOTED = 10_000
_FLUSH_AT = 1_000
_LARGEST_BATCH = 512
CLOSE_S = 10.0
_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
# What PostgreSQL says of the values of one job, not of its own state.
_OF_ONE_JOB = (psycopg.DataError, psycopg.IntegrityError)


class Writer:
    """Everything of one open store that adds lines. Made by `open`.

    `away_since` is when the first of the present row of failures was, in Unix seconds of the
    store's clock as far as it is known; None when the last write succeeded.
    """

    def __init__(
        self, connections: Connections, key: bytes, keeping: Keeping, time: StoreTime
    ) -> None:
        self._connections = connections
        self._key = key
        self._keeping = keeping
        self._time = time
        self._writer = ""
        self._months: frozenset[str] = frozenset()
        self._month_due = False
        self._queue: deque[Waiting] = deque()
        self._noted: deque[Entry] = deque()
        self._floods = Floods()
        self._doubt: Sent | None = None
        self._unheard: Batch = []
        self._on_their_way = False  # noted lines, in the batch that is being written
        self._connected = False
        self._wake = asyncio.Event()
        self._closing = False
        self._given_up = False
        self.away_since: float | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        connections: Connections,
        key: bytes,
        *,
        keeping: Keeping,
        time: StoreTime,
        flush_s: float = FLUSH_S,
        close_s: float = CLOSE_S,
    ) -> AsyncIterator[Writer]:
        """Open it; on the way out what waits is written, within `close_s` seconds.

        Raises `StoreUnavailable`, on the way out too.
        """
        writer = cls(connections, key, keeping, time)
        writer._months = await schema.make_partitions(connections)
        await ends_of(connections, key)
        task = asyncio.create_task(writer._write_to_the_end(flush_s))
        try:
            yield writer
        finally:
            with anyio.CancelScope(shield=True):
                writer._closing = True
                writer._wake.set()
                await asyncio.wait({task}, timeout=close_s)
                writer._given_up = not task.done()
                task.cancel()
                await asyncio.wait({task})
        if writer._given_up:
            raise unavailable("the last lines could not be written in time")
        task.result()  # raises `StoreUnavailable` when noted lines could not be written

    async def do(self, job: Job) -> Any:
        """What a job answers, once its batch is durable. Cancelling the caller cancels no job.

        Raises `StoreUnavailable`: nothing was written, or nobody knows and it is looked up later.
        """
        if self._closing:
            raise unavailable("it is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(job, self.take_noted(), future))
        self._wake.set()
        return await future

    def note(self, entry: Entry) -> None:
        """Add a line that is written within a second: no waiting.

        Raises `StoreUnavailable` when ten thousand lines wait: none is ever dropped in silence.
        """
        if len(self._noted) >= MOST_NOTED:
            raise StoreUnavailable(
                "The ledger is behind by ten thousand lines and takes no more.",
                hint="An operator must look at the database that store.ledger names.",
            )
        self._noted.append(entry)
        if len(self._noted) in (1, _FLUSH_AT):
            self._wake.set()

    @property
    def unwritten(self) -> int:
        """How many noted lines wait, alone or before a job."""
        return len(self._noted) + sum(len(each.earlier) for each in tuple(self._queue))

    def take_noted(self) -> tuple[Entry, ...]:
        """Hand out the lines that wait: whoever takes them sees to it that they are kept.

        Lines whose commit has an open fate are not among them: they are either written or wait
        again once that is known.
        """
        noted = self._floods.joined(self._noted)
        self._noted.clear()
        return noted

    async def flush(self) -> None:
        """Write all noted lines now. Raises `StoreUnavailable`; they are kept for the next try."""
        if self._noted or self._doubt or self._on_their_way:
            await self.do(Nothing())

    async def recover(self) -> None:
        """Turn running operations whose lease passed into `unknown`."""
        while await self.do(GiveUpLost()):
            pass

    async def _write_all(self, flush_s: float) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            if not self._closing and not self._queue and len(self._noted) < _FLUSH_AT:
                with anyio.move_on_after(flush_s):  # noted lines wait for company
                    await self._wake.wait()
            failed = await self._write_queue()
            if failed and self._unfinished:
                with anyio.move_on_after(flush_s):
                    await self._wake.wait()
                self._wake.set()  # the lines are kept; the next try comes after the interval
        if (failed := await self._write_queue()) is not None:
            raise failed

    async def _write_to_the_end(self, flush_s: float) -> None:
        """Nobody waits for a writer that is not there any more, whatever ended it."""
        try:
            await self._write_all(flush_s)
        finally:
            self._closing = True
            refuse(self._queue)

    @property
    def _unfinished(self) -> bool:
        return bool(self._queue or self._noted or self._doubt or self._unheard)

    async def _write_queue(self) -> StoreUnavailable | None:
        """Write what waits now; answers why the last batch was not written."""
        failed: StoreUnavailable | None = None
        while not (failed or self._given_up) and self._unfinished:
            batch = self._next_batch()
            self._on_their_way = any(waiting.earlier for waiting in batch)
            try:
                await self._commit(batch)
            except StoreUnavailable as error:
                failed = error
                for waiting in batch:
                    waiting.error = error
                self._keep_unless_doubtful(batch)
                self._failed(error)
            except BaseException:
                refuse(batch)
                raise
            else:
                self.away_since = None
            finally:
                self._on_their_way = False
            answer(batch)
        if self._month_due and not failed:
            self._month_due = False
            with suppress(StoreUnavailable):  # there is a month's time to try again
                self._months = await schema.make_partitions(self._connections)
        return failed

    def _failed(self, error: StoreUnavailable) -> None:
        if self.away_since is None and not isinstance(error.__cause__, _OF_ONE_JOB):
            self.away_since = self._time.now()

    def _next_batch(self) -> Batch:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _LARGEST_BATCH))]
        if not self._queue:
            batch.append(Waiting(Nothing(), self.take_noted()))
        return batch

    async def _commit(self, batch: Batch) -> None:
        """Write a batch; one whose answer got lost is looked up, and tried once more."""
        try:
            await self._attempt(batch)
        except StoreUnavailable as error:
            if self._given_up:  # psycopg may say that a cancelled connection was lost
                raise
            if self._is_doubtful(batch) or (self._connected and _transient(error)):
                await self._attempt(batch)
            elif len(batch) > 1 and isinstance(error.__cause__, _OF_ONE_JOB):
                for waiting in batch:
                    await self._alone(waiting)
            else:
                raise

    async def _alone(self, waiting: Waiting) -> None:
        """Write one job of a batch of which some contradicts the database."""
        try:
            await self._attempt(batch := [waiting])
        except StoreUnavailable as error:
            waiting.error = error
            self._keep_unless_doubtful(batch)

    async def _attempt(self, batch: Batch) -> None:
        self._connected = False
        async with self._connections.one() as connection:
            self._connected = True
            with anyio.fail_after(ANSWER_S):
                try:
                    await self._transact(connection, batch)
                finally:
                    if connection.info.transaction_status in _OPEN:
                        await rows(connection, "ROLLBACK")
                        if self._is_doubtful(batch):
                            self._doubt = None

    async def _transact(self, connection: Connection, batch: Batch) -> None:
        wanted = Wanted()
        for waiting in batch:
            waiting.job.want(wanted)
        # Lines that nobody waits for survive this server's death, but need not wait for the disk.
        quiet = not any(waiting.future for waiting in batch)
        found = await together(
            connection,
            [
                ("BEGIN", ()),
                ("SELECT start, seq FROM mcp_ops.head FOR UPDATE", ()),
                ("SELECT mcp_ops.now() AS now", ()),
                ("SELECT * FROM mcp_ops.writers WHERE writer = %s", (self._writer,)),
                *wanted.statements(self._keeping),
                *([("SET LOCAL synchronous_commit = off", ())] if quiet else []),
            ],
        )
        head, now, chain = self._ends(*found[1:4])
        if self._settle(chain, batch):
            return
        if self._unheard or schema.month_of(now) not in self._months:
            await rows(connection, "ROLLBACK")
            batch[:0] = self._unheard
            self._unheard = []
            if schema.month_of(now) not in self._months:
                self._months = await schema.make_partitions(self._connections)
            await self._transact(connection, batch)
            return
        self._month_due = schema.following(schema.month_of(now)) not in self._months
        state = State.of(now, self._keeping, found[4:10])
        results = []
        for waiting in batch:
            state.lines.extend(waiting.earlier)
            results.append(_decide(waiting.job, state))
        sent = Sent(batch, results, self._prepare(state, head, chain))
        if state.statements and not quiet:
            state.statements.extend(forget(self._keeping))
        self._doubt = sent if sent.number else None
        await together(connection, [*state.statements, ("COMMIT", ())])
        self._done(sent)

    def _prepare(self, state: State, head: lines.Head, chain: lines.Chain | None) -> int:
        """Seal the lines; answers the number of the last one."""
        if not state.lines:
            return 0  # without lines there is nothing whose fate would have to be known
        if chain is None:
            self._writer = secrets.token_hex(8)
            first, chain = lines.new_writer(self._key, self._writer, state.now)
            state.statements.append(first)
        more, end = lines.append(self._key, head, chain, state.lines, now=state.now)
        state.statements += more
        return end

    def _ends(
        self, head: list[Row], clock: list[Row], writers: list[Row]
    ) -> tuple[lines.Head, float, lines.Chain | None]:
        if not head:
            raise StoreUnavailable(
                "The ledger has lost its ends, so that no line can be added.",
                hint="Verify the ledger, keep the database, and start with a new one.",
            )
        self._time.learn(now := clock[0]["now"])
        chain = lines.Chain.of(writers[0]) if writers else None
        return lines.Head(head[0]["start"], head[0]["seq"]), now, chain

    def _settle(self, chain: lines.Chain | None, batch: Batch) -> bool:
        """Find out what became of a commit whose answer got lost; true if it was this batch's."""
        doubt, self._doubt = self._doubt, None
        if doubt is None:
            return False
        if chain is None or chain.end.seq < doubt.number:
            if doubt.batch is not batch:
                self._keep(doubt.batch)
            return False
        if doubt.batch is batch:
            self._done(doubt)
            return True
        self._end_unheard(doubt)
        return False

    def _is_doubtful(self, batch: Batch) -> bool:
        """Whether this batch's commit was sent, and nobody knows what became of it."""
        return self._doubt is not None and self._doubt.batch is batch

    def _keep_unless_doubtful(self, batch: Batch) -> None:
        if not self._is_doubtful(batch):
            self._keep(batch)

    def _keep(self, batch: Batch) -> None:
        """What was not written, and nobody was told of, waits for the next batch."""
        for waiting in reversed(batch):
            self._noted.extendleft(reversed(waiting.earlier))
            if isinstance(waiting.job, End) and waiting.future is None:
                self._unheard.insert(0, Waiting(waiting.job, ()))

    def _done(self, sent: Sent) -> None:
        self._doubt = None
        for waiting, (result, error) in zip(sent.batch, sent.results, strict=True):
            waiting.result, waiting.error = result, error

    def _end_unheard(self, doubt: Sent) -> None:
        """End intents whose callers were told that nothing was written: they ran nothing."""
        for waiting, (result, _) in zip(doubt.batch, doubt.results, strict=True):
            job = waiting.job
            if not isinstance(job, Begin) or not isinstance(result, Begun) or not result.claimed:
                continue
            line = replace(
                job.entry,
                kind=EntryKind.CHANGED,
                code="store_unavailable",
                evidence={"late_begin": "the store answered too late; nothing ran"},
            )
            ended = replace(job.operation, state="done", outcome="failed")
            self._unheard.append(Waiting(End(entry=line, operation=ended, keep=False), ()))


def _transient(error: StoreUnavailable) -> bool:
    """Whether another try may do: PostgreSQL ended a transaction because of another one, or the
    connection, which may have been an old one."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.OperationalError):
        return False
    # By the class of the state: psycopg has no common type for those of one class.
    return cause.sqlstate is None or cause.sqlstate.startswith("40") or cause.sqlstate == "57P01"


def _decide(job: Job, state: State) -> tuple[Any, StoreUnavailable | None]:
    try:
        return job.decide(state), None
    except StoreUnavailable as error:
        return None, error
