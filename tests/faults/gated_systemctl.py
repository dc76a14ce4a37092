"""The lab's `systemctl` behind a gate of a row: it asks before it acts, and before it answers.

Run as `python gated_systemctl.py PROGRAMS FOLDER ARGUMENTS…`; needs nothing but Python. It is a
process of its own: what it was told to do it does although whoever started it is gone. Where the
gate ends the connection it dies, as if somebody had killed it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

GATE = "gate"


def main(programs: str, folder: str, arguments: list[str]) -> int:
    """Ask, act, ask, answer; the exit code."""
    with socket.socket(socket.AF_UNIX) as gate:
        os.chdir(folder)
        gate.connect(GATE)
        lines = gate.makefile("rw", encoding="utf-8", newline="\n")

        def ask(what: Any) -> Any:
            lines.write(json.dumps(what) + "\n")
            lines.flush()
            told = lines.readline()
            if not told:
                os.kill(os.getpid(), signal.SIGKILL)
            return json.loads(told)

        told = ask({"arguments": arguments})
        if told.get("go"):
            told = ask(_act(programs, folder, arguments))
    sys.stderr.write(told["errors"])
    sys.stdout.write(told["out"])
    return int(told["code"])


def _act(programs: str, folder: str, arguments: list[str]) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("programs", programs)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = module.main(Path(folder), "systemctl", arguments)
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
