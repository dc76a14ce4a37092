"""Created keys in every ledger: two replicas on one store see the same, and a revocation."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest

from mcp_ops.auth.keys import KeyBook
from mcp_ops.auth.principal import NO_KEY, Admitted
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from mcp_ops.errors import Conflict
from mcp_ops.records import Ledger
from tests.stores.backends import Backend


async def test_of_keys_that_are_created_at_once_with_one_name_there_is_one(
    backend: Backend, clock: ManualClock
) -> None:
    ends: list[str] = []
    async with backend.open(clock) as one, backend.open(clock) as two:

        async def create(book: KeyBook) -> None:
            try:
                await book.create("night", scopes=("ops:read",), expires_at=None, by="operator:a")
            except Conflict as error:
                ends.append(error.code)
            else:
                ends.append("ok")

        books = [KeyBook(stores.ledger, clock.now) for stores in (one, two)]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for book in books * 3:
                    tasks.start_soon(create, book)
        assert sorted(ends) == ["conflict"] * 5 + ["ok"]
        (key,) = await books[0].all()
        await books[1].revoke("night", by="operator:ada")
        again, _ = await books[0].create(
            "night", scopes=("ops:read",), expires_at=None, by="operator:ada"
        )
        assert {each.id for each in await books[1].all()} == {key.id, again.id}


class HeldUp:
    """A ledger whose client stops for a minute after it has looked, while another goes on."""

    def __init__(self, ledger: Ledger, clock: ManualClock, meanwhile: KeyBook) -> None:
        self._ledger = ledger
        self._clock = clock
        self._meanwhile: KeyBook | None = meanwhile
        self.lock, self.unlock, self.put_fact = ledger.lock, ledger.unlock, ledger.put_fact

    async def facts(self) -> Mapping[str, str]:
        known = await self._ledger.facts()
        if self._meanwhile is not None:
            other, self._meanwhile = self._meanwhile, None
            self._clock.advance(60)
            await other.create("night", scopes=("ops:read",), expires_at=None, by="operator:bob")
        return known


async def test_who_was_held_up_while_another_created_the_key_has_created_none(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as one, backend.open(clock) as two:
        other = KeyBook(two.ledger, clock.now)
        book = KeyBook(HeldUp(one.ledger, clock, other), clock.now)
        with pytest.raises(Conflict, match="one is created at a time"):
            await book.create("night", scopes=("ops:read",), expires_at=None, by="operator:ada")
        assert [each.created_by for each in await other.all()] == ["operator:bob"]


async def test_a_key_and_its_revocation_are_seen_by_every_replica(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as one, backend.open(clock) as two:
        book = KeyBook(one.ledger, clock.now)
        replica = KeyRing((), clock, book=KeyBook(two.ledger, clock.now))
        key, secret = await book.create(
            "night", scopes=("ops:read",), expires_at=clock.now() + 60, by="operator:ada"
        )
        await replica.refresh()
        found = replica.find(secret.encode())
        assert isinstance(found, Admitted)
        assert (found.principal.id, found.principal.scopes) == ("key:night", ("ops:read",))
        await KeyBook(two.ledger, clock.now).used(key.id, clock.now())
        assert [each.used_at for each in await book.all()] == [clock.now()]
        await book.revoke(key.id, by="operator:bob")
        await replica.refresh()
        assert replica.find(secret.encode()) is NO_KEY
        assert replica.ever
