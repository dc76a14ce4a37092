"""Forks that run mutants, one each, and how each ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.mutation.mutate import Mutant

ROOT = Path(__file__).parents[2]
STATE = ROOT / ".mutants"
# A fork that tests nothing any more: a mutant can loop for ever. Over the time for its tests.
PATIENCE_S = 37.0


def in_fork(work: Callable[[], Any]) -> Any:
    answer = STATE / "measured.json"
    pid = os.fork()
    if pid == 0:
        quiet()
        answer.write_text(json.dumps(work()), encoding="utf-8")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the tests could not be measured")
    return json.loads(answer.read_text(encoding="utf-8"))


def quiet() -> None:
    """A group of its own, and nothing on the terminal."""
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def forked(
    waiting: list[tuple[Mutant, Callable[[Path], None]]], jobs: int, seconds: float
) -> Iterator[tuple[Mutant, str, str]]:
    """Each mutant's verdict and the test that noticed it, as they come. One that takes much longer
    than the `seconds` that its tests need has timed out."""
    patience_s = PATIENCE_S + seconds
    running: dict[int, tuple[Mutant, Path, float]] = {}
    queue = list(reversed(waiting))
    while queue or running:
        while queue and len(running) < jobs:
            mutant, job = queue.pop()
            answer = STATE / f"answer-{len(queue)}"
            answer.unlink(missing_ok=True)
            running[_start(job, answer, patience_s)] = (mutant, answer, time.monotonic())
        time.sleep(0.005)
        for pid, (mutant, answer, began) in list(running.items()):
            late = time.monotonic() - began > patience_s
            if late:
                os.killpg(pid, signal.SIGKILL)
            ended, _ = os.waitpid(pid, 0 if late else os.WNOHANG)
            if ended:
                del running[pid]
                finder = answer.read_text(encoding="utf-8") if answer.exists() else ""
                verdict = "timeout" if late else "killed" if answer.exists() else "survived"
                yield mutant, verdict, finder


def _start(job: Callable[[Path], None], answer: Path, patience_s: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        quiet()
        signal.alarm(int(patience_s) + 15)  # it ends even where the run was killed before it
        job(answer)
    except BaseException as error:  # what stops the fork itself was noticed, too
        answer.write_text(f"fork: {error!r}"[:200], encoding="utf-8")
    finally:
        os._exit(0)
