"""The lab's systemd as a part of a stage: its `systemctl` stands before a gate.

Each run of systemctl is a process of its own, and what it was told to do it may do after the server
is gone.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from anyio.abc import TaskGroup

from mcp_ops.lab.systemd import programs
from mcp_ops.lab.systemd.place import FakeSystemd
from tests.faults import gated_systemctl
from tests.faults.checker import Effect
from tests.faults.lines import Peer, asked, gate, listen
from tests.faults.local_writes import FIRST_RUN
from tests.kubernetes_lab import Between

_LONGEST_S: Final = 60


class Units:
    """Units of which those run that are not to be started."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.between: Between = gate()
        self.box = FakeSystemd(folder, *map(_unit, names))
        self._names = names
        script = [sys.executable, "-I", "-S", gated_systemctl.__file__, programs.__file__]
        line = shlex.join([*script, str(folder)])
        self.box.systemctl.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")

    async def open(self, tasks: TaskGroup) -> None:
        """Listen to the programs."""
        await listen(tasks, self.box.folder, gated_systemctl.GATE, self._meet)

    async def _meet(self, program: Peer) -> None:
        arguments = json.loads(await program.line())["arguments"]
        verb, *units = [one for one in arguments if not one.startswith("--")]

        async def act() -> bytes:
            await program.say(b'{"go": true}\n')
            return await program.line() + b"\n"

        path = f"/{units[0].removesuffix('.service')}/{verb}"
        said = await asked(self.between, path, act, looks=verb == "show")
        if said.endswith(b"\n"):  # else the program dies
            await program.say(said)

    async def make(self, name: str) -> None:
        """A unit as the write of that name wants it."""
        if not name.startswith("unit-start"):
            self.box.start(_unit(name))
            self.box.set(_unit(name), InvocationID=FIRST_RUN)

    async def close(self) -> None:
        """Nothing is left: no unit has a process."""

    async def settled(self) -> None:
        """What systemd was asked for is done when systemctl ends."""

    def effects(self) -> list[Effect]:
        """What systemctl was told and did, in the stand-in's own words."""
        return [
            Effect(intent=line["unit"].removesuffix(".service")) for line in self.box.log.read()
        ]

    async def change(self, name: str) -> None:
        """Somebody else starts it, so that it is another run than the one that was looked at."""
        self.box.start(_unit(name))

    async def overtake(self, name: str) -> None:
        """Somebody else undoes what was done."""
        if name.startswith("unit-stop"):
            self.box.start(_unit(name))
        else:
            how: dict[str, Any] = {"result": "success", "code": 2, "status": 15}
            self.box.crash(_unit(name), active="inactive", **how)

    def spoil(self, name: str) -> None:
        """What is started of it from now on does not come up."""
        self.box.set(_unit(name), fails=3)

    def never(self, name: str) -> None:
        """What is started of it from now on is on its way for good."""
        self.box.set(_unit(name), slow=True)

    def configured(self) -> str:
        """The target."""

        def quoted(path: Path) -> str:
            return json.dumps(str(path))

        return f"""
[targets.box]
kind = "systemd"
environment = "dev"
units = {json.dumps([_unit(name) for name in self._names])}
settle_s = 0
timeout_s = {_LONGEST_S}
systemctl = {quoted(self.box.systemctl)}
journalctl = {quoted(self.box.journalctl)}
"""


def _unit(name: str) -> str:
    return f"{name}.service"


def failing(words: str, code: int = 1) -> bytes:
    """What a program that fails is told to say."""
    return json.dumps({"code": code, "out": "", "errors": f"{words}\n"}).encode() + b"\n"
