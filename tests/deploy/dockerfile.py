"""A Dockerfile as stages of instructions, as far as ours goes."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction, its flags aside."""

    word: str
    text: str
    flags: dict[str, str]

    def words(self) -> list[str]:
        """The arguments: a JSON list, or words."""
        if self.text.startswith("["):
            listed: list[str] = json.loads(self.text)
            return listed
        return shlex.split(self.text)


@dataclass(slots=True, kw_only=True)
class Stage:
    """One image: from FROM to the next."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def all(self, word: str) -> list[Step]:
        """The instructions of one kind."""
        return [step for step in self.steps if step.word == word]

    def last(self, word: str) -> Step:
        """The one that holds."""
        return self.all(word)[-1]

    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        pairs = [word.partition("=") for step in self.all("ENV") for word in step.words()]
        return {name: value for name, _, value in pairs}


def read(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in _logical_lines(path.read_text(encoding="utf-8")):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base=base, name=name))
        elif not stages:
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].steps.append(_step(word, rest.strip()))
    return arguments, stages


def _step(word: str, rest: str) -> Step:
    flags: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    if word == "HEALTHCHECK":
        rest = rest.removeprefix("CMD").strip()
    return Step(word=word, text=rest, flags=flags)


def _logical_lines(text: str) -> list[str]:
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(kept))
    return [line.strip() for line in joined.splitlines() if line.strip()]
