"""Settings on who gets in: what is refused at the start, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from mcp_ops.auth.door import Door, configured_door
from mcp_ops.auth.principal import Admitted, HttpPrincipal
from mcp_ops.auth.step_up import StepUp
from mcp_ops.cli import main
from mcp_ops.commands.exits import Exit
from mcp_ops.errors import ConfigurationError
from mcp_ops.reach import Reach
from mcp_ops.settings import ServerSettings, Settings
from mcp_ops.settings_access import IssuerSettings
from mcp_ops.settings_file import load_settings
from tests.auth.issuer import APPLICATION, TENANT
from tests.auth.standing import ALICE, key, standing

OIDC = {"name": "sso", "issuer": "https://sso.example.com"}
ENTRA = {"name": "entra", "kind": "entra", "tenant": TENANT, "audiences": [APPLICATION]}
MUTUAL_TLS = (
    '[server.mutual_tls]\nheader = "X-Cert"\nproxies = ["10.0.0.1"]\n'
    f'certificates = [{{ name = "a", fingerprint = "{"ab" * 32}" }}]\n'
)
URL = {"url": "https://ops.example.com"}


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ or {}, {})


def wrong(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        loaded(tmp_path, text)
    return error.value.message


def test_an_issuer_of_entra_id_is_that_of_its_tenant() -> None:
    issuer = IssuerSettings.model_validate({**ENTRA, "tenant": TENANT.upper()})
    assert issuer.iss == f"https://login.microsoftonline.com/{TENANT}/v2.0"
    sovereign = IssuerSettings.model_validate(
        {**ENTRA, "issuer": f"https://login.microsoftonline.us/{TENANT}/v2.0"}
    )
    assert sovereign.iss.startswith("https://login.microsoftonline.us/")


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""},
        {"issuer": "http://sso.example.com"},
        {"issuer": "https://user:password@sso.example.com"},
        {"issuer": "https://sso.example.com?x=1"},
        {"issuer": "https://sso.example.com:port"},
        {"jwks_url": "http://keys.example.com/"},
        {"jwks_url": "file:///etc/passwd"},
        {"tenant": TENANT},
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"algorithms": ["HS256"]},
        {"scopes": {"x": ["ops:everything"]}},
        {"leeway_s": 3_600},
        {"name": "Sso"},
        {**ENTRA, "tenant": "common"},
        {**ENTRA, "tenant": ""},
        {**ENTRA, "audiences": []},
        {**ENTRA, "subject_claim": "email"},
    ],
)
def test_an_issuer_that_would_let_in_more_than_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IssuerSettings.model_validate({**OIDC, **changes})


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"issuers": [OIDC]}, "a server.url"),
        ({**URL, "issuers": [OIDC, {**OIDC, "name": "again"}]}, "for each issuer"),
        ({"url": "https://ops.example.com/mcp"}, "without a path"),
        ({"url": "http://ops.example.com"}, "https://"),
    ],
)
def test_addresses_have_to_be_right(server: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ServerSettings.model_validate(server)


def test_off_loopback_each_way_in_is_enough_and_none_is_not(tmp_path: Path) -> None:
    start = '[server]\ntransport = "http"\nhost = "0.0.0.0"\nurl = "https://ops.example.com"\n'
    assert "no key" in wrong(tmp_path, start)
    for enough in (
        "require_key = true\n",
        '[[server.issuers]]\nname = "sso"\nissuer = "https://sso.example.com"\n',
        MUTUAL_TLS,
    ):
        assert configured_door(loaded(tmp_path, start + enough).server).closed


def test_names_are_told_twice_with_their_place(tmp_path: Path) -> None:
    twice = (
        '[server]\nurl = "https://ops.example.com"\n'
        '[[server.issuers]]\nname = "a"\nissuer = "https://a.example.com"\n'
        '[[server.issuers]]\nname = "a"\nissuer = "https://b.example.com"\n'
    )
    assert 'server.issuers: two issuers are called "a"' in wrong(tmp_path, twice)


def test_a_grant_that_matches_no_target_is_a_notice(tmp_path: Path) -> None:
    text = '[[server.grants]]\nprincipal = "*"\nscopes = ["ops:read"]\ntargets = ["shpo"]\n'
    notices = loaded(tmp_path, text).notices
    assert notices == ("server.grants #1 matches none of the configured targets.",)


def test_the_address_can_come_from_the_environment(tmp_path: Path) -> None:
    found = loaded(tmp_path, "", {"MCP_OPS_URL": "https://ops.example.com/"})
    assert found.server.url == "https://ops.example.com/"


def test_the_policy_is_explained_with_the_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'state_dir = "{(tmp_path / "state").as_posix()}"\n'
        '[[server.grants]]\nprincipal = "key:env"\nscopes = ["ops:read"]\n'
        '[targets.shop]\nkind = "http"\nurl = "http://127.0.0.1:1"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("MCP_OPS_KEY", ALICE)
    call = ["policy", "explain", "isolate_target", "target=shop", "reason=why", "as", "key:env"]
    code = main([*call, "--channel", "http", "--config", str(file), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["outcome"]) == (Exit.OK, "denied")


async def test_a_stream_of_everybody_ends_when_the_first_key_is_made(tmp_path: Path) -> None:
    async with standing(tmp_path) as s, s.http.stream("GET", "/sse") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        await s.book.create("first", scopes=("ops:read",), expires_at=None, by="operator:ada")
        await s.ring.refresh()
        with anyio.fail_after(20):
            async for _ in lines:
                pass


async def test_everybody_on_loopback_is_narrowed_by_grants_too(tmp_path: Path) -> None:
    grants = [{"principal": "anonymous@loopback", "scopes": ["ops:read"]}]
    async with standing(tmp_path, grants=grants) as s:
        assert "put_item" not in await s.tools()
        # What is sent as a credential where none is needed is not looked at.
        assert "put_item" not in await s.tools("anything")


async def test_a_door_without_issuers_lets_keys_in() -> None:
    door: Door = configured_door(ServerSettings(keys=(key("alice", ALICE),)))
    found = await door.admit({b"authorization": f"Bearer {ALICE}".encode()}, "")
    assert isinstance(found, Admitted)
    assert door.holds(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"tools/call"',
        b'{"method": "tools/call"}',
        b'{"method": "tools/list", "x": "tools/call"}',
        b'[{"method": "tools/call"}]',
        b'{"method": "tools/call", "params": {"name": ["put"]}}',
        b'{"method": "tools/call", "params": {"name": "put", "arguments": 7}}',
        b'{"method": "tools/call", "params": {"name": "unknown"}}',
        b'{"method": "tools/call", "params": {"name": "put", "arguments": {"dry_run": true}}}',
    ],
)
def test_what_is_no_call_for_a_further_scope_is_left_to_the_guard(body: bytes) -> None:
    heard: list[str] = []
    step_up = StepUp(
        {"put": "ops:write", "look": "ops:read"}, lambda _, tool, scope: heard.append(tool)
    )
    reader = HttpPrincipal(id="user:sso/a", scopes=("ops:read",))
    call = b'{"method": "tools/call", "params": {"name": "put"}}'
    assert step_up(reader, body) is None
    assert step_up(HttpPrincipal(id="a", scopes=("ops:read", "ops:write")), call) is None
    # A grant gives no more than it says, whatever scopes a token would have.
    near = (Reach(scopes=frozenset({"ops:read"})),)
    assert step_up(HttpPrincipal(id="a", scopes=("ops:read",), reach=near), call) is None
    assert heard == []
    assert step_up(reader, call) is not None
    assert heard == ["put"]
