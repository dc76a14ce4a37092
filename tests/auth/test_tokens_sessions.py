"""Tokens over sessions and streams, and those of Entra ID."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.auth.claims import V1
from mcp_ops.clock import ManualClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings
from mcp_ops.stores.sqlite.ledger import MOST_NOTED
from tests.auth.issuer import (
    APPLICATION,
    CLIENT,
    TENANT,
    OidcIssuer,
    open_issuer,
)
from tests.auth.standing import ACCEPT, ALICE, HELLO, PING, Standing, key, oidc, standing
from tests.guard.bench import OPEN_LIMITS, WHY
from tests.stores import records

SOLO = GuardSettings(profile="solo", limits=OPEN_LIMITS)


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
