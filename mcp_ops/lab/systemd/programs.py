"""`systemctl` and `journalctl` of the stand-in, in one file that needs nothing but Python.

Run as `python programs.py FOLDER systemctl …`. The folder holds the state, the faults that are
still to come and the log of effects. What is written follows systemd 252; docs/targets/systemd.md
tells how it was compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE, FAULTS, EFFECTS, LOCK = "state.json", "faults.json", "systemd.effects.jsonl", "lock"
_NO_BUS = "Failed to connect to bus: No such file or directory\n"
_NOT_BOOTED = (
    "System has not been booted with systemd as init system (PID 1). Can't operate.\n"
    "Failed to connect to bus: Host is down\n"
)
_BLIND = (
    "Hint: You are currently not seeing messages from other users and the system.\n"
    "      Users in the 'systemd-journal' group can see all messages. Pass -q to\n"
    "      turn off this notice.\n"
)
_NO_FILES = "No journal files were opened due to insufficient permissions.\n"
_HANG_S = 600.0


class Ended(Exception):
    """The program ends with this code, after these words on stderr."""

    def __init__(self, code: int, words: str = "") -> None:
        super().__init__(words)
        self.code = code
        self.words = words


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """One program at a time."""
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def load(folder: Path) -> dict[str, Any]:
    """The state: units, journal and the next job's number."""
    found: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return found


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state."""
    draft = folder / f"{STATE}.tmp"
    draft.write_text(json.dumps(state), encoding="utf-8")
    draft.replace(folder / STATE)


def new_unit(name: str, **more: Any) -> dict[str, Any]:
    """A unit that was loaded and never started."""
    return {
        "Id": name,
        "Names": name,
        "Description": f"{name} of the lab",
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "SubState": "dead",
        "Result": "success",
        "UnitFileState": "enabled",
        "Type": "simple",
        "Restart": "no",
        "MainPID": 0,
        "NRestarts": 0,
        "ExecMainCode": 0,
        "ExecMainStatus": 0,
        "ExecMainStartTimestampMonotonic": 0,
        "ActiveEnterTimestampMonotonic": 0,
        "StateChangeTimestampMonotonic": 0,
        "MemoryCurrent": "[not set]",
        "MemoryMax": "infinity",
        "TasksCurrent": "[not set]",
        "InvocationID": "",
        "StatusText": "",
        "NeedDaemonReload": "no",
        "Job": "",
        "RefuseManualStart": "no",
        "RefuseManualStop": "no",
        "TriggeredBy": "",
        "ConditionResult": "no",
        "ConditionTimestampMonotonic": 0,
        "ExecStart": (
            "{ path=/usr/bin/lab ; argv[]=/usr/bin/lab --token=geheim-0123456789 ;"
            " ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ;"
            " code=(null) ; status=0/0 }"
        ),
        **more,
    }


def monotonic() -> int:
    """Microseconds, as systemd counts them."""
    return time.monotonic_ns() // 1_000


def start(state: dict[str, Any], unit: dict[str, Any], *, automatic: bool = False) -> None:
    """A new run of a unit; how it goes is what its file (here: `fails`) makes of it."""
    now = monotonic()
    unit["InvocationID"] = os.urandom(16).hex()
    unit["NRestarts"] = unit["NRestarts"] + 1 if automatic else 0
    unit["ExecMainStartTimestampMonotonic"] = unit["StateChangeTimestampMonotonic"] = now
    unit["Result"], unit["ExecMainCode"], unit["ExecMainStatus"] = "success", 0, 0
    unit["ConditionResult"], unit["ConditionTimestampMonotonic"] = "yes", now
    if unit.get("fails"):
        end(unit, active="failed", result="exit-code", code=1, status=int(unit["fails"]))
        return
    state["pid"] += 1
    unit["MainPID"], unit["MemoryCurrent"], unit["TasksCurrent"] = state["pid"], 1_048_576, 1
    unit["ActiveState"], unit["SubState"] = "active", "running"
    unit["ActiveEnterTimestampMonotonic"] = now
    if unit.get("slow"):  # as Type=notify: until `settle` is asked for it is on its way
        unit["ActiveState"], unit["SubState"], unit["Job"] = "activating", "start", state["job"]


def end(unit: dict[str, Any], *, active: str, result: str, code: int, status: int) -> None:
    """The end of a unit's process."""
    unit["ActiveState"] = active
    unit["SubState"] = {"inactive": "dead", "failed": "failed"}.get(active, active)
    unit["Result"], unit["ExecMainCode"], unit["ExecMainStatus"] = result, code, status
    unit["MainPID"], unit["Job"] = 0, ""
    unit["MemoryCurrent"] = unit["TasksCurrent"] = "[not set]"
    unit["StateChangeTimestampMonotonic"] = monotonic()
    if active == "inactive" and unit.get("unloads"):  # as nothing else refers to it
        unit.update(new_unit(unit["Id"]))


def write_line(state: dict[str, Any], unit: str, message: Any, **fields: Any) -> None:
    """A line of a unit's process in the journal."""
    entry = {
        "__REALTIME_TIMESTAMP": str(time.time_ns() // 1_000),
        "_SYSTEMD_UNIT": unit,
        "_SYSTEMD_INVOCATION_ID": state["units"][unit]["InvocationID"],
        "_PID": str(state["units"][unit]["MainPID"]),
        "SYSLOG_IDENTIFIER": "lab",
        "PRIORITY": "6",
        "MESSAGE": message,
    }
    state["journal"].append({**entry, **fields})


class Systemctl:
    """One invocation of systemctl."""

    def __init__(self, folder: Path, state: dict[str, Any], fault: str) -> None:
        self.folder = folder
        self.state = state
        self.fault = fault

    def run(self, verb: str, units: list[str], options: dict[str, str]) -> str:
        """What is written when it ends well."""
        if self.fault in ("no-bus", "not-booted"):
            raise Ended(1, _NO_BUS if self.fault == "no-bus" else _NOT_BOOTED)
        if verb == "show":
            return self._show(units, options.get("property", ""))
        (name,) = units
        if self.fault == "forbid":
            words = "Access denied"
            raise Ended(4, f"Failed to {verb} {name}: {words}\n")
        if self.fault == "polkit":
            words = "Interactive authentication required."
            raise Ended(1, f"Failed to {verb} {name}: {words}\n")
        if self.fault == "reset":
            raise Ended(1, f"Failed to {verb} {name}: Connection reset by peer\n")
        unit = self.state["units"].get(name)
        if unit is None or unit["LoadState"] == "not-found":
            raise Ended(5, f"Failed to {verb} {name}: Unit {name} not found.\n")
        return self._act(verb, name, unit)

    def _act(self, verb: str, name: str, unit: dict[str, Any]) -> str:
        if verb == "reset-failed":
            if unit["ActiveState"] == "failed":
                unit["ActiveState"], unit["SubState"], unit["Result"] = (
                    "inactive",
                    "dead",
                    "success",
                )
                unit["NRestarts"] = 0
            return ""
        self.state["job"] += 1
        if verb == "stop":
            if unit["ActiveState"] != "inactive":
                end(unit, active="inactive", result="success", code=2, status=15)
        elif verb == "restart" or unit["ActiveState"] not in ("active", "activating"):
            start(self.state, unit)
        line = {"effect": verb, "unit": name, "at": time.time(), "by": os.getppid()}
        with (self.folder / EFFECTS).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        return f"Enqueued anchor job {self.state['job']} {name}/{verb}.\n"

    def _show(self, units: list[str], properties: str) -> str:
        blocks = []
        for name in units:
            unit = self.state["units"].get(name) or new_unit(
                name, LoadState="not-found", UnitFileState="", ExecStart=None
            )
            wanted = [each for each in properties.split(",") if unit.get(each) is not None]
            blocks.append("".join(f"{each}={unit[each]}\n" for each in wanted))
        return "\n".join(blocks)


def journalctl(state: dict[str, Any], fault: str, arguments: list[str]) -> str:
    """What is written to stdout: JSON lines, newest first."""
    if fault == "journal-empty":
        raise Ended(0, _BLIND)
    if fault == "journal-none":
        raise Ended(0, "No journal files were found.\n")
    if fault == "journal-forbidden":
        raise Ended(1, _BLIND + _NO_FILES)
    options, matches = _options(arguments)
    wanted = dict(each.split("=", 1) for each in matches)
    since = float(options.get("since", "@0").removeprefix("@")) * 1e6
    found = [
        entry
        for entry in reversed(state["journal"])
        if all(entry.get(key) == value for key, value in wanted.items())
        and int(entry["__REALTIME_TIMESTAMP"]) >= since
    ]
    return "".join(json.dumps(each) + "\n" for each in found[: int(options["lines"])])


def _options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    rest: list[str] = []
    literal = False
    for each in arguments:
        if each == "--":
            literal = True
        elif each.startswith("--") and not literal:
            name, _, value = each[2:].partition("=")
            options[name] = value
        else:
            rest.append(each)
    return options, rest


def _fault(folder: Path, program: str, verb: str) -> str:
    """The next fault that is meant for this program and verb; it is used up."""
    path = folder / FAULTS
    coming: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    for index, (where, name) in enumerate(coming):
        if where in (program, verb):
            del coming[index]
            path.write_text(json.dumps(coming), encoding="utf-8")
            return name
    return ""


def _once(folder: Path, program: str, arguments: list[str]) -> tuple[str, str]:
    with held(folder):
        options, rest = _options(arguments)
        verb = rest[0] if program == "systemctl" else ""
        fault = _fault(folder, program, verb)
        state = load(folder)
        if fault in ("silent", "late"):
            return fault, ""
        if fault in ("garbage", "flood"):
            return fault, ("{x" if fault == "garbage" else "x" * 1_000 + "\n")
        if program == "systemctl":
            out = Systemctl(folder, state, fault).run(verb, rest[1:], options)
            save(folder, state)
        else:
            out = journalctl(state, fault, arguments)
        return fault, out


def _stand() -> None:
    """Stand still, for as long as whoever started the program is there."""
    parent, ends = os.getppid(), time.monotonic() + _HANG_S
    while os.getppid() == parent and time.monotonic() < ends:
        time.sleep(0.02)


def main(folder: Path, program: str, arguments: list[str]) -> int:
    """Run one program; the exit code."""
    try:
        fault, out = _once(folder, program, arguments)
    except Ended as ended:
        sys.stderr.write(ended.words)
        return ended.code
    if fault in ("silent", "stuck", "late"):  # before, and after the effect; or later than that
        _stand()
    if fault == "late":
        _once(folder, program, arguments)
    if fault == "lost":
        os.kill(os.getpid(), signal.SIGKILL)
    while fault == "flood":
        sys.stdout.write(out)
    # Of the jobs that it made systemctl tells where others tell of errors.
    (sys.stderr if "--show-transaction" in arguments else sys.stdout).write(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
