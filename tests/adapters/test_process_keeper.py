"""A keeper that is slow, hostile or without room, and the two files that it writes into."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.process.control import short_path
from mcp_ops.adapters.process.keeper import Keeper
from mcp_ops.adapters.process.record import read_state
from mcp_ops.adapters.process.ring import LOG, OLD_LOG, Ring
from mcp_ops.errors import BadAnswer, ConnectionLost, NotFound, Rejected, UpstreamTimeout
from mcp_ops.tools.deployments import restart_deployment
from mcp_ops.tools.rollouts import start_deployment
from mcp_ops.wire.marked import left_over
from tests.adapters.process_stage import Stage, serving, shell, stage, write


@asynccontextmanager
async def pretending(place: Stage, *answers: bytes) -> AsyncIterator[None]:
    """Somebody who listens where the keeper would, and says this, one after the other."""
    place.folder().mkdir(parents=True)
    left = list(answers)

    async def say(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(left.pop(0) if len(left) > 1 else left[0])

    with short_path(place.folder()) as path:
        listener = await anyio.create_unix_listener(path)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, say)
            yield
            tasks.cancel_scope.cancel()


async def test_silent_keeper_leaves_it_unknown_and_one_effect(tmp_path: Path) -> None:
    async with stage(tmp_path, timeout_s=1.0, crm=serving()) as place:
        done: Any = await start_deployment.function(place.platform, write(), "crm", 300)
        assert done.outcome == "verified"
        plan = await place.platform.plan_restart("crm")
        keeper = place.keeper()
        os.kill(keeper, signal.SIGSTOP)
        try:
            with pytest.raises(UpstreamTimeout) as raised:
                await place.platform.begin(plan, reason="r", call_id="call-2")
            assert raised.value.executed == "unknown"
            with pytest.raises(UpstreamTimeout):
                await place.platform.find(plan, "call-2")
        finally:
            os.kill(keeper, signal.SIGCONT)
        # It was in the queue all the time: the look that comes later finds it, once.
        begun = await place.platform.begin(plan, reason="r", call_id="call-2")
        assert begun.version == "2"
        await place.until(lambda record: record["run"] == 2 and record["phase"] == "running")
        assert place.record()["generation"] == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"{x\n", BadAnswer),
        (b"x" * 300_000, BadAnswer),
        (b'{"ok": false}\n', Rejected),
        (b'{"ok": false, "why": "disk"}\n', Rejected),
        (b'{"ok": true, "call": 3}\n', Rejected),
    ],
)
async def test_hostile_answer_of_a_keeper_is_told(
    tmp_path: Path, answer: bytes, kind: type[Exception]
) -> None:
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_start("crm")
        async with pretending(place, answer):
            with pytest.raises(kind):
                await place.platform.begin(plan, reason="r", call_id="call-1")
        assert place.starts() == []


def test_keeper_is_started_on_the_fast_loop_and_inherits_nothing(tmp_path: Path) -> None:
    def held(keeper: int) -> list[str]:
        """What kinds of descriptors it has, but for files."""
        found = set()
        for each in Path(f"/proc/{keeper}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed just now
                found.add(str(each.readlink()))
        kept = ("anon_inode:", "/dev/null", str(tmp_path))
        return sorted(each.partition(":")[0] for each in found if not each.startswith(kept))

    async def begun() -> None:
        async with stage(tmp_path) as place:
            plan = await place.platform.plan_start("crm")
            await place.platform.begin(plan, reason="r", call_id="call-1")
            await place.until(lambda record: record["ready"] > 0)
            # Its socket, a pair to wake it, and the command's two pipes; whoever asked it last may
            # still be on the line.
            with anyio.fail_after(20):
                while held(place.keeper()) != [*["pipe"] * 2, *["socket"] * 3]:
                    await anyio.sleep(0.02)

    anyio.run(begun, backend_options={"use_uvloop": True})


@pytest.mark.parametrize("silences", [3, 9])
async def test_keeper_that_goes_without_a_word_is_asked_again_and_not_taken_for_gone(
    tmp_path: Path, silences: int
) -> None:
    async with stage(tmp_path) as place:
        state = {**read_state(place.folder()), "phase": "running", "ready": 1.0, "run": 1}
        told = json.dumps({"ok": True, "state": state}).encode() + b"\n"
        async with pretending(place, *[b""] * silences, told):
            (place.folder() / "state.json").write_text(json.dumps(state))
            if silences == 3:
                assert (await place.platform.describe("crm")).problem == "none"
            else:
                with pytest.raises(ConnectionLost):
                    await place.platform.describe("crm")
            (place.folder() / "state.json").unlink()  # there is no keeper to end


async def test_hostile_state_is_not_believed_further_than_its_shape(tmp_path: Path) -> None:
    async with stage(tmp_path) as place, pretending(place, b'{"ok": true, "state": 3}\n'):
        assert (await place.platform.describe("crm")).problem == "scaled_to_zero"


def config(**more: Any) -> dict[str, Any]:
    """What a keeper is told."""
    return {
        "argv": ["/bin/true"],
        "cwd": "/",
        "env": {},
        "restart": "never",
        "backoff_s": 1.0,
        "max_backoff_s": 1.0,
        "stop_signal": "TERM",
        "grace_s": 1.0,
        "ready_log": "",
        "log_bytes": 65_536,
        **more,
    }


async def test_command_hears_the_hangup_that_its_keeper_does_not(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 0' HUP; echo up; while :; do sleep 0.05; done"
    deaf = shell(script, ready_log="up", stop_signal="HUP", grace_s=300.0)
    async with stage(tmp_path, crm=deaf) as place:
        await start_deployment.function(place.platform, write(), "crm", 300)
        plan = await place.platform.plan_stop("crm")
        await place.platform.begin(plan, reason="r", call_id="call-2")
        await place.until(lambda record: record["phase"] == "stopped")
        assert place.record()["exit"]["code"] == 0


def test_request_that_cannot_be_written_down_is_not_carried_out(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, config())
    (tmp_path / "state.json.tmp").mkdir()  # as a full disk: no draft can be written
    told = keeper.answer({"do": "start", "call": "c", "generation": 0})
    assert told == {"ok": False, "why": "disk"}
    assert keeper.child is None
    assert keeper.state["generation"] == 0
    assert keeper.answer({"do": "explode", "call": "c", "generation": 0})["why"] == "bad"
    assert keeper.answer({"do": "start", "call": "", "generation": 0})["why"] == "bad"


def test_state_that_is_no_state_is_an_empty_one(tmp_path: Path) -> None:
    for text in ("", "3", "{", "[]"):
        (tmp_path / "state.json").write_text(text)
        assert read_state(tmp_path)["phase"] == "stopped"


def test_mark_is_the_only_proof() -> None:
    assert left_over("") == []
    assert left_over("0" * 32) == []


def test_output_is_kept_in_bounds_and_lines_whole(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 65_536)
    assert ring.feed("out", b"half a ", 1) == []
    assert ring.feed("out", b"line\nnext\n\xff\xfe\n", 1) == ["half a line", "next", "\ufffd\ufffd"]
    assert [len(line) for line in ring.feed("err", b"x" * 20_000, 1)] == [8_192, 8_192]
    ring.flush(1)
    kept = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [len(each["m"]) for each in kept] == [11, 4, 2, 8_192, 8_192, 3_616]
    for number in range(3_000):
        ring.feed("out", f"line {number}\n".encode() * 10, 2)
    sizes = [
        (tmp_path / name).stat().st_size for name in (LOG, OLD_LOG) if (tmp_path / name).exists()
    ]
    assert sum(sizes) < 65_536 + 2_048


async def test_newest_lines_are_read_over_both_files(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 900 ]; do echo ERROR number $i of many words; i=$((i+1)); done"
    noisy = shell(f"{script}; echo up; exec sleep 600", ready_log="up", log_bytes=65_536)
    async with stage(tmp_path, crm=noisy) as place:
        await start_deployment.function(place.platform, write(), "crm", 300)
        asked: dict[str, Any] = {"since_minutes": 5, "tail": 2, "grep": "number", "level": "error"}
        found = await place.platform.logs("crm", previous=False, **asked)
        assert [line.text for line in found.items] == [
            "ERROR number 898 of many words",
            "ERROR number 899 of many words",
        ]
        assert (place.folder() / OLD_LOG).exists()
        with pytest.raises(NotFound):
            await place.platform.logs("crm", previous=True, **asked)


async def test_restart_takes_the_configuration_as_it_is_now(tmp_path: Path) -> None:
    async with stage(tmp_path, crm=shell("echo old; exec sleep 600", ready_log="old")) as place:
        await start_deployment.function(place.platform, write(), "crm", 300)
        new = shell("echo new; exec sleep 600", ready_log="new")
        async with stage(tmp_path, crm=new) as later:
            done: Any = await restart_deployment.function(
                later.platform, write(call_id="call-2"), "crm", 300
            )
            assert done.outcome == "verified"
