"""F4 and F11 at systemd: `kill -9` around what systemctl does, and answers of it that are lost.

systemctl is a process of its own: what it was told to do it may do after the server is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio

from mcp_ops.lab.systemd import programs
from mcp_ops.lab.systemd.place import FakeSystemd
from tests.faults.agents import HttpAgent
from tests.faults.checker import DONE, Effect
from tests.faults.history import History
from tests.faults.later import local
from tests.faults.row import Run
from tests.faults.servers import Server
from tests.faults.stage import stage
from tests.faults.unit_writes import VERBS

# What becomes of the program that a killed server leaves behind.
_ENDS: Final = {"lost": "silent", "done": "stuck", "late": "late"}


async def at_units(run: Run) -> None:
    """Another process ends each as done: it finds the one, and begins the other; systemd would take
    a start or a stop once, and what a restart did shows in the unit."""
    place = run.place()
    history = run.history(place)
    names = {(verb, end): f"unit-{verb}-{end}.service" for verb in VERBS for end in _ENDS}
    box = _box(place, names)
    async with stage(place, more=_configured(box, names.values())) as set_up:
        async with run.served(set_up, history) as (server, agent):
            await _killed(history, server, agent, box, names)
        history.mended("kill -9")
        async with run.served(set_up, history, "s2") as (_, agent):
            for number, name in enumerate(names.values()):
                await agent.restart(name, wait_s=0)
                if not number:
                    history.recovered("kill -9")
        async with local(set_up, history) as later:
            for name in names.values():
                ended = (await later.end_of(name)).outcome
                run.expect(ended in DONE, f"{name} ended as {ended}")
    await _judge(run, history, box, len(names))


async def lost_at_units(run: Run) -> None:
    """systemctl dies when systemd has taken the change: what the unit shows tells that it has."""
    place = run.place()
    history = run.history(place)
    names = {verb: f"unit-{verb}-cut.service" for verb in VERBS}
    box = _box(place, names)
    async with (
        stage(place, more=_configured(box, names.values())) as set_up,
        local(set_up, history, name="s1") as agent,
    ):
        for verb, name in names.items():
            box.inject(verb, "lost")
            first = await agent.restart(name, wait_s=0)
            run.expect(first.outcome in DONE, f"{name}: {first.body}")
            again = await agent.restart(name, wait_s=0)
            run.expect(bool(again.body.get("replayed")), f"{name} was done again")
    await _judge(run, history, box, len(names))


def _box(place: Path, names: Mapping[Any, str]) -> FakeSystemd:
    """Units of which those run that are not to be started."""
    box = FakeSystemd(place / "box", *names.values())
    for name in names.values():
        if not name.startswith("unit-start"):
            box.start(name)
    return box


async def _judge(run: Run, history: History, box: FakeSystemd, count: int) -> None:
    await run.judge(
        history,
        box.folder.parent,
        effects=[Effect(intent=line["unit"]) for line in box.log.read()],
        least_calls=2 * count,
        least_effects=count,
    )


async def _killed(
    history: History,
    server: Server,
    agent: HttpAgent,
    box: FakeSystemd,
    names: dict[tuple[str, str], str],
) -> None:
    """The server is killed while a program of each write stands still."""
    async with anyio.create_task_group() as tasks:
        for (verb, end), name in names.items():
            # Faults are told by the verb: one after the other.
            box.inject(verb, _ENDS[end])
            tasks.start_soon(agent.restart, name)
            await _met(box)
        history.fault("kill -9")
        await server.kill()
    await _acted(box, [name for (_, end), name in names.items() if end == "late"])


async def _met(box: FakeSystemd) -> None:
    """A program has met the fault that was meant for it, and done what it does."""

    def coming() -> list[list[str]]:
        with programs.held(box.folder):
            found: list[list[str]] = json.loads((box.folder / programs.FAULTS).read_text("utf-8"))
            return found

    with anyio.fail_after(30):
        while coming():
            await anyio.sleep(0.02)


async def _acted(box: FakeSystemd, names: Iterable[str]) -> None:
    with anyio.fail_after(30):
        while not set(names) <= {line["unit"] for line in box.log.read()}:
            await anyio.sleep(0.01)


def _configured(box: FakeSystemd, names: Iterable[str]) -> str:
    def quoted(path: Path) -> str:
        return json.dumps(str(path))

    return f"""
[targets.box]
kind = "systemd"
environment = "dev"
units = {json.dumps(list(names))}
settle_s = 0
systemctl = {quoted(box.systemctl)}
journalctl = {quoted(box.journalctl)}
"""
