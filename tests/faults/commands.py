"""Plain processes as a part of a stage: real commands, their keepers, a gate before each keeper.

What happened is what the commands wrote themselves. A keeper that the server starts listens where
the gate was; it is then asked without one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from mcp_ops.adapters.process.control import Control, short_path
from mcp_ops.adapters.process.record import ENDED, SOCKET, read_state
from mcp_ops.adapters.process.settings import CommandSettings
from tests.adapters.process_stage import alive, gone
from tests.faults import kept_command
from tests.faults.checker import Effect
from tests.faults.lines import GONE, Peer, asked, gate, listen
from tests.kubernetes_lab import Between

if TYPE_CHECKING:
    from tests.faults.gates import Gate

_REAL: Final = "k"  # where a keeper listens whose place a gate took
_POLL_S: Final = 0.01
_LONGEST_S: Final = 60
_VARIABLE: Final = "PAYMENTS_PASSWORD"


class Commands:
    """Commands of which those run that are not to be started."""

    def __init__(self, state: Path, folder: Path, names: Sequence[str], *, secret: str) -> None:
        self.between: Between = gate()
        self.folder = folder
        folder.mkdir(parents=True)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._state = state / "process" / "local"
        self._names = names
        self._secret = secret
        self._made: set[str] = set()
        self._gates: dict[str, int] = {}
        self._tasks: TaskGroup | None = None

    async def open(self, tasks: TaskGroup) -> None:
        """Gates live in these tasks."""
        self._tasks = tasks

    async def make(self, name: str) -> None:
        """A command as the write of that name wants it, and a gate where its keeper listens."""
        assert self._tasks is not None
        folder = self._state / name
        folder.mkdir(mode=0o700, parents=True)
        self._made.add(name)
        if not name.startswith("cmd-start"):
            await self._theirs(name, "start")
            (folder / SOCKET).rename(folder / _REAL)
        await listen(self._tasks, folder, SOCKET, lambda peer: self._meet(name, peer))
        self._gates[name] = (folder / SOCKET).stat().st_ino

    async def _meet(self, name: str, peer: Peer) -> None:
        line = await peer.line()
        do = json.loads(line)["do"]
        said = await asked(
            self.between, f"/{name}/{do}", lambda: self._pass_on(name, line), looks=do == "state"
        )
        await peer.say(said)

    async def _pass_on(self, name: str, line: bytes) -> bytes:
        """What the keeper says. Where there is none, the gate is as one that is about to end: it
        tells the state, and goes without a word when it is asked for more."""
        said, folder = bytearray(), self._state / name
        if not (folder / _REAL).exists():
            state = {"ok": True, "state": read_state(folder)}
            return json.dumps(state).encode() + b"\n" if json.loads(line)["do"] == "state" else b""
        try:
            with short_path(folder) as path:
                keeper = await anyio.connect_unix(Path(path).with_name(_REAL))
        except OSError:
            self._nobody_listens(name)
            return b""
        with suppress(*GONE):
            async with keeper:
                await keeper.send(line + b"\n")
                while not said.endswith(b"\n"):
                    said += await keeper.receive()
        return bytes(said)

    def _nobody_listens(self, name: str) -> None:
        """The keeper behind the gate was killed: the gate goes, too."""
        path = self._state / name / SOCKET
        with suppress(OSError):
            if path.stat().st_ino == self._gates[name]:
                path.unlink()

    def stands(self, name: str, held: Gate) -> bool:
        """Whether it is the command that holds its keeper when it has started: a keeper that is
        started has no gate."""
        if not name.startswith("cmd-start"):
            return False
        assert self._tasks is not None
        (self.folder / f"{name}.stands").touch()
        self._tasks.start_soon(self._held, name, held)
        return True

    async def _held(self, name: str, held: Gate) -> None:
        while not (self.folder / f"{name}.stood").exists():
            await anyio.sleep(_POLL_S)
        await held.stand()
        os.kill(self._keeper(name), signal.SIGCONT)
        held.passed.set()

    def _keeper(self, name: str) -> int:
        """The keeper of the newest run, in the command's own words."""
        return int([line["keeper"] for line in self._lines() if line["command"] == name][-1])

    def _lines(self) -> list[dict[str, Any]]:
        path = self.folder / kept_command.EFFECTS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    async def close(self) -> None:
        """End the keepers, which have their folder among their arguments; a command ends with its
        keeper."""
        below = f"{self._state}/".encode()
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            with suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if any(each.startswith(below) for each in arguments):
                    os.kill(int(process.name), signal.SIGKILL)
                    await gone(int(process.name))

    async def settled(self) -> None:
        """Wait until each has come to where it was told to go."""
        with anyio.fail_after(_LONGEST_S):
            while not all(self._still(name) for name in self._made):
                await anyio.sleep(_POLL_S)

    def _still(self, name: str) -> bool:
        facts = read_state(self._state / name)
        if facts["phase"] == "running":
            return bool(facts["ready"] or self._told(name, "mute") or not alive(facts["pid"]))
        return facts["phase"] in (*ENDED, "backoff")

    def _told(self, name: str, what: str) -> bool:
        return (self.folder / f"{name}.{what}").exists()

    def effects(self) -> list[Effect]:
        """Starts and ends that nobody else caused, by what the write of each name wants."""
        return [
            Effect(intent=line["command"])
            for line in self._lines()
            if not line["theirs"]
            and line["effect"] == ("stop" if line["command"].startswith("cmd-stop") else "start")
        ]

    async def change(self, name: str) -> None:
        """Somebody else starts it, anew where it runs."""
        await self._theirs(name, "start" if name.startswith("cmd-start") else "restart")

    async def overtake(self, name: str) -> None:
        """Somebody else undoes what was done."""
        await self._one_settled(name)
        await self._theirs(name, "start" if name.startswith("cmd-stop") else "stop")

    async def _theirs(self, name: str, do: str) -> None:
        mark = self.folder / f"{name}.theirs"
        mark.touch()
        control = Control(folder=self._state / name, command=self._settings(name), answer_s=30.0)
        before = read_state(control.folder)["generation"]
        await control.request(do, call_id=f"theirs-{before}", generation=before)
        await self._one_settled(name)
        mark.unlink()

    async def _one_settled(self, name: str) -> None:
        with anyio.fail_after(_LONGEST_S):
            while not self._still(name):
                await anyio.sleep(_POLL_S)

    def spoil(self, name: str) -> None:
        """What is started of it from now on does not stay up."""
        (self.folder / f"{name}.broken").touch()

    def bereave(self, name: str) -> None:
        """The next start of it is the end of its keeper."""
        (self.folder / f"{name}.kills").touch()

    def never(self, name: str) -> None:
        """What is started of it from now on never says that it is ready."""
        (self.folder / f"{name}.mute").touch()

    def _described(self, name: str) -> dict[str, Any]:
        script = ["-I", "-S", kept_command.__file__, str(self.folder), name]
        slow = {"backoff_s": 600.0, "max_backoff_s": 600.0, "grace_s": 60.0}
        return {"argv": [sys.executable, *script], "ready_log": "up", **slow}

    def _settings(self, name: str) -> CommandSettings:
        return CommandSettings.model_validate(
            {**self._described(name), "secrets": {_VARIABLE: self._secret}}
        )

    def configured(self, variable: str) -> str:
        """The target."""
        head = f"""
[targets.local]
kind = "process"
environment = "dev"
timeout_s = {_LONGEST_S}
"""
        return head + "".join(
            f"[targets.local.commands.{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in described.items())
            + f'secrets = {{ {_VARIABLE} = "env:{variable}" }}\n'
            for name, described in ((name, self._described(name)) for name in self._names)
        )
