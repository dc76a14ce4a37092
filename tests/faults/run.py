"""Plays the fault matrix: `python -m tests.faults.run [--long] [--row F4] [--seed N] [--json]`.

`--write` puts the rows of a long run into docs/reliability.md, each in the place of its last one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import anyio

from tests.faults.checker import LETTERS
from tests.faults.row import BUDGET_S, Outcome, Row, Size, play
from tests.faults.rows import ROWS, row
from tests.faults.stage import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_ROW = re.compile(r"^\| (F\d+) \|.*\|$", re.MULTILINE)
_HOLDS = "holds"


def main(arguments: list[str]) -> int:
    """Play the rows that were asked for; 0 when all hold."""
    asked = _parser().parse_args(arguments)
    try:
        rows = [row(number) for number in asked.row] or list(ROWS)
    except KeyError as unknown:
        print(f"There is no row {unknown.args[0]}: {', '.join(each.number for each in ROWS)}.")
        return 2
    if asked.write and not asked.long:
        print("--write needs --long: the page shows the last long run.")
        return 2
    size: Size = "long" if asked.long else "short"
    say = _say if not asked.json else lambda text: None
    say(f"FAULTS_SEED={asked.seed}")
    outcomes: list[Outcome] = []
    until = time.monotonic() + asked.within_s
    for number, each in enumerate(rows, 1):
        if time.monotonic() > until:
            break
        say(f"[{number}/{len(rows)}] {each.number} {each.fault}")
        with tempfile.TemporaryDirectory(prefix=f"faults-{each.number}-") as folder:
            outcome = _outcome(each, size, asked, Path(folder), _under(say))
            if asked.keep is not None and not outcome.passed:
                kept = asked.keep / each.number
                shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=_sockets)
        outcomes.append(outcome)
        say(_line(outcome))
    if asked.json:
        print(json.dumps([asdict(each) | {"passed": each.passed} for each in outcomes], indent=2))
    if asked.write:
        write(outcomes, _commit())
    return 0 if all(each.passed for each in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the long sizes (about half an hour)")
    parser.add_argument("--row", action="append", default=[], help="one row, such as F4")
    seed = int(os.environ.get("FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    parser.add_argument("--seed", type=int, default=seed, help="also FAULTS_SEED")
    parser.add_argument(
        "--budget-s",
        type=float,
        default=BUDGET_S,
        help="a long row begins no further round after so many seconds",
    )
    parser.add_argument(
        "--within-s",
        type=float,
        default=math.inf,
        help="begin no further row after so many seconds; the page names those that are missing",
    )
    parser.add_argument("--keep", type=Path, help="leave here the files of rows that fail")
    parser.add_argument("--json", action="store_true", help="the outcomes as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    return parser


def _outcome(
    each: Row, size: Size, asked: argparse.Namespace, folder: Path, say: Callable[[str], None]
) -> Outcome:
    """What came of a row; an accident fails it, and the others are played all the same."""
    try:
        return anyio.run(_play, each, size, asked, folder, say)
    except Exception as accident:
        traceback.print_exc()
        return Outcome(
            row=each.number,
            fault=each.fault,
            runs=0,
            calls=0,
            effects=0,
            counts=dict.fromkeys(LETTERS, 0),
            recovery_s=0.0,
            recoveries=0,
            seed=asked.seed,
            seconds=0.0,
            problems=(f"it did not come to its end: {type(accident).__name__}",),
        )


async def _play(
    each: Row, size: Size, asked: argparse.Namespace, folder: Path, say: Callable[[str], None]
) -> Outcome:
    return await play(
        each,
        size=size,
        seed=asked.seed,
        directory=folder,
        say=say,
        budget_s=asked.budget_s,
    )


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Those that can't be copied."""
    return [name for name in names if (Path(folder) / name).is_socket()]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _under(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"    {text}")


def _line(outcome: Outcome) -> str:
    counts = " ".join(f"{letter}={outcome.counts[letter]}" for letter in LETTERS)
    verdict = "holds" if outcome.passed else "FAILS"
    saw = f"{outcome.runs} runs, {outcome.calls} calls, {outcome.effects} effects"
    took = f"worst recovery {outcome.recovery_s:.1f} s, took {outcome.seconds:.0f} s"
    lines = [f"    {verdict}: {saw}, {counts}, {took}"]
    return "\n".join([*lines, *(f"    - {problem}" for problem in outcome.problems[:20])])


def table(outcomes: list[Outcome], commit: str, before: str = "") -> str:
    """The outcomes of a run as the page shows them; rows of `before` that it did not play stay."""
    kept = {found[1]: found[0] for found in _ROW.finditer(before)}
    problems = {
        name: [line for line in _noted(before) if line[2:].startswith(f"{name}:")] for name in kept
    }
    for each in outcomes:
        kept[each.row] = _shown(each, commit)
        problems[each.row] = [f"- {each.row}: {problem}" for problem in each.problems[:5]]
    head = ["row", "fault", "runs", "calls", "effects", *LETTERS]
    head += ["worst recovery, s", "seed", "commit", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    known = [each.number for each in ROWS]
    order = sorted(kept, key=lambda name: (known.index(name) if name in known else -1, name))
    lines += [kept[name] for name in order]
    held = sum(kept[name].endswith(f"| {_HOLDS} |") for name in order)
    lines += ["", f"{held} of {len(order)} rows hold."]
    missing = [number for number in known if number not in kept]
    if missing:
        lines[-1] += f" Not played long: {', '.join(missing)}."
    wrong = [line for name in order for line in problems[name]]
    return "\n".join([*lines, "", *wrong] if wrong else lines)


def _shown(each: Outcome, commit: str) -> str:
    cells = [each.row, each.fault, f"{each.runs:,}", f"{each.calls:,}", f"{each.effects:,}"]
    cells += [str(each.counts[letter]) for letter in LETTERS]
    cells += [f"{each.recovery_s:.1f}" if each.recoveries else "-", str(each.seed), commit]
    return "| " + " | ".join([*cells, _HOLDS if each.passed else "**fails**"]) + " |"


def _noted(before: str) -> list[str]:
    return [line for line in before.splitlines() if line.startswith("- ")]


def write(outcomes: list[Outcome], commit: str, page: Path = PAGE) -> None:
    """Put the rows that were played between the markers of the page."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    before, _, after = rest.partition(END)
    page.write_text(
        f"{head}{BEGIN}\n\n{table(outcomes, commit, before)}\n\n{END}{after}", encoding="utf-8"
    )


def _commit() -> str:
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
