"""All rows of the matrix that are played, in order."""

from __future__ import annotations

from tests.faults.f04_kill import fault_04
from tests.faults.row import Row

ROWS: tuple[Row, ...] = (
    Row(number="F4", fault="`kill -9` at every boundary of a write", run=fault_04),
)


def row(number: str) -> Row:
    """A row by its number; raises `KeyError`."""
    return {each.number: each for each in ROWS}[number.upper()]
