"""Kind `redis`: the dead-letter queue of the OCI coordinator and queues like it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from mcp_ops.adapter import Adapter, Wiring
from mcp_ops.adapters.redis import moves, scripts
from mcp_ops.adapters.redis.connection import Argument, Connection
from mcp_ops.adapters.redis.cursors import START, Place, after, make_cursor, read_cursor
from mcp_ops.adapters.redis.items import (
    Member,
    Parsed,
    not_retried,
    parse,
    ref_of,
    rewritten,
    sort_in,
    told_apart,
)
from mcp_ops.adapters.redis.settings import RedisSettings
from mcp_ops.capabilities.deadletter_items import breakdown, detailed, listed, matches
from mcp_ops.capabilities.deadletters import (
    DeadLetter,
    DeadLetterDetail,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterStats,
    Discarded,
    Move,
    Operation,
    RetryEnd,
    Selected,
    superseded,
)
from mcp_ops.errors import Conflict, InvalidInput, NotFound

_WINDOW = 500
_FIND_WINDOW = 5_000
_BATCH_BYTES = 1_048_576
_SELECT_SCANS = 10
_MOVE_BATCH = 50
_RESTORE_BATCH = 100

Direction = Literal["new", "old"]

_WHY = {
    "gone": "not in the queue any more",
    "held": "another retry holds it",
    "unknown": "an earlier retry ended without an answer; look at its effect first",
    "there": "such an item is there already",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Receipt:
    token: str
    parsed: Parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walked:
    members: list[Member]
    place: Place
    walked: int
    more: bool


class RedisAdapter(Adapter):
    """A dead-letter queue in a Redis or Valkey sorted set, list, stream or hash."""

    kind: ClassVar[str] = "redis"
    title: ClassVar[str] = "Redis dead-letter queue"
    extra: ClassVar[str] = "redis"
    modules: ClassVar[tuple[str, ...]] = ("redis.asyncio",)
    Settings = RedisSettings

    def __init__(self, settings: RedisSettings, wiring: Wiring, connection: Connection) -> None:
        self._s = settings
        self._redactor = wiring.redactor
        self._clock = wiring.clock
        self._connection = connection
        self._holds = f"{settings.key}:mcp-ops:holds"

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: RedisSettings, wiring: Wiring) -> AsyncIterator[RedisAdapter]:
        """Open a pool; nothing is sent yet."""
        wiring.redactor.add(settings.url.get_secret_value())
        async with Connection.open(settings) as connection:
            yield cls(settings, wiring, connection)

    async def ping(self) -> None:
        """Whether the server answers and accepts the credential."""
        await self._connection.command("PING")

    # ---- reading

    async def list_items(
        self, selection: DeadLetterFilter, *, limit: int, cursor: str
    ) -> DeadLetterPage:
        """One page, newest first; reads at most `scan_items` members. Resolved items are left out.

        With ids it answers those that are there. Raises `InvalidInput` for a foreign cursor.
        """
        self._check_queue(selection)
        if selection.ids:
            items = await self.find_items(list(selection.ids))
            return DeadLetterPage(items=items, searched=f"{len(selection.ids)} ids")
        found: list[Parsed] = []
        at, seen, more = read_cursor(cursor, "new", self._s.format), 0, True
        while more and len(found) < limit and seen < self._s.scan_items:
            # An unfiltered page needs few members; filtered ones read on in larger windows.
            count = min(_WINDOW if seen else max(limit, 50), self._s.scan_items - seen)
            got = await self._walk("new", count, at)
            for member in got.members:
                parsed = parse(member)
                at, seen = after(parsed), seen + 1
                if matches(parsed.item, selection, self._redactor):
                    found.append(parsed)
                if len(found) == limit:
                    more = got.more or member is not got.members[-1]
                    break
            else:
                more = got.more
        return DeadLetterPage(
            items=[listed(p.item, self._redactor) for p in told_apart(found)],
            next_cursor=make_cursor("new", self._s.format, at) if more else "",
            truncated=more,
            searched=f"{seen} members of {self._s.key}, newest first, without resolved ones",
        )

    async def get_item(self, item_id: str) -> DeadLetterDetail:
        """One item; raises `NotFound`, or `Conflict` where members share the id."""
        return detailed((await self._find(item_id)).item, self._redactor)

    async def find_items(self, item_ids: list[str]) -> list[DeadLetter]:
        """Those of the items that are there, in the order of the ids."""
        found = await self._locate(item_ids)
        return [listed(found[i][0].item, self._redactor) for i in item_ids if i in found]

    async def stats(self) -> DeadLetterStats:
        """The total of the key, and a breakdown of its newest `scan_items` members."""
        total = await self._total()
        members: list[Member] = []
        at, more = START, True
        while more and len(members) < self._s.scan_items:
            got = await self._walk("new", min(_WINDOW, self._s.scan_items - len(members)), at)
            members += got.members
            at, more = got.place, got.more
        stats = breakdown((parse(m).item for m in members), total=total, redactor=self._redactor)
        if not more:
            return stats
        oldest = await self._walk("old", 1, START)
        first = [listed(parse(m).item, self._redactor).failed_at for m in oldest.members]
        return stats.model_copy(update={"oldest": first[0] if first else None})

    async def select_ids(
        self, selection: DeadLetterFilter, *, max_items: int, checkpoint: str = ""
    ) -> Selected:
        """What a selection means now, oldest first; reads at most ten pages' worth of members."""
        self._check_queue(selection)
        if selection.ids:
            return Selected(
                ids=tuple(dict.fromkeys(selection.ids))[:max_items],
                more=len(set(selection.ids)) > max_items,
                searched="the ids given",
            )
        ids: dict[str, str] = {}
        at, seen, more = read_cursor(checkpoint, "old", self._s.format), 0, True
        while more and seen < self._s.scan_items * _SELECT_SCANS:
            got = await self._walk("old", _WINDOW, at)
            for member in got.members:
                if len(ids) == max_items:
                    break
                parsed = parse(member)
                at, seen = after(parsed), seen + 1
                if matches(parsed.item, selection, self._redactor):
                    ids[parsed.item.id] = make_cursor("old", self._s.format, at)
            else:
                more = got.more
                continue
            break
        return Selected(
            ids=tuple(ids),
            checkpoints=tuple(ids.values()),
            more=more,
            searched=f"{seen} members of {self._s.key}, oldest first, without resolved ones",
        )

    # ---- moving

    @property
    def retries_by_call(self) -> bool:
        """Whether a retry calls the linked endpoint."""
        return self._s.retry == "endpoint"

    async def requeue(self, item_id: str, *, fence: int = 0) -> Move:
        """Move one item to `requeue_key` with one more attempt, in one step."""
        parsed = await self._find(item_id)
        why = not_retried(parsed, self._s.max_attempts)
        if why or parsed.data is None:
            return Move(id=item_id, done=False, why=why)
        new = rewritten(parsed.data, end="failed", note="", now=self._clock.now())
        status, _ = await self._moved(
            moves.REQUEUE,
            [self._holds, self._s.requeue_key],
            [self._s.requeue_format, item_id, new, fence, *ref_of(parsed.member)],
        )
        return Move(id=item_id, done=status == "ok", why=_WHY.get(status, ""))

    async def begin_retry(self, item_id: str, *, fence: int = 0) -> Operation:
        """Hold one item; it stays in the queue while it is called."""
        parsed = await self._find(item_id)
        why = not_retried(parsed, self._s.max_attempts)
        if why or parsed.data is None:
            raise Conflict(f"The item is not retried: {why}.", hint="Skip it, or discard it.")
        token = secrets.token_hex(8)
        status, since = await self._moved(
            moves.BEGIN,
            [self._holds],
            [item_id, token, self._s.hold_s, fence, *ref_of(parsed.member)],
        )
        if status == "gone":
            raise NotFound("The item is not in the queue any more.")
        if status != "ok":
            raise Conflict(
                f"The item is not retried: {_WHY[status]}.",
                hint="docs/targets/redis.md tells how an operator clears a retry without answer.",
                details={"since": since},
            )
        return Operation(
            id=item_id,
            operation=parsed.item.operation,
            arguments=dict(parsed.data.get("params") or {}),
            attempts=parsed.item.attempts,
            receipt=_Receipt(token=token, parsed=parsed),
        )

    async def end_retry(self, operation: Operation, *, end: RetryEnd, note: str) -> None:
        """Record how the call ended; a holder that lost its hold is refused."""
        receipt = operation.receipt
        if not isinstance(receipt, _Receipt) or receipt.parsed.data is None:
            raise TypeError("the receipt is not one of this adapter")
        new = b""
        if end != "released":
            new = rewritten(receipt.parsed.data, end=end, note=note, now=self._clock.now())
        status, _ = await self._moved(
            moves.END,
            [self._holds, self._s.stats_key],
            [operation.id, receipt.token, end, new, *ref_of(receipt.parsed.member)],
        )
        if status == "fenced":
            raise Conflict("This retry does not hold the item any more; nothing was changed.")
        if status == "gone":
            raise Conflict("The item left the queue while it was retried.")

    async def discard(self, item_ids: list[str], *, export_id: str) -> Discarded:
        """Move items into an export key that expires after `retention_days`."""
        found = await self._locate(item_ids)
        done: list[Move] = []
        todo: list[Parsed] = []
        for item_id in dict.fromkeys(item_ids):
            matches_ = found.get(item_id, [])
            if len(matches_) == 1:
                todo.append(matches_[0])
            else:
                why = "several members have this id" if matches_ else _WHY["gone"]
                done.append(Move(id=item_id, done=False, why=why))
        keep_s = self._s.retention_days * 86_400
        until = self._clock.now() + keep_s
        for start in range(0, len(todo), _MOVE_BATCH):
            batch = todo[start : start + _MOVE_BATCH]
            args: list[Argument] = [keep_s]
            for parsed in batch:
                args += [parsed.item.id, *ref_of(parsed.member)]
            first, *states = await self._moved(
                moves.DISCARD, [self._holds, self._export_key(export_id)], args
            )
            until = float(first)
            done += [
                Move(id=parsed.item.id, done=state == "ok", why=_WHY.get(state, ""))
                for parsed, state in zip(batch, states, strict=True)
            ]
        return Discarded(moves=done, restorable_until=until)

    async def restore(self, export_id: str) -> list[Move]:
        """Put an export back; items that are there already are skipped."""
        done: list[Move] = []
        while True:
            state, *flat = await self._moved(
                moves.RESTORE, [self._holds, self._export_key(export_id)], [_RESTORE_BATCH]
            )
            if state == "none" and not done:
                raise NotFound(
                    "There is no such export, or its retention ended.",
                    hint="export_id is in the answer of discard_deadletters.",
                )
            for item_id, status in zip(flat[::2], flat[1::2], strict=True):
                done.append(Move(id=item_id, done=status == "ok", why=_WHY.get(status, "")))
            if state != "more":
                return done

    # ---- how it is done

    async def _total(self) -> int:
        keys, args = [self._s.key], [self._s.format]
        return int(await self._connection.script(scripts.COUNT, keys=keys, args=args))

    async def _walk(
        self,
        direction: Direction,
        count: int,
        place: Place,
        wanted: Sequence[str] = (),
    ) -> _Walked:
        """Read a window of members after a place (two coordinates and the last mark)."""
        s = self._s
        args: list[Argument] = [s.format, s.newest, s.stream_field, direction, count]
        args += [s.item_bytes, _BATCH_BYTES, *place, *wanted]
        more, walked, resume, rows = await self._connection.script(
            scripts.WALK, keys=[s.key], args=args
        )
        members = [
            Member(
                head=head,
                size=int(size),
                mark=mark.decode("ascii"),
                place=(
                    p1.decode("ascii"),
                    p2.decode("ascii"),
                    p3.decode("utf-8", "surrogateescape"),
                ),
            )
            for head, size, mark, p1, p2, p3 in rows
        ]
        last = place
        if resume:
            last = (resume[0].decode("ascii"), resume[1].decode("ascii"), resume[2].decode("ascii"))
        return _Walked(members=members, place=last, walked=walked, more=bool(more))

    async def _locate(self, item_ids: Sequence[str]) -> dict[str, list[Parsed]]:
        """The members of each id, searched at the server from both ends in growing windows.

        The search ends with the window in which the last of the ids was found.
        """
        found: dict[str, list[Parsed]] = {}
        wanted, missing = tuple(set(item_ids)), set(item_ids)
        ends: list[Direction] = ["new"] if self._s.format == "hash" else ["new", "old"]
        places, seen, count = dict.fromkeys(ends, START), 0, _WINDOW
        bound = min(await self._total(), self._s.find_items)
        while missing and seen < bound:
            for end in ends:
                got = await self._walk(end, count, places[end], wanted)
                for member in got.members:
                    missing -= sort_in(found, parse(member), wanted)
                places[end], seen = got.place, seen + got.walked
                if not missing or not got.more:
                    return found
            count = _FIND_WINDOW
        return found

    async def _find(self, item_id: str) -> Parsed:
        found = (await self._locate([item_id])).get(item_id, [])
        if not found:
            raise NotFound(
                f"No such item in the queue (at most {self._s.find_items} members searched).",
                hint="list_deadletters shows what is there.",
            )
        if len(found) > 1:
            raise Conflict(
                "Several members of the queue have this id.",
                hint="Use the ids in `same_id`.",
                details={"same_id": [p.member.raw_id for p in found[:10]]},
            )
        return found[0]

    async def _moved(self, script: str, keys: Sequence[str], args: Sequence[Argument]) -> list[str]:
        """Run a script that moves something; its words come back as text."""
        s = self._s
        reply = await self._connection.script(
            script, keys=[s.key, *keys], args=[s.format, s.newest, s.stream_field, *args]
        )
        if reply[0] == b"superseded":
            raise superseded()
        return [word.decode("utf-8") for word in reply]

    def _export_key(self, export_id: str) -> str:
        return f"{self._s.export_prefix}{export_id}"

    def _check_queue(self, selection: DeadLetterFilter) -> None:
        if selection.queue not in ("", self._s.key):
            raise InvalidInput("queue: this target has one queue; leave the argument out.")
