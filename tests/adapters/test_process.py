"""Commands under a keeper: real processes, started once a call, kept, ended, and never orphaned."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from mcp_ops.adapters.process.adapter import ProcessAdapter
from mcp_ops.adapters.process.settings import ProcessSettings
from mcp_ops.errors import Conflict, InvalidInput, NotFound, Unreachable
from mcp_ops.tools.deployments import get_deployment, list_deployments, restart_deployment
from mcp_ops.tools.rollouts import start_deployment, stop_deployment
from tests.adapters.process_stage import (
    Stage,
    alive,
    end,
    gone,
    serving,
    shell,
    stage,
    wiring,
    write,
)
from tests.cancelling import once_sent
from tests.second_run import goes_on


async def act(place: Stage, tool: Any, name: str = "crm", wait_s: int = 300, **frame: Any) -> Any:
    return await tool.function(place.platform, write(**frame), name, wait_s)


async def started(place: Stage, name: str = "crm") -> int:
    done = await act(place, start_deployment, name, call_id=f"start-{name}")
    assert done.outcome == "verified", done
    return int(done.evidence["pid"])


async def test_command_is_started_restarted_and_stopped(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        page: Any = await list_deployments.function(place.platform, 20, "")
        assert [(one.name, one.problem, one.desired) for one in page.items] == [
            ("crm", "scaled_to_zero", 0)
        ]
        first = await started(place)
        done = await act(place, restart_deployment)
        assert (done.outcome, done.ready, done.generation) == ("verified", "1/1", 2)
        second = done.evidence["pid"]
        assert (done.evidence["pid_before"], done.evidence["run"]) == (first, 2)
        assert not alive(first)
        assert alive(second)
        found: Any = await get_deployment.function(place.platform, "crm")
        assert (found.problem, found.explanation, found.ready) == ("none", "It runs.", 1)
        assert found.instances[0].name == f"pid {second}"
        assert found.conditions[1].type == "Memory"
        stopped = await act(place, stop_deployment, call_id="call-2")
        assert stopped.outcome == "verified"
        assert stopped.evidence["last_exit"] == "ended by SIGTERM"
        assert stopped.undo.tool == "start_deployment"
        await gone(second)
        with anyio.fail_after(20):
            while place.keeper():  # it has nothing left to keep
                await anyio.sleep(0.01)
        assert place.starts() == [first, second]


async def test_nothing_is_done_for_what_is_so_already(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        assert (await act(place, stop_deployment)).plan == ["Nothing to do: it does not run."]
        with pytest.raises(Conflict):
            await act(place, restart_deployment)
        planned = await act(place, start_deployment, dry_run=True)
        assert planned.plan == ["Start crm.", "Now: It was not started yet."]
        assert place.starts() == []
        await started(place)
        again = await act(place, start_deployment, call_id="call-2")
        assert again.plan == ["Nothing to do: it runs already."]
        assert len(place.starts()) == 1
        for name in ("other", "crm2"):
            with pytest.raises(NotFound):
                await place.platform.describe(name)
        with pytest.raises(InvalidInput):
            await place.platform.list_workloads(limit=1, cursor="other")


async def test_command_outlives_its_server_and_the_next_one_finds_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        pid = await started(place)
        settings = ProcessSettings.model_validate({"commands": {"crm": serving()}})
        async with ProcessAdapter.open(settings, wiring(tmp_path)) as another:
            assert (await another.describe("crm")).instances[0].name == f"pid {pid}"
        assert alive(pid)


async def test_killed_command_is_started_again_with_a_wait(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        pid = await started(place)
        os.kill(pid, signal.SIGKILL)
        await place.until(lambda record: record["run"] == 2 and record["ready"])
        found = await place.platform.describe("crm")
        assert found.restarts == 1
        assert found.instances[0].last_exit == "ended by SIGKILL, which nobody sent from here"
        assert len(place.starts()) == 2


async def test_command_that_dies_again_and_again_is_failed(tmp_path: Path) -> None:
    slow = {"backoff_s": 600.0, "max_backoff_s": 600.0, "settle_s": 60.0}
    broken = shell("echo no database >&2; exit 3", **slow)
    async with stage(tmp_path, crm=broken) as place:
        done = await act(place, start_deployment)
        assert done.outcome == "failed"
        assert done.problem == "It dies again and again (1 restarts): exit code 3."
        found = await place.platform.describe("crm")
        assert found.problem == "crash_loop"
        logs = await place.platform.logs(
            "crm", since_minutes=5, tail=5, grep="", level="", previous=True
        )
        assert [(line.instance, line.text) for line in logs.items] == [("run 1 err", "no database")]
        ended = await act(place, stop_deployment, call_id="call-2")
        assert ended.outcome == "verified"


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("never", 3, False), ("on-failure", 0, False), ("on-failure", 3, True), ("always", 0, True)],
)
async def test_policy_decides_what_follows_an_end(
    tmp_path: Path, policy: str, code: int, again: bool
) -> None:
    script = f'echo "effect start $$" >> {{log}}; exit {code}'
    async with stage(tmp_path, crm=shell(script, restart=policy)) as place:
        await act(place, start_deployment, wait_s=0)
        if again:
            await place.until(lambda record: record["restarts"] >= 2)
        else:
            await place.until(lambda record: record["phase"] in ("failed", "stopped"))
            assert len(place.starts()) == 1
            assert place.record()["exit"]["code"] == code


async def test_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = {**shell(""), "argv": [str(tmp_path / "nothing")], "restart": "never"}
    async with stage(tmp_path, crm=missing) as place:
        done = await act(place, start_deployment)
        assert done.outcome == "failed"
        assert done.problem == "It ended and is not started again: exit code 127."
        logs = await place.platform.logs(
            "crm", since_minutes=5, tail=5, grep="", level="", previous=False
        )
        assert logs.items[0].text.startswith("mcp-ops: No such file or directory")


async def test_command_that_ignores_the_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = shell('trap "" TERM; echo up; while :; do sleep 600; done', grace_s=0.2)
    async with stage(tmp_path, crm={**stubborn, "ready_log": "up"}) as place:
        pid = await started(place)
        done = await act(place, stop_deployment)
        assert (done.outcome, done.evidence["last_exit"]) == ("verified", "ended by SIGKILL")
        assert not alive(pid)


async def test_children_end_with_the_command_wherever_they_hid(tmp_path: Path) -> None:
    script = "setsid sleep 600 & echo child $! up; sleep 600 & wait"
    async with stage(tmp_path, crm=shell(script, ready_log="up")) as place:
        await started(place)
        logs = await place.platform.logs(
            "crm", since_minutes=5, tail=5, grep="child", level="", previous=False
        )
        hidden = int(logs.items[0].text.split()[1])
        assert alive(hidden)
        await act(place, stop_deployment)
        await gone(hidden)


async def test_killed_keeper_takes_its_command_along_and_the_next_one_begins_anew(
    tmp_path: Path,
) -> None:
    script = "setsid sleep 600 & echo $! up; exec sleep 600"
    async with stage(tmp_path, crm=shell(script, ready_log="up")) as place:
        pid = await started(place)
        token = place.record()["token"]
        logs = await place.platform.logs(
            "crm", since_minutes=5, tail=5, grep="", level="", previous=False
        )
        stray = int(logs.items[0].text.split()[0])
        os.kill(place.keeper(), signal.SIGKILL)
        await gone(pid)
        assert alive(stray)  # in a session of its own: only the mark shows whose it is
        found = await place.platform.describe("crm")
        assert (found.problem, found.instances[0].name) == ("not_ready", "ended")
        assert found.explanation.startswith("Its keeper is gone")
        with pytest.raises(Conflict):
            await act(place, restart_deployment)
        done = await act(place, start_deployment, call_id="call-2")
        assert (done.outcome, done.evidence["run"]) == ("verified", 2)
        await gone(stray)
        assert place.record()["token"] != token


async def test_process_that_only_has_the_number_is_left_alone(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        pid = await started(place)
        os.kill(place.keeper(), signal.SIGKILL)
        await gone(pid)
        other = await anyio.open_process(["/bin/sleep", "600"])
        try:
            path = place.folder() / "state.json"
            path.write_text(path.read_text().replace(f'"pid": {pid}', f'"pid": {other.pid}'))
            done = await act(place, stop_deployment, call_id="call-2")
            assert done.outcome == "verified"
            assert alive(other.pid)
        finally:
            other.kill()
            await other.aclose()


async def test_same_call_again_is_answered_and_not_repeated(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await started(place)
        plan = await place.platform.plan_restart("crm")
        assert await place.platform.find(plan, "call-7") is None
        first = await place.platform.begin(plan, reason="r", call_id="call-7")
        again = await place.platform.begin(plan, reason="r", call_id="call-7")
        found = await place.platform.find(plan, "call-7")
        assert first == again == found
        await place.until(lambda record: record["run"] == 2 and record["phase"] == "running")
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="r", call_id="call-8")
        await anyio.sleep(0)
        assert place.record()["generation"] == 2


@pytest.mark.parametrize("killed_after", [True, False])
async def test_killed_server_is_followed_by_one_that_restarts_once(
    tmp_path: Path, killed_after: bool
) -> None:
    async with stage(tmp_path) as place:
        await started(place)
        plan = await place.platform.plan_restart("crm")
        if killed_after:
            await place.platform.begin(plan, reason="r", call_id="call-1")
        frame = goes_on(write(call_id="call-1"), plan)
        done: Any = await restart_deployment.function(place.platform, frame, "crm", 300)
        assert (done.outcome, done.generation, done.evidence["run"]) == ("verified", 2, 2)
        assert len(place.starts()) == 2


async def test_two_servers_that_start_it_at_once_start_it_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_start("crm")
        ended: list[str] = []

        async def start(call_id: str) -> None:
            try:
                await place.platform.begin(plan, reason="r", call_id=call_id)
                ended.append("begun")
            except Conflict:
                ended.append("conflict")

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(start, f"call-{number}")
        assert sorted(ended) == ["begun", "conflict", "conflict"]
        await place.until(lambda record: record["phase"] == "running" and record["ready"])
        assert len(place.starts()) == 1


async def test_other_change_after_ours_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await started(place)
        plan = await place.platform.plan_restart("crm")
        begun = await place.platform.begin(plan, reason="r", call_id="call-1")
        await act(place, stop_deployment, call_id="call-2")
        seen = await place.platform.follow(plan, begun)
        assert seen.state == "superseded"


async def test_call_that_is_cancelled_leaves_one_effect(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await started(place)
        plan = await place.platform.plan_restart("crm")
        with anyio.move_on_after(0.001):
            await place.platform.begin(plan, reason="r", call_id="call-1")
        begun = await place.platform.begin(plan, reason="r", call_id="call-1")
        assert begun.version == "2"
        done = await act(place, restart_deployment, call_id="call-2", cancelled=once_sent())
        assert done.outcome in ("unconfirmed", "verified")
        assert place.record()["generation"] == 3


async def test_ready_is_what_the_check_says(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    checks: dict[str, Any] = {
        "port": {"ready_port": port},
        "url": {"ready_url": f"http://127.0.0.1:{port}/"},
        "words": {"ready_log": "listening"},
        "time": {"settle_s": 300.0},
    }
    commands = {name: shell("exec sleep 600", **check) for name, check in checks.items()}
    async with stage(tmp_path, commands) as place:
        problems = {}
        for name in commands:
            problems[name] = (await act(place, start_deployment, name, wait_s=1)).problem
        assert problems == {
            "port": f"Not ready in time: nothing listens on port {port}.",
            "url": "Not ready in time: its check gets no answer.",
            "words": "Not ready in time: it has not written the words that it is ready.",
            "time": "Not ready in time: it runs, but not for 300 seconds yet.",
        }
        with socket.create_server(("127.0.0.1", port)):
            assert (await place.platform.describe("port")).problem == "none"
        assert (await place.platform.describe("words")).problem == "not_ready"
        for name in commands:
            end(place, name)


async def test_command_sees_only_the_variables_that_it_was_given(tmp_path: Path) -> None:
    given = {"env": {"MODE": "x"}, "secrets": {"TOKEN": "geheim-0123456789"}}
    script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; echo up; exec sleep 600"
    async with stage(tmp_path, crm=shell(script, ready_log="up", **given)) as place:
        await started(place)
        logs = await place.platform.logs(
            "crm", since_minutes=5, tail=5, grep="MODE", level="", previous=False
        )
        names = set(logs.items[0].text.split()) - {"PWD", "OLDPWD", "SHLVL", "_"}
        assert names == {"HOME", "LANG", "MCP_OPS_RUN", "MODE", "PATH", "TOKEN"}
        for path in place.folder().iterdir():
            if path.is_file():
                assert b"geheim" not in path.read_bytes()
                assert path.stat().st_mode & 0o077 == 0


async def test_state_directory_that_takes_nothing_starts_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        (tmp_path / "process").write_text("a file where the folder should be", encoding="utf-8")
        with pytest.raises(Unreachable):
            await act(place, start_deployment)
        assert place.starts() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"argv": ["sleep", "1"]},
        {"argv": []},
        {"argv": ["/bin/sh", "a\0b"]},
        {"argv": ["/bin/sh"], "cwd": "here"},
        {"argv": ["/bin/sh"], "ready_url": "http://elsewhere.example/"},
        {"argv": ["/bin/sh"], "env": {"A=B": "c"}},
        {"argv": ["/bin/sh"], "env": {"A": "c"}, "secrets": {"A": "d"}},
        {"argv": ["/bin/sh"], "stop_signal": "KILL"},
    ],
)
def test_wrong_configuration_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProcessSettings.model_validate({"commands": {"crm": bad}})
    with pytest.raises(ValidationError):
        ProcessSettings.model_validate({"commands": {"Crm": {"argv": ["/bin/sh"]}}})
