"""Asking on the terminal: the answer, the end of the input, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ASK = """
import anyio
from mcp_ops.commands.output import ask_line
print(repr(anyio.run(ask_line, "Do it? ")))
"""


def start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", ASK],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.read(7) == b"Do it? "
    return process


@pytest.mark.parametrize(
    ("typed", "expected"), [(b"yes \n", "'yes'"), (b"\n", "''"), (b"", "None")]
)
def test_a_line_is_the_answer_and_the_end_of_the_input_is_none(typed: bytes, expected: str) -> None:
    process = start()
    out, _ = process.communicate(typed, timeout=30)
    assert out.decode().strip() == expected
    assert process.returncode == 0


def test_control_c_ends_a_question_at_once() -> None:
    process = start()
    process.send_signal(signal.SIGINT)
    try:
        # stdin stays open: a process that waits for its reading thread would not end.
        process.wait(timeout=30)
    finally:
        process.kill()
        _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert b"Fatal Python error" not in err
