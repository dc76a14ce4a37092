"""All rows of the matrix that are played, in order."""

from __future__ import annotations

from tests.faults.f01_disconnect import fault_01
from tests.faults.f02_cancel import fault_02
from tests.faults.f03_resend import fault_03
from tests.faults.f04_kill import fault_04
from tests.faults.f05_resume import fault_05
from tests.faults.f06_zombie import fault_06
from tests.faults.f07_hot import fault_07
from tests.faults.f08_ledger import fault_08
from tests.faults.f09_clock import fault_09
from tests.faults.f10_storm import fault_10
from tests.faults.f11_lost import fault_11
from tests.faults.f13_answers import fault_13
from tests.faults.f14_slow_clients import fault_14
from tests.faults.f15_text import fault_15
from tests.faults.f16_hostile import fault_16
from tests.faults.f17_disk import fault_17
from tests.faults.f18_deploy import fault_18
from tests.faults.f19_partial import fault_19
from tests.faults.f20_rollout import fault_20
from tests.faults.f21_circuit import fault_21
from tests.faults.f22_approvals import fault_22
from tests.faults.f23_tools import fault_23
from tests.faults.f24_busy import fault_24
from tests.faults.f25_runaway import fault_25
from tests.faults.row import Row

ROWS: tuple[Row, ...] = (
    Row(number="F1", fault="the client disconnects in the middle of a write", run=fault_01),
    Row(number="F2", fault="a redrive is cancelled at a random instant", run=fault_02),
    Row(number="F3", fault="the client gives up and calls again with a new id", run=fault_03),
    Row(number="F4", fault="`kill -9` at every boundary of a write", run=fault_04),
    Row(number="F5", fault="`kill -9` in a redrive, at random points", run=fault_05),
    Row(number="F6", fault="a redrive's process is stopped past its lease, goes on", run=fault_06),
    Row(number="F7", fault="Redis: restart, away, slow, emptied, full, replica", run=fault_07),
    Row(number="F8", fault="PostgreSQL: restart, away, full, read-only", run=fault_08),
    Row(number="F9", fault="clocks jump by an hour, replicas disagree", run=fault_09),
    Row(number="F10", fault="429 storm with odd Retry-After, 503, flapping", run=fault_10),
    Row(number="F11", fault="the target executes, then drops the connection", run=fault_11),
    Row(
        number="F13", fault="slow, endless, huge and mislabelled answers", run=fault_13, alone=True
    ),
    Row(
        number="F14",
        fault="slow and idle clients, 1,000 streams, 5 MiB bodies",
        run=fault_14,
        alone=True,
    ),
    Row(number="F15", fault="hostile text from targets", run=fault_15),
    Row(number="F16", fault="hostile requests", run=fault_16),
    Row(number="F17", fault="ledger disk full, read-only, torn write", run=fault_17),
    Row(number="F18", fault="SIGTERM with operations in flight, new state keys", run=fault_18),
    Row(number="F19", fault="some of many fail", run=fault_19),
    Row(number="F20", fault="no rollout gets healthy; others change it meanwhile", run=fault_20),
    Row(number="F21", fault="circuit opens again after a reset; isolated", run=fault_21),
    Row(number="F22", fault="approval races", run=fault_22),
    Row(number="F23", fault="tool list stale, tool renamed, scope removed", run=fault_23),
    Row(
        number="F24",
        fault="event loop and threads busy, all places taken",
        run=fault_24,
        alone=True,
    ),
    Row(number="F25", fault="a runaway agent", run=fault_25),
)


def row(number: str) -> Row:
    """A row by its number; raises `KeyError`."""
    return {each.number: each for each in ROWS}[number.upper()]
