"""How the server reaches the keeper of a command, and starts one where there is none."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio

import mcp_ops
from mcp_ops.adapters.process.record import (
    ANSWER_BYTES,
    ENDED,
    LOCKED,
    REQUEST_BYTES,
    SOCKET,
    read_state,
)
from mcp_ops.adapters.process.settings import CommandSettings
from mcp_ops.errors import (
    BadAnswer,
    ConfigurationError,
    Conflict,
    ConnectionLost,
    Rejected,
    Unreachable,
    UpstreamTimeout,
)

_BEGIN_S: Final = 20.0
_PAUSE_S: Final = 0.05
_LOOKS: Final = 5
_ROOT: Final = str(Path(mcp_ops.__file__).parent.parent)
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from mcp_ops.adapters.process.keeper import main; sys.exit(main(sys.argv[2]))"
)
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a command: its keeper's own words, or what a keeper that is gone left."""

    kept: bool
    facts: dict[str, Any]

    @property
    def phase(self) -> str:
        """`running`, `backoff`, `stopping`, `stopped`, `failed`, or `lost` without its keeper."""
        phase = str(self.facts["phase"])
        return "lost" if not self.kept and phase not in ENDED else phase

    def call(self, call_id: str) -> dict[str, Any] | None:
        """What this call asked for, of the last fifty calls."""
        calls = self.facts["calls"]
        return next((each for each in calls if each.get("call") == call_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One command and its folder."""

    folder: Path
    command: CommandSettings
    answer_s: float

    async def look(self) -> Record:
        """The command now. A keeper that goes without a word is asked again: it may be busy, or
        about to end."""
        for _ in range(_LOOKS):
            told = await self._ask({"do": "state"})
            if told is not None and isinstance(told.get("state"), dict):
                facts = {**read_state(Path("/nonexistent")), **told["state"]}
                return Record(kept=True, facts=facts)
            if told != {}:
                break
            await anyio.sleep(_PAUSE_S)
        else:
            raise ConnectionLost("The keeper of the command ends connections without an answer.")
        facts = await anyio.to_thread.run_sync(read_state, self.folder)
        return Record(kept=False, facts=facts)

    async def request(self, do: str, *, call_id: str, generation: int) -> dict[str, Any]:
        """Ask for a change once; the keeper's note of it.

        It is asked again when the connection breaks: a keeper does what one call asks for once.
        Raises `Conflict` for another generation, `UpstreamTimeout` when no keeper answers.
        """
        asked = {"do": do, "call": call_id, "generation": generation, "config": self._config()}
        with anyio.move_on_after(_BEGIN_S):
            while True:
                told = await self._ask(asked)
                if not told:
                    await self._start_keeper(asked)
                    told = await self._ask(asked)
                if not told:  # a command that ended at once: its keeper is gone again
                    told = await self._noted(call_id)
                if told:
                    return _note(told)
                await anyio.sleep(_PAUSE_S)
        raise UpstreamTimeout("The keeper of the command gave no answer in time.")

    async def _noted(self, call_id: str) -> dict[str, Any] | None:
        facts = await anyio.to_thread.run_sync(read_state, self.folder)
        note = Record(kept=False, facts=facts).call(call_id)
        return None if note is None else {"ok": True, "call": note}

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The keeper's answer; None when there is no keeper, empty when it went without a word."""
        with anyio.move_on_after(self.answer_s):
            try:
                with short_path(self.folder) as path:
                    stream = await anyio.connect_unix(path)
            except OSError:
                return None
            try:
                async with stream:
                    await stream.send(json.dumps(request).encode("ascii") + b"\n")
                    data = bytearray()
                    while not data.endswith(b"\n") and len(data) < ANSWER_BYTES:
                        data += await stream.receive()
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                return {}
            try:
                told = json.loads(data)
            except ValueError as exc:
                raise BadAnswer("The keeper of the command wrote no JSON.") from exc
            return told if isinstance(told, dict) else None
        raise UpstreamTimeout("The keeper of the command does not answer.")

    async def _start_keeper(self, first: dict[str, Any]) -> None:
        """Start a keeper, which carries out the first request; nothing when there is one."""
        given = json.dumps({"config": self._config(), "first": first}).encode("ascii")
        try:
            await anyio.to_thread.run_sync(_own_folder, self.folder)
            ran = await anyio.run_process(
                [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT, str(self.folder)],
                input=given,
                env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
                check=False,
                start_new_session=True,
                # A pipe would be waited for until the keeper ends: uvloop leaves it a copy.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as exc:
            raise Unreachable(
                "No keeper of the command could be started.",
                hint="Look at the disk space and permissions of the server's state directory.",
            ) from exc
        if ran.returncode not in (0, LOCKED):
            raise Unreachable(f"The keeper of the command ended at once (code {ran.returncode}).")

    def _config(self) -> dict[str, Any]:
        """What a keeper has to know. It goes through a pipe or socket and into no file."""
        command = self.command
        home = _home()
        secrets = {name: each.get_secret_value() for name, each in command.secrets.items()}
        return {
            "argv": list(command.argv),
            "cwd": str(command.cwd),
            "env": {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": home, **command.env, **secrets},
            "restart": command.restart,
            "backoff_s": command.backoff_s,
            "max_backoff_s": command.max_backoff_s,
            "stop_signal": command.stop_signal,
            "grace_s": command.grace_s,
            "ready_log": command.ready_log,
            "log_bytes": command.log_bytes,
        }

    def check(self) -> None:
        """Raises `ConfigurationError` for more than a request can carry."""
        if len(json.dumps(self._config())) > REQUEST_BYTES - 1_024:
            raise ConfigurationError("A command with its variables is larger than 63 KiB.")


def _home() -> str:
    """The home of the server's user; a container's user may be in no list."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def _note(told: dict[str, Any]) -> dict[str, Any]:
    note = told.get("call")
    if told.get("ok") is True and isinstance(note, dict):
        return note
    if told.get("why") == "changed":
        raise Conflict(
            "The command was started or stopped since it was looked at; nothing was done.",
            hint="Look with get_deployment, then decide again.",
        )
    if told.get("why") == "disk":
        raise Rejected(
            "The keeper could not write down what it was asked for, so it did nothing.",
            hint="The disk of the server's state directory may be full.",
        )
    raise Rejected("The keeper of the command did not take the request.")


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """The socket's path, short enough for a socket address wherever the folder is (on Linux)."""
    if not Path("/proc/self/fd").exists():
        yield str(folder / SOCKET)
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
