"""What systemd shows: units, how they failed, the journal; and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_ops.adapters.systemd.adapter import SystemdAdapter, SystemdSettings
from mcp_ops.adapters.systemd.commands import environment_of, run
from mcp_ops.adapters.systemd.units import parse_show, read_unit
from mcp_ops.errors import (
    BadAnswer,
    ConfigurationError,
    Forbidden,
    InvalidInput,
    NotFound,
    Unreachable,
    UpstreamTimeout,
)
from mcp_ops.tools.deployments import (
    get_deployment,
    get_deployment_logs,
    list_deployments,
    restart_deployment,
)
from tests.adapters.systemd_stage import REDIS, UNITS, stage, wiring

# Of a real systemd 252, as `systemctl show` wrote it.
REAL = """\
Type=simple
Restart=on-failure
MainPID=0
StatusText=
Result=exit-code
NRestarts=3
ExecMainStartTimestampMonotonic=12203660448
ExecMainCode=1
ExecMainStatus=3
ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c echo; exit 3 ; ignore_errors=no ; pid=30868 }
MemoryCurrent=[not set]
TasksCurrent=[not set]
MemoryMax=infinity
Id=bad.service
Names=bad.service
Description=Bad
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=static
StateChangeTimestampMonotonic=12203700000
Job=
InvocationID=5e3a90e8d25743e1a36f5e968123d669

Id=nope.service
Names=nope.service
LoadState=not-found
ActiveState=inactive
SubState=dead
InvocationID=
"""


async def logs(platform: Any, name: str = REDIS, **asked: Any) -> Any:
    given = {"since_minutes": 60, "tail": 100, "grep": "", "level": "", "previous": False, **asked}
    return await get_deployment_logs.function(platform, name, *given.values())


async def test_units_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.crash(REDIS, result="oom-kill", code=2, status=9)
        page: Any = await list_deployments.function(place.platform, 20, "")
        assert [(item.name, item.ready, item.problem) for item in page.items] == [
            ("finops-worker@1.service", 1, "none"),
            ("networkmanager.service", 0, "scaled_to_zero"),
            ("redis.service", 0, "oom_killed"),
        ]
        assert page.items[0].image == "/usr/bin/lab"
        assert "geheim" not in page.model_dump_json()
        assert page.searched == "the 3 units that the configuration lists"


async def test_pages_of_units_end(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        names: list[str] = []
        cursor = ""
        for _ in UNITS:
            page = await place.platform.list_workloads(limit=1, cursor=cursor)
            names += [item.name for item in page.items]
            cursor = page.next_cursor
        assert cursor == ""
        assert sorted(names) == sorted(name.lower() for name in UNITS)
        with pytest.raises(InvalidInput):
            await place.platform.list_workloads(limit=1, cursor="other.service")


async def test_failed_unit_is_explained_and_the_run_before_its_end_is_named(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.set(REDIS, NRestarts=3)
        place.box.crash(REDIS)
        found: Any = await get_deployment.function(place.platform, REDIS)
        assert found.problem == "crash_loop"
        assert found.explanation == (
            "It failed after 3 automatic restarts: its process ended with an error code"
            " (exit code 3)."
        )
        assert found.instances[0].last_exit == "exit code 3"
        assert found.next_steps[0].arguments == {"name": REDIS, "previous": True}
        assert {one.type: one.status for one in found.conditions}["Result"] == "exit-code"


async def test_running_unit_shows_memory_age_and_what_systemd_wrote(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.say(REDIS, "Started.", _SYSTEMD_UNIT="init.scope", UNIT=REDIS, JOB_RESULT="done")
        found = await place.platform.describe(REDIS)
        assert (found.desired, found.ready, found.problem) == (1, 1, "none")
        assert found.explanation == "It is active (running)."
        assert [(one.reason, one.message) for one in found.events] == [("done", "Started.")]
        assert (found.instances[0].age_s or 0) < 60
        memory = next(one for one in found.conditions if one.type == "Memory")
        assert memory.status == "1.0 MiB"


async def test_unit_is_told_although_the_journal_is_closed(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        for fault, kind, hint in (
            ("journal-empty", Forbidden, "systemd-journal"),
            ("journal-forbidden", Forbidden, "systemd-journal"),
            ("journal-none", NotFound, "journald.conf"),
        ):
            place.box.inject("journalctl", fault)
            found = await place.platform.describe(REDIS)
            assert found.problem == "none"
            assert found.conditions[-1].type == "Journal"
            place.box.inject("journalctl", fault)
            with pytest.raises(kind) as raised:
                await logs(place.platform)
            assert hint in raised.value.hint


async def test_lines_are_filtered_by_literal_and_level(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.say(REDIS, "Ready to accept connections")
        place.box.say(REDIS, "ERROR cannot save")
        place.box.say(REDIS, "  at rdbSave")
        place.box.say(REDIS, "kernel says", PRIORITY="3")
        place.box.say("finops-worker@1.service", "ERROR of somebody else")
        found = await logs(place.platform, level="error")
        assert [line.text for line in found.items] == [
            "ERROR cannot save",
            "  at rdbSave",
            "kernel says",
        ]
        assert found.items[0].instance.startswith("lab[4")
        found = await logs(place.platform, grep="SAVE|connections", tail=1)
        assert (found.matched, found.truncated) == (3, True)
        assert [line.text for line in found.items] == ["  at rdbSave"]


async def test_bytes_long_lines_and_controls_are_shown_tamed(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.say(REDIS, [255, 254, 98, 97, 100])
        place.box.say(REDIS, None)
        place.box.say(REDIS, ["one", "two"])
        place.box.say(REDIS, "\x1b[31mred\u202e")
        found = await logs(place.platform)
        assert [line.text for line in found.items] == [
            "\ufffd\ufffdbad",
            "(a line that journalctl does not print: longer than 4096 bytes)",
            "one two",
            "red",
        ]


async def test_previous_is_the_run_before_or_the_one_that_ended(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        with pytest.raises(NotFound):
            await logs(place.platform, previous=True)
        place.box.say(REDIS, "first run")
        place.box.start(REDIS)
        place.box.say(REDIS, "second run")
        assert [one.text for one in (await logs(place.platform, previous=True)).items] == [
            "first run"
        ]
        place.box.crash(REDIS)
        assert [one.text for one in (await logs(place.platform, previous=True)).items] == [
            "second run"
        ]


async def test_unit_that_is_not_listed_does_not_exist_here(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        for name in ("sshd.service", "redis", "--force", "NetworkManager.service"):
            with pytest.raises(NotFound):
                await place.platform.describe(name)
        place.box.set(REDIS, LoadState="not-found")
        with pytest.raises(NotFound):
            await place.platform.describe(REDIS)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("no-bus", Unreachable),
        ("not-booted", Unreachable),
        ("garbage", BadAnswer),
        ("flood", BadAnswer),
        ("silent", UpstreamTimeout),
    ],
)
async def test_bad_answers_are_told(tmp_path: Path, fault: str, kind: type[Exception]) -> None:
    async with stage(tmp_path, timeout_s=2.0) as place:
        place.box.inject("systemctl", fault)
        with pytest.raises(kind):
            await place.platform.ping()
        await place.platform.ping()


async def test_garbled_journal_is_told_and_a_flood_is_cut(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        for fault in ("garbage", "flood"):
            place.box.inject("journalctl", fault)
            with pytest.raises(BadAnswer):
                await logs(place.platform)


def test_units_are_names_that_the_tools_take() -> None:
    model = restart_deployment.arguments
    for name in ("redis.service", "finops-worker@1.service", "a_b:c.timer"):
        given = model.model_validate({"name": name, "reason": "it is stuck"})
        assert restart_deployment.object_of(given) == name


def test_real_answer_is_read() -> None:
    bad, nope = parse_show(REAL)
    unit = read_unit("bad.service", bad, offset=1_795_940_000.0)
    assert (unit.problem(), unit.restarts, unit.memory, unit.job) == ("crash_loop", 3, None, "")
    assert unit.started == pytest.approx(1_795_952_203.66, abs=0.01)
    assert unit.executable == "/bin/sh"
    assert read_unit("nope.service", nope, offset=0.0).load == "not-found"


async def test_programs_see_nothing_of_the_server_environment(tmp_path: Path) -> None:
    ran = await run(["/usr/bin/env"], environment=environment_of(user=True), max_bytes=10_000)
    seen = dict(line.split("=", 1) for line in ran.out.decode().splitlines())
    assert set(seen) == {"PATH", "LC_ALL", "SYSTEMD_PAGER", "SYSTEMD_COLORS", "XDG_RUNTIME_DIR"}
    assert seen["XDG_RUNTIME_DIR"] == f"/run/user/{os.getuid()}"


async def test_program_that_others_may_change_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        open_to_all = tmp_path / "open"
        open_to_all.mkdir()
        (open_to_all / "link").symlink_to(place.box.journalctl)
        open_to_all.chmod(0o777)
        place.box.systemctl.chmod(0o777)
        wrong = (place.box.systemctl, tmp_path / "nothing", tmp_path, open_to_all / "link")
        for program in wrong:
            options = SystemdSettings(units=(REDIS,), systemctl=program)
            with pytest.raises(ConfigurationError):
                async with SystemdAdapter.open(options, wiring(tmp_path)):
                    raise AssertionError("opened")


@pytest.mark.parametrize(
    "bad",
    [
        {"units": ()},
        {"units": ("redis",)},
        {"units": ("*.service",)},
        {"units": ("--all.service",)},
        {"units": ("a/b.service",)},
        {"units": ("Redis.service", "redis.service")},
        {"units": (REDIS,), "systemctl": "systemctl"},
    ],
)
def test_only_exact_names_and_absolute_paths_are_taken(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SystemdSettings(**bad)
