"""The whole application against the lab's Salesforce org: quota, tokens, recovery, restart."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from mcp_ops.app import App, open_app
from mcp_ops.call import Caller
from mcp_ops.clock import ManualClock
from mcp_ops.errors import ConfigurationError
from mcp_ops.log import to_stderr
from mcp_ops.opening import adapter_class
from mcp_ops.ports import Mode
from mcp_ops.records import AuditQuery
from mcp_ops.redact import Redactor
from mcp_ops.settings import GuardSettings, KeySettings, ServerSettings, Settings, TargetSettings
from tests.guard.bench import AGENT, WHY
from tests.lab_org import CALLBACK, Lab, running_lab


def crm(lab: Lab, **more: Any) -> tuple[dict[str, str], tuple[TargetSettings, ...]]:
    client = lab.oauth.authority.client
    environ = {
        "SF_ACCESS_TOKEN": lab.pair.access_token,
        "SF_REFRESH_TOKEN": lab.pair.refresh_token,
        "SF_CLIENT_SECRET": client.client_secret,
    }
    options = {
        "instance_url": lab.org_url,
        "login_url": lab.org_url,
        "client_id": client.client_id,
        "client_secret": "env:SF_CLIENT_SECRET",
        "access_token": "env:SF_ACCESS_TOKEN",
        "refresh_token": "env:SF_REFRESH_TOKEN",
        "redirect_uri": CALLBACK,
        **more,
    }
    return environ, (
        TargetSettings(name="crm", kind="salesforce", links={"secrets": "vault"}, options=options),
        TargetSettings(name="vault", kind="file_secrets"),
    )


class Running:
    def __init__(self, app: App) -> None:
        self.app = app

    async def call(self, tool: str, caller: Caller = AGENT, **arguments: Any) -> dict[str, Any]:
        with anyio.fail_after(20):
            reply = await self.app.call(tool, arguments, caller)
        found: dict[str, Any] = orjson.loads(reply.text)
        return found["error"] if reply.is_error else found


@asynccontextmanager
async def opened(
    path: Path,
    targets: tuple[TargetSettings, ...] = (),
    environ: Mapping[str, str] | None = None,
    *,
    clock: ManualClock | None = None,
    redactor: Redactor | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    settings = Settings(state_dir=path, targets=targets, **more)
    async with open_app(settings, environ=environ or {}, clock=clock, redactor=redactor) as app:
        yield Running(app)


async def test_usage_restricts_the_org_and_recovery_still_passes(tmp_path: Path) -> None:
    async with running_lab(tmp_path / "lab") as lab:
        environ, targets = crm(lab)
        async with opened(tmp_path / "s", targets, environ, clock=lab.wired.clock) as it:
            calm = await it.call("check_api_usage")
            assert calm["guard"] == {"mode": "normal", "changed": False}
            lab.org.inject("quota")
            found = await it.call("check_api_usage")
            assert found["guard"]["changed"] is True
            assert found["guard"]["mode"] in ("restrictive", "critical")
            await it.app.control(AGENT).set_mode("all", Mode.CRITICAL, minutes=0, reason=WHY)
            checked = await it.call("check_oauth_token")
            assert "valid" in checked, checked  # a token check and its secret store pass
            refreshed = await it.call("refresh_oauth_token", reason=WHY)
            assert refreshed.get("outcome") == "verified", refreshed
            lab.org.mend("quota")
            await it.call("check_api_usage")
            modes = {e.scope: e.mode for e in await it.app.stores.hot.modes()}
            assert modes == {"*": Mode.CRITICAL}


async def test_two_refreshes_at_once_refresh_once_and_no_token_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redactor = Redactor()
    async with running_lab(tmp_path / "lab") as lab:
        environ, targets = crm(lab)
        left: list[str] = []
        async with opened(
            tmp_path / "s", targets, environ, clock=lab.wired.clock, redactor=redactor
        ) as it:
            to_stderr("DEBUG", redactor)
            try:
                async with anyio.create_task_group() as tasks:

                    async def refresh(key: str) -> None:
                        found = await it.call(
                            "refresh_oauth_token", reason=WHY, idempotency_key=key
                        )
                        left.append(str(found))

                    tasks.start_soon(refresh, "a")
                    tasks.start_soon(refresh, "b")
                left.append(str(await it.call("check_oauth_token")))
                left.append(str(await it.call("search_audit")))
                lines = await it.app.stores.ledger.search(AuditQuery(limit=1_000))
                left.append(str(lines))
            finally:
                logging.getLogger().handlers.clear()
        kept = b"".join(
            f.read_bytes() for f in (tmp_path / "s" / "secrets").rglob("*") if f.is_file()
        )
        fresh = [text for text in _texts(orjson.loads(kept)) if len(text) > 30]
        assert len(fresh) >= 2
        secret = [*environ.values(), *fresh]
        left.append(capsys.readouterr().err)
        left += [
            path.read_bytes().decode("utf-8", "replace")
            for path in (tmp_path / "s").glob("state.db*")
        ]
        for value in secret:
            assert value not in "\n".join(left)
        assert len(lab.effects("refreshed")) == 1


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in _texts(value)]
    if isinstance(node, list):
        return [text for value in node for text in _texts(value)]
    return [str(node)]


async def test_what_people_set_and_what_happened_survives_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        await it.call("set_guard_mode", mode="read_only", reason=WHY)
        key = (tmp_path / "sealing.key").read_bytes()
    async with opened(tmp_path) as it:
        status = await it.call("get_guard_status")
        assert status["modes"][0]["mode"] == "read_only"
        lines = [e.tool for e in await it.app.stores.ledger.search(AuditQuery())]
        assert "set_guard_mode" in lines
        assert (await it.app.stores.ledger.verify()).ok
        assert (tmp_path / "sealing.key").read_bytes() == key


async def test_a_sealing_key_that_is_no_key_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sealing.key").write_bytes(b"too short")
    async with opened(tmp_path):
        assert len((tmp_path / "sealing.key").read_bytes()) == 32
    assert not list(tmp_path.glob("*.tmp"))


async def test_the_configurations_floor_is_in_force_from_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path, guard=GuardSettings(mode=Mode.READ_ONLY)) as it:
        (entry,) = (await it.call("get_guard_status"))["modes"]
        assert (entry["mode"], entry["source"]) == ("read_only", "environment")
        assert [c.name for c in await it.app.check_targets()] == []


async def test_the_keys_of_clients_are_secrets(tmp_path: Path) -> None:
    redactor = Redactor()
    key = KeySettings.model_validate({"name": "a", "key": "a-key-of-a-client-012345"})
    async with opened(tmp_path, redactor=redactor, server=ServerSettings(keys=(key,))):
        assert redactor.text("a-key-of-a-client-012345") == "[redacted]"


async def test_an_unknown_kind_and_a_wrong_option_do_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no kind of target"):
        adapter_class("mainframe")
    wrong = (TargetSettings(name="a", kind="http", options={"nonsense": 1}),)
    with pytest.raises(ConfigurationError, match="nonsense"):
        async with opened(tmp_path, wrong):
            raise AssertionError("never")
