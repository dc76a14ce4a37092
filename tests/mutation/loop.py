"""The runner inside pytest: all tests are collected once, then each mutant runs in a fork.

The fork changes the tree of one module, compiles it and gives the functions that were imported
their new code; it runs the tests that reach the changed line, those that found other mutants
first, until one fails. What only runs at import (constants, defaults of fields) can't be changed
that way: those mutants run in a fresh interpreter (anew.py).
"""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import pytest

from tests.mutation.equivalents import equivalents
from tests.mutation.forks import ROOT, STATE, forked, in_fork
from tests.mutation.loader import inheritance
from tests.mutation.mutate import Mutant, mutants_of

# How much test time one mutant gets at most, and once more what outlived that: tests that wait for
# deadlines come last. What outlives both counts as survived.
TESTS_S = 8.0
AGAIN_S = 30.0
_UNRELIABLE = 6


@dataclass
class Result:
    """What became of the mutants of one module."""

    module: str
    all: int
    run: int = 0
    killed: int = 0
    timeout: int = 0
    equivalent: int = 0
    survivors: list[str] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Percent of the mutants that differ from the original and were noticed."""
        differing = self.run - self.equivalent
        return 100.0 * (self.killed + self.timeout) / differing if differing else 100.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run is about. `sample` is how many mutants of a module run; None is all of them."""

    modules: tuple[str, ...]
    sample: int | None
    seed: int
    jobs: int


@dataclass
class _Reach:
    """Which tests reach which line of which module, and how long they take."""

    lines: dict[str, dict[str, set[str]]]
    seconds: dict[str, float]

    def tests_of(self, module: str, mutant: Mutant | None) -> set[str]:
        lines = self.lines.get(module, {})
        every: set[str] = set().union(*lines.values())
        # Tests of its own that reach it elsewhere: in the processes that they start.
        name = f"test_{Path(module).stem}.py::"
        elsewhere = {test for test in self.seconds if name in test and test not in every}
        if mutant is None or not mutant.in_body:
            return every | elsewhere
        wanted = range(mutant.line, mutant.last_line + 1)
        return elsewhere.union(*(lines.get(str(line), set()) for line in wanted))


class Loop:
    """The pytest plugin."""

    def __init__(self, asked: Asked, *, done: Callable[[Result], None]) -> None:
        self.asked = asked
        self.done = done
        self.results: list[Result] = []
        self.failed: list[str] = []
        self.finders = Counter[str]()
        self.unreliable: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        items = {item.nodeid: item for item in session.items}
        reach = self._reach(items)
        for module in self.asked.modules:
            result = self._module(module, items, reach)
            self.results.append(result)
            print(shown(result), flush=True)
            self.done(result)
        return True

    def _module(self, module: str, items: dict[str, pytest.Item], reach: _Reach) -> Result:
        path = ROOT / module
        every = mutants_of(ast.parse(path.read_text(encoding="utf-8")))
        chosen = list(range(len(every)))
        if self.asked.sample is not None and self.asked.sample < len(chosen):
            dice = random.Random(f"{self.asked.seed}|{module}")
            chosen = sorted(dice.sample(chosen, self.asked.sample))
        known = equivalents()
        result = Result(module, all=len(every), run=len(chosen))
        functions = _functions_of(path)
        self.finders.clear()
        job = partial(self._job, path, items=items, reach=reach, functions=functions)
        self._control(module, every[0], job)
        left = [n for n in chosen if not any(each.is_of(module, every[n]) for each in known)]
        result.equivalent = len(chosen) - len(left)
        for seconds in (TESTS_S, AGAIN_S):
            left = self._survivors(left, every, partial(job, seconds=seconds), result, seconds)
        for mutant in sorted((every[index] for index in left), key=lambda each: each.line):
            result.survivors.append(mutant.shown)
            print("    survived:", module, mutant.shown, flush=True)
        return result

    def _control(self, module: str, any_of_it: Mutant, job: Callable[..., Any]) -> None:
        """Leave out what fails without any change; a few may, on a machine that is busy."""
        self.unreliable.clear()
        for _ in range(_UNRELIABLE):
            ((_, verdict, finder),) = forked([(any_of_it, job(None, AGAIN_S))], 1, AGAIN_S)
            if verdict == "survived":
                return
            if verdict == "timeout" or "::" not in finder:
                break
            print("left out, it fails without any change:", finder, flush=True)
            self.unreliable.add(finder)
        raise RuntimeError(f"without any change of {module}, too: {verdict} {finder}")

    def _survivors(
        self,
        indexes: list[int],
        every: list[Mutant],
        job: Callable[[int], Callable[[Path], None]],
        result: Result,
        seconds: float,
    ) -> list[int]:
        """Run these mutants, count those that were noticed, and answer the others."""
        number = {id(every[index]): index for index in indexes}
        waiting = [(every[index], job(index)) for index in indexes]
        left = []
        for mutant, verdict, finder in forked(waiting, self.asked.jobs, seconds):
            if finder:
                self.finders[finder] += 1
            if verdict == "survived":
                left.append(number[id(mutant)])
            result.killed += verdict == "killed"
            result.timeout += verdict == "timeout"
        return left

    def _job(
        self,
        path: Path,
        index: int | None,
        seconds: float,
        *,
        items: dict[str, pytest.Item],
        reach: _Reach,
        functions: list[FunctionType],
    ) -> Callable[[Path], None]:
        """What the fork of one mutant does: it writes the test that failed, if one did. The tests
        may take `seconds` together.

        Without an index nothing is changed: new code takes the old one's place all the same, and
        all tests that reach the module must pass.
        """

        def job(answer: Path) -> None:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            mutant = None if index is None else mutants_of(tree)[index]
            tests = reach.tests_of(str(path.relative_to(ROOT)), mutant) & items.keys()
            tests -= self.unreliable
            order = sorted(
                tests,
                key=lambda test: (
                    -self.finders[test],
                    f"test_{path.stem}" not in test,
                    reach.seconds.get(test, 0),
                ),
            )
            order = list(_affordable(order, reach.seconds, seconds))
            if mutant is not None:
                mutant.apply()
            if index is not None:
                os.environ.update(inheritance(path, index))
            here = mutant is None or mutant.in_body
            here = here and _swapped(functions, compile(tree, str(path), "exec"))
            if index is not None and not here:
                _anew(path, index, order, answer)
            for item in [items[test] for test in order]:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self.failed:
                    answer.write_text(self.failed[0], encoding="utf-8")
                    return

        return job

    def _reach(self, items: dict[str, pytest.Item]) -> _Reach:
        """Measured in a fork, and kept for the test files that did not change."""
        kept = STATE / "reach.json"
        base = _digest(sorted((ROOT / "mcp_ops").rglob("*.py")))
        by_file: dict[str, list[str]] = {}
        for test in items:
            by_file.setdefault(test.split("::")[0], []).append(test)
        old = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        now = {name: base + _digest([ROOT / name]) for name in by_file}
        current = {
            name: each for name, each in old.items() if now.get(name, each["of"]) == each["of"]
        }
        missing = [name for name in by_file if name not in current]
        if missing:
            print(f"measuring what the tests of {len(missing)} files reach", flush=True)
            todo = [items[test] for name in missing for test in by_file[name]]
            measured = in_fork(lambda: _measured(todo, self.failed))
            for test in measured["failed"]:
                print("left out, it fails without any change:", test, flush=True)
            for name in missing:
                current[name] = {"of": now[name], "tests": {}}
            for test, (seconds, lines) in measured["tests"].items():
                current[test.split("::")[0]]["tests"][test] = [seconds, lines]
            kept.write_text(json.dumps(current), encoding="utf-8")
        return _reach_of(current)


def shown(result: Result) -> str:
    """One line on one module."""
    return (
        f"{result.module}: {result.run} of {result.all} mutants, {result.killed} killed, "
        f"{result.timeout} timeout, {len(result.survivors)} survived, "
        f"{result.equivalent} equivalent, {result.score:.1f} %"
    )


def _reach_of(kept: dict[str, Any]) -> _Reach:
    reach = _Reach({}, {})
    for each in kept.values():
        for test, (seconds, modules) in each["tests"].items():
            reach.seconds[test] = seconds
            for module, lines in modules.items():
                of_module = reach.lines.setdefault(module, {})
                for line in lines:
                    of_module.setdefault(str(line), set()).add(test)
    return reach


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _measured(items: list[pytest.Item], failed: list[str]) -> dict[str, Any]:
    measuring = coverage.Coverage(data_file=None, include=[f"{ROOT}/mcp_ops/*"], config_file=False)
    seconds: dict[str, float] = {}
    measuring.start()
    for item in items:
        measuring.switch_context(item.nodeid)
        began = time.monotonic()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        seconds[item.nodeid] = time.monotonic() - began
    measuring.stop()
    data = measuring.get_data()
    tests: dict[str, Any] = {
        test: [took, {}] for test, took in seconds.items() if test not in failed
    }
    for file in data.measured_files():
        module = str(Path(file).relative_to(ROOT))
        for line, contexts in data.contexts_by_lineno(file).items():
            for test in contexts:
                if test in tests:
                    tests[test][1].setdefault(module, []).append(line)
    return {"tests": tests, "failed": failed}


def _functions_of(path: Path) -> list[FunctionType]:
    name = str(path)
    found = [
        each
        for each in gc.get_objects()
        if isinstance(each, FunctionType) and each.__code__.co_filename == name
    ]
    if not found:
        raise RuntimeError(f"nothing of {path.name} was imported: its mutants would not run")
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _swapped(functions: list[FunctionType], module: CodeType) -> bool:
    """Give every function its new code; False where that can't be done."""
    new: dict[tuple[str, int], CodeType] = {}
    for code in _codes(module):
        new.setdefault((code.co_qualname, code.co_firstlineno), code)
    for function in functions:
        old = function.__code__
        code = new.get((old.co_qualname, old.co_firstlineno), old)
        if len(code.co_freevars) != len(old.co_freevars):
            return False
        function.__code__ = code
    return True


def _affordable(order: list[str], seconds: dict[str, float], most: float) -> Iterator[str]:
    total = 0.0
    for test in order:
        total += seconds.get(test, 0)
        if total > most:
            return
        yield test


def _anew(path: Path, index: int, order: list[str], answer: Path) -> None:
    """Go on as a fresh interpreter, which imports the mutant. Does not return."""
    tests = answer.with_suffix(".tests")
    tests.write_text("\n".join(order), encoding="utf-8")
    words = ["-m", "tests.mutation.anew", str(path), str(index), str(tests), str(answer)]
    os.execv(sys.executable, [sys.executable, *words])
