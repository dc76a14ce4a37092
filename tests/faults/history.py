"""The recorded history of a run: append-only JSON lines of what clients asked and were told.

Nothing of it comes from the server's own books: it is one of the three witnesses that the checker
joins (the others are the ledger and the effect logs of the stand-ins).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class History:
    """Lines of one run, oldest first; each is on disk (page cache) when its method returns.

    `call` opens, and exactly one of `answered`, `lost` and `hung` closes: a lost answer means that
    the connection, the client or the server went; hung means that all three were there and the
    deadline passed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = 0
        self._lines: list[dict[str, Any]] = []
        self._file = path.open("a", encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Everything so far."""
        return list(self._lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def call(self, *, tool: str, arguments: dict[str, Any], intent: str, server: str) -> int:
        """A client is about to send a call; its number. `intent` names the one effect that it may
        have at most, over all its repetitions; it is empty for reads."""
        self._last += 1
        self._put(
            "call",
            number=self._last,
            tool=tool,
            arguments=arguments,
            intent=intent,
            server=server,
        )
        return self._last

    def answered(self, number: int, body: dict[str, Any], *, error: bool) -> None:
        """The call was answered: the structured content, or what stands under `error`."""
        self._put("answer", number=number, body=body, error=error)

    def lost(self, number: int, why: str) -> None:
        """The answer will never come: who it was for, who gave it or what lay between is gone."""
        self._put("lost", number=number, why=why)

    def hung(self, number: int) -> None:
        """No answer by the deadline, though everybody lives."""
        self._put("hung", number=number)

    def looked(self, intent: str, *, found: bool) -> None:
        """Somebody looked at the target, through a server, for the effect of an intent."""
        self._put("look", intent=intent, found=found)

    def hostile(self, status: int) -> None:
        """A request that is no call was sent; the HTTP status, 0 where the connection ended."""
        self._put("hostile", status=status)

    def killed(self, server: str) -> None:
        """A server was killed without a warning: what it had not yet written is gone."""
        self._put("killed", server=server)

    def fault(self, name: str, **fields: Any) -> None:
        """A fault begins."""
        self._put("fault", name=name, **fields)

    def mended(self, name: str) -> None:
        """The fault is over: from here recovery counts."""
        self._put("mended", name=name)

    def recovered(self, name: str) -> float:
        """A call succeeded again; the seconds since the fault ended."""
        ended = next(
            line["at"]
            for line in reversed(self._lines)
            if line["kind"] == "mended" and line["name"] == name
        )
        took: float = time.monotonic() - ended
        self._put("recovered", name=name, seconds=took)
        return took

    def _put(self, kind: str, **fields: Any) -> None:
        line = {"at": time.monotonic(), "kind": kind, **fields}
        self._lines.append(line)
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()
