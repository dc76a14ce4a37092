"""The door: who gets in over HTTP, by a key, an access token or a client certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio

from mcp_ops.auth.certificates import UNTRUSTED_PROXY, Certificates
from mcp_ops.auth.challenge import Challenges
from mcp_ops.auth.issuer_keys import LIMITS, IssuerKeys
from mcp_ops.auth.principal import ANONYMOUS, NO_KEY, Admitted, Denied, principal_of
from mcp_ops.auth.ring import KeyRing
from mcp_ops.auth.tokens import Issuer, Tokens
from mcp_ops.clock import Clock, SystemClock
from mcp_ops.redact import Redactor
from mcp_ops.settings import ServerSettings
from mcp_ops.wire.http import open_client

_DOTS = 2  # of a signed JWT

SWEEP_S: Final = 1.0
"""Seconds after which a stream of somebody who is not let in any more ends."""

_NO_BEARER = Denied(message="What was sent is no key that is known here, and no JWT.")


class Door:
    """Decides on every request. Made by `open_door`, or with keys of the configuration alone."""

    def __init__(
        self,
        settings: ServerSettings,
        ring: KeyRing,
        *,
        tokens: Tokens | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.ring = ring
        self.challenges = Challenges(settings)
        self._asks = settings.asks
        self._anybody = Admitted(
            principal=principal_of(ANONYMOUS.id, ANONYMOUS.scopes, settings.grants)
        )
        self._tokens = tokens or Tokens((), SystemClock())
        self._issued = tokens is not None
        self._certificates = certificates

    @property
    def closed(self) -> bool:
        """Whether a credential is needed. Once a key was created this never ends."""
        return self._asks or self.ring.ever

    @property
    def headers(self) -> frozenset[bytes]:
        """Headers that carry credentials, besides Authorization."""
        return self._certificates.headers if self._certificates is not None else frozenset()

    async def admit(self, headers: Mapping[bytes, bytes], peer: str) -> Admitted | Denied:
        """Who sent these headers from this address. A certificate counts only where nothing
        stands in Authorization."""
        return self.look(headers, peer) or await self.verify(headers)

    def look(self, headers: Mapping[bytes, bytes], peer: str) -> Admitted | Denied | None:
        """The same by what is known already; None for a token that has to be verified."""
        certified = self._certificates.find(headers, peer) if self._certificates else None
        if isinstance(certified, Denied) and certified.code == UNTRUSTED_PROXY:
            return certified  # somebody pretends to be the proxy: nothing of theirs is believed
        authorization = headers.get(b"authorization")
        if authorization is not None:
            return self._bearer(authorization)
        if certified is not None:
            return certified
        return NO_KEY if self.closed else self._anybody

    def holds(self, admitted: Admitted) -> bool:
        """Whether somebody who was let in would be now, as far as it is known without asking."""
        if admitted.key_id:
            return self.ring.holds(admitted.key_id)
        if admitted.renewable:
            return self._tokens.holds(admitted.principal.id, admitted.until or 0.0)
        if self._certificates is not None and not self._certificates.holds(admitted):
            return False
        return admitted is not self._anybody or not self.closed

    async def sweep(self, look: Callable[[], None]) -> None:
        """Call `look` every second, for as long as the server runs."""
        while True:
            await anyio.sleep(SWEEP_S)
            look()

    async def verify(self, headers: Mapping[bytes, bytes]) -> Admitted | Denied:
        """Judge the token in Authorization."""
        return await self._tokens.verify(headers[b"authorization"].partition(b" ")[2].strip())

    def _bearer(self, authorization: bytes) -> Admitted | Denied | None:
        if not self.closed:
            return self._anybody
        scheme, _, rest = authorization.partition(b" ")
        token = rest.strip()
        if scheme.lower() != b"bearer" or not token:
            return NO_KEY
        if self._issued and (known := self._tokens.recall(token)) is not None:
            return known
        found = self.ring.find(token)
        if found is not NO_KEY or not self._issued:
            return found
        return None if token.count(b".") == _DOTS else _NO_BEARER


@asynccontextmanager
async def open_door(
    settings: ServerSettings, ring: KeyRing, *, clock: Clock, redactor: Redactor
) -> AsyncIterator[Door]:
    """The door of a server, which keeps up with the keys of the issuers while it is open."""
    async with AsyncExitStack() as stack:
        tokens = None
        if settings.issuers:
            issuers = []
            for each in settings.issuers:
                client = await stack.enter_async_context(
                    open_client(
                        system=f"the issuer {each.name}",
                        clock=clock,
                        redactor=redactor,
                        limits=LIMITS,
                    )
                )
                base = settings.url.rstrip("/")
                ours = frozenset(each.audiences or (base, f"{base}/", f"{base}/mcp", f"{base}/sse"))
                keys = IssuerKeys(each, client, clock)
                issuers.append(Issuer(settings=each, keys=keys, audiences=ours))
            tokens = Tokens(issuers, clock, grants=settings.grants)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            for issuer in issuers:
                tasks.start_soon(issuer.keys.follow)
        tls = settings.mutual_tls
        certificates = Certificates(tls, clock, grants=settings.grants) if tls else None
        yield Door(settings, ring, tokens=tokens, certificates=certificates)


def configured_door(settings: ServerSettings, clock: Clock | None = None) -> Door:
    """A door for keys and certificates of the configuration alone: without issuers."""
    clock = clock or SystemClock()
    tls = settings.mutual_tls
    return Door(
        settings,
        KeyRing(settings.keys, clock, grants=settings.grants),
        certificates=Certificates(tls, clock, grants=settings.grants) if tls else None,
    )
