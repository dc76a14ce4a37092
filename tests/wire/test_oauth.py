"""OAuth on the wire: what a token endpoint may say, and what becomes of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import anyio
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops import errors
from mcp_ops.clock import ManualClock
from mcp_ops.redact import MASK, Redactor
from mcp_ops.wire.http import HttpClient, open_client
from mcp_ops.wire.oauth import (
    ClientAuth,
    OAuthClient,
    authorization_request,
    code_grant,
    moment,
    read_tokens,
    refresh_grant,
    skew_problem,
)
from tests.served import serve

REFRESH = SecretStr("refresh-canary-1234567890")
GOOD: dict[str, Any] = {"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}


@asynccontextmanager
async def endpoint(answer: Response, seen: list[Any]) -> AsyncIterator[tuple[HttpClient, str]]:
    async def token(request: Request) -> Response:
        async with request.form() as form:
            seen.append((dict(form), request.headers.get("authorization")))
        return answer

    app = Starlette(routes=[Route("/token", token, methods=["POST"])])
    with anyio.fail_after(5):
        async with (
            serve(app) as url,
            open_client(system="the issuer", clock=ManualClock(1e9), redactor=Redactor()) as http,
        ):
            yield http, f"{url}/token"


def oauth_client(method: ClientAuth = "client_secret_post") -> OAuthClient:
    return OAuthClient(client_id="me:1", client_secret=SecretStr("s&cret canary"), method=method)


async def test_the_secret_is_posted_where_the_method_says_so() -> None:
    seen: list[Any] = []
    async with endpoint(JSONResponse(GOOD), seen) as (http, url):
        tokens = await refresh_grant(http, url, oauth_client(), REFRESH)
    assert tokens.expires_at == 1e9 + 3600
    assert seen == [
        (
            {
                "grant_type": "refresh_token",
                "refresh_token": "refresh-canary-1234567890",
                "client_id": "me:1",
                "client_secret": "s&cret canary",
            },
            None,
        )
    ]


async def test_basic_authentication_encodes_both_halves() -> None:
    seen: list[Any] = []
    async with endpoint(JSONResponse(GOOD), seen) as (http, url):
        await code_grant(
            http,
            url,
            oauth_client("client_secret_basic"),
            code=SecretStr("the-code"),
            verifier=SecretStr("the-verifier"),
            redirect_uri="http://127.0.0.1/cb",
        )
    ((form, authorization),) = seen
    user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).partition(b":")
    assert unquote_plus(user.decode()) == "me:1"
    assert unquote_plus(password.decode()) == "s&cret canary"
    assert form["code_verifier"] == "the-verifier"
    assert "client_secret" not in form


async def test_a_public_client_sends_its_id_only() -> None:
    seen: list[Any] = []
    async with endpoint(JSONResponse(GOOD), seen) as (http, url):
        await refresh_grant(http, url, oauth_client("none"), REFRESH)
    assert "client_secret" not in seen[0][0]
    assert seen[0][0]["client_id"] == "me:1"


async def test_without_a_client_id_nothing_is_sent() -> None:
    seen: list[Any] = []
    nobody = OAuthClient(client_id="", client_secret=None, method="none")
    async with endpoint(JSONResponse(GOOD), seen) as (http, url):
        with pytest.raises(errors.ConfigurationError):
            await refresh_grant(http, url, nobody, REFRESH)
    assert seen == []


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, "invalid_grant", errors.ReauthorizationRequired),
        (400, "invalid_client", errors.Unauthenticated),
        (401, "invalid_client", errors.Unauthenticated),
        (400, "invalid_client_id", errors.Unauthenticated),
        (400, "unauthorized_client", errors.Forbidden),
        (400, "inactive_user", errors.Forbidden),
        (400, "invalid_scope", errors.Rejected),
        (400, "redirect_uri_mismatch", errors.Rejected),
        (400, "unsupported_grant_type", errors.Rejected),
        (400, "something_new", errors.Rejected),
        (400, 17, errors.Rejected),
        (400, "temporarily_unavailable", errors.UpstreamUnavailable),
        (503, "temporarily_unavailable", errors.UpstreamUnavailable),
        (400, "rate_limit_exceeded", errors.UpstreamRateLimited),
        (400, "server_error", errors.UpstreamBroken),
        (500, "invalid_grant", errors.UpstreamBroken),
        (429, "", errors.UpstreamRateLimited),
        (302, "", errors.BadAnswer),
    ],
)
async def test_a_refusal_of_the_endpoint_becomes_one_error(
    status: int, error: Any, kind: type[errors.Upstream]
) -> None:
    said = f"token refresh-canary-1234567890 is \x1b[31mbad{'!' * 900}"
    body = {"error": error, "error_description": said}
    async with endpoint(JSONResponse(body, status, headers={"retry-after": "9"}), []) as (h, url):
        with pytest.raises(errors.Upstream) as caught:
            await refresh_grant(h, url, oauth_client(), REFRESH)
    assert type(caught.value) is kind
    assert "canary" not in caught.value.message + caught.value.said + caught.value.hint
    assert "bad!" not in caught.value.message
    assert len(caught.value.said) < 350
    if isinstance(error, str):
        assert MASK in caught.value.said
    waits = kind in (errors.UpstreamRateLimited, errors.UpstreamUnavailable)
    assert caught.value.retry_after_s == (9.0 if waits else None)


@pytest.mark.parametrize(
    "change",
    [
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "two words"},
        {"access_token": "a\r\nb"},
        {"access_token": "x" * 20_000},
        {"token_type": "mac"},
        {"token_type": None},
        {"refresh_token": ["x"]},
        {"refresh_token": "two words"},
    ],
)
def test_an_answer_without_usable_tokens_is_a_bad_answer(change: dict[str, Any]) -> None:
    with pytest.raises(errors.BadAnswer):
        read_tokens(GOOD | change, now=0)


@pytest.mark.parametrize("lifetime", ["soon", "", -1, 0, True, None, 1e300, [], "9" * 50])
def test_a_lifetime_without_sense_does_not_lose_the_tokens(lifetime: Any) -> None:
    tokens = read_tokens(GOOD | {"expires_in": lifetime, "refresh_token": "next"}, now=5)
    assert tokens.expires_at is None
    assert tokens.refresh_token == SecretStr("next")


def test_a_lifetime_as_text_is_read() -> None:
    assert read_tokens(GOOD | {"expires_in": "60"}, now=5).expires_at == 65


@pytest.mark.parametrize("refresh", [None, ""])
def test_an_answer_without_a_refresh_token_has_none(refresh: Any) -> None:
    assert read_tokens(GOOD | {"refresh_token": refresh}, now=5).refresh_token is None


@pytest.mark.parametrize("claim", [None, "5", True, -1, 0, 1e300, [], float("nan")])
def test_a_date_without_sense_is_no_date(claim: Any) -> None:
    assert moment(claim) is None


@pytest.mark.parametrize(
    ("skew", "words"), [(None, ""), (60, ""), (-60, ""), (61, "61 s behind"), (-61, "61 s ahead")]
)
def test_a_clock_that_differs_by_more_than_a_minute_is_named(skew: float, words: str) -> None:
    problem, advice = skew_problem(skew, "the issuer")
    assert words in problem
    assert bool(problem) == bool(advice) == bool(words)


def test_the_authorization_url_carries_the_challenge_and_not_the_verifier() -> None:
    request = authorization_request(
        "https://acme.example/authorize",
        client_id="me",
        redirect_uri="http://127.0.0.1/cb?x=1",
        scopes=("api", "openid"),
        state="st&te",
    )
    query = {k: v for k, (v,) in parse_qs(urlsplit(request.url).query).items()}
    verifier = request.verifier.get_secret_value()
    digest = hashlib.sha256(verifier.encode()).digest()
    assert query == {
        "response_type": "code",
        "client_id": "me",
        "redirect_uri": "http://127.0.0.1/cb?x=1",
        "state": "st&te",
        "scope": "api openid",
        "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    assert verifier not in request.url
    assert 43 <= len(verifier) <= 128


def test_without_a_redirect_uri_nobody_is_sent_anywhere() -> None:
    with pytest.raises(errors.ConfigurationError):
        authorization_request(
            "https://acme.example", client_id="me", redirect_uri="", scopes=(), state="s"
        )
