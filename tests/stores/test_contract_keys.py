"""Created keys in every ledger: two replicas on one store see the same, and a revocation."""

from __future__ import annotations

from mcp_ops.auth.keys import KeyBook
from mcp_ops.auth.principal import NO_KEY, Admitted
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from tests.stores.backends import Backend


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
