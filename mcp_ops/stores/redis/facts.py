"""What people set, kept outside Redis too: where it is found again when Redis lost everything.

One fact is one item (an entry of a mode, an isolated circuit, an elevation, a partition) as JSON
under a name of its own, so that two processes never write the same one. The item in Redis bears
that name; the script that takes it out of force answers it, and then the fact goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol
from uuid import uuid4

import orjson

from mcp_ops.stores.redis.shapes import Item, dump

_KINDS = {"mode": "modes", "circuit": "circuits", "grant": "grants", "partition": "partitions"}
_INCARNATION = "incarnation"


class Facts(Protocol):
    """What of a ledger the store needs: small texts by name, durable before it goes on."""

    async def facts(self) -> Mapping[str, str]:
        """All of them."""
        ...

    async def put_fact(self, name: str, value: str) -> None:
        """Keep one in the place of the one with its name; an empty one is removed."""
        ...


class MemoryFacts:
    """Facts of a process that has no ledger at hand: gone with it."""

    def __init__(self) -> None:
        self._facts: dict[str, str] = {}

    async def facts(self) -> Mapping[str, str]:
        """All of them."""
        return dict(self._facts)

    async def put_fact(self, name: str, value: str) -> None:
        """Keep one, or remove it."""
        self._facts.pop(name, None)
        if value:
            self._facts[name] = value


class Book:
    """The facts of one store, by kind."""

    def __init__(self, facts: Facts, prefix: str) -> None:
        self._facts = facts
        self._prefix = f"hot:{prefix}:"

    def name(self, kind: str) -> str:
        """A new fact's name."""
        return f"{self._prefix}{kind}:{uuid4().hex}"

    async def keep(self, item: Item) -> None:
        """Durably keep an item under the name that it bears."""
        await self._facts.put_fact(item["fact"], dump(item).decode("utf-8"))

    async def drop(self, names: Iterable[str]) -> None:
        """Forget items."""
        for name in names:
            await self._facts.put_fact(name, "")

    async def incarnation(self) -> str:
        """The data that was known last, or nothing."""
        return (await self._facts.facts()).get(self._prefix + _INCARNATION, "")

    async def keep_incarnation(self, name: str) -> None:
        """Durably note which data is known."""
        await self._facts.put_fact(self._prefix + _INCARNATION, name)

    async def items(self) -> dict[str, list[Item]]:
        """All items by the plural of their kind, oldest first."""
        found: dict[str, list[Item]] = {plural: [] for plural in _KINDS.values()}
        for name, value in (await self._facts.facts()).items():
            kind = name.removeprefix(self._prefix).split(":")[0]
            if name.startswith(self._prefix) and kind in _KINDS:
                found[_KINDS[kind]].append(orjson.loads(value))
        for items in found.values():
            items.sort(key=_age)
        return found


def _age(item: Item) -> float:
    return float(item.get("since") or item.get("opened_at") or 0)
