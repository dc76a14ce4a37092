"""A fresh interpreter that imports a mutant: run with its module, index, tests and answer."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from tests.mutation.mutate import mutants_of


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


class _Noting:
    def __init__(self, answer: Path) -> None:
        self.answer = answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.answer.write_text(report.nodeid, encoding="utf-8")


def main(path: str, index: str, tests: str, answer: str) -> None:
    """Run the tests; the first that fails is written to `answer`, and so is a broken import."""
    sys.meta_path.insert(0, _Finder(path, int(index)))
    chosen = Path(tests).read_text(encoding="utf-8").splitlines()
    noting = _Noting(Path(answer))
    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={answer}.tmp"]
    code = pytest.main([*options, *chosen], plugins=[noting]) if chosen else pytest.ExitCode.OK
    if code != pytest.ExitCode.OK and not Path(answer).exists():
        Path(answer).write_text("import", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
