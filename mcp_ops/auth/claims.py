"""What the claims of a verified access token say: for whom it is, whose it is, what it allows.

The facts are those of RFC 9068 (JWT access tokens), RFC 8725 (their best practices) and of
Microsoft's reference of access token claims.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.settings_access import IssuerSettings
from mcp_ops.settings_types import AGENT_SCOPES

OURS: Final = frozenset({*AGENT_SCOPES, "ops:approve", "ops:admin"})
V1: Final = (
    "This is a v1.0 token of Entra ID, and v2.0 is needed: set requestedAccessTokenVersion to 2 in "
    "the manifest of the application that the token is for."
)
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@|+-]{0,127}")
_V1_ISSUERS = ("https://sts.windows.net/", "https://sts.chinacloudapi.cn/")


class BadToken(Exception):
    """What is wrong with a token, in words for whoever sets it up; without its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grantee:
    """Whom a token lets in. `until` is when it expires, Unix seconds."""

    principal: str
    scopes: tuple[str, ...]
    until: float
    delegated: bool


def grantee(
    claims: Mapping[str, Any], issuer: IssuerSettings, *, audiences: frozenset[str], now: float
) -> Grantee:
    """Judge the claims of a token whose signature is right. Raises `BadToken`."""
    entra = issuer.kind == "entra"
    if entra:
        _of_tenant(claims, issuer)
    _for_us(claims, audiences)
    until = _in_time(claims, now=now, leeway_s=issuer.leeway_s)
    if claims.get("at_hash") is not None or claims.get("nonce") is not None:
        raise BadToken("This is an ID token, and an access token is needed.")
    client = _client(claims, issuer)
    subject = _subject(claims, issuer.subject_claim or ("oid" if entra else "sub"))
    delegated = _delegated(claims, client, entra=entra)
    kind = "user" if delegated else "app"
    return Grantee(
        principal=f"{kind}:{issuer.name}/{_label(subject)}",
        scopes=_scopes(claims, issuer, delegated=delegated),
        until=until + issuer.leeway_s,
        delegated=delegated,
    )


def is_v1(claims: Mapping[str, Any]) -> bool:
    """Whether the token says of itself that it is a v1.0 one of Entra ID."""
    return str(claims.get("iss", "")).startswith(_V1_ISSUERS)


def _of_tenant(claims: Mapping[str, Any], issuer: IssuerSettings) -> None:
    if str(claims.get("ver")) != "2.0":
        raise BadToken(V1)
    if str(claims.get("tid", "")).lower() != issuer.tenant:
        raise BadToken("The token is of another tenant (tid).")


def _for_us(claims: Mapping[str, Any], audiences: frozenset[str]) -> None:
    said = claims.get("aud")
    for_whom = said if isinstance(said, list) else [said]
    if not any(isinstance(each, str) and each in audiences for each in for_whom):
        raise BadToken("The token is for another audience (aud); server.issuers: audiences.")


def _in_time(claims: Mapping[str, Any], *, now: float, leeway_s: float) -> float:
    until, since, made = (_moment(claims, name) for name in ("exp", "nbf", "iat"))
    if until is None:
        raise BadToken("The token never expires (no exp); such are not accepted.")
    if until + leeway_s <= now:
        raise BadToken("The token has expired (exp).")
    if max(since or 0, made or 0) - leeway_s > now:
        raise BadToken("The token is not valid yet (nbf, iat): compare the clocks.")
    return until


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadToken(f"The claim {name} is no time.")
    if not 0 <= value < 2**40:
        raise BadToken(f"The claim {name} is no time.")
    return float(value)


def _client(claims: Mapping[str, Any], issuer: IssuerSettings) -> str:
    names = ("azp",) if issuer.kind == "entra" else ("azp", "client_id", "cid")
    client = next((value for name in names if isinstance(value := claims.get(name), str)), "")
    if issuer.kind == "entra" and not client:
        raise BadToken("This is no access token: it names no client (azp).")
    if issuer.clients and client not in issuer.clients:
        raise BadToken("The client of the token may not call; server.issuers: clients.")
    return client


def _subject(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if name == "email" and claims.get("email_verified") is not True:
        raise BadToken("The address of the user is not verified (email_verified).")
    if not isinstance(value, str) or not value or len(value) > 1_000:
        raise BadToken(f"The token names no subject ({name}).")
    return _one_spelling(value) if name == "email" else value


def _one_spelling(address: str) -> str:
    """An address as it is compared: two spellings are one principal, with one budget and one vote.

    In other alphabets letters that look alike, or become alike, can be two people's.
    """
    if not address.isascii():
        raise BadToken("The address of the user is not ASCII (email): let sub name the principal.")
    return address.lower()


def _delegated(claims: Mapping[str, Any], client: str, *, entra: bool) -> bool:
    """Whether a user stands behind the token. Of an application alone the subject is itself."""
    if not entra:
        return claims.get("sub") != client
    alone = claims.get("idtyp") == "app" or (
        claims.get("scp") is None and claims.get("sub") == claims.get("oid")
    )
    if alone == (claims.get("scp") is not None):
        raise BadToken("This is no access token: it has no scopes (scp) and is of no application.")
    return not alone


def _scopes(
    claims: Mapping[str, Any], issuer: IssuerSettings, *, delegated: bool
) -> tuple[str, ...]:
    """Our scopes in a token. In Entra ID an application has roles; a user has the scopes that
    were delegated to the client and, where roles are given to users, no more than those."""
    given = _meant(_words(claims, "scp") | _words(claims, "scope"), issuer)
    if issuer.kind == "entra":
        roles = _meant(_words(claims, "roles"), issuer)
        if not delegated:
            given = roles
        elif claims.get("roles") is not None:
            given &= roles
    return tuple(sorted(given))


def _words(claims: Mapping[str, Any], name: str) -> set[str]:
    value = claims.get(name)
    words = value.split() if isinstance(value, str) else value
    return {word for word in words if isinstance(word, str)} if isinstance(words, list) else set()


def _meant(words: set[str], issuer: IssuerSettings) -> set[str]:
    found: set[str] = set()
    for word in words:
        bare = word.removeprefix(issuer.scope_prefix)
        if bare in OURS:
            found.add(bare)
        found.update(issuer.scopes.get(word, ()), issuer.scopes.get(bare, ()))
    return found


def _label(subject: str) -> str:
    """A subject as part of a principal. What has other characters is told by its hash, behind a
    character that no other label has: two subjects never become one."""
    if _SAFE.fullmatch(subject):
        return subject
    return "~" + hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:32]
