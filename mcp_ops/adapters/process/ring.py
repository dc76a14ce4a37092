"""What a command writes, in two files of bounded size: JSON lines, the older file replaced.

Needs nothing but Python: the keeper uses it, too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

LOG, OLD_LOG = "log", "log.1"
_LINE = 8_192


class Ring:
    """The two files. `most` is their size together, in bytes."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = max(most // 2, 4_096)
        self.parts: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}

    def feed(self, stream: str, data: bytes, run: int) -> list[str]:
        """Keep what came; the complete lines. A line without an end is cut into pieces."""
        part = self.parts[stream]
        part += data
        lines: list[str] = []
        while (end := part.find(b"\n", 0, _LINE)) >= 0 or len(part) >= _LINE:
            cut = end if end >= 0 else _LINE
            lines.append(part[:cut].decode("utf-8", "replace"))
            del part[: cut + 1 if end >= 0 else cut]
        self._write(stream, lines, run)
        return lines

    def flush(self, run: int) -> None:
        """The last words without a line's end."""
        for stream, part in self.parts.items():
            if part:
                self._write(stream, [part.decode("utf-8", "replace")], run)
                part.clear()

    def _write(self, stream: str, lines: list[str], run: int) -> None:
        if not lines:
            return
        at = round(time.time(), 3)
        entries = "".join(
            json.dumps({"t": at, "s": stream, "r": run, "m": line}) + "\n" for line in lines
        )
        try:
            path = self.folder / LOG
            with path.open("ab") as file:
                file.write(entries.encode("ascii"))
                size = file.tell()
            if size >= self.most:
                path.replace(self.folder / OLD_LOG)
        except OSError:
            return  # a full disk must not end the command
