"""What the approval page shows: hostile text, whole arguments, its headers, and where it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_ops.approval_page import key_page
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from mcp_ops.questions import Approval
from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport_http import http_app
from tests.approval_desk import (
    ADA,
    KEYS,
    desk,
    signed_in,
)
from tests.guard.bench import bench
from tests.served import serve
from tests.stores import records
from tests.transport_peer import build, health

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
