"""Rows of the fault matrix in their short size: all counts are zero. `make faults` plays all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.row import Row, play
from tests.faults.rows import ROWS

SEED = int(os.environ.get("FAULTS_SEED", "1"))


SHORT = [row for row in ROWS if not row.alone]


@pytest.mark.parametrize("row", SHORT, ids=[row.number for row in SHORT])
async def test_a_row_of_the_matrix_counts_zeros(row: Row, tmp_path: Path) -> None:
    print(f"FAULTS_SEED={SEED}")
    outcome = await play(row, size="short", seed=SEED, directory=tmp_path, say=print)
    assert list(outcome.problems) == []
    assert not any(outcome.counts.values())
    assert outcome.runs
