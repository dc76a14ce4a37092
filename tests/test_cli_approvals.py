"""`mcp-ops approvals` on a real store: what it shows, who may, and what becomes of the question."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_ops.cli import main
from mcp_ops.clock import SystemClock
from mcp_ops.commands.exits import Exit
from mcp_ops.questions import Approval
from mcp_ops.stores.sqlite.embedded import Stores, open_stores
from tests.stores import records

REPOSITORY = Path(__file__).parent.parent
CLOCK = SystemClock()
QUESTION = "a1b2c3d4"
COMMAND = (sys.executable, "-m", "mcp_ops", "approvals")


@dataclass(frozen=True)
class Place:
    """A state directory with one question for two people, and the file that names it."""

    state: Path
    config: Path

    def open(self) -> AbstractAsyncContextManager[Stores]:
        return open_stores(self.state / "state.db", CLOCK)

    def stored(self) -> Approval:
        async def look() -> Approval | None:
            async with self.open() as stores:
                return await stores.approvals.get(QUESTION)

        found = anyio.run(look)
        assert found is not None
        return found

    def vote(self, *people: str) -> None:
        async def say() -> None:
            async with self.open() as stores:
                for by in people:
                    await stores.approvals.decide(
                        QUESTION, approved=True, by=by, note="ok", at=CLOCK.now()
                    )

        anyio.run(say)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(state=tmp_path / "state", config=tmp_path / "config.toml")
    made.config.write_text(f'state_dir = "{made.state.as_posix()}"\n', encoding="utf-8")
    question = records.approval(
        CLOCK,
        QUESTION,
        needed=2,
        seen_shown={"plan": ["restart api"], "profile": "solo", "approvers": ["operator:*"]},
    )

    async def ask() -> None:
        async with made.open() as stores:
            await stores.approvals.ask(question, max_pending=3)

    anyio.run(ask)
    return made


def said(place: Place, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main(["approvals", *arguments, "--json", "--config", str(place.config)])
    return code, json.loads(capsys.readouterr().out)


def test_show_says_everything_that_is_bound(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.vote("operator:ada")
    code, shown = said(place, capsys, "show", QUESTION)
    assert code == Exit.OK
    assert (shown["state"], shown["needed"], shown["votes"][0]["by"]) == (
        "pending",
        2,
        "operator:ada",
    )
    assert shown["seen"]["plan"] == ["restart api"]
    assert main(["approvals", "show", QUESTION, "--config", str(place.config)]) == Exit.OK
    text = capsys.readouterr().out
    for part in (
        "restart_deployment on shop",
        "restart api",
        "digest: d",
        "1 of 2",
        "operator:ada",
    ):
        assert part in text
    assert main(["approvals", "list", "--config", str(place.config)]) == Exit.OK
    assert "1 of 2" in capsys.readouterr().out


def test_without_a_terminal_a_question_is_denied_and_taken_back_but_never_approved(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("approve", QUESTION), ("page",)):
        code, refused = said(place, capsys, *command)
        assert (code, refused["error"]["code"]) == (Exit.REFUSED, "permission_denied")
    place.vote("operator:ada", "operator:bob")
    code, gone = said(place, capsys, "revoke", QUESTION, "--reason", "wrong cluster")
    assert (code, gone["state"], gone["note"]) == (Exit.OK, "revoked", "wrong cluster")
    code, again = said(place, capsys, "revoke", QUESTION)
    assert again["error"]["code"] == "not_found"
    code, missing = said(place, capsys, "deny", "0000")
    assert missing["error"]["code"] == "not_found"
    assert place.stored().state == "revoked"


def test_deny_tells_why(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    code, denied = said(place, capsys, "deny", QUESTION, "--reason", "not today")
    assert (code, denied["state"], denied["note"]) == (Exit.OK, "denied", "not today")


# ---- at a terminal


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.end, child = pty.openpty()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mcp_ops",
                "approvals",
                *arguments,
                "--config",
                str(place.config),
            ],
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
        while not (value := found(self.text)):
            ready, _, _ = select.select([self.end], [], [], 20)
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


def test_a_person_at_a_terminal_looks_types_and_says_why(place: Place) -> None:
    place.vote("operator:somebody-else")
    terminal = Terminal(place, "approve", QUESTION)
    terminal.until(lambda text: "characters of the id" in text)
    assert "restart api" in terminal.text
    terminal.type(QUESTION[:4])
    terminal.until(lambda text: "Reason" in text)
    terminal.type("looked at it")
    terminal.until(lambda text: f"approved: {QUESTION}" in text)
    assert terminal.close() == Exit.OK
    after = place.stored()
    assert (after.state, after.note, len(after.votes)) == ("approved", "looked at it", 2)
    assert after.decided_by.startswith("operator:")


def test_the_wrong_characters_approve_nothing(place: Place) -> None:
    terminal = Terminal(place, "approve", QUESTION)
    terminal.until(lambda text: "characters of the id" in text)
    terminal.type("yes")
    assert terminal.close() == Exit.APPROVAL
    assert place.stored().votes == ()


def test_the_page_of_the_terminal_is_on_loopback_and_ends_with_it(place: Place) -> None:
    terminal = Terminal(place, "page")
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
