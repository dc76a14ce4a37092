"""The adapter against a real systemd, which runs as the first process of its own namespaces.

Not collected by pytest: it needs root, systemd's programs, `unshare` and `nsenter`.
Run it as `python -m tests.adapters.real_systemd`; each line is a claim that held.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.adapters.systemd.adapter import SystemdAdapter, SystemdSettings
from mcp_ops.adapters.systemd.journal import read_logs
from mcp_ops.adapters.systemd.units import get_unit
from mcp_ops.errors import Conflict, Forbidden, NotFound
from mcp_ops.tool import Write
from mcp_ops.tools.deployments import restart_deployment
from mcp_ops.tools.rollouts import start_deployment, stop_deployment
from mcp_ops.wire.log_lines import Wanted
from tests.adapters.systemd_stage import wiring

SERVICES = {
    "demo": "ExecStart=/bin/sh -c 'echo hello; echo \"<4>a warning\" >&2; exec sleep 9999'",
    "bad": "ExecStart=/bin/sh -c 'echo oops >&2; exit 3'\nRestart=on-failure\nRestartSec=0.1",
    "loop": "ExecStart=/bin/sh -c 'echo loop; sleep 0.3; exit 1'\nRestart=always\nRestartSec=0.3",
    "notify": "Type=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 0.5;"
    " systemd-notify --ready --status=serving; exec sleep 9999'",
    "tick": "Type=oneshot\nExecStart=/bin/echo tick",
}
# Units that stay as they are started, by their relations; `base` is what the others are about.
RELATED = {
    "base": "Requires=disk.service\nAfter=disk.service\nWants=seldom.service\n"
    "Conflicts=shutdown.target\nPropagatesStopTo=told.service\nOnSuccess=after.service",
    "disk": "",
    "seldom": "",
    "told": "",
    "after": "",
    "needs": "Requires=base.service\nAfter=base.service",
    "bound": "BindsTo=base.service\nAfter=base.service",
    "part": "PartOf=base.service",
    "far": "Requires=needs.service\nAfter=needs.service",
    "loose": "Wants=base.service",
    "rival": "Conflicts=base.service",
    "apart": "Conflicts=shutdown.target",
}
JOURNAL = """\
[Unit]
DefaultDependencies=no
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
"""
# Everything that systemd would read or start is hidden from it but these units.
INSIDE = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/lock /run/log/journal
mount --bind {folder}/units /lib/systemd/system
for hidden in /etc/systemd /usr/lib/systemd/system-generators \
  /usr/lib/systemd/system-environment-generators /etc/init.d; do
  test ! -d $hidden || mount -t tmpfs none $hidden
done
exec env -i container=lab PATH=/usr/bin:/bin /lib/systemd/systemd --system --unit=lab.target \
  --log-target=console
"""
OUTSIDE = """\
for each in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  if mkdir -p $each/mcp-ops-lab 2>/dev/null && test -e $each/mcp-ops-lab/cgroup.procs; then
    echo $$ > $each/mcp-ops-lab/cgroup.procs
  fi
done
exec unshare -m -p -u -i -C -f --kill-child --mount-proc sh {folder}/inside
"""


def units(folder: Path) -> None:
    """The only units that there are."""
    folder.mkdir()
    head = "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=30\nStartLimitBurst=4\n"
    for name, body in SERVICES.items():
        (folder / f"{name}.service").write_text(f"{head}[Service]\n{body}\n")
    for name, relations in RELATED.items():
        body = "[Service]\nExecStart=/bin/sleep 9999\n"
        (folder / f"{name}.service").write_text(f"{head}{relations}\n{body}")
    (folder / "shutdown.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (folder / "systemd-journald.service").write_text(JOURNAL)
    (folder / "lab.target").write_text(
        "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n"
    )


@contextmanager
def booted(folder: Path) -> Iterator[list[str]]:
    """A systemd; the command that goes before another one to run it there."""
    units(folder / "units")
    (folder / "inside").write_text(INSIDE.format(folder=folder))
    (folder / "outside").write_text(OUTSIDE.format(folder=folder))
    with (folder / "console").open("w") as console:
        outer = subprocess.Popen(
            ["sh", str(folder / "outside")],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    try:
        yield ["nsenter", "-t", _first(outer.pid), "-m", "-p", "-C"]
    finally:
        outer.send_signal(signal.SIGKILL)
        outer.wait()


def _first(outer: int) -> str:
    children = Path(f"/proc/{outer}/task/{outer}/children")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for pid in children.read_text().split():
            enter = ["nsenter", "-t", pid, "-m", "-p", "-C", "/usr/bin/systemctl"]
            told = subprocess.run([*enter, "is-active", "lab.target"], capture_output=True)
            if told.stdout == b"active\n":
                return pid
        time.sleep(0.1)
    raise SystemExit("systemd did not start; the console's file says more")


def held(claim: str, holds: bool, seen: Any = "") -> None:
    """A claim, or the end."""
    if not holds:
        raise SystemExit(f"NOT SO  {claim}: {seen}")
    print(f"ok      {claim}")


async def claims(state: Path) -> None:
    """What is claimed of the adapter, in the order in which it is tried."""
    names = tuple(f"{name}.service" for name in (*SERVICES, "nope"))
    calls = iter(range(1_000))

    async def act(tool: Any, name: str) -> Any:
        frame = Write(
            reason="a trial",
            dry_run=False,
            call_id=f"call-{next(calls)}",
            principal="operator:trial",
            progress=lambda done, total, text: None,
            cancelled=lambda: False,
        )
        return await tool.function(box, frame, f"{name}.service", 20)

    async def lines(name: str, **more: Any) -> list[str]:
        asked: dict[str, Any] = {
            "since_minutes": 5,
            "tail": 9,
            "grep": "",
            "level": "",
            "previous": False,
            **more,
        }
        return [one.text for one in (await box.logs(f"{name}.service", **asked)).items]

    async with SystemdAdapter.open(
        SystemdSettings(units=names, settle_s=1.0), wiring(state)
    ) as box:
        page = await box.list_workloads(limit=20, cursor="")
        told = {item.name: item.problem for item in page.items}
        held("all units are listed", len(told) == len(names), told)
        held("one that is missing is told", told["nope.service"] == "not_ready", told)
        done = await act(start_deployment, "demo")
        held("a unit is started", done.outcome == "verified", done)
        done = await act(restart_deployment, "demo")
        held("a restart is another run", done.outcome == "verified", done)
        held("its lines are read", (await lines("demo"))[-2:] == ["hello", "a warning"])
        held("by level", set(await lines("demo", level="warn")) == {"a warning"})
        held("of the run before", await lines("demo", previous=True) == ["hello", "a warning"])
        begun = time.monotonic()
        done = await act(start_deployment, "notify")
        held("a notify service is waited for", done.outcome == "verified", done)
        held("until it says so", time.monotonic() - begun > 0.5)
        done = await act(start_deployment, "bad")
        held("one that fails is failed", done.outcome == "failed", done)
        done = await act(start_deployment, "loop")
        held("one that dies again and again is failed", done.outcome == "failed", done)
        done = await act(restart_deployment, "loop")
        held("and can be restarted all the same", done.outcome in ("failed", "unconfirmed"), done)
        done = await act(stop_deployment, "loop")
        held("and stopped", done.outcome == "verified", done)
        done = await act(start_deployment, "tick")
        held("a forgotten oneshot is unconfirmed", done.outcome == "unconfirmed", done)
        held("and its log tells", await lines("tick") == ["tick"])
        done = await act(stop_deployment, "demo")
        held("a unit is stopped", done.outcome == "verified", done)
        for kind, call in ((Conflict, "demo"), (NotFound, "nope")):
            try:
                await act(restart_deployment, call)
            except kind as error:
                held(f"{call} is refused", True, error)
            else:
                held(f"{call} is refused", False)
        await relations(state)
        commands, clock = box._commands, box._clock
        unit = await get_unit(commands, "demo.service", clock=clock)
        os.setgroups([])
        os.setresgid(65_534, 65_534, 65_534)
        os.setresuid(65_534, 65_534, 65_534)
        asked: dict[str, Any] = {"since_minutes": 5, "previous": False, "clock": clock}
        try:
            await read_logs(commands, unit, Wanted(tail=5, grep="", level=""), **asked)
        except Forbidden as error:
            held("the journal is closed to others", "systemd-journal" in error.hint)
        else:
            held("the journal is closed to others", False)


async def relations(state: Path) -> None:
    """What a plan says that it reaches is what systemd changes, and everything that it changes."""
    names = tuple(f"{name}.service" for name in RELATED)
    async with SystemdAdapter.open(SystemdSettings(units=names, settle_s=0), wiring(state)) as box:

        async def runs() -> dict[str, str]:
            """The invocation of each that is up."""
            found = [await get_unit(box._commands, name, clock=box._clock) for name in names]
            return {unit.name: unit.invocation for unit in found if unit.up}

        async def at_rest() -> None:
            """Until no job is left; what an end starts has its job before the one that ended it
            is gone."""
            with anyio.fail_after(30):
                while (await box._commands.control("list-jobs", "--no-legend")).strip():
                    await anyio.sleep(0.1)

        async def compare(
            what: str, planning: Any, name: str, *, less: Set[str] = frozenset()
        ) -> None:
            plan = await planning(f"{name}.service")
            before = await runs()
            await box.begin(plan, reason="a trial", call_id=f"{what} {name}")
            await at_rest()
            after = await runs()
            changed = {each for each in names if before.get(each) != after.get(each)}
            told = {*(plan.reaches or ()), f"{name}.service"}
            missed, over = changed - told, told - changed - {f"{each}.service" for each in less}
            held(f"{what} {name} changes what was told", not missed, missed)
            held("and that alone", plan.reaches is not None and not over, over)

        for name in ("needs", "bound", "part", "far", "loose", "told", "apart"):
            begun = await box.begin(
                await box.plan_start(f"{name}.service"), reason="a trial", call_id=name
            )
            held(f"{name} is started", bool(begun.id), begun)
        await at_rest()
        await compare("restart", box.plan_restart, "base", less={"after", "told"})
        await compare("start", box.plan_start, "rival", less={"after"})
        await compare("start", box.plan_start, "base", less={"after"})
        await compare("start", box.plan_start, "far", less={"after"})
        await compare("stop", box.plan_stop, "base", less={"after", "told"})


def main() -> None:
    """Boot, try, end."""
    if len(sys.argv) > 1:
        anyio.run(claims, Path(sys.argv[1]))
        return
    folder = Path(tempfile.mkdtemp(prefix="mcp-ops-systemd-"))
    folder.chmod(0o755)
    try:
        with booted(folder) as enter:
            here = [sys.executable, "-m", "tests.adapters.real_systemd", str(folder / "state")]
            subprocess.run([*enter, *here], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
