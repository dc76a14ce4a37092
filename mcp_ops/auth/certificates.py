"""Client certificates that a trusted proxy tells of in a header (mutual TLS ends there)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote_to_bytes

from mcp_ops.auth.principal import Admitted, Denied, principal_of
from mcp_ops.clock import Clock
from mcp_ops.settings_access import GrantSettings, MutualTlsSettings

LONGEST: Final = 16 * 1024
"""Bytes of a certificate in a header."""

UNTRUSTED_PROXY: Final = "untrusted_proxy"
"""The code of the refusal of whoever pretends to be the proxy."""

_NOT_THE_PROXY = Denied(
    message="A client certificate is told of by somebody who is none of server.mutual_tls.proxies.",
    error="",
    status=403,
    code=UNTRUSTED_PROXY,
)
_UNKNOWN = Denied(
    message="The client certificate is none of server.mutual_tls.certificates.", error=""
)
_OVER = Denied(message="The client certificate has expired, or is not valid yet.", error="")
_UNREADABLE = Denied(message="The client certificate in the header cannot be read.", error="")
_UNVERIFIED = Denied(message="The proxy did not verify the client certificate.", error="")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


class Certificates:
    """The certificates of the configuration."""

    def __init__(
        self,
        settings: MutualTlsSettings,
        clock: Clock,
        *,
        grants: Sequence[GrantSettings] = (),
    ) -> None:
        self._clock = clock
        self.header = settings.header.encode()
        self._verified = settings.verified_header.lower().encode()
        self._whole = settings.form == "certificate"
        self._proxies = [ip_network(each) for each in settings.proxies]
        self._known = {
            (each.fingerprint if self._whole else each.subject): Admitted(
                principal=principal_of(
                    f"cert:{each.name}", each.scopes, grants, host_confirms=each.host_confirms
                )
            )
            for each in settings.certificates
        }

    @property
    def headers(self) -> frozenset[bytes]:
        """The headers that are looked at; none of them may come twice."""
        return frozenset({self.header, self._verified} - {b""})

    def find(self, headers: Mapping[bytes, bytes], peer: str) -> Admitted | Denied | None:
        """Whom the header lets in; None when it is not there."""
        value = headers.get(self.header)
        if value is None:
            return None
        if not self._is_proxy(peer):
            return _NOT_THE_PROXY
        if not value:
            return None  # some proxies send it empty for a client without a certificate
        if self._verified and headers.get(self._verified) != b"SUCCESS":
            return _UNVERIFIED
        return self._of_certificate(value) if self._whole else self._of_subject(value)

    def _of_subject(self, value: bytes) -> Admitted | Denied:
        return self._known.get(value.decode("utf-8", "replace"), _UNKNOWN)

    def _of_certificate(self, value: bytes) -> Admitted | Denied:
        der = certificate(value) if len(value) <= LONGEST else None
        if der is None:
            return _UNREADABLE
        admitted = self._known.get(hashlib.sha256(der).hexdigest())
        if admitted is None:
            return _UNKNOWN
        since, until = _validity(der)
        if not since <= self._clock.now() < until:
            return _OVER
        return replace(admitted, until=until)

    def holds(self, admitted: Admitted) -> bool:
        """Whether the certificate of somebody who was let in is still valid."""
        return admitted.until is None or self._clock.now() < admitted.until

    def _is_proxy(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._proxies)


def certificate(value: bytes) -> bytes | None:
    """The DER bytes of a certificate as proxies write it: base64 of it, or PEM, also with
    percent-encoding. None for anything else."""
    text = unquote_to_bytes(value) if b"%" in value else value
    if (pem := _PEM.search(text)) is not None:
        text = pem[1]
    try:
        return base64.b64decode(b"".join(text.split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None


@lru_cache(maxsize=256)
def _validity(der: bytes) -> tuple[float, float]:
    from cryptography import x509  # comes with the library for tokens

    try:
        found = x509.load_der_x509_certificate(der)
    except ValueError:
        return 0.0, 0.0
    return found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
