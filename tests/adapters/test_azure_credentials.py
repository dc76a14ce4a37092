"""The credentials of the App Service adapter, from azure-identity to the lab's Entra over TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from mcp_ops.adapters.azure.adapter import AzureAppServiceAdapter
from mcp_ops.errors import ConfigurationError, Unauthenticated, Unreachable
from mcp_ops.lab.azure.api import azure
from mcp_ops.lab.azure.entra import CLIENT, TENANT, Entra, entra
from mcp_ops.redact import Redactor
from tests.azure_lab import settings
from tests.kubernetes_lab import wiring
from tests.served import loopback, serve

VARIABLES = (
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "entra.pem", directory / "entra.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@asynccontextmanager
async def serve_tls(app: Any, files: tuple[Path, Path]) -> AsyncIterator[str]:
    bound, url = loopback()
    config = uvicorn.Config(
        app,
        log_level="critical",
        lifespan="off",
        ws="none",
        ssl_certfile=str(files[0]),
        ssl_keyfile=str(files[1]),
    )
    config.load()
    assert isinstance(config.ssl, ssl.SSLContext)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        yield url.replace("http://", "https://")
    finally:
        await server.shutdown(sockets=[bound])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    directory: Entra
    authority: str
    url: str
    redactor: Redactor
    path: Path

    @asynccontextmanager
    async def platform(self, credential: str, **more: Any) -> AsyncIterator[AzureAppServiceAdapter]:
        options = settings(
            self.url,
            credential=credential,
            access_token=None,
            authority=self.authority,
            **more,
        )
        made = wiring(self.path, self.redactor)
        async with AzureAppServiceAdapter.open(options, made) as platform:
            yield platform

    def secret(self, **more: Any) -> dict[str, Any]:
        return {
            "tenant_id": TENANT,
            "client_id": CLIENT,
            "client_secret": SecretStr(self.directory.client_secret),
            **more,
        }

    @property
    def issued(self) -> list[str]:
        return [line["how"] for line in self.directory.log.read()]


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    files = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
    directory = entra(tmp_path)
    stand_in = azure(directory=tmp_path, check_token=directory.check)
    async with serve_tls(directory.app(), files) as authority, serve(stand_in.app) as url:
        yield Place(
            directory=directory,
            authority=authority,
            url=url,
            redactor=Redactor(),
            path=tmp_path,
        )


async def test_token_of_a_secret_is_asked_for_once_and_never_shown(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with place.platform("client_secret", **place.secret()) as platform:
        for _ in range(3):
            await platform.ping()
    assert place.issued == ["secret"]
    (token,) = place.directory.issued
    assert token not in caplog.text
    assert place.directory.client_secret not in caplog.text
    assert token not in place.redactor.text(f"it was {token}.")


async def test_token_that_ends_soon_is_renewed_before(place: Place) -> None:
    place.directory.lifetime_s = 200.0
    async with place.platform("client_secret", **place.secret()) as platform:
        await platform.ping()
        await platform.ping()
    assert place.issued == ["secret", "secret"]


async def test_token_that_azure_took_back_is_replaced_once(place: Place) -> None:
    async with place.platform("client_secret", **place.secret()) as platform:
        await platform.ping()
        place.directory.revoke()
        await platform.ping()
        assert place.issued == ["secret", "secret"]


async def test_token_with_time_left_is_used_while_entra_is_away(place: Place) -> None:
    place.directory.lifetime_s = 200.0
    async with place.platform("client_secret", **place.secret()) as platform:
        await platform.ping()
        place.directory.client_secret = "another one since then"
        await platform.ping()


async def test_secret_that_is_not_accepted_is_told_without_it(place: Place) -> None:
    wrong = place.secret(client_secret=SecretStr("wrong-secret-of-nobody"))
    async with place.platform("client_secret", **wrong) as platform:
        with pytest.raises(Unauthenticated) as raised:
            await platform.ping()
    assert "AADSTS7000215" in raised.value.said
    assert "wrong-secret" not in raised.value.said + raised.value.message


async def test_entra_that_cannot_be_reached_executed_nothing(place: Place) -> None:
    nowhere = place.secret(authority="https://127.0.0.1:1")
    options = settings(place.url, credential="client_secret", access_token=None, **nowhere)
    async with AzureAppServiceAdapter.open(options, wiring(place.path)) as platform:
        with pytest.raises(Unreachable) as raised:
            await platform.plan_restart("shop-api")
    assert raised.value.executed == "no"


async def test_environment_workload_and_managed_identity(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    file = place.path / "federated"
    file.write_text(place.directory.assertion, encoding="utf-8")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))
    async with place.platform("workload_identity") as platform:
        await platform.ping()
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    with pytest.raises(ConfigurationError, match="workload_identity"):
        async with place.platform("workload_identity"):
            pass
    monkeypatch.setenv("AZURE_CLIENT_SECRET", place.directory.client_secret)
    async with place.platform("environment") as platform:
        await platform.ping()
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    async with serve(place.directory.app()) as machine:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{machine}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", place.directory.identity_header)
        for credential in ("managed_identity", "default"):
            async with place.platform(credential) as platform:
                await platform.ping()
    assert place.issued == ["assertion", "secret", "managed identity", "managed identity"]


async def test_the_command_line_of_azure_lends_its_login(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place.path / "bin"))
    async with place.platform("cli") as platform:
        with pytest.raises(Unauthenticated) as raised:
            await platform.ping()
    assert "Azure CLI" in raised.value.said
    place.directory.issued["lab.token-of-a-person-0123456789"] = place.directory.now() + 3_600
    said = {"accessToken": "lab.token-of-a-person-0123456789", "expires_on": 4_000_000_000}
    command = place.path / "bin" / "az"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n", encoding="utf-8")
    command.chmod(0o755)
    async with place.platform("cli") as platform:
        await platform.ping()
