"""Lines of the log: they name the trace and span that they belong to, and end nothing."""

from __future__ import annotations

import json
import sys

import anyio

PROGRAM = """
import logging
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from mcp_ops import log

log.to_stderr("INFO")
logging.getLogger("outside").info("no trace here")
context = SpanContext(0xA1B2C3D4 << 96 | 5, 0xF067AA0BA902B7, False, TraceFlags(1))
with trace.use_span(NonRecordingSpan(context)):
    logging.getLogger("inside").info("a line with sk-live-4eC39HqLyjWDarjtT1zdp7dc in it")
"""


UNREAD = """
import logging, os, sys
from mcp_ops import log
from mcp_ops.commands import serving

os.close(reader)
log.to_stderr("INFO")
for _ in range(3):
    logging.getLogger("mcp_ops").warning("a line that nobody reads")
    serving._say("another one")
print("went on")
"""


async def test_nobody_is_hurt_who_logs_where_nobody_reads() -> None:
    program = f"import os\nreader, writer = os.pipe()\nos.dup2(writer, 2)\n{UNREAD}"
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", program], check=False)
    assert done.stdout == b"went on\n"


async def test_a_line_within_a_span_has_its_ids_and_one_without_has_none() -> None:
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", PROGRAM])
    outside, inside = [json.loads(line) for line in done.stderr.splitlines()]
    assert outside.keys() & {"trace_id", "span_id"} == set()
    assert inside["trace_id"] == "a1b2c3d4000000000000000000000005"
    assert inside["span_id"] == "00f067aa0ba902b7"
    assert "4eC39HqLyjWDarjtT1zdp7dc" not in inside["message"]
