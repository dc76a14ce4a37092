"""Users whose principal is their e-mail address: one of them, however it is spelt."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery
from tests.auth.issuer import open_issuer
from tests.auth.standing import oidc, standing
from tests.auth.test_settings import loaded, wrong

ADDRESSES = (
    '[server]\nurl = "https://ops.example.com"\n'
    '[[server.issuers]]\nname = "sso"\nissuer = "https://sso.example.com"\n'
    'subject_claim = "email"\n'
    '[[server.issuers]]\nname = "other"\nissuer = "https://other.example.com"\n'
)
GRANT = '[[server.grants]]\nprincipal = "{}"\nscopes = ["ops:read"]\n'
RULE = '[[policy]]\nrequire = "deny"\nprincipal = "{}"\n'
APPROVERS = '[[policy]]\nrequire = "approve"\napprovers = ["user:*", "{}"]\n'


@pytest.mark.parametrize("rule", [GRANT, RULE, APPROVERS])
def test_an_address_with_capital_letters_would_miss_whom_it_means(
    tmp_path: Path, rule: str
) -> None:
    for glob in ("user:sso/Alice@x.example", "app:sso/*@X.example", "user:*@X.example", "*Alice*"):
        assert "in lower case" in wrong(tmp_path, ADDRESSES + rule.format(glob))
    for glob in ("user:sso/alice@x.example", "user:other/Alice", "key:alice", "*"):
        assert loaded(tmp_path, ADDRESSES + rule.format(glob)).server.issuers


async def test_an_address_is_one_principal_however_it_is_spelt(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_issuer(clock) as issuer:
        mail = oidc(issuer, subject_claim="email")
        grants = [{"principal": "user:sso/alice@x.example", "scopes": ["ops:read"]}]
        async with standing(tmp_path, clock=clock, issuers=[mail], grants=grants) as s:

            def token(address: str) -> str:
                claims = {"email": address, "email_verified": True}
                return issuer.token(**claims, scope="ops:read ops:write")

            for address in ("alice@x.example", "Alice@X.Example", "ALICE@X.EXAMPLE"):
                answer = await s.call("look_at_item", token(address), name="x")
                assert not answer.json()["result"]["isError"], answer.text
                assert "put_item" not in await s.tools(token(address))
            # What only looks like her: a letter that becomes a k, and one of another alphabet.
            for address in ("\u212aim@x.example", "\u0430lice@x.example"):
                assert (await s.ask("tools/list", token(address))).status_code == 401
            lines = await s.b.stores.ledger.search(AuditQuery(tool="look_at_item"))
    assert [line.principal for line in lines] == ["user:sso/alice@x.example"] * 3
