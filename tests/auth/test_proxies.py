"""Mutual TLS that ends at a proxy: whose word on a certificate counts, and which certificates."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from mcp_ops.auth.certificates import LONGEST, Certificates
from mcp_ops.auth.principal import Admitted
from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery
from mcp_ops.settings_access import MutualTlsSettings
from tests.auth.standing import ALICE, key, standing

HEADER = "X-ARR-ClientCert"


def certificate(name: str, clock: ManualClock, *, days: int = 10) -> bytes:
    """A certificate, DER."""
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.fromtimestamp(clock.now(), UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .sign(secret, hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


def tls(*ders: bytes, proxies: tuple[str, ...] = ("127.0.0.1",), **more: Any) -> dict[str, Any]:
    return {
        "header": HEADER,
        "proxies": proxies,
        "certificates": [
            {"name": f"agent{n}", "fingerprint": hashlib.sha256(der).hexdigest()}
            for n, der in enumerate(ders)
        ],
        **more,
    }


def encoded(der: bytes) -> str:
    return base64.b64encode(der).decode()


async def test_a_certificate_that_the_proxy_tells_of_gets_in(tmp_path: Path) -> None:
    clock = ManualClock()
    known, other = certificate("a", clock), certificate("b", clock)
    pem = x509.load_der_x509_certificate(known).public_bytes(Encoding.PEM).decode()
    async with standing(tmp_path, clock=clock, mutual_tls=tls(known)) as s:
        for writing in (encoded(known), quote(pem), quote(pem, safe="")):
            found = await s.ask("tools/list", headers={HEADER: writing})
            assert found.status_code == 200
        for wrong in (
            encoded(other),
            "",
            "nonsense",
            "!!!",
            "A" * (LONGEST + 4),
            encoded(known)[:-8],
        ):
            refused = await s.ask("tools/list", headers={HEADER: wrong})
            assert refused.status_code == 401, wrong[:20]
        twice = await s.http.get("/mcp", headers=[(HEADER, encoded(known)), (HEADER, "x")])
        assert twice.status_code == 400
        assert (await s.ask("tools/list")).status_code == 401
        headers = {HEADER: encoded(known)}
        arguments: dict[str, Any] = {"name": "look_at_item", "arguments": {"name": "x"}}
        await s.ask("tools/call", headers=headers, **arguments)
        (line,) = await s.b.stores.ledger.search(AuditQuery())
        clock.advance(11 * 86_400)
        assert (await s.ask("tools/list", headers=headers)).status_code == 401
    assert line.principal == "cert:agent0"


async def test_nobody_but_the_proxy_is_believed_on_any_route(tmp_path: Path) -> None:
    clock = ManualClock()
    known = certificate("a", clock)
    async with standing(
        tmp_path,
        clock=clock,
        keys=[key("alice", ALICE, "ops:read", "ops:approve")],
        mutual_tls=tls(known, proxies=("10.0.0.0/8", "::1")),
    ) as s:
        told = {HEADER: encoded(known), "x-forwarded-for": "10.0.0.1", "forwarded": "for=10.0.0.1"}
        for path in ("/mcp", "/sse", "/messages/", "/health", "/approvals", "/"):
            answer = await s.http.get(path, headers=told)
            assert answer.status_code == 403, path
            assert answer.json()["error"] == "untrusted_proxy"
            with_key = {**told, "authorization": f"Bearer {ALICE}"}
            assert (await s.http.get(path, headers=with_key)).status_code == 403
        assert (await s.ask("tools/list", ALICE)).status_code == 200


async def test_a_bearer_counts_before_the_certificate(tmp_path: Path) -> None:
    clock = ManualClock()
    known = certificate("a", clock)
    async with standing(
        tmp_path, clock=clock, keys=[key("alice", ALICE)], mutual_tls=tls(known)
    ) as s:
        headers = {HEADER: encoded(known)}
        assert (await s.ask("tools/list", "wrong", headers=headers)).status_code == 401
        answer = await s.ask("tools/list", ALICE, headers=headers)
        assert answer.status_code == 200


async def test_a_subject_counts_letter_by_letter_and_verified(tmp_path: Path) -> None:
    subject = "CN=agent-1,O=Example"
    settings = {
        "header": "X-Client-Subject",
        "form": "subject",
        "verified_header": "X-Client-Verify",
        "proxies": ["127.0.0.0/8"],
        "certificates": [{"name": "agent", "subject": subject}],
    }
    async with standing(tmp_path, mutual_tls=settings) as s:

        async def asks(said: str, verified: str | None = "SUCCESS") -> int:
            headers = {"X-Client-Subject": said}
            if verified is not None:
                headers["X-Client-Verify"] = verified
            return (await s.ask("tools/list", headers=headers)).status_code

        assert await asks(subject) == 200
        assert await asks(subject, "NONE") == 401
        assert await asks(subject, None) == 401
        for other in ("CN=agent-1", f"{subject},O=x", subject.lower(), f"x{subject}"):
            assert await asks(other) == 401, other


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("11.0.0.1", False),
        ("", False),
        ("10.0.0.1, 10.0.0.2", False),
        ("unix", False),
    ],
)
def test_addresses_of_proxies(peer: str, trusted: bool) -> None:
    clock = ManualClock()
    known = certificate("a", clock)
    chosen = tls(known, proxies=("10.0.0.0/8", "fd00::/8"))
    certificates = Certificates(MutualTlsSettings.model_validate(chosen), clock)
    found = certificates.find({HEADER.lower().encode(): encoded(known).encode()}, peer)
    assert isinstance(found, Admitted) is trusted


@pytest.mark.parametrize(
    "wrong",
    [
        {"proxies": []},
        {"proxies": ["the proxy"]},
        {"proxies": ["10.0.0.1/8"]},
        {"proxies": ["0.0.0.0/0"]},
        {"certificates": []},
        {"certificates": [{"name": "a"}]},
        {"certificates": [{"name": name, "fingerprint": "ab" * 32} for name in "ab"]},
        {"certificates": [{"name": "a", "fingerprint": "abc"}]},
        {"form": "subject"},
        {"header": "Authorization"},
        {"header": "a b"},
    ],
)
def test_settings_that_would_let_in_anybody_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MutualTlsSettings.model_validate({**tls(b"x"), **wrong})


def test_a_pinned_thing_that_is_no_certificate_lets_nobody_in() -> None:
    clock = ManualClock()
    certificates = Certificates(MutualTlsSettings.model_validate(tls(b"no certificate")), clock)
    header = {HEADER.lower().encode(): base64.b64encode(b"no certificate")}
    assert not isinstance(certificates.find(header, "127.0.0.1"), Admitted)


def test_who_came_with_a_certificate_leaves_when_it_expires() -> None:
    clock = ManualClock()
    der = certificate("a", clock, days=10)
    certificates = Certificates(MutualTlsSettings.model_validate(tls(der)), clock)
    found = certificates.find({HEADER.lower().encode(): encoded(der).encode()}, "127.0.0.1")
    assert isinstance(found, Admitted)
    clock.advance(10 * 86_400 - 1)
    assert certificates.holds(found)
    clock.advance(1)
    assert not certificates.holds(found)
