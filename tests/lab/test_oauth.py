"""The lab's authorization server, over its socket."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import jwt
import pytest

from mcp_ops.lab.oauth.server import OAuthStandIn, TokenPair, oauth_server
from mcp_ops.lab.oauth.store import fingerprint
from tests.lab.serving import Clock, loopback, serve

CALLBACK = "http://127.0.0.1:8765/callback"
VERIFIER = "the-verifier-of-this-test-is-long-enough-to-be-one"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]


@dataclass(kw_only=True)
class Lab:
    """A running server, a client for it and its clock."""

    standin: OAuthStandIn
    client: httpx2.AsyncClient
    clock: Clock
    issuer: str
    directory: Path

    @property
    def credentials(self) -> dict[str, str]:
        client = self.standin.authority.client
        return {"client_id": client.client_id, "client_secret": client.client_secret}

    async def token(self, **form: str) -> httpx2.Response:
        return await self.client.post("/token", data=self.credentials | form)

    async def refresh(self, refresh_token: str) -> httpx2.Response:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def active(self, token: str) -> bool:
        answer = await self.client.post("/introspect", data=self.credentials | {"token": token})
        assert answer.status_code == 200
        return bool(answer.json()["active"])

    async def authorize(self, **query: str) -> httpx2.Response:
        asked = {
            "response_type": "code",
            "client_id": "mcp-ops-lab",
            "redirect_uri": CALLBACK,
            "state": "st-1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        return await self.client.get("/authorize", params=asked | query)

    async def code(self) -> str:
        return returned(await self.authorize(login="alice"))["code"]

    async def redeem(self, code: str, verifier: str = VERIFIER) -> httpx2.Response:
        return await self.token(
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK,
            code_verifier=verifier,
        )

    def effects(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.standin.log.read() if line["effect"] == name]


def returned(answer: httpx2.Response) -> dict[str, str]:
    """What a redirect carries back to the client."""
    assert answer.status_code == 302
    location = answer.headers["location"]
    assert location.startswith(CALLBACK + "?")
    return {key: values[0] for key, values in parse_qs(urlsplit(location).query).items()}


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    clock = Clock(float(int(time.time())))
    at = loopback()
    standin = oauth_server(directory=tmp_path, issuer=at[1], clock=clock)
    async with serve(standin, at) as client:
        yield Lab(standin=standin, client=client, clock=clock, issuer=at[1], directory=tmp_path)


@pytest.fixture
def pair(lab: Lab) -> TokenPair:
    return lab.standin.authority.issue("integration@lab.example")


async def test_a_refresh_rotates_the_refresh_token(lab: Lab, pair: TokenPair) -> None:
    answer = await lab.refresh(pair.refresh_token)

    body = answer.json()
    assert answer.status_code == 200
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 3600
    assert body["refresh_token"] != pair.refresh_token
    assert body["access_token"] != pair.access_token
    assert answer.headers["cache-control"] == "no-store"
    assert (await lab.refresh(body["refresh_token"])).status_code == 200


async def test_reuse_of_a_rotated_refresh_token_revokes_the_whole_family(
    lab: Lab, pair: TokenPair
) -> None:
    fresh = (await lab.refresh(pair.refresh_token)).json()

    reused = await lab.refresh(pair.refresh_token)

    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    assert (await lab.refresh(fresh["refresh_token"])).json()["error"] == "invalid_grant"
    assert not await lab.active(fresh["access_token"])
    assert not await lab.active(pair.access_token)
    (line,) = lab.effects("refresh-token-reused")
    assert line["family"] == pair.family
    assert line["refresh"] == fingerprint(pair.refresh_token)


async def test_of_many_refreshes_with_one_token_one_wins_and_the_family_ends(
    lab: Lab, pair: TokenPair
) -> None:
    answers: list[httpx2.Response] = []

    async def refresh() -> None:
        answers.append(await lab.refresh(pair.refresh_token))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(refresh)

    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(lab.effects("refreshed")) == 1
    assert (await lab.refresh(won["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_code_flow_with_pkce_returns_state_and_tokens(lab: Lab) -> None:
    back = returned(await lab.authorize(login="alice"))
    assert back["state"] == "st-1"

    answer = await lab.redeem(back["code"])

    assert answer.status_code == 200
    token = answer.json()["access_token"]
    info = await lab.client.get("/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert info.json()["sub"] == "alice"


async def test_a_wrong_verifier_is_refused(lab: Lab) -> None:
    answer = await lab.redeem(await lab.code(), verifier=secrets.token_urlsafe(48))

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert lab.effects("granted") == []


@pytest.mark.parametrize(
    "without", [{"code_challenge": ""}, {"code_challenge_method": "plain"}], ids=["none", "plain"]
)
async def test_an_authorization_request_without_s256_is_refused(
    lab: Lab, without: dict[str, str]
) -> None:
    back = returned(await lab.authorize(login="alice", **without))

    assert back["error"] == "invalid_request"
    assert back["state"] == "st-1"


async def test_an_unknown_redirect_uri_is_never_redirected_to(lab: Lab) -> None:
    answer = await lab.authorize(login="alice", redirect_uri="http://127.0.0.1:1/elsewhere")

    assert answer.status_code == 400
    assert "location" not in answer.headers


async def test_a_code_used_twice_costs_the_tokens_of_the_first_use(lab: Lab) -> None:
    code = await lab.code()
    first = (await lab.redeem(code)).json()

    assert (await lab.redeem(code)).json()["error"] == "invalid_grant"
    assert not await lab.active(first["access_token"])


async def test_a_code_expires_after_ten_minutes(lab: Lab) -> None:
    code = await lab.code()
    lab.clock.now += 600

    assert (await lab.redeem(code)).json()["error"] == "invalid_grant"


async def test_without_a_login_the_page_says_that_it_is_a_lab(lab: Lab) -> None:
    page = await lab.authorize()
    assert page.status_code == 200
    assert "This is a lab" in page.text

    posted = await lab.client.post(page.request.url, data={"login": "bob"})

    assert "code" in returned(posted)


async def test_revoking_the_refresh_token_ends_the_access_token_too(
    lab: Lab, pair: TokenPair
) -> None:
    client = lab.standin.authority.client
    answer = await lab.client.post(
        "/revoke",
        data={"token": pair.refresh_token},
        auth=(client.client_id, client.client_secret),
    )

    assert answer.status_code == 200
    assert not await lab.active(pair.access_token)
    assert (await lab.refresh(pair.refresh_token)).json()["error"] == "invalid_grant"
    assert lab.effects("revoked")[0]["family"] == pair.family


async def test_revoking_an_access_token_leaves_the_refresh_token(lab: Lab, pair: TokenPair) -> None:
    await lab.client.post("/revoke", data=lab.credentials | {"token": pair.access_token})

    assert not await lab.active(pair.access_token)
    assert (await lab.refresh(pair.refresh_token)).status_code == 200


async def test_revoking_an_unknown_token_is_no_error(lab: Lab) -> None:
    answer = await lab.client.post("/revoke", data=lab.credentials | {"token": "nonsense"})

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
@pytest.mark.parametrize("client_id", ["mcp-ops-lab", "stranger"])
async def test_a_client_that_cannot_authenticate_gets_401(
    lab: Lab, pair: TokenPair, path: str, client_id: str
) -> None:
    answer = await lab.client.post(
        path,
        data={
            "grant_type": "refresh_token",
            "refresh_token": pair.refresh_token,
            "token": pair.access_token,
            "client_id": client_id,
            "client_secret": "wrong",
        },
    )

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic")


async def test_an_unknown_grant_type_is_named(lab: Lab) -> None:
    answer = await lab.token(grant_type="password")

    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


async def test_the_published_keys_validate_access_tokens(lab: Lab, pair: TokenPair) -> None:
    metadata = (await lab.client.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == lab.issuer
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    published = (await lab.client.get(metadata["jwks_uri"])).json()
    assert all("d" not in key for key in published["keys"])
    header = jwt.get_unverified_header(pair.access_token)
    assert header["typ"] == "at+jwt"

    claims = jwt.decode(
        pair.access_token,
        jwt.PyJWKSet.from_dict(published)[header["kid"]],
        algorithms=["ES256"],
        audience="https://api.lab.example",
        issuer=lab.issuer,
    )

    assert claims["sub"] == "integration@lab.example"
    assert claims["scope"] == "api refresh_token openid"
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["jti"]


async def test_an_access_token_ends_with_its_lifetime(lab: Lab, pair: TokenPair) -> None:
    assert await lab.active(pair.access_token)

    lab.clock.now += 3600

    assert not await lab.active(pair.access_token)
    assert lab.standin.authority.check(pair.access_token).reason == "expired"


async def test_a_lost_response_has_rotated_all_the_same(lab: Lab, pair: TokenPair) -> None:
    lab.standin.inject("lost-response")

    with pytest.raises(httpx2.TransportError):
        await lab.refresh(pair.refresh_token)

    (line,) = lab.effects("refreshed")
    assert line["family"] == pair.family
    assert line["replaces"] == fingerprint(pair.refresh_token)
    assert (await lab.refresh(pair.refresh_token)).json()["error"] == "invalid_grant"
    assert len(lab.effects("refresh-token-reused")) == 1


async def test_expired_tokens_are_healed_by_a_refresh(lab: Lab, pair: TokenPair) -> None:
    lab.standin.inject("token-expired")
    assert not await lab.active(pair.access_token)

    fresh = (await lab.refresh(pair.refresh_token)).json()

    assert await lab.active(fresh["access_token"])


async def test_revoked_tokens_are_healed_by_a_new_consent_only(lab: Lab, pair: TokenPair) -> None:
    lab.standin.inject("token-revoked")
    refused = await lab.refresh(pair.refresh_token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")

    fresh = (await lab.redeem(await lab.code())).json()

    assert (await lab.refresh(fresh["refresh_token"])).status_code == 200


async def test_a_skewed_clock_shows_in_the_date_and_in_the_token(lab: Lab) -> None:
    lab.standin.inject("clock-skew")

    answer = await lab.redeem(await lab.code())

    date = parsedate_to_datetime(answer.headers["date"]).timestamp()
    token = answer.json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert date == claims["iat"] == lab.clock.now + 600
    lab.standin.mend("clock-skew")
    mended = (await lab.client.get("/jwks.json")).headers["date"]
    assert parsedate_to_datetime(mended).timestamp() == lab.clock.now


async def test_an_unavailable_server_says_when_to_come_back(lab: Lab, pair: TokenPair) -> None:
    lab.standin.inject("unavailable")
    answer = await lab.refresh(pair.refresh_token)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")

    lab.standin.mend("unavailable")

    assert (await lab.refresh(pair.refresh_token)).status_code == 200


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    standin = oauth_server(directory=tmp_path, issuer="http://127.0.0.1:1")
    with pytest.raises(KeyError):
        standin.inject("earthquake")
    with pytest.raises(KeyError):
        standin.mend("earthquake")


async def test_a_restart_keeps_key_secret_and_tokens(lab: Lab, pair: TokenPair) -> None:
    again = oauth_server(directory=lab.directory, issuer=lab.issuer, clock=lab.clock)

    assert again.authority.client == lab.standin.authority.client
    async with serve(again) as client:
        form = {"grant_type": "refresh_token", "refresh_token": pair.refresh_token}
        introspected = await client.post(
            "/introspect", data=lab.credentials | {"token": pair.access_token}
        )
        refreshed = await client.post("/token", data=lab.credentials | form)
    assert introspected.json()["active"]
    assert refreshed.status_code == 200
    header = jwt.get_unverified_header(pair.access_token)
    assert header["kid"] == jwt.get_unverified_header(refreshed.json()["access_token"])["kid"]


async def test_no_token_value_is_on_disk_outside_the_seed_of_the_key(
    lab: Lab, pair: TokenPair
) -> None:
    fresh = (await lab.refresh(pair.refresh_token)).json()
    code = await lab.code()
    await lab.redeem(code)
    await lab.refresh(pair.refresh_token)
    values = [pair.access_token, pair.refresh_token, fresh["access_token"], code]
    values.append(fresh["refresh_token"])

    for path in lab.directory.iterdir():
        content = path.read_bytes()
        assert not [value for value in values if value.encode() in content], path.name
    assert (lab.directory / "client-secret").stat().st_mode & 0o777 == 0o600
    assert (lab.directory / "signing-key.json").stat().st_mode & 0o777 == 0o600
