"""What an access token that is a JWT says of itself, and whether its issuer's keys confirm it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from mcp_ops.errors import BadAnswer

if TYPE_CHECKING:
    import jwt

# Signatures with a public key only: with the others, anyone who can verify can forge.
ALGORITHMS: Final = (
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtClaims:
    """Claims of a token, not to be trusted before `verify` said yes to its signature."""

    claims: Mapping[str, Any]
    key_id: str
    algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtCheck:
    """Whether the issuer knows the key, and whether the signature is right."""

    key_known: bool
    signed: bool


def read_jwt(token: SecretStr) -> JwtClaims | None:
    """The claims without any check, or None for a token that is not a JWT."""
    import jwt  # here, because it loads a whole cryptography library

    value = token.get_secret_value()
    if value.count(".") != 2:
        return None
    try:
        header = jwt.get_unverified_header(value)
        claims = jwt.decode(value, options={"verify_signature": False})
    except jwt.PyJWTError:
        return None
    key_id = header.get("kid")
    return JwtClaims(
        claims=claims,
        key_id=key_id if isinstance(key_id, str) else "",
        algorithm=str(header.get("alg", "")),
    )


def verify(token: SecretStr, jwks: Mapping[str, Any]) -> JwtCheck:
    """Check the signature against the issuer's published keys; raises `BadAnswer` for bad keys.

    Only the signature: expiry and issuer are judged elsewhere, with words for each.
    """
    import jwt

    read = read_jwt(token)
    try:
        keys = jwt.PyJWKSet.from_dict(dict(jwks)).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as exc:
        raise BadAnswer("The issuer's published keys (JWKS) cannot be read.") from exc
    if read is None:
        return JwtCheck(key_known=False, signed=False)
    fitting = [key for key in keys if not read.key_id or key.key_id == read.key_id]
    allowed = read.algorithm in ALGORITHMS
    signed = allowed and any(_signs(key, token, read.algorithm) for key in fitting)
    return JwtCheck(key_known=bool(fitting) if read.key_id else signed, signed=signed)


def _signs(key: jwt.PyJWK, token: SecretStr, algorithm: str) -> bool:
    import jwt

    try:
        jwt.decode(
            token.get_secret_value(),
            key,
            algorithms=[algorithm],
            options={
                "verify_exp": False,
                "verify_aud": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, TypeError, ValueError):
        return False
    return True
