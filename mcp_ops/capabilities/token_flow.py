"""How tokens are refreshed and granted over a secret store, so that none is lost on the way.

A refresh token may be good for one use. So a refresh is done by one process at a time, leaves a
marker in the store before it is sent, and tells the difference between "refused" and "lost".

Errors of the issuer are returned, not raised: these functions run as an action on the store, and
an error raised there would count against the store.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import anyio
from pydantic import SecretStr

from mcp_ops.capabilities.token_fields import (
    Pending,
    current_tokens,
    pending_of,
    print_of,
    seed_of,
    to_fields,
    with_pending,
)
from mcp_ops.capabilities.tokens import SecretStore, TokenFacts, TokenIssuer, TokenSet
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import Forbidden, InvalidInput, OpsError, ReauthorizationRequired

BEGIN: Final = "A person must authorize again: call begin_oauth_authorization."
_LOCK_WAIT_S: Final = 20.0  # less than a call's deadline, so that waiting ends with a Conflict
_STORE_TRIES: Final = 3
_RETRY_S: Final = 0.1
_LOST: Final = "Call check_oauth_token; then refresh again: if it was rotated, that says so."


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """New tokens, and how they came to be kept. `store_error` means that they were not."""

    tokens: TokenSet
    previous: TokenSet | None = None
    rotated: bool = False
    shared: bool = False
    store_error: OpsError | None = None
    facts: TokenFacts | None = None


# Refresh


async def refresh_once(
    issuer: TokenIssuer, clock: Clock, seen: TokenSet | None, store: SecretStore
) -> Done | OpsError:
    """Refresh under the store's lock, unless somebody did so while this call waited for it."""
    name = issuer.secret_name
    async with store.lock(name, _LOCK_WAIT_S):
        before = await store.read(name)
        held = current_tokens(issuer.configured_tokens(), before)
        spent = refresh_token_of(held)
        if held and seen and _prints(held) != _prints(seen):
            return Done(tokens=held, previous=seen, shared=True)
        # From here on cancelling would lose tokens. The adapter's own deadline bounds it.
        with anyio.CancelScope(shield=True):
            marker = Pending(at=clock.now(), fingerprint=print_of(spent))
            await store.write(name, with_pending(before, marker))
            try:
                fresh = await issuer.refresh(spent)
            except OpsError as exc:
                if exc.executed == "no":
                    await _put_back(store, name, before or {})
                return _explained(exc, _lost_before(before, spent))
            tokens = replace(
                fresh,
                refresh_token=fresh.refresh_token or spent,
                scopes=fresh.scopes or (held.scopes if held else ()),
            )
            error = await _keep(store, issuer, tokens)
    rotated = print_of(tokens.refresh_token) != print_of(spent)
    return Done(tokens=tokens, previous=held, rotated=rotated, store_error=error)


def refresh_token_of(tokens: TokenSet | None) -> SecretStr:
    if tokens is None or tokens.refresh_token is None:
        raise ReauthorizationRequired("There is no refresh token for this target.", hint=BEGIN)
    return tokens.refresh_token


def _prints(tokens: TokenSet) -> tuple[str, str]:
    return print_of(tokens.access_token), print_of(tokens.refresh_token)


def _lost_before(fields: Mapping[str, str] | None, spent: SecretStr) -> Pending | None:
    """The marker of an earlier refresh with the same token whose answer never came."""
    pending = pending_of(fields)
    return pending if pending and pending.fingerprint == print_of(spent) else None


def _explained(exc: OpsError, lost: Pending | None) -> OpsError:
    if isinstance(exc, ReauthorizationRequired) and lost is not None:
        return ReauthorizationRequired(
            f"The refresh token is dead: a refresh of {rfc3339(lost.at)} was sent and its answer"
            " was lost, after the issuer had replaced the token.",
            said=exc.said,
            hint=BEGIN,
        )
    if exc.executed == "unknown" and not exc.hint:
        exc.hint = _LOST
    return exc


async def _put_back(store: SecretStore, name: str, fields: Mapping[str, str]) -> None:
    """Take the marker away again. Where that fails it stays, which is the safe side."""
    try:
        await store.write(name, fields)
    except OpsError:
        return


async def _keep(store: SecretStore, issuer: TokenIssuer, tokens: TokenSet) -> OpsError | None:
    """Store tokens that exist only here: tried more than once."""
    fields = to_fields(tokens, seed=seed_of(issuer.configured_tokens()))
    error: OpsError | None = None
    for attempt in range(_STORE_TRIES):
        await anyio.sleep(_RETRY_S * attempt)
        try:
            await store.write(issuer.secret_name, fields)
        except OpsError as exc:
            error = exc
        else:
            return None
    return error


# Authorization


async def complete_once(
    issuer: TokenIssuer,
    clock: Clock,
    code: SecretStr,
    state: str,
    principal: str,
    store: SecretStore,
) -> Done | OpsError:
    """Use up the pending authorization, exchange its code and keep the tokens if they are right."""
    async with store.lock(issuer.secret_name, _LOCK_WAIT_S):
        flow = await store.read(flow_name(issuer))
        with anyio.CancelScope(shield=True):  # as above: a code is good for one use
            try:
                verifier = verifier_of(flow, state=state, principal=principal, now=clock.now())
                await store.write(flow_name(issuer), {})  # before the code is sent: single use
                tokens = await issuer.exchange_code(code, verifier)
                facts = await _granted(issuer, tokens)
            except OpsError as exc:
                return exc
            error = await _keep(store, issuer, tokens)
    return Done(tokens=tokens, rotated=True, store_error=error, facts=facts)


def verifier_of(
    flow: Mapping[str, str] | None, *, state: str, principal: str, now: float
) -> SecretStr:
    """The PKCE verifier of the pending authorization; one message for all that can be wrong."""
    flow = flow or {}
    right = hmac.compare_digest(flow.get("state_digest", ""), digest(state))
    if not right or flow.get("principal") != principal or now >= float(flow["expires_at"]):
        raise InvalidInput(
            "The state is not that of an authorization that you began and that is still open.",
            hint="Call begin_oauth_authorization and use its newest state within 10 minutes.",
        )
    return SecretStr(flow["verifier"])


async def _granted(issuer: TokenIssuer, tokens: TokenSet) -> TokenFacts | None:
    """Who authorized; raises `Forbidden` unless that is whom the configuration demands."""
    facts = await inspected(issuer, tokens)
    if not any(issuer.expected_identity()) or not (problem := _wrong_identity(issuer, facts)):
        return facts
    raise Forbidden(
        f"{problem} The tokens were dropped.",
        hint="Begin again, and log in as the configured user of the configured organisation.",
    )


def _wrong_identity(issuer: TokenIssuer, facts: TokenFacts) -> str:
    subject, organisation = issuer.expected_identity()
    if subject and facts.subject != subject:
        return "The token's subject is not the configured one (expected_subject)."
    if organisation and facts.organisation != organisation:
        return "The token's organisation is not the configured one (expected_organisation)."
    return ""


def with_identity(issuer: TokenIssuer, facts: TokenFacts) -> TokenFacts:
    """The facts, not valid where the token is somebody else's."""
    known = facts.subject or facts.organisation
    problem = _wrong_identity(issuer, facts) if facts.valid and known else ""
    if not problem:
        return facts
    return replace(facts, valid=False, problem=problem, advice=BEGIN)


def flow_name(issuer: TokenIssuer) -> str:
    return f"{issuer.secret_name}.authorization"


def digest(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()


async def inspected(issuer: TokenIssuer, tokens: TokenSet) -> TokenFacts:
    try:
        return await issuer.inspect(tokens)
    except OpsError as exc:
        return TokenFacts(valid=False, problem=f"It could not be verified: {exc.message}")
