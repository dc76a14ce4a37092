"""The runner: its exit code, its table, and a row that fails when its run saw a violation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import LETTERS, Effect
from tests.faults.later import local
from tests.faults.row import Outcome, Row, Run, Size, play
from tests.faults.run import BEGIN, END, main, write
from tests.faults.stage import stage

GOOD = Outcome(
    row="F0",
    fault="nothing",
    runs=2,
    calls=1_500,
    effects=7,
    counts=dict.fromkeys(LETTERS, 0),
    recovery_s=0.5,
    recoveries=1,
    seed=42,
    seconds=1.0,
    problems=(),
)


def test_the_table_goes_between_the_markers_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nlast time\n{END}\nafter\n", encoding="utf-8")
    bad = replace(GOOD, row="F1", problems=("D: twice",), recoveries=0)
    write([GOOD, bad], "abc", page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "last time" not in text
    row = "| F0 | nothing | 2 | 1,500 | 7 | 0 | 0 | 0 | 0 | 0 | 0 | 0.5 | 42 |"
    assert f"{row} abc | holds |" in text
    assert "| - | 42 | abc | **fails** |" in text
    assert "1 of 2 rows hold. Not played long: F2, F3, " in text
    assert "\n\n- F1: D: twice" in text


def test_a_row_that_is_played_again_takes_its_own_place_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    bad = replace(GOOD, row="F1", problems=("D: twice",))
    other = replace(GOOD, row="F2", problems=("L: an item",))
    write([GOOD, bad, other], "abc", page)
    write([replace(GOOD, row="F1", seed=43)], "def", page)
    text = page.read_text(encoding="utf-8")
    assert [line.split(" | ")[-2:] for line in text.splitlines() if line.startswith("| F")] == [
        ["abc", "holds |"],
        ["def", "holds |"],
        ["abc", "**fails** |"],
    ]
    assert "D: twice" not in text
    assert "- F2: L: an item" in text
    assert "2 of 3 rows hold." in text


def test_rows_that_do_not_exist_and_tables_of_short_runs_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--row", "F99"]) == 2
    assert "There is no row F99" in capsys.readouterr().out
    assert main(["--write"]) == 2


async def test_a_row_whose_target_acted_twice_fails_from_end_to_end(tmp_path: Path) -> None:
    async def fault(run: Run, size: Size) -> None:
        place = run.place()
        history = run.history(place)
        async with stage(place, "cluster") as set_up:
            await set_up.workloads("w-1")
            async with local(set_up, history) as agent:
                await agent.restart("w-1", wait_s=0)
            (real,) = set_up.effects()
            planted = [real, real, Effect(intent="w-2", call="nobody")]
            await run.judge(history, place, effects=planted)

    row = Row(number="F0", fault="planted", run=fault)
    outcome = await play(row, size="short", seed=1, directory=tmp_path, say=print)
    assert not outcome.passed
    assert outcome.counts["D"] == 2  # one intent twice, one operation twice
    assert outcome.counts["U"] == 2  # without an intent in the ledger, and nobody asked for it
    assert outcome.counts["L"] == outcome.counts["A"] == 0
