"""A command that a keeper keeps, in rows of the matrix: it writes its own log of effects.

Run as `python kept_command.py FOLDER NAME`; needs nothing but Python. Files beside its log tell it
what to do: with NAME.theirs what happens is somebody else's doing, with NAME.stands it stops its
keeper once when it has started, with NAME.kills it kills its keeper, with NAME.broken it ends at
once, and with NAME.mute it never says that it is up.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

EFFECTS = "commands.effects.jsonl"


def main(folder: Path, name: str) -> int:
    """Start, and stay until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def told(what: str) -> bool:
        return (folder / f"{name}.{what}").exists()

    def note(effect: str) -> None:
        facts = {"command": name, "pid": os.getpid(), "keeper": os.getppid()}
        line = {"effect": effect, **facts, "theirs": told("theirs")}
        with (folder / EFFECTS).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    note("start")
    if told("stands"):
        (folder / f"{name}.stands").rename(folder / f"{name}.stood")
        os.kill(os.getppid(), signal.SIGSTOP)
    if told("kills"):
        (folder / f"{name}.kills").unlink()
        os.kill(os.getppid(), signal.SIGKILL)  # whoever it keeps ends with it
    if told("broken"):
        return 3
    if not told("mute"):
        print("up", flush=True)
    signal.sigwait({signal.SIGTERM})
    note("stop")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
