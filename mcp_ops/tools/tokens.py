"""Tools on `TokenIssuer`: check, refresh and grant anew the OAuth tokens of a target.

A refresh token may be good for one use. So a refresh is done by one process at a time, leaves a
marker in the store before it is sent, and is never sent where its result could not be kept.

Errors of the issuer are carried out of the store's sub-call as values: raised inside, they would
count against the store.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_urlsafe
from typing import Annotated, Any, Final
from urllib.parse import unquote

import anyio
from pydantic import Field, SecretStr

from mcp_ops.capabilities.base import Effect, NextStep
from mcp_ops.capabilities.token_fields import (
    Pending,
    current_tokens,
    pending_of,
    print_of,
    seed_of,
    to_fields,
    with_pending,
)
from mcp_ops.capabilities.tokens import (
    OAuthAuthorization,
    OAuthRefresh,
    OAuthTokenStatus,
    SecretStore,
    TokenFacts,
    TokenIssuer,
    TokenSet,
)
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import (
    ConfigurationError,
    Forbidden,
    InvalidInput,
    OpsError,
    ReauthorizationRequired,
)
from mcp_ops.params import Sensitive
from mcp_ops.tool import Linked, Write, tool

_LOCK_WAIT_S: Final = 30.0
_FLOW_S: Final = 600.0
_STORE_TRIES: Final = 3
_RETRY_S: Final = 0.1
_BEGIN: Final = "A person must authorize again: call begin_oauth_authorization."
_LOST: Final = "Call check_oauth_token; then refresh again: if it was rotated, that says so."

Code = Annotated[
    str, Field(description="code of the redirect.", min_length=1, max_length=4096), Sensitive()
]
State = Annotated[
    str, Field(description="state of the redirect.", min_length=1, max_length=200), Sensitive()
]


@tool(effect=Effect.READ)
async def check_oauth_token(
    issuer: TokenIssuer, secrets: Linked[SecretStore] | None, clock: Clock
) -> OAuthTokenStatus:
    """Check a target's OAuth access token by using it: validity, expiry, scopes, clock skew.

    Use when calls fail as unauthenticated (INVALID_SESSION_ID). Shows a fingerprint, never the
    token. refresh_oauth_token repairs an invalid one.
    """
    fields = await secrets.use(partial(_read, issuer.secret_name)) if secrets else None
    tokens = current_tokens(issuer.configured_tokens(), fields)
    if tokens is None or not print_of(tokens.access_token):
        facts = TokenFacts(valid=False, problem="There is no access token for this target.")
    else:
        facts = _with_identity(issuer, await issuer.inspect(tokens))
    return _status(facts, tokens, pending_of(fields), clock.now())


@tool(effect=Effect.WRITE, recovery=True, idempotent=True)
async def refresh_oauth_token(
    issuer: TokenIssuer, secrets: Linked[SecretStore] | None, clock: Clock, write: Write
) -> OAuthRefresh:
    """Refresh a target's OAuth access token, store it and verify it by a real call.

    Use when check_oauth_token says it is invalid or about to expire. Two at once refresh once.
    reauthorization_required means a person must authorize again.
    """
    link = await _lasting(secrets)
    seen = current_tokens(
        issuer.configured_tokens(), await link.use(partial(_read, issuer.secret_name))
    )
    _refresh_token_of(seen)
    if write.dry_run:
        return OAuthRefresh(
            outcome="planned",
            previous_fingerprint=print_of(seen.access_token) if seen else None,
            stored_in=link.name,
            plan=["Exchange the refresh token once.", f"Store the new tokens in {link.name}."],
        )
    done = await link.use(partial(_refresh_once, issuer, clock, seen), effect=Effect.WRITE)
    if isinstance(done, OpsError):
        raise done
    return await _answer(issuer, done, link.name)


@tool(effect=Effect.WRITE, recovery=True)
async def begin_oauth_authorization(
    issuer: TokenIssuer, secrets: Linked[SecretStore] | None, clock: Clock, write: Write
) -> OAuthAuthorization:
    """Begin a new OAuth authorization: returns a URL for a person's browser, good for 10 minutes.

    Use when a refresh answers reauthorization_required. Give the person the URL; call
    complete_oauth_authorization with code and state of the redirect.
    """
    link = await _lasting(secrets)
    if write.dry_run:
        return OAuthAuthorization(outcome="planned", plan=["Create a URL valid for 10 minutes."])
    state = token_urlsafe(32)
    request = await issuer.authorization_url(state)
    expires_at = clock.now() + _FLOW_S
    flow = {
        "state_digest": _digest(state),
        "verifier": request.verifier.get_secret_value(),
        "principal": write.principal,
        "expires_at": repr(expires_at),
    }
    await link.use(lambda store: store.write(_flow_name(issuer), flow), effect=Effect.WRITE)
    return OAuthAuthorization(
        outcome="verified",
        url=request.url,
        state=state,
        expires_at=rfc3339(expires_at),
        next_steps=[
            NextStep(
                tool="complete_oauth_authorization",
                arguments={"state": state},
                why="After the person consented: the redirect's address holds the code.",
            )
        ],
    )


@tool(effect=Effect.WRITE, recovery=True)
async def complete_oauth_authorization(
    issuer: TokenIssuer,
    code: Code,
    state: State,
    secrets: Linked[SecretStore] | None,
    clock: Clock,
    write: Write,
) -> OAuthRefresh:
    """Complete an OAuth authorization: exchange the code, check who authorized, store the tokens.

    Works once, within 10 minutes, for the principal that called begin_oauth_authorization.
    """
    link = await _lasting(secrets)
    if write.dry_run:
        flow = await link.use(partial(_read, _flow_name(issuer)))
        _verifier_of(flow, state=state, principal=write.principal, now=clock.now())
        plan = ["Exchange the code once.", f"Store the tokens in {link.name}."]
        return OAuthRefresh(outcome="planned", stored_in=link.name, plan=plan)
    # Browsers show the code percent-encoded, and Salesforce's ends in "==".
    plain = SecretStr(unquote(code))
    action = partial(_complete_once, issuer, clock, plain, state, write.principal)
    done = await link.use(action, effect=Effect.WRITE)
    if isinstance(done, OpsError):
        raise done
    return await _answer(issuer, done, link.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """New tokens, and how they came to be kept. `store_error` means that they were not."""

    tokens: TokenSet
    previous: TokenSet | None = None
    rotated: bool = False
    shared: bool = False
    store_error: OpsError | None = None
    facts: TokenFacts | None = None


# Refresh


async def _refresh_once(
    issuer: TokenIssuer, clock: Clock, seen: TokenSet | None, store: SecretStore
) -> _Done | OpsError:
    """Refresh under the store's lock, unless somebody did so while this call waited for it."""
    name = issuer.secret_name
    async with store.lock(name, _LOCK_WAIT_S):
        before = await store.read(name)
        held = current_tokens(issuer.configured_tokens(), before)
        spent = _refresh_token_of(held)
        if held and seen and _prints(held) != _prints(seen):
            return _Done(tokens=held, previous=seen, shared=True)
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
    return _Done(tokens=tokens, previous=held, rotated=rotated, store_error=error)


def _refresh_token_of(tokens: TokenSet | None) -> SecretStr:
    if tokens is None or tokens.refresh_token is None:
        raise ReauthorizationRequired("There is no refresh token for this target.", hint=_BEGIN)
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
            hint=_BEGIN,
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
    """Store tokens that exist only here: shielded, and tried more than once."""
    fields = to_fields(tokens, seed=seed_of(issuer.configured_tokens()))
    error: OpsError | None = None
    with anyio.CancelScope(shield=True):
        for attempt in range(_STORE_TRIES):
            if attempt:
                await anyio.sleep(_RETRY_S * attempt)
            try:
                await store.write(issuer.secret_name, fields)
            except OpsError as exc:
                error = exc
            else:
                return None
    return error


# Authorization


async def _complete_once(
    issuer: TokenIssuer,
    clock: Clock,
    code: SecretStr,
    state: str,
    principal: str,
    store: SecretStore,
) -> _Done | OpsError:
    """Use up the pending authorization, exchange its code and keep the tokens if they are right."""
    async with store.lock(issuer.secret_name, _LOCK_WAIT_S):
        flow = await store.read(_flow_name(issuer))
        try:
            verifier = _verifier_of(flow, state=state, principal=principal, now=clock.now())
            await store.write(_flow_name(issuer), {})  # before the code is sent: single use
            tokens = await issuer.exchange_code(code, verifier)
            facts = await _granted(issuer, tokens)
        except OpsError as exc:
            return exc
        error = await _keep(store, issuer, tokens)
    return _Done(tokens=tokens, rotated=True, store_error=error, facts=facts)


def _verifier_of(
    flow: Mapping[str, str] | None, *, state: str, principal: str, now: float
) -> SecretStr:
    """The PKCE verifier of the pending authorization; one message for all that can be wrong."""
    flow = flow or {}
    right = hmac.compare_digest(flow.get("state_digest", ""), _digest(state))
    if not right or flow.get("principal") != principal or now >= float(flow["expires_at"]):
        raise InvalidInput(
            "The state is not that of an authorization that you began and that is still open.",
            hint="Call begin_oauth_authorization and use its newest state within 10 minutes.",
        )
    return SecretStr(flow["verifier"])


async def _granted(issuer: TokenIssuer, tokens: TokenSet) -> TokenFacts | None:
    """Who authorized; raises `Forbidden` unless that is whom the configuration demands."""
    facts = await _inspected(issuer, tokens)
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


def _with_identity(issuer: TokenIssuer, facts: TokenFacts) -> TokenFacts:
    """The facts, not valid where the token is somebody else's."""
    known = facts.subject or facts.organisation
    problem = _wrong_identity(issuer, facts) if facts.valid and known else ""
    if not problem:
        return facts
    return replace(facts, valid=False, problem=problem, advice=_BEGIN)


# Store and answers


async def _read(name: str, store: SecretStore) -> Mapping[str, str] | None:
    return await store.read(name)


async def _is_lasting(store: SecretStore) -> bool:
    return store.lasting


async def _lasting(secrets: Linked[SecretStore] | None) -> Linked[SecretStore]:
    """The store in which new tokens would survive; refused before anything is burnt."""
    if secrets is None or not await secrets.use(_is_lasting):
        raise ConfigurationError(
            "The target has no lasting secret store, so new tokens would be lost with the process;"
            " nothing was sent.",
            hint="An operator links one: a target of kind file_secrets, and secrets = its name in"
            " the links of this target.",
        )
    return secrets


def _flow_name(issuer: TokenIssuer) -> str:
    return f"{issuer.secret_name}.authorization"


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()


async def _inspected(issuer: TokenIssuer, tokens: TokenSet) -> TokenFacts:
    try:
        return await issuer.inspect(tokens)
    except OpsError as exc:
        return TokenFacts(valid=False, problem=f"It could not be verified: {exc.message}")


async def _answer(issuer: TokenIssuer, done: _Done, stored_in: str) -> OAuthRefresh:
    facts = done.facts or await _inspected(issuer, done.tokens)
    expires_at = facts.expires_at or done.tokens.expires_at
    base: dict[str, Any] = {
        "fingerprint": print_of(done.tokens.access_token),
        "previous_fingerprint": print_of(done.previous.access_token) if done.previous else None,
        "expires_at": None if expires_at is None else rfc3339(expires_at),
        "rotated": done.rotated,
        "shared": done.shared,
    }
    if done.store_error is not None:
        remedy = _BEGIN if done.rotated else "The refresh token is still good: refresh again."
        problem = f"NEW TOKENS WERE ISSUED AND ARE LOST: {done.store_error.message} {remedy}"
        return OAuthRefresh(outcome="failed", problem=problem, **base)
    return OAuthRefresh(
        outcome="verified" if facts.valid else "unconfirmed",
        problem=None if facts.valid else facts.problem,
        stored_in=stored_in,
        evidence={"refresh_token": done.tokens.refresh_token is not None},
        next_steps=[]
        if facts.valid
        else [NextStep(tool="check_oauth_token", why="See whether the new token works now.")],
        **base,
    )


def _status(
    facts: TokenFacts, tokens: TokenSet | None, pending: Pending | None, now: float
) -> OAuthTokenStatus:
    refreshable = tokens is not None and tokens.refresh_token is not None
    problem, advice = facts.problem, facts.advice
    if pending and tokens and pending.fingerprint == print_of(tokens.refresh_token):
        problem = f"{problem} A refresh of {rfc3339(pending.at)} runs, or its answer was lost."
        advice = advice or "Wait a minute, then check again."
    if not facts.valid and not refreshable:
        advice = _BEGIN
    return OAuthTokenStatus(
        valid=facts.valid,
        fingerprint=print_of(tokens.access_token) if tokens else "",
        expires_at=None if facts.expires_at is None else rfc3339(facts.expires_at),
        expires_in_s=None if facts.expires_at is None else round(facts.expires_at - now),
        scopes=list(facts.scopes),
        subject=facts.subject or None,
        issuer=facts.issuer or None,
        clock_skew_s=facts.clock_skew_s,
        key_known=facts.key_known,
        refresh_token=refreshable,
        problem=problem.strip() or None,
        what_to_do=advice or None,
        next_steps=[] if facts.valid else [_repair(refreshable=refreshable)],
    )


def _repair(*, refreshable: bool) -> NextStep:
    if refreshable:
        return NextStep(tool="refresh_oauth_token", why="The access token is not valid.")
    return NextStep(tool="begin_oauth_authorization", why="There is no refresh token.")
