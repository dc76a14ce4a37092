"""Credentials that change while the server runs: plugins, token files, service accounts."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import anyio
import pytest

from mcp_ops import errors
from mcp_ops.adapters.kubernetes.plugin import Plugin, PluginProblem
from mcp_ops.clock import ManualClock, rfc3339
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from tests.adapters.kubernetes_access import (
    API,
    behind_tls,
    configured,
    credential,
    opened,
    runs,
    script,
    with_plugin,
)
from tests.kubernetes_lab import TOKEN, lab, served, wiring

OLD = "an-older-token-0123456789"


def plugin(folder: Path, body: str) -> Plugin:
    path = script(folder / "plugin", body)
    return Plugin(
        arguments=[str(path)], environ={"PATH": os.defpath}, version=API, cluster={"server": "x"}
    )


async def test_plugin_is_run_once_and_its_token_never_shown(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        script(tmp_path / "plugin", f"echo '{credential(token=TOKEN)}'")
        with_plugin(tmp_path, place.url, str(tmp_path / "plugin"))
        wired = wiring(tmp_path)
        async with opened(tmp_path, wired=wired) as platform:
            await platform.ping()
            await platform.ping()
        assert runs(tmp_path) == 1
        assert TOKEN not in wired.redactor.text(TOKEN)


async def test_plugin_is_run_again_shortly_before_its_credential_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    ends = rfc3339(clock.now() + 600)
    async with lab(tmp_path) as place:
        script(tmp_path / "plugin", f"echo '{credential(ends, token=TOKEN)}'")
        with_plugin(tmp_path, place.url, "./plugin")
        async with opened(tmp_path, clock) as platform:
            for seconds, expected in ((500, 1), (60, 1), (11, 2)):
                clock.advance(seconds)
                await platform.ping()
                assert runs(tmp_path) == expected


async def test_what_a_credential_was_refused_for_is_sent_again_with_the_next(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        body = f'[ "$(wc -l < "{tmp_path}/runs")" -gt 1 ] && t={TOKEN} || t={OLD}'
        printed = credential(token="'$t'")
        script(tmp_path / "plugin", f"{body}\necho '{printed}'")
        with_plugin(tmp_path, place.url, str(tmp_path / "plugin"))
        async with opened(tmp_path) as platform:
            plan = await place.platform.plan_restart("api")
            place.between.seen.clear()
            begun = await platform.begin(plan, reason="to see it once", call_id="c")
        assert begun.version == "2"
        assert len(place.patches()) == 1
        assert runs(tmp_path) == 2
        assert [method for method, _ in place.between.seen] == ["GET", "GET", "PATCH"]


async def test_plugin_that_fails_later_counts_once_the_credential_has_ended(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with lab(tmp_path) as place:
        made = credential(rfc3339(clock.now() + 100), token=TOKEN)
        script(tmp_path / "plugin", f"echo '{made}'")
        with_plugin(tmp_path, place.url, str(tmp_path / "plugin"))
        async with opened(tmp_path, clock) as platform:
            script(tmp_path / "plugin", f"echo 'log in again with {TOKEN}' >&2; exit 7")
            clock.advance(95)
            await platform.ping()
            await platform.ping()
            assert runs(tmp_path) == 2
            clock.advance(20)
            for _ in range(3):
                with pytest.raises(errors.Unauthenticated, match="exit code 7") as raised:
                    await platform.ping()
            assert raised.value.said.startswith("log in again")
            assert TOKEN not in raised.value.said
            assert runs(tmp_path) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo no json", "no JSON"),
        ("echo '{}'", "no ExecCredential"),
        (f"echo '{credential(token='x')}'".replace("/v1", "/v9"), "no ExecCredential"),
        (f"echo '{credential()}'", "neither a token nor"),
        (f"echo '{credential(clientCertificateData='x')}'", "neither a token nor"),
        (rf"printf %s '{credential(token='a~nHost: x')}' | tr '~' '\\\\'", "no header can carry"),
        (f"echo '{credential('soon', token='x')}'", "an expiry that is no time"),
        ("head -c 3000000 /dev/zero", "no JSON"),
        ("kill -9 $$", "exit code -9"),
    ],
)
async def test_what_a_plugin_does_wrong_is_told(tmp_path: Path, body: str, words: str) -> None:
    with anyio.fail_after(30), pytest.raises(PluginProblem) as raised:
        await plugin(tmp_path, body).run()
    assert words in raised.value.what
    assert raised.value.what.startswith("The credential plugin plugin ")


async def test_plugin_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with anyio.fail_after(30):
        with pytest.raises(PluginProblem, match=r"did not end within 0\.5 s"):
            await plugin(tmp_path, f'sleep 1000 & echo $! > "{child}"; wait').run(0.5)
        status = Path(f"/proc/{child.read_text(encoding='utf-8').strip()}/stat")
        while status.exists() and status.read_text(encoding="utf-8").split()[2] != "Z":
            await anyio.sleep(0.01)


async def test_plugin_gets_no_input_and_may_complain_at_length(tmp_path: Path) -> None:
    body = f"cat; head -c 2000000 /dev/zero >&2; echo '{credential(token=TOKEN)}'"
    with anyio.fail_after(30):
        assert (await plugin(tmp_path, body).run()).token == TOKEN


async def test_plugin_is_told_of_the_cluster_when_it_asks(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        told = tmp_path / "told"
        body = f'printf %s "$KUBERNETES_EXEC_INFO" > "{told}"'
        script(tmp_path / "plugin", f"{body}; echo '{credential(token=TOKEN)}'")
        more = ", provideClusterInfo: true, env: [{name: REGION, value: eu}]"
        (tmp_path / "ca.pem").write_text("an authority", encoding="utf-8")
        authority = "certificate-authority: ca.pem,"
        with_plugin(tmp_path, place.url, "./plugin", more, cluster=authority)
        async with opened(tmp_path) as platform:
            await platform.ping()
        info = told.read_text(encoding="utf-8")
        assert place.url in info
        assert '"interactive":false' in info
        assert b64encode(b"an authority").decode() in info


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (", interactiveMode: Always", "asks people"),
        (", args: [1]", "must be texts"),
        ("2", "must speak"),
    ],
)
async def test_plugin_that_cannot_run_here_is_a_configuration_error(
    tmp_path: Path, more: str, words: str
) -> None:
    with_plugin(tmp_path, "http://127.0.0.1:1", "nothing", more)
    with pytest.raises(errors.ConfigurationError, match=words):
        async with opened(tmp_path):
            pass


async def test_token_file_is_read_anew_every_minute_and_when_it_is_refused(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        token = tmp_path / "token"
        token.write_text(f"{TOKEN}\n", encoding="utf-8")
        configured(tmp_path, place.url, "{tokenFile: token, token: stale}")
        clock = ManualClock()
        async with opened(tmp_path, clock) as platform:
            await platform.ping()
            token.write_text(OLD, encoding="utf-8")
            clock.advance(59)
            await platform.ping()
            clock.advance(2)
            with pytest.raises(errors.Unauthenticated):
                await platform.ping()
            token.write_text(TOKEN, encoding="utf-8")
            await platform.ping()
            token.write_text("a\nb", encoding="utf-8")
            clock.advance(61)
            await platform.ping()  # what the file says is no token: the last one still is


async def test_service_account_is_used_and_its_rotating_token_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = kubernetes(directory=tmp_path, token=TOKEN).app
    async with served(app) as url, behind_tls(tmp_path, url, certificates=False) as front:
        account = tmp_path / "account"
        account.mkdir()
        for name, content in (("ca.crt", front.authority.pem), ("namespace", "shop\n")):
            (account / name).write_text(content, encoding="utf-8")
        (account / "token").write_text(TOKEN, encoding="utf-8")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", front.url.rpartition(":")[2])
        clock = ManualClock()
        async with opened(
            tmp_path, clock, in_cluster=True, service_account=str(account)
        ) as platform:
            assert (await platform.describe("api")).ready == 3
            (account / "token").write_text(OLD, encoding="utf-8")
            clock.advance(61)
            with pytest.raises(errors.Unauthenticated):
                await platform.ping()
            (account / "token").write_text(TOKEN, encoding="utf-8")
            await platform.ping()
            (account / "token").write_text("", encoding="utf-8")
            clock.advance(61)
            await platform.ping()


async def test_context_of_the_start_stays_whatever_becomes_current(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        token = tmp_path / "token"
        token.write_text(TOKEN, encoding="utf-8")
        path = configured(tmp_path, place.url, "{tokenFile: token}")
        good = path.read_text(encoding="utf-8")
        clock = ManualClock()
        async with opened(tmp_path, clock) as platform:
            path.write_text(
                good.replace("current-context: lab", "current-context: prod"), encoding="utf-8"
            )
            clock.advance(61)
            await platform.ping()
            token.write_text(OLD, encoding="utf-8")
            path.write_text(good.replace(place.url, "http://127.0.0.1:1"), encoding="utf-8")
            clock.advance(61)
            await platform.ping()  # the old credential, and the old server
            assert len(place.between.seen) == 2


async def test_server_of_the_kubeconfig_that_moved_is_told_when_it_matters(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        path = configured(tmp_path, place.url, f"{{token: {OLD}}}")
        async with opened(tmp_path) as platform:
            path.write_text(kubeconfig("http://127.0.0.1:1", TOKEN), encoding="utf-8")
            with pytest.raises(errors.Unauthenticated, match="another server") as raised:
                await platform.ping()
            assert "127.0.0.1" not in str(raised.value)


async def test_contexts_of_several_files_are_one_kubeconfig(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        other = tmp_path / "other"
        other.write_text(
            "apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts:\n"
            "- name: restricted\n"
            "  context: {cluster: lab, user: operator, namespace: restricted}\n",
            encoding="utf-8",
        )
        files = os.pathsep.join([str(tmp_path / "kubeconfig"), str(other), "/no/such/file"])
        async with opened(tmp_path, kubeconfig=files, context="restricted") as platform:
            with pytest.raises(errors.Forbidden):
                await platform.ping()
        async with opened(tmp_path, kubeconfig=files) as platform:
            await platform.ping()
        assert any("/namespaces/restricted/" in path for _, path in place.between.seen)
