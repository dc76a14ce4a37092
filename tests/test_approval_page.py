"""The approval page over real sockets: who gets in, what counts as an answer, what is shown."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from pydantic import SecretStr

from mcp_ops.approval_page import COOKIE, approval_routes, key_page
from mcp_ops.approval_page_sessions import (
    FAILURES,
    FAILURES_OF_ALL,
    MAX_SESSIONS,
    SESSION_S,
    Credentials,
    KeyCredentials,
    OneTimeCode,
    Sessions,
    Signer,
    Throttle,
)
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from mcp_ops.guard.people import People
from mcp_ops.questions import Approval
from mcp_ops.settings import GuardSettings, KeySettings, ServerSettings
from mcp_ops.transport_http import http_app, page_app
from tests.guard.bench import AGENT, SCOPES, WHY, Bench, bench
from tests.served import serve
from tests.stores import records
from tests.transport_peer import build, health

ADA, BOB, PLAIN = "ada-key-0123456789ab", "bob-key-0123456789ab", "plain-key-0123456789"
APPROVES: Any = ("ops:read", "ops:write", "ops:destroy", "ops:approve")
KEYS = (
    KeySettings(name="ada", key=SecretStr(ADA), scopes=APPROVES),
    KeySettings(name="bob", key=SecretStr(BOB), scopes=APPROVES),
    KeySettings(name="plain", key=SecretStr(PLAIN)),
)
TEAM = GuardSettings.model_validate({"profile": "team"})
X = {"name": "x", "reason": WHY}
SIGNED_IN = 303


def desk(b: Bench) -> People:
    return People(
        approvals=b.stores.approvals,
        ledger=b.stores.ledger,
        policy=b.guard.policy,
        clock=b.clock,
        redactor=b.redactor,
    )


@dataclass
class Browser:
    """What a browser does with the page: it keeps the cookie, and names its origin with forms."""

    http: httpx2.AsyncClient
    base: str
    csrf: str = ""
    cookie: str = ""
    place: str = ""
    origin: str | None = ""

    def headers(self, **more: str) -> dict[str, str]:
        sent = {"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}
        return {**sent, **more}

    async def get(self, path: str = "", **more: str) -> httpx2.Response:
        return await self.http.get(
            f"{self.base}/approvals{self.place}{path}", headers=self.headers(**more)
        )

    async def post(
        self, path: str, fields: Mapping[str, str] | None = None, **more: str
    ) -> httpx2.Response:
        origin = self.base if self.origin == "" else self.origin
        named = {} if origin is None else {"origin": origin}
        return await self.http.post(
            f"{self.base}/approvals{self.place}{path}",
            data={"csrf": self.csrf} if fields is None else dict(fields),
            headers=self.headers(**named, **more),
        )

    async def sign_in(self, secret: str = ADA, **more: str) -> httpx2.Response:
        response = await self.post("/sign-in", {"secret": secret}, **more)
        if response.status_code == SIGNED_IN:
            self.cookie = re.findall(rf"{COOKIE}=([^;]+)", response.headers["set-cookie"])[0]
            self.place = re.findall(r"/~[\w-]+", response.headers["location"])[0]
            self.csrf = re.findall(r'name="csrf" value="([^"]+)"', (await self.get()).text)[0]
        return response

    async def answer(self, question: str, verb: str, note: str = "seen") -> httpx2.Response:
        return await self.post(f"/{question}/{verb}", {"csrf": self.csrf, "note": note})


@dataclass
class Desk:
    """An open page, a browser in front of it and the guard behind it."""

    b: Bench
    browser: Browser

    async def ask(self, name: str = "x", principal: str = "agent:test@host") -> str:
        caller = replace(AGENT, principal=principal)
        refusal = await self.b.error("drop_item", caller, name=name, reason=WHY)
        return str(refusal["details"]["approval_id"])

    async def state(self, question: str) -> str:
        found = await self.b.stores.approvals.get(question)
        assert found is not None
        return found.state


@asynccontextmanager
async def open_page(
    path: Path, *, credentials: Credentials | None = None, **server: Any
) -> AsyncIterator[Desk]:
    chosen = ServerSettings.model_validate({"port": 0, **server})
    who = credentials or KeyCredentials(KeyRing(KEYS, ManualClock()))
    with anyio.fail_after(20):
        async with bench(path, settings=TEAM) as b:
            app = page_app(approval_routes(desk(b), who, b.clock), chosen)
            async with serve(app) as base, httpx2.AsyncClient() as http:
                yield Desk(b, Browser(http, base))


@asynccontextmanager
async def signed_in(path: Path, secret: str = ADA) -> AsyncIterator[tuple[Desk, str]]:
    async with open_page(path) as page:
        assert (await page.browser.sign_in(secret)).status_code == SIGNED_IN
        yield page, await page.ask()


# ---- signing in


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


# ---- answering


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


# ---- what is shown

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=y>&\u202egnp\u2066\x1b[31mred\x07\u200b"


def hostile(clock: ManualClock, **more: Any) -> Approval:
    return records.approval(
        clock,
        "feed0123",
        **{
            "principal": NASTY,
            "tool": NASTY,
            "target": NASTY,
            "digest": NASTY,
            "policy": NASTY,
            "message": NASTY,
            "arguments": {NASTY: [NASTY, {"deep": NASTY}], "ids": ["a"] * 3},
            "reason": NASTY,
            "needed": 2,
            "seen_shown": {
                **dict.fromkeys(("effect", "environment", "rule", "profile", "problem"), NASTY),
                "approvers": [NASTY],
                "plan": [NASTY],
                "items": [NASTY],
                "state": {NASTY: NASTY},
            },
            **more,
        },
    )


@pytest.mark.parametrize("end", ["pending", "vote", "denied", "revoked"])
async def test_hostile_text_in_every_field_is_only_text(tmp_path: Path, end: str) -> None:
    async with signed_in(tmp_path) as (page, _):
        b = page.b
        await b.stores.approvals.ask(hostile(b.clock), max_pending=9)
        if end in ("vote", "denied"):
            await b.stores.approvals.decide(
                "feed0123", approved=end == "vote", by=NASTY, note=NASTY, at=b.clock.now()
            )
        elif end == "revoked":
            await b.stores.approvals.revoke("feed0123", by=NASTY, note=NASTY, at=b.clock.now())
        for path in ("", "/feed0123"):
            text = (await page.browser.get(path)).text
            assert "&lt;script&gt;alert(1)" in text
            for raw in (
                "<script",
                "<img",
                'onerror=y>"',
                "\u202e",
                "\u2066",
                "\x1b",
                "\x07",
                "\u200b",
            ):
                assert raw not in text, (path, raw)
            assert set(re.findall(r"<(\w+)", text)) <= ALLOWED_TAGS
            assert not re.search(r"<[^>]*\son\w+=", text)
            assert "(not verified)" in text


ALLOWED_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "p", "a"),
    *("form", "input", "button", "span", "fieldset", "legend", "label", "ul", "li", "dl", "dt"),
    *("dd", "pre", "div"),
}


async def test_arguments_are_shown_whole_with_invisible_characters_as_escapes(
    tmp_path: Path,
) -> None:
    ids = [f"item-{number:04}" for number in range(2_000)]
    async with signed_in(tmp_path) as (page, _):
        b = page.b
        question = hostile(b.clock, arguments={"ids": ids, "name": "a\u202eb"})
        await b.stores.approvals.ask(question, max_pending=9)
        text = (await page.browser.get("/feed0123")).text
        assert all(each in text for each in ids)
        assert "a\\u202eb" in text


async def test_every_answer_carries_the_headers_that_keep_it_apart(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (page, question):
        nonces = set()
        for response in (
            await page.browser.get(),
            await page.browser.get(f"/{question}"),
            await page.browser.get("/none"),
            await page.browser.answer(question, "deny", ""),
            await page.browser.post("/sign-in", {"secret": "wrong"}),
            await page.browser.answer(question, "approve"),
            await page.browser.post("/sign-out"),
            await page.browser.get(),
        ):
            policy = response.headers["content-security-policy"]
            found = re.fullmatch(
                r"default-src 'none'; style-src 'nonce-([\w-]{20,})'; form-action 'self'; "
                r"base-uri 'none'; frame-ancestors 'none'",
                policy,
            )
            assert found is not None, policy
            nonces.add(found[1])
            if response.status_code != 303:
                assert f'<style nonce="{found[1]}">' in response.text
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "same-origin"
            assert response.headers["cache-control"] == "no-store"
            assert "http" not in re.sub(
                r"http-equiv", "", response.text
            )  # nothing of third parties
        assert len(nonces) == 8


# ---- where it stands


@pytest.mark.parametrize("keys", [KEYS, KEYS[2:]], ids=["approvers", "none"])
async def test_beside_the_protocol_it_is_open_only_where_a_key_may_approve(
    tmp_path: Path, keys: tuple[KeySettings, ...]
) -> None:
    settings = ServerSettings(port=0, keys=keys)
    with anyio.fail_after(20):
        async with bench(tmp_path) as b:
            app = http_app(
                build([b"s" * 32]),
                settings=settings,
                health=health,
                sse=False,
                pages=key_page(desk(b), KeyRing(keys, b.clock), b.clock),
            )
            async with serve(app) as base, httpx2.AsyncClient() as http:
                found = await http.get(f"{base}/approvals")
                assert found.status_code == (200 if keys is KEYS else 404)
                for path in ("/mcp", "/approvalsx", "/"):
                    assert (await http.get(f"{base}{path}")).status_code == 401
                # A key in a header is for the protocol; people sign in.
                with_key = await http.get(
                    f"{base}/approvals", headers={"authorization": f"Bearer {ADA}"}
                )
                assert "Sign out" not in with_key.text
