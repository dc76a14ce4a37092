"""Lines of a log while they come: cut out of the bytes, matched, and only the newest kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mcp_ops.adapters.kubernetes.fields import seconds
from mcp_ops.capabilities.deployments import LogLevel
from mcp_ops.redact import tame
from mcp_ops.wire.log_lines import LOWEST, level_of

_LINE_BYTES: Final = 16 * 1024
_MATCHED_CHARS: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines. `grep` is a literal, or several with | between; case does not matter."""

    since_minutes: int
    tail: int
    grep: str
    level: LogLevel
    previous: bool

    @property
    def filters(self) -> bool:
        """Whether lines are chosen here, so that more must be read than are shown."""
        return bool(self.grep or self.level)

    @property
    def literals(self) -> list[str]:
        """What a line must have one of, in lower case."""
        return [part.lower() for part in self.grep.split("|") if part]


@dataclass(slots=True)
class Cutter:
    """Cuts lines out of chunks of bytes; of a line that has no end only the beginning is kept."""

    _rest: bytearray = field(default_factory=bytearray)
    _skipping: bool = False

    def lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that are complete now."""
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            if not self._skipping:
                yield bytes(self._rest) + piece[: _LINE_BYTES - len(self._rest)]
            self._rest.clear()
            self._skipping = False
        if not self._skipping:
            self._rest += rest
        if len(self._rest) >= _LINE_BYTES:
            yield bytes(self._rest[:_LINE_BYTES])
            self._rest.clear()
            self._skipping = True

    def last(self) -> bytes:
        """What came after the last end of a line."""
        return bytes(self._rest)


@dataclass(slots=True)
class Sieve:
    """The newest matching lines of one log, as (time, timestamp, line), and how many matched.

    Memory is bounded by `keep` lines however long the log is.
    """

    wanted: Wanted
    keep: int
    matched: int = 0
    newest: deque[tuple[float, str, str]] = field(default_factory=deque)
    _cutter: Cutter = field(default_factory=Cutter)
    _literals: list[str] = field(default_factory=list)
    _quick: tuple[bytes, ...] = ()
    _inherited: int = 1
    _at: float = 0.0

    def __post_init__(self) -> None:
        self.newest = deque(maxlen=self.keep)
        self._literals = self.wanted.literals
        if not self.wanted.level and all(one.isascii() for one in self._literals):
            self._quick = tuple(one.encode() for one in self._literals)

    def feed(self, chunk: bytes) -> None:
        """More of the log."""
        for raw in self._cutter.lines(chunk):
            self._take(raw)

    def end(self) -> None:
        """There is no more."""
        if rest := self._cutter.last():
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        if not raw or self._passes_by(raw):
            return
        stamp, _, line = raw.decode("utf-8", "replace").partition(" ")
        at = seconds(stamp)
        if at is None:
            stamp, line, at = "", f"{stamp} {line}" if line else stamp, self._at
        self._at = at
        line = _readable(line)
        if self._matches(line):
            self.matched += 1
            self.newest.append((at, stamp, line))

    def _passes_by(self, raw: bytes) -> bool:
        """Most lines of a long log, told without decoding them: plain ones without a literal."""
        if not self._quick or not raw.isascii() or b"\x1b" in raw:
            return False
        low = raw.lower()
        return not any(one in low for one in self._quick)

    def _matches(self, line: str) -> bool:
        lowest = LOWEST[self.wanted.level]
        if lowest:
            self._inherited = level_of(line, self._inherited)
            if self._inherited < lowest:
                return False
        return not self._literals or any(one in line.lower() for one in self._literals)


def _readable(line: str) -> str:
    """Without colours and the like, so that a filter meets the words that a person reads."""
    if line.isascii() and line.isprintable():
        return line[:_MATCHED_CHARS]
    return tame(line, _MATCHED_CHARS)
