"""A real client that knows nothing but the server's address: from 401 to a call, and for more."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from mcp_ops.clock import ManualClock
from mcp_ops.lab.oauth.server import oauth_server
from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings
from tests.auth.standing import standing
from tests.guard.bench import OPEN_LIMITS, WHY
from tests.served import loopback, serve

SOLO = GuardSettings(profile="solo", limits=OPEN_LIMITS)
CALLBACK = "http://127.0.0.1:8765/callback"


class Person:
    """Who sits at the client: consents in a browser, and keeps what the client stores."""

    def __init__(self, client: OAuthClientInformationFull) -> None:
        self._client = client
        self._tokens: OAuthToken | None = None
        self._sent = ""
        self.asked_for: list[str] = []

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info

    async def browse(self, url: str) -> None:
        self.asked_for.append(parse_qs(urlsplit(url).query)["scope"][0])
        async with httpx2.AsyncClient() as browser:
            answer = await browser.get(f"{url}&login=alice")
        self._sent = answer.headers["location"]

    async def come_back(self) -> AuthorizationCodeResult:
        query = parse_qs(urlsplit(self._sent).query)
        return AuthorizationCodeResult(code=query["code"][0], state=query["state"][0])


async def test_the_official_client_finds_its_way_in_and_asks_for_more(tmp_path: Path) -> None:
    clock, at = ManualClock(), loopback()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    lab = oauth_server(
        directory=tmp_path / "lab",
        issuer=at[1],
        clock=clock.now,
        audience=f"{url}/mcp",
        scope="ops:read ops:write",
    )
    known = lab.authority.client
    person = Person(
        OAuthClientInformationFull(
            client_id=known.client_id,
            client_secret=known.client_secret,
            token_endpoint_auth_method="client_secret_post",
            redirect_uris=[AnyUrl(CALLBACK)],
            issuer=at[1],
        )
    )
    issuers = [{"name": "lab", "issuer": at[1], "host_confirms": True}]
    async with (
        serve(lab.app, at),
        standing(
            tmp_path / "state", clock=clock, guard=SOLO, url=url, port=port, issuers=issuers
        ) as s,
    ):
        auth = OAuthClientProvider(
            f"{url}/mcp",
            OAuthClientMetadata(redirect_uris=[AnyUrl(CALLBACK)]),
            person,
            redirect_handler=person.browse,
            callback_handler=person.come_back,
        )
        async with (
            httpx2.AsyncClient(auth=auth, timeout=20) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "look_at_item" in names
            assert "put_item" not in names
            assert person.asked_for == ["ops:read"]
            done = await client.call_tool("put_item", {"name": "x", "reason": WHY})
            assert not done.is_error
            assert person.asked_for == ["ops:read", "ops:read ops:write"]
            assert "put_item" in {tool.name for tool in (await client.list_tools()).tools}
        (line,) = await s.b.stores.ledger.search(AuditQuery(tool="put_item", verdict="ok"))
    assert line.principal == "user:lab/alice"
    assert s.b.world.effects == ["put x"]
