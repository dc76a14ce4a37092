"""Access tokens: whose they are, after every check; remembered until they expire."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.auth.challenge import FIRST_SCOPE
from mcp_ops.auth.claims import V1, BadToken, Grantee, grantee, is_v1
from mcp_ops.auth.issuer_keys import IssuerKeys, KeysUnavailable
from mcp_ops.auth.principal import Admitted, Denied, principal_of
from mcp_ops.clock import Clock
from mcp_ops.settings_access import GrantSettings, IssuerSettings

LONGEST_TOKEN: Final = 16 * 1024
"""Characters of a token; a longer one is not looked at."""

REMEMBERED: Final = 4_096
"""Tokens that were found good and are remembered, by their hash."""

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_UNAVAILABLE = Denied(
    message="The keys of the issuer of this token are not known, since it does not answer. "
    "Call again later.",
    error="",
    status=503,
    code="issuer_unavailable",
)
_NO_SCOPE = Denied(
    message="The token has none of the scopes that are needed here.",
    error="insufficient_scope",
    status=403,
    code="insufficient_scope",
    scope=FIRST_SCOPE,
)
_log = logging.getLogger("mcp_ops.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer with its keys, and for whom its tokens have to be."""

    settings: IssuerSettings
    keys: IssuerKeys
    audiences: frozenset[str]


class Tokens:
    """Verifies tokens of the configured issuers."""

    def __init__(
        self, issuers: Sequence[Issuer], clock: Clock, *, grants: Sequence[GrantSettings] = ()
    ) -> None:
        self._by_iss = {issuer.settings.iss: issuer for issuer in issuers}
        self._clock = clock
        self._grants = tuple(grants)
        self._good: OrderedDict[bytes, tuple[Issuer, int, Admitted]] = OrderedDict()
        self._latest: OrderedDict[str, tuple[float, Issuer, int]] = OrderedDict()

    def recall(self, token: bytes) -> Admitted | None:
        """Who a token lets in, if it was verified before and nothing has changed since."""
        digest = hashlib.sha256(token).digest()
        found = self._good.get(digest)
        if found is None:
            return None
        issuer, generation, admitted = found
        if self._clock.now() < (admitted.until or 0) and issuer.keys.generation == generation:
            self._good.move_to_end(digest)
            return admitted
        del self._good[digest]
        return None

    async def verify(self, token: bytes) -> Admitted | Denied:
        """Judge a token by everything; good ones are remembered."""
        if len(token) > LONGEST_TOKEN:
            return Denied(message=f"The token is longer than {LONGEST_TOKEN} characters.")
        try:
            issuer, found = await self._judge(token)
        except KeysUnavailable:
            return _UNAVAILABLE
        except BadToken as bad:
            _log.info("a token was refused: %s", bad)
            return Denied(message=str(bad))
        principal = principal_of(
            found.principal,
            found.scopes,
            self._grants,
            host_confirms=issuer.settings.host_confirms,
        )
        if not principal.scopes:
            return _NO_SCOPE
        admitted = Admitted(
            principal=principal,
            until=found.until,
            renewable=True,
            delegated=found.delegated,
        )
        self._remember(token, issuer, admitted)
        return admitted

    def holds(self, principal_id: str, until: float) -> bool:
        """Whether a principal has a token that holds: this one, or one that came later. None does
        once the issuer took a key back, until the principal comes with one again."""
        known = self._latest.get(principal_id)
        if known is not None:
            latest, issuer, generation = known
            until = max(until, latest) if issuer.keys.generation == generation else 0.0
        return until > self._clock.now()

    async def _judge(self, token: bytes) -> tuple[Issuer, Grantee]:
        import jwt  # loads a whole cryptography library: only where a token comes

        try:
            header = jwt.get_unverified_header(token)
            unproved = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise BadToken("The token is no JWT.") from None
        issuer = self._issuer_of(unproved)
        algorithm = _algorithm(header, issuer)
        key = await issuer.keys.find(header.get("kid"), algorithm)
        if key is None:
            raise BadToken("The token is signed with a key that its issuer does not have (kid).")
        try:
            claims = jwt.decode(token, key, algorithms=[algorithm], options=_SIGNATURE_ONLY)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise BadToken("The signature of the token is wrong.") from None
        found = grantee(claims, issuer.settings, audiences=issuer.audiences, now=self._clock.now())
        return issuer, found

    def _issuer_of(self, unproved: Mapping[str, Any]) -> Issuer:
        issuer = self._by_iss.get(str(unproved.get("iss")))
        if issuer is not None:
            return issuer
        if is_v1(unproved) and any(each.settings.kind == "entra" for each in self._by_iss.values()):
            raise BadToken(V1)
        raise BadToken("The token is of an issuer (iss) that is not configured.")

    def _remember(self, token: bytes, issuer: Issuer, admitted: Admitted) -> None:
        generation = issuer.keys.generation
        self._good[hashlib.sha256(token).digest()] = (issuer, generation, admitted)
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        name, until = admitted.principal.id, admitted.until or 0.0
        latest, _, before = self._latest.pop(name, (0.0, issuer, generation))
        self._latest[name] = (
            max(until, latest if before == generation else 0.0),
            issuer,
            generation,
        )
        if len(self._latest) > REMEMBERED:
            self._latest.popitem(last=False)


def _algorithm(header: Mapping[str, Any], issuer: Issuer) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.settings.algorithms:
        raise BadToken("The token is signed in a way (alg) that is not allowed here.")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise BadToken("This is a JWT of another kind (typ), and no access token.")
    if "crit" in header:
        raise BadToken("The token asks for extensions (crit) that are not known here.")
    return algorithm


# The claims are judged in claims.py, by the injected clock and with words for each.
_SIGNATURE_ONLY: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
