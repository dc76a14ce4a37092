"""Access tokens of a real issuer at a server on a socket: who gets in, who does not, and why."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from joserfc.jwk import OctKey
from mcp.shared.auth import ProtectedResourceMetadata

from mcp_ops.auth.claims import V1
from mcp_ops.auth.issuer_keys import BELIEVED_S, RETRY_S, UNKNOWN_S, IssuerKeys
from mcp_ops.auth.principal import Admitted, HttpPrincipal
from mcp_ops.auth.tokens import LONGEST_TOKEN, REMEMBERED, Issuer, Tokens
from mcp_ops.clock import ManualClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings
from mcp_ops.settings_access import IssuerSettings
from mcp_ops.stores.sqlite.ledger import MOST_NOTED
from tests.auth.issuer import (
    APPLICATION,
    CLIENT,
    TENANT,
    URL,
    OidcIssuer,
    ec_key,
    forged,
    open_issuer,
    part,
    public,
)
from tests.auth.standing import ACCEPT, ALICE, HELLO, PING, Standing, key, oidc, standing
from tests.guard.bench import OPEN_LIMITS, WHY
from tests.stores import records

NO_CLIENT: Any = None
SOLO = GuardSettings(profile="solo", limits=OPEN_LIMITS)
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


async def test_a_user_without_the_scope_is_sent_for_it_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    sso = {"host_confirms": True}
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, guard=SOLO, issuers=[oidc(issuer, **sso)]) as s,
    ):
        reader = issuer.token(scope="ops:read email")
        assert "put_item" not in await s.tools(reader)
        answer = await s.call("put_item", reader, name="x", reason=WHY)
        assert answer.status_code == 403
        challenge = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="ops:read ops:write"' in challenge
        assert answer.json()["error"] == "insufficient_scope"
        plan = await s.call("put_item", reader, name="x", reason=WHY, dry_run=True)
        assert plan.json()["result"]["structuredContent"]["outcome"] == "planned"
        # An application cannot be asked: it gets a result that its model can read.
        alone = issuer.token(sub="an-editor", scope="ops:read")
        error = await s.refused("put_item", alone, name="x", reason=WHY)
        assert error["code"] == "permission_denied"
        assert s.b.world.effects == []
        more = issuer.token(scope="ops:read ops:write")
        done = await s.call("put_item", more, name="x", reason=WHY)
        assert done.json()["result"]["structuredContent"]["outcome"] == "verified"
        lines = await s.b.stores.ledger.search(AuditQuery(verdict="refused"))
    assert [line.principal for line in lines] == ["app:sso/an-editor", "user:sso/alice"]
    assert {line.code for line in lines} == {"permission_denied"}


async def test_a_token_without_any_of_our_scopes_is_told_which(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        for scope in (None, "", "openid profile", "ops:everything", ["ops"]):
            answer = await s.ask("tools/list", issuer.token(scope=scope))
            assert answer.status_code == 403
            assert 'scope="ops:read"' in answer.headers["www-authenticate"]


async def test_scopes_are_mapped_and_clients_chosen(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock) as issuer:
        chosen = oidc(
            issuer,
            scopes={"reader": ["ops:read"], "fixer": ["ops:read", "ops:write"]},
            scope_prefix="https://ops.example.com/",
            clients=["an-editor"],
            audiences=["urn:ops"],
            subject_claim="email",
        )
        user = {"aud": "urn:ops", "email": "a@x.example", "email_verified": True}
        async with standing(tmp_path, clock=clock, issuers=[chosen]) as s:
            seen = {
                scope: set(await s.tools(issuer.token(**user, scope=scope)))
                for scope in ("reader", "fixer", "https://ops.example.com/ops:write")
            }
            assert "look_at_item" in seen["reader"] - seen["https://ops.example.com/ops:write"]
            assert "put_item" in seen["fixer"] - seen["reader"]
            for wrong in ({"client_id": "other"}, {"client_id": None}, {"email_verified": False}):
                answer = await s.ask("tools/list", issuer.token(**{**user, **wrong}))
                assert answer.status_code == 401, wrong


# ---- sessions


async def opened(s: Standing, token: str) -> str:
    """A session of the older era."""
    head = {**ACCEPT, "authorization": f"Bearer {token}"}
    answer = await s.http.post("/mcp", headers=head, json=HELLO)
    assert answer.status_code == 200
    return str(answer.headers["mcp-session-id"])


async def test_a_session_goes_on_with_a_newer_token_and_with_nobody_elses(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)], keys=[key("alice", ALICE)]) as s,
    ):
        session = await opened(s, issuer.token())
        clock.advance(660)

        async def ping(token: str) -> int:
            head = {**ACCEPT, "mcp-session-id": session, "authorization": f"Bearer {token}"}
            return (await s.http.post("/mcp", headers=head, json=PING)).status_code

        assert await ping(issuer.token()) == 200
        assert await ping(issuer.token(scope="ops:read")) == 200
        assert await ping(issuer.token(sub="mallory")) == 404
        assert await ping(issuer.token(sub="an-editor")) == 404
        assert await ping(ALICE) == 404
        assert await ping(issuer.token(exp=int(clock.now()) - 60)) == 401


async def test_a_stream_ends_with_the_last_token_of_who_opened_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, issuers=[oidc(issuer)]) as s,
    ):
        head = {"authorization": f"Bearer {issuer.token()}"}
        async with s.http.stream("GET", "/sse", headers=head) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: endpoint"
            clock.advance(300)
            assert (await s.ask("tools/list", issuer.token())).status_code == 200
            clock.advance(400)  # the first has expired, the second has not
            s.app.state.edge.end_lost_streams()
            assert len(s.app.state.edge.streams) == 1
            clock.advance(300)
            with anyio.fail_after(20):
                async for _ in lines:
                    pass


# ---- Entra ID


def entra(issuer: OidcIssuer, **more: Any) -> dict[str, Any]:
    return {
        "name": "entra",
        "kind": "entra",
        "issuer": issuer.iss,
        "tenant": TENANT.upper(),
        "audiences": [APPLICATION],
        "scopes": {"Ops.Read.All": ["ops:read"], "Ops.Write.All": ["ops:read", "ops:write"]},
        **more,
    }


V2: dict[str, Any] = {
    "aud": APPLICATION,
    "ver": "2.0",
    "tid": TENANT,
    "azp": CLIENT,
    "oid": "0f0f0f0f-0000-4000-8000-000000000001",
    "sub": "pairwise",
    "scp": "ops:read ops:write",
    "scope": None,
    "client_id": None,
}
APP = {"scp": None, "sub": V2["oid"], "roles": ["Ops.Write.All"]}


async def test_tokens_of_entra_id_are_read_as_they_are_meant(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock, f"/{TENANT}/v2.0") as issuer:

        def token(**changes: Any) -> str:
            return issuer.token(header={"typ": "JWT"}, **{**V2, **changes})

        async with standing(tmp_path, clock=clock, issuers=[entra(issuer)]) as s:
            assert "put_item" in await s.tools(token())
            assert "put_item" in await s.tools(token(**APP))
            assert "put_item" in await s.tools(token(**APP, idtyp="app"))
            # What was delegated to the client is no more than the roles of its user.
            junior = await s.tools(token(roles=["Ops.Read.All"]))
            assert "look_at_item" in junior
            assert "put_item" not in junior
            refused = {
                "tenant": (token(tid=TENANT.replace("7", "8")), "another tenant"),
                "v1 version": (token(ver="1.0"), "v1.0 token"),
                "v1 issuer": (token(iss=f"https://sts.windows.net/{TENANT}/"), "v1.0 token"),
                "no version": (token(ver=None), "v1.0 token"),
                "ID token": (token(scp=None, azp=None, roles=["Ops.Write.All"]), "no client"),
                "user with roles alone": (
                    token(scp=None, roles=["Ops.Write.All"]),
                    "no access token",
                ),
                "application with scopes": (token(idtyp="app"), "no access token"),
                "audience": (token(aud="00000003-0000-0000-c000-000000000000"), "audience"),
                "no object id": (token(oid=None), "no subject"),
            }
            for name, (wrong, reason) in refused.items():
                answer = await s.ask("tools/list", wrong)
                assert answer.status_code == 401, name
                assert reason in answer.headers["www-authenticate"], name
            assert (await s.ask("tools/list", token(**{**APP, "roles": None}))).status_code == 403
            await s.call("look_at_item", token(), name="x")
            await s.call("look_at_item", token(**APP), name="x")
            lines = await s.b.stores.ledger.search(AuditQuery())
    assert [line.principal for line in lines] == [
        f"app:entra/{V2['oid']}",
        f"user:entra/{V2['oid']}",
    ]
    assert "requestedAccessTokenVersion" in V1


@pytest.mark.parametrize("client", [CLIENT, "another"])
async def test_only_chosen_clients_of_a_tenant_may_call(tmp_path: Path, client: str) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock, f"/{TENANT}/v2.0") as issuer,
        standing(tmp_path, clock=clock, issuers=[entra(issuer, clients=[CLIENT])]) as s,
    ):
        answer = await s.ask("tools/list", issuer.token(**{**V2, "azp": client}))
    assert answer.status_code == (200 if client == CLIENT else 401)


async def test_a_refusal_that_cannot_be_recorded_is_no_error_of_the_server(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        open_issuer(clock) as issuer,
        standing(tmp_path, clock=clock, guard=SOLO, issuers=[oidc(issuer)]) as s,
    ):
        holder = sqlite3.connect(s.b.path / "s.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with suppress(StoreUnavailable):
            for number in range(MOST_NOTED + 1):
                s.b.stores.ledger.note(records.entry(clock, f"c{number}"))
        reader = issuer.token(scope="ops:read")
        answer = await s.call("put_item", reader, name="x", reason=WHY)
        holder.execute("ROLLBACK")
        holder.close()
        assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
        assert s.b.world.effects == []
