"""Conditions over a JSON answer, as the configuration writes them: `$.status == "completed"`.

A small language that always ends: no loops, no names, no calls but `age` and `exists`. It is read
once, at the start, and evaluated without `eval`. Where an answer does not have what an expression
compares, or not as something that can be compared, the result is not known: None, never a guess.
docs/targets/http-jobs.md describes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

MAX_CHARS: Final = 500
MAX_PARTS: Final = 100
_MAX_DEPTH: Final = 16
_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<path>\$(?:\.[A-Za-z_][A-Za-z0-9_-]*|\[\d{1,6}\]|\["[^"\\]{1,100}"\])*)
    | (?P<number>-?\d{1,15}(?:\.\d{1,15})?)(?![A-Za-z0-9_])
    | "(?P<text>[^"\\]{0,200})"
    | (?P<word>[a-z]{2,6})
    | (?P<sign>==|!=|<=|>=|<|>|\(|\))
    )\s*""",
    re.VERBOSE,
)
_STEP: Final = re.compile(r"""\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d{1,6})\]|\["([^"\\]{1,100})"\]""")
_WORDS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
# Later than this a number of seconds is one of milliseconds: the year 5138.
_SECONDS: Final = 1e11
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


class _Unknown(Exception):
    """The answer does not have what the expression needs."""


class _Absent:
    """What a path leads to when it leads nowhere."""


_ABSENT: Final = _Absent()
Node = Callable[[Any, float], Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read: `holds(answer, now)` is true, false, or None for not known."""

    text: str
    node: Node

    def holds(self, answer: Any, now: float) -> bool | None:
        """Evaluate it on a JSON value; `now` in Unix seconds is what `age` counts from."""
        try:
            return _truth(self.node(answer, now))
        except _Unknown:
            return None


@dataclass(frozen=True, slots=True)
class Pointer:
    """A path into an answer: `$.job.started_at`."""

    text: str
    steps: tuple[str | int, ...]

    def value(self, answer: Any) -> Any:
        """What is there; None where nothing is."""
        found = _walk(self.steps, answer)
        return None if found is _ABSENT else found


def read_expression(text: str) -> Expression:
    """Read an expression; raises `ValueError` that says what is wrong and where."""
    reader = _Reader(list(_tokens(text)))
    node = reader.either(_MAX_DEPTH)
    reader.end()
    return Expression(text, node)


def read_pointer(text: str) -> Pointer:
    """Read a path; raises `ValueError`."""
    if len(text) > MAX_CHARS or not (found := _TOKEN.fullmatch(text)) or not found["path"]:
        raise ValueError('must be a path as $.job.started_at or $["a name"][0]')
    return Pointer(text, _steps(found["path"]))


def seconds_of(value: Any) -> float | None:
    """A moment in Unix seconds: of RFC 3339 text (without a zone it is UTC), or of a number of
    seconds or milliseconds; None for anything else."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        if value > _SECONDS * 1_000:
            return None
        return float(value / 1_000 if value > _SECONDS else value)
    return None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    if len(text) > MAX_CHARS:
        raise ValueError(f"must have at most {MAX_CHARS} characters")
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"can't be read from character {at + 1}: {text[at : at + 20]!r}")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


class _Reader:
    """Reads tokens into functions, by descent; deeper or longer than the bounds is refused."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        if len(tokens) > MAX_PARTS:
            raise ValueError(f"must have at most {MAX_PARTS} parts")
        self._tokens = tokens
        self._at = 0

    def end(self) -> None:
        """Nothing may follow."""
        if self._at < len(self._tokens):
            raise ValueError(f"does not end before {self._tokens[self._at][1]!r}")

    def either(self, depth: int) -> Node:
        """`a or b`: true when one is, even where the other is not known."""
        nodes = [self._both(depth)]
        while self._take("word", "or"):
            nodes.append(self._both(depth))
        return nodes[0] if len(nodes) == 1 else _joined(nodes, decided=True)

    def _both(self, depth: int) -> Node:
        nodes = [self._unless(depth)]
        while self._take("word", "and"):
            nodes.append(self._unless(depth))
        return nodes[0] if len(nodes) == 1 else _joined(nodes, decided=False)

    def _unless(self, depth: int) -> Node:
        if depth == 0:
            raise ValueError("is nested too deep")
        if self._take("word", "not"):
            inner = self._unless(depth - 1)
            return lambda answer, now: not _truth(inner(answer, now))
        return self._comparison(depth)

    def _comparison(self, depth: int) -> Node:
        left = self._operand(depth)
        sign = self._peek()
        if sign[0] != "sign" or sign[1] in "()":
            return left
        self._at += 1
        right = self._operand(depth)
        return lambda answer, now: _compared(sign[1], left(answer, now), right(answer, now))

    def _operand(self, depth: int) -> Node:
        kind, text = self._peek()
        self._at += 1
        if kind == "sign" and text == "(":
            inner = self.either(depth - 1)  # depth is at least 1: `_unless` saw to it
            self._expect(")")
            return inner
        if kind == "path":
            steps = _steps(text)
            return lambda answer, now: _walk(steps, answer)
        if kind in ("number", "text"):
            value: Any = text if kind == "text" else float(text)
            return lambda answer, now: value
        if kind == "word" and text in _WORDS:
            word = _WORDS[text]
            return lambda answer, now: word
        if kind == "word" and text in ("age", "exists"):
            return self._call(text)
        raise ValueError(f"has {text!r} where a path, a value or a condition should be")

    def _call(self, name: str) -> Node:
        self._expect("(")
        kind, text = self._peek()
        if kind != "path":
            raise ValueError(f"needs a path in {name}(…)")
        self._at += 1
        self._expect(")")
        steps = _steps(text)
        if name == "exists":
            return lambda answer, now: _walk(steps, answer) not in (_ABSENT, None)
        return lambda answer, now: _age(_walk(steps, answer), now)

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")

    def _take(self, kind: str, text: str) -> bool:
        if self._peek() == (kind, text):
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take("sign", sign):
            raise ValueError(f"has {self._peek()[1]!r} where {sign!r} should be")


def _joined(nodes: list[Node], *, decided: bool) -> Node:
    """All of the conditions together; one that decides does so although others are not known."""

    def node(answer: Any, now: float) -> bool:
        unknown = False
        for each in nodes:
            try:
                if _truth(each(answer, now)) is decided:
                    return decided
            except _Unknown:
                unknown = True
        if unknown:
            raise _Unknown
        return not decided

    return node


def _steps(path: str) -> tuple[str | int, ...]:
    return tuple(
        int(found[2]) if found[2] else found[1] or found[3] for found in _STEP.finditer(path)
    )


def _walk(steps: tuple[str | int, ...], answer: Any) -> Any:
    for step in steps:
        if isinstance(step, str):
            there = isinstance(answer, dict) and step in answer
        else:
            there = isinstance(answer, list) and step < len(answer)
        if not there:
            return _ABSENT
        answer = answer[step]
    return answer


def _truth(value: Any) -> bool:
    """Only true and false are conditions: a text that is there is none."""
    if not isinstance(value, bool):
        raise _Unknown
    return value


def _compared(sign: str, left: Any, right: Any) -> bool:
    if left is _ABSENT or right is _ABSENT:
        raise _Unknown
    if sign in ("==", "!="):
        same = left == right and isinstance(left, bool) is isinstance(right, bool)
        return same if sign == "==" else not same
    for kind in (str, (int, float)):
        if _is(left, kind) and _is(right, kind):
            return _COMPARE[sign](left, right)
    raise _Unknown


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _age(value: Any, now: float) -> float:
    at = seconds_of(value)
    if at is None or not math.isfinite(at):
        raise _Unknown
    return now - at
