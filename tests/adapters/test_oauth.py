"""The OAuth adapter, against the lab's authorization server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops import errors
from mcp_ops.adapters.oauth import OAuthAdapter
from mcp_ops.capabilities.tokens import TokenSet
from tests.lab_org import CALLBACK, SUBJECT, Lab, running_lab
from tests.served import Wired, loopback, serve

Settings = OAuthAdapter.Settings


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path) as running:
        yield running


def held(adapter: OAuthAdapter) -> TokenSet:
    tokens = adapter.configured_tokens()
    assert tokens is not None
    return tokens


async def test_a_good_token_is_inspected_with_all_facts(lab: Lab) -> None:
    async with lab.idp() as idp:
        await idp.ping()
        facts = await idp.inspect(held(idp))
    assert facts.valid, facts.problem
    assert facts.problem == ""
    assert facts.subject == SUBJECT
    assert facts.issuer == lab.issuer
    assert facts.scopes == ("api", "refresh_token", "openid")
    assert facts.expires_at == lab.wired.clock.now() + 3600
    assert facts.clock_skew_s == 0
    assert facts.key_known is True


async def test_an_expired_token_says_so(lab: Lab) -> None:
    lab.wired.clock.advance(3601)
    async with lab.idp() as idp:
        facts = await idp.inspect(held(idp))
    assert not facts.valid
    assert facts.problem == "The access token has expired."
    assert "refresh_oauth_token" in facts.advice


async def test_a_revoked_token_is_not_active(lab: Lab) -> None:
    lab.oauth.authority.revoke(lab.pair.access_token)
    async with lab.idp() as idp:
        facts = await idp.inspect(held(idp))
    assert not facts.valid
    assert "not active" in facts.problem


async def test_user_info_tells_where_introspection_is_not_to_be_had(lab: Lab) -> None:
    async with lab.idp(client_secret=None) as idp:
        assert (await idp.inspect(held(idp))).subject == SUBJECT
        lab.oauth.inject("token-expired")
        facts = await idp.inspect(held(idp))
    assert not facts.valid
    assert "refused (401)" in facts.problem


async def test_a_probe_of_the_api_comes_before_the_server_s_word(lab: Lab) -> None:
    probe = f"{lab.org_url}/services/data/v62.0/limits"
    async with lab.idp(probe_url=probe) as idp:
        facts = await idp.inspect(held(idp))
    assert facts.valid
    assert len(lab.org.log.read()) == 1


async def test_a_probe_that_fails_says_nothing_of_the_token(lab: Lab) -> None:
    lab.org.inject("unavailable")
    async with lab.idp(probe_url=f"{lab.org_url}/services/data/v62.0/limits") as idp:
        with pytest.raises(errors.UpstreamUnavailable):
            await idp.inspect(held(idp))


async def test_a_clock_that_differs_is_named_with_its_side(lab: Lab) -> None:
    lab.oauth.inject("clock-skew")
    async with lab.idp() as idp:
        facts = await idp.inspect(held(idp))
    assert facts.valid
    assert facts.clock_skew_s == 600
    assert "600 s behind" in facts.problem
    assert "NTP" in facts.advice


async def test_a_token_signed_by_a_stranger_s_key_is_not_valid(lab: Lab) -> None:
    app = Starlette(
        routes=[Route("/jwks.json", lambda _r: JSONResponse({"keys": [stranger_key()]}))]
    )
    async with serve(app) as url, lab.idp(jwks_url=f"{url}/jwks.json") as idp:
        facts = await idp.inspect(held(idp))
    assert not facts.valid
    assert facts.key_known is False
    assert "not among the issuer's published keys" in facts.problem


def stranger_key(kid: str = "stranger") -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True) | {"kid": kid, "alg": "ES256"}


async def test_a_known_key_id_with_a_wrong_signature_is_not_valid(lab: Lab) -> None:
    kid = jwt.get_unverified_header(lab.pair.access_token)["kid"]
    app = Starlette(
        routes=[Route("/jwks.json", lambda _r: JSONResponse({"keys": [stranger_key(kid)]}))]
    )
    async with serve(app) as url, lab.idp(jwks_url=f"{url}/jwks.json") as idp:
        facts = await idp.inspect(held(idp))
    assert not facts.valid
    assert facts.key_known is True
    assert "signature is wrong" in facts.problem


@pytest.mark.parametrize("body", [{}, {"keys": []}, {"keys": "x"}, {"keys": [5]}, []])
async def test_keys_that_cannot_be_read_are_a_bad_answer(lab: Lab, body: Any) -> None:
    app = Starlette(routes=[Route("/jwks.json", lambda _r: JSONResponse(body))])
    async with serve(app) as url, lab.idp(jwks_url=f"{url}/jwks.json") as idp:
        with pytest.raises(errors.BadAnswer):
            await idp.inspect(held(idp))


async def test_a_symmetric_signature_is_never_accepted(lab: Lab, tmp_path: Path) -> None:
    claims = {"iss": lab.issuer, "exp": 4_000_000_000, "sub": "x"}
    forged = jwt.encode(claims, "k" * 64, algorithm="HS256")
    app = Starlette(
        routes=[
            Route("/probe", lambda _r: JSONResponse({})),
            Route("/jwks.json", lambda _r: JSONResponse({"keys": [stranger_key()]})),
        ]
    )
    async with serve(app) as url:
        settings = Settings(
            token_url=f"{url}/token",
            probe_url=f"{url}/probe",
            jwks_url=f"{url}/jwks.json",
            client_id="me",
        )
        async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
            facts = await idp.inspect(TokenSet(access_token=SecretStr(forged)))
    assert not facts.valid


async def test_a_token_that_is_no_jwt_is_judged_by_the_call_alone(tmp_path: Path) -> None:
    async def info(_request: Request) -> Response:
        return JSONResponse({"sub": "me", "org_id": "acme", "exp": "soon"})

    async with serve(Starlette(routes=[Route("/info", info)])) as url:
        settings = Settings(token_url=f"{url}/token", userinfo_url=f"{url}/info", client_id="me")
        async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
            facts = await idp.inspect(
                TokenSet(access_token=SecretStr("opaque"), expires_at=1_800_000_100.0)
            )
            await idp.ping()
    assert (facts.valid, facts.subject, facts.organisation) == (True, "me", "acme")
    assert facts.expires_at == 1_800_000_100.0
    assert facts.key_known is None


async def test_a_server_that_is_down_is_unreachable(tmp_path: Path) -> None:
    bound, url = loopback()
    bound.close()
    settings = Settings(issuer=url, client_id="me")
    async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
        with pytest.raises(errors.Unreachable):
            await idp.ping()


async def test_metadata_of_another_issuer_is_refused(lab: Lab) -> None:
    other = lab.issuer.replace("127.0.0.1", "localhost")
    async with lab.idp(issuer=other) as idp:
        with pytest.raises(errors.BadAnswer, match="another issuer"):
            await idp.refresh(SecretStr(lab.pair.refresh_token))
    assert lab.effects("refreshed") == []


@pytest.mark.parametrize(
    "metadata", [{"token_endpoint": "http://evil.example/token"}, {"token_endpoint": 5}, {}]
)
async def test_metadata_that_sends_secrets_elsewhere_is_refused(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    at = loopback()
    body = {"issuer": at[1]} | metadata
    app = Starlette(
        routes=[Route("/.well-known/openid-configuration", lambda _r: JSONResponse(body))]
    )
    async with serve(app, at) as url:
        settings = Settings(issuer=url, client_id="me")
        async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
            with pytest.raises((errors.BadAnswer, errors.ConfigurationError)):
                await idp.refresh(SecretStr("r"))


async def test_an_issuer_with_a_path_is_found_where_the_standard_says(tmp_path: Path) -> None:
    at = loopback()
    asked: list[str] = []

    async def say(request: Request) -> Response:
        asked.append(request.url.path)
        return JSONResponse({}, 404)

    async with serve(Starlette(routes=[Route("/{rest:path}", say)]), at) as url:
        settings = Settings(issuer=f"{url}/tenant", client_id="me")
        async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
            with pytest.raises(errors.NotFound):
                await idp.ping()
    assert asked == [
        "/.well-known/oauth-authorization-server/tenant",
        "/tenant/.well-known/openid-configuration",
    ]


async def test_without_any_way_to_ask_the_setting_is_named(tmp_path: Path) -> None:
    settings = Settings(token_url="https://acme.example/token", client_id="me")
    async with OAuthAdapter.open(settings, Wired(directory=tmp_path).wiring("idp")) as idp:
        with pytest.raises(errors.ConfigurationError, match="no way to ask"):
            await idp.inspect(TokenSet(access_token=SecretStr("opaque")))


async def test_the_authorization_url_names_the_registered_redirect(lab: Lab) -> None:
    async with lab.idp() as idp:
        request = await idp.authorization_url("the-state")
    assert request.url.startswith(f"{lab.issuer}/authorize?")
    assert CALLBACK.rsplit("/", 1)[1] in request.url


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "me"},
        {"client_id": "me", "issuer": "http://idp.example"},
        {"client_id": "", "issuer": "https://idp.example"},
        {"client_id": "me", "issuer": "https://idp.example", "unknown": 1},
    ],
)
def test_settings_that_are_not_enough_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
