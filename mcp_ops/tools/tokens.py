"""Tools on `TokenIssuer`: check, refresh and grant anew the OAuth tokens of a target.

What happens between issuer and store is in `capabilities/token_flow.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from secrets import token_urlsafe
from typing import Annotated, Any, Final
from urllib.parse import unquote

from pydantic import Field, SecretStr

from mcp_ops.capabilities.base import Effect, NextStep
from mcp_ops.capabilities.token_fields import Pending, current_tokens, pending_of, print_of
from mcp_ops.capabilities.token_flow import (
    BEGIN,
    Done,
    complete_once,
    digest,
    flow_name,
    inspected,
    refresh_once,
    refresh_token_of,
    verifier_of,
    with_identity,
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
from mcp_ops.errors import ConfigurationError, OpsError
from mcp_ops.params import Sensitive
from mcp_ops.tool import Linked, Write, tool

_FLOW_S: Final = 600.0

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
        facts = with_identity(issuer, await issuer.inspect(tokens))
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
    refresh_token_of(seen)
    if write.dry_run:
        write.saw({"fingerprint": print_of(seen.access_token) if seen else None}, None)
        return OAuthRefresh(
            outcome="planned",
            previous_fingerprint=print_of(seen.access_token) if seen else None,
            stored_in=link.name,
            plan=["Exchange the refresh token once.", f"Store the new tokens in {link.name}."],
        )
    done = await link.use(partial(refresh_once, issuer, clock, seen), effect=Effect.WRITE)
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
        "state_digest": digest(state),
        "verifier": request.verifier.get_secret_value(),
        "principal": write.principal,
        "expires_at": repr(expires_at),
    }
    await link.use(lambda store: store.write(flow_name(issuer), flow), effect=Effect.WRITE)
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
        flow = await link.use(partial(_read, flow_name(issuer)))
        verifier_of(flow, state=state, principal=write.principal, now=clock.now())
        plan = ["Exchange the code once.", f"Store the tokens in {link.name}."]
        return OAuthRefresh(outcome="planned", stored_in=link.name, plan=plan)
    # Browsers show the code percent-encoded, and Salesforce's ends in "==".
    plain = SecretStr(unquote(code))
    action = partial(complete_once, issuer, clock, plain, state, write.principal)
    done = await link.use(action, effect=Effect.WRITE)
    if isinstance(done, OpsError):
        raise done
    return await _answer(issuer, done, link.name)


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


async def _answer(issuer: TokenIssuer, done: Done, stored_in: str) -> OAuthRefresh:
    facts = done.facts or await inspected(issuer, done.tokens)
    expires_at = facts.expires_at or done.tokens.expires_at
    base: dict[str, Any] = {
        "fingerprint": print_of(done.tokens.access_token),
        "previous_fingerprint": print_of(done.previous.access_token) if done.previous else None,
        "expires_at": None if expires_at is None else rfc3339(expires_at),
        "rotated": done.rotated,
        "shared": done.shared,
    }
    if done.store_error is not None:
        remedy = BEGIN if done.rotated else "The refresh token is still good: refresh again."
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
        advice = BEGIN
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
