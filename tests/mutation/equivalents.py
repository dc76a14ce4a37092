"""The mutants that no test can notice, each with its reason (equivalent.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutate import Mutant

FILE = Path(__file__).parent / "equivalent.toml"


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """One entry: the change as a run shows it, and why nothing differs."""

    module: str
    function: str
    was: str
    becomes: str
    reason: str

    def is_of(self, module: str, mutant: Mutant) -> bool:
        mine = (self.module, self.function, self.was, self.becomes)
        return mine == (module, mutant.function, mutant.was, mutant.becomes)


def equivalents() -> list[Equivalent]:
    """The whole list."""
    document = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return [Equivalent(**entry) for entry in document.get("equivalent", [])]
