"""Tokens over HTTP: what is right, and which keys verify them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from joserfc.jwk import OctKey
from mcp.shared.auth import ProtectedResourceMetadata

from mcp_ops.auth.issuer_keys import BELIEVED_S, RETRY_S, UNKNOWN_S, IssuerKeys
from mcp_ops.auth.principal import Admitted, HttpPrincipal
from mcp_ops.auth.tokens import LONGEST_TOKEN, REMEMBERED, Issuer, Tokens
from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery
from mcp_ops.settings_access import IssuerSettings
from tests.auth.issuer import (
    URL,
    OidcIssuer,
    ec_key,
    forged,
    open_issuer,
    part,
    public,
)
from tests.auth.standing import ALICE, key, oidc, standing

NO_CLIENT: Any = None
Make = Callable[[OidcIssuer], str]


def claims(**changes: Any) -> Make:
    """A well-signed token with other claims."""
    return lambda issuer: issuer.token(**changes)


def later(seconds: float, *names: str) -> Make:
    """One with times so far from now."""
    return lambda issuer: issuer.token(**dict.fromkeys(names, int(issuer.clock.now() + seconds)))


def headed(**header: Any) -> Make:
    """One with another header."""
    return lambda issuer: issuer.token(header=header)


def confused(issuer: OidcIssuer) -> str:
    """Signed with a MAC, whose key is the public key that everybody knows."""
    secret = issuer.rsa.as_pem(private=False)
    return forged({"alg": "HS256", "kid": "r1"}, issuer.claims(), secret)


def tampered(issuer: OidcIssuer) -> str:
    """One whose claims were changed after it was signed."""
    head, _, signature = issuer.token().split(".")
    return f"{head}.{part(issuer.claims(scope='ops:admin'))}.{signature}"


def unsigned(issuer: OidcIssuer) -> str:
    return forged({"alg": "none"}, issuer.claims())


def of_another_key(issuer: OidcIssuer) -> str:
    """Signed with a key of the same name as one of the issuer's."""
    return issuer.token(key=ec_key("e1"))


def embedded(issuer: OidcIssuer) -> str:
    """Signed with a key that the token brings along itself."""
    mine = ec_key("mine")
    return issuer.token(key=mine, header={"jwk": public(mine), "kid": "mine"})


def small_rsa() -> dict[str, Any]:
    """A public key of 1,024 bits, which no library of today wants to make."""
    modulus = base64.urlsafe_b64encode(((1 << 1_023) | 1).to_bytes(128, "big")).decode()
    return {"kty": "RSA", "kid": "small", "alg": "RS256", "e": "AQAB", "n": modulus.rstrip("=")}


REFUSED: dict[str, tuple[Make, str]] = {
    "audience": (claims(aud="https://other.example/mcp"), "another audience"),
    "audience of a prefix": (claims(aud=f"{URL}/mcp/x"), "another audience"),
    "no audience": (claims(aud=None), "another audience"),
    "list of other audiences": (claims(aud=["x", 1, None]), "another audience"),
    "issuer": (claims(iss="https://evil.example"), "not configured"),
    "issuer with a slash": (lambda i: i.token(iss=f"{i.iss}/"), "not configured"),
    "no issuer": (claims(iss=None), "not configured"),
    "expired": (later(-31, "exp"), "expired"),
    "no expiry": (claims(exp=None), "never expires"),
    "expiry that is no time": (claims(exp="tomorrow"), "no time"),
    "expiry that is true": (claims(exp=True), "no time"),
    "expiry beyond time": (claims(exp=2**60), "no time"),
    "not yet": (later(31, "nbf"), "not valid yet"),
    "issued in the future": (later(31, "iat"), "not valid yet"),
    "no subject": (claims(sub=None), "no subject"),
    "subject that is a number": (claims(sub=7), "no subject"),
    "ID token": (claims(nonce="n"), "ID token"),
    "ID token by its hash": (claims(at_hash="h"), "ID token"),
    "type": (headed(typ="logout+jwt"), "another kind"),
    "critical extension": (
        lambda i: forged({"alg": "ES256", "crit": ["x"], "x": 1}, i.claims()),
        "no JWT",
    ),
    "critical extension that the library knows": (
        lambda i: forged({"alg": "ES256", "crit": ["b64"], "b64": True}, i.claims()),
        "extensions",
    ),
    "none": (unsigned, "not allowed"),
    "algorithm confusion": (confused, "not allowed"),
    "algorithm that is not allowed": (
        lambda i: i.token(key=i.rsa, header={"alg": "RS512"}),
        "not allowed",
    ),
    "key of another kind": (lambda i: i.token(header={"kid": "r1"}), "does not have"),
    "unknown key": (lambda i: i.token(key=ec_key("e9")), "does not have"),
    "key of the same name": (of_another_key, "signature"),
    "key in the token": (embedded, "does not have"),
    "no key id where two would do": (headed(kid=None), "does not have"),
    "tampered": (tampered, "signature"),
    "no JWT": (lambda _: "a.b.c", "no JWT"),
    "claims that are no object": (lambda _: f"{part({'alg': 'ES256'})}.W10.x", "no JWT"),
    "huge": (lambda i: i.token(pad="x" * LONGEST_TOKEN), "longer"),
}


async def test_every_token_that_is_not_right_is_refused_with_its_reason(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock) as issuer:
        issuer.published.append(public(ec_key("e2")))
        async with standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s:
            assert (await s.ask("tools/list", issuer.token())).status_code == 200
            for name, (make, reason) in REFUSED.items():
                token = make(issuer)
                answer = await s.ask("tools/list", token)
                assert answer.status_code == 401, name
                challenge = answer.headers["www-authenticate"]
                assert 'error="invalid_token"' in challenge, name
                assert reason in challenge, (name, challenge)
                assert token[-40:] not in answer.text + challenge, name


async def test_a_challenge_names_the_metadata_and_the_first_scope(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer, scope_prefix="api://ops/")]) as s,
    ):
        for path in ("/mcp", "/sse", "/nothing"):
            answer = await s.http.get(path)
            about = path if path != "/nothing" else ""
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == (
                'Bearer realm="mcp-ops", scope="api://ops/ops:read", resource_metadata='
                f'"{URL}/.well-known/oauth-protected-resource{about}"'
            )


async def test_the_metadata_can_be_read_by_every_page_without_a_key(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        for path in ("", "/mcp", "/sse"):
            place = f"/.well-known/oauth-protected-resource{path}"
            found = await s.http.get(place, headers={"origin": "https://anywhere.example"})
            assert found.status_code == 200
            assert found.headers["access-control-allow-origin"] == "*"
            read = ProtectedResourceMetadata.model_validate_json(found.content)
            assert str(read.resource).rstrip("/") == f"{URL}{path}"
            assert [str(each).rstrip("/") for each in read.authorization_servers] == [issuer.iss]
            assert read.scopes_supported == ["ops:destroy", "ops:read", "ops:write"]
            asked = await s.http.request(
                "OPTIONS", place, headers={"origin": "https://anywhere.example"}
            )
            assert asked.status_code == 204
            assert asked.headers["access-control-allow-headers"] == "*"
            assert (await s.http.post(place)).status_code == 405
            strange = await s.http.get(place, headers={"host": "evil.example"})
            assert strange.status_code == 421


async def test_without_issuers_there_is_no_metadata_and_no_word_of_it(tmp_path: Path) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE)]) as s:
        assert (await s.http.get("/.well-known/oauth-protected-resource")).status_code == 404
        answer = await s.http.get("/mcp")
    assert answer.headers["www-authenticate"] == 'Bearer realm="mcp-ops"'


async def test_a_token_names_its_user_and_the_record_has_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        for subject in ("alice", "a b", "a%20b", "~x", "x" * 200):
            answer = await s.call("look_at_item", issuer.token(sub=subject), name="x")
            assert answer.status_code == 200
        answer = await s.call("look_at_item", issuer.token(sub="an-editor"), name="x")
        lines = await s.b.stores.ledger.search(AuditQuery(limit=20))
    names = [line.principal for line in lines]
    assert names[-1] == "user:sso/alice"
    assert names[0] == "app:sso/an-editor"
    # Two subjects are never one principal, and none has characters that mislead.
    assert len(set(names)) == 6
    assert all(name.replace("~", "").replace("/", "").replace(":", "").isascii() for name in names)
    assert not any(" " in name for name in names)


async def test_a_token_is_verified_once_and_held_until_it_expires(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer, leeway_s=10)]) as s,
    ):
        token = issuer.token()
        for _ in range(5):
            assert (await s.ask("tools/list", token)).status_code == 200
        assert issuer.asked["keys"] == 1
        clock.advance(609)
        assert (await s.ask("tools/list", token)).status_code == 200
        clock.advance(2)
        assert "expired" in (await s.ask("tools/list", token)).headers["www-authenticate"]


async def test_a_new_key_is_fetched_when_it_is_first_seen_and_not_more_often(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        before = issuer.token()
        assert (await s.ask("tools/list", before)).status_code == 200
        admitted = s.door.look({b"authorization": b"Bearer " + before.encode()}, "")
        assert isinstance(admitted, Admitted)
        assert s.door.holds(admitted)
        issuer.key = ec_key("e2")
        issuer.published = [public(issuer.key)]
        clock.advance(UNKNOWN_S + 1)
        fresh = [issuer.token(sub=f"user{number}") for number in range(10)]
        statuses: list[int] = []

        async def ask(token: str) -> None:
            statuses.append((await s.ask("tools/list", token)).status_code)

        async with anyio.create_task_group() as tasks:
            for token in fresh:
                tasks.start_soon(ask, token)
        assert statuses == [200] * 10
        assert issuer.asked["keys"] == 2
        # What an issuer took back does not count any more, also where it was remembered, or where
        # a stream was opened with it.
        assert not s.door.holds(admitted)
        assert "does not have" in (await s.ask("tools/list", before)).headers["www-authenticate"]
        for number in range(20):
            stranger = issuer.token(key=ec_key(f"x{number}"))
            assert (await s.ask("tools/list", stranger)).status_code == 401
        assert issuer.asked["keys"] == 2


async def test_an_issuer_that_is_away_is_believed_for_a_day_and_no_longer(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        old = issuer.token(exp=int(clock.now() + 10 * BELIEVED_S))
        assert (await s.ask("tools/list", old)).status_code == 200
        issuer.away = True
        clock.advance(BELIEVED_S - 1)
        assert (await s.ask("tools/list", old)).status_code == 200
        assert (await s.ask("tools/list", issuer.token())).status_code == 200
        clock.advance(2)
        for token in (old, issuer.token()):
            answer = await s.ask("tools/list", token)
            assert answer.status_code == 503
            assert answer.json()["error"] == "issuer_unavailable"
            assert answer.headers["retry-after"] == "5"
        issuer.away = False
        clock.advance(RETRY_S + 1)
        assert (await s.ask("tools/list", old)).status_code == 200


async def test_without_any_key_nobody_gets_in_and_a_static_key_still_does(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock) as issuer:
        issuer.published = [
            {**public(issuer.key), "use": "enc"},
            public(OctKey.generate_key(256, {"kid": "s"})),
            small_rsa(),
            {"kty": "EC", "kid": "broken", "crv": "P-256"},
        ]
        async with standing(
            tmp_path, clock=clock, issuers=[oidc(issuer)], keys=[key("alice", ALICE)]
        ) as s:
            assert (await s.ask("tools/list", issuer.token())).status_code == 503
            assert (await s.ask("tools/list", ALICE)).status_code == 200
            issuer.published = [public(issuer.key)]
            assert (await s.ask("tools/list", issuer.token())).status_code == 503  # not asked yet
            clock.advance(RETRY_S + 1)
            assert (await s.ask("tools/list", issuer.token())).status_code == 200


def test_what_is_remembered_of_tokens_has_an_end() -> None:
    clock = ManualClock()
    tokens = Tokens((), clock)
    settings = IssuerSettings(name="sso", issuer="https://sso.example.com")
    issuer = Issuer(
        settings=settings, keys=IssuerKeys(settings, NO_CLIENT, clock), audiences=frozenset()
    )
    for number in range(REMEMBERED + 10):
        someone = HttpPrincipal(id=f"user:sso/{number}", scopes=("ops:read",))
        until = clock.now() + 60
        tokens._remember(b"%d" % number, issuer, Admitted(principal=someone, until=until))
    assert len(tokens._good) == len(tokens._latest) == REMEMBERED
    assert tokens.recall(b"0") is None
    newest = tokens.recall(b"%d" % (REMEMBERED + 9))
    assert newest is not None
    assert tokens.holds(newest.principal.id, 0.0)
    assert not tokens.holds("user:sso/0", 0.0)


async def test_metadata_of_another_issuer_gives_no_keys(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock) as issuer:
        for wrong in (
            {"issuer": "https://evil.example"},
            {"jwks_uri": "http://keys.example/"},
            {"jwks_uri": None},
        ):
            good = dict(issuer.metadata)
            issuer.metadata.update(wrong)
            path = tmp_path / str(len(list(tmp_path.iterdir())))
            async with standing(path, clock=clock, issuers=[oidc(issuer)]) as s:
                assert (await s.ask("tools/list", issuer.token())).status_code == 503, wrong
            issuer.metadata = good
        async with standing(
            tmp_path / "said", clock=clock, issuers=[oidc(issuer, jwks_url=f"{issuer.iss}/keys")]
        ) as s:
            assert (await s.ask("tools/list", issuer.token())).status_code == 200


async def test_two_authorization_headers_are_refused(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        good = ("authorization", f"Bearer {issuer.token()}")
        twice = await s.http.get("/mcp", headers=[good, ("authorization", "Bearer x")])
        assert twice.status_code == 400
        for odd in (f"bearer  {issuer.token()}", f"BEARER   {issuer.token()}"):
            answer = await s.ask("tools/list", headers={"authorization": odd})
            assert answer.status_code == 200
        for odd in (issuer.token(), f"Basic {issuer.token()}", "Bearer", f"Bearer\t{good[1]}"):
            answer = await s.ask("tools/list", headers={"authorization": odd})
            assert answer.status_code == 401, odd
