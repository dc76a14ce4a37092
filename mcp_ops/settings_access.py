"""Settings on who gets in over HTTP: issuers of tokens, certificates, and where scopes hold."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mcp_ops.settings_base import Frozen
from mcp_ops.settings_types import AGENT_SCOPES, Environment, Name, Scope

# Signatures with a public key only: with the others, anyone who can verify can forge.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ENTRA = "https://login.microsoftonline.com"


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        local = parts.hostname in _LOOPBACK
        bare = parts.username is None and not parts.query and not parts.fragment
        good = parts.port != 0 and bool(parts.hostname) and bare and text.isascii()
    except ValueError:
        good = local = False
    if text and not (good and parts.scheme in (("http", "https") if local else ("https",))):
        raise ValueError(
            "a URL that starts with https:// (http:// only to this machine), without user, query "
            "or fragment"
        )
    return text


def _tenant(text: str) -> str:
    if text and not _GUID.fullmatch(text.lower()):
        raise ValueError("the tenant's id, 32 hexadecimal digits with hyphens")
    return text.lower()


def _network(text: str) -> str:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError("an address or a network, such as 10.0.0.0/8") from None
    if not network.prefixlen:
        raise ValueError("the network of the proxies, not everybody")
    return text


def _header(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", text):
        raise ValueError("the name of a header, such as X-ARR-ClientCert")
    if text.lower() in ("authorization", "host", "origin", "cookie", "content-length"):
        raise ValueError("a header that means nothing else")
    return text.lower()


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if text and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("a certificate's SHA-256 fingerprint, 64 hexadecimal digits")
    return plain


Url = Annotated[str, AfterValidator(_url)]
Header = Annotated[str, AfterValidator(_header)]


class IssuerSettings(Frozen):
    """An authorization server whose access tokens (JWT) are accepted."""

    name: Name
    kind: Literal["oidc", "entra"] = "oidc"
    issuer: Url = Field("", description="The iss claim; for entra that of the tenant.")
    tenant: Annotated[str, AfterValidator(_tenant)] = Field("", description="For entra.")
    audiences: tuple[str, ...] = Field(
        (), description="The aud claim: one of them; else server.url and its /mcp."
    )
    jwks_url: Url = Field("", description="Where its keys are; else its metadata says it.")
    algorithms: tuple[Algorithm, ...] = Field(("RS256", "PS256", "ES256", "EdDSA"), min_length=1)
    scopes: dict[str, tuple[Scope, ...]] = Field(
        {}, description="What further scopes and roles of its tokens mean here."
    )
    scope_prefix: str = Field("", max_length=200, description="What clients write before a scope.")
    clients: tuple[str, ...] = Field((), description="Client ids that may call; empty: any.")
    subject_claim: Literal["", "sub", "oid", "email", "preferred_username"] = Field(
        "", description="What names the principal: sub, for entra oid."
    )
    leeway_s: float = Field(30, ge=0, le=120, description="Clocks may differ by so much, seconds.")
    host_confirms: bool = Field(False, description="The host asks its user before each call.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "entra" and not (self.tenant and self.audiences):
            raise ValueError("tenant and audiences (the id of the application), for kind entra")
        if self.kind == "entra" and self.subject_claim not in ("", "oid", "sub"):
            raise ValueError("subject_claim oid or sub for kind entra: others can be changed")
        if self.kind == "oidc" and (not self.issuer or self.tenant):
            raise ValueError("an issuer, and a tenant for kind entra only")
        return self

    @property
    def iss(self) -> str:
        """The claim `iss` of its tokens."""
        return self.issuer or f"{ENTRA}/{self.tenant}/v2.0"


class CertificateSettings(Frozen):
    """One client certificate that is let in."""

    name: Name
    fingerprint: Annotated[str, AfterValidator(_fingerprint)] = Field(
        "", description="SHA-256 of the certificate."
    )
    subject: str = Field("", description="The subject, letter by letter as the proxy writes it.")
    scopes: tuple[Scope, ...] = AGENT_SCOPES
    host_confirms: bool = False


class MutualTlsSettings(Frozen):
    """Client certificates that a proxy has asked for, and tells of in a header."""

    header: Header
    form: Literal["certificate", "subject"] = "certificate"
    verified_header: str = Field("", description="A header that has to say SUCCESS beside it.")
    proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(min_length=1)
    certificates: tuple[CertificateSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named(self) -> Self:
        wanted = "fingerprint" if self.form == "certificate" else "subject"
        if not all(getattr(each, wanted) for each in self.certificates):
            raise ValueError(f"a {wanted} for each certificate, since form is {self.form}")
        if len({getattr(each, wanted) for each in self.certificates}) < len(self.certificates):
            raise ValueError(f"each {wanted} once: a certificate is one principal")
        return self


class GrantSettings(Frozen):
    """Where scopes hold. Whom at least one grant names may do no more than its grants say."""

    principal: str = Field(min_length=1, description="A glob over principals.")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(("*",), min_length=1, description="Globs over targets.")
    environments: tuple[Environment, ...] = Field((), description="Empty: all.")
