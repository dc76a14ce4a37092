"""The frame in which the token tools are called against the lab."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx2

from mcp_ops.capabilities.tokens import (
    OAuthAuthorization,
    OAuthRefresh,
    OAuthTokenStatus,
)
from mcp_ops.tool import Write
from mcp_ops.tools.tokens import (
    begin_oauth_authorization,
    check_oauth_token,
    complete_oauth_authorization,
    refresh_oauth_token,
)
from tests.lab_org import SUBJECT, Lab

NAME = "idp-tokens"


def frame(principal: str = "agent:test@me", *, dry_run: bool = False) -> Write:
    return Write(
        reason="a test",
        dry_run=dry_run,
        call_id="c1",
        principal=principal,
        progress=lambda done, total, message: None,
        cancelled=lambda: False,
    )


async def check(lab: Lab, issuer: Any, **more: Any) -> OAuthTokenStatus:
    given = {"secrets": lab.link, "clock": lab.wired.clock, **more}
    result = await check_oauth_token.function(issuer, **given)
    assert isinstance(result, OAuthTokenStatus)
    return result


async def refresh(lab: Lab, issuer: Any, **more: Any) -> OAuthRefresh:
    given = {"secrets": lab.link, "clock": lab.wired.clock, "write": frame(), **more}
    result = await refresh_oauth_token.function(issuer, **given)
    assert isinstance(result, OAuthRefresh)
    return result


async def begin(lab: Lab, issuer: Any, **more: Any) -> OAuthAuthorization:
    given = {"secrets": lab.link, "clock": lab.wired.clock, "write": frame(), **more}
    result = await begin_oauth_authorization.function(issuer, **given)
    assert isinstance(result, OAuthAuthorization)
    return result


async def complete(lab: Lab, issuer: Any, code: str, state: str, **more: Any) -> OAuthRefresh:
    given = {"secrets": lab.link, "clock": lab.wired.clock, "write": frame(), **more}
    result = await complete_oauth_authorization.function(issuer, code=code, state=state, **given)
    assert isinstance(result, OAuthRefresh)
    return result


async def consent(url: str | None, login: str = SUBJECT) -> dict[str, str]:
    """What a person's browser does: consent, and read the address it is sent back to."""
    async with httpx2.AsyncClient() as browser:
        answer = await browser.get(f"{url}&login={quote(login)}")
    return {k: v for k, (v,) in parse_qs(urlsplit(answer.headers["location"]).query).items()}
