"""The approval page over real sockets: what counts as an answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest

from mcp_ops.approval_page import COOKIE, approval_routes
from mcp_ops.approval_page_sessions import (
    KeyCredentials,
)
from mcp_ops.auth.ring import KeyRing
from mcp_ops.settings import ServerSettings
from mcp_ops.transport_http import page_app
from tests.approval_desk import (
    ADA,
    BOB,
    KEYS,
    TEAM,
    Browser,
    X,
    desk,
    signed_in,
)
from tests.guard.bench import WHY, bench
from tests.served import serve


async def test_a_person_approves_and_the_call_runs_once(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        shown = (await page.browser.get(f"/{question}")).text
        for text in ("drop_item", "destroy", "shelf", "prod", "agent:test@host", WHY, "Drop x."):
            assert text in shown
        response = await page.browser.answer(question, "approve", note="looked at it")
        assert response.status_code == 303
        assert response.headers["location"] == f"/approvals{page.browser.place}/{question}"
        found = await page.b.stores.approvals.get(question)
        assert found is not None
        assert (found.state, found.decided_by, found.note) == (
            "approved",
            "key:ada",
            "looked at it",
        )
        assert (await page.b.ok("drop_item", **X))["outcome"] == "verified"
        assert page.b.world.effects == ["drop x"]
        after = (await page.browser.get(f"/{question}")).text
        assert "approved and used" in after
        assert "<button class" not in after
        changed = [e for e in await page.b.entries() if e.kind == "changed"]
        assert [(e.principal, e.channel, e.outcome) for e in changed] == [
            ("key:ada", "http", "approved")
        ]


async def test_a_no_needs_a_reason_and_the_agent_is_told(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        for note in ("", "   "):
            assert (await page.browser.answer(question, "deny", note)).status_code == 422
        assert (await page.browser.answer(question, "deny", "x" * 501)).status_code == 422
        assert await page.state(question) == "pending"
        assert (await page.browser.answer(question, "deny", "not on a Friday")).status_code == 303
        refusal = await page.b.error("drop_item", **X)
        assert refusal["code"] == "approval_denied"
        assert "not on a Friday" in refusal["message"]


async def test_an_approval_is_taken_back(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        await page.browser.answer(question, "approve")
        assert "Take back" in (await page.browser.get(f"/{question}")).text
        assert (await page.browser.answer(question, "revoke", "")).status_code == 422
        assert (await page.browser.answer(question, "revoke", "wrong one")).status_code == 303
        assert await page.state(question) == "revoked"
        assert (await page.browser.answer(question, "revoke", "again")).status_code == 409


async def test_who_asked_does_not_approve(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, _):
        question = await page.ask("mine", principal="key:ada")
        response = await page.browser.answer(question, "approve")
        assert response.status_code == 403
        assert "another person" in response.text
        assert await page.state(question) == "pending"
        bob = replace(page.browser, cookie="", csrf="")
        await bob.sign_in(BOB)
        assert (await bob.answer(question, "approve")).status_code == 303
        assert await page.state(question) == "approved"


@pytest.mark.parametrize("again", ["approve", "deny"])
async def test_an_answer_sent_again_changes_nothing(tmp_path: Path, again: str) -> None:
    async with signed_in(tmp_path) as (page, question):
        await page.browser.answer(question, "approve")
        await page.b.ok("drop_item", **X)
        assert (await page.browser.answer(question, again)).status_code == 409
        assert await page.state(question) == "redeemed"


@pytest.mark.parametrize(
    ("fields", "headers", "origin", "status"),
    [
        ({}, {}, "", 403),
        ({"csrf": "wrong"}, {}, "", 403),
        ({"csrf": "\u00e4"}, {}, "", 403),
        (None, {}, None, 403),
        (None, {}, "null", 403),
        (None, {}, "https://evil.example.com", 403),
        (None, {}, "http://127.0.0.1:1", 403),
        (None, {}, "http://localhost", 403),
        (None, {"sec-fetch-site": "cross-site"}, "", 403),
        (None, {"sec-fetch-site": "same-site"}, "", 403),
        (None, {"content-type": "text/plain"}, "", 415),
        (None, {"content-type": "application/json"}, "", 415),
        ({"csrf": "x" * 20_000}, {}, "", 413),
        ({f"f{number}": "" for number in range(11)}, {}, "", 400),
    ],
)
async def test_a_form_that_is_not_the_pages_own_is_refused(
    tmp_path: Path,
    fields: dict[str, str] | None,
    headers: dict[str, str],
    origin: str | None,
    status: int,
) -> None:
    async with signed_in(tmp_path) as (page, question):
        page.browser.origin = origin
        for verb in ("approve", "deny", "revoke"):
            sent = {**fields, "note": "x"} if fields is not None else None
            response = await page.browser.post(f"/{question}/{verb}", sent, **headers)
            assert response.status_code == status, verb
        assert await page.state(question) == "pending"
        assert "drop_item" in (await page.browser.get()).text


async def test_the_csrf_token_is_of_one_session(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        bob = replace(page.browser, cookie="", csrf="")
        await bob.sign_in(BOB)
        bob.csrf = page.browser.csrf
        assert (await bob.answer(question, "approve")).status_code == 403
        raw = f"csrf={page.browser.csrf}&csrf={page.browser.csrf}"
        response = await page.browser.http.post(
            f"{page.browser.base}/approvals{page.browser.place}/{question}/approve",
            content=raw,
            headers=page.browser.headers(
                origin=page.browser.base,
                **{"content-type": "application/x-www-form-urlencoded"},
            ),
        )
        assert response.status_code == 400
        assert await page.state(question) == "pending"


async def test_no_link_changes_anything(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        before = await page.b.stores.approvals.recent(10)
        query = f"?csrf={page.browser.csrf}&note=x&secret={ADA}"
        paths = ["", "/", f"/{question}", "/sign-in", "/sign-out", "/nothing/at/all"]
        paths += [f"/{question}/{verb}" for verb in ("approve", "deny", "revoke", "other")]
        for path in paths:
            for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
                response = await page.browser.http.request(
                    method,
                    f"{page.browser.base}/approvals{page.browser.place}{path}{query}",
                    headers=page.browser.headers(origin=page.browser.base),
                )
                assert response.status_code in (200, 404, 405), (method, path)
                assert "set-cookie" not in response.headers
        assert await page.b.stores.approvals.recent(10) == before
        assert "drop_item" in (await page.browser.get()).text  # and still signed in


@pytest.mark.parametrize(
    "path", ["/0123456789abcdef", "/..%2f..", "/A", "/%00", "/<script>", "/a/b/c"]
)
async def test_what_there_is_not_is_not_found_and_not_echoed(tmp_path: Path, path: str) -> None:
    async with signed_in(tmp_path) as (page, _):
        response = await page.browser.get(path)
        assert response.status_code == 404
        assert "<script" not in response.text
        assert (await page.browser.post(f"{path}/approve")).status_code == 404


async def test_a_store_that_is_closed_is_said_and_nothing_more(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=TEAM) as b:
        who = KeyCredentials(KeyRing(KEYS, b.clock))
        page = page_app(approval_routes(desk(b), who, b.clock), ServerSettings(port=0))
    with anyio.fail_after(10):
        async with serve(page) as base, httpx2.AsyncClient() as http:
            browser = Browser(http, base)
            response = await browser.post("/sign-in", {"secret": ADA})
            browser.cookie = re.findall(rf"{COOKIE}=([^;]+)", response.headers["set-cookie"])[0]
            browser.place = response.headers["location"].removeprefix("/approvals")
            response = await browser.get()
    assert response.status_code == 503
    assert str(tmp_path) not in response.text
