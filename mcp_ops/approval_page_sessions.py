"""Who is signed in at the approval page, and how often somebody may try to be."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

from mcp_ops.auth.principal import Denied
from mcp_ops.auth.ring import KeyRing
from mcp_ops.reach import Reaches

SESSION_S: Final = 900.0
"""Seconds that a session lasts, however it is used."""

MAX_SESSIONS: Final = 100
"""Sessions at once; the oldest ends when there is one more."""

FAILURES: Final = 5
"""Failed sign-ins of one address in a minute; more are not looked at."""

FAILURES_OF_ALL: Final = 30
"""Failed sign-ins of all addresses in a minute: an attacker may have many."""

_WINDOW_S: Final = 60.0
_MAX_ADDRESSES: Final = 1_000
_NEEDED = "ops:approve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed in, as the record names them."""

    principal: str
    scopes: frozenset[str]
    key_id: str = ""
    reach: Reaches = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A signed-in person. `csrf` is what each form of theirs has to carry; `place` is the part of
    the path that only their browser knows, and that the cookie is for."""

    signer: Signer
    csrf: str
    place: str
    until: float

    def carries(self, token: str) -> bool:
        """Whether a form is of this session."""
        return hmac.compare_digest(self.csrf.encode(), token.encode("utf-8", "replace"))


class Credentials(Protocol):
    """What proves who signs in. `label` says to people what they have to enter."""

    @property
    def label(self) -> str:
        """What the one field of the form asks for."""
        ...

    def who(self, secret: str) -> Signer | None:
        """Whose secret this is, in the same time whatever it is; None when nobody's."""
        ...

    def offered(self) -> bool:
        """Whether anybody could sign in: where nobody can, there is no page."""
        ...

    def holds(self, signer: Signer) -> bool:
        """Whether who signed in may still be here."""
        ...


class KeyCredentials:
    """The keys that have the scope `ops:approve`, configured and created ones."""

    label = "API key with the scope ops:approve"

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def who(self, secret: str) -> Signer | None:
        """The key's principal, as the transport names it."""
        found = self._keys.find(secret.strip().encode("utf-8", "replace"))
        if isinstance(found, Denied) or _NEEDED not in found.principal.scopes:
            return None
        principal = found.principal
        return Signer(
            principal=principal.id,
            scopes=frozenset(principal.scopes),
            key_id=found.key_id,
            reach=principal.reach,
        )

    def offered(self) -> bool:
        """Whether a key may approve now."""
        return self._keys.may_approve()

    def holds(self, signer: Signer) -> bool:
        """Whether the key was not revoked meanwhile."""
        return not signer.key_id or self._keys.holds(signer.key_id)


class OneTimeCode:
    """A code that a terminal shows to the operator; each is good for one sign-in.

    `show` gets the code, and the next one as soon as one was used: who sees a second code without
    having signed in knows that somebody else did.
    """

    label = "Code that the terminal shows"

    def __init__(self, signer: Signer, show: Callable[[str], None]) -> None:
        self._signer = signer
        self._show = show
        self._digest = b""
        self._next()

    def who(self, secret: str) -> Signer | None:
        """The operator, once."""
        if not hmac.compare_digest(self._digest, _digest(secret.strip())):
            return None
        self._next()
        return self._signer

    def offered(self) -> bool:
        """A code is always to be had."""
        return True

    def holds(self, signer: Signer) -> bool:
        """Who signed in stays for the session."""
        return signer.principal == self._signer.principal

    def _next(self) -> None:
        code = secrets.token_hex(10)
        self._digest = _digest(code)
        self._show(code)


class Sessions:
    """The sessions of this process; their ids are kept as digests only."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, signer: Signer, *, place: str = "") -> str:
        """Begin a session; answers the id that its cookie carries."""
        session_id = secrets.token_urlsafe(32)
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)
        self._open[_digest(session_id)] = Session(
            signer=signer,
            csrf=secrets.token_urlsafe(32),
            place=place,
            until=self._monotonic() + SESSION_S,
        )
        return session_id

    def find(self, session_id: str) -> Session | None:
        """The session with this id, unless it is over."""
        found = self._open.get(_digest(session_id))
        if found is not None and found.until <= self._monotonic():
            self.close(session_id)
            return None
        return found

    def close(self, session_id: str) -> None:
        """End a session."""
        self._open.pop(_digest(session_id), None)


class Throttle:
    """Counts failed sign-ins of the last minute; bounded, whoever tries from wherever."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._all: deque[float] = deque(maxlen=FAILURES_OF_ALL)
        self._of: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 for now."""
        mine = self._of.get(_network(address), deque())
        return max(self._left(mine, FAILURES), self._left(self._all, FAILURES_OF_ALL))

    def failed(self, address: str) -> None:
        """Count a failure."""
        network = _network(address)
        tries = self._of.setdefault(network, deque(maxlen=FAILURES))
        self._of.move_to_end(network)
        # Whom this forgets has to be outnumbered by others, and those are counted together.
        while len(self._of) > _MAX_ADDRESSES:
            self._of.popitem(last=False)
        for each in (tries, self._all):
            each.append(self._monotonic())

    def _left(self, tries: deque[float], most: int) -> float:
        if len(tries) < most:
            return 0.0
        return max(0.0, tries[0] + _WINDOW_S - self._monotonic())


def _network(address: str) -> str:
    """The address; of IPv6 the /64 that one customer has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return parsed.exploded[:19]
    return str(parsed)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
