"""The keys that this process accepts: those of the configuration, and the created ones as read
from the ledger a moment ago."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from typing import Final

import anyio

from mcp_ops.auth.keys import CreatedKey, KeyBook
from mcp_ops.auth.principal import NO_KEY, Admitted, Denied, principal_of
from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, OpsError
from mcp_ops.settings import KeySettings
from mcp_ops.settings_access import GrantSettings

EVERY_S: Final = 2.0
"""Seconds until a created or revoked key is known to every process."""

BELIEVED_S: Final = 900.0
"""Seconds that created keys are believed while the ledger cannot be read."""

_NOTED_EVERY_S: Final = 600.0
_AWAY = Denied(
    message="The store of the keys does not answer, and what was known of them is too old.",
    error="",
    status=503,
    code="keys_unavailable",
)
_log = logging.getLogger("mcp_ops.auth")


class KeyRing:
    """Whose key something is; knows the keys of the configuration without a book."""

    def __init__(
        self,
        configured: Sequence[KeySettings],
        clock: Clock,
        *,
        book: KeyBook | None = None,
        grants: Sequence[GrantSettings] = (),
    ) -> None:
        secrets = [key.key.get_secret_value() for key in configured]
        if len(set(secrets)) < len(secrets):
            raise ConfigurationError("server.keys: each key needs its own value")
        self._clock = clock
        self._book = book
        self._grants = tuple(grants)
        self._configured: dict[bytes, Admitted] = {
            hashlib.sha256(secret.encode()).digest(): Admitted(
                principal=principal_of(
                    f"key:{key.name}", key.scopes, self._grants, host_confirms=key.host_confirms
                )
            )
            for key, secret in zip(configured, secrets, strict=True)
        }
        self._created: dict[bytes, tuple[CreatedKey, Admitted]] = {}
        self._ids: set[str] = set()
        self._stones = False
        self._read_at: float | None = None
        self._used: dict[str, float] = {}
        self._noted: dict[str, float] = {}

    @property
    def ever(self) -> bool:
        """Whether a key is configured, or was ever created."""
        return bool(self._configured) or self._stones

    @property
    def book(self) -> KeyBook | None:
        """Where the created keys are."""
        return self._book

    def find(self, secret: bytes) -> Admitted | Denied:
        """Whose key this is. What is looked up is the hash of what was sent: how long it takes
        tells nobody how near to a key a guess was."""
        digest = hashlib.sha256(secret).digest()
        configured = self._configured.get(digest)
        if configured is not None:
            return configured
        found = self._created.get(digest)
        if found is None or not hmac.compare_digest(bytes.fromhex(found[0].digest), digest):
            return NO_KEY
        key, admitted = found
        if not key.valid(self._clock.now()):
            return NO_KEY
        if self._too_old():
            return _AWAY
        self._used[key.id] = self._clock.now()
        return admitted

    def holds(self, key_id: str) -> bool:
        """Whether a created key still lets its holder in."""
        return key_id in self._ids and not self._too_old()

    def scopes(self) -> dict[str, frozenset[str]]:
        """The principals of all keys of now, with their scopes."""
        now = self._clock.now()
        admitted = list(self._configured.values())
        admitted += [each for key, each in self._created.values() if key.valid(now)]
        return {each.principal.id: frozenset(each.principal.scopes) for each in admitted}

    def __contains__(self, principal: object) -> bool:
        """Whether this is the principal of a key that may approve now."""
        return isinstance(principal, str) and "ops:approve" in self.scopes().get(principal, ())

    def may_approve(self) -> bool:
        """Whether any key may approve now."""
        return any("ops:approve" in scopes for scopes in self.scopes().values())

    async def refresh(self) -> None:
        """Read the created keys anew. Raises `StoreUnavailable`."""
        if self._book is None:
            return
        known = await self._book.all()
        now = self._clock.now()
        self._created = {
            bytes.fromhex(key.digest): (key, self._admitted(key))
            for key in known
            if key.revoked_at is None and _hexadecimal(key.digest)
        }
        self._ids = {key.id for key, _ in self._created.values() if key.valid(now)}
        self._stones = self._stones or bool(known)
        self._read_at = self._clock.monotonic()

    async def follow(self, every_s: float = EVERY_S) -> None:
        """Keep up with the ledger for as long as the process runs, and note which keys are used:
        each at most every ten minutes."""
        while self._book is not None:
            await anyio.sleep(every_s)
            try:
                await self.refresh()
                await self._note_use(self._book)
            except OpsError as error:
                _log.warning("the created keys could not be read: %s", error.code)

    async def _note_use(self, book: KeyBook) -> None:
        for key_id, at in list(self._used.items()):
            if at - self._noted.get(key_id, 0.0) < _NOTED_EVERY_S:
                continue
            await book.used(key_id, at)
            self._noted[key_id] = at
        self._used = {key: at for key, at in self._used.items() if key in self._ids}
        self._noted = {key: at for key, at in self._noted.items() if key in self._ids}

    def _admitted(self, key: CreatedKey) -> Admitted:
        principal = principal_of(
            f"key:{key.name}", key.scopes, self._grants, host_confirms=key.host_confirms
        )
        return Admitted(principal=principal, until=key.expires_at, key_id=key.id)

    def _too_old(self) -> bool:
        at = self._read_at
        return at is None or self._clock.monotonic() - at > BELIEVED_S


def _hexadecimal(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == hashlib.sha256().digest_size
    except ValueError:
        return False
