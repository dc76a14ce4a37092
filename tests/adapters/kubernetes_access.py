"""Credentials of all kinds for the lab's Kubernetes: plugins, files, certificates behind TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.clock import Clock
from mcp_ops.lab.kubernetes.api import kubeconfig
from tests.kubernetes_lab import wiring

API = "client.authentication.k8s.io/v1"


def credential(expires: str = "", **status: str) -> str:
    """What a plugin prints."""
    if expires:
        status["expirationTimestamp"] = expires
    inside = ",".join(f'"{key}":"{value}"' for key, value in status.items())
    return f'{{"apiVersion":"{API}","kind":"ExecCredential","status":{{{inside}}}}}'


def script(path: Path, body: str) -> Path:
    """An executable shell script that notes each run in `runs` beside it."""
    path.write_text(f'#!/bin/sh\necho x >> "{path.parent}/runs"\n{body}\n', encoding="utf-8")
    path.chmod(0o700)
    return path


def runs(folder: Path) -> int:
    """How often a script of that folder was run."""
    file = folder / "runs"
    return len(file.read_text(encoding="utf-8").split()) if file.exists() else 0


def configured(folder: Path, url: str, user: str, *, cluster: str = "") -> Path:
    """A kubeconfig whose user is that YAML; `cluster` is added to the cluster's."""
    text = kubeconfig(url, "x").replace('{token: "x"}', user)
    path = folder / "config"
    path.write_text(text.replace("{server:", f"{{{cluster} server:"), encoding="utf-8")
    return path


def with_plugin(folder: Path, url: str, plugin: str, more: str = "", *, cluster: str = "") -> Path:
    """A kubeconfig whose user has that plugin."""
    user = f"{{exec: {{command: {plugin}, apiVersion: {API}{more}}}}}"
    return configured(folder, url, user, cluster=cluster)


@asynccontextmanager
async def opened(
    folder: Path, clock: Clock | None = None, wired: Wiring | None = None, **settings: Any
) -> AsyncIterator[KubernetesAdapter]:
    """An adapter with these settings; the kubeconfig of the folder where none is named."""
    if "in_cluster" not in settings:
        settings.setdefault("kubeconfig", str(folder / "config"))
    wired = wired or wiring(folder, clock=clock)
    async with KubernetesAdapter.open(KubernetesSettings(**settings), wired) as platform:
        yield platform


class Authority:
    """Signs certificates for the server and its clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        self.pem = self._signed(self._name, self._key, ca=True)

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> str:
        now = datetime.now(UTC)
        names = [x509.IPAddress(ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str) -> tuple[str, str]:
        """A certificate and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._signed(subject, key, ca=False), pem.decode()


@dataclass(slots=True)
class Front:
    """A TLS listener before the API server; `shown` are the clients' names, one a connection."""

    authority: Authority
    url: str = ""
    shown: list[str] = field(default_factory=list)


@asynccontextmanager
async def behind_tls(folder: Path, url: str, *, certificates: bool) -> AsyncIterator[Front]:
    """Ends TLS before `url`; with `certificates` only for clients that show one."""
    front = Front(Authority())
    certificate, key = front.authority.issue("server")
    pem = folder / "server.pem"
    pem.write_text(certificate + key, encoding="utf-8")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=front.authority.pem)
    context.load_cert_chain(pem)
    if certificates:
        context.verify_mode = ssl.CERT_REQUIRED
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    front.url = f"https://127.0.0.1:{plain.extra(anyio.abc.SocketAttribute.local_port)}"
    listener = TLSListener(plain, context, standard_compatible=False)

    async def copy(
        source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, both: anyio.CancelScope
    ) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                await sink.send(await source.receive())
        both.cancel()

    async def serve(client: TLSStream) -> None:
        shown = client.extra(TLSAttribute.peer_certificate, None) or {}
        subject: Any = shown.get("subject", ())
        front.shown.append("".join(value for part in subject for _, value in part))
        port = urlsplit(url).port or 0
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", port) as upstream,
            anyio.create_task_group() as both,
        ):
            both.start_soon(copy, client, upstream, both.cancel_scope)
            both.start_soon(copy, upstream, client, both.cancel_scope)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield front
        tasks.cancel_scope.cancel()
