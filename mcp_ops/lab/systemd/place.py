"""The stand-in's folder: its two programs, its units, its faults and its log of effects."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_ops.lab.standin import EffectLog
from mcp_ops.lab.systemd import programs


class FakeSystemd:
    """A systemd without any process: what the two programs show and change is in a file."""

    def __init__(self, folder: Path, *units: str) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = EffectLog(folder / programs.EFFECTS)
        self.systemctl = self._program("systemctl")
        self.journalctl = self._program("journalctl")
        (folder / programs.FAULTS).write_text("[]", encoding="utf-8")
        known = {name: programs.new_unit(name) for name in units}
        programs.save(folder, {"units": known, "journal": [], "job": 10, "pid": 4_000})

    def _program(self, name: str) -> Path:
        path = self.folder / name
        script = [sys.executable, "-I", "-S", programs.__file__, str(self.folder), name]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(script)} "$@"\n', encoding="utf-8")
        path.chmod(0o700)
        return path

    def inject(self, where: str, *faults: str) -> None:
        """The next runs of a program, or of one verb of systemctl, meet these faults."""
        with programs.held(self.folder):
            path = self.folder / programs.FAULTS
            coming = json.loads(path.read_text(encoding="utf-8"))
            coming += [[where, each] for each in faults]
            path.write_text(json.dumps(coming), encoding="utf-8")

    def coming(self) -> list[list[str]]:
        """The faults that no program has met yet."""
        with programs.held(self.folder):
            path = self.folder / programs.FAULTS
            found: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
            return found

    def change(self, act: Callable[[dict[str, Any]], None]) -> None:
        """Change the state as something else on the machine would."""
        with programs.held(self.folder):
            state = programs.load(self.folder)
            act(state)
            programs.save(self.folder, state)

    def unit(self, name: str) -> dict[str, Any]:
        """A unit's properties."""
        found: dict[str, Any] = programs.load(self.folder)["units"][name]
        return found

    def set(self, name: str, **properties: Any) -> None:
        """Change properties of a unit."""
        self.change(lambda state: state["units"][name].update(properties))

    def start(self, name: str, *, automatic: bool = False) -> None:
        """Start a unit as somebody else, or as systemd by itself, would."""
        self.change(lambda state: programs.start(state, state["units"][name], automatic=automatic))

    def crash(self, name: str, *, active: str = "failed", **how: Any) -> None:
        """End a unit's process."""
        ended = {"result": "exit-code", "code": 1, "status": 3, **how}
        self.change(lambda state: programs.end(state["units"][name], active=active, **ended))

    def settle(self, name: str) -> None:
        """A unit that was on its way is there."""
        self.set(name, ActiveState="active", SubState="running", Job="")

    def say(self, name: str, message: Any, **fields: Any) -> None:
        """A line of a unit's process."""
        self.change(lambda state: programs.write_line(state, name, message, **fields))
