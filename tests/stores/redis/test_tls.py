"""`rediss://`: the shared hot store over TLS, through a listener that ends it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.redis import Valkey
from tests.stores import records
from tests.stores.redis.opened import Opening


def certificate(directory: Path) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "redis.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@asynccontextmanager
async def ending_tls(server: Valkey, pem: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and forwards to the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = plain.extra(anyio.abc.SocketAttribute.local_port)
    listener = TLSListener(plain, context, standard_compatible=False)

    async def copy(
        source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, both: anyio.CancelScope
    ) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                await sink.send(await source.receive())
        both.cancel()

    async def serve(client: TLSStream) -> None:
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", server.port) as upstream,
            anyio.create_task_group() as both,
        ):
            both.start_soon(copy, client, upstream, both.cancel_scope)
            both.start_soon(copy, upstream, client, both.cancel_scope)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield port
        tasks.cancel_scope.cancel()


async def test_a_certificate_is_checked_against_the_authority_of_the_url(
    opening: Opening, hot_server: Valkey, tmp_path: Path
) -> None:
    pem = certificate(tmp_path)
    async with ending_tls(hot_server, pem) as port:
        address = f"rediss://127.0.0.1:{port}/0"
        async with opening(url=f"{address}?ssl_ca_certs={pem}") as hot:
            assert (await hot.admit(records.request())).granted
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            async with opening(url=address):
                pass
