"""Checks and refreshes of OAuth tokens, and what never leaves."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops import errors
from mcp_ops.adapters.oauth import OAuthAdapter
from mcp_ops.capabilities.token_fields import pending_of
from mcp_ops.capabilities.tokens import (
    OAuthRefresh,
    SecretInfo,
    SecretStore,
)
from mcp_ops.redact import fingerprint
from mcp_ops.tool import Tool
from mcp_ops.tools.tokens import (
    begin_oauth_authorization,
    check_oauth_token,
    complete_oauth_authorization,
    refresh_oauth_token,
)
from tests.lab_org import SUBJECT, Lab, running_lab
from tests.served import Link
from tests.tools.token_desk import (
    NAME,
    begin,
    check,
    complete,
    consent,
    frame,
    refresh,
)


async def test_a_good_token_needs_nothing(lab: Lab, idp: OAuthAdapter) -> None:
    status = await check(lab, idp)
    assert status.valid
    assert status.fingerprint == fingerprint(lab.pair.access_token)
    assert status.expires_in_s == 3600
    assert status.expires_at == "2027-01-15T09:00:00.000Z"
    assert status.subject == SUBJECT
    assert status.refresh_token
    assert (status.problem, status.what_to_do, status.next_steps) == (None, None, [])


async def test_an_expired_token_points_to_the_refresh(lab: Lab, idp: OAuthAdapter) -> None:
    lab.wired.clock.advance(4000)
    status = await check(lab, idp)
    assert not status.valid
    assert status.expires_in_s == -400
    assert [step.tool for step in status.next_steps] == ["refresh_oauth_token"]


async def test_without_any_token_a_person_has_to_authorize(lab: Lab) -> None:
    async with lab.idp(access_token=None, refresh_token=None) as idp:
        status = await check(lab, idp, secrets=None)
        with pytest.raises(errors.ReauthorizationRequired):
            await refresh(lab, idp)
    assert not status.valid
    assert status.fingerprint == ""
    assert [step.tool for step in status.next_steps] == ["begin_oauth_authorization"]


async def test_a_token_of_somebody_else_is_not_valid_here(lab: Lab) -> None:
    async with lab.idp(expected_subject="someone@else.example") as idp:
        status = await check(lab, idp)
    assert not status.valid
    assert "expected_subject" in (status.problem or "")


# Refresh


async def test_a_refresh_is_stored_rotated_and_verified(lab: Lab, idp: OAuthAdapter) -> None:
    lab.oauth.inject("token-expired")
    result = await refresh(lab, idp)
    fields = await lab.store.read(NAME)
    assert fields is not None
    assert result.outcome == "verified"
    assert result.rotated is True
    assert result.shared is False
    assert result.stored_in == "vault"
    assert result.previous_fingerprint == fingerprint(lab.pair.access_token)
    assert result.fingerprint == fingerprint(fields["access_token"])
    assert fields["refresh_token"] != lab.pair.refresh_token
    assert pending_of(fields) is None
    assert (await check(lab, idp)).fingerprint == result.fingerprint
    again = await refresh(lab, idp)
    assert again.outcome == "verified"
    assert again.previous_fingerprint == result.fingerprint


async def test_a_refresh_token_that_is_not_rotated_is_kept(tmp_path: Path) -> None:
    async with running_lab(tmp_path, rotate=False) as lab, lab.crm() as crm:
        lab.oauth.inject("token-expired")
        result = await refresh(lab, crm)
        fields = await lab.store.read("crm-tokens")
        await crm.usage()
    assert result.outcome == "verified"
    assert result.rotated is False
    assert fields is not None
    assert fields["refresh_token"] == lab.pair.refresh_token


async def test_two_refreshes_at_once_refresh_once(lab: Lab, idp: OAuthAdapter) -> None:
    results: list[OAuthRefresh] = []

    with anyio.fail_after(5):
        # Both look before either may send: the lock is ours until both wait for it.
        async with anyio.create_task_group() as tasks, lab.store.lock(NAME, 1):
            links = [Waiting(lab.store) for _ in range(2)]
            for link in links:
                tasks.start_soon(collect, results, lab, idp, link)
            for link in links:
                await link.acting.wait()
    assert len(lab.effects("refreshed")) == 1
    assert sorted(result.shared or False for result in results) == [False, True]
    assert len({result.fingerprint for result in results}) == 1
    assert {result.outcome for result in results} == {"verified"}


async def collect(results: list[OAuthRefresh], lab: Lab, idp: OAuthAdapter, link: Any) -> None:
    results.append(await refresh(lab, idp, secrets=link))


class Waiting(Link[SecretStore]):
    """A link that says when its writing action has begun."""

    def __init__(self, store: SecretStore) -> None:
        super().__init__(name="vault", adapter=store)
        self.acting = anyio.Event()

    async def use(self, action: Any, *, effect: Any = "read") -> Any:
        if effect == "write":
            self.acting.set()
        return await super().use(action, effect=effect)


async def test_a_plan_sends_and_stores_nothing(lab: Lab, idp: OAuthAdapter) -> None:
    seen: list[object] = []
    plan = replace(frame(dry_run=True), saw=lambda state, items: seen.append((state, items)))
    result = await refresh(lab, idp, write=plan)
    assert result.outcome == "planned"
    assert len(result.plan) == 2
    # What people are shown, and what must still hold when it runs.
    assert seen == [({"fingerprint": result.previous_fingerprint}, None)]
    assert lab.effects("refreshed") == []
    assert await lab.store.read(NAME) is None


async def test_without_a_lasting_store_no_token_is_burnt(lab: Lab, idp: OAuthAdapter) -> None:
    for tool in (refresh, begin):
        with pytest.raises(errors.ConfigurationError) as caught:
            await tool(lab, idp, secrets=None)
        assert "file_secrets" in caught.value.hint
    with pytest.raises(errors.ConfigurationError):
        await complete(lab, idp, "code", "state", secrets=None)
    assert lab.effects("refreshed") == []


async def test_a_lost_answer_leaves_a_marker_and_the_next_refresh_explains_it(
    lab: Lab, idp: OAuthAdapter
) -> None:
    lab.oauth.inject("lost-response")
    link = lab.link
    with pytest.raises(errors.ConnectionLost) as lost:
        await refresh(lab, idp, secrets=link)
    assert lost.value.executed == "unknown"
    assert lost.value.hint
    assert link.raised == []
    pending = pending_of(await lab.store.read(NAME))
    assert pending is not None
    assert pending.fingerprint == fingerprint(lab.pair.refresh_token)

    status = await check(lab, idp)
    assert "its answer was lost" in (status.problem or "")

    for _ in range(2):
        with pytest.raises(errors.ReauthorizationRequired) as dead:
            await refresh(lab, idp)
        assert "a refresh of 2027-01-15T08:00:00.000Z was sent" in dead.value.message
        assert "begin_oauth_authorization" in dead.value.hint


async def test_a_revoked_grant_asks_for_a_person(lab: Lab, idp: OAuthAdapter) -> None:
    lab.oauth.inject("token-revoked")
    link = lab.link
    with pytest.raises(errors.ReauthorizationRequired) as caught:
        await refresh(lab, idp, secrets=link)
    assert "was lost" not in caught.value.message
    assert link.raised == []
    assert pending_of(await lab.store.read(NAME)) is None


async def test_a_refresh_that_was_not_sent_leaves_no_marker(lab: Lab, idp: OAuthAdapter) -> None:
    await idp.ping()
    lab.oauth.inject("unavailable")
    with pytest.raises(errors.UpstreamUnavailable):
        await refresh(lab, idp)
    assert pending_of(await lab.store.read(NAME)) is None
    lab.oauth.mend("unavailable")
    assert (await refresh(lab, idp)).outcome == "verified"


async def test_a_cancelled_refresh_that_was_sent_is_kept(lab: Lab, idp: OAuthAdapter) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            store = _Marked(lab.store, tasks.cancel_scope.cancel)
            link = Link[SecretStore](name="vault", adapter=store)
            tasks.start_soon(collect, [], lab, idp, link)
    fields = await lab.store.read(NAME)
    assert fields is not None
    assert len(lab.effects("refreshed")) == 1
    assert pending_of(fields) is None
    assert (await check(lab, idp)).fingerprint == fingerprint(fields["access_token"])
    assert (await refresh(lab, idp)).outcome == "verified"


class _Marked:
    """A store that lets the call be cancelled once the marker is written."""

    lasting = True

    def __init__(self, store: SecretStore, cancel: Any) -> None:
        self._store, self._cancel = store, cancel
        self.read, self.lock = store.read, store.lock

    async def write(self, name: str, fields: Any) -> SecretInfo:
        info = await self._store.write(name, fields)
        if pending_of(fields):
            self._cancel()
        return info


class FullDisk(Link[SecretStore]):
    """A store on a disk that is full: after `good` writes nothing more can be written."""

    def __init__(self, store: SecretStore, *, good: int, then: int = 99) -> None:
        super().__init__(name="vault", adapter=_Full(store, good, then))


class _Full:
    lasting = True

    def __init__(self, store: SecretStore, good: int, then: int) -> None:
        self._store, self._good, self._bad = store, good, then
        self.read, self.lock = store.read, store.lock

    async def write(self, name: str, fields: Any) -> SecretInfo:
        self._good -= 1
        if self._good >= 0:
            return await self._store.write(name, fields)
        self._bad -= 1
        if self._bad < 0:
            return await self._store.write(name, fields)
        raise errors.UpstreamUnavailable("The secret cannot be used (ENOSPC).")


async def test_tokens_that_cannot_be_kept_are_a_loud_failure(lab: Lab, idp: OAuthAdapter) -> None:
    result = await refresh(lab, idp, secrets=FullDisk(lab.store, good=1))
    assert result.outcome == "failed"
    assert "ARE LOST" in (result.problem or "")
    assert "begin_oauth_authorization" in (result.problem or "")
    assert result.stored_in is None


async def test_a_write_that_works_the_second_time_is_enough(lab: Lab, idp: OAuthAdapter) -> None:
    result = await refresh(lab, idp, secrets=FullDisk(lab.store, good=1, then=1))
    assert result.outcome == "verified"


async def test_a_store_that_cannot_take_the_marker_stops_the_refresh(
    lab: Lab, idp: OAuthAdapter
) -> None:
    with pytest.raises(errors.UpstreamUnavailable):
        await refresh(lab, idp, secrets=FullDisk(lab.store, good=0))
    assert lab.effects("refreshed") == []


async def test_a_new_configured_refresh_token_wins_over_the_stored_one(lab: Lab) -> None:
    async with lab.idp() as idp:
        await refresh(lab, idp)
    lab.oauth.inject("token-revoked")
    lab.pair = lab.oauth.authority.issue(SUBJECT)
    async with lab.idp() as idp:
        assert (await check(lab, idp)).fingerprint == fingerprint(lab.pair.access_token)
        assert (await refresh(lab, idp)).outcome == "verified"


async def test_no_token_leaves_in_results_errors_or_logs(
    lab: Lab, idp: OAuthAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = [(await check(lab, idp)).model_dump_json()]
    said.append((await refresh(lab, idp)).model_dump_json())
    first = dict(await lab.store.read(NAME) or {})
    begun = await begin(lab, idp)
    flow = dict(await lab.store.read(f"{NAME}.authorization") or {})
    said.append(begun.model_dump_json())
    back = await consent(begun.url)
    caplog.clear()  # the browser's own log
    said.append((await complete(lab, idp, back["code"], back["state"])).model_dump_json())
    second = dict(await lab.store.read(NAME) or {})
    lab.oauth.inject("token-revoked")
    with pytest.raises(errors.ReauthorizationRequired) as caught:
        await refresh(lab, idp)
    said += [caught.value.message, caught.value.said, caught.value.hint]
    # The issuer runs in this process too, and its library logs what it issues.
    said += [r.getMessage() for r in caplog.records if not r.name.startswith("authlib")]
    secrets = [lab.pair.access_token, lab.pair.refresh_token, back["code"], flow["verifier"]]
    secrets += [fields[n] for fields in (first, second) for n in ("access_token", "refresh_token")]
    secrets.append(lab.oauth.authority.client.client_secret)
    for text in said:
        assert not [secret for secret in secrets if secret in text]
    masked = lab.wired.redactor.text(" ".join(secrets))
    assert not [secret for secret in secrets if secret in masked]


@pytest.mark.parametrize(
    "tool",
    [
        check_oauth_token,
        refresh_oauth_token,
        begin_oauth_authorization,
        complete_oauth_authorization,
    ],
    ids=lambda tool: tool.name,
)
def test_a_tool_on_tokens_costs_a_model_little(tool: Tool) -> None:
    assert len(tool.description.split()) <= 45
    assert "clock" in tool.ports
    assert tool.links == {"secrets": SecretStore}
    assert not tool.bulk


def test_code_and_state_are_never_shown() -> None:
    assert complete_oauth_authorization.sensitive == {"code", "state"}


def test_a_refresh_repairs_and_may_be_repeated() -> None:
    assert refresh_oauth_token.recovery
    assert refresh_oauth_token.idempotent
