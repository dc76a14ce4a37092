"""Keys that `mcp-ops keys create` makes: what is kept of them, and where.

A key is 32 random bytes behind a prefix; its SHA-256 is kept as a fact of the ledger, so that all
processes and replicas know the same keys. A revoked key stays as a stone that marks its place:
who had keys once never falls back to letting in everybody.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from mcp_ops.errors import Conflict, InvalidInput, NotFound

PREFIX: Final = "mcpops_"
"""How every created key begins: the redactor and scanners of repositories find it by that."""

MOST_KEYS: Final = 500
"""Keys that may be in use at once."""

MOST_KEPT: Final = 1_000
"""Keys that are remembered, revoked and expired ones among them."""

_FACT = "api-key|"
_USED = "api-key-used|"
_CREATING = "creation of a key"
_CREATING_S = 15.0


class Facts(Protocol):
    """The part of the ledger in which small texts are kept by name, and names are leased."""

    async def facts(self) -> Mapping[str, str]:
        """All of them."""
        ...

    async def put_fact(self, name: str, value: str) -> None:
        """Keep one durably; an empty one is removed."""
        ...

    async def lock(self, name: str, holder: str, until: float) -> int | None:
        """Take or keep a lease, with the same number while it is kept; None: another holds it."""
        ...

    async def unlock(self, name: str, fence: int) -> None:
        """Give a lease back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """What is kept of a key. Times are Unix seconds; the key itself is nowhere."""

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    created_at: float
    created_by: str
    host_confirms: bool = False
    expires_at: float | None = None
    revoked_at: float | None = None
    revoked_by: str = ""
    used_at: float | None = None

    def valid(self, now: float) -> bool:
        """Whether it lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.valid(now) else "expired"


def digest_of(secret: str) -> str:
    """What is kept of a key. No slow hash: there are 2^256 of them to try."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyBook:
    """The created keys in the ledger. All methods raise `StoreUnavailable`."""

    def __init__(self, facts: Facts, now: Callable[[], float]) -> None:
        self._facts = facts
        self._now = now

    async def all(self) -> list[CreatedKey]:
        """Every key that is remembered, oldest first; what cannot be read is no key."""
        facts = await self._facts.facts()
        found = [
            key
            for name, value in facts.items()
            if name.startswith(_FACT) and (key := _read(value)) is not None
        ]
        return sorted(
            (replace(key, used_at=_time(facts.get(_USED + key.id))) for key in found),
            key=lambda key: (key.created_at, key.id),
        )

    async def create(
        self,
        name: str,
        *,
        scopes: tuple[str, ...],
        expires_at: float | None,
        by: str,
        host_confirms: bool = False,
        taken: frozenset[str] = frozenset(),
    ) -> tuple[CreatedKey, str]:
        """A new key and its secret, which is not kept. `taken` are names of configured keys.

        One is created at a time: of two with one name, one is refused. Raises `Conflict` for a name
        in use and while another key is created, `InvalidInput` when there are too many keys.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        key = CreatedKey(
            id=secrets.token_hex(8),
            name=name,
            digest=digest_of(secret),
            scopes=scopes,
            created_at=self._now(),
            created_by=by,
            host_confirms=host_confirms,
            expires_at=expires_at,
        )
        fence = first = await self._lease(key)
        if fence is None:
            raise _one_at_a_time()
        try:
            await self._make_room(key, taken)
            await self._put(key)
            # Who was held up for longer than its lease may have looked before another one wrote.
            fence = await self._lease(key)
            if fence != first:
                await self._facts.put_fact(_FACT + key.id, "")
                raise _one_at_a_time()
        finally:
            if fence is not None:
                await self._facts.unlock(_CREATING, fence)
        return key, secret

    async def _lease(self, key: CreatedKey) -> int | None:
        return await self._facts.lock(_CREATING, key.id, self._now() + _CREATING_S)

    async def _make_room(self, new: CreatedKey, taken: frozenset[str]) -> None:
        now, name = new.created_at, new.name
        known = await self.all()
        active = [key for key in known if key.valid(now)]
        if name in taken or any(key.name == name for key in active):
            raise Conflict(
                f"There is a key called {name} already.",
                hint="Choose another name, or revoke that key first: mcp-ops keys revoke",
            )
        if len(active) >= MOST_KEYS:
            raise InvalidInput(
                f"There are {MOST_KEYS} keys in use already.",
                hint="Revoke those that nobody needs: mcp-ops keys list",
            )
        await self._forget(known, now)

    async def revoke(self, named: str, *, by: str) -> list[CreatedKey]:
        """Revoke the key with this id, or those in use with this name. Raises `NotFound`."""
        now = self._now()
        found = [
            replace(key, revoked_at=now, revoked_by=by)
            for key in await self.all()
            if key.revoked_at is None
            and (key.id == named or (key.name == named and key.valid(now)))
        ]
        if not found:
            raise NotFound(
                "No created key in use has this name or id.",
                hint="mcp-ops keys list shows them; one of the configuration is removed there.",
            )
        for key in found:
            await self._put(key)
        return found

    async def used(self, key_id: str, at: float) -> None:
        """Remember when a key was used last."""
        await self._facts.put_fact(_USED + key_id, str(int(at)))

    async def _put(self, key: CreatedKey) -> None:
        kept = asdict(key)
        del kept["used_at"]
        await self._facts.put_fact(_FACT + key.id, json.dumps(kept))

    async def _forget(self, known: list[CreatedKey], now: float) -> None:
        """Make room: the oldest that let nobody in go first."""
        over = [key for key in known if not key.valid(now)]
        for key in over[: max(0, len(known) + 1 - MOST_KEPT)]:
            await self._facts.put_fact(_FACT + key.id, "")
            await self._facts.put_fact(_USED + key.id, "")


def _one_at_a_time() -> Conflict:
    return Conflict(
        "Another key is being created at this moment, and one is created at a time.",
        hint="Create it again.",
    )


def _read(value: str) -> CreatedKey | None:
    try:
        fields: dict[str, Any] = json.loads(value)
        key = CreatedKey(**{**fields, "scopes": tuple(map(str, fields["scopes"]))})
    except (ValueError, TypeError, KeyError):
        return None
    texts = (key.id, key.name, key.digest)
    times = (key.created_at, key.expires_at or 0.0, key.revoked_at or 0.0)
    whole = all(isinstance(text, str) for text in texts) and all(
        isinstance(time, int | float) for time in times
    )
    return key if whole else None


def _time(value: str | None) -> float | None:
    return float(value) if value and value.isascii() and value.isdigit() else None
