"""The public keys of an issuer: fetched, kept for an outage, fetched again for an unknown one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from mcp_ops.clock import Clock
from mcp_ops.errors import BadAnswer, OpsError
from mcp_ops.settings_access import IssuerSettings
from mcp_ops.wire.http import HttpClient, Limits, check_url

if TYPE_CHECKING:
    import jwt

LIMITS: Final = Limits(
    connect_s=3, read_s=4, write_s=3, pool_s=3, total_s=5, max_bytes=512 * 1024, connections=2
)
"""Bounds of a request for metadata or keys."""

REFRESH_S: Final = 3_600.0
"""Keys are fetched anew after so many seconds."""

BELIEVED_S: Final = 86_400.0
"""Keys are believed for so many seconds when the issuer does not answer; then nobody gets in."""

UNKNOWN_S: Final = 30.0
"""A token with an unknown key makes us ask the issuer at most once in so many seconds."""

RETRY_S: Final = 5.0
"""While no keys are known, the issuer is asked at most once in so many seconds."""

_MOST_KEYS = 100
_SMALLEST_RSA = 2_048
# The kind and the curve of the keys that an algorithm works with.
_KINDS: Final[Mapping[str, tuple[str, str | None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
_log = logging.getLogger("mcp_ops.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A public key, by the algorithms that it may be used with."""

    id: str
    keys: Mapping[str, jwt.PyJWK]
    identity: str


class KeysUnavailable(Exception):
    """No key of the issuer is known, or what was known is too old."""


class IssuerKeys:
    """The keys of one issuer. `generation` changes whenever a key that was known is gone."""

    def __init__(self, settings: IssuerSettings, client: HttpClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._keys: list[SigningKey] = []
        self._ids: frozenset[str] = frozenset()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock = anyio.Lock()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Counts the changes that make answers given before worth nothing."""
        if self._keys and not self._believed():
            self._keys = []
            self._generation += 1
        return self._generation

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The one key that a token's header means, or None. Raises `KeysUnavailable`."""
        if not self._believed():
            await self._fetch(at_most_every=RETRY_S)
            if not self._believed():
                raise KeysUnavailable(self._settings.name)
        found = self._fitting(key_id, algorithm)
        if found is None:
            await self._fetch(at_most_every=UNKNOWN_S)
            found = self._fitting(key_id, algorithm)
        return found

    async def follow(self) -> None:
        """Fetch the keys at the start and every hour; more often while that fails."""
        while True:
            await self._fetch(at_most_every=RETRY_S)
            fresh = self._fetched_at is not None and self._fetched_at == self._tried_at
            await anyio.sleep(REFRESH_S if fresh else UNKNOWN_S)

    def _fitting(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        fits = [
            key.keys[algorithm]
            for key in self._keys
            if (key_id is None or key.id == key_id) and algorithm in key.keys
        ]
        return fits[0] if len(fits) == 1 else None  # of several none is meant

    def _believed(self) -> bool:
        at = self._fetched_at
        return at is not None and self._clock.monotonic() - at < BELIEVED_S

    async def _fetch(self, *, at_most_every: float) -> None:
        asked_at = self._tried_at
        async with self._lock:
            if self._tried_at != asked_at:
                return  # somebody else asked meanwhile
            now = self._clock.monotonic()
            if asked_at is not None and now - asked_at < at_most_every:
                return
            self._tried_at = now
            try:
                keys = _signing_keys(await self._read(), self._settings.algorithms)
            except OpsError as error:
                _log.warning(
                    "the keys of the issuer %s could not be fetched: %s %s",
                    self._settings.name,
                    error.message,
                    error.hint,
                )
                return
            ids = frozenset(key.identity for key in keys)
            if self._ids - ids:
                self._generation += 1
            self._keys, self._ids, self._fetched_at = keys, ids, now

    async def _read(self) -> dict[str, Any]:
        address = self._settings.jwks_url or await self._discovered()
        return await self._object(address)

    async def _discovered(self) -> str:
        issuer = self._settings.iss
        error: OpsError | None = None
        for address in _metadata_addresses(issuer):
            try:
                found = await self._object(address)
            except OpsError as exc:
                error = error or exc
                continue
            if found.get("issuer") != issuer:
                raise BadAnswer(
                    "Its metadata names another issuer.",
                    hint="server.issuers: issuer must be letter by letter what the metadata says.",
                )
            try:
                return check_url(str(found.get("jwks_uri", "")))
            except ValueError:
                raise BadAnswer("Its metadata names no https address of keys.") from None
        raise error or BadAnswer("It has no metadata.")

    async def _object(self, address: str) -> dict[str, Any]:
        answer = await self._client.send("GET", address)
        if not answer.ok:
            raise self._client.error(answer)
        return answer.json_object()


def _metadata_addresses(issuer: str) -> Iterable[str]:
    """Where OpenID Connect and RFC 8414 have an issuer's metadata."""
    bare = issuer.rstrip("/")
    parts = urlsplit(bare)
    yield f"{bare}/.well-known/openid-configuration"
    origin = f"{parts.scheme}://{parts.netloc}"
    yield f"{origin}/.well-known/oauth-authorization-server{parts.path}"


def _signing_keys(jwks: Mapping[str, Any], algorithms: tuple[str, ...]) -> list[SigningKey]:
    """The usable public keys of a set; what is something else is passed by."""
    entries = jwks.get("keys")
    found = [
        key
        for entry in (entries[:_MOST_KEYS] if isinstance(entries, list) else ())
        if isinstance(entry, dict) and (key := _signing_key(entry, algorithms)) is not None
    ]
    if not found:
        raise BadAnswer("It has no key to verify a signature with.")
    return found


def _signing_key(entry: Mapping[str, Any], algorithms: tuple[str, ...]) -> SigningKey | None:
    if entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    said = entry.get("alg")
    keys = {
        name: key
        for name in algorithms
        if said in (None, name) and (key := _public(entry, name)) is not None
    }
    if not keys:
        return None
    key_id = entry.get("kid")
    return SigningKey(
        id=key_id if isinstance(key_id, str) else "",
        keys=keys,
        identity=repr(sorted((str(name), str(value)) for name, value in entry.items())),
    )


def _public(entry: Mapping[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key for use with an algorithm, unless it is of another kind or too small."""
    import jwt  # loads a whole cryptography library: only where there are issuers

    kind = (entry.get("kty"), entry.get("crv") if entry.get("kty") != "RSA" else None)
    if kind != _KINDS[algorithm]:
        return None
    try:
        key = jwt.PyJWK.from_dict(dict(entry), algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    small = kind[0] == "RSA" and key.key.key_size < _SMALLEST_RSA
    return None if small else key
