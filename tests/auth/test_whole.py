"""The whole application as it is served: credentials of callers go to no target, nowhere else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.app import open_app
from mcp_ops.app_http import serve_app
from mcp_ops.clock import SystemClock
from mcp_ops.errors import ConfigurationError
from mcp_ops.log import to_stderr
from mcp_ops.redact import Redactor
from mcp_ops.settings import KeySettings, ServerSettings, Settings, TargetSettings
from tests.auth.issuer import URL, OidcIssuer, open_issuer
from tests.auth.standing import ACCEPT, ALICE, META, VERSION, oidc
from tests.served import serve

OWN = "the-targets-own-token-0123456789"


@dataclass
class Heard:
    """A target that keeps everything that it is sent, as bytes."""

    all: list[bytes] = field(default_factory=list)

    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            head = b"\n".join(b": ".join(pair) for pair in request.headers.raw)
            self.all.append(str(request.url).encode() + b"\n" + head + b"\n" + await request.body())
            usage = {"DailyApiRequests": {"Max": 100, "Remaining": 90}}
            return JSONResponse(usage if request.url.path.endswith("/limits") else {})

        return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])


@asynccontextmanager
async def served(
    path: Path, issuer: OidcIssuer, target: str, redactor: Redactor, **server: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """`mcp-ops serve` in this process."""
    settings = Settings(
        state_dir=path,
        server=ServerSettings.model_validate(
            {"port": 0, "transport": "http", "url": URL, "issuers": [oidc(issuer)], **server}
        ),
        targets=(
            TargetSettings(
                name="crm",
                kind="salesforce",
                options={"instance_url": target, "access_token": "env:OWN"},
            ),
            TargetSettings(name="shop", kind="http", options={"url": target}),
        ),
    )
    stop, ready, urls = anyio.Event(), anyio.Event(), list[str]()

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    with anyio.fail_after(30):
        async with (
            open_app(settings, environ={"OWN": OWN}, redactor=redactor) as app,
            anyio.create_task_group() as tasks,
        ):

            async def run() -> None:
                await serve_app(app, redactor, stop, on_ready=tell)

            tasks.start_soon(run)
            await ready.wait()
            async with httpx2.AsyncClient(base_url=urls[0], timeout=20) as http:
                yield http
            stop.set()


async def call(http: httpx2.AsyncClient, token: str, tool: str, **arguments: Any) -> Any:
    head = {
        **ACCEPT,
        "authorization": f"Bearer {token}",
        "cookie": f"sid={token[-20:]}",
        "mcp-protocol-version": VERSION,
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    params = {"name": tool, "arguments": arguments, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await http.post("/mcp", headers=head, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def test_no_credential_of_a_caller_is_forwarded_kept_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard, redactor = Heard(), Redactor()
    before = logging.getLogger().handlers[:]
    to_stderr("DEBUG", redactor)
    keys = (KeySettings(name="alice", key=SecretStr(ALICE)),)
    try:
        async with (
            open_issuer(SystemClock()) as issuer,
            serve(heard.app()) as target,
            served(tmp_path / "state", issuer, target, redactor, keys=keys) as http,
        ):
            token = issuer.token()
            for credential in (ALICE, token):
                used = await call(http, credential, "check_api_usage", target="crm")
                assert used["structuredContent"]["target"] == "crm"
                health = await call(http, credential, "get_health")
                assert len(health["structuredContent"]["components"]) == 2
                await call(http, credential, "check_oauth_token", target="crm")
            refused = await http.get("/mcp", headers={"authorization": f"Bearer {token}x"})
            assert refused.status_code == 401
    finally:
        logging.getLogger().handlers[:] = before
    sent = b"\n".join(heard.all)
    assert OWN.encode() in sent
    assert len(heard.all) >= 4
    kept = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
    logged = capfd.readouterr().err.encode()
    assert b"key:alice" in kept
    for secret in (ALICE, token, token.rpartition(".")[2], token[-20:]):
        for place in (sent, kept, logged):
            assert secret.encode() not in place


async def test_off_loopback_without_any_authentication_it_does_not_start(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path, server=ServerSettings(transport="http", host="0.0.0.0", port=0)
    )
    async with open_app(settings, environ={}) as app:
        with pytest.raises(ConfigurationError, match="no key"):
            await serve_app(app, Redactor(), anyio.Event(), on_ready=lambda url: None)
