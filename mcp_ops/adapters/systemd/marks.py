"""Which call asked systemd last for each unit: systemd itself keeps no such note.

One small file a unit in the server's state directory, written before systemd is asked.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import anyio

from mcp_ops.errors import Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A call and the action that it was about to ask for, Unix seconds."""

    call_id: str
    action: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The files of one target."""

    directory: Path

    async def write(self, unit: str, mark: Mark) -> None:
        """Replace the mark of a unit; raises `Unreachable` when the disk does not take it."""
        text = json.dumps({"call_id": mark.call_id, "action": mark.action, "at": mark.at})
        try:
            await anyio.to_thread.run_sync(_replace, self.directory / f"{unit}.json", text)
        except OSError as exc:
            raise Unreachable(
                "The server's state directory can't be written, so systemd was not asked.",
                hint="Look at its disk space and permissions.",
            ) from exc

    async def read(self, unit: str) -> Mark | None:
        """The mark of a unit, if there is a readable one."""
        try:
            path = anyio.Path(self.directory / f"{unit}.json")
            found = json.loads((await path.read_bytes())[:4_096])
            return Mark(
                call_id=str(found["call_id"]), action=str(found["action"]), at=float(found["at"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
