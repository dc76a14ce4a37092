"""`mcp-ops doctor` on a target whose credential may not do what its tools need."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.adapters.kubernetes.permissions import NEEDS
from mcp_ops.commands.doctor import examine
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.kubernetes.roles import READER
from tests.kubernetes_lab import Between, answering, served

TOKEN = "a-token-that-reads-0123456"


async def test_doctor_says_which_rights_the_tools_of_a_target_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_OPS_STATE_DIR", str(tmp_path / "state"))
    front = Between(kubernetes(directory=tmp_path, roles={TOKEN: READER}).app)
    async with served(front) as url:
        (tmp_path / "kube").write_text(kubeconfig(url, TOKEN), encoding="utf-8")
        config = tmp_path / "config.toml"
        config.write_text(
            '[tools]\nprofile = "full"\nexclude = ["stop_*"]\n'
            f'[targets.shop]\nkind = "kubernetes"\nkubeconfig = "{tmp_path / "kube"}"\n',
            encoding="utf-8",
        )
        told = [one for one in await examine(config) if one.check == "target shop"]
        assert told[0].message.startswith("kubernetes answered")
        missing = {one.message.split()[0]: one for one in told if one.state == "warn"}
        writes = {tool for tool in NEEDS if not tool.startswith(("get_", "list_", "stop_"))}
        assert missing.keys() == writes
        assert missing["suspend_job"].message == "suspend_job needs patch on cronjobs."
        assert "rbac-write.yaml" in missing["suspend_job"].advice
        front.inject("GET", "/deployments", answering(500, b""))
        front.inject("POST", "/apis/authorization", *[answering(503, b"")] * 9)
        told = [one for one in await examine(config) if one.check == "target shop"]
        assert [one.state for one in told] == ["fail"]
