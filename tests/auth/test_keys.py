"""Created keys: what is kept of them, who sees them when, and what a revocation ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.auth.keys import MOST_KEPT, MOST_KEYS, PREFIX, KeyBook
from mcp_ops.auth.principal import NO_KEY, Admitted, Denied
from mcp_ops.auth.ring import BELIEVED_S, KeyRing
from mcp_ops.cli import main
from mcp_ops.clock import ManualClock
from mcp_ops.commands.exits import Exit
from mcp_ops.errors import ConfigurationError, Conflict, InvalidInput, NotFound, StoreUnavailable
from mcp_ops.records import AuditQuery
from mcp_ops.redact import Redactor
from tests.auth.standing import ACCEPT, ALICE, BOB, HELLO, PING, Standing, key, standing

REPOSITORY = Path(__file__).parent.parent.parent
AGENT = ("ops:read", "ops:write")


async def made(s: Standing, name: str, *scopes: str, days: float = 1) -> str:
    """A key that the server knows."""
    _, secret = await s.book.create(
        name,
        scopes=scopes or AGENT,
        expires_at=s.b.clock.now() + days * 86_400,
        by="operator:ada",
    )
    await s.ring.refresh()
    return secret


async def test_a_created_key_gets_in_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    async with standing(tmp_path, require_key=True) as s:
        secret = await made(s, "night")
        assert re.fullmatch(rf"{PREFIX}[\w-]{{43}}", secret)
        assert (await s.ask("tools/list", secret)).status_code == 200
        for wrong in (
            secret[:-1],
            secret + "x",
            secret.upper(),
            PREFIX,
            secret.removeprefix(PREFIX),
        ):
            assert (await s.ask("tools/list", wrong)).status_code == 401
        await s.call("look_at_item", secret, name="x")
        (line,) = await s.b.stores.ledger.search(AuditQuery(tool="look_at_item"))
        facts = json.dumps(dict(await s.b.stores.ledger.facts()))
    assert line.principal == "key:night"
    assert secret.removeprefix(PREFIX) not in facts
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert secret.removeprefix(PREFIX).encode() not in everything
    assert secret not in Redactor().text(f"a log line with {secret} in it")


async def test_a_running_server_sees_a_key_and_its_revocation(tmp_path: Path) -> None:
    async with standing(tmp_path, require_key=True) as s:
        s.b.tasks.start_soon(s.ring.follow, 0.02)
        _, secret = await s.book.create(
            "night", scopes=AGENT, expires_at=s.b.clock.now() + 60, by="operator:ada"
        )

        async def until(status: int) -> None:
            while (await s.ask("tools/list", secret)).status_code != status:
                await anyio.sleep(0.02)

        with anyio.fail_after(20):
            await until(200)
            (used,) = await s.book.all()
            while used.used_at is None:
                await anyio.sleep(0.02)
                (used,) = await s.book.all()
            assert used.used_at == s.b.clock.now()
            await s.book.revoke("night", by="operator:ada")
            await until(401)


async def test_a_revocation_ends_streams_and_sessions(tmp_path: Path) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE)]) as s:
        secret = await made(s, "night")
        head = {"authorization": f"Bearer {secret}"}
        opened = await s.http.post("/mcp", headers={**ACCEPT, **head}, json=HELLO)
        session = {**ACCEPT, **head, "mcp-session-id": opened.headers["mcp-session-id"]}
        async with (
            s.http.stream("GET", "/sse", headers=head) as lost,
            s.http.stream("GET", "/sse", headers={"authorization": f"Bearer {ALICE}"}) as kept,
        ):
            ended, stays = lost.aiter_lines(), kept.aiter_lines()
            await anext(ended)
            await anext(stays)
            await s.book.revoke("night", by="operator:ada")
            await s.ring.refresh()
            with anyio.fail_after(20):
                async for _ in ended:  # within the second of a sweep
                    pass
            assert len(s.app.state.edge.streams) == 1
            assert (await s.http.post("/mcp", headers=session, json=PING)).status_code == 401


async def test_a_key_expires(tmp_path: Path) -> None:
    async with standing(tmp_path, require_key=True) as s:
        secret = await made(s, "night", days=1)
        s.b.clock.advance(86_399)
        await s.ring.refresh()
        assert (await s.ask("tools/list", secret)).status_code == 200
        s.b.clock.advance(1)
        assert (await s.ask("tools/list", secret)).status_code == 401


async def test_who_had_a_key_once_never_lets_in_everybody_again(tmp_path: Path) -> None:
    async with standing(tmp_path) as s:
        assert (await s.ask("tools/list")).status_code == 200  # loopback, and nothing set up
        await made(s, "night")
        assert (await s.ask("tools/list")).status_code == 401
        await s.book.revoke("night", by="operator:ada")
        await s.ring.refresh()
        assert (await s.ask("tools/list")).status_code == 401
        again = KeyRing((), s.b.clock, book=s.book)
        await again.refresh()
        assert again.ever


async def test_a_created_key_that_may_approve_opens_the_page_until_it_is_revoked(
    tmp_path: Path,
) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE)]) as s:
        assert (await s.http.get("/approvals")).status_code == 404
        secret = await made(s, "ada", "ops:read", "ops:approve")
        origin = {"origin": s.url}
        for wrong in (ALICE, "x"):
            answer = await s.http.post("/approvals/sign-in", data={"secret": wrong}, headers=origin)
            assert answer.status_code == 401
        signed = await s.http.post("/approvals/sign-in", data={"secret": secret}, headers=origin)
        assert signed.status_code == 303
        place = signed.headers["location"]
        # httpx keeps the cookie for the path, as a browser does.
        assert "key:ada" in (await s.http.get(place)).text
        await made(s, "bob", "ops:approve")
        await s.book.revoke("ada", by="operator:ada")
        await s.ring.refresh()
        after = await s.http.get(place)
        assert "key:ada" not in after.text
        assert "Sign in" in after.text


async def test_names_are_used_once_at_a_time(tmp_path: Path) -> None:
    async with standing(tmp_path) as s:
        await made(s, "night")
        with pytest.raises(Conflict):
            await made(s, "night")
        with pytest.raises(Conflict):
            await s.book.create(
                "alice", scopes=AGENT, expires_at=None, by="x", taken=frozenset({"alice"})
            )
        with pytest.raises(NotFound):
            await s.book.revoke("nobody", by="x")
        s.b.clock.advance(1)
        (first,) = await s.book.revoke("night", by="operator:ada")
        with pytest.raises(NotFound):
            await s.book.revoke(first.id, by="operator:bob")
        await made(s, "night")
        states = [each.state(s.b.clock.now()) for each in await s.book.all()]
    assert states == ["revoked", "active"]


class Kept:
    """Facts in memory, which can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.away = False

    async def facts(self) -> dict[str, str]:
        if self.away:
            raise StoreUnavailable("It is away.")
        return dict(self.kept)

    async def put_fact(self, name: str, value: str) -> None:
        self.kept.pop(name, None)
        if value:
            self.kept[name] = value

    async def lock(self, name: str, holder: str, until: float) -> int | None:
        return 1

    async def unlock(self, name: str, fence: int) -> None:
        return


async def test_while_the_ledger_is_away_keys_are_believed_for_a_quarter_of_an_hour() -> None:
    clock, kept = ManualClock(), Kept()
    book = KeyBook(kept, clock.now)
    _, secret = await book.create("night", scopes=AGENT, expires_at=None, by="x")
    ring = KeyRing([key("alice", ALICE)], clock, book=book)
    await ring.refresh()
    kept.away = True
    clock.advance(BELIEVED_S)
    found = ring.find(secret.encode())
    assert isinstance(found, Admitted)
    assert ring.holds(found.key_id)
    clock.advance(1)
    away = ring.find(secret.encode())
    assert isinstance(away, Denied)
    assert away.status == 503
    assert not ring.holds(found.key_id)
    assert isinstance(ring.find(ALICE.encode()), Admitted)
    assert ring.find(b"x") is NO_KEY
    with pytest.raises(StoreUnavailable):
        await ring.refresh()


async def test_a_vote_of_a_key_counts_while_the_key_may_approve() -> None:
    clock, kept = ManualClock(), Kept()
    ring = KeyRing([key("alice", ALICE)], clock, book=KeyBook(kept, clock.now))
    assert ring.book is not None
    assert not ring.may_approve()
    await ring.book.create("ada", scopes=("ops:approve",), expires_at=clock.now() + 60, by="x")
    await ring.refresh()
    assert ring.may_approve()
    assert "key:ada" in ring
    assert "key:alice" not in ring
    assert ring.scopes()["key:ada"] == {"ops:approve"}
    clock.advance(60)
    assert "key:ada" not in ring
    assert set(ring.scopes()) == {"key:alice"}


async def test_a_store_that_is_away_for_a_while_is_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, kept = ManualClock(), Kept()
    ring = KeyRing((), clock, book=KeyBook(kept, clock.now))
    kept.away = True
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ring.follow, 0.01)
            while "could not be read" not in caplog.text:
                await anyio.sleep(0.01)
            kept.away = False
            await KeyBook(kept, clock.now).create("x", scopes=AGENT, expires_at=None, by="x")
            while not ring.ever:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    await KeyRing((), clock).follow()  # without a book there is nothing to follow


async def test_the_book_has_an_end_and_forgets_what_lets_nobody_in_first() -> None:
    clock, kept = ManualClock(), Kept()
    book = KeyBook(kept, clock.now)
    first, _ = await book.create("first", scopes=AGENT, expires_at=clock.now() + 1, by="x")
    line = kept.kept[f"api-key|{first.id}"]
    clock.advance(2)
    for number in range(MOST_KEPT - 1):
        old = {**json.loads(line), "id": f"{number:016}", "created_at": clock.now()}
        kept.kept[f"api-key|{number:016}"] = json.dumps(old)
    await book.create("one", scopes=AGENT, expires_at=None, by="x")
    assert len(await book.all()) == MOST_KEPT
    assert f"api-key|{first.id}" not in kept.kept
    for number in range(MOST_KEYS - 1):
        living = {**json.loads(line), "id": f"{number:016}", "name": f"n{number}"}
        kept.kept[f"api-key|{number:016}"] = json.dumps({**living, "expires_at": None})
    with pytest.raises(InvalidInput):
        await book.create("more", scopes=AGENT, expires_at=None, by="x")


async def test_what_is_no_key_in_the_store_lets_nobody_in() -> None:
    clock, kept = ManualClock(), Kept()
    book = KeyBook(kept, clock.now)
    _, secret = await book.create("night", scopes=AGENT, expires_at=None, by="x")
    (name, line), *_ = kept.kept.items()
    for wrong in (
        "nonsense",
        "[]",
        json.dumps({**json.loads(line), "digest": "zz"}),
        json.dumps({**json.loads(line), "digest": ""}),
        json.dumps({**json.loads(line), "expires_at": "never"}),
        json.dumps({**json.loads(line), "name": 7}),
        json.dumps({**json.loads(line), "more": 1}),
    ):
        kept.kept[name] = wrong
        ring = KeyRing((), clock, book=book)
        await ring.refresh()
        assert ring.find(secret.encode()) is NO_KEY, wrong


def test_two_keys_of_one_value_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        KeyRing([key("alice", ALICE), key("bob", ALICE)], ManualClock())
    assert ALICE not in str(error.value)


async def test_two_processes_on_one_state_know_the_same_keys(tmp_path: Path) -> None:
    """As `mcp-ops keys` and a server do. Replicas: tests/stores/test_contract_keys.py."""
    async with standing(tmp_path, require_key=True) as one:
        secret = await made(one, "night")
        async with standing(tmp_path, require_key=True) as two:
            assert (await two.ask("tools/list", secret)).status_code == 200
            await one.book.revoke("night", by="operator:ada")
            await two.ring.refresh()
            assert (await two.ask("tools/list", secret)).status_code == 401


# ---- the command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory, and a key of the configuration."""
    monkeypatch.setenv("MCP_OPS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MCP_OPS_KEY", BOB)
    monkeypatch.setenv("MCP_OPS_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["keys", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_without_a_terminal_no_key_is_created(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = said(capsys, "create", "night")
    assert code == Exit.APPROVAL
    assert error["error"]["code"] == "approval_required"
    for wrong in (("create", "Night"), ("create", "x", "--scope", "ops:reed")):
        assert said(capsys, *wrong)[0] == Exit.USAGE
    assert main(["keys", "create", "x", "--days", "0"]) == Exit.USAGE
    assert [row["name"] for row in said(capsys, "list")[1]] == ["env"]
    assert said(capsys, "revoke", "env")[0] == Exit.FAILED


def test_a_person_at_a_terminal_creates_a_key_and_sees_it_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mcp_ops", "keys", "create", "night", "--scope", "ops:read"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "NO_COLOR": "1"},
    )
    os.close(theirs)
    text = ""
    while "[y/N]" not in text:
        ready, _, _ = select.select([ours], [], [], 20)
        assert ready, text
        text += os.read(ours, 65_536).decode()
    assert "night allows ops:read for 90 days" in text
    os.write(ours, b"y\n")
    out, _ = process.communicate(timeout=20)
    os.close(ours)
    assert process.returncode == Exit.OK
    secret = out.decode().strip()
    assert re.fullmatch(rf"{PREFIX}[\w-]{{43}}", secret)
    _, rows = said(capsys, "list")
    assert [(row["name"], row["state"], row["scopes"]) for row in rows] == [
        ("night", "active", "ops:read"),
        ("env", "configured", "ops:read ops:write ops:destroy"),
    ]
    assert secret not in json.dumps(rows)
    code, revoked = said(capsys, "revoke", "night")
    assert (code, revoked[0]["state"]) == (Exit.OK, "revoked")
    assert said(capsys, "revoke", "night")[0] == Exit.FAILED
    main(["audit", "tail", "--json"])
    lines = [line for line in capsys.readouterr().out.splitlines() if '"keys"' in line]
    assert [json.loads(line)["outcome"] for line in lines] == ["created", "revoked"]
    assert secret not in "".join(lines)
