"""Who calls over HTTP, and why somebody is not let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mcp_ops.reach import Reach, Reaches
from mcp_ops.settings_access import GrantSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPrincipal:
    """Who calls over HTTP, as policy, budgets and the record name them.

    `key:<name>`, `user:<issuer>/<subject>`, `app:<issuer>/<subject>`, `cert:<name>`, or
    `anonymous@loopback` where nothing is configured. The credential itself is not in it.
    """

    id: str
    scopes: tuple[str, ...]
    host_confirms: bool = False
    reach: Reaches = ()


ANONYMOUS = HttpPrincipal(id="anonymous@loopback", scopes=("ops:read", "ops:write", "ops:destroy"))
"""Everybody on loopback, where no credential was ever configured or created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A principal, and how long its credential lasts.

    `until` is in Unix seconds, None for as long as it is not revoked. `key_id` is that of a created
    key. Of a token that is `renewable` the principal may have got a newer one meanwhile; one that
    is `delegated` is of a user, who can be asked for further scopes.
    """

    principal: HttpPrincipal
    until: float | None = None
    key_id: str = ""
    renewable: bool = False
    delegated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """Why a request is not let in. `error` is the code of RFC 6750, empty when nothing was sent.

    Messages name what is wrong and never repeat a credential.
    """

    message: str
    error: str = "invalid_token"
    status: int = 401
    code: str = "unauthorized"
    scope: str = ""


NO_KEY = Denied(message="A valid key is needed: send it as Authorization: Bearer <key>.", error="")
"""One answer for a key that is missing, wrong, expired or revoked."""


def principal_of(
    name: str,
    scopes: Sequence[str],
    grants: Sequence[GrantSettings],
    *,
    host_confirms: bool = False,
) -> HttpPrincipal:
    """A principal, narrowed by the grants that name it."""
    reach = tuple(
        Reach(
            scopes=frozenset(grant.scopes),
            targets=grant.targets,
            environments=grant.environments,
        )
        for grant in grants
        if fnmatchcase(name, grant.principal)
    )
    kept = tuple(
        scope for scope in scopes if not reach or any(scope in each.scopes for each in reach)
    )
    return HttpPrincipal(id=name, scopes=kept, host_confirms=host_confirms, reach=reach)
