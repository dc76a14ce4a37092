"""The lab's authorization server and Salesforce org, running, with adapters on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mcp_ops.adapters.file_secrets import FileSecretsAdapter
from mcp_ops.adapters.oauth import OAuthAdapter
from mcp_ops.adapters.salesforce import SalesforceAdapter
from mcp_ops.capabilities.tokens import SecretStore
from mcp_ops.lab.oauth.server import OAuthStandIn, TokenPair, oauth_server
from mcp_ops.lab.salesforce import salesforce
from mcp_ops.lab.standin import StandIn
from tests.served import Link, Wired, loopback, serve

SUBJECT = "integration@lab.example"
CALLBACK = "http://127.0.0.1:8765/callback"


@dataclass(kw_only=True)
class Lab:
    """Two stand-ins on sockets, a first pair of tokens, and one secret store."""

    oauth: OAuthStandIn
    issuer: str
    org: StandIn
    org_url: str
    pair: TokenPair
    wired: Wired
    store: FileSecretsAdapter

    @property
    def link(self) -> Link[SecretStore]:
        return Link(name="vault", adapter=self.store)

    def effects(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.oauth.log.read() if line["effect"] == name]

    def _client(self) -> dict[str, Any]:
        client = self.oauth.authority.client
        return {
            "client_id": client.client_id,
            "client_secret": SecretStr(client.client_secret),
            "access_token": SecretStr(self.pair.access_token),
            "refresh_token": SecretStr(self.pair.refresh_token),
            "redirect_uri": CALLBACK,
        }

    @asynccontextmanager
    async def crm(self, **more: Any) -> AsyncIterator[SalesforceAdapter]:
        settings = SalesforceAdapter.Settings(
            **{"instance_url": self.org_url, "login_url": self.org_url, **self._client(), **more}
        )
        wiring = self.wired.wiring("crm", secrets=self.store)
        async with SalesforceAdapter.open(settings, wiring) as adapter:
            yield adapter

    @asynccontextmanager
    async def idp(self, **more: Any) -> AsyncIterator[OAuthAdapter]:
        settings = OAuthAdapter.Settings(**{"issuer": self.issuer, **self._client(), **more})
        wiring = self.wired.wiring("idp", secrets=self.store)
        async with OAuthAdapter.open(settings, wiring) as adapter:
            yield adapter


@asynccontextmanager
async def running_lab(directory: Path, *, rotate: bool = True) -> AsyncIterator[Lab]:
    """Start everything; the clock of all parts is `lab.wired.clock`."""
    wired = Wired(directory=directory)
    at, at_org = loopback(), loopback()
    oauth = oauth_server(directory=directory, issuer=at[1], clock=wired.clock.now)
    org = salesforce(
        directory=directory,
        check_token=oauth.authority.check,
        oauth=oauth.authority,
        clock=wired.clock.now,
        rotate_refresh_tokens=rotate,
    )
    async with (
        serve(oauth.app, at) as issuer,
        serve(org.app, at_org) as org_url,
        FileSecretsAdapter.open(FileSecretsAdapter.Settings(), wired.wiring("vault")) as store,
    ):
        yield Lab(
            oauth=oauth,
            issuer=issuer,
            org=org,
            org_url=org_url,
            pair=oauth.authority.issue(SUBJECT),
            wired=wired,
            store=store,
        )
