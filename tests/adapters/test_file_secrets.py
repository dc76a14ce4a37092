"""Secret files: atomic, private, locked over processes, and never trusted blindly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mcp_ops import errors
from mcp_ops.adapters.file_secrets import FileSecretsAdapter
from mcp_ops.clock import ManualClock
from tests.served import Wired

FIELDS = {"access_token": "token-canary-1", "scopes": "api refresh_token"}
posix = pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])


@pytest.fixture
def wired(tmp_path: Path) -> Wired:
    return Wired(directory=tmp_path, clock=ManualClock(1_800_000_000.0))


@pytest.fixture
async def store(wired: Wired) -> AsyncIterator[FileSecretsAdapter]:
    async with FileSecretsAdapter.open(FileSecretsAdapter.Settings(), wired.wiring("s")) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "crm-tokens.json"


async def test_what_was_written_is_read_with_growing_versions(store: FileSecretsAdapter) -> None:
    assert await store.read("crm-tokens") is None
    first = await store.write("crm-tokens", FIELDS)
    second = await store.write("crm-tokens", FIELDS | {"more": "x"})
    assert await store.read("crm-tokens") == FIELDS | {"more": "x"}
    assert (first.version, second.version) == (1, 2)
    assert second.updated_at == "2027-01-15T08:00:00.000Z"
    assert store.lasting
    await store.ping()


async def test_file_and_directory_are_for_their_owner_only(
    store: FileSecretsAdapter, path: Path
) -> None:
    await store.write("crm-tokens", FIELDS)
    async with store.lock("crm-tokens", 1):
        modes = {item.name: item.stat().st_mode & 0o777 for item in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_an_open_directory_is_closed_to_others(tmp_path: Path, wired: Wired) -> None:
    directory = tmp_path / "mine"
    directory.mkdir(mode=0o755)
    settings = FileSecretsAdapter.Settings(path=directory)
    async with FileSecretsAdapter.open(settings, wired.wiring("s")):
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        b'{"version": "1", "fields": {}}',
        b'{"version": 1, "fields": {"a": 1}}',
        b"[" * 100_000,
        b" " * 300_000,
    ],
    ids=range(9),
)
async def test_a_damaged_file_is_named_and_its_content_is_not(
    store: FileSecretsAdapter, path: Path, body: bytes
) -> None:
    path.write_bytes(body)
    path.chmod(0o600)
    with pytest.raises(errors.BadAnswer) as caught:
        await store.read("crm-tokens")
    assert "crm-tokens is damaged" in caught.value.message
    assert caught.value.hint
    assert caught.value.__cause__ is None
    assert (await store.write("crm-tokens", FIELDS)).version == 1
    assert await store.read("crm-tokens") == FIELDS


@posix
async def test_a_file_that_others_can_use_is_not_trusted(
    store: FileSecretsAdapter, path: Path, mode: int
) -> None:
    await store.write("crm-tokens", FIELDS)
    path.chmod(mode)
    with pytest.raises(errors.BadAnswer, match="open to other users"):
        await store.read("crm-tokens")


async def test_a_link_in_the_place_of_a_file_is_not_followed(
    store: FileSecretsAdapter, path: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({"version": 1, "fields": {"a": "b"}}), encoding="utf-8")
    elsewhere.chmod(0o600)
    path.symlink_to(elsewhere)
    with pytest.raises(errors.BadAnswer, match="links are not followed"):
        await store.read("crm-tokens")
    before = elsewhere.read_bytes()
    with pytest.raises(errors.BadAnswer):
        await store.write("crm-tokens", FIELDS)
    assert elsewhere.read_bytes() == before


async def test_a_link_in_the_place_of_the_directory_is_refused(
    tmp_path: Path, wired: Wired
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    settings = FileSecretsAdapter.Settings(path=tmp_path / "link")
    with pytest.raises(errors.BadAnswer):
        async with FileSecretsAdapter.open(settings, wired.wiring("s")):
            pass


async def test_a_pipe_in_the_place_of_a_file_does_not_block(
    store: FileSecretsAdapter, path: Path
) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(errors.BadAnswer):
        await store.read("crm-tokens")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".hidden", "a..b", "a\0", "x" * 101])
async def test_a_name_that_could_leave_the_directory_is_refused(
    store: FileSecretsAdapter, name: str
) -> None:
    with pytest.raises(errors.InvalidInput):
        await store.read(name)
    with pytest.raises(errors.InvalidInput):
        await store.write(name, FIELDS)


async def test_a_rest_of_a_killed_write_is_no_obstacle(
    store: FileSecretsAdapter, path: Path
) -> None:
    path.with_suffix(".tmp").write_text("half a secr", encoding="utf-8")
    await store.write("crm-tokens", FIELDS)
    assert await store.read("crm-tokens") == FIELDS
    assert not path.with_suffix(".tmp").exists()


async def test_a_vanished_directory_is_an_error_that_says_nothing_was_stored(
    store: FileSecretsAdapter, path: Path
) -> None:
    path.parent.rmdir()
    with pytest.raises(errors.UpstreamUnavailable) as caught:
        await store.write("crm-tokens", FIELDS)
    assert caught.value.executed == "no"
    assert str(path.parent) not in caught.value.message
    with pytest.raises(errors.UpstreamUnavailable):
        await store.ping()


async def test_token_fields_are_known_to_the_redactor_and_others_are_not(
    store: FileSecretsAdapter, wired: Wired
) -> None:
    await store.write("crm-tokens", FIELDS | {"expires_at": "1800000000.0"})
    await store.read("crm-tokens")
    text = wired.redactor.text("token-canary-1 until 1800000000.0")
    assert "canary" not in text
    assert "1800000000.0" in text


async def test_two_holders_of_a_lock_never_overlap(store: FileSecretsAdapter) -> None:
    inside = 0
    most = 0

    async def hold() -> None:
        nonlocal inside, most
        async with store.lock("crm-tokens", 5):
            inside += 1
            most = max(most, inside)
            await anyio.lowlevel.checkpoint()
            await store.write("crm-tokens", FIELDS)
            inside -= 1

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(hold)
    assert most == 1
    info = await store.write("crm-tokens", FIELDS)
    assert info.version == 5


async def test_a_lock_that_stays_held_is_a_conflict(store: FileSecretsAdapter) -> None:
    async with store.lock("crm-tokens", 1):
        with pytest.raises(errors.Conflict):
            async with store.lock("crm-tokens", 0.1):
                pytest.fail("held twice")
        async with store.lock("other", 0.1):
            pass


async def test_a_cancelled_waiter_leaves_the_lock_free(store: FileSecretsAdapter) -> None:
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        async with store.lock("crm-tokens", 30):
            pytest.fail("it was held")

    async with anyio.create_task_group() as tasks, store.lock("crm-tokens", 1):
        tasks.start_soon(wait)
        await waiting.wait()
        tasks.cancel_scope.cancel()
    async with store.lock("crm-tokens", 1):
        pass


async def test_the_lock_of_a_killed_process_is_free(store: FileSecretsAdapter, path: Path) -> None:
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path.with_suffix(".lock"))], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert await anyio.to_thread.run_sync(holder.stdout.readline) == b"held\n"
        with pytest.raises(errors.Conflict):
            async with store.lock("crm-tokens", 0.1):
                pass
        holder.kill()
    async with store.lock("crm-tokens", 1):
        pass
