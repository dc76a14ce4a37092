"""What goes wrong with the API server becomes one of our errors that says what may have run."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from anyio.abc import SocketStream
from kubernetes.aio.client.exceptions import OpenApiException
from kubernetes.aio.config.config_exception import ConfigException

from mcp_ops import errors
from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.failures import Ask, refusal, translated
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from tests.kubernetes_lab import TOKEN, answering, broken, lab, served, silent, wiring
from tests.served import serve_raw

READ = Ask(verb="get", resource="pods")
WRITE = Ask(verb="patch", resource="deployments.apps")
REHEARSAL = Ask(verb="patch", resource="deployments.apps", dry=True)
STATUS = b'{"kind":"Status","message":"because","details":{"retryAfterSeconds":7}}'
LIST = "/namespaces/shop/deployments"


def below(root: type[BaseException]) -> Iterator[type[BaseException]]:
    yield root
    for cls in root.__subclasses__():
        yield from below(cls)


ROOTS = (
    client_exceptions.ClientError,
    http_exceptions.HttpProcessingError,
    OpenApiException,
    ConfigException,
    ssl.SSLError,
    TimeoutError,
    ConnectionError,
)
NOTHING_SENT = {
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
}


def every_exception() -> list[type[BaseException]]:
    """The libraries' own; subclasses that other packages made are not theirs."""
    ours = ("aiohttp", "kubernetes", "ssl", "builtins")
    found = {cls for root in ROOTS for cls in below(root)}
    return sorted(
        (cls for cls in found if cls.__module__.split(".")[0] in ours), key=lambda cls: str(cls)
    )


@pytest.mark.parametrize("cls", every_exception(), ids=lambda cls: cls.__qualname__)
def test_every_exception_of_the_client_libraries_is_translated(cls: type[BaseException]) -> None:
    secret = "https://10.0.0.7:6443/?token=tops3cret"
    exception = cls.__new__(cls)
    exception.args = (secret,)
    with pytest.raises(errors.Upstream) as raised, translated(WRITE):
        raise exception
    assert raised.value.__cause__ is exception
    assert secret not in f"{raised.value} {raised.value.hint} {raised.value.said}"
    if cls in NOTHING_SENT:
        assert raised.value.executed == "no"


def test_lost_connection_leaves_a_write_open_and_a_read_not() -> None:
    for ask, executed in ((WRITE, "unknown"), (READ, "no"), (REHEARSAL, "no")):
        with pytest.raises(errors.ConnectionLost) as raised, translated(ask):
            raise aiohttp.ServerDisconnectedError
        assert raised.value.executed == executed


def test_errors_of_our_own_pass_unchanged() -> None:
    with pytest.raises(KeyError), translated(READ):
        raise KeyError("ours")


@pytest.mark.parametrize(
    ("status", "kind", "executed"),
    [
        (302, errors.BadAnswer, "unknown"),
        (400, errors.Rejected, "no"),
        (401, errors.Unauthenticated, "no"),
        (403, errors.Forbidden, "no"),
        (404, errors.NotFound, "no"),
        (405, errors.Rejected, "no"),
        (409, errors.Conflict, "no"),
        (410, errors.Conflict, "no"),
        (418, errors.Rejected, "no"),
        (422, errors.Rejected, "no"),
        (429, errors.UpstreamRateLimited, "no"),
        (500, errors.UpstreamBroken, "unknown"),
        (502, errors.UpstreamBroken, "unknown"),
        (503, errors.UpstreamUnavailable, "no"),
        (504, errors.UpstreamTimeout, "unknown"),
        (599, errors.UpstreamBroken, "unknown"),
    ],
)
def test_statuses_become_errors(status: int, kind: type[errors.Upstream], executed: str) -> None:
    error = refusal(status, {}, STATUS, ask=WRITE, now=0)
    assert type(error) is kind
    assert error.executed == executed
    assert error.said == "because"
    assert "because" not in error.message + error.hint
    assert refusal(status, {}, STATUS, ask=READ, now=0).executed == "no"


def test_text_of_a_server_is_tamed_and_cut() -> None:
    body = b'{"kind":"Status","message":"\\u001b[31m' + b"x" * 9_000 + b'"}'
    said = refusal(500, {}, body, ask=READ, now=0).said
    assert said.startswith("xxx")
    assert len(said) < 600
    assert refusal(500, {}, b"<html>", ask=READ, now=0).said == ""
    assert refusal(500, {}, b'["Status"]', ask=READ, now=0).said == ""


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("3", 3.0),
        ("0", None),
        ("-5", None),
        ("999999999999", 300.0),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", None),
        ("", 7.0),
    ],
)
def test_retry_after_is_honoured_and_capped(header: str, wait: float | None) -> None:
    error = refusal(429, {"Retry-After": header}, STATUS, ask=READ, now=40)
    assert error.retry_after_s == wait


async def test_throttling_and_wrong_credentials_are_answers(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("throttle")
        with pytest.raises(errors.UpstreamRateLimited) as raised:
            await place.platform.ping()
        assert raised.value.retry_after_s == 1
        place.stand_in.mend("throttle")
        await place.platform.ping()
        place.between.inject("GET", LIST, answering(401, {"kind": "Status", "message": "no"}))
        with pytest.raises(errors.Unauthenticated) as refused:
            await place.platform.ping()
        assert "kubeconfig" in refused.value.hint
        await place.platform.ping()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"not json", {}),
        (b"[1]", {}),
        (b'{"kind":"DeploymentList","items":{}}', {}),
        (b'{"kind":"Pod","items":[]}', {}),
        (b"[" * 100_000, {}),
        (b"{}", {"Content-Encoding": "gzip"}),
        (b'{"kind":"DeploymentList","items":"' + b"x" * (17 * 1024 * 1024) + b'"}', {}),
    ],
    ids=["text", "list", "no-items", "no-list", "deep", "compressed", "huge"],
)
async def test_garbage_is_a_bad_answer(
    tmp_path: Path, body: bytes, headers: dict[str, str]
) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", LIST, answering(200, body, headers))
        with pytest.raises(errors.BadAnswer):
            await place.platform.ping()


@pytest.mark.parametrize("body", [{"kind": "Deployment"}, {"metadata": {"name": "api"}}, []])
async def test_object_without_name_or_spec_is_a_bad_answer(tmp_path: Path, body: Any) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", f"{LIST}/api", answering(200, body))
        with pytest.raises(errors.BadAnswer):
            await place.platform.describe("api")


async def test_pod_with_an_impossible_name_is_not_asked_for(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        pod = {
            "metadata": {"name": "../../secrets/x", "ownerReferences": []},
            "spec": {"containers": [{"name": "c"}]},
        }
        owner = await place.raw("/apis/apps/v1/namespaces/shop/statefulsets/postgres")
        pod["metadata"]["ownerReferences"] = [  # type: ignore[index]
            {"controller": True, "uid": owner["metadata"]["uid"]}
        ]
        place.between.inject("GET", "/pods", answering(200, {"kind": "PodList", "items": [pod]}))
        with pytest.raises(errors.BadAnswer):
            await place.platform.logs(
                "statefulset/postgres",
                since_minutes=1,
                tail=1,
                grep="",
                level="",
                previous=False,
            )


async def test_redirect_to_somewhere_else_is_a_bad_answer(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        away = answering(307, b"", {"Location": f"{place.url}/apis/apps/v1{LIST}"})
        place.between.inject("GET", LIST, away)
        with pytest.raises(errors.BadAnswer):
            await place.platform.ping()


async def test_no_request_goes_where_a_redirect_leads(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def elsewhere(stream: SocketStream) -> None:
        asked.append(b"somebody came")
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with serve_raw(elsewhere) as other, lab(tmp_path) as place:
        plan = await place.platform.plan_restart("api")
        for method, path in (("GET", LIST), ("PATCH", f"{LIST}/api")):
            place.between.inject(method, path, answering(307, b"", {"Location": f"{other}/x"}))
        with pytest.raises(errors.BadAnswer):
            await place.platform.ping()
        with pytest.raises(errors.BadAnswer):
            await place.platform.begin(plan, reason="now", call_id="c")
    assert asked == []


async def test_slow_and_broken_answers_are_failures(tmp_path: Path) -> None:
    async with lab(tmp_path, request_timeout_s=0.2) as place:
        place.between.inject("GET", LIST, silent, broken)
        with pytest.raises(errors.UpstreamTimeout):
            await place.platform.ping()
        with pytest.raises(errors.ConnectionLost):
            await place.platform.ping()
        await place.platform.ping()


async def test_server_that_is_not_there_was_not_reached(tmp_path: Path) -> None:
    async with served(kubernetes(directory=tmp_path).app) as url:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(url, TOKEN), encoding="utf-8")
    async with KubernetesAdapter.open(
        KubernetesSettings(kubeconfig=str(path)), wiring(tmp_path)
    ) as platform:
        with pytest.raises(errors.Unreachable) as raised:
            await platform.ping()
        assert "127.0.0.1" not in str(raised.value)
        with pytest.raises(errors.Unreachable):
            await platform.plan_restart("api")


async def test_server_that_speaks_no_tls_was_not_reached(tmp_path: Path) -> None:
    async with served(kubernetes(directory=tmp_path).app) as url:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(url.replace("http:", "https:"), TOKEN), encoding="utf-8")
        async with KubernetesAdapter.open(
            KubernetesSettings(kubeconfig=str(path)), wiring(tmp_path)
        ) as platform:
            with pytest.raises(errors.Unreachable):
                await platform.ping()


BASE = kubeconfig("http://127.0.0.1:1", "secret-token-123456")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "a: [",
        "current-context: nope",
        BASE.replace("current-context: lab", "current-context: other"),
        BASE.replace("{token", "{auth-provider: {name: oidc, config: {}}, token"),
        BASE.replace("{token", "{exec: {command: /no/such/plugin, apiVersion: v1}, x"),
        BASE.replace("server:", "certificate-authority: /no/such/ca, server:").replace(
            "http:", "https:"
        ),
    ],
)
async def test_unusable_kubeconfig_is_a_configuration_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(errors.ConfigurationError) as raised:
        async with KubernetesAdapter.open(
            KubernetesSettings(kubeconfig=str(path)), wiring(tmp_path)
        ):
            pass
    assert "secret-token" not in f"{raised.value} {raised.value.hint}"


async def test_missing_kubeconfig_and_no_pod_are_configuration_errors(tmp_path: Path) -> None:
    for settings in (
        KubernetesSettings(kubeconfig=str(tmp_path / "none")),
        KubernetesSettings(in_cluster=True),
    ):
        with pytest.raises(errors.ConfigurationError):
            async with KubernetesAdapter.open(settings, wiring(tmp_path)):
                pass


async def test_certificate_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate", encoding="utf-8")
    path = tmp_path / "kubeconfig"
    path.write_text(
        BASE.replace("http:", "https:").replace(
            "server:", f"certificate-authority: {tmp_path / 'ca'}, server:"
        ),
        encoding="utf-8",
    )
    with pytest.raises(errors.ConfigurationError, match="certificates in the kubeconfig"):
        async with KubernetesAdapter.open(
            KubernetesSettings(kubeconfig=str(path)), wiring(tmp_path)
        ):
            pass


async def test_credential_that_was_refused_is_read_anew(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        path = tmp_path / "kubeconfig"
        good = path.read_text(encoding="utf-8")
        path.write_text(good.replace(TOKEN, "an-older-token-0123"), encoding="utf-8")
        place.between.inject("GET", LIST, answering(401, {"kind": "Status", "message": "no"}))
        with pytest.raises(errors.Unauthenticated):
            await place.platform.ping()
        with pytest.raises(errors.Unauthenticated):
            await place.platform.ping()
        path.unlink()
        with pytest.raises(errors.Unauthenticated, match="no credential any more"):
            await place.platform.ping()
        path.write_text(good, encoding="utf-8")
        await place.platform.ping()


async def test_user_without_a_token_sends_no_header(tmp_path: Path) -> None:
    stand_in = kubernetes(directory=tmp_path)
    async with served(stand_in.app) as url:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(url, None), encoding="utf-8")
        async with KubernetesAdapter.open(
            KubernetesSettings(kubeconfig=str(path), namespace="shop"), wiring(tmp_path)
        ) as platform:
            await platform.ping()


def test_opening_a_target_loads_no_model_of_the_client_library() -> None:
    program = (
        "import sys, mcp_ops.adapters.kubernetes.adapter\n"
        "early = [m for m in sys.modules if m.startswith(('kubernetes', 'aiohttp', 'yaml'))]\n"
        "from kubernetes.aio.client.api_client import ApiClient\n"
        "from kubernetes.aio.config import kube_config\n"
        "models = [m for m in sys.modules if '.models.' in m and m.startswith('kubernetes')]\n"
        "print(early, models)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[] []"
