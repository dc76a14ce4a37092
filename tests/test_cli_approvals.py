"""`mcp-ops approvals` on a real store: what it shows, who may, and what becomes of the question."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_ops.cli import main
from mcp_ops.clock import SystemClock
from mcp_ops.commands.exits import Exit
from mcp_ops.records import Approval
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.stores import records

REPOSITORY = Path(__file__).parent.parent
CLOCK = SystemClock()
QUESTION = "a1b2c3d4"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory with one question for two people."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MCP_OPS_STATE_DIR", str(tmp_path / "state"))
    question = records.approval(
        CLOCK,
        QUESTION,
        needed=2,
        seen_shown={"plan": ["restart api"], "profile": "solo", "approvers": ["operator:*"]},
    )

    async def ask() -> None:
        async with open_stores(tmp_path / "state" / "state.db", CLOCK) as stores:
            await stores.approvals.ask(question, max_pending=3)

    anyio.run(ask)
    yield tmp_path / "state"


def stored(state: Path) -> Approval:
    async def look() -> Approval | None:
        async with open_stores(state / "state.db", CLOCK) as stores:
            return await stores.approvals.get(QUESTION)

    found = anyio.run(look)
    assert found is not None
    return found


def vote(state: Path, *people: str) -> None:
    async def say() -> None:
        async with open_stores(state / "state.db", CLOCK) as stores:
            for by in people:
                await stores.approvals.decide(
                    QUESTION, approved=True, by=by, note="ok", at=CLOCK.now()
                )

    anyio.run(say)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main(["approvals", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_show_says_everything_that_is_bound(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vote(state, "operator:ada")
    code, shown = said(capsys, "show", QUESTION)
    assert code == Exit.OK
    assert (shown["state"], shown["needed"], shown["votes"][0]["by"]) == (
        "pending",
        2,
        "operator:ada",
    )
    assert shown["seen"]["plan"] == ["restart api"]
    assert main(["approvals", "show", QUESTION]) == Exit.OK
    text = capsys.readouterr().out
    for part in (
        "restart_deployment on shop",
        "restart api",
        "digest: d",
        "1 of 2",
        "operator:ada",
    ):
        assert part in text
    assert main(["approvals", "list"]) == Exit.OK
    assert "1 of 2" in capsys.readouterr().out


def test_without_a_terminal_a_question_is_denied_and_taken_back_but_never_approved(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("approve", QUESTION), ("page",)):
        code, refused = said(capsys, *command)
        assert (code, refused["error"]["code"]) == (Exit.REFUSED, "permission_denied")
    vote(state, "operator:ada", "operator:bob")
    code, gone = said(capsys, "revoke", QUESTION, "--reason", "wrong cluster")
    assert (code, gone["state"], gone["note"]) == (Exit.OK, "revoked", "wrong cluster")
    code, again = said(capsys, "revoke", QUESTION)
    assert again["error"]["code"] == "not_found"
    code, missing = said(capsys, "deny", "0000")
    assert missing["error"]["code"] == "not_found"
    assert stored(state).state == "revoked"


def test_deny_tells_why(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, denied = said(capsys, "deny", QUESTION, "--reason", "not today")
    assert (code, denied["state"], denied["note"]) == (Exit.OK, "denied", "not today")


# ---- at a terminal

pty = pytest.importorskip("pty") if sys.platform == "win32" else __import__("pty")


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.end, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_ops", "approvals", *arguments],
            cwd=REPOSITORY,
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "NO_COLOR": "1"},
        )
        os.close(child)
        self.text = ""

    def until(self, found: Callable[[str], Any]) -> Any:
        """Read until something is found in what was said."""
        ends = time.monotonic() + 20
        while not (value := found(self.text)):
            ready, _, _ = select.select([self.end], [], [], max(0, ends - time.monotonic()))
            assert ready, self.text
            self.text += os.read(self.end, 65_536).decode("utf-8", "replace")
        return value

    def type(self, line: str) -> None:
        os.write(self.end, line.encode() + b"\n")

    def close(self) -> int:
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            os.close(self.end)


def test_a_person_at_a_terminal_looks_types_and_says_why(state: Path) -> None:
    vote(state, "operator:somebody-else")
    terminal = Terminal("approve", QUESTION)
    terminal.until(lambda text: "characters of the id" in text)
    assert "restart api" in terminal.text
    terminal.type(QUESTION[:4])
    terminal.until(lambda text: "Reason" in text)
    terminal.type("looked at it")
    terminal.until(lambda text: f"approved: {QUESTION}" in text)
    assert terminal.close() == Exit.OK
    after = stored(state)
    assert (after.state, after.note, len(after.votes)) == ("approved", "looked at it", 2)
    assert after.decided_by.startswith("operator:")


def test_the_wrong_characters_approve_nothing(state: Path) -> None:
    terminal = Terminal("approve", QUESTION)
    terminal.until(lambda text: "characters of the id" in text)
    terminal.type("yes")
    assert terminal.close() == Exit.APPROVAL
    assert stored(state).votes == ()


def test_the_page_of_the_terminal_is_on_loopback_and_ends_with_it(state: Path) -> None:
    terminal = Terminal("page")
    code = terminal.until(lambda text: re.search(r"next sign-in: ([0-9a-f]{20})", text))[1]
    url = terminal.until(lambda text: re.search(r"page is at (http://127\.0\.0\.1:\d+)/", text))[1]
    with httpx2.Client(base_url=url) as browser:
        assert "Sign in" in browser.get("/approvals").text
        done = browser.post("/approvals/sign-in", data={"secret": code}, headers={"origin": url})
        assert done.status_code == 303
        assert QUESTION in browser.get(f"/approvals/{QUESTION}").text
        assert browser.get("/mcp").status_code == 404
    terminal.until(lambda text: len(re.findall("next sign-in", text)) == 2)
    terminal.process.terminate()
    assert terminal.close() == Exit.OK
