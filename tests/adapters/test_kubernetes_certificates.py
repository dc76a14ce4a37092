"""Client certificates: from files that are renewed, and from plugins."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_ops import errors
from mcp_ops.clock import ManualClock, rfc3339
from mcp_ops.lab.kubernetes.api import kubernetes
from tests.adapters.kubernetes_access import (
    Front,
    behind_tls,
    configured,
    credential,
    opened,
    runs,
    script,
    with_plugin,
)
from tests.kubernetes_lab import served

CA = "certificate-authority: ca.pem,"


def put(folder: Path, front: Front, name: str) -> None:
    certificate, key = front.authority.issue(name)
    (folder / "client.pem").write_text(certificate, encoding="utf-8")
    (folder / "client.key").write_text(key, encoding="utf-8")
    (folder / "ca.pem").write_text(front.authority.pem, encoding="utf-8")


async def test_renewed_certificate_opens_a_new_connection(tmp_path: Path) -> None:
    app = kubernetes(directory=tmp_path).app
    clock = ManualClock()
    async with served(app) as url, behind_tls(tmp_path, url, certificates=True) as front:
        put(tmp_path, front, "first")
        user = "{client-certificate: client.pem, client-key: client.key}"
        configured(tmp_path, front.url, user, cluster=CA)
        with anyio.fail_after(30):
            async with opened(tmp_path, clock) as platform:
                await platform.ping()
                await platform.ping()
                put(tmp_path, front, "second")
                clock.advance(61)
                await platform.ping()
                (tmp_path / "client.pem").write_text("half a certif", encoding="utf-8")
                clock.advance(61)
                await platform.ping()
        assert front.shown == ["first", "second"]


async def test_certificate_of_a_plugin_is_used_and_renewed(tmp_path: Path) -> None:
    app = kubernetes(directory=tmp_path).app
    clock = ManualClock()
    async with served(app) as url, behind_tls(tmp_path, url, certificates=True) as front:

        def plug(name: str) -> None:
            certificate, key = (pem.replace("\n", r"\n") for pem in front.authority.issue(name))
            printed = credential(
                rfc3339(clock.now() + 100), clientCertificateData=certificate, clientKeyData=key
            )
            (tmp_path / "printed").write_text(printed, encoding="utf-8")

        plug("first")
        (tmp_path / "ca.pem").write_text(front.authority.pem, encoding="utf-8")
        script(tmp_path / "plugin", f'cat "{tmp_path}/printed"')
        with_plugin(tmp_path, front.url, "./plugin", cluster=CA)
        with anyio.fail_after(30):
            async with opened(tmp_path, clock) as platform:
                await platform.ping()
                plug("second")
                clock.advance(95)
                await platform.ping()
        assert front.shown == ["first", "second"]
        assert runs(tmp_path) == 2


async def test_certificate_of_a_plugin_that_is_none_is_a_configuration_error(
    tmp_path: Path,
) -> None:
    printed = credential(clientCertificateData="x", clientKeyData="y")
    script(tmp_path / "plugin", f"echo '{printed}'")
    with_plugin(tmp_path, "http://127.0.0.1:1", "./plugin")
    with pytest.raises(errors.ConfigurationError, match="certificates"):
        async with opened(tmp_path):
            pass
