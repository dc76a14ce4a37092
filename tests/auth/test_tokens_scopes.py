"""Scopes of tokens: which a user lacks, how they are mapped, and whose clients may call."""

from __future__ import annotations

from pathlib import Path

from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings
from tests.auth.issuer import (
    open_issuer,
)
from tests.auth.standing import oidc, standing
from tests.guard.bench import OPEN_LIMITS, WHY

SOLO = GuardSettings(profile="solo", limits=OPEN_LIMITS)


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
