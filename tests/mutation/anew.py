"""A fresh interpreter that imports a mutant: run with its module, index, tests and answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.mutation.loader import install


class _Noting:
    def __init__(self, answer: Path) -> None:
        self.answer = answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.answer.write_text(report.nodeid, encoding="utf-8")


def main(path: str, index: str, tests: str, answer: str) -> None:
    """Run the tests; the first that fails is written to `answer`, and so is a broken import."""
    install(path, int(index))
    chosen = Path(tests).read_text(encoding="utf-8").splitlines()
    noting = _Noting(Path(answer))
    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={answer}.tmp"]
    code = pytest.main([*options, *chosen], plugins=[noting]) if chosen else pytest.ExitCode.OK
    if code != pytest.ExitCode.OK and not Path(answer).exists():
        Path(answer).write_text("import", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
