"""The approval page's sign-in over real sockets: who gets in, and for how long."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_ops.approval_page import COOKIE
from mcp_ops.approval_page_sessions import (
    FAILURES,
    FAILURES_OF_ALL,
    MAX_SESSIONS,
    SESSION_S,
    OneTimeCode,
    Sessions,
    Signer,
    Throttle,
)
from mcp_ops.clock import ManualClock
from tests.approval_desk import (
    ADA,
    PLAIN,
    SIGNED_IN,
    open_page,
    signed_in,
)
from tests.guard.bench import SCOPES
from tests.served import serve


async def test_a_stranger_sees_the_sign_in_form_and_nothing_else(tmp_path: Path) -> None:
    async with open_page(tmp_path) as page:
        question = await page.ask()
        for path in ("", "/", f"/{question}"):
            response = await page.browser.get(path)
            assert response.status_code == 200
            assert "Sign in" in response.text
            assert "drop_item" not in response.text
        response = await page.browser.answer(question, "approve")
        assert response.status_code == 401
        assert await page.state(question) == "pending"


@pytest.mark.parametrize("secret", ["", "nonsense", PLAIN, f"{ADA} x", "\u202e", ADA.upper()])
async def test_only_a_key_that_may_approve_signs_in(tmp_path: Path, secret: str) -> None:
    async with open_page(tmp_path) as page:
        response = await page.browser.sign_in(secret)
        assert response.status_code == 401
        assert "set-cookie" not in response.headers
        assert "That may not approve." in response.text


async def test_the_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(
    tmp_path: Path,
) -> None:
    async with open_page(tmp_path) as page:
        page.browser.cookie = "chosen-by-somebody-else"
        cookie = (await page.browser.sign_in()).headers["set-cookie"]
        assert len(page.browser.place) > 20
        assert "chosen" not in cookie
        assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
            "httponly",
            "samesite=strict",
            f"path=/approvals{page.browser.place}".lower(),
            f"max-age={SESSION_S:.0f}",
        }
        assert ADA not in cookie
        assert "key:ada" in (await page.browser.get()).text


async def test_a_server_on_another_port_of_the_machine_does_not_get_the_session(
    tmp_path: Path,
) -> None:
    """Browsers part cookies by host and path, never by port: another user of the machine may have
    a server on 127.0.0.1, and lead the one who approves there."""
    heard: list[dict[bytes, bytes]] = []

    async def theirs(scope: Any, _receive: Any, send: Any) -> None:
        heard.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with open_page(tmp_path) as page, serve(theirs) as other:
        jar = page.browser.http  # it keeps the cookie as a browser does
        signed = await jar.post(
            f"{page.browser.base}/approvals/sign-in",
            data={"secret": ADA},
            headers={"origin": page.browser.base},
        )
        mine = f"{page.browser.base}{signed.headers['location']}"
        assert "key:ada" in (await jar.get(mine)).text
        for path in ("/approvals", "/approvals/x", "/approvals/~x/y", "/"):
            await jar.get(f"{other}{path}")
            assert b"cookie" not in heard[-1], path
        # Who finds the cookie all the same has to know the path as well.
        (value,) = jar.cookies.jar
        sent = {"cookie": f"{COOKIE}={value.value}"}
        async with httpx2.AsyncClient() as stranger:
            for path in ("", "/~", "/~x"):
                found = await stranger.get(f"{page.browser.base}/approvals{path}", headers=sent)
                assert "key:ada" not in found.text


async def test_off_loopback_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    public = "ops.example.com"
    async with open_page(tmp_path, allowed_hosts=[public]) as page:
        page.browser.origin = f"https://{public}"
        response = await page.browser.post("/sign-in", {"secret": ADA}, host=public)
        assert response.status_code == SIGNED_IN
        assert "secure" in response.headers["set-cookie"].lower()
        other = await page.browser.post("/sign-in", {"secret": ADA}, host="evil.example.com")
        assert other.status_code == 421


async def test_sign_in_comes_back_to_the_question_and_nowhere_else(tmp_path: Path) -> None:
    async with open_page(tmp_path) as page:
        question = await page.ask()
        assert f'value="{question}"' in (await page.browser.get(f"/{question}")).text
        for after, leads in ((question, f"/{question}"), ("//evil", ""), ("~x", "")):
            response = await page.browser.post("/sign-in", {"secret": ADA, "after": after})
            assert re.fullmatch(rf"/approvals/~[\w-]+{leads}", response.headers["location"])


async def test_guessing_is_slowed_down_also_for_who_guesses_right_then(tmp_path: Path) -> None:
    async with open_page(tmp_path) as page:
        for _ in range(FAILURES):
            assert (await page.browser.sign_in("wrong")).status_code == 401
        for secret in ("wrong", ADA):
            response = await page.browser.sign_in(secret)
            assert response.status_code == 429
            assert 0 < int(response.headers["retry-after"]) <= 61
        page.b.clock.advance(61)
        assert (await page.browser.sign_in()).status_code == SIGNED_IN


def test_many_addresses_are_slowed_down_together_and_forgotten() -> None:
    clock = ManualClock()
    throttle = Throttle(clock.monotonic)
    for number in range(FAILURES_OF_ALL):
        assert throttle.wait_s(f"10.0.0.{number}") == 0
        throttle.failed(f"10.0.0.{number}")
    assert throttle.wait_s("192.0.2.1") == pytest.approx(60)
    clock.advance(61)
    assert throttle.wait_s("192.0.2.1") == 0
    for number in range(5_000):
        throttle.failed(f"2001:db8:{number:x}::1")
    assert len(throttle._of) == 1_000
    clock.advance(61)
    for number in range(FAILURES):
        throttle.failed(f"2001:db8:1::{number:x}")
    assert throttle.wait_s("2001:db8:1:0:ffff::1") > 0
    assert throttle.wait_s("2001:db8:2::1") == 0
    assert throttle.wait_s("no address") == 0


def test_sessions_are_bounded_and_end() -> None:
    clock = ManualClock()
    sessions = Sessions(clock.monotonic)
    signer = Signer(principal="key:ada", scopes=frozenset())
    ids = [sessions.open(signer) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(ids[0]) is None
    assert sessions.find(ids[-1]) is not None
    clock.advance(SESSION_S)
    assert all(sessions.find(each) is None for each in ids)


async def test_a_session_ends_by_itself_and_by_signing_out(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        page.b.clock.advance(SESSION_S - 1)
        assert "drop_item" in (await page.browser.get()).text
        page.b.clock.advance(2)
        assert "drop_item" not in (await page.browser.get()).text
        assert (await page.browser.answer(question, "approve")).status_code == 401
        await page.browser.sign_in()
        old = replace(page.browser)
        response = await page.browser.post("/sign-out")
        assert response.status_code == 303
        assert "max-age=0" in response.headers["set-cookie"].lower()
        assert (await old.answer(question, "approve")).status_code == 401
        assert "drop_item" not in (await old.get()).text


async def test_a_code_of_the_terminal_signs_in_once(tmp_path: Path) -> None:
    codes: list[str] = []
    person = Signer(principal="operator:ada", scopes=SCOPES | {"ops:approve"})
    async with open_page(tmp_path, credentials=OneTimeCode(person, codes.append)) as page:
        question = await page.ask()
        assert (await page.browser.sign_in(codes[0])).status_code == SIGNED_IN
        assert len(codes) == 2
        assert (await replace(page.browser, cookie="").sign_in(codes[0])).status_code == 401
        await page.browser.answer(question, "approve")
        found = await page.b.stores.approvals.get(question)
        assert found is not None
        assert (found.state, found.decided_by) == ("approved", "operator:ada")
        assert codes[0] not in (await page.browser.get()).text
