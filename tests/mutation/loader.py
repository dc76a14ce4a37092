"""Imports one module of ours changed, in an interpreter that has not imported it yet.

A process that a test starts inherits the mutant by its environment (inherited/sitecustomize.py).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from tests.mutation.mutate import mutants_of

INHERITED = "MCP_OPS_TESTS_MUTANT"
_SITE = Path(__file__).parent / "inherited"


def install(path: str, index: int) -> None:
    """From now on the module at `path` is imported with this one of its mutants."""
    sys.meta_path.insert(0, _Finder(path, index))


def inheritance(path: Path, index: int) -> dict[str, str]:
    """The environment in which other processes run the same mutant."""
    return {INHERITED: f"{path}|{index}", "PYTHONPATH": str(_SITE)}


class _Loader(SourceFileLoader):
    index = 0

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(Path(self.path).read_text(encoding="utf-8"))
        mutants_of(tree)[self.index].apply()
        return compile(tree, self.path, "exec")


class _Finder(MetaPathFinder):
    """Loads one file changed."""

    def __init__(self, path: str, index: int) -> None:
        self.path = path
        self.index = index

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("mcp_ops"):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin == self.path:
            spec.loader = _Loader(fullname, self.path)
            spec.loader.index = self.index
        return spec
