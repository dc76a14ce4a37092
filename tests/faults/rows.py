"""All rows of the matrix that are played, in order."""

from __future__ import annotations

from tests.faults.f01_disconnect import fault_01
from tests.faults.f02_cancel import fault_02
from tests.faults.f03_resend import fault_03
from tests.faults.f04_kill import fault_04
from tests.faults.f10_storm import fault_10
from tests.faults.f11_lost import fault_11
from tests.faults.f13_answers import fault_13
from tests.faults.row import Row

ROWS: tuple[Row, ...] = (
    Row(number="F1", fault="the client disconnects in the middle of a write", run=fault_01),
    Row(number="F2", fault="a redrive is cancelled at a random instant", run=fault_02),
    Row(number="F3", fault="the client gives up and calls again with a new id", run=fault_03),
    Row(number="F4", fault="`kill -9` at every boundary of a write", run=fault_04),
    Row(number="F10", fault="429 storm with odd Retry-After, 503, flapping", run=fault_10),
    Row(number="F11", fault="the target executes, then drops the connection", run=fault_11),
    Row(number="F13", fault="slow, endless, huge and mislabelled answers", run=fault_13),
)


def row(number: str) -> Row:
    """A row by its number; raises `KeyError`."""
    return {each.number: each for each in ROWS}[number.upper()]
