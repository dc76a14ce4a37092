"""New authorizations of OAuth targets."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from mcp_ops import errors
from mcp_ops.adapters.oauth import OAuthAdapter
from mcp_ops.redact import fingerprint
from tests.lab_org import SUBJECT, Lab
from tests.tools.token_desk import (
    NAME,
    begin,
    check,
    complete,
    consent,
    frame,
    refresh,
)


async def test_a_person_can_authorize_anew_after_a_revocation(lab: Lab, idp: OAuthAdapter) -> None:
    lab.oauth.inject("token-revoked")
    begun = await begin(lab, idp)
    assert begun.outcome == "verified"
    assert begun.expires_at == "2027-01-15T08:10:00.000Z"
    assert begun.next_steps[0].arguments == {"state": begun.state}
    back = await consent(begun.url)
    assert back["state"] == begun.state

    done = await complete(lab, idp, quote(back["code"]), back["state"])
    assert done.outcome == "verified"
    assert done.evidence == {"refresh_token": True}
    assert (await check(lab, idp)).fingerprint == done.fingerprint
    assert (await refresh(lab, idp)).outcome == "verified"

    with pytest.raises(errors.InvalidInput):
        await complete(lab, idp, back["code"], back["state"])
    assert (await check(lab, idp)).valid


async def test_the_salesforce_org_can_be_authorized_anew(lab: Lab) -> None:
    async with lab.crm(expected_subject=SUBJECT, expected_organisation="00D7Q000000LAB1") as crm:
        lab.oauth.inject("token-revoked")
        back = await consent((await begin(lab, crm)).url)
        done = await complete(lab, crm, back["code"], back["state"])
        await crm.usage()
    assert done.outcome == "verified"


async def test_a_state_is_bound_to_its_principal_and_its_time(lab: Lab, idp: OAuthAdapter) -> None:
    begun = await begin(lab, idp)
    back = await consent(begun.url)
    tries: list[dict[str, Any]] = [
        {"write": frame("agent:other@me")},
        {"write": frame("agent:other@me", dry_run=True)},
        {"state": "guessed"},
    ]
    for more in tries:
        with pytest.raises(errors.InvalidInput) as caught:
            await complete(lab, idp, **{"code": back["code"], "state": back["state"], **more})
        assert "begin_oauth_authorization" in caught.value.hint
    lab.wired.clock.advance(600)
    with pytest.raises(errors.InvalidInput):
        await complete(lab, idp, back["code"], back["state"])
    assert lab.effects("granted") == [lab.effects("granted")[0]]


async def test_a_plan_of_a_completion_uses_nothing_up(lab: Lab, idp: OAuthAdapter) -> None:
    begun = await begin(lab, idp)
    back = await consent(begun.url)
    planned = await complete(lab, idp, back["code"], back["state"], write=frame(dry_run=True))
    assert planned.outcome == "planned"
    assert (await complete(lab, idp, back["code"], back["state"])).outcome == "verified"


async def test_a_plan_of_a_beginning_stores_nothing(lab: Lab, idp: OAuthAdapter) -> None:
    planned = await begin(lab, idp, write=frame(dry_run=True))
    assert (planned.outcome, planned.url, planned.state) == ("planned", None, None)
    assert await lab.store.read(f"{NAME}.authorization") is None


async def test_tokens_of_another_person_are_dropped(lab: Lab) -> None:
    async with lab.idp(expected_subject=SUBJECT) as idp:
        begun = await begin(lab, idp)
        back = await consent(begun.url, login="mallory@lab.example")
        with pytest.raises(errors.Forbidden) as caught:
            await complete(lab, idp, back["code"], back["state"])
        assert "dropped" in caught.value.message
        assert await lab.store.read(NAME) is None
        assert (await check(lab, idp)).fingerprint == fingerprint(lab.pair.access_token)


async def test_a_wrong_code_uses_the_authorization_up(lab: Lab, idp: OAuthAdapter) -> None:
    begun = await begin(lab, idp)
    back = await consent(begun.url)
    with pytest.raises(errors.ReauthorizationRequired):
        await complete(lab, idp, "wrong-code", back["state"])
    with pytest.raises(errors.InvalidInput):
        await complete(lab, idp, back["code"], back["state"])
